internal import Foundation
package import RepldDataPlane
package import RepldFormat
package import SystemPackage

/// Changes of a pair's record while the data plane does not have it.
extension PairMetadata {
    /// Makes the file blank: a pair that nothing is known of.
    package static func writeBlank(_ path: FilePath) throws {
        try DurableFile.replace(path, with: Data(count: PairRecord.areaByteCount))
    }

    /// Puts a record into the file; of what it held, only the record before it stays.
    package static func write(_ record: PairRecord, to path: FilePath) throws {
        try DurableFile.replace(path, with: Data(area(with: record, insteadOf: path.string)))
    }

    /// Takes back that the pair was closed cleanly, and that its bitmaps can be relied on: from here on every byte may differ.
    ///
    /// The copy state stays. A file that holds no record does not say "clean" and is left alone.
    package static func forgetCleanClose(_ path: FilePath) throws {
        switch read(path.string) {
        case .found(var record), .older(var record, _):
            guard record.isClosedCleanly || record.mapTrust != .none else { return }
            record.sequence += 1
            record.isClosedCleanly = false
            record.mapTrust = .none
            try write(record, to: path)
        case .blank, .lost:
            return
        }
    }
}
