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
            prints what happened, step by step; '--seed N --shrink' finds a shorter run that fails in the same way.

            Exit codes: 0 nothing found, 1 a checker or an invariant failed (its seed is printed), 64 wrong usage.
            """
    )

    @Option(help: "Run one seed.")
    var seed: UInt64?

    @Option(help: ArgumentHelp("Run a range of seeds, on all cores.", valueName: "first..last"))
    var seeds: SeedRange?

    @Flag(help: "Print everything that happens.")
    var trace = false

    @Flag(help: "Find a shorter run that fails in the same way as the seed.")
    var shrink = false

    @Flag(help: "List the known mistakes that the engine can make where they are compiled in.")
    var listMutations = false

    @Flag(help: "Let the engine make each of them, and see whether the simulator finds it.")
    var findMutations = false

    @Option(help: "What a seed runs: pairs of one host, pairs between hosts, pairs that move, the first two, or all.")
    var kind = Kind.all

    @OptionGroup
    var options: RunOptions

    enum Kind: String, ExpressibleByArgument, CaseIterable {
        case host, hosts, moves, both, all

        var parts: [SimulationKind] {
            switch self {
            case .host: [.host]
            case .hosts: [.hosts]
            case .moves: [.moves]
            case .both: [.host, .hosts]
            case .all: SimulationKind.allCases
            }
        }
    }

    @Option(help: "Processes that share the seeds of a range.")
    var jobs: Int = ProcessInfo.processInfo.activeProcessorCount

    @Flag(help: "Of a range that one process runs: end with the first seed that fails.")
    var untilFailure = false

    @Option(help: ArgumentHelp("For a range: run every so many seeds only.", visibility: .hidden))
    var stride: UInt64 = 1

    private var isWorker: Bool { seed == nil }
    /// What every run is given besides its seed.
    private var arguments: [String] { ["--kind", kind.rawValue] + options.arguments }

    func validate() throws {
        let asked = [seed != nil, seeds != nil, listMutations, findMutations].filter { $0 }.count
        guard asked == 1 else {
            throw ValidationError("give one of --seed, --seeds, --list-mutations and --find-mutations")
        }
        guard !shrink || seed != nil else { throw ValidationError("--shrink is for one --seed") }
        guard !untilFailure || seeds != nil && jobs == 1 else {
            throw ValidationError("--until-failure is for --seeds with --jobs 1")
        }
        guard jobs > 0, stride > 0 else { throw ValidationError("--jobs is at least 1") }
    }

    func run() throws {
        if listMutations { return MutationHunt.list() }
        if findMutations { return try MutationHunt(jobs: jobs).run() }
        try options.turnMutationOn()
        if let seed, shrink {
            try Shrinking(seed: seed, kinds: kind.parts, options: options).run()
        } else if let seed {
            try runHere([seed])
        } else if let seeds, jobs == 1 {
            try runHere(Array(Swift.stride(from: seeds.first, through: seeds.last, by: Int(stride))))
        } else if let seeds {
            try SeedWorkers(seeds: seeds, jobs: jobs, arguments: arguments).run()
        }
    }

    /// Runs seeds in this process, one after the other; what they say goes to standard output, a line each.
    private func runHere(_ seeds: [UInt64]) throws {
        var total = SimulationCoverage()
        var failedCount = 0
        for seed in seeds where failedCount == 0 || !untilFailure {
            say("seed \(seed)")
            do {
                for part in kind.parts { try run(part, seed, &total) }
            } catch {
                failedCount += 1
                say("failed \(error)")
                if !isWorker { say(Shrinking.offer(seed: seed, arguments)) }
            }
        }
        if isWorker {
            for row in total.rows { say("covered \(row.count) \(row.name)") }
        } else {
            for line in total.table { say(line) }
        }
        if failedCount > 0 { throw ExitCode(1) }
    }

    private func run(_ kind: SimulationKind, _ seed: UInt64, _ total: inout SimulationCoverage) throws {
        let trace = trace ? { say($0) } : nil
        switch kind {
        case .host:
            let simulation = Simulation(SimulationOptions(seed: seed, limits: options.limits), trace: trace)
            defer { total.add(simulation.coverage) }
            try simulation.run()
        case .hosts:
            let simulation = RemoteSimulation(seed: seed, limits: options.limits, trace: trace)
            defer { total.add(simulation.coverage) }
            try simulation.run()
        case .moves:
            let simulation = MoveSimulation(seed: seed, limits: options.limits, trace: trace)
            defer { total.add(simulation.coverage) }
            try simulation.run()
        }
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
