import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Pairs that move to the daemon of their other element.
@Suite("A pair that moves to the other daemon") struct HandoverTests {
    private static let settings = PairSettings(granuleByteCount: 4096, copyChunkByteCount: 65536)

    private func harness(
        _ record: PairRecord,
        _ maps: RecoveredMaps,
        isTakenOver: Bool = false
    ) -> MachineHarness {
        let harness = MachineHarness()
        _ = harness.machine.addPair(record, maps, isNew: false, settings: Self.settings, isRemote: true)
        if isTakenOver { harness.machine.awaitMeeting(0) }
        harness.settle()
        return harness
    }

    /// A pair in sync at its source.
    private func synchronized() -> MachineHarness {
        let harness = harness(MachineHarness.record(.synchronized, isClosedCleanly: true), .unknown(because: nil))
        harness.restoreLink()
        #expect(harness.state == .synchronized)
        return harness
    }

    /// A pair as the daemon of its second element has it after a failover.
    private func failedOver(_ maps: RecoveredMaps) -> MachineHarness {
        var record = MachineHarness.record(.failedover, isClosedCleanly: maps.trust != .none)
        record.isSecondPrimary = true
        record.isTargetConsistent = true
        record.mapTrust = maps.trust
        record.term = 1
        let harness = harness(record, maps, isTakenOver: true)
        #expect(harness.state == .failedover)
        return harness
    }

    // MARK: - At the source

    @Test("a settled pair is drained, flushed on both sides and recorded, and flows on")
    func settling() {
        let harness = synchronized()
        harness.machine.setWithheld(true)
        #expect(!harness.hasRoom, "hosts find no room")
        harness.performed = []
        harness.records = []
        #expect(harness.settlePair())
        harness.settle()
        #expect(harness.settled.isEmpty, "the flush is on its way")
        harness.completeAll()
        #expect(harness.settled == [nil])
        let flushes = harness.performed.filter { $0.kind == .flush }.map(\.leg).sorted()
        #expect(flushes == [0, 1])
        #expect(!harness.records.isEmpty && harness.state == .synchronized)
        harness.machine.setWithheld(false)
        harness.settle()
        #expect(harness.request(.write, 1, at: 4096))
        harness.completeAll()
        #expect(harness.answers.last?.failure == nil && harness.state == .synchronized)
    }

    @Test("a pair is not settled before its record is durable")
    func settledWithItsRecord() {
        let harness = synchronized()
        harness.machine.setWithheld(true)
        harness.writesRecords = false
        #expect(harness.settlePair())
        harness.settle()
        harness.completeAll()
        #expect(harness.settled.isEmpty)
        for _ in 0..<2 {
            harness.machine.recordWritten(pair: 0, nil)
            harness.settle()
        }
        #expect(harness.settled == [nil])
    }

    @Test("a link that is lost ends the settling, and hosts were told nothing that the peer lacks")
    func linkLostWhileSettling() {
        let harness = synchronized()
        harness.machine.setWithheld(true)
        #expect(harness.settlePair())
        harness.settle()
        harness.loseLink()
        harness.completeAll()
        #expect(harness.settled == [.pairBroken] && harness.state == .partitioned)
        #expect(!harness.facts.isSourceAhead)
        harness.machine.setWithheld(false)
        harness.settle()
        #expect(harness.facts.isSourceAhead, "hosts may write from now on")
    }

    @Test("a failed flush ends the settling, and nothing has changed")
    func flushFails() {
        let harness = synchronized()
        harness.machine.setWithheld(true)
        #expect(harness.settlePair())
        harness.settle()
        while harness.complete(leg: 0, .inputOutput) != nil {}
        harness.completeAll()
        #expect(harness.settled == [.flushFailed(.inputOutput)] && harness.state == .synchronized)
    }

    @Test("what differs, or does not flow, is not settled; and what settles takes no operation")
    func notSettled() {
        let harness = synchronized()
        harness.loseLink()
        harness.machine.setWithheld(true)
        #expect(!harness.settlePair())
        harness.settle()
        harness.restoreLink()
        #expect(harness.settlePair())
        #expect(!harness.settlePair(), "it is being settled already")
        harness.settle()
        #expect(harness.ask(.suspend) == .refused(.underWay(.suspend)))
        harness.completeAll()
        #expect(harness.settled == [nil])
    }

    @Test("the machine leaves it to the control planes to move hosts to a peer")
    func hostsAreNotMovedByTheMachine() {
        let harness = synchronized()
        for operation in [ReplicationOperation.failover, .reverseRoles] {
            #expect(harness.ask(operation) == .refused(.notSupported(.notYet)))
        }
    }

    // MARK: - At the new primary

    @Test("equal elements stay equal over a move, and only what hosts write then is copied back")
    func equalMove() {
        let harness = failedOver(.nothingDiffers)
        #expect(harness.dirtyByteCount == 0)
        #expect(harness.request(.write, 1, at: 8192))
        harness.completeAll()
        #expect(harness.answers.map(\.request) == [1] && harness.answers[0].failure == nil)
        #expect(harness.performed.allSatisfy { $0.leg == 0 }, "the peer is not reached yet")
        harness.restoreLink()
        #expect(harness.state == .failedover)
        harness.performed = []
        #expect(harness.ask(.failback) == .accepted(to: .synchronized))
        harness.completeAll()
        let written = harness.performed.filter { $0.leg == 1 && $0.kind == .write }.map(\.extent)
        #expect(written == [Extent(offset: 8192, length: 4096)])
        #expect(harness.state == .failedover && harness.swapped.isEmpty, "the pair has to move for the rest")
        #expect(caughtUpCount(harness) == 1)
    }

