import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Pairs whose target is behind a peer.
@Suite("A target behind a link") struct LinkTests {
    private static let settings = PairSettings(granuleByteCount: 4096, copyChunkByteCount: 65536)

    /// A pair in sync, with its link up.
    private func synchronized(_ settings: PairSettings = settings) -> MachineHarness {
        let harness = MachineHarness()
        harness.addRemotePair(MachineHarness.record(), .unknown(because: nil), settings)
        #expect(harness.state == .partitioned, "its peer has not been reached")
        harness.restoreLink()
        #expect(harness.state == .synchronized)
        harness.performed = []
        return harness
    }

    @Test("hosts go on while the link is lost, and only what they wrote is copied when it is back")
    func onlyTheDifferenceIsCopied() {
        let harness = synchronized()
        harness.loseLink()
        #expect(harness.state == .partitioned && harness.reason == .linkLost)
        #expect(harness.request(.write, 1, at: 8192))
        #expect(harness.legs == [0], "nothing is sent to a target out of reach")
        harness.completeAll()
        #expect(harness.answers.map(\.request) == [1] && harness.answers[0].failure == nil)
        harness.performed = []
        harness.restoreLink()
        #expect(harness.state == .synchronized && harness.dirtyByteCount == 0)
        let copied = harness.performed.filter { $0.leg == 1 && $0.kind == .write }.map(\.extent)
        #expect(copied == [Extent(offset: 8192, length: 4096)])
    }

    @Test("a write that was in flight is answered when the source has it, and is copied again")
    func writesInFlightAreRemembered() {
        let harness = synchronized()
        #expect(harness.request(.write, 1, at: 4096))
        harness.complete(leg: 0)
        #expect(harness.answers.isEmpty)
        harness.loseLink()
        #expect(harness.answers.count == 1 && harness.answers[0].failure == nil)
        #expect(harness.state == .partitioned && harness.dirtyByteCount == 4096)
    }

    @Test("what the target acknowledged and never flushed is copied again: its host may have lost power")
    func whatIsNotFlushedIsRemembered() {
        let harness = synchronized()
        #expect(harness.request(.write, 1, at: 4096))
        harness.completeAll()
        #expect(harness.dirtyByteCount == 0)
        harness.loseLink()
        #expect(harness.dirtyByteCount == 4096)
        let flushed = synchronized()
        #expect(flushed.request(.write, 1, at: 4096))
        flushed.completeAll()
        #expect(flushed.request(.flush, 2))
        flushed.completeAll()
        flushed.loseLink()
        #expect(flushed.dirtyByteCount == 0)
    }

    @Test("a copy that is interrupted keeps its operation, and goes on where it was")
    func copiesGoOn() {
        let harness = MachineHarness()
        harness.machine.advance(to: Instant(nanoseconds: 1))
        let record = PairRecord(
            sequence: 0,
            pair: PairID(high: 2, low: 2),
            volumeByteCount: MachineHarness.volumeByteCount,
            copyState: CopyState.initialized.rawValue,
            isClosedCleanly: false
        )
        _ = harness.machine.addPair(
            record,
            .unknown(because: nil),
            isNew: true,
            settings: Self.settings,
            isRemote: true
        )
        harness.settle()
        harness.ask(.activate)
        #expect(harness.state == .initialized && harness.performed.isEmpty, "it waits for the link")
        harness.machine.linkRestored(pair: 0)
        harness.settle()
        #expect(harness.state == .unsynchronized)
        for _ in 0..<20 { harness.complete(leg: harness.operations.first?.leg ?? 0) }
        harness.loseLink()
        harness.completeAll()
        #expect(harness.state == .partitioned && harness.ended.isEmpty)
        #expect(harness.facts.operation == .activate)
        harness.restoreLink()
        #expect(harness.state == .synchronized)
        #expect(harness.ended.map(\.operation) == [.activate] && harness.ended[0].failure == nil)
    }

