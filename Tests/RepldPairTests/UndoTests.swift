import RepldCore
import RepldFormat
import Testing

@testable import RepldPair

/// A copy that keeps what it overwrites, step by step; leg 4 is the undo area of the first pair.
@Suite struct UndoTests {
    private static let settings = PairSettings(granuleByteCount: 4096, copyDepth: 1, keepsUndo: true)

    /// A pair that is Suspended, with two granules written since.
    private func suspended() -> MachineHarness {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(Self.settings)
        harness.ask(.suspend)
        _ = harness.request(.write, 1, at: 0)
        _ = harness.request(.write, 2, at: 65536)
        harness.completeAll()
        return harness
    }

    private func kinds(_ harness: MachineHarness, leg: UInt8) -> [ElementOperation.Kind] {
        harness.performed.filter { $0.leg == leg }.map(\.kind)
    }

    private func saved(_ harness: MachineHarness) -> UInt64 { harness.facts.undoByteCount }

    @Test func targetIsWrittenWhenItsContentAndThenItsPageAreDurable() {
        let harness = suspended()
        #expect(harness.ask(.resume) == .accepted(to: .synchronized))
        // Blank pages come before the record that counts on them, in both blocks.
        #expect(harness.undoPages.count == 1)
        #expect(harness.records.suffix(2).allSatisfy { $0.record.hasUndo && !$0.record.isTargetConsistent })
        harness.writesUndoPages = false
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        let save = harness.complete(leg: 4)
        #expect(save?.kind == .save)
        #expect(save?.isDurable == true)
        #expect(harness.legs == [])
        harness.machine.undoPageWritten(pair: 0, place: harness.undoPages[1].place, nil)
        harness.settle()
        #expect(harness.operations.map(\.kind) == [.write])
        #expect(harness.legs == [1])
    }

    @Test func undoEndsWithTheCopyAndIsEmptiedWhenTheRecordSaysSo() {
        let harness = suspended()
        harness.ask(.resume)
        #expect(harness.facts.hasUndo)
        harness.completeAll()
        #expect(harness.state == .synchronized)
        #expect(!harness.facts.hasUndo)
        #expect(harness.records.suffix(2).allSatisfy { !$0.record.hasUndo && $0.record.isTargetConsistent })
        #expect(harness.emptiedUndos == [0])
        #expect(kinds(harness, leg: 4) == [.save, .save])
    }

    @Test func hostWritesReachTheTargetOnlyWhereItsContentIsSaved() {
        let harness = suspended()
        harness.ask(.resume)
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        harness.complete(leg: 4)
        harness.complete(leg: 1)
        #expect(saved(harness) == 4096)
        harness.performed = []
        // The first granule is saved, the one behind it is not; a write of both is not mirrored.
        _ = harness.request(.write, 10, at: 0)
        _ = harness.request(.write, 11, at: 8192)
        _ = harness.request(.write, 12, at: 0, length: 8192)
        let mirrored = harness.performed.filter { $0.leg == 1 && $0.kind == .write }
        #expect(mirrored.map(\.buffer.rawValue) == [10])
        harness.completeAll()
        #expect(harness.state == .synchronized)
        #expect(harness.dirtyByteCount == 0)
        #expect(harness.answers.allSatisfy { $0.failure == nil })
    }

    @Test func noRoomBreaksThePairAndTheTargetIsNotWritten() {
        let harness = suspended()
        harness.ask(.resume)
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        harness.complete(leg: 4, .noSpace)
        #expect(harness.state == .broken)
        #expect(harness.reason == .undoFailed(.noSpace))
        #expect(!kinds(harness, leg: 1).contains(.write))
        #expect(harness.dirtyByteCount == 8192)
        #expect(harness.ended.last?.failure == .pairBroken)
        // What was saved before is kept, and without an undo the copy goes on; the record says so first.
        harness.ask(.resyncReplica, keepsUndo: false)
        #expect(!harness.facts.hasUndo)
        harness.completeAll()
        #expect(harness.state == .synchronized)
        #expect(kinds(harness, leg: 4) == [.save])
    }

    @Test func pageThatCannotBeWrittenBreaksThePair() {
        let harness = suspended()
        harness.ask(.resume)
        harness.writesUndoPages = false
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        harness.complete(leg: 4)
        harness.machine.undoPageWritten(pair: 0, place: harness.undoPages[1].place, .inputOutput)
        harness.settle()
        #expect(harness.state == .broken)
        #expect(saved(harness) == 0)
        #expect(!kinds(harness, leg: 1).contains(.write))
        #expect(harness.isIdle)
    }

    @Test func blankPagesThatCannotBeWrittenEndTheOperationWithNothingChanged() {
        let harness = suspended()
        harness.writesUndoPages = false
        harness.ask(.resume)
        harness.machine.undoPageWritten(pair: 0, place: harness.undoPages[0].place, .noSpace)
        harness.settle()
        #expect(harness.state == .suspended)
        #expect(harness.ended.last?.failure == .undoFailed(.noSpace))
        #expect(harness.facts.isTargetConsistent)
    }

