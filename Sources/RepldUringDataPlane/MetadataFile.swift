internal import CRepldLinux
internal import Foundation
internal import Glibc
internal import RepldDataPlane
internal import RepldFormat

/// A pair's metadata area, before a loop takes it.
enum MetadataFile {
    /// Makes the file as large as the area has to be, with all its space allocated, and reads what it says.
    ///
    /// The space is allocated here, so that a file system that is full later fails no write of a host.
    static func prepare(
        _ place: MetadataPlace,
        _ record: PairRecord,
        _ layout: MetadataLayout,
        isNew: Bool
    ) throws(DataPlaneError) -> RecoveredMaps {
        if place.isInternal {
            try reserve(place, layout)
        } else {
            let file = try open(place.path)
            defer { _ = Glibc.close(file) }
            try reserve(file, place.path, layout.areaByteCount)
        }
        guard !isNew, record.mapTrust != .none else { return .unknown(because: nil) }
        let area = try read(place, Int(layout.areaByteCount))
        return unsafe RecoveredMaps.read(
            area.span.bytes,
            record,
            granuleByteCount: layout.granuleByteCount,
            grownByteCount: layout.volumeByteCount
        )
    }

    private static func open(_ path: String) throws(DataPlaneError) -> Int32 {
        let file = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        guard file >= 0 else { throw failure(path, "cannot be opened", errno) }
        return file
    }

    /// Allocates the space of an area in an element that is a file, and of nothing else there: what is in front of it is the
    /// volume's, which the loop has.
    ///
    /// Not where the file system cannot allocate: the library would write zeroes over an area that says something.
    private static func reserve(_ place: MetadataPlace, _ layout: MetadataLayout) throws(DataPlaneError) {
        let file = unsafe Glibc.open(place.path, O_RDWR | O_CLOEXEC)
        guard file >= 0 else { throw failure(place.description, "cannot be opened", errno) }
        defer { _ = Glibc.close(file) }
        var facts = stat()
        guard unsafe fstat(file, &facts) == 0 else { throw failure(place.description, "cannot be looked at", errno) }
        guard facts.st_mode & S_IFMT == S_IFREG else { return }
        // Without a file system that can, a full one fails a write of metadata, as it fails one of the volume.
        guard allocate(file, place.offset, layout.areaByteCount) != 0 else {
            guard fsync(file) == 0 else { throw failure(place.description, "cannot be made durable", errno) }
            return
        }
        let number = errno
        guard number == EOPNOTSUPP || number == ENOSYS else {
            throw failure(place.description, "needs \(layout.areaByteCount) bytes of space", number)
        }
    }

    private static func allocate(_ file: Int32, _ offset: UInt64, _ byteCount: UInt64) -> Int32 {
        while true {
            let result = repld_fallocate(file, 0, Int64(offset), Int64(byteCount))
            if result == 0 || errno != EINTR { return result }
        }
    }

    /// Makes the file of an area that a loop has as large as a larger volume needs, with all its space allocated.
    ///
    /// Only behind its end: where a file system cannot allocate, the library writes into each block to do it, and what the
    /// loop writes at the same time would be lost.
    static func enlarge(_ path: String, _ layout: MetadataLayout) throws(DataPlaneError) {
        let file = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        guard file >= 0 else { throw failure(path, "cannot be opened", errno) }
        defer { _ = Glibc.close(file) }
        var facts = stat()
        guard unsafe fstat(file, &facts) == 0 else { throw failure(path, "cannot be looked at", errno) }
        let byteCount = layout.areaByteCount
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

    private static func read(_ place: MetadataPlace, _ byteCount: Int) throws(DataPlaneError) -> [UInt8] {
        if place.isInternal {
            do throws(ElementPartError) {
                return try ElementPart(path: place.path, isForWriting: false).read(
                    from: place.offset,
                    byteCount: byteCount
                )
            } catch {
                throw failure(place.description, "cannot be read: \(error.step)", error.errorNumber)
            }
        }
        let file = try open(place.path)
        defer { _ = Glibc.close(file) }
        var bytes = [UInt8](repeating: 0, count: byteCount)
        var done = 0
        while done < byteCount {
            let count = unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe pread(file, buffer.baseAddress?.advanced(by: done), byteCount - done, off_t(done))
            }
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw failure(place.path, "cannot be read", errno) }
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
