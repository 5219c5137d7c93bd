internal import Foundation
internal import Glibc
internal import RepldCore
internal import RepldDataPlane
internal import RepldFormat
internal import RepldUring

/// The file of a pair's undo area, before a loop takes it: sparse, and empty while there is nothing to take back.
struct UndoFile {
    /// The area, held; `nil` where the pair goes without one.
    var element: OpenElement?
    /// What its pages say; `nil` when there is nothing to take back.
    var undo: RecoveredUndo?
    /// What an operator should know: what is amiss, and what it means.
    var remark: String?

    /// Makes the file as large as the area has to be, without allocating anything, and reads what it says.
    ///
    /// A file that is missing, too short or damaged holds nothing that could be relied on; what lies in it is thrown away. One
    /// that is there and cannot be opened or read may be whole: where it is counted on, the pair is not attached without it.
    ///
    /// - Parameters:
    ///   - path: the file, made where it is missing.
    ///   - record: what the pair's record says.
    ///   - granuleByteCount: the pair's granule.
    ///   - isKept: whether the pair is to keep what its copies overwrite.
    ///   - blockByteCount: the volume's block size; the area takes no larger ones.
    /// - Returns: the area, and what it says.
    /// - Throws: `DataPlaneError` where an area that is counted on cannot be opened or read.
    static func prepare(
        _ path: String,
        _ record: PairRecord,
        granuleByteCount: UInt64,
        isKept: Bool,
        blockByteCount: UInt32
    ) throws(DataPlaneError) -> UndoFile {
        guard isKept || record.hasUndo else { return UndoFile() }
        do throws(DataPlaneError) {
            let layout = UndoLayout(volumeByteCount: record.volumeByteCount, granuleByteCount: granuleByteCount)
            var file = UndoFile()
            file.undo = try readAndShape(path, record, layout, granuleByteCount)
            if record.hasUndo, file.undo == nil {
                file.remark = """
                    the undo area is missing or damaged: what the copy has overwritten on the target cannot be taken back; until \
                    the copy has come to its end, Failover is refused
                    """
            }
            file.element = try open(path, blockByteCount)
            return file
        } catch {
            if record.hasUndo { throw error }
            return UndoFile(remark: "\(error): what a copy overwrites cannot be kept; mend that, and start again")
        }
    }

    /// Gives the file of an area that a loop has the size that a larger volume needs.
    static func enlarge(_ path: String, _ layout: UndoLayout) throws(DataPlaneError) {
        let file = unsafe Glibc.open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
        // A pair without an area has none to enlarge.
        guard file >= 0 || errno != ENOENT else { return }
        guard file >= 0 else { throw failure(path, "cannot be opened", errno) }
        defer { _ = Glibc.close(file) }
        guard try size(of: file, path) < layout.areaByteCount else { return }
        guard ftruncate(file, off_t(layout.areaByteCount)) == 0, fsync(file) == 0 else {
            throw failure(path, "cannot be made \(layout.areaByteCount) bytes large", errno)
        }
    }

    private static func readAndShape(
        _ path: String,
        _ record: PairRecord,
        _ layout: UndoLayout,
        _ granuleByteCount: UInt64
    ) throws(DataPlaneError) -> RecoveredUndo? {
        let file = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else { throw failure(path, "cannot be opened", errno) }
        defer { _ = Glibc.close(file) }
        // Whoever holds it may still write to it.
        guard flock(file, LOCK_EX | LOCK_NB) == 0 else { throw failure(path, "cannot be locked", errno) }
        let isWhole = try size(of: file, path) >= layout.areaByteCount
        if record.hasUndo, isWhole {
            let head = try read(file, path, Int(UndoLayout.pageOffset(layout.pageCount)))
            let undo = unsafe RecoveredUndo.read(head.span.bytes, record, granuleByteCount: granuleByteCount)
            if let undo { return undo }
        }
        try empty(file, path, layout)
        return nil
    }

    /// Gives the room back of what nobody counts on, and makes name and size durable.
    private static func empty(_ file: Int32, _ path: String, _ layout: UndoLayout) throws(DataPlaneError) {
        guard ftruncate(file, 0) == 0, ftruncate(file, off_t(layout.areaByteCount)) == 0, fsync(file) == 0 else {
            throw failure(path, "cannot be made \(layout.areaByteCount) bytes large", errno)
        }
        let folder = URL(filePath: path).deletingLastPathComponent().path(percentEncoded: false)
        let directory = unsafe Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { throw failure(folder, "cannot be opened", errno) }
        defer { _ = Glibc.close(directory) }
        guard fsync(directory) == 0 else { throw failure(folder, "cannot be made durable", errno) }
    }

    /// Direct where that takes blocks as small as the volume's; else through the page cache, and as durable.
    private static func open(_ path: String, _ blockByteCount: UInt32) throws(DataPlaneError) -> OpenElement {
        do throws(ElementOpenError) {
            let element = try OpenElement.open(path: path, readOnly: false)
            if element.geometry.logicalBlockByteCount <= blockByteCount { return element }
        } catch {
            throw DataPlaneError(.metadata, "\(error)")
        }
        do throws(ElementOpenError) {
            return try OpenElement.open(path: path, readOnly: false, direct: false)
        } catch {
            throw DataPlaneError(.metadata, "\(error)")
        }
    }

    private static func size(of file: Int32, _ path: String) throws(DataPlaneError) -> UInt64 {
        var facts = stat()
        guard unsafe fstat(file, &facts) == 0 else { throw failure(path, "cannot be looked at", errno) }
        guard facts.st_mode & S_IFMT == S_IFREG else {
            throw DataPlaneError(.metadata, "the undo area \(path) is no regular file")
        }
        return UInt64(facts.st_size)
    }

    private static func read(_ file: Int32, _ path: String, _ byteCount: Int) throws(DataPlaneError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        var done = 0
        while done < byteCount {
            let count = unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe pread(file, buffer.baseAddress?.advanced(by: done), byteCount - done, off_t(done))
            }
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw failure(path, "cannot be read", errno) }
            guard count > 0 else { break }
            done += count
        }
        return Array(bytes.prefix(done))
    }

    private static func failure(_ path: String, _ words: String, _ number: Int32) -> DataPlaneError {
        DataPlaneError(.metadata, "the undo area \(path) \(words): \(unsafe String(cString: strerror(number)))")
    }
}
