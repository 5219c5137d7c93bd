internal import Foundation
package import RepldFormat

/// The file that a pair's record is kept in, before the data plane takes it.
package enum PairMetadata {
    /// What the file says; a missing or short one has damaged blocks.
    package static func read(_ path: String) -> PairRecordRecovery {
        let area = bytes(of: path, limit: PairRecord.areaByteCount)
        let size = PairRecord.blockByteCount
        let first = Array(area.prefix(size))
        let second = Array(area.dropFirst(size).prefix(size))
        return unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes)
    }

    /// The content of the file with another record in it, and the record before that still whole.
    package static func area(with record: PairRecord, insteadOf path: String) -> [UInt8] {
        var area = bytes(of: path)
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

    private static func bytes(of path: String, limit: Int = .max) -> [UInt8] {
        guard let file = FileHandle(forReadingAtPath: path) else { return [] }
        defer { try? file.close() }
        let data = try? limit == .max ? file.readToEnd() : file.read(upToCount: limit)
        return data.map(Array.init) ?? []
    }
}
