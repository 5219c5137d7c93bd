import RepldSimulation
import Testing

/// A few fixed seeds, and what every seed that ever failed has found.
///
/// Unoptimised, a seed takes seconds: here run some of each kind, and CI runs `repld-simulate`, optimised, with thousands and with
/// every one that is named here.
@Suite struct SeedTests {
    @Test(arguments: [1] as [UInt64])
    func fixedSeedFindsNothing(seed: UInt64) throws {
        let simulation = Simulation(SimulationOptions(seed: seed))
        try simulation.run()
        #expect(simulation.coverage[.comparisonsAtRest] > 0)
    }

    /// Seeds that found something in the engine, and what.
    ///
    /// 3: a clean stop did not flush a target that was its hosts'. 42: behind a hanging source, writes that waited for a lock
    /// went to it after it was given up, and the failover failed. 188: one damaged block made a Suspended pair
    /// Synchronized again. 276: one damaged block made a half-copied target usable again. 337: what the gate had held went on in
    /// another order than it was asked for. 779: a clean stop asked for buffers for a copy that it had dropped. 1095: the
    /// same as 188, from a copy to a usable target. 1195: two pairs moved the primary at the same time. 1389: an aborted
    /// restore moved the primary under the copy of another pair, whose flush cleared what that had marked.
    @Test(arguments: [3, 42, 188, 1195] as [UInt64])
    func seedThatFailedOnceFindsNothing(seed: UInt64) throws {
        let simulation = Simulation(SimulationOptions(seed: seed))
        try simulation.run()
        #expect(simulation.coverage[.comparisonsAtRest] > 0)
    }

    /// Pairs between two hosts: two synchronous runs and two asynchronous ones, and one with manual recovery.
    @Test(arguments: [1, 11] as [UInt64])
    func fixedSeedBetweenHostsFindsNothing(seed: UInt64) throws {
        let simulation = RemoteSimulation(seed: seed)
        try simulation.run()
        #expect(simulation.coverage[.imagesChecked] > 0 && simulation.coverage[.synchronizations] > 0)
    }

    /// Seeds between hosts that found something, and what.
    ///
    /// 91107, 91356: a stop gave the backlog of a pair back while a send read it. 200821: a Split that waited took the place of
    /// the copy that it waited for. 62, 110: what a kept image is an image of was cleared too early, in the checker.
    @Test(arguments: [62, 91107] as [UInt64])
    func seedBetweenHostsThatFailedOnceFindsNothing(seed: UInt64) throws {
        let simulation = RemoteSimulation(seed: seed)
        try simulation.run()
        #expect(simulation.coverage[.synchronizations] > 0)
    }

    /// A pair that moves between the daemons of two hosts.
    @Test(arguments: [7] as [UInt64])
    func fixedSeedOfMovesFindsNothing(seed: UInt64) throws {
        let simulation = MoveSimulation(seed: seed)
        try simulation.run()
        #expect(simulation.coverage[.imagesChecked] > 0 && simulation.coverage[.synchronizations] > 0)
    }

    /// Seeds of moves that found something, and what.
    ///
    /// 1: a replica of a volume that had been withheld took no request of its source. 8: a handover that could not begin, and was
    /// given up, ended the wait for the peer. 51: after a start, a pair that was taken over forgot its own changes when it met its
    /// peer. 99: what hosts had under way was missing in what the former source told.
    /// 127, 159, 591: replicas that were brought back to what they held before a copy, met by a checker that did not know of it.
    /// 557: a read that the source failed was served by an asynchronous target that had failed the write before it, and the source
    /// was overwritten with that.
    @Test(arguments: [1, 51, 159] as [UInt64])
    func seedOfMovesThatFailedOnceFindsNothing(seed: UInt64) throws {
        let simulation = MoveSimulation(seed: seed)
        try simulation.run()
        #expect(simulation.coverage[.synchronizations] > 0)
    }

    @Test func sameSeedSameRunOfMoves() throws {
        var traces: [[String]] = []
        for _ in 0..<2 {
            var trace: [String] = []
            try MoveSimulation(seed: 15) { trace.append($0) }.run()
            traces.append(trace)
        }
        #expect(traces[0] == traces[1] && traces[0].count > 100)
    }

    @Test func sameSeedSameRunBetweenHosts() throws {
        var traces: [[String]] = []
        for _ in 0..<2 {
            var trace: [String] = []
            try RemoteSimulation(seed: 47) { trace.append($0) }.run()
            traces.append(trace)
        }
        #expect(traces[0] == traces[1] && traces[0].count > 100)
    }

    @Test func sameSeedSameRun() throws {
        var traces: [[String]] = []
        for _ in 0..<2 {
            var trace: [String] = []
            let simulation = Simulation(SimulationOptions(seed: 4711)) { trace.append($0) }
            try simulation.run()
            traces.append(trace)
        }
        #expect(traces[0] == traces[1])
        #expect(traces[0].count > 100)
    }
}
