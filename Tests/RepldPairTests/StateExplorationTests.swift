import RepldPair
import Testing

/// The whole of what a small pair can come to, searched for anything that must never be.
///
/// Where an invariant of the machine stops the process instead, `Explorer.listener` tells the events before they happen.
@Suite struct StateExplorationTests {
    /// Where a search begins, and what it starts with.
    struct Start: Sendable, CustomTestStringConvertible {
        var name: String
        var events: [WorldEvent]
        var testDescription: String { name }
    }

    private static let inSync: [WorldEvent] = [.operate(0, .activate, isForced: false), .playOut]
    private static func after(_ operation: ReplicationOperation, _ more: [WorldEvent] = []) -> [WorldEvent] {
        inSync + [.operate(0, operation, isForced: false)] + more
    }

    static let starts = [
        Start(name: "new", events: []),
        Start(name: "in sync", events: inSync),
        Start(name: "in sync, writing", events: inSync + [.write(0), .write(1)]),
        Start(name: "suspended with changes", events: after(.suspend, [.playOut, .write(0), .playOut])),
        Start(
            name: "split with changes on both sides",
            events: after(.split, [.playOut, .write(0), .targetWrite(pair: 0, granule: 1), .playOut])
        ),
        Start(name: "splitting", events: after(.split)),
        Start(name: "failing over", events: after(.failover, [.write(0)])),
        Start(name: "failed over with changes", events: after(.failover, [.playOut, .write(1), .playOut])),
        Start(
            name: "failing back",
            events: after(.failover, [.playOut, .write(1), .playOut, .operate(0, .failback, isForced: false)])
        ),
        Start(
            name: "restoring",
            events: after(.suspend, [.playOut, .write(0), .playOut, .operate(0, .restoreFromReplica, isForced: false)])
                + [.end(element: 0, nth: 0, .done), .end(element: 1, nth: 0, .done)]
        ),
        Start(name: "reversing", events: after(.reverseRoles, [.write(0)])),
    ]

    @Test(arguments: starts)
    func everyStateNearbyIsSound(start: Start) {
        var coverage = Explorer.Coverage()
        for writesRecordsAtOnce in [true, false] {
            var explorer = Explorer()
            explorer.shape.writesRecordsAtOnce = writesRecordsAtOnce
            let finding = explorer.explore(from: start.events, stateLimit: 200, &coverage)
            if let finding { Issue.record("\(finding)") }
        }
        #expect(coverage.stateCount == 400)
    }

    @Test func longWalksAreSoundAndReachEveryState() {
        var coverage = Explorer.Coverage()
        let findings = Explorer.walkShapes(seeds: 1...2, &coverage)
        #expect(findings.isEmpty, "\(findings.joined(separator: "; "))")
        let unreachable: Set<CopyState> = [.mixed, .skewed, .partitioned, .invalid]
        #expect(coverage.copyStates == Set(CopyState.allCases).subtracting(unreachable))
        let moving: Set<ReplicationOperation> = [
            .activate, .resyncReplica, .resume, .split, .failover, .failback, .restoreFromReplica, .reverseRoles,
        ]
        #expect(coverage.operations.isSuperset(of: moving))
    }

    /// The search would find a rule that is broken: here, a version that no host wrote.
    @Test func explorerFindsAndShortensWhatIsWrong() {
        let world = PairWorld(PairWorld.Shape())
        world.disks[0].write([99], at: 1, isDurable: true)
        world.check()
        #expect(world.violation?.contains("granule 1 holds 99") == true)
        let differing = PairWorld(PairWorld.Shape())
        _ = differing.apply(.operate(0, .activate, isForced: false))
        _ = differing.apply(.playOut)
        differing.disks[1].write([98], at: 0, isDurable: true)
        differing.check()
        #expect(differing.violation?.contains("nothing says so") == true)
    }
}