    @Test("operations that stop the flow are accepted out of reach, and keep it stopped")
    func suspendedStaysSuspended() {
        let harness = synchronized()
        harness.loseLink()
        #expect(harness.ask(.suspend) == .accepted(to: .suspended))
        harness.machine.linkRestored(pair: 0)
        harness.settle()
        #expect(harness.state == .suspended)
        #expect(harness.ask(.resume) == .accepted(to: .synchronized))
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test(
        "with manual recovery a pair whose peer is back waits for Resume, and an operation that was under way does not"
    )
    func manualRecovery() {
        var settings = Self.settings
        settings.recoversByItself = false
        let harness = synchronized(settings)
        harness.loseLink()
        #expect(harness.request(.write, 1, at: 8192))
        harness.completeAll()
        harness.restoreLink()
        #expect(harness.state == .suspended && harness.dirtyByteCount == 4096)
        #expect(harness.progress == .requiresResume)
        #expect(harness.ask(.resume) == .accepted(to: .synchronized))
        harness.loseLink()
        #expect(harness.state == .partitioned)
        harness.restoreLink()
        #expect(harness.state == .synchronized)
    }

    @Test("what becomes of a pair whose peer is back can be changed until that is so")
    func recoveryIsChanged() {
        let harness = synchronized()
        harness.loseLink()
        #expect(harness.request(.write, 1, at: 8192))
        harness.completeAll()
        harness.machine.setRecovery(pair: 0, isAutomatic: false)
        harness.restoreLink()
        #expect(harness.state == .suspended)
        harness.machine.setRecovery(pair: 0, isAutomatic: true)
        harness.settle()
        harness.completeAll()
        #expect(harness.state == .suspended, "whoever waits for Resume goes on waiting")
        harness.loseLink()
        harness.restoreLink()
        #expect(harness.state == .suspended)
        #expect(harness.ask(.resume) == .accepted(to: .synchronized))
        harness.completeAll()
        harness.loseLink()
        harness.restoreLink()
        #expect(harness.state == .synchronized)
    }

    /// Found by the simulator: the operation took the place of the copy that it waits for.
    @Test("a Split that is asked for while the pair is Skewed comes after the copy that catches up")
    func splitWhileSkewed() {
        let harness = synchronized()
        harness.machine.setAsynchronous(pair: 0, true)
        harness.machine.setBacklog(pair: 0, since: Instant(nanoseconds: 0))
        harness.machine.backlogTooLong(pair: 0)
        harness.settle()
        #expect(harness.state == .skewed && harness.reason == .backlogTooLong)
        #expect(harness.ask(.split) == .accepted(to: .split))
        #expect(harness.state == .skewed, "what is on its way to the target comes first")
        harness.machine.setBacklog(pair: 0, since: nil)
        harness.settle()
        harness.completeAll()
        #expect(harness.state == .split)
    }

    static let starts = StateExplorationTests.starts.filter {
        [
            "new", "in sync", "in sync, writing", "suspended with changes", "split with changes on both sides",
            "restoring",
        ]
        .contains($0.name)
    }

    @Test("every state nearby is sound", arguments: starts)
    func everyStateNearbyIsSound(start: StateExplorationTests.Start) {
        var coverage = Explorer.Coverage()
        for writesRecordsAtOnce in [true, false] {
            var explorer = Explorer()
            explorer.shape.isRemote = true
            explorer.shape.writesRecordsAtOnce = writesRecordsAtOnce
            let finding = explorer.explore(from: start.events, stateLimit: 200, &coverage)
            if let finding { Issue.record("\(finding)") }
        }
        #expect(coverage.stateCount == 400)
        #expect(coverage.copyStates.contains(.partitioned) || start.name == "restoring")
    }

    @Test("long walks are sound")
    func longWalksAreSound() {
        var coverage = Explorer.Coverage()
        let findings = Explorer.walkShapes(seeds: 1...2, isRemote: true, &coverage)
        #expect(findings.isEmpty, "\(findings.joined(separator: "; "))")
        #expect(coverage.copyStates.isSuperset(of: [.partitioned, .synchronized, .split, .suspended]))
    }
}
