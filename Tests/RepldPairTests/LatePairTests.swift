import RepldCore
import RepldFormat
import RepldPair
import Testing

/// A pair that comes late never takes an old record for the truth.
@Suite struct LatePairTests {
    private let cleanRecord = PairRecord(
        sequence: 7,
        pair: PairID(high: 1, low: 1),
        volumeByteCount: MachineHarness.volumeByteCount,
        copyState: CopyState.synchronized.rawValue,
        isClosedCleanly: true
    )

    @Test func pairThatComesAfterAHostWroteIsNotInSync() {
        let harness = MachineHarness()
        _ = harness.request(.write, 1)
        harness.completeAll()
        _ = harness.machine.addPair(cleanRecord, .unknown(because: nil), isNew: false, settings: PairSettings())
        harness.settle()
        #expect(harness.state == .unsynchronized)
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
    }
}
