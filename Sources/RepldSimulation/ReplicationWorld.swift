package import RepldCore
package import RepldEngine

/// Real engines on simulated hosts with a network between them: what tests of remote pairs stand on.
///
/// A step is one turn of one engine, of the host that is to be turned next; faults of the network may come between steps.
/// The same seed and the same calls give the same run.
package final class ReplicationWorld {
    package let world: SimulatedWorld
    package let hosts: [ReplicationHost]
    package private(set) var stepCount = 0
    /// What goes wrong in the network from now on; `nil` is nothing.
    package var faults: NetworkFaults? {
        didSet { if let faults { network.adopt(faults) } }
    }
    private let trace: ((String) -> Void)?
    private var lastGeneration: UInt64 = 0

    /// Starts an engine without volumes on each host; `trace` gets a line for everything that happens, at once.
    package init(
        seed: UInt64,
        hostNames: [String] = ["first", "second"],
        trace: ((String) -> Void)? = nil
    ) {
        let world = SimulatedWorld(seed: seed)
        self.world = world
        self.trace = trace
        hosts = hostNames.map { name in
            let host = world.addHost(name)
            guard let trace else { return ReplicationHost(host, trace: nil) }
            return ReplicationHost(host) { [unowned world] words in trace("[\(world.now / 1000) us] \(name) \(words)") }
        }
        for host in hosts { host.start() }
    }

    package var network: SimulatedNetwork { world.network }

    /// One turn of one engine; false when there is none left that will ever do something.
    package func step() -> Bool {
        if let faults, let words = network.inject(faults) { trace?("[\(world.now / 1000) us] \(words)") }
        guard let next = world.nextHost() else { return false }
        stepCount += 1
        hosts[next.index].turn()
        return true
    }

    /// Steps until something holds; false when it does not within so many steps, or can no longer.
    package func run(steps limit: Int = 100_000, until holds: () -> Bool) -> Bool {
        for _ in 0..<limit {
            if holds() { return true }
            guard step() else { break }
        }
        return holds()
    }

    /// What names the next run of a pair: the same number never again.
    package func nextGeneration() -> Generation {
        lastGeneration += 1
        return Generation(lastGeneration)
    }

    /// Every fault of the network ends.
    package func healNetwork() {
        if let faults { network.healAll(faults) } else { network.healLinks() }
        faults = nil
    }

    // MARK: - Commands

    /// Holds a command's answer: engines and askers are on one thread here.
    private final class AnswerBox<Value>: @unchecked Sendable {
        var value: Value?
    }

    /// Sends a command to a host's engine and steps until it is answered; `nil` where it is not.
    package func ask<Answer: Sendable>(
        _ host: ReplicationHost,
        steps limit: Int = 100_000,
        _ command: (@escaping @Sendable (Answer) -> Void) -> EngineCommand<SimulatedPlatform>
    ) -> Answer? {
        let box = AnswerBox<Answer>()
        guard host.mailbox.send(command({ box.value = $0 })) else { return nil }
        _ = run(steps: limit) { box.value != nil || !host.isUp }
        return box.value
    }

    /// Serves a disk of a host as a volume; false where that is refused or not answered.
    ///
    /// With less than the whole disk where `byteCount` says so. Hosts are kept away until so many peers have been asked.
    package func addVolume(
        _ id: VolumeID,
        named name: String,
        on disk: SimulatedDisk,
        of host: ReplicationHost,
        byteCount: Int? = nil,
        awaitedPeerCount: Int = 0
    ) -> Bool {
        var spec = VolumeSpec(id: id, name: name, isReadOnly: false, source: host.element(disk))
        if let byteCount { spec.source.geometry.byteCount = UInt64(byteCount) }
        spec.awaitedPeerCount = awaitedPeerCount
        guard case .success = ask(host, { .addVolume(spec, answer: $0) }) else { return false }
        return true
    }

    /// Stops a host's engine in order; false when it does not stop within so many steps.
    package func stop(_ host: ReplicationHost, steps limit: Int = 100_000) -> Bool {
        let box = AnswerBox<Bool>()
        guard host.mailbox.send(.stop { box.value = true }) else { return false }
        return run(steps: limit) { !host.isUp } && box.value == true
    }
}
