import RepldCore
import RepldPair
import Testing

/// A read that the source fails is served by a target that surely has the data, and rewritten on the source.
@Suite struct RedirectedReadTests {
    @Test func failingSourceReadIsServedByTheTargetAndRepaired() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.read, 1, at: 4096)
        #expect(harness.legs == [0])
        harness.complete(leg: 0, .inputOutput)
        #expect(harness.operations.map(\.kind) == [.read] && harness.legs == [1])
        harness.complete(leg: 1)
        #expect(harness.operations.map(\.kind) == [.write] && harness.legs == [0])
        #expect(harness.answers.isEmpty)
        harness.complete(leg: 0)
        #expect(harness.answers.count == 1 && harness.answers[0].failure == nil)
        #expect(harness.readsServedByTarget == 1)
        // The buffer of a successful read is the front end's.
        #expect(harness.recycled.isEmpty)
    }

    @Test func unrepairableSourceStillServesTheRead() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.read, 1)
        harness.complete(leg: 0, .inputOutput)
        harness.complete(leg: 1)
        harness.complete(leg: 0, .inputOutput)
        #expect(harness.answers.count == 1 && harness.answers[0].failure == nil)
    }

    /// Hosts were answered for a write that the target then failed: what it holds is older.
    @Test func whatAnAsynchronousTargetHasFailedMeanwhileIsNotServed() {
        let harness = MachineHarness()
        harness.addRemotePair()
        harness.restoreLink()
        harness.machine.setAsynchronous(pair: 0, true)
        harness.machine.setBacklog(pair: 0, since: Instant(nanoseconds: 0))
        _ = harness.request(.read, 1, at: 4096)
        harness.complete(leg: 0, .inputOutput)
        #expect(harness.operations.map(\.kind) == [.read] && harness.legs == [1])
        harness.machine.backlogFailed(pair: 0, Extent(offset: 4096, length: 4096), .inputOutput)
        harness.settle()
        #expect(harness.state == .broken)
        harness.complete(leg: 1)
        #expect(harness.operations.isEmpty, "the source is not overwritten with what is older")
        #expect(harness.answers.count == 1 && harness.answers[0].failure == .inputOutput)
        #expect(harness.readsServedByTarget == 0)
    }

    @Test func dirtyRangeIsNeverServedByTheTarget() {
        let harness = MachineHarness()
        _ = harness.addNewPair()
        harness.start(0)
        harness.settle()
        _ = harness.request(.read, 1, at: 0)
        guard let read = harness.operations.first(where: { $0.kind == .read }) else {
            Issue.record("the read was issued")
            return
        }
        harness.operations.removeAll { $0.kind == .read }
        harness.machine.completed(read.slot, leg: 0, OperationOutcome(failure: .inputOutput))
        harness.settle()
        #expect(harness.answers.count == 1 && harness.answers[0].failure == .inputOutput)
        #expect(harness.recycled == [BufferID(rawValue: 1)])
    }

    @Test func redirectedReadWaitsForAWriteThatIsHalfApplied() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        _ = harness.request(.write, 1)
        _ = harness.request(.read, 2)
        guard let read = harness.operations.first(where: { $0.kind == .read }) else {
            Issue.record("the read was issued")
            return
        }
        harness.operations.removeAll { $0.kind == .read }
        harness.machine.completed(read.slot, leg: 0, OperationOutcome(failure: .inputOutput))
        harness.settle()
        #expect(!harness.operations.contains { $0.kind == .read })
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.operations.map(\.kind) == [.read] && harness.legs == [1])
    }

    @Test func withoutATargetTheFailureIsTheHosts() {
        let harness = MachineHarness()
        _ = harness.request(.read, 1)
        harness.complete(leg: 0, .gone)
        #expect(harness.answers.count == 1 && harness.answers[0].failure == .gone)
        #expect(harness.recycled == [BufferID(rawValue: 1)])
    }
}
