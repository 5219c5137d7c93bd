import ArgumentParser
import Foundation
import RepldSimulation

/// Runs a range of seeds on all cores, one process per core, so that an invariant that ends a process is told as the
/// failure of the seed that was running, and the other seeds go on.
struct SeedWorkers {
    let seeds: SeedRange
    let jobs: Int
    /// What every run is given besides its seeds.
    let arguments: [String]

    /// What one process came to.
    struct Outcome: Sendable {
        var seedCount = 0
        var lastSeed: UInt64?
        var failures: [String] = []
        /// The last seed that failed.
        var failedSeed: UInt64?
        var covered = SimulationCoverage()
    }

    func run() throws {
        let start = ContinuousClock.now
        let lanes = min(UInt64(jobs), seeds.last - seeds.first + 1)
        let outcomes = OutcomeList()
        let group = DispatchGroup()
        for lane in 0..<lanes {
            DispatchQueue.global().async(group: group) { outcomes.add(work(first: seeds.first + lane, stride: lanes)) }
        }
        group.wait()
        try report(outcomes.all, seconds: (ContinuousClock.now - start) / .seconds(1))
    }

    /// Runs one lane to its end; after the death of a process the next one goes on behind the seed that it died of.
    private func work(first: UInt64, stride: UInt64) -> Outcome {
        var outcome = Outcome()
        var next = first
        while next <= seeds.last {
            // A stride of 1 would start workers again; two lanes and more never have it.
            let lane = ["--seeds", "\(next)..\(seeds.last)", "--stride", "\(stride)", "--jobs", "1"]
            let child: ChildRun
            do {
                child = try ChildRun(lane + arguments)
            } catch {
                outcome.failures.append("cannot run this program again: \(error)")
                return outcome
            }
            outcome.read(child)
            guard child.isDead else { return outcome }
            guard let died = outcome.lastSeed else {
                outcome.failures.append("a worker died before its first seed: \(child.complaint)")
                return outcome
            }
            outcome.failures.append("seed \(died): \(child.complaint)")
            outcome.failedSeed = died
            next = died + stride
        }
        return outcome
    }

    private func report(_ outcomes: [Outcome], seconds: Double) throws {
        let seedCount = outcomes.reduce(0) { $0 + $1.seedCount }
        let failures = outcomes.flatMap(\.failures)
        print("seeds \(seeds.first)..\(seeds.last): \(seedCount) run, \(Int(Double(seedCount) / seconds)) a second")
        var covered = SimulationCoverage()
        for outcome in outcomes { covered.add(outcome.covered) }
        for line in covered.table { print(line) }
        for failure in failures { print("FAILED \(failure)") }
        if let failed = outcomes.compactMap(\.failedSeed).first { print(Shrinking.offer(seed: failed, arguments)) }
        guard failures.isEmpty, seedCount > 0 else { throw ExitCode(1) }
    }
}

extension SeedWorkers.Outcome {
    fileprivate mutating func read(_ child: ChildRun) {
        for line in child.output.split(separator: "\n") {
            let words = line.split(separator: " ", maxSplits: 1).map(String.init)
            guard words.count == 2 else { continue }
            switch words[0] {
            case "seed":
                seedCount += 1
                lastSeed = UInt64(words[1])
            case "failed":
                failures.append(words[1])
                failedSeed = lastSeed
            case "covered":
                let parts = words[1].split(separator: " ", maxSplits: 1).map(String.init)
                if parts.count == 2, let count = Int(parts[0]) { covered.add(count, to: parts[1]) }
            default:
                break
            }
        }
    }
}

/// Collects what the lanes came to; each lane is a thread.
private final class OutcomeList: @unchecked Sendable {
    private let lock = NSLock()
    private var outcomes: [SeedWorkers.Outcome] = []

    var all: [SeedWorkers.Outcome] { lock.withLock { outcomes } }

    func add(_ outcome: SeedWorkers.Outcome) { lock.withLock { outcomes.append(outcome) } }
}
