internal import Foundation
package import RepldDataPlane
package import RepldFormat
internal import RepldPair
package import SystemPackage

/// Changes of a pair's record while the data plane does not have it.
extension PairMetadata {
    /// Puts a record into the file; of what it held, only the record before it stays.
    ///
    /// In its place, as the data plane does it, where the file is whole: that needs no space, and the record before it is whole
    /// while it is written.
    package static func write(_ record: PairRecord, to path: FilePath) throws {
        let area = try area(with: record, insteadOf: path.string)
        let block = Array(area[Int(record.areaOffset)...].prefix(PairRecord.blockByteCount))
        if try DurableFile.overwrite(path, at: Int64(record.areaOffset), with: block) { return }
        try DurableFile.replace(path, with: Data(area))
    }

    /// Takes back that the pair was closed cleanly, and that its bitmaps can be relied on: from here on every byte may differ.
    ///
    /// A target that is a usable image is left behind as one: a copy makes it a mixture of two points in time, which only an
    /// operation may begin, because that says so durably before. A file that holds no record does not say "clean" and is left
    /// alone.
    package static func forgetCleanClose(_ path: FilePath) throws {
        try change(path) { record in
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
    package static func forgetTarget(_ path: FilePath) throws {
        try change(path) { record in
            record.isClosedCleanly = false
            record.mapTrust = .none
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
    package static func restore(_ record: PairRecord, to path: FilePath) throws {
        try change(path) { changed in
            let sequence = changed.sequence
            changed = record
            changed.sequence = sequence
        }
    }

    /// The same where another element may serve from here on: nothing is copied to the target before somebody asks for it.
    package static func leaveToOperator(_ path: FilePath) throws {
        try change(path) { record in
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

    private static func change(_ path: FilePath, _ change: (inout PairRecord) -> Void) throws {
        switch try read(path.string) {
        case .found(let record), .older(let record, _):
            var changed = record
            change(&changed)
            guard changed != record else { return }
            // Into both blocks: one that is damaged must not bring back what was taken back.
            for _ in 0..<2 {
                changed.sequence += 1
                try write(changed, to: path)
            }
        case .blank, .lost:
            return
        }
    }
}
