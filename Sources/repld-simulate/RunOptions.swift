import ArgumentParser
import RepldCore
import RepldSimulation

/// What a run is kept from, and the mistake that its engine makes: handed on to worker processes as it was given.
struct RunOptions: ParsableArguments {
    @Option(help: "Take so many steps at most before everything heals.")
    var steps: Int?

    @Option(help: "Keep so many requests of hosts in flight at most.")
    var depth: Int?

    @Option(help: ArgumentHelp("Use volumes of no more bytes.", valueName: "bytes"))
    var volumeSize: Int?

    @Option(help: "Use so many pairs at most.")
    var pairs: Int?

    @Option(help: "Run another course of things with the same options.")
    var dice: UInt64 = 0

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "Leave out what may happen: \(FaultClass.allCases.map(\.rawValue).joined(separator: ", ")).",
            valueName: "what"
        )
    )
    var without: [FaultClass] = []

    @Option(
        help: ArgumentHelp("Let the engine make one known mistake ('--list-mutations').", valueName: "name"),
        transform: { name in
            guard let mutation = Mutation(rawValue: name) else {
                throw ValidationError("there is no mutation '\(name)': --list-mutations has their names")
            }
            return mutation
        }
    )
    var mutation: Mutation?

    func validate() throws {
        guard steps ?? 1 > 0, depth ?? 1 > 0, pairs ?? 1 > 0 else {
            throw ValidationError("--steps, --depth and --pairs are at least 1")
        }
        guard volumeSize ?? 65536 >= 65536, (volumeSize ?? 0) % 65536 == 0 else {
            throw ValidationError("--volume-size is a multiple of 65536")
        }
    }

    var limits: SimulationLimits {
        var limits = SimulationLimits()
        limits.stepCount = steps
        limits.depth = depth
        limits.volumeByteCount = volumeSize
        limits.pairCount = pairs
        limits.dice = dice
        limits.without = Set(without)
        return limits
    }

    /// The same, as they are written on the command line.
    var arguments: [String] { arguments(with: limits) }

    /// The same mistake, with other limits.
    func arguments(with limits: SimulationLimits) -> [String] {
        limits.arguments + (mutation.map { ["--mutation", $0.rawValue] } ?? [])
    }

    /// Makes the engine of this process make the mistake that was asked for.
    func turnMutationOn() throws {
        guard let mutation, !Mutation.turnOn(mutation) else { return }
        throw ValidationError(
            """
            mutations are not compiled into this program; build one that has them:
            swift build -c release --product repld-simulate --scratch-path .build/mutations -Xswiftc -DREPLD_MUTATIONS
            """
        )
    }
}

extension FaultClass: ExpressibleByArgument {}
