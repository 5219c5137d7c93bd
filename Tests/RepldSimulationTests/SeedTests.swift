import RepldSimulation
import Testing

/// A few fixed seeds, and every seed that ever failed; `repld-simulate` runs the thousands, optimised.
@Suite struct SeedTests {
    @Test(arguments: [1, 2, 3, 4, 5, 6, 7, 8] as [UInt64])
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
    @Test(arguments: [3, 42, 188, 276, 337, 779, 1095, 1195, 1389] as [UInt64])
    func seedThatFailedOnceFindsNothing(seed: UInt64) throws {
        let simulation = Simulation(SimulationOptions(seed: seed))
        try simulation.run()
        #expect(simulation.coverage[.comparisonsAtRest] > 0)
    }

    /// Pairs between two hosts: two synchronous runs and two asynchronous ones.
    @Test(arguments: [1, 2, 3, 4] as [UInt64])
    func fixedSeedBetweenHostsFindsNothing(seed: UInt64) throws {
        let simulation = RemoteSimulation(seed: seed)
        try simulation.run()
        #expect(simulation.coverage[.imagesChecked] > 0 && simulation.coverage[.synchronizations] > 0)
    }

    /// Seeds between hosts that found something, and what.
    ///
    /// 91107, 91356: a stop gave the backlog of a pair back while a send read it. 200821: a Split that waited took the place of
    /// the copy that it waited for.
    @Test(arguments: [91107, 91356, 200_821] as [UInt64])
    func seedBetweenHostsThatFailedOnceFindsNothing(seed: UInt64) throws {
        let simulation = RemoteSimulation(seed: seed)
        try simulation.run()
        #expect(simulation.coverage[.synchronizations] > 0)
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
