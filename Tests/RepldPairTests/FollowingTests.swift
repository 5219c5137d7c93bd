import RepldCore
import RepldFormat
import RepldPair
import Testing

/// Pairs of a volume that is the replica of another pair.
@Suite("Pairs of a volume that becomes a replica") struct FollowingTests {
    private func synchronized(isRemote: Bool = false) -> MachineHarness {
        let harness = MachineHarness()
        if isRemote {
            harness.addRemotePair()
            harness.restoreLink()
        } else {
            _ = harness.addSynchronizedPair()
        }
        #expect(harness.state == .synchronized)
        harness.performed = []
        return harness
    }

    private func follow(_ harness: MachineHarness, _ isFollowing: Bool = true) {
        harness.machine.setFollowing(isFollowing)
        harness.settle()
    }

    @Test(
        "they rest, remember what the peer writes, and copy just that when the volume is a source again",
        arguments: [false, true]
    )
    func restAndGoOn(isRemote: Bool) {
        let harness = synchronized(isRemote: isRemote)
        #expect(harness.canFollow)
        follow(harness)
        #expect(harness.state == .suspended && harness.facts.isTargetConsistent)
        #expect(harness.request(.write, 1, at: 8192))
        #expect(harness.legs == [0], "the target keeps the image that it has come to")
        harness.completeAll()
        #expect(harness.answers.last?.failure == nil && harness.dirtyByteCount == 4096)
        follow(harness, false)
        #expect(harness.state == .suspended && harness.operations.isEmpty, "who made it rest resumes it")
        #expect(harness.ask(.resume) == .accepted(to: .synchronized))
        harness.performed = []
        harness.completeAll()
        let copied = harness.performed.filter { $0.leg == 1 && $0.kind == .write }.map(\.extent)
        #expect(harness.state == .synchronized && copied == [Extent(offset: 8192, length: 4096)])
    }

    @Test("nothing that needs the source is accepted, with force as well; what ends or prepares the pair is")
    func operationsWhileResting() {
        let harness = synchronized()
        follow(harness)
        let refused: [ReplicationOperation] = [
            .activate, .resyncReplica, .resume, .split, .failover, .failback, .restoreFromReplica, .reverseRoles,
        ]
        for operation in refused {
            #expect(harness.ask(operation, isForced: true) == .refused(.sourceIsReplica), "\(operation)")
        }
        #expect(harness.ask(.suspend) == .holds)
        #expect(harness.ask(.fracture) == .accepted(to: .fractured))
        let other = synchronized()
        follow(other)
        #expect(other.ask(.deactivate) == .accepted(to: .inactive))
    }

    @Test("a copy that is under way stops with its operation, and nothing is called equal")
    func copiesStop() {
        let harness = MachineHarness()
        _ = harness.addNewPair()
        harness.start(0)
        #expect(harness.state == .unsynchronized && !harness.operations.isEmpty)
        follow(harness)
        #expect(harness.state == .suspended)
        #expect(harness.ended.map(\.failure) == [.sourceIsReplica])
        harness.completeAll()
        #expect(harness.state == .suspended && !harness.facts.isTargetConsistent)
        #expect((harness.dirtyByteCount ?? 0) > 0)
    }

    @Test("a peer that is back wakes nobody, and a pair out of reach does not wait for it any more")
    func linksComeBack() {
        let harness = synchronized(isRemote: true)
        harness.loseLink()
        #expect(harness.state == .partitioned)
        follow(harness)
        #expect(harness.state == .suspended)
        harness.restoreLink()
        #expect(harness.state == .suspended && harness.operations.isEmpty)
    }

    @Test("a pair that comes late rests from the start")
    func latePairs() {
        let harness = MachineHarness()
        follow(harness)
        _ = harness.addSynchronizedPair()
        #expect(harness.state == .suspended)
        #expect(harness.request(.write, 1, at: 0))
        #expect(harness.legs == [0])
        harness.completeAll()
        #expect(harness.dirtyByteCount == 4096)
        var served = MachineHarness.record(.failedover)
        served.isSecondPrimary = true
        #expect(
            !harness.canTakeIn(served, isRemote: false) && !harness.canTakeIn(served, isRemote: true)
        )
        served.isSecondSource = true
        #expect(
            !harness.canTakeIn(served, isRemote: false) && harness.canTakeIn(served, isRemote: true)
        )
    }

    @Test("a volume whose hosts are with a target, or that is being restored, does not become a replica")
    func whoCannotRest() {
        let failedOver = synchronized()
        failedOver.ask(.failover)
        #expect(!failedOver.canFollow, "it is on its way")
        failedOver.completeAll()
        #expect(failedOver.state == .failedover && !failedOver.canFollow)
        let reversed = synchronized()
        reversed.ask(.reverseRoles)
        reversed.completeAll()
        #expect(reversed.state == .synchronized && !reversed.canFollow, "the volume's element is another one")
        let restoring = synchronized(isRemote: true)
        restoring.ask(.suspend)
        #expect(restoring.request(.write, 1, at: 4096))
        restoring.completeAll()
        #expect(restoring.canFollow)
        restoring.ask(.restoreFromReplica, isForced: true)
        #expect(!restoring.canFollow)
    }

    @Test("another pair may move to its peer while one mirrors, and not while one restores or serves")
    func othersThatHinder() {
        var facts = PairFacts(copyState: .synchronized, isTargetConsistent: true, doesOtherPairFlow: true)
        for operation in [ReplicationOperation.failover, .reverseRoles] {
            facts.isRemote = false
            #expect(OperationTable.verdict(operation, facts, isForced: true) == .refused(.otherPairFlows))
            facts.isRemote = true
            guard case .accepted = OperationTable.verdict(operation, facts, isForced: true) else {
                Issue.record("\(operation) is refused")
                continue
            }
        }
        facts.doesOtherPairMove = true
        #expect(OperationTable.verdict(.failover, facts, isForced: true) == .refused(.otherPairFlows))
    }

    private static let inSync: [WorldEvent] = [.operate(0, .activate, isForced: false), .playOut]
    static let starts: [StateExplorationTests.Start] = [
        .init(name: "in sync, a replica", events: inSync + [.follow(true), .write(0)]),
        .init(name: "copying, a replica", events: [.operate(0, .activate, isForced: false), .write(1), .follow(true)]),
        .init(
            name: "written as a replica, a source again",
            events: inSync + [.follow(true), .write(0), .playOut, .follow(false)]
        ),
    ]

    @Test("every state nearby is sound", arguments: starts, [false, true])
    func everyStateNearbyIsSound(start: StateExplorationTests.Start, isRemote: Bool) {
        var coverage = Explorer.Coverage()
        var explorer = Explorer()
        explorer.shape.mayFollow = true
        explorer.shape.isRemote = isRemote
        explorer.shape.writesRecordsAtOnce = false
        let events = isRemote ? [.linkRestored(pair: 0)] + start.events : start.events
        if let finding = explorer.explore(from: events, stateLimit: 120, &coverage) { Issue.record("\(finding)") }
        #expect(coverage.stateCount == 120)
    }

    @Test("long walks are sound", arguments: [false, true])
    func longWalks(isRemote: Bool) {
        var coverage = Explorer.Coverage()
        let findings = Explorer.walkShapes(
            seeds: 1...1,
            keepsUndo: !isRemote,
            isRemote: isRemote,
            mayFollow: true,
            &coverage
        )
        #expect(findings.isEmpty, "\(findings.joined(separator: "; "))")
    }
}
