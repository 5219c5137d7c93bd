import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldFormat
import RepldPair
import SystemPackage
import Testing

/// Changes of a record beside the data plane, in a file and behind a volume.
@Suite struct MetadataChangesTests {
    enum Change: CaseIterable { case forgetCleanClose, forgetTarget, leaveToOperator, restore }

    private let directory: TemporaryDirectory
    private let before: PairRecord

    init() throws {
        directory = try TemporaryDirectory()
        var record = PairRecord(
            sequence: 6,
            pair: PairID(high: 1, low: 2),
            volumeByteCount: 1 << 20,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        record.mapTrust = .exact
        record.isTargetConsistent = true
        before = record
    }

    /// An area of 64 KiB that is full of sevens, but for its records.
    private func place(isInternal: Bool) throws -> MetadataPlace {
        let path = directory.file("area")
        let offset: UInt64 = isInternal ? 1 << 20 : 0
        try Data(repeating: 7, count: Int(offset) + 65536).write(to: URL(filePath: path))
        let place = isInternal ? MetadataPlace(element: path, offset: offset) : MetadataPlace(file: path)
        var older = before
        older.sequence -= 1
        try PairMetadata.write(older, to: place)
        try PairMetadata.write(before, to: place)
        return place
    }

    private func change(_ change: Change, _ place: MetadataPlace) throws {
        switch change {
        case .forgetCleanClose: try PairMetadata.forgetCleanClose(of: before.pair, at: place)
        case .forgetTarget: try PairMetadata.forgetTarget(of: before.pair, at: place)
        case .leaveToOperator: try PairMetadata.leaveToOperator(before.pair, at: place)
        case .restore:
            var other = before
            other.mapTrust = .none
            other.isClosedCleanly = false
            other.copyState = CopyState.suspended.rawValue
            try PairMetadata.restore(other, of: before.pair, at: place)
        }
    }

    /// One block that is damaged does not bring back what was taken back, and nothing but the records is written.
    @Test(arguments: Change.allCases, [true, false])
    func eachBlockHasTheChange(kind: Change, isInternal: Bool) throws {
        for damaged in [0, 4096] as [UInt64] {
            let place = try place(isInternal: isInternal)
            try change(kind, place)
            let whole = try #require(try PairMetadata.read(place).record)
            #expect(whole.sequence == before.sequence + 2)
            let file = try FileDescriptor.open(FilePath(place.path), .readWrite)
            try file.writeAll(toAbsoluteOffset: Int64(place.offset + damaged), Array(repeating: UInt8(9), count: 4096))
            try file.close()
            let left = try #require(try PairMetadata.read(place).record)
            #expect(!left.isClosedCleanly && left.mapTrust == .none)
            #expect(left.copyState == whole.copyState && left.copyState != CopyState.synchronized.rawValue)
            let bytes = try Data(contentsOf: URL(filePath: place.path))
            let records = Int(place.offset)..<Int(place.offset) + PairRecord.areaByteCount
            #expect(bytes[..<records.lowerBound].allSatisfy { $0 == 7 })
            #expect(bytes[records.upperBound...].allSatisfy { $0 == 7 })
        }
    }

    @Test func whatIsLeftBehindOrReplacedIsSaidInTheSameWords() throws {
        for isInternal in [true, false] {
            let place = try place(isInternal: isInternal)
            try change(.forgetCleanClose, place)
            let behind = try #require(try PairMetadata.read(place).record)
            #expect(PairMetadata.isLeftBehind(behind) && behind.isTargetConsistent)
            try change(.leaveToOperator, place)
            let left = try #require(try PairMetadata.read(place).record)
            #expect(left.copyState == CopyState.suspended.rawValue && left.operation == 0 && left.isTargetConsistent)
            try PairMetadata.restore(before, of: before.pair, at: place)
            try change(.forgetTarget, place)
            let replaced = try #require(try PairMetadata.read(place).record)
            #expect(replaced.copyState == CopyState.broken.rawValue && !replaced.isTargetConsistent)
        }
    }

    /// It may come back with a record that says "clean"; a short file has lost its record.
    @Test func anElementThatEndsBeforeTheAreaIsNoLostRecord() throws {
        let external = try place(isInternal: false)
        try Data(count: 10).write(to: URL(filePath: external.path))
        #expect(try PairMetadata.read(external).record == nil)
        try change(.forgetCleanClose, external)
        let place = try place(isInternal: true)
        for left in [place.offset, place.offset + 4096] {
            try #require(FileHandle(forWritingAtPath: place.path)).truncate(atOffset: left)
            for kind in Change.allCases {
                #expect(throws: PairMetadata.ReadError.self) { try change(kind, place) }
            }
        }
        try FileManager.default.removeItem(atPath: place.path)
        #expect(throws: PairMetadata.ReadError.self) { try change(.forgetCleanClose, place) }
    }
}
