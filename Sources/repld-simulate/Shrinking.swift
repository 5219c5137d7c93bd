import ArgumentParser
import Foundation
import RepldSimulation

/// Shrinks a failing seed, each run in a process of its own.
struct Shrinking {
    let seed: UInt64
    let kinds: [SimulationKind]
    let options: RunOptions

    /// The line behind a failing seed that says how to go on.
    static func offer(seed: UInt64, _ arguments: [String]) -> String {
        "for a shorter run that fails in the same way: "
            + (["repld-simulate", "--seed", "\(seed)"] + arguments + ["--shrink"]).joined(separator: " ")
    }

    func run() throws {
        for kind in kinds {
            let stepCount = Self.stepCount(kind, seed, options.limits)
            var trials = 0
            let shrinker = try Shrinker(options.limits, leavingOut: FaultClass.all(of: kind)) { limits in
                trials += 1
                return try outcome(kind, limits)
            }
            guard var shrinker else { continue }
            print("shrinking a run of \(stepCount) steps")
            let result = try shrinker.shrink(stepCount: stepCount)
            print(
                "after \(result.runCount) runs, \(result.limits.stepCount ?? stepCount) steps: \(result.failure.words)"
            )
            print(command(kind, result.limits).joined(separator: " "))
            return
        }
        print("seed \(seed) does not fail")
        throw ExitCode(1)
    }

    private func command(_ kind: SimulationKind, _ limits: SimulationLimits) -> [String] {
        ["repld-simulate"] + arguments(kind, limits)
    }

    private func arguments(_ kind: SimulationKind, _ limits: SimulationLimits) -> [String] {
        ["--seed", "\(seed)", "--kind", kind.rawValue] + options.arguments(with: limits)
    }

    private func outcome(_ kind: SimulationKind, _ limits: SimulationLimits) throws -> Shrinker.Failure? {
        let child = try ChildRun(arguments(kind, limits))
        if child.isDead { return Shrinker.Failure(words: child.brokenInvariant ?? child.complaint, step: nil) }
        guard let words = child.lines(beginningWith: "failed").first else { return nil }
        // "seed N, step N: words"
        guard let match = words.firstMatch(of: #/^seed [0-9]+, step ([0-9]+): (.*)$/#) else {
            return Shrinker.Failure(words: words, step: nil)
        }
        return Shrinker.Failure(words: String(match.2), step: Int(match.1))
    }

    private static func stepCount(_ kind: SimulationKind, _ seed: UInt64, _ limits: SimulationLimits) -> Int {
        kind == .host
            ? SimulationOptions(seed: seed, limits: limits).stepCount
            : RemoteSimulation(seed: seed, limits: limits).stepCount
    }
}