    @Test func failoverTakesTheCopyBackAndNeedsForce() {
        let harness = suspended()
        harness.ask(.resume)
        for leg: UInt8 in [0, 1, 4, 1, 0] { harness.complete(leg: leg) }
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.state == .broken)
        #expect(harness.ask(.failover) == .needsForce(.targetLacksWrites(byteCount: 8192 + 4096)))
        harness.performed = []
        #expect(harness.ask(.failover, isForced: true) == .accepted(to: .failedover))
        harness.completeAll()
        #expect(harness.state == .failedover)
        #expect(kinds(harness, leg: 4) == [.read])
        let back = harness.performed.first { $0.leg == 1 && $0.kind == .write }
        #expect(back?.isDurable == true)
        #expect(back?.extent == Extent(offset: 0, length: 4096))
        #expect(harness.dirtyByteCount == 8192)
        #expect(harness.disconnections == 1)
        #expect(harness.records.last?.record.hasUndo == false)
    }

    @Test func failoverThatCannotTakeTheCopyBackCanBeAskedAgain() {
        let harness = suspended()
        harness.ask(.resume)
        for leg: UInt8 in [0, 1, 4, 1, 0] { harness.complete(leg: leg) }
        harness.ask(.failover, isForced: true)
        // What the copy had begun ends first.
        harness.complete(leg: 1)
        #expect(harness.complete(leg: 4, .inputOutput)?.kind == .read)
        #expect(harness.state == .suspended)
        #expect(harness.ended.last?.failure == .rollbackFailed(.inputOutput))
        #expect(harness.facts.hasUndo)
        harness.ask(.failover, isForced: true)
        harness.completeAll()
        #expect(harness.state == .failedover)
    }

    /// Found by the simulator: a cancelled Failover left what its target does not give back without an end.
    @Test func volumeClosesWhileATargetHoldsAChunkThatWasBeingTakenBack() {
        let harness = suspended()
        harness.ask(.resume)
        for leg: UInt8 in [0, 1, 4, 1, 0] { harness.complete(leg: leg) }
        harness.ask(.failover, isForced: true)
        harness.complete(leg: 1)
        #expect(harness.operations.map(\.leg) == [4], "the old content is being read")
        let isCancelled = harness.machine.cancelOperation(0)
        #expect(isCancelled)
        harness.machine.close()
        harness.settle()
        harness.completeAll(besides: 4)
        #expect(!harness.isClosed)
        harness.machine.advance(to: Instant(nanoseconds: 40_000_000_000))
        harness.machine.tick()
        harness.settle()
        harness.completeAll(besides: 4)
        #expect(harness.isClosed)
        #expect(harness.records.last?.record.isClosedCleanly == false)
    }

    @Test func pairWithoutAnAreaKeepsNothing() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.ask(.suspend)
        _ = harness.request(.write, 1)
        harness.completeAll()
        harness.ask(.resume)
        harness.completeAll()
        #expect(harness.state == .synchronized)
        #expect(!harness.performed.contains { $0.leg > 1 })
        #expect(harness.undoPages.isEmpty)
    }

    @Test func volumeDoesNotGrowWhileACopyCanBeTakenBack() {
        let wanted = 2 * MachineHarness.volumeByteCount
        let harness = suspended()
        #expect(harness.machine.growthRefusal(to: wanted) == nil)
        harness.writesUndoPages = false
        harness.ask(.resume)
        let id = harness.machine.withPair(0) { $0.id } ?? PairID(high: 0, low: 0)
        #expect(harness.machine.growthRefusal(to: wanted) == .pair(id, .undoKept), "its blank pages are on their way")
        harness.writesUndoPages = true
        harness.machine.undoPageWritten(pair: 0, place: harness.undoPages[0].place, nil)
        harness.settle()
        #expect(harness.facts.hasUndo)
        #expect(harness.machine.growthRefusal(to: wanted) == .pair(id, .undoKept))
        harness.completeAll()
        #expect(harness.state == .synchronized)
        #expect(harness.machine.growthRefusal(to: wanted) == nil)
    }

    @Test func undoOfALargerVolumeKeepsItsNewBytesAsWell() {
        let former = MachineHarness.volumeByteCount
        let harness = suspended()
        harness.ask(.resume)
        harness.completeAll()
        harness.machine.grow(to: 2 * former)
        harness.settle()
        harness.completeAll()
        #expect(harness.state == .synchronized)
        harness.ask(.suspend)
        _ = harness.request(.write, 3, at: 2 * former - 4096)
        harness.completeAll()
        harness.performed = []
        harness.ask(.resume)
        #expect(harness.records.last?.record.hasUndo == true)
        harness.completeAll()
        #expect(harness.state == .synchronized)
        let kept = harness.performed.filter { $0.kind == .save }.map(\.extent)
        #expect(kept == [Extent(offset: 2 * former - 4096, length: 4096)])
    }

    @Test func pairWithoutAnAreaGrowsAsEver() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.machine.grow(to: 2 * MachineHarness.volumeByteCount)
        harness.settle()
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }
}
