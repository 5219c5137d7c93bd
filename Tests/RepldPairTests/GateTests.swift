import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Operations that need a write boundary: what hosts see of them, and what happens when an element hangs or fails.
@Suite struct GateTests {
    private static let limit: UInt64 = 2_000_000_000
    private static let settings = PairSettings(granuleByteCount: 4096, targetTimeoutNanoseconds: limit)

    private func inSync() -> MachineHarness {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(Self.settings)
        return harness
    }

    private func passLimit(_ harness: MachineHarness, times: UInt64 = 1) {
        harness.machine.advance(to: Instant(nanoseconds: times * (Self.limit + 1)))
        harness.machine.tick()
        harness.settle()
    }

    private func writeRecord(_ harness: MachineHarness, _ failure: IOFailure? = nil) {
        harness.machine.recordWritten(pair: 0, failure)
        harness.settle()
    }

    @Test func requestsWaitAtTheGateAndAreServedByTheOtherElementInOrder() {
        let harness = inSync()
        harness.ask(.failover)
        _ = harness.request(.write, 1, at: 0)
        _ = harness.request(.read, 2, at: 8192)
        _ = harness.request(.write, 3, at: 16384)
        #expect(harness.operations.map(\.kind) == [.flush, .flush])
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.swapped == [0] && harness.state == .failedover)
        #expect(harness.legs == [0, 0, 0])
        harness.completeAll()
        #expect(harness.answers.map(\.request).sorted() == [1, 2, 3])
        #expect(harness.answers.allSatisfy { $0.failure == nil })
        #expect(harness.ended.count == 1 && harness.ended[0].operation == .failover && harness.ended[0].failure == nil)
    }

    @Test(arguments: [ReplicationOperation.split, .failover, .reverseRoles])
    func operationEndsAfterItsRecordIsInBothBlocksAndWritesWaitForThat(operation: ReplicationOperation) {
        let harness = inSync()
        harness.writesRecords = false
        harness.ask(operation)
        harness.completeAll()
        _ = harness.request(.write, 1)
        let first = harness.records.last?.record
        #expect(harness.operations.isEmpty && harness.ended.isEmpty)
        writeRecord(harness)
        let second = harness.records.last?.record
        #expect(harness.operations.isEmpty && harness.ended.isEmpty)
        #expect(first?.areaOffset != second?.areaOffset)
        #expect(first?.copyState == second?.copyState && first?.isSecondPrimary == second?.isSecondPrimary)
        writeRecord(harness)
        #expect(harness.operations.first?.kind == .write)
        #expect(harness.ended.count == 1 && harness.ended[0].failure == nil)
    }

    @Test func writesAreRefusedWhenACriticalRecordCannotBeWritten() {
        let harness = inSync()
        harness.writesRecords = false
        harness.ask(.failover)
        harness.completeAll()
        _ = harness.request(.write, 1)
        for _ in 0..<3 { writeRecord(harness, .inputOutput) }
        #expect(harness.operations.isEmpty)
        #expect(harness.answers.count == 1 && harness.answers[0].failure == .inputOutput)
        #expect(harness.ended.count == 1 && harness.ended[0].failure == .recordFailed(.inputOutput))
    }

    /// Found by the search: the retry went into the other block, so that one block kept the old primary.
    @Test func recordThatFailedIsWrittenAgainIntoTheSameBlock() {
        let harness = inSync()
        harness.writesRecords = false
        harness.ask(.fracture)
        writeRecord(harness)
        let failing = harness.records.last?.record.areaOffset
        writeRecord(harness, .inputOutput)
        #expect(harness.records.last?.record.areaOffset == failing)
        writeRecord(harness)
        #expect(harness.ended.count == 1)
    }

    @Test(arguments: [ReplicationOperation.split, .reverseRoles])
    func drainThatTakesTooLongFailsTheOperationAndChangesNothing(operation: ReplicationOperation) {
        let harness = inSync()
        _ = harness.request(.read, 1)
        harness.ask(operation)
        _ = harness.request(.read, 2, at: 8192)
        passLimit(harness)
        #expect(harness.state == .synchronized && harness.swapped.isEmpty)
        #expect(harness.ended.count == 1 && harness.ended[0].failure == .drainTimedOut)
        harness.completeAll()
        #expect(harness.answers.map(\.request) == [1, 2])
    }

    @Test func failoverLeavesAHungSourceBehindAndFailbackWaitsForIt() {
        let harness = inSync()
        _ = harness.request(.read, 1)
        _ = harness.request(.write, 2, at: 8192)
        harness.complete(leg: 1)
        harness.ask(.failover)
        passLimit(harness)
        harness.complete(leg: 1)
        #expect(harness.state == .failedover && harness.swapped == [0])
        let read = harness.answers.first { $0.request == 1 }
        let write = harness.answers.first { $0.request == 2 }
        #expect(read?.failure == .timedOut)
        // The target has it, and serves.
        #expect(write != nil && write?.failure == nil)
        harness.ask(.failback)
        #expect(harness.progress == .pending)
        harness.complete(leg: 1)
        #expect(harness.progress == .pending)
        harness.complete(leg: 1)
        #expect(harness.progress == .failingBack)
        harness.completeAll()
        #expect(harness.state == .synchronized && harness.swapped == [0, 0])
    }

    /// Found by the search: the lock was let go, and the late write undid a newer one that had been acknowledged.
    @Test func writeBehindAStuckOneWaitsWhenTheFailoverFailsToo() {
        let harness = inSync()
        _ = harness.request(.write, 1)
        harness.complete(leg: 1)
        harness.ask(.failover)
        passLimit(harness)
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.state != .failedover && harness.swapped.isEmpty)
        // Nothing was changed: the host waits for its source as before.
        #expect(harness.answers.isEmpty)
        _ = harness.request(.write, 2)
        #expect(harness.operations.filter { $0.buffer == BufferID(rawValue: 2) }.isEmpty)
        harness.complete(leg: 0)
        #expect(harness.answers.map(\.request) == [1] && harness.answers[0].failure == nil)
        #expect(harness.operations.contains { $0.buffer == BufferID(rawValue: 2) && $0.leg == 0 })
    }

    @Test func writesThatWaitForAStuckOneDoNotHoldUpAFailover() {
        let harness = inSync()
        for number in 1...3 { _ = harness.request(.write, UInt32(number)) }
        harness.complete(leg: 1)
        harness.ask(.failover)
        passLimit(harness)
        harness.complete(leg: 1)
        #expect(harness.state == .failedover)
        harness.complete(leg: 0)
        harness.complete(leg: 0)
        #expect(harness.answers.map(\.failure) == [nil, nil, nil])
    }

    /// Found by the search: an element tells of lost writes once, and it was the machine that had asked.
    @Test func nextFlushOfAHostFailsWhenTheGatesFlushOfTheSourceDid() {
        let harness = inSync()
        _ = harness.request(.write, 1)
        harness.completeAll()
        harness.ask(.split)
        harness.complete(leg: 0, .inputOutput)
        harness.complete(leg: 1)
        #expect(harness.ended.count == 1 && harness.ended[0].failure == .flushFailed(.inputOutput))
        harness.completeAll()
        for number in [UInt32(2), 3] {
            _ = harness.request(.flush, number)
            harness.completeAll()
        }
        let flushes = harness.answers.filter { $0.request > 1 }
        #expect(flushes.map(\.failure) == [.inputOutput, nil])
    }

    @Test func targetThatBreaksWhileASplitDrainsBreaksThePair() {
        let harness = inSync()
        _ = harness.request(.write, 1)
        harness.ask(.split)
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.state == .broken && harness.dirtyByteCount == 4096)
        #expect(harness.ended.count == 1 && harness.ended[0].failure == .pairBroken)
        harness.completeAll()
        #expect(harness.answers.map(\.failure) == [nil])
        #expect(harness.isIdle)
    }

    @Test func splitWaitsForSynchronizedAndSuspendTakesItsPlace() {
        let harness = MachineHarness()
        _ = harness.addNewPair(Self.settings)
        harness.ask(.activate)
        harness.ask(.split)
        #expect(harness.state == .unsynchronized && harness.progress == .splitting)
        #expect(harness.ended.count == 1 && harness.ended[0].failure == .superseded(by: .split))
        harness.ask(.suspend)
        #expect(harness.ended.count == 3 && harness.ended[1].failure == .superseded(by: .suspend))
        harness.completeAll()
        harness.ask(.resume)
        harness.ask(.split)
        harness.completeAll()
        #expect(harness.state == .split && harness.ended.last?.failure == nil)
    }

    @Test func closingWhileTheGateIsClosedCancelsAndAnswersEverybody() {
        let harness = inSync()
        _ = harness.request(.write, 1)
        harness.ask(.failover)
        _ = harness.request(.read, 2)
        harness.machine.close()
        harness.settle()
        harness.completeAll()
        #expect(harness.isClosed && harness.swapped.isEmpty)
        #expect(harness.ended.count == 1 && harness.ended[0].failure == .cancelled)
        #expect(harness.answers.map(\.request).sorted() == [1, 2])
        #expect(harness.records.last?.record.isClosedCleanly == true)
    }

    @Test(arguments: [ReplicationOperation.split, .failover, .reverseRoles])
    func drainingOperationCanBeCancelled(operation: ReplicationOperation) {
        let harness = inSync()
        _ = harness.request(.write, 1)
        harness.ask(operation)
        let isCancelled = harness.machine.cancelOperation(0)
        harness.settle()
        #expect(isCancelled)
        #expect(harness.ended.count == 1 && harness.ended[0].failure == .cancelled)
        harness.completeAll()
        #expect(harness.state == .synchronized && harness.swapped.isEmpty && harness.isIdle)
    }
}
