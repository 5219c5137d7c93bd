import RepldCore
import RepldFormat
import Testing

@testable import RepldPair

/// A volume that becomes larger while it is served.
@Suite struct GrowTests {
    private static let former = MachineHarness.volumeByteCount
    private static let granule: UInt64 = 65536
    private let settings = PairSettings(granuleByteCount: 65536, copyDepth: 2, copyChunkByteCount: 262144)

    @Test func aSynchronizedPairCopiesTheNewRangeAndNothingElse() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        harness.records = []
        let wanted = Self.former + 2 * Self.granule + 4096
        harness.machine.grow(to: wanted)
        harness.settle()
        #expect(harness.state == .unsynchronized)
        #expect(harness.dirtyByteCount == wanted - Self.former)
        #expect(harness.grownCount == 1)
        #expect(harness.records.allSatisfy { $0.record.mapTrust == .exact }, "what is known stays known")
        let sizes = harness.records.map(\.record.volumeByteCount)
        #expect(sizes.first == Self.former && sizes.last == wanted && sizes == sizes.sorted())
        let isImage = harness.machine.withPair(0) { $0.isTargetConsistent }
        #expect(isImage == true, "what the target had it still has")
        harness.completeAll()
        #expect(harness.state == .synchronized)
        #expect(harness.dirtyByteCount == 0)
        let copied = harness.performed.filter { $0.leg == 1 && $0.kind != .flush }
        #expect(!copied.isEmpty && copied.allSatisfy { $0.extent.offset >= Self.former })
        #expect(copied.reduce(0) { $0 + $1.extent.length } == wanted - Self.former)
    }

    @Test func theNewRangeIsTheHosts() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        harness.machine.grow(to: 2 * Self.former)
        harness.settle()
        let isTaken = harness.request(.write, 7, at: 2 * Self.former - 4096)
        #expect(isTaken)
        harness.completeAll()
        #expect(harness.answers.map(\.request) == [7])
        #expect(harness.state == .synchronized)
        let isMirrored = harness.performed.contains { $0.leg == 1 && $0.extent.offset == 2 * Self.former - 4096 }
        #expect(isMirrored)
    }

    /// The chunk that copied the short last granule proves nothing about the rest of it.
    @Test func theTailOfAShortGranuleIsCopied() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        harness.machine.grow(to: Self.former + 512)
        harness.settle()
        #expect(harness.operations.map(\.extent) == [Extent(offset: Self.former, length: 512)])
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.operations.map(\.kind) == [.flush, .flush], "the chunk waits for the flush of both")
        let wanted = Self.former + Self.granule + 1024
        harness.machine.grow(to: wanted)
        harness.settle()
        harness.completeAll()
        #expect(harness.state == .synchronized)
        let whole = harness.performed.filter { $0.leg == 1 && $0.kind != .flush }.dropFirst()
        #expect(whole.reduce(0) { $0 + $1.extent.length } == wanted - Self.former)
        let total = harness.machine.withPair(0) { $0.copyTotalByteCount }
        #expect(total == wanted - Self.former)
    }

    @Test func otherStatesStayAndKeepTheirBits() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        harness.ask(.suspend)
        _ = harness.request(.write, 1, at: 3 * Self.granule)
        harness.completeAll()
        #expect(harness.dirtyByteCount == Self.granule)
        harness.machine.grow(to: Self.former + 4096)
        harness.settle()
        #expect(harness.state == .suspended)
        #expect(harness.dirtyByteCount == Self.granule + 4096)
        harness.ask(.resume)
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test func hostsSeeItWhenTheRecordsAreDurable() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        harness.writesRecords = false
        harness.machine.grow(to: 2 * Self.former)
        harness.settle()
        #expect(harness.grownCount == 0)
        let again = harness.machine.growthRefusal(to: 3 * Self.former)
        #expect(again == .pair(PairID(high: 1, low: 1), .growing))
        var sizes: [UInt64] = []
        // The copy state is recorded as well, twice.
        while harness.grownCount == 0, sizes.count < 8 {
            sizes.append(harness.machine.recordInFlight(pair: 0).volumeByteCount)
            harness.machine.recordWritten(pair: 0, nil)
            harness.settle()
        }
        #expect(sizes.first == Self.former && sizes.last == 2 * Self.former)
        #expect(harness.grownCount == 1)
    }

    /// Pages that say nothing of the new range are not on disk: no record may have the new size, and hosts do not see it.
    @Test func noRecordHasTheSizeBeforeThePages() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        harness.writesLogs = false
        harness.records = []
        harness.machine.grow(to: 2 * Self.former)
        harness.settle()
        #expect(harness.grownCount == 0)
        #expect(harness.records.allSatisfy { $0.record.volumeByteCount == Self.former })
    }

    /// The peer learns the size from the record, and takes over with it: hosts must not see what no record will have.
    @Test func aPageThatFailsMeanwhileKeepsNoRecordAtTheFormerSize() throws {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        harness.writesLogs = false
        harness.machine.grow(to: 2 * Self.former)
        harness.settle()
        #expect(harness.grownCount == 0)
        let place = try #require(harness.pageWrites.last?.place)
        harness.records = []
        harness.machine.pageWritten(pair: 0, place: place, .inputOutput)
        harness.settle()
        let record = try #require(harness.records.last?.record)
        #expect(record.volumeByteCount == 2 * Self.former && record.mapTrust == .none)
        #expect(harness.grownCount == 1)
    }

    /// A start with the new size takes what is behind the size of the record for different.
    @Test func aRecordThatFailsMeanwhileHoldsNobodyUp() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        harness.writesRecords = false
        harness.machine.grow(to: 2 * Self.former)
        harness.settle()
        for _ in 0..<3 {
            harness.machine.recordWritten(pair: 0, .inputOutput)
            harness.settle()
        }
        #expect(harness.grownCount == 1)
        let refusal = harness.machine.growthRefusal(to: 3 * Self.former)
        #expect(refusal == .pair(PairID(high: 1, low: 1), .metadataFails))
    }

    @Test func whatCannotBeIsRefused() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings)
        let shrink = harness.machine.growthRefusal(to: Self.former - 512)
        #expect(shrink == .shrink(byteCount: Self.former, wanted: Self.former - 512))
        let odd = harness.machine.growthRefusal(to: Self.former + 1)
        #expect(odd == .notWholeBlocks(blockByteCount: 512, wanted: Self.former + 1))
        let same = harness.machine.growthRefusal(to: Self.former)
        #expect(same == nil)
        harness.ask(.failover, isForced: true)
        let draining = harness.machine.growthRefusal(to: 2 * Self.former)
        #expect(draining == .pair(PairID(high: 1, low: 1), .draining))
        harness.completeAll()
        #expect(harness.state == .failedover)
        let failedOver = harness.machine.growthRefusal(to: 2 * Self.former)
        #expect(failedOver == .pair(PairID(high: 1, low: 1), .misplaced(.failedover)))
        harness.machine.close()
        harness.settle()
        let closing = harness.machine.growthRefusal(to: 2 * Self.former)
        #expect(closing == .closing)
    }

    @Test func aRecordOfASmallerSizeSaysNothingOfTheRest() {
        let harness = MachineHarness()
        harness.machine.grow(to: 2 * Self.former)
        _ = harness.addSynchronizedPair(settings)
        #expect(harness.state == .unsynchronized)
        #expect(harness.dirtyByteCount == Self.former)
    }

    @Test func aRecordOfALargerSizeSaysNothing() {
        let harness = MachineHarness()
        let record = PairRecord(
            sequence: 7,
            pair: PairID(high: 1, low: 1),
            volumeByteCount: 2 * Self.former,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        _ = harness.machine.addPair(record, .unknown(because: nil), isNew: false, settings: settings)
        harness.settle()
        #expect(harness.dirtyByteCount == Self.former)
    }
}

