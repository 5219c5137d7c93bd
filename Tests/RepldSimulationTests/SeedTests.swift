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

    /// Seeds that found something, and what.
    ///
    /// 42: a write waited for two stuck targets and no time limit ended it. 94: chunks were begun and ended without end
    /// while a record could not be written. 1234: a stuck operation came back after the last record. 1337: the metadata
    /// area of another pair was believed. 1575: a copy that ended while a record was pending met itself again. 3458: the flush of a copy cleared what had been
    /// marked again behind the copy.
    @Test(arguments: [42, 94, 1234, 1337, 1575, 3458] as [UInt64])
    func seedThatFailedOnceFindsNothing(seed: UInt64) throws {
        let simulation = Simulation(SimulationOptions(seed: seed))
        try simulation.run()
        #expect(simulation.coverage[.comparisonsAtRest] > 0)
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
