import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Rule 1, 2 and 5: who gets a write, when it is answered, and what is remembered when a copy fails.
@Suite struct MirroredWriteTests {
    @Test(arguments: [[UInt8(0), 1], [1, 0]])
    func writeIsAnsweredWhenEveryCopyHasIt(order: [UInt8]) {
        let harness = MachineHarness()
        #expect(harness.addSynchronizedPair() == 0)
        let isTaken = harness.request(.write, 1)
        #expect(isTaken)
        #expect(harness.legs == [0, 1])
        harness.complete(leg: order[0])
        #expect(harness.answers.isEmpty)
        harness.complete(leg: order[1])
        #expect(harness.answers.count == 1 && harness.answers[0].failure == nil)
        #expect(harness.recycled == [BufferID(rawValue: 1)])
    }

    @Test func durableWriteIsDurableOnEveryCopy() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1, isDurable: true)
        let areDurable = harness.operations.map(\.isDurable)
        #expect(areDurable == [true, true])
    }

    @Test func flushReachesEveryCopy() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.flush, 1)
        #expect(harness.operations.map(\.kind) == [.flush, .flush])
        harness.complete(leg: 0)
        #expect(harness.answers.isEmpty)
        harness.complete(leg: 1)
        #expect(harness.answers.count == 1)
    }

    @Test func overlappingWritesAreAppliedInTheOrderOfAsking() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1, at: 0, length: 8192)
        _ = harness.request(.write, 2, at: 4096, length: 8192)
        _ = harness.request(.write, 3, at: 65536)
        // The second waits for the first on both copies; the third does not overlap and is issued.
        #expect(harness.operations.map(\.buffer.rawValue) == [1, 1, 3, 3])
        harness.complete(leg: 0)
        #expect(harness.operations.map(\.buffer.rawValue) == [1, 3, 3])
        harness.complete(leg: 1)
        #expect(harness.operations.map(\.buffer.rawValue) == [3, 3, 2, 2])
    }

    @Test func failingTargetBreaksThePairAndNotTheWrite() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1, at: 8192)
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.state == .broken)
        harness.complete(leg: 0)
        #expect(harness.answers.count == 1 && harness.answers[0].failure == nil)
        #expect(harness.dirtyByteCount == 4096)
        // What is written now is remembered and goes to the source only.
        _ = harness.request(.write, 2, at: 16384)
        #expect(harness.legs == [0])
        #expect(harness.dirtyByteCount == 8192)
    }

    @Test func writeThatATargetLacksIsNotAcknowledgedBeforeTheBreakIsDurable() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.writesRecords = false
        _ = harness.request(.write, 1)
        harness.complete(leg: 1, .noSpace)
        harness.complete(leg: 0)
        #expect(harness.answers.isEmpty)
        // In both blocks: one that is damaged must not make the pair Synchronized again.
        for _ in 0..<2 {
            #expect(harness.answers.isEmpty)
            #expect(harness.records.last?.record.copyState == CopyState.broken.rawValue)
            harness.machine.recordWritten(pair: 0, nil)
            harness.settle()
        }
        #expect(harness.answers.count == 1 && harness.answers[0].failure == nil)
    }

    @Test func writesWaitUntilThePairIsRecordedAsOpen() {
        let harness = MachineHarness()
        harness.writesRecords = false
        _ = harness.addSynchronizedPair()
        #expect(harness.records.last?.record.isClosedCleanly == false)
        _ = harness.request(.write, 1)
        #expect(harness.operations.isEmpty)
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.operations.isEmpty, "only one of the two blocks says so")
        harness.writesRecords = true
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.legs == [0, 1])
    }

    @Test func writesAreRefusedWhileNoOpenRecordCanBeWritten() {
        let harness = MachineHarness()
        harness.writesRecords = false
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1)
        for _ in 0..<3 {
            harness.machine.recordWritten(pair: 0, .inputOutput)
            harness.settle()
        }
        #expect(harness.operations.isEmpty)
        #expect(harness.answers.count == 1 && harness.answers[0].failure == .inputOutput)
        // The next tick tries again, and then writes go on.
        harness.machine.tick()
        harness.settle()
        harness.writesRecords = true
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        _ = harness.request(.write, 2)
        #expect(harness.legs == [0, 1])
    }

    /// A target that breaks may have lost what it had completed and not flushed.
    @Test func whatWasNotFlushedIsDirtyAfterABreak() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1, at: 0)
        harness.completeAll()
        _ = harness.request(.flush, 2)
        harness.completeAll()
        _ = harness.request(.write, 3, at: 8192)
        harness.completeAll()
        _ = harness.request(.write, 4, at: 32768)
        harness.complete(leg: 1, .gone)
        // The flushed write is proven; the unflushed one and the failed one are not.
        #expect(harness.dirtyByteCount == 8192)
    }

    @Test func writeInFlightDuringAFlushIsNotCoveredByIt() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1, at: 0)
        _ = harness.request(.flush, 2)
        // The target completes the flush before the write.
        let flushes = harness.operations.filter { $0.kind == .flush && $0.leg == 1 }
        harness.operations.removeAll { $0.kind == .flush && $0.leg == 1 }
        harness.machine.completed(flushes[0].slot, leg: 1, OperationOutcome(failure: nil))
        harness.settle()
        harness.completeAll()
        _ = harness.request(.write, 3, at: 65536)
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.dirtyByteCount == 8192)
    }

    @Test func failedFlushOfATargetLeavesAllItWasToCoverDirty() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1, at: 0, length: 12288)
        harness.completeAll()
        _ = harness.request(.flush, 2)
        harness.complete(leg: 1, .inputOutput)
        harness.complete(leg: 0)
        #expect(harness.answers.last?.failure == nil)
        #expect(harness.state == .broken)
        #expect(harness.dirtyByteCount == 12288)
    }

    @Test func failedSourceWriteIsTheHostsFailureAndIsCopiedAgain() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1, at: 4096)
        harness.complete(leg: 1)
        harness.complete(leg: 0, .inputOutput)
        #expect(harness.answers.count == 1 && harness.answers[0].failure == .inputOutput)
        #expect(harness.state == .unsynchronized)
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test(arguments: [(HostOperation.discard, ElementOperation.Kind.discard), (.writeZeroes, .zeroMayDeallocate)])
    func discardAndZeroesStayDistinct(operation: HostOperation, kind: ElementOperation.Kind) {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(operation, 1)
        #expect(harness.operations.map(\.kind) == [kind, kind])
        let fills = harness.operations.map(\.fillsIfUnsupported)
        #expect(fills == [true, true])
    }

    /// A fast zeroing that the source refuses must leave the target as it is, too.
    @Test func fastZeroingReachesTheTargetOnlyAfterTheSource() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        for (number, failure) in [(UInt32(1), IOFailure.notSupported), (2, nil)] as [(UInt32, IOFailure?)] {
            _ = harness.machine.begin(
                HostRequest(
                    operation: .writeZeroes,
                    extent: Extent(offset: 0, length: 4096),
                    buffer: .none,
                    origin: RequestOrigin(client: 0, request: number),
                    mustBeFast: true
                )
            )
            harness.settle()
            #expect(harness.legs == [0])
            harness.complete(leg: 0, failure)
            #expect(harness.legs == (failure == nil ? [1] : []))
        }
        harness.complete(leg: 1)
        #expect(harness.answers.map(\.failure) == [.notSupported, nil])
        #expect(harness.state == .synchronized && harness.dirtyByteCount == 0)
    }

    /// A kernel reports a failed flush once and forgets the pages: nothing is known to be equal any more.
    @Test func failedFlushOfTheSourceComparesEverything() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1)
        harness.completeAll()
        _ = harness.request(.flush, 2)
        harness.complete(leg: 0, .inputOutput)
        harness.complete(leg: 1)
        #expect(harness.answers.last?.failure == .inputOutput)
        #expect(harness.state == .unsynchronized)
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test func fullTableIsBackPressure() {
        let harness = MachineHarness()
        for number in 0..<32 {
            let isTaken = harness.request(.write, UInt32(number), at: UInt64(number) * 8192)
            #expect(isTaken)
        }
        let isTaken = harness.request(.write, 99, at: 0)
        #expect(!isTaken)
        harness.complete(leg: 0)
        let isTakenNow = harness.request(.write, 99, at: 0)
        #expect(isTakenNow)
    }
}
