import RepldCore
import RepldFormat
import RepldPair
import Testing

/// A pair whose target is not there, or that comes late, never takes an old record for the truth.
@Suite struct MissingTargetTests {
    private let cleanRecord = PairRecord(
        sequence: 7,
        pair: PairID(high: 1, low: 1),
        volumeByteCount: MachineHarness.volumeByteCount,
        copyState: CopyState.synchronized.rawValue,
        isClosedCleanly: true
    )

    /// Otherwise the next start, with the target back, would believe "Synchronized, closed cleanly".
    @Test func pairWithoutItsTargetIsRecordedAsBrokenBeforeAWrite() {
        let harness = MachineHarness()
        harness.writesRecords = false
        _ = harness.machine.addPair(cleanRecord, isNew: false, settings: PairSettings(), hasTarget: false)
        harness.settle()
        #expect(harness.state == .broken)
        #expect(harness.records.last?.record.copyState == CopyState.broken.rawValue)
        #expect(harness.records.last?.record.isClosedCleanly == false)
        _ = harness.request(.write, 1)
        #expect(harness.operations.isEmpty)
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        #expect(harness.legs == [0])
    }

    @Test func pairStartsOnlyWithItsTarget() {
        let harness = MachineHarness()
        _ = harness.machine.addPair(cleanRecord, isNew: false, settings: PairSettings(), hasTarget: false)
        harness.settle()
        #expect(harness.machine.startPair(0) == false)
        harness.machine.targetProvided(0)
        #expect(harness.machine.startPair(0) == true)
        harness.settle()
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test func pairThatComesAfterAHostWroteIsNotInSync() {
        let harness = MachineHarness()
        _ = harness.request(.write, 1)
        harness.completeAll()
        _ = harness.machine.addPair(cleanRecord, isNew: false, settings: PairSettings())
        harness.settle()
        #expect(harness.state == .unsynchronized)
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
    }
}