/// What a start finds after a kill at any moment of a growth.
@Suite struct GrowthCrashTests {
    private static let granule: UInt64 = 4096
    private static let former = MachineHarness.volumeByteCount
    /// One more page of each map.
    private static let wanted: UInt64 = 130 << 20
    private static let pair = PairID(high: 1, low: 1)
    private let settings = PairSettings(granuleByteCount: 4096, logExtentByteCount: 4096)
    /// What was different before.
    private static let known = Extent(offset: 3 * granule, length: granule)

    @Test func noMomentLosesADifference() throws {
        let disk = MetadataDisk(
            byteCount: Int(MetadataLayout(volumeByteCount: Self.wanted, granuleByteCount: 4096).areaByteCount)
        )
        _ = disk.harness.addPair(settings, disk)
        disk.settleMaps()
        _ = disk.harness.machine.operate(0, .suspend, disk.harness.machine.facts(of: 0), isForced: false)
        disk.pump()
        let isTaken = disk.harness.machine.begin(
            HostRequest(
                operation: .write,
                extent: Self.known,
                buffer: BufferID(rawValue: 1),
                origin: RequestOrigin(client: 0, request: 1)
            )
        )
        #expect(isTaken)
        disk.settleMaps()
        disk.moments = []
        disk.harness.machine.grow(to: Self.wanted)
        // Its extent is in the log before a record has the new size.
        let isWritten = disk.harness.machine.begin(
            HostRequest(
                operation: .write,
                extent: Extent(offset: Self.wanted - 2 * Self.granule, length: Self.granule),
                buffer: BufferID(rawValue: 2),
                origin: RequestOrigin(client: 0, request: 2)
            )
        )
        #expect(isWritten)
        disk.settleMaps()
        #expect(disk.moments.count >= 6, "four pages, the record that relies on them, and the log")
        for (number, area) in disk.moments.enumerated() {
            for damaged in [nil, 0, 1] { try expectNothingLost(area, damaged: damaged, "moment \(number)") }
            let dirty = try recovered(area, damaged: nil) { $0.dirty.dirtyByteCount }
            #expect(dirty == Self.wanted - Self.former + Self.granule, "at moment \(number) as well")
        }
        #expect(Set(try disk.moments.map { try record(in: $0).volumeByteCount }) == [Self.former, Self.wanted])
        let isBeyond = try disk.moments.contains { area in
            let record = try record(in: area)
            return RecoveredMaps.read(area.span.bytes, record, granuleByteCount: Self.granule).distrust != nil
        }
        #expect(isBeyond, "a log that has an extent behind the size of the record is met as well")
    }

