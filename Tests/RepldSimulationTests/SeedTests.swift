import RepldSimulation
import Testing

/// Fixed seeds: quick, the same everywhere, and the first thing that fails when a rule of the data is broken.
@Suite struct SeedTests {
    @Test(arguments: [0, 1, 2, 3, 4, 5, 6, 7])
    func seedsFindNothing(hundred: UInt64) throws {
        for seed in (hundred * 25)..<(hundred * 25 + 25) {
            let simulation = Simulation(SimulationOptions(seed: seed))
            try simulation.run()
            #expect(simulation.coverage.comparisonsAtRest > 0)
        }
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