    @Test("a failback goes on mirroring after it has caught up, and can be settled")
    func failbackMirrors() {
        let harness = failedOver(.nothingDiffers)
        harness.restoreLink()
        #expect(harness.ask(.failback) == .accepted(to: .synchronized))
        harness.completeAll()
        #expect(caughtUpCount(harness) == 1)
        harness.performed = []
        #expect(harness.request(.write, 2, at: 0))
        harness.completeAll()
        #expect(harness.performed.filter { $0.kind == .write }.map(\.leg).sorted() == [0, 1])
        harness.machine.setWithheld(true)
        #expect(harness.settlePair())
        harness.settle()
        harness.completeAll()
        #expect(harness.settled == [nil])
    }

    @Test("a failback that a lost link interrupts goes on by itself, and says again when it has caught up")
    func failbackInterrupted() {
        let harness = failedOver(.nothingDiffers)
        harness.restoreLink()
        #expect(harness.ask(.failback) == .accepted(to: .synchronized))
        harness.completeAll()
        harness.loseLink()
        #expect(harness.state == .failedover && harness.ended.isEmpty)
        #expect(harness.request(.write, 1, at: 4096))
        harness.completeAll()
        harness.restoreLink()
        harness.completeAll()
        #expect(caughtUpCount(harness) == 2 && harness.dirtyByteCount == 0)
    }

    @Test("after a takeover nothing is known of the peer until it is met; then only what either wrote is looked at")
    func meeting() {
        let harness = failedOver(.unknown(because: nil))
        #expect(harness.facts.changedByteCount == MachineHarness.volumeByteCount)
        #expect(harness.request(.write, 1, at: 65536))
        harness.completeAll()
        harness.machine.meet(0, [Extent(offset: 0, length: 4096)], isAhead: true, isFirst: true)
        harness.settle()
        #expect(harness.facts.changedByteCount == 4096 && harness.facts.targetChangedByteCount == 4096)
        harness.restoreLink()
        #expect(harness.ask(.failback) == .needsForce(.sourceChangesLost(byteCount: 4096)))
        harness.performed = []
        #expect(harness.ask(.failback, isForced: true) == .accepted(to: .synchronized))
        harness.completeAll()
        let read = harness.performed.filter { $0.leg == 0 && $0.kind == .readAndCheckZero }.map(\.extent.offset)
        #expect(Set(read) == [0, 65536])
    }

    @Test("a peer that is met once more only adds")
    func metTwice() {
        let harness = failedOver(.unknown(because: nil))
        harness.machine.meet(0, [Extent(offset: 0, length: 4096)], isAhead: false, isFirst: true)
        harness.machine.meet(0, [Extent(offset: 8192, length: 4096)], isAhead: false, isFirst: false)
        harness.settle()
        #expect(harness.facts.changedByteCount == 8192)
        #expect(!harness.facts.isSourceAhead)
    }

    @Test("a peer that is met after a start takes nothing back that may have been written here before it")
    func metAfterStart() {
        var record = MachineHarness.record(.failedover, isClosedCleanly: false)
        record.isSecondPrimary = true
        record.isTargetConsistent = true
        record.mapTrust = .none
        record.term = 1
        let harness = harness(record, .unknown(because: nil))
        harness.machine.meet(0, [Extent(offset: 0, length: 4096)], isAhead: true, isFirst: true)
        harness.settle()
        #expect(harness.facts.changedByteCount == MachineHarness.volumeByteCount)
    }

    @Test("a peer whose history does not fit leaves hosts where they are, and nothing is copied back without force")
    func conflictAfterTakeover() {
        let harness = failedOver(.nothingDiffers)
        harness.machine.forgetTarget(pair: 0, because: MachineHarness.anyConflict)
        harness.settle()
        #expect(harness.state == .failedover && harness.facts.isSourceAhead)
        #expect(harness.facts.differingByteCount == MachineHarness.volumeByteCount)
        harness.restoreLink()
        guard case .needsForce = harness.ask(.failback) else {
            Issue.record("Failback needs no force")
            return
        }
    }

    @Test("roles that are reversed before the peer is met have everything compared")
    func reversedBeforeMeeting() {
        let harness = failedOver(.unknown(because: nil))
        #expect(harness.ask(.reverseRoles, isForced: true) == .accepted(to: .suspended))
        harness.settle()
        harness.machine.meet(0, [Extent(offset: 0, length: 4096)], isAhead: true, isFirst: true)
        harness.settle()
        #expect(harness.state == .suspended && harness.facts.differingByteCount == MachineHarness.volumeByteCount)
        harness.restoreLink()
        #expect(harness.ask(.resume) == .accepted(to: .synchronized))
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test("a start in the middle of a failback goes on with it when the peer is back")
    func restartInFailback() {
        var record = MachineHarness.record(.failedover, isClosedCleanly: false)
        record.isSecondPrimary = true
        record.isTargetConsistent = true
        record.operation = ReplicationOperation.failback.rawValue
        record.term = 1
        let harness = harness(record, .unknown(because: nil))
        #expect(harness.state == .failedover)
        harness.restoreLink()
        harness.completeAll()
        #expect(caughtUpCount(harness) == 1 && harness.dirtyByteCount == 0)
        #expect(harness.records.last?.record.term == 1, "the term is kept")
    }

    private func caughtUpCount(_ harness: MachineHarness) -> Int {
        harness.events.count { if case .caughtUp = $0 { true } else { false } }
    }
}
