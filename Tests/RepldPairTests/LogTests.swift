import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Rule 2: what a write waits for before it is issued, what an extent waits for before it leaves the log, and what a crash
/// leaves to be copied.
@Suite("The activity log of a pair") struct LogTests {
    private static var granule: UInt64 { 4096 }
    private static var extent: UInt64 { 65536 }

    private func settings(extentCount: UInt16) -> PairSettings {
        PairSettings(
            granuleByteCount: UInt32(Self.granule),
            copyChunkByteCount: UInt32(Self.extent),
            logExtentByteCount: UInt32(Self.extent),
            logExtentCount: extentCount
        )
    }

    /// A pair that is in sync, with nothing left to write about it.
    private func synchronized(extentCount: UInt16 = 1024) -> MachineHarness {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings(extentCount: extentCount))
        harness.logWrites.removeAll()
        harness.pageWrites.removeAll()
        return harness
    }

    private func write(_ harness: MachineHarness, _ number: UInt32, extent index: UInt64) {
        #expect(harness.request(.write, number, at: index * Self.extent))
    }

    private func recovered(_ harness: MachineHarness) throws -> (record: PairRecord, maps: RecoveredMaps) {
        let record = try #require(harness.area.record)
        return (record, harness.area.maps(record, granuleByteCount: Self.granule))
    }

    /// The next life of a pair, after a crash of this one.
    private func restarted(_ harness: MachineHarness, extentCount: UInt16 = 1024) throws -> MachineHarness {
        let (record, maps) = try recovered(harness)
        let next = MachineHarness()
        next.area = harness.area
        _ = next.machine.addPair(record, maps, isNew: false, settings: settings(extentCount: extentCount))
        next.settle()
        return next
    }

    @Test("makes a write wait for a record, and the next one in the same extent for nothing")
    func aColdWriteWaitsAndAHotOneDoesNot() {
        let harness = synchronized()
        harness.writesLogs = false
        write(harness, 1, extent: 3)
        #expect(harness.operations.isEmpty && harness.logWrites == [0])
        harness.machine.logWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.legs == [0, 1])
        #expect(harness.request(.write, 2, at: 3 * Self.extent + 8192))
        #expect(harness.legs == [0, 1, 0, 1] && harness.logWrites == [0])
    }

    @Test("takes many waiting writes with one record")
    func oneRecordCarriesManyActivations() {
        let harness = synchronized()
        harness.writesLogs = false
        for index in 0..<10 { write(harness, UInt32(index), extent: UInt64(index)) }
        #expect(harness.logWrites.count == 1, "the first goes at once")
        harness.machine.logWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.logWrites.count == 2, "and the other nine with the second")
        harness.machine.logWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.operations.count == 20)
    }

    @Test("lets an extent with mirrored writes go only after a flush of both elements that began after them")
    func mirroredWritesAreFlushedBeforeTheirExtentLeaves() {
        let harness = synchronized(extentCount: 2)
        for index in 0..<2 {
            write(harness, UInt32(index), extent: UInt64(index))
            harness.complete(leg: 0)
            harness.complete(leg: 1)
        }
        let before = harness.logWrites.count
        write(harness, 2, extent: 2)
        #expect(harness.operations.map(\.kind) == [.flush, .flush] && harness.logWrites.count == before)
        harness.complete(leg: 1)
        #expect(harness.logWrites.count == before, "the source has not flushed")
        harness.complete(leg: 0)
        #expect(harness.logWrites.count == before + 1)
        #expect(harness.operations.map(\.kind) == [.write, .write])
    }

    @Test("keeps an extent while a write of it is under way")
    func anExtentInUseStays() {
        let harness = synchronized(extentCount: 1)
        write(harness, 1, extent: 0)
        write(harness, 2, extent: 1)
        #expect(harness.operations.map(\.slot).count == 2, "the second waits for the first")
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        harness.completeAll()
        #expect(harness.answers.map(\.request) == [1, 2])
    }

    @Test("has the bits of an extent written before the record that evicts it")
    func bitsAreDurableBeforeTheirExtentLeaves() throws {
        let harness = synchronized(extentCount: 1)
        harness.ask(.suspend)
        harness.writesLogs = false
        write(harness, 1, extent: 0)
        harness.machine.logWritten(pair: 0, nil)
        harness.settle()
        harness.complete(leg: 0)
        write(harness, 2, extent: 1)
        #expect(harness.pageWrites.count == 1 && harness.logWrites.count == 1, "the page first")
        harness.machine.pageWritten(pair: 0, place: harness.pageWrites[0].place, nil)
        harness.settle()
        #expect(harness.logWrites.count == 2)
        harness.machine.logWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.legs == [0])
    }

    @Test("after a crash leaves exactly the extents to be copied that were active")
    func aCrashLeavesTheActiveExtents() throws {
        let harness = synchronized()
        write(harness, 1, extent: 2)
        write(harness, 2, extent: 9)
        let next = try restarted(harness)
        #expect(next.state == .unsynchronized)
        let dirty = next.dirtyByteCount
        #expect(dirty == 2 * Self.extent)
        next.completeAll()
        #expect(next.state == .synchronized)
        let reads = next.performed.filter { $0.kind == .readAndCheckZero }.map(\.extent.offset)
        #expect(reads == [2 * Self.extent, 9 * Self.extent])
    }

    @Test("and the bitmaps keep what was written long ago, to the granule")
    func aCrashKeepsTheBits() throws {
        let harness = synchronized(extentCount: 1)
        harness.ask(.suspend)
        for index in 0..<4 {
            write(harness, UInt32(index), extent: UInt64(3 * index))
            harness.complete(leg: 0)
        }
        let next = try restarted(harness, extentCount: 1)
        #expect(next.state == .suspended)
        let dirty = next.dirtyByteCount
        #expect(dirty == 3 * Self.granule + Self.extent, "three that have left the log, and one that is active")
    }

    @Test("is empty after a clean stop, in every state that remembers")
    func aCleanStopLeavesExactlyTheBits() throws {
        let harness = synchronized()
        harness.ask(.suspend)
        write(harness, 1, extent: 5)
        harness.complete(leg: 0)
        harness.machine.close()
        harness.settle()
        harness.completeAll()
        #expect(harness.isClosed)
        let (record, maps) = try recovered(harness)
        #expect(record.isClosedCleanly && maps.trust == .exact && maps.active.isEmpty)
        let next = try restarted(harness)
        let dirty = next.dirtyByteCount
        #expect(next.state == .suspended && dirty == Self.granule)
    }

    @Test("resumes an interrupted copy about where it was")
    func aCopyGoesOnWhereItWas() throws {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings(extentCount: 1024))
        harness.start(0)
        // A flush after each pass of what is in flight clears the bits; the tick writes them.
        for _ in 0..<200 where harness.dirtyByteCount ?? 0 > MachineHarness.volumeByteCount / 2 {
            guard let operation = harness.operations.first else { break }
            harness.complete(leg: operation.leg)
        }
        harness.machine.tick()
        harness.settle()
        let left = harness.dirtyByteCount
        let next = try restarted(harness)
        let found = next.dirtyByteCount
        #expect(found == left)
    }

    @Test("refuses writes to other extents, and takes those to active ones, while its metadata fails")
    func aFailingLogRefusesColdWritesOnly() {
        let harness = synchronized()
        write(harness, 1, extent: 0)
        harness.completeAll()
        harness.writesLogs = false
        write(harness, 2, extent: 1)
        for _ in 0..<3 {
            harness.machine.logWritten(pair: 0, .inputOutput)
            harness.settle()
        }
        #expect(harness.answers.map(\.request) == [1, 2] && harness.answers[1].failure == .inputOutput)
        write(harness, 3, extent: 0)
        harness.completeAll()
        #expect(harness.answers.count == 3 && harness.answers[2].failure == nil)
        harness.machine.tick()
        harness.settle()
        harness.writesLogs = true
        harness.machine.logWritten(pair: 0, nil)
        harness.settle()
        write(harness, 4, extent: 1)
        harness.completeAll()
        #expect(harness.answers.count == 4 && harness.answers[3].failure == nil)
    }

    @Test("serves writes of several extents each from a log that has room for one of them at a time")
    func writesOfManyExtentsDoNotStarveEachOther() {
        let harness = synchronized(extentCount: 3)
        for index in 0..<8 {
            let offset = UInt64(index % 5) * 3 * Self.extent
            let isTaken = harness.request(.writeZeroes, UInt32(index), at: offset, length: 3 * Self.extent)
            #expect(isTaken)
        }
        harness.completeAll()
        #expect(harness.answers.count == 8 && harness.answers.allSatisfy { $0.failure == nil })
    }

    @Test("loses its maps to another pair's record that knows of a later change of the serving element")
    func mapsAgainstAnotherElementSayNothing() throws {
        let harness = synchronized()
        let (record, maps) = try recovered(harness)
        let next = MachineHarness()
        _ = next.machine.addPair(record, maps, isNew: false, settings: settings(extentCount: 8))
        next.settle()
        var other = record
        other.pair = PairID(high: 9, low: 9)
        other.servingEpoch = record.servingEpoch + 1
        _ = next.machine.addPair(other, maps, isNew: false, settings: settings(extentCount: 8))
        next.settle()
        #expect(next.dirtyByteCount == MachineHarness.volumeByteCount && next.state == .unsynchronized)
    }
}
