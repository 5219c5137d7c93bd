import RepldSimulation
import Testing

/// A failing run becomes a shorter one that fails in the same way.
@Suite struct ShrinkerTests {
    /// A run that fails as soon as it has taken 17 steps, if crashes are among them.
    @Test func findsFewestStepsAndWhatIsNeeded() throws {
        var runs = 0
        let shrinker = try Shrinker(SimulationLimits(), leavingOut: FaultClass.all(of: .host)) { limits in
            runs += 1
            let steps = limits.stepCount ?? 1000
            guard steps >= 17, !limits.without.contains(.crashes) else { return nil }
            return Shrinker.Failure(words: "sector \(steps) holds [\(runs), 2]", step: nil)
        }
        var found = try #require(shrinker)
        let result = try found.shrink(stepCount: 1000)
        #expect(result.limits.stepCount == 17)
        #expect(result.limits.without == Set(FaultClass.all(of: .host)).subtracting([.crashes]))
        #expect(result.limits.depth == 1 && result.limits.pairCount == 1 && result.limits.volumeByteCount == 65536)
        #expect(result.runCount == runs)
    }

    /// The step in which a run fails bounds it at once.
    @Test func whatComesBehindTheFailureIsCutOff() throws {
        let shrinker = try Shrinker(SimulationLimits(), leavingOut: []) { limits in
            (limits.stepCount ?? 1000) >= 300 ? Shrinker.Failure(words: "found", step: 300) : nil
        }
        var found = try #require(shrinker)
        #expect(try found.shrink(stepCount: 1000).limits.stepCount == 300)
    }

    /// A shorter run that fails in another way is not taken.
    @Test func anotherFailureDoesNotCount() throws {
        let shrinker = try Shrinker(SimulationLimits(), leavingOut: [.crashes]) { limits in
            let isOther = limits.without.contains(.crashes) || (limits.stepCount ?? 100) < 50
            return Shrinker.Failure(words: isOther ? "a read finds 1" : "sector 7 differs", step: nil)
        }
        var found = try #require(shrinker)
        let result = try found.shrink(stepCount: 100)
        #expect(result.limits.stepCount == 50 && result.limits.without.isEmpty)
        #expect(result.failure.words == "sector 7 differs")
    }

    /// Where the same dice do not fail, others may.
    @Test func otherDiceAreTried() throws {
        let shrinker = try Shrinker(SimulationLimits(), leavingOut: [.crashes]) { limits in
            guard !limits.without.contains(.crashes) || limits.dice == 3 else { return nil }
            return Shrinker.Failure(words: "found", step: nil)
        }
        var found = try #require(shrinker)
        let result = try found.shrink(stepCount: 8)
        #expect(result.limits.without == [.crashes] && result.limits.dice == 3)
        #expect(result.limits.stepCount == 1)
    }

    @Test func aRunThatDoesNotFailIsNotShrunk() throws {
        let shrinker = try Shrinker(SimulationLimits(), leavingOut: []) { _ in nil }
        #expect(shrinker == nil)
    }

    /// The real simulation, with a checker that takes each crash for a failure: what is left has crashes and hardly anything else, and
    /// reproduces it.
    @Test func realRunShrinksToOneThatStillFails() throws {
        let seed: UInt64 = 4
        func crash(_ limits: SimulationLimits) throws -> Shrinker.Failure? {
            let simulation = Simulation(SimulationOptions(seed: seed, limits: limits))
            try simulation.run()
            let count = simulation.coverage[.crashes]
            return count > 0 ? Shrinker.Failure(words: "\(count) crashes", step: nil) : nil
        }
        let steps = SimulationOptions(seed: seed).stepCount
        let shrinker = try Shrinker(
            SimulationLimits(),
            leavingOut: [.operations, .verifies, .restarts],
            runLimit: 40,
            diceLimit: 2,
            run: crash
        )
        var found = try #require(shrinker)
        let result = try found.shrink(stepCount: steps)
        #expect(try #require(result.limits.stepCount) < steps / 4)
        #expect(result.limits.without == [.operations, .verifies, .restarts])
        #expect(try crash(result.limits) == result.failure)
    }

    /// A command line says all of it.
    @Test func limitsAsTheyAreWritten() {
        var limits = SimulationLimits()
        #expect(limits.arguments.isEmpty)
        limits.stepCount = 12
        limits.depth = 1
        limits.volumeByteCount = 65536
        limits.pairCount = 1
        limits.dice = 3
        limits.without = [.crashes, .badSectors]
        let words = "--steps 12 --depth 1 --volume-size 65536 --pairs 1 --dice 3 --without bad-sectors crashes"
        #expect(limits.arguments.joined(separator: " ") == words)
    }

    /// Whatever is left out of a run does not happen in it.
    @Test func whatIsLeftOutDoesNotHappen() throws {
        var limits = SimulationLimits()
        limits.without = [.crashes, .restarts, .verifies, .moves, .takeovers]
        for seed in [1, 2, 9] as [UInt64] {
            let host = Simulation(SimulationOptions(seed: seed, limits: limits))
            try host.run()
            #expect(host.coverage[.crashes] == 0 && host.coverage[.verifies] == 0)
            let moves = MoveSimulation(seed: seed, limits: limits)
            try moves.run()
            let moveCount = moves.coverage[.plannedMoves] + moves.coverage[.unplannedMoves]
            #expect(moves.coverage[.sourceHostCrashes] == 0 && moves.coverage[.cleanRestarts] == 0 && moveCount == 0)
        }
    }
}