    private func expectNothingLost(_ area: [UInt8], damaged: Int?, _ moment: String) throws {
        let isCovered = try recovered(area, damaged: damaged) { pair in
            pair.dirty.isDirty(touching: Self.known)
                && pair.nextDifference(from: Self.former, by: .source) == Self.former
                && pair.endOfDifference(from: Self.former, upTo: Self.wanted, by: .source) == Self.wanted
        }
        #expect(isCovered == true, "\(moment), block \(damaged.map(String.init) ?? "none") damaged")
    }

    private func record(in area: [UInt8]) throws -> PairRecord {
        let size = PairRecord.blockByteCount
        let first = Array(area[0..<size])
        let second = Array(area[size..<2 * size])
        let record: PairRecord? =
            switch PairRecordRecovery.decide(first.span.bytes, second.span.bytes) {
            case .found(let found), .older(let found, _): found
            case .blank, .lost: nil
            }
        return try #require(record)
    }

    /// The pair as a start with the new size has it.
    private func recovered<Result>(
        _ area: [UInt8],
        damaged: Int?,
        _ body: (borrowing Pair) -> Result
    ) throws -> Result? {
        var area = area
        if let damaged { area[damaged * 4096 + 100] ^= 0xff }
        let record = try record(in: area)
        let maps = RecoveredMaps.read(
            area.span.bytes,
            record,
            granuleByteCount: Self.granule,
            grownByteCount: Self.wanted
        )
        #expect(maps.distrust == nil)
        var machine = VolumeMachine(byteCount: Self.wanted, blockByteCount: 512, hostSlotLimit: 32)
        let index = machine.addPair(record, maps, isNew: false, settings: settings)
        machine.checkInvariants()
        return machine.withPair(index ?? -1, body)
    }
}

/// A machine whose metadata goes into an area in memory; everything else succeeds at once.
private final class MetadataDisk {
    let harness = MachineHarness()
    private(set) var area: [UInt8]
    /// The area after each write.
    var moments: [[UInt8]] = []

    init(byteCount: Int) { area = [UInt8](repeating: 0, count: byteCount) }

    func pump() {
        while let effect = harness.machine.nextEffect() {
            switch effect {
            case .perform(let operation):
                harness.machine.completed(operation.slot, leg: operation.leg, OperationOutcome(failure: nil))
            case .persist(let pair):
                let record = harness.machine.recordInFlight(pair: pair)
                write(at: record.areaOffset) { record.encode(into: &$0) }
                harness.machine.recordWritten(pair: pair, nil)
            case .writeLog(let pair):
                let offset = harness.machine.logOffset(pair: pair)
                write(at: offset) { harness.machine.encodeLog(pair: pair, into: &$0) }
                harness.machine.logWritten(pair: pair, nil)
            case .writePage(let pair, let place):
                var offset: UInt64 = 0
                var block = [UInt8](repeating: 0, count: 4096)
                var span = block.mutableSpan
                var bytes = span.mutableBytes
                offset = harness.machine.encodePage(pair: pair, place: place, into: &bytes)
                put(block, at: offset)
                harness.machine.pageWritten(pair: pair, place: place, nil)
            case .announce: _ = harness.machine.nextEvent()
            default: break
            }
            harness.machine.checkInvariants()
        }
    }

    /// Until the maps are on disk and the record says so.
    func settleMaps() {
        pump()
        for _ in 0..<8 {
            harness.machine.tick()
            pump()
        }
    }

    private func write(at offset: UInt64, _ encode: (inout MutableRawSpan) -> Void) {
        var block = [UInt8](repeating: 0, count: 4096)
        var span = block.mutableSpan
        var bytes = span.mutableBytes
        encode(&bytes)
        put(block, at: offset)
    }

    private func put(_ block: [UInt8], at offset: UInt64) {
        area.replaceSubrange(Int(offset)..<Int(offset) + 4096, with: block)
        moments.append(area)
    }
}

extension MachineHarness {
    /// Takes in a pair that was in sync and closed cleanly, and settles its metadata on the disk.
    fileprivate func addPair(_ settings: PairSettings, _ disk: MetadataDisk) -> Int? {
        let record = PairRecord(
            sequence: 7,
            pair: PairID(high: 1, low: 1),
            volumeByteCount: Self.volumeByteCount,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        let index = machine.addPair(record, .unknown(because: nil), isNew: false, settings: settings)
        disk.pump()
        return index
    }
}
