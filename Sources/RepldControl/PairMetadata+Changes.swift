internal import Foundation
package import RepldCore
package import RepldDataPlane
package import RepldFormat
internal import RepldPair
internal import SystemPackage

/// Changes of a pair's record while the data plane does not have it.
extension PairMetadata {
    /// Puts a record into the area; of what it held, only the record before it stays.
    ///
    /// In its place, as the data plane does it, where the area is whole: that needs no space, and the record before it is whole
    /// while it is written.
    package static func write(_ record: PairRecord, to place: MetadataPlace) throws {
        if place.isInternal {
            let part = try ElementPart(path: place.path, isForWriting: true)
            return try part.write(block(with: record), at: place.offset + record.areaOffset)
        }
        let path = FilePath(place.path)
        if try DurableFile.overwrite(path, at: Int64(record.areaOffset), with: block(with: record)) { return }
        try DurableFile.replace(path, with: Data(area(with: record, insteadOf: place.path)))
    }

    /// Puts the first record of a new pair into an area, whatever was there.
    package static func begin(_ record: PairRecord, in place: MetadataPlace) throws {
        guard place.isInternal else { return try write(record, to: place) }
        var blocks = [UInt8](repeating: 0, count: PairRecord.areaByteCount)
        let start = Int(record.areaOffset)
        blocks.replaceSubrange(start..<start + PairRecord.blockByteCount, with: block(with: record))
        try ElementPart(path: place.path, isForWriting: true).write(blocks, at: place.offset)
    }

    /// A record of another pair is where one was to be changed.
    package struct ForeignRecord: Error, CustomStringConvertible {
        package let pair: PairID
        package var description: String { "it belongs to pair \(pair)" }
    }

    /// Removes the records of a pair that is no more, so that nobody takes them for those of one that is.
    ///
    /// An area in an element that has another pair's records, or none, is left alone.
    package static func remove(_ pair: PairID, from place: MetadataPlace) throws {
        guard place.isInternal else { return try DurableFile.remove(FilePath(place.path)) }
        guard try read(place).record?.pair == pair else { return }
        let blank = [UInt8](repeating: 0, count: PairRecord.areaByteCount)
        try ElementPart(path: place.path, isForWriting: true).write(blank, at: place.offset)
    }

    /// Takes back that the pair was closed cleanly, and that its bitmaps can be relied on: from here on every byte may differ.
    ///
    /// A target that is a usable image is left behind as one: a copy makes it a mixture of two points in time, which only an
    /// operation may begin, because that says so durably before. An area that holds no record does not say "clean" and is left
    /// alone.
    package static func forgetCleanClose(of pair: PairID, at place: MetadataPlace) throws {
        try change(pair, at: place) { record in
            record.isClosedCleanly = false
            record.mapTrust = .none
            let state = CopyState(rawValue: record.copyState)
            if state == .synchronized || state == .unsynchronized && record.isTargetConsistent {
                suspend(&record)
                record.operation = ReplicationOperation.resume.rawValue
            } else if state == .unsynchronized, record.operation == 0 {
                record.operation = ReplicationOperation.resyncReplica.rawValue
            }
        }
    }

    /// Takes back all that is known of the element that does not serve: every byte of it may differ, and nothing is copied to
    /// it before somebody asks for that.
    package static func forgetTarget(of pair: PairID, at place: MetadataPlace) throws {
        try change(pair, at: place) { record in
            record.isClosedCleanly = false
            record.mapTrust = .none
            // What is kept is what another target held.
            record.hasUndo = false
            // Otherwise the target is the one that serves.
            if record.isSecondPrimary == record.isSecondSource { record.isTargetConsistent = false }
            let state = CopyState(rawValue: record.copyState)
            if state == .synchronized || state == .unsynchronized || isLeftBehind(record) {
                record.copyState = CopyState.broken.rawValue
            }
            record.operation = 0
        }
    }

    /// Puts back what a record said, into both blocks, where nothing came of what it was changed for.
    package static func restore(_ record: PairRecord, of pair: PairID, at place: MetadataPlace) throws {
        try change(pair, at: place) { changed in
            let sequence = changed.sequence
            changed = record
            changed.sequence = sequence
        }
    }

    /// The same where another element may serve from here on: nothing is copied to the target before somebody asks for it.
    package static func leaveToOperator(_ pair: PairID, at place: MetadataPlace) throws {
        try change(pair, at: place) { record in
            record.isClosedCleanly = false
            record.mapTrust = .none
            let state = CopyState(rawValue: record.copyState)
            if state == .synchronized || state == .unsynchronized || isLeftBehind(record) { suspend(&record) }
        }
    }

    private static func suspend(_ record: inout PairRecord) {
        if record.copyState == CopyState.synchronized.rawValue { record.isTargetConsistent = true }
        record.copyState = CopyState.suspended.rawValue
        record.operation = 0
    }

    /// Whether the pair's target was left behind, and is copied to again as soon as it is there.
    package static func isLeftBehind(_ record: PairRecord) -> Bool {
        record.copyState == CopyState.suspended.rawValue
            && record.operation == ReplicationOperation.resume.rawValue
    }

    /// An element that does not answer, or has another pair's records, may come back with what is to be taken back.
    private static func change(
        _ pair: PairID,
        at place: MetadataPlace,
        _ change: (inout PairRecord) -> Void
    ) throws {
        switch try read(place) {
        case .found(let record), .older(let record, _):
            guard !place.isInternal || record.pair == pair else { throw ForeignRecord(pair: record.pair) }
            var changed = record
            change(&changed)
            guard changed != record else { return }
            // Into both blocks: one that is damaged must not bring back what was taken back.
            for _ in 0..<2 {
                changed.sequence += 1
                try write(changed, to: place)
            }
        case .blank, .lost:
            return
        }
    }
}
