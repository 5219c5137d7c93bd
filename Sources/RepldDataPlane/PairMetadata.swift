internal import Glibc
package import RepldFormat

/// The file that a pair's record is kept in, before the data plane takes it.
package enum PairMetadata {
    /// The file is there, as far as can be told, but what it holds cannot be read.
    package struct ReadError: Error, CustomStringConvertible {
        package var path: String
        package var errorNumber: Int32

        package var description: String {
            "cannot read the pair metadata \(path): \(unsafe String(cString: strerror(errorNumber)))"
        }
    }

    /// What the file says; a missing or short one has damaged blocks.
    ///
    /// Throws where nobody can tell what it says now: that is no reason to take its record for lost.
    package static func read(_ path: String) throws(ReadError) -> PairRecordRecovery {
        let area = try bytes(of: path, limit: PairRecord.areaByteCount)
        let size = PairRecord.blockByteCount
        let first = Array(area.prefix(size))
        let second = Array(area.dropFirst(size).prefix(size))
        return unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes)
    }

    /// The content of the file with another record in it, and the record before that still whole.
    package static func area(with record: PairRecord, insteadOf path: String) throws(ReadError) -> [UInt8] {
        var area = try bytes(of: path, limit: .max)
        if area.count < PairRecord.areaByteCount {
            area += [UInt8](repeating: 0, count: PairRecord.areaByteCount - area.count)
        }
        var block = [UInt8](repeating: 0, count: PairRecord.blockByteCount)
        encode(record, into: &block)
        let start = Int(record.areaOffset)
        area.replaceSubrange(start..<start + PairRecord.blockByteCount, with: block)
        return area
    }

    private static func encode(_ record: PairRecord, into block: inout [UInt8]) {
        var span = block.mutableSpan
        var bytes = unsafe span.mutableBytes
        record.encode(into: &bytes)
    }

    private static func bytes(of path: String, limit: Int) throws(ReadError) -> [UInt8] {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else {
            if errno == ENOENT { return [] }
            throw ReadError(path: path, errorNumber: errno)
        }
        defer { close(file) }
        var found: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: min(limit, 1 << 16))
        while found.count < limit {
            let wanted = min(piece.count, limit - found.count)
            let count = unsafe piece.withUnsafeMutableBytes { unsafe Glibc.read(file, $0.baseAddress, wanted) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw ReadError(path: path, errorNumber: errno) }
            if count == 0 { break }
            found += piece.prefix(count)
        }
        return found
    }
}
