internal import Glibc
internal import RepldCore
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

    /// Makes the file of an area anew, with a record in both of its blocks: one that is damaged must not hide it.
    ///
    /// The second is the later one by its sequence, and otherwise the same.
    package static func beginBoth(_ record: PairRecord, in place: MetadataPlace) throws(ElementPartError) {
        invariant(!place.isInternal, "an area in an element is not made anew")
        var area = [UInt8](repeating: 0, count: PairRecord.areaByteCount)
        for step in 0..<2 {
            var copy = record
            copy.sequence += UInt64(step)
            let start = Int(copy.areaOffset)
            area.replaceSubrange(start..<start + PairRecord.blockByteCount, with: block(with: copy))
        }
        try replaceFile(place.path, with: area)
    }

    /// A crash leaves no file, or one that nobody knows of: until now there is none.
    private static func replaceFile(_ path: String, with bytes: [UInt8]) throws(ElementPartError) {
        let file = unsafe open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard file >= 0 else { throw ElementPartError(step: "making it", errorNumber: errno) }
        defer { close(file) }
        var done = 0
        while done < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe Glibc.write(file, $0.baseAddress?.advanced(by: done), $0.count - done)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw ElementPartError(step: "writing it", errorNumber: errno) }
            done += count
        }
        guard fsync(file) == 0 else { throw ElementPartError(step: "making it durable", errorNumber: errno) }
        let folder = String(path.prefix(upTo: path.lastIndex(of: "/") ?? path.startIndex))
        let directory = unsafe open(folder.isEmpty ? "/" : folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { throw ElementPartError(step: "opening its directory", errorNumber: errno) }
        defer { close(directory) }
        guard fsync(directory) == 0 else { throw ElementPartError(step: "making its name durable", errorNumber: errno) }
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
