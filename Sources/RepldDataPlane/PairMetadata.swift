internal import Glibc
package import RepldFormat

/// The area that a pair's record is kept in, before the data plane takes it.
package enum PairMetadata {
    /// The area is there, as far as can be told, but what it holds cannot be read.
    package struct ReadError: Error, CustomStringConvertible {
        package let place: MetadataPlace
        package let reason: ElementPartError

        package var description: String { "cannot read the pair metadata \(place): \(reason)" }
    }

    /// What the area says; a missing or short file has damaged blocks.
    ///
    /// Throws where nobody can tell what it says now: that is no reason to take its record for lost. So it does where an element
    /// is missing or ends before the area: it may come back.
    package static func read(_ place: MetadataPlace) throws(ReadError) -> PairRecordRecovery {
        let area: [UInt8]
        do throws(ElementPartError) {
            area = try blocks(at: place)
        } catch {
            throw ReadError(place: place, reason: error)
        }
        let size = PairRecord.blockByteCount
        let first = Array(area.prefix(size))
        let second = Array(area.dropFirst(size).prefix(size))
        return unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes)
    }

    /// Which block of the area has a record that was read from it, 0 or 1.
    package static func block(of record: PairRecord, in place: MetadataPlace) throws(ReadError) -> Int {
        let area: [UInt8]
        do throws(ElementPartError) {
            area = try blocks(at: place)
        } catch {
            throw ReadError(place: place, reason: error)
        }
        let first = unsafe try? PairRecord.decode(Array(area.prefix(PairRecord.blockByteCount)).span.bytes)
        return first?.sequence == record.sequence ? 0 : 1
    }

    /// The content of the file with another record in it, and the record before that still whole.
    package static func area(with record: PairRecord, insteadOf path: String) throws(ElementPartError) -> [UInt8] {
        var area = try bytes(ofFile: path, limit: .max)
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

    private static func blocks(at place: MetadataPlace) throws(ElementPartError) -> [UInt8] {
        guard place.isInternal else { return try bytes(ofFile: place.path, limit: PairRecord.areaByteCount) }
        let part = try ElementPart(path: place.path, isForWriting: false)
        return try part.read(from: place.offset, byteCount: PairRecord.areaByteCount)
    }

    private static func bytes(ofFile path: String, limit: Int) throws(ElementPartError) -> [UInt8] {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else {
            if errno == ENOENT { return [] }
            throw ElementPartError(step: "opening it", errorNumber: errno)
        }
        defer { close(file) }
        var found: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: min(limit, 1 << 16))
        while found.count < limit {
            let wanted = min(piece.count, limit - found.count)
            let count = unsafe piece.withUnsafeMutableBytes { unsafe Glibc.read(file, $0.baseAddress, wanted) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw ElementPartError(step: "reading it", errorNumber: errno) }
            if count == 0 { break }
            found += piece.prefix(count)
        }
        return found
    }
}
