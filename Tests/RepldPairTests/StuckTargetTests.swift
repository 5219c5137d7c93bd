import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Rule 8: a target that does not answer is given up after its time limit, and cannot do harm when it comes back.
@Suite struct StuckTargetTests {
    private static let limit: UInt64 = 2_000_000_000

    private func settings() -> PairSettings {
        PairSettings(granuleByteCount: 4096, targetTimeoutNanoseconds: Self.limit)
    }

    @Test(arguments: [(limit, false), (limit + 1, true)])
    func hostGoesOnAfterTheTimeLimit(elapsed: UInt64, isGivenUp: Bool) {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        _ = harness.request(.write, 1)
        harness.complete(leg: 0)
        harness.machine.advance(to: Instant(nanoseconds: elapsed))
        harness.machine.tick()
        harness.settle()
        #expect(harness.answers.count == (isGivenUp ? 1 : 0))
        #expect(harness.state == (isGivenUp ? .broken : .synchronized))
        // The stuck operation still has the buffer.
        #expect(harness.recycled.isEmpty)
        harness.complete(leg: 1)
        #expect(harness.recycled == [BufferID(rawValue: 1)])
        #expect(harness.answers.count == 1)
        #expect(harness.isIdle)
    }

    @Test func pairDoesNotStartBeforeTheStuckWriteIsBack() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        _ = harness.request(.write, 1)
        harness.complete(leg: 0)
        harness.machine.advance(to: Instant(nanoseconds: Self.limit + 1))
        harness.machine.tick()
        harness.settle()
        let isAccepted = harness.start(0)
        harness.settle()
        #expect(isAccepted)
        #expect(harness.state == .broken)
        #expect(harness.progress == .pending)
        harness.complete(leg: 1)
        #expect(harness.state == .unsynchronized)
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    /// Found by the simulator: a write that waited for two stuck targets was answered by neither time limit.
    @Test func twoStuckTargetsDoNotHoldTheHost() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        let second = PairRecord(
            sequence: 3,
            pair: PairID(high: 5, low: 5),
            volumeByteCount: MachineHarness.volumeByteCount,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        _ = harness.machine.addPair(second, .unknown(because: nil), isNew: false, settings: settings())
        harness.settle()
        _ = harness.request(.write, 1)
        _ = harness.request(.flush, 2)
        #expect(harness.legs == [0, 1, 2, 0, 1, 2])
        harness.complete(leg: 0)
        harness.complete(leg: 0)
        harness.machine.advance(to: Instant(nanoseconds: Self.limit + 1))
        harness.machine.tick()
        harness.settle()
        #expect(harness.answers.count == 2)
    }

    /// What a hung target keeps must not take the volume's request slots.
    @Test func fullQueueOnAHungTargetDoesNotStopTheVolume() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        for number in 0..<32 { _ = harness.request(.write, UInt32(number), at: UInt64(number) * 8192) }
        while harness.complete(leg: 0) != nil {}
        harness.machine.advance(to: Instant(nanoseconds: Self.limit + 1))
        harness.machine.tick()
        harness.settle()
        #expect(harness.answers.count == 32)
        let isTaken = harness.request(.write, 99, at: 0)
        #expect(isTaken)
        harness.complete(leg: 0)
        #expect(harness.answers.count == 33)
    }

    /// A pair that is on its way out has no records to wait for.
    @Test func detachingAHungTargetDoesNotHoldTheHost() {
        let harness = MachineHarness()
        harness.writesRecords = false
        _ = harness.addSynchronizedPair(settings())
        harness.machine.recordWritten(pair: 0, nil)
        harness.settle()
        _ = harness.request(.write, 1)
        harness.machine.detachPair(0)
        harness.settle()
        harness.complete(leg: 0, .inputOutput)
        harness.machine.advance(to: Instant(nanoseconds: Self.limit + 1))
        harness.machine.tick()
        harness.settle()
        #expect(harness.answers.count == 1)
        _ = harness.request(.write, 2, at: 65536)
        harness.complete(leg: 0)
        #expect(harness.answers.count == 2)
    }

    @Test func closingDoesNotWaitForASuspendedTargetThatHangs() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(settings())
        _ = harness.request(.write, 1)
        harness.complete(leg: 0)
        harness.ask(.suspend)
        harness.settle()
        harness.machine.close()
        harness.settle()
        harness.machine.advance(to: Instant(nanoseconds: Self.limit + 1))
        harness.machine.tick()
        harness.settle()
        harness.complete(leg: 0)
        #expect(harness.isClosed)
        #expect(harness.records.last?.record.isClosedCleanly == false)
    }

    /// A chunk of the mover that is stuck on the target must not keep its lock.
    @Test func stuckCopyLetsHostWritesPass() {
        let harness = MachineHarness()
        _ = harness.addNewPair(settings())
        harness.start(0)
        harness.settle()
        // The chunks have been read and hang on the target.
        while harness.legs.contains(0) { harness.complete(leg: 0) }
        _ = harness.request(.write, 1, at: 0)
        #expect(!harness.legs.contains(0))
        harness.machine.advance(to: Instant(nanoseconds: Self.limit + 1))
        harness.machine.tick()
        harness.settle()
        #expect(harness.legs.contains(0))
        harness.complete(leg: 0)
        #expect(harness.answers.count == 1 && harness.answers[0].failure == nil)
    }
}
