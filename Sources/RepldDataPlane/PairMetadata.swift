internal import Foundation
package import RepldFormat

/// The area that a pair's record is kept in, before the data plane takes it.
package enum PairMetadata {
    /// What the area says; a missing or short one has damaged blocks.
    package static func read(_ place: MetadataPlace) -> PairRecordRecovery {
        decide((try? blocks(at: place)) ?? [])
    }

    /// The same, where it matters whether the records are damaged, or the element that has them does not answer.
    package static func readOrThrow(_ place: MetadataPlace) throws -> PairRecordRecovery {
        decide(try blocks(at: place))
    }

    private static func decide(_ area: [UInt8]) -> PairRecordRecovery {
        let size = PairRecord.blockByteCount
        let first = Array(area.prefix(size))
        let second = Array(area.dropFirst(size).prefix(size))
        return unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes)
    }

    /// What a file says that has an area and nothing else.
    package static func read(_ path: String) -> PairRecordRecovery { read(MetadataPlace(file: path)) }

    /// The content of the file with another record in it, and the record before that still whole.
    package static func area(with record: PairRecord, insteadOf path: String) -> [UInt8] {
        var area = bytes(ofFile: path)
        if area.count < PairRecord.areaByteCount {
            area += [UInt8](repeating: 0, count: PairRecord.areaByteCount - area.count)
        }
        let start = Int(record.areaOffset)
        area.replaceSubrange(start..<start + PairRecord.blockByteCount, with: block(with: record))
        return area
    }

    /// A record as it is written.
    package static func block(with record: PairRecord) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: PairRecord.blockByteCount)
        var span = block.mutableSpan
        var bytes = unsafe span.mutableBytes
        record.encode(into: &bytes)
        return block
    }

    private static func blocks(at place: MetadataPlace) throws -> [UInt8] {
        guard place.isInternal else { return bytes(ofFile: place.path, limit: PairRecord.areaByteCount) }
        let part = try ElementPart(path: place.path, isForWriting: false)
        return try part.read(from: place.offset, byteCount: PairRecord.areaByteCount)
    }

    private static func bytes(ofFile path: String, limit: Int = .max) -> [UInt8] {
        guard let file = FileHandle(forReadingAtPath: path) else { return [] }
        defer { try? file.close() }
        let data = try? limit == .max ? file.readToEnd() : file.read(upToCount: limit)
        return data.map(Array.init) ?? []
    }
}
