internal import Foundation
internal import Glibc
internal import RepldDataPlane
internal import RepldFormat

/// The file of a pair's metadata area, before a loop takes it.
enum MetadataFile {
    /// Makes the file as large as the area has to be, with all its space allocated, and reads what it says.
    ///
    /// The space is allocated here, so that a file system that is full later fails no write of a host.
    static func prepare(
        _ path: String,
        at offset: UInt64,
        _ record: PairRecord,
        _ layout: MetadataLayout,
        isNew: Bool
    ) throws(DataPlaneError) -> RecoveredMaps {
        let file = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        guard file >= 0 else { throw failure(path, "cannot be opened", errno) }
        defer { _ = Glibc.close(file) }
        try reserve(file, path, offset + layout.areaByteCount)
        guard !isNew, record.mapTrust != .none else { return .unknown(because: nil) }
        let area = try read(file, path, offset, Int(layout.areaByteCount))
        return unsafe RecoveredMaps.read(area.span.bytes, record, granuleByteCount: layout.granuleByteCount)
    }

    /// Makes the file of an area that a loop has as large as a larger volume needs, with all its space allocated.
    ///
    /// Only behind its end: where a file system cannot allocate, the library writes into each block to do it, and what the
    /// loop writes at the same time would be lost.
    static func enlarge(_ path: String, at offset: UInt64, _ layout: MetadataLayout) throws(DataPlaneError) {
        let file = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        guard file >= 0 else { throw failure(path, "cannot be opened", errno) }
        defer { _ = Glibc.close(file) }
        var facts = stat()
        guard unsafe fstat(file, &facts) == 0 else { throw failure(path, "cannot be looked at", errno) }
        let byteCount = offset + layout.areaByteCount
        guard facts.st_mode & S_IFMT == S_IFREG, UInt64(facts.st_size) < byteCount else { return }
        let result = posix_fallocate(file, facts.st_size, off_t(byteCount) - facts.st_size)
        guard result == 0 else { throw failure(path, "needs \(byteCount) bytes of space", result) }
        guard fsync(file) == 0 else { throw failure(path, "cannot be made durable", errno) }
    }

    private static func reserve(_ file: Int32, _ path: String, _ byteCount: UInt64) throws(DataPlaneError) {
        var facts = stat()
        guard unsafe fstat(file, &facts) == 0 else { throw failure(path, "cannot be looked at", errno) }
        guard facts.st_mode & S_IFMT == S_IFREG else { return }
        let isWhole = UInt64(facts.st_size) >= byteCount && UInt64(facts.st_blocks) * 512 >= byteCount
        guard !isWhole else { return }
        let result = posix_fallocate(file, 0, off_t(byteCount))
        guard result == 0 else { throw failure(path, "needs \(byteCount) bytes of space", result) }
        guard fsync(file) == 0 else { throw failure(path, "cannot be made durable", errno) }
    }

    private static func read(
        _ file: Int32,
        _ path: String,
        _ offset: UInt64,
        _ byteCount: Int
    ) throws(DataPlaneError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        var done = 0
        while done < byteCount {
            let count = unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe pread(
                    file,
                    buffer.baseAddress?.advanced(by: done),
                    byteCount - done,
                    off_t(offset) + off_t(done)
                )
            }
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw failure(path, "cannot be read", errno) }
            // A short area is seen by whoever reads it.
            guard count > 0 else { break }
            done += count
        }
        return Array(bytes.prefix(done))
    }

    private static func failure(_ path: String, _ words: String, _ number: Int32) -> DataPlaneError {
        DataPlaneError(.metadata, "the pair metadata \(path) \(words): \(unsafe String(cString: strerror(number)))")
    }
}
