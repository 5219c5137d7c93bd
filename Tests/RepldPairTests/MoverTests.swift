import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Rule 3 and the mover: what is copied, in which order, and when a bit is cleared.
@Suite struct MoverTests {
    private func settings(depth: UInt8 = 2) -> PairSettings {
        PairSettings(granuleByteCount: 65536, copyDepth: depth, copyChunkByteCount: 262144)
    }

    @Test func newPairIsAllDirtyAndCopiedInDiskOrder() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings())
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
        #expect(harness.operations.isEmpty)
        harness.start(0)
        harness.settle()
        #expect(harness.operations.map(\.extent.offset) == [0, 262144])
        #expect(harness.operations.allSatisfy { $0.kind == .readAndCheckZero && $0.leg == 0 })
        harness.completeAll()
        #expect(harness.state == .synchronized)
        #expect(harness.dirtyByteCount == 0)
    }

    @Test func bitsAreClearedOnlyAfterAFlushOfBoth() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings(depth: 4))
        harness.start(0)
        harness.settle()
        for _ in 0..<4 { harness.complete(leg: 0) }
        for _ in 0..<4 { harness.complete(leg: 1) }
        #expect(harness.operations.map(\.kind) == [.flush, .flush])
        harness.complete(leg: 0)
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
        harness.complete(leg: 1)
        #expect(harness.dirtyByteCount == 0)
        #expect(harness.state == .synchronized)
    }

    @Test func failedFlushClearsNothing() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings(depth: 4))
        harness.start(0)
        harness.settle()
        for _ in 0..<4 { harness.complete(leg: 0) }
        for _ in 0..<4 { harness.complete(leg: 1) }
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.state == .broken)
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
    }

    /// Found by the simulator (seed 3458): the flush of a copy cleared what had been marked again behind the copy.
    @Test func whatIsMarkedAgainBehindTheCopyIsCopiedAgain() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings(depth: 4))
        harness.start(0)
        harness.settle()
        for _ in 0..<4 { harness.complete(leg: 0) }
        for _ in 0..<4 { harness.complete(leg: 1) }
        #expect(harness.operations.map(\.kind) == [.flush, .flush])
        _ = harness.request(.write, 1, at: 65536)
        // The target takes the write and the source does not: they differ, behind the mover.
        let legs = harness.operations.filter { $0.kind == .write }
        harness.operations.removeAll { $0.kind == .write }
        for leg in legs {
            let outcome = OperationOutcome(failure: leg.leg == 0 ? .inputOutput : nil)
            harness.machine.completed(leg.slot, leg: leg.leg, outcome)
            harness.settle()
        }
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.state == .unsynchronized)
        #expect(harness.operations.map(\.kind) == [.readAndCheckZero])
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    /// Found by the search: what the chunk had read was lost by the source before it was written to the target.
    @Test func chunkInFlightWhenTheSourceFailsAFlushIsCopiedAgain() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings(depth: 1))
        harness.start(0)
        harness.complete(leg: 0)
        #expect(harness.operations.map(\.kind) == [.write])
        _ = harness.request(.flush, 1)
        harness.complete(leg: 0, .inputOutput)
        harness.complete(leg: 1)
        harness.complete(leg: 1)
        // Chunk and flush are over, and nothing of it is proven.
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test func zeroesArePunchedAndNotWritten() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings(depth: 1))
        harness.start(0)
        harness.settle()
        harness.complete(leg: 0, isMatch: true)
        #expect(harness.operations.map(\.kind) == [.zeroMayDeallocate])
        harness.complete(leg: 1)
        #expect(harness.zeroByteCount == 262144)
    }

    @Test func afterAnUncleanEndEverythingIsComparedAndOnlyDifferencesAreWritten() {
        let harness = MachineHarness()
        let record = PairRecord(
            sequence: 9,
            pair: PairID(high: 1, low: 1),
            volumeByteCount: MachineHarness.volumeByteCount,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: false
        )
        _ = harness.machine.addPair(record, .unknown(because: nil), isNew: false, settings: settings(depth: 1))
        harness.settle()
        #expect(harness.state == .unsynchronized)
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
        harness.complete(leg: 0)
        #expect(harness.operations.map(\.kind) == [.readAndCompare])
        harness.complete(leg: 1, isMatch: true)
        // Equal: the next chunk follows without a write.
        #expect(harness.operations.map(\.kind) == [.readAndCheckZero])
        harness.complete(leg: 0)
        harness.complete(leg: 1, isMatch: false)
        #expect(harness.operations.map(\.kind) == [.write])
    }

    @Test func copyWaitsForAWriteInItsWayAndLaterWritesWaitForTheCopy() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings(depth: 1))
        _ = harness.request(.write, 1, at: 4096)
        harness.start(0)
        harness.settle()
        #expect(harness.operations.map(\.kind) == [.write])
        harness.complete(leg: 0)
        #expect(harness.operations.map(\.kind) == [.readAndCheckZero])
        _ = harness.request(.write, 2, at: 8192)
        #expect(harness.operations.map(\.kind) == [.readAndCheckZero])
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.operations.contains { $0.kind == .write && $0.buffer == BufferID(rawValue: 2) && $0.leg == 1 })
    }

    @Test func suspendedPairRemembersAndResumesOnlyWhatDiffers() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        let isSuspended = harness.ask(.suspend) == .accepted(to: .suspended)
        harness.settle()
        #expect(isSuspended && harness.state == .suspended)
        _ = harness.request(.write, 1, at: 131072)
        harness.completeAll()
        #expect(harness.dirtyByteCount == 65536)
        harness.start(0)
        harness.settle()
        #expect(harness.operations.map(\.extent) == [Extent(offset: 131072, length: 65536)])
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test func unreadableSourceEndsTheCopyAndForgetsNothing() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings(depth: 1))
        harness.start(0)
        harness.settle()
        harness.complete(leg: 0, .inputOutput)
        #expect(harness.state == .broken)
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
        #expect(harness.isIdle)
    }

    /// Found by the simulator: a pair whose record could not be written began and ended chunks without end.
    @Test func copyRestsWhileRecordsAreImpossible() {
        let harness = MachineHarness()
        harness.writesRecords = false
        _ = harness.addNewPair(settings())
        for _ in 0..<3 {
            harness.machine.recordWritten(pair: 0, .inputOutput)
            harness.settle()
        }
        harness.start(0)
        harness.settle()
        #expect(harness.operations.isEmpty)
    }

    @Test func closingDropsChunksThatWaitForBuffers() {
        let harness = MachineHarness()
        harness.grantsBuffers = false
        _ = harness.addNewPair(settings())
        harness.start(0)
        harness.settle()
        harness.machine.close()
        harness.settle()
        harness.completeAll()
        #expect(harness.isClosed)
        #expect(harness.isIdle)
    }

    @Test func detachWaitsForWhatIsInFlight() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        _ = harness.request(.write, 1)
        harness.machine.detachPair(0)
        harness.settle()
        #expect(harness.detached.isEmpty)
        harness.complete(leg: 1)
        #expect(harness.detached == [0])
        harness.complete(leg: 0)
        #expect(harness.answers.count == 1)
    }

    @Test func closingFlushesEveryCopyAndRecordsIt() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        _ = harness.request(.write, 1)
        harness.machine.close()
        harness.settle()
        #expect(!harness.isClosed)
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.operations.map(\.kind) == [.flush, .flush])
        harness.completeAll()
        #expect(harness.isClosed)
        #expect(harness.records.last?.record.isClosedCleanly == true)
        #expect(harness.records.last?.record.copyState == CopyState.synchronized.rawValue)
        let isTaken = harness.request(.read, 2)
        #expect(!isTaken)
    }

    @Test func failedClosingFlushIsNotClean() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        harness.machine.close()
        harness.settle()
        harness.complete(leg: 0, .inputOutput)
        harness.complete(leg: 1)
        #expect(harness.isClosed)
        #expect(harness.records.last?.record.isClosedCleanly == false)
    }
}
