import RepldPair
import Testing

/// The whole of what a small pair with an undo area can come to: its target can be taken back at every instant.
@Suite struct UndoExplorationTests {
    private static let halfCopied: [WorldEvent] = [
        .operate(0, .activate, isForced: false), .playOut, .operate(0, .suspend, isForced: false), .playOut,
        .write(0), .write(1), .playOut, .operate(0, .resume, isForced: false),
    ]

    static let starts = [
        StateExplorationTests.Start(name: "resuming", events: halfCopied),
        StateExplorationTests.Start(name: "resuming under writes", events: halfCopied + [.write(0), .write(1)]),
        StateExplorationTests.Start(
            name: "taking back",
            events: halfCopied + Array(repeating: .end(element: 0, nth: 0, .done), count: 2)
                + Array(repeating: .end(element: 1, nth: 0, .done), count: 1)
                + [.end(element: 2, nth: 0, .done), .end(element: 1, nth: 0, .done)]
                + [.operate(0, .failover, isForced: true)]
        ),
    ]

    @Test(arguments: starts)
    func everyStateNearbyIsSound(start: StateExplorationTests.Start) {
        var coverage = Explorer.Coverage()
        for writesRecordsAtOnce in [true, false] {
            var explorer = Explorer()
            explorer.shape.keepsUndo = true
            explorer.shape.writesRecordsAtOnce = writesRecordsAtOnce
            let finding = explorer.explore(from: start.events, stateLimit: 200, &coverage)
            if let finding { Issue.record("\(finding)") }
        }
        #expect(coverage.stateCount == 400)
    }

    @Test func longWalksAreSound() {
        var coverage = Explorer.Coverage()
        let findings = Explorer.walkShapes(seeds: 1...4, keepsUndo: true, &coverage)
        #expect(findings.isEmpty, "\(findings.joined(separator: "; "))")
        #expect(coverage.rollbackCount >= 2)
    }
}
