import RepldCore
import RepldFormat
import RepldPair
import Testing

/// What the simulator found in the operations, each as short as it can be told to the machine.
@Suite struct SimulatorFindingTests {
    @Test func gateReleasesInTheOrderOfAsking() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        // The first slot is given back while the gate is closed, and the last request takes it.
        #expect(harness.request(.read, 1, at: 65536))
        #expect(harness.request(.read, 2, at: 65536))
        harness.ask(.split)
        #expect(harness.request(.write, 3))
        harness.complete(leg: 0)
        #expect(harness.request(.write, 4))
        harness.completeAll()
        #expect(harness.state == .split)
        #expect(harness.answers.map(\.request) == [1, 2, 3, 4])
    }

    @Test func cleanStopFlushesTargetWithHostsOfItsOwn() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.ask(.fracture)
        #expect(harness.request(.write, 1, side: 1))
        harness.completeAll()
        harness.machine.close()
        harness.settle()
        #expect(harness.operations.filter { $0.kind == .flush }.map(\.leg) == [0, 1])
        harness.completeAll()
        #expect(harness.isClosed)
    }

    @Test func halfCopiedTargetIsRecordedInBothBlocksBeforeItIsWritten() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.ask(.suspend)
        #expect(harness.request(.write, 1))
        harness.completeAll()
        harness.writesRecords = false
        harness.records = []
        harness.ask(.resume)
        #expect(harness.records.map(\.record.isTargetConsistent) == [false])
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.operations.isEmpty)
        #expect(harness.records.map(\.record.isTargetConsistent) == [false, false])
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.legs == [0])
    }

    @Test func endOfSynchronizedIsRecordedInBothBlocks() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.records = []
        harness.ask(.suspend)
        let suspended = CopyState.suspended.rawValue
        #expect(harness.records.map(\.record.copyState) == [suspended, suspended])
        #expect(Set(harness.records.map(\.record.areaOffset)).count == 2)
    }

    @Test func primaryIsNotMovedByTwoPairsAtOnce() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        let other = harness.addNewPair()
        harness.ask(.suspend)
        harness.ask(.failover)
        // The gate has not been passed yet, and nothing flows.
        #expect(harness.machine.facts(of: other).doesOtherPairFlow)
        harness.completeAll()
        harness.ask(.reverseRoles)
        harness.ask(.failover, isForced: true)
        harness.completeAll()
        #expect(harness.state == .failedover)
        #expect(harness.machine.withPair(0) { $0.isSecondPrimary } == false)
        #expect(harness.machine.facts(of: other).doesOtherPairFlow)
    }

    @Test func writeBehindHangingSourceGoesToTheNewPrimary() {
        let harness = MachineHarness()
        let settings = PairSettings(granuleByteCount: 4096, targetTimeoutNanoseconds: 2_000_000_000)
        _ = harness.addSynchronizedPair(settings)
        #expect(harness.request(.write, 1))
        #expect(harness.request(.write, 2))
        harness.ask(.failover)
        while harness.complete(leg: 1) != nil {}
        harness.machine.advance(to: Instant(nanoseconds: 3_000_000_000))
        harness.machine.tick()
        harness.settle()
        // The second write waited for the lock of the first, and nothing new is asked of the source.
        #expect(harness.operations.filter { $0.leg == 0 && $0.kind == .write }.count == 1)
        harness.complete(leg: 1)
        #expect(harness.state == .failedover)
        #expect(harness.swapped == [0])
        let writes = harness.operations.filter { $0.kind == .write }
        #expect(writes.filter { $0.leg == 0 }.map(\.buffer) == [BufferID(rawValue: 2)], "the second goes to the target")
        #expect(
            writes.filter { $0.leg == 1 }.map(\.buffer) == [BufferID(rawValue: 1)],
            "the first is stuck on the source"
        )
    }

    @Test func restoreThatIsAbortedBeforeItBeganDoesNotBegin() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.ask(.suspend)
        harness.ask(.restoreFromReplica)
        harness.ask(.abort, isForced: true)
        harness.completeAll()
        #expect(harness.state == .aborted)
        #expect(harness.swapped.isEmpty)
        #expect(harness.ended.map(\.operation) == [.suspend, .restoreFromReplica, .abort])
    }

    @Test func failbackThatWasRecordedBeforeItBeganMakesTheSourceInconsistent() {
        let harness = MachineHarness()
        var record = PairRecord(
            sequence: 9,
            pair: PairID(high: 1, low: 1),
            volumeByteCount: MachineHarness.volumeByteCount,
            copyState: CopyState.failedover.rawValue,
            isClosedCleanly: false
        )
        record.isSecondPrimary = true
        record.isTargetConsistent = true
        record.operation = ReplicationOperation.failback.rawValue
        _ = harness.machine.addPair(
            record,
            .unknown(because: nil),
            isNew: false,
            settings: PairSettings(granuleByteCount: 4096)
        )
        harness.settle()
        #expect(harness.machine.facts(of: 0).isSourceInconsistent)
    }
}
