import ArgumentParser
import Foundation
import RepldSimulation

/// The simulator's command line.
@main
struct RepldSimulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repld-simulate",
        abstract: "Runs the real engine through crashes and faults in a simulated world.",
        discussion: """
            The same seed gives the same run on any machine. A failing seed is repeated with '--seed N --trace', which \
            prints what happened, step by step.

            Exit codes: 0 nothing found, 1 a checker or an invariant failed (its seed is printed), 64 wrong usage.
            """
    )

    @Option(help: "Run one seed.")
    var seed: UInt64?

    @Option(help: ArgumentHelp("Run a range of seeds, on all cores.", valueName: "first..last"))
    var seeds: SeedRange?

    @Flag(help: "Print everything that happens.")
    var trace = false

    @Option(help: "What a seed runs: pairs of one host, pairs between hosts, or both.")
    var kind = Kind.both

    enum Kind: String, ExpressibleByArgument, CaseIterable { case host, hosts, both }

    @Option(help: "Processes that share the seeds of a range.")
    var jobs: Int = ProcessInfo.processInfo.activeProcessorCount

    @Option(help: ArgumentHelp("For a range: run every so many seeds only.", visibility: .hidden))
    var stride: UInt64 = 1

    private var isWorker: Bool { seed == nil }

    func validate() throws {
        guard (seed == nil) != (seeds == nil) else { throw ValidationError("give either --seed or --seeds") }
        guard jobs > 0, stride > 0 else { throw ValidationError("--jobs is at least 1") }
    }

    func run() throws {
        if let seed {
            try runHere([seed])
        } else if let seeds, jobs == 1 {
            try runHere(Array(Swift.stride(from: seeds.first, through: seeds.last, by: Int(stride))))
        } else if let seeds {
            try SeedWorkers(seeds: seeds, jobs: jobs, kind: kind.rawValue).run()
        }
    }

    /// Runs seeds in this process, one after the other; what they say goes to standard output, a line each.
    private func runHere(_ seeds: [UInt64]) throws {
        var total = SimulationCoverage()
        var failedCount = 0
        for seed in seeds {
            say("seed \(seed)")
            let trace = trace ? { say($0) } : nil
            let simulation = Simulation(SimulationOptions(seed: seed), trace: trace)
            let remote = RemoteSimulation(seed: seed, trace: trace)
            do {
                if kind != .hosts { try simulation.run() }
                if kind != .host { try remote.run() }
            } catch {
                failedCount += 1
                say("failed \(error)")
            }
            total.add(simulation.coverage)
            total.add(remote.coverage)
        }
        if isWorker {
            for row in total.rows { say("covered \(row.count) \(row.name)") }
        } else {
            for line in total.table { say(line) }
        }
        if failedCount > 0 { throw ExitCode(1) }
    }

    private func say(_ line: String) {
        FileHandle.standardOutput.write(Data((line + "\n").utf8))
    }
}

/// Seeds from a first to a last one, both included, written `first..last`.
struct SeedRange: ExpressibleByArgument {
    var first: UInt64
    var last: UInt64

    init?(argument: String) {
        let parts = argument.components(separatedBy: "..")
        guard parts.count == 2, let first = UInt64(parts[0]), let last = UInt64(parts[1]), first <= last else {
            return nil
        }
        self.first = first
        self.last = last
    }
}
