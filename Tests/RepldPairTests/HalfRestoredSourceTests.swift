import RepldCore
import RepldFormat
import RepldPair
import Testing

/// A volume with two replicas on hosts of their own, whose restore from one of them is given up in the middle.
@Suite("A half restored source, and another replica") struct HalfRestoredSourceTests {
    private let other = 1

    private func state(_ harness: MachineHarness) -> CopyState? { harness.machine.withPair(other) { $0.copyState } }

    private func reachOther(_ harness: MachineHarness) {
        harness.machine.linkRestored(pair: other)
        harness.settle()
        harness.completeAll()
    }

    /// Both pairs in sync; then the other's link is lost, hosts write, and the restore from the first begins.
    private func restoring() -> MachineHarness {
        let tests = LinkRestoreTests()
        let harness = tests.synchronized()
        var record = MachineHarness.record()
        record.pair = PairID(high: 2, low: 2)
        harness.addRemotePair(record, .unknown(because: nil), LinkRestoreTests.settings)
        reachOther(harness)
        #expect(state(harness) == .synchronized)
        harness.machine.linkLost(pair: other)
        harness.settle()
        harness.ask(.suspend)
        for (number, granule) in LinkRestoreTests.changed.enumerated() {
            tests.ask(harness, .write, UInt32(number), granule: granule)
        }
        harness.completeAll()
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.facts.isRestoringOverLink)
        return harness
    }

    @Test("given up, it is copied to no other replica by itself, whenever that is reached", arguments: [true, false])
    func copiedByForceAlone(isReachedBefore: Bool) {
        let harness = restoring()
        if isReachedBefore {
            harness.machine.linkRestored(pair: other)
            harness.settle()
        }
        #expect(harness.ask(.abort, isForced: true) == .accepted(to: .aborted))
        harness.completeAll()
        if !isReachedBefore { reachOther(harness) }
        #expect(state(harness) == .suspended && harness.machine.facts(of: other).isTargetConsistent)
        guard case .needsForce(.sourceInconsistent) = harness.ask(.resume, other) else {
            Issue.record("the other replica gets it without force")
            return
        }
        #expect(harness.ask(.resume, other, isForced: true) == .accepted(to: .synchronized))
        harness.completeAll()
        #expect(state(harness) == .synchronized)
    }

    @Test("what was accepted by force goes on when a lost link is back")
    func forceOutlivesTheLink() {
        let harness = restoring()
        harness.ask(.abort, isForced: true)
        harness.completeAll()
        reachOther(harness)
        #expect(harness.ask(.resume, other, isForced: true) == .accepted(to: .synchronized))
        harness.completeAll()
        harness.machine.linkLost(pair: other)
        harness.settle()
        reachOther(harness)
        #expect(state(harness) == .synchronized)
    }

    @Test("restored as a whole, it goes to a replica that has waited, by itself")
    func copiedWhenWhole() {
        let harness = restoring()
        harness.machine.linkRestored(pair: other)
        harness.settle()
        harness.completeAll()
        #expect(harness.state == .restored && state(harness) == .synchronized)
    }

    @Test("restored from the other replica as a whole, it is half restored for nobody")
    func wholeForBoth() {
        let harness = restoring()
        harness.ask(.abort, isForced: true)
        harness.completeAll()
        reachOther(harness)
        #expect(harness.ask(.restoreFromReplica, other) == .accepted(to: .restored))
        harness.completeAll()
        #expect(state(harness) == .restored)
        #expect(!harness.facts.isSourceInconsistent && !harness.machine.facts(of: other).isSourceInconsistent)
        let first = harness.records.last { $0.pair == 0 }
        #expect(first?.record.isSourceInconsistent == false)
    }
}
