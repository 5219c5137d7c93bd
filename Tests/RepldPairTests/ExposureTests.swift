import RepldCore
import RepldFormat
import RepldPair
import Testing

/// How old what the other element lacks is: known from the last moment in which the pair was in step.
@Suite("The exposure of a pair") struct ExposureTests {
    private func exposure(_ harness: MachineHarness, at seconds: UInt64) -> UInt64? {
        let now = second(seconds)
        harness.machine.advance(to: now)
        let found = harness.machine.withPair(0) { $0.exposureNanoseconds(at: now) } ?? nil
        return found.map { $0 / 1_000_000_000 }
    }

    private func second(_ number: UInt64) -> Instant { Instant(nanoseconds: number * 1_000_000_000) }

    /// A pair between two hosts that was in sync, taken in at second 10, and reached at second 12 where that is wanted.
    private func remote(isReached: Bool = true, isClosedCleanly: Bool = true) -> MachineHarness {
        let harness = MachineHarness()
        harness.machine.advance(to: second(10))
        harness.addRemotePair(MachineHarness.record(isClosedCleanly: isClosedCleanly))
        guard isReached else { return harness }
        harness.machine.advance(to: second(12))
        harness.restoreLink()
        #expect(harness.state == .synchronized)
        return harness
    }

    private func asynchronous(since seconds: UInt64) -> MachineHarness {
        let harness = remote()
        harness.machine.setAsynchronous(pair: 0, true)
        harness.machine.setBacklog(pair: 0, since: second(seconds))
        return harness
    }

    @Test("is nothing while both have everything, and begins when the pair stops")
    func beginsWhenThePairStops() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        #expect(exposure(harness, at: 100) == 0)
        harness.ask(.suspend)
        #expect(harness.request(.write, 1))
        harness.completeAll()
        #expect(exposure(harness, at: 103) == 3)
        harness.ask(.resume)
        #expect(harness.state == .unsynchronized)
        #expect(exposure(harness, at: 105) == 5, "a copy that catches up has not done so yet")
        harness.completeAll()
        #expect(harness.state == .synchronized && exposure(harness, at: 107) == 0)
    }

    @Test("of a pair that breaks again while it catches up begins where it was in step")
    func breaksAgain() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.machine.advance(to: second(20))
        #expect(harness.request(.write, 1))
        harness.complete(leg: 1, .inputOutput)
        harness.completeAll()
        #expect(harness.state == .broken && exposure(harness, at: 24) == 4)
        harness.ask(.resyncReplica)
        harness.complete(leg: 0)
        harness.complete(leg: 1, .inputOutput)
        harness.completeAll()
        #expect(harness.state == .broken && exposure(harness, at: 30) == 10)
    }

    @Test("is not known of a pair that has not been in step yet")
    func unknownUntilInStep() {
        let new = MachineHarness()
        _ = new.addNewPair()
        #expect(exposure(new, at: 5) == nil)
        new.ask(.activate)
        #expect(new.state == .unsynchronized && exposure(new, at: 6) == nil)
        new.completeAll()
        #expect(new.state == .synchronized && exposure(new, at: 7) == 0)
        let crashed = remote(isReached: false, isClosedCleanly: false)
        #expect(crashed.state == .partitioned && exposure(crashed, at: 50) == nil)
    }

    @Test("of a pair that was closed in step begins with the start, until its peer is reached")
    func beginsWithTheStart() {
        let harness = remote(isReached: false)
        #expect(harness.state == .partitioned && exposure(harness, at: 13) == 3)
        #expect(exposure(remote(), at: 13) == 0)
    }

    @Test("while writes are on their way is the age of the oldest, also when the pair stops then")
    func oldestOnItsWay() {
        let skewed = asynchronous(since: 20)
        #expect(exposure(skewed, at: 22) == 2)
        skewed.machine.setBacklog(pair: 0, since: second(21))
        #expect(exposure(skewed, at: 22) == 1)
        skewed.machine.backlogTooLong(pair: 0)
        skewed.settle()
        #expect(skewed.state == .skewed && exposure(skewed, at: 23) == 2)
        skewed.machine.setBacklog(pair: 0, since: nil)
        skewed.settle()
        skewed.completeAll()
        #expect(skewed.state == .synchronized && exposure(skewed, at: 24) == 0)

        let lost = asynchronous(since: 20)
        _ = exposure(lost, at: 30)
        lost.machine.linkLost(pair: 0)
        lost.machine.setBacklog(pair: 0, since: nil)
        lost.settle()
        #expect(lost.state == .partitioned && exposure(lost, at: 31) == 11)
    }

    @Test("is not known any more when the peer does not know what it was told")
    func forgottenByThePeer() {
        let harness = remote()
        harness.machine.linkLost(pair: 0)
        harness.settle()
        #expect(exposure(harness, at: 13) == 1)
        harness.machine.forgetTarget(pair: 0, because: MachineHarness.anyConflict)
        harness.settle()
        #expect(harness.state == .invalid && exposure(harness, at: 14) == nil)
    }

    @Test("is not known of what a verify has found: nobody can say since when it is so")
    func foundByAVerify() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.differences = [Extent(offset: 4096, length: 4096)]
        #expect(harness.machine.beginVerify(0, nil) == nil)
        harness.settle()
        while let operation = harness.operations.first {
            let isSame = !harness.differences.contains { $0.overlaps(operation.extent) }
            harness.complete(leg: operation.leg, isMatch: operation.kind == .readAndCompare && isSame)
        }
        #expect(harness.state == .synchronized && exposure(harness, at: 9) == nil)
        harness.ask(.resyncReplica)
        #expect(harness.state == .unsynchronized && exposure(harness, at: 10) == nil)
        harness.completeAll()
        #expect(harness.state == .synchronized && exposure(harness, at: 11) == 0)
    }

    @Test("of a volume that was restored begins with the end of the restore")
    func restored() {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair()
        harness.ask(.suspend)
        #expect(harness.request(.write, 1))
        harness.completeAll()
        #expect(exposure(harness, at: 40) == 40)
        harness.ask(.restoreFromReplica, isForced: true)
        harness.completeAll()
        #expect(harness.state == .restored && exposure(harness, at: 42) == 2)
    }
}
