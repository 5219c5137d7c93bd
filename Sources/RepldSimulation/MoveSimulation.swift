internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// One run of a pair that moves between the daemons of two simulated hosts: real engines, real frames, a network with faults, crashes
/// of either side between any two steps, an operator, and a small model of the control planes (`MoveHost`).
///
/// Checked:
/// - at most one host lets hosts in, but for one whose peer was told by an operator to take over while it could not be asked; once it
///   is told, it never does so again before it has the pair rightly;
/// - every read against the history of the volume as that host has served it;
/// - after a planned move of equal elements every acknowledged write is there; after an unplanned one of a synchronous pair that
///   was Synchronized, too; else the image is one of the source's past (`WriteOrder`), and the history goes on from it;
/// - whenever nothing is in flight: what differs is covered by a dirty bit of the pair that serves;
/// - where the volume has a second pair (`MoveSimulation+SecondPair`): nothing flows in it while its volume is a replica, what
///   differs is covered at all times, and it becomes Synchronized and equal on the host that serves in the end;
/// - in a healed world exactly one host serves, and the pair becomes Synchronized and equal, with the operator's help, in bounded time.
package final class MoveSimulation {
    package let seed: UInt64
    let replication: ReplicationWorld
    let options: RemoteOptions
    let moves: MoveOptions
    var random: RandomSource
    let sides: [MoveHost]
    var hostFaults: HostFaultInjector
    private var diskFaults: DiskFaultInjector
    var messages: [MoveMessage] = []
    /// What a step of a control plane has found.
    var found: String?
    var nextValue: UInt64 = 1
    var step = 0
    package internal(set) var coverage = SimulationCoverage()
    private let trace: ((String) -> Void)?

    static var volume: VolumeID { VolumeID(rawValue: 1) }
    static var pair: PairID { PairID(high: 7, low: 7) }
    /// The volume's other pair on the same host, whose target is there as well: it has a name of its own on each.
    static var secondPair: PairID { PairID(high: 7, low: 8) }
    static var peer: PeerID { PeerID(rawValue: 1) }
    static var synchronized: UInt8 { CopyState.synchronized.rawValue }
    static var suspended: UInt8 { CopyState.suspended.rawValue }
    static var failedover: UInt8 { CopyState.failedover.rawValue }

    /// Sets the world of a seed up; `run` does the rest.
    package init(seed: UInt64, limits: SimulationLimits = SimulationLimits(), trace: ((String) -> Void)? = nil) {
        self.seed = seed
        self.trace = trace
        options = RemoteOptions(seed: seed, limits: limits)
        moves = MoveOptions(seed: seed, limits: limits)
        hostFaults = HostFaultInjector(faults: options.hosts, random: HostFaults.random(seed: seed, limits: limits))
        diskFaults = DiskFaultInjector(options.hosts.disks)
        let worldSeed = limits.worldSeed(seed)
        random = RandomSource(seed: worldSeed ^ 0x30FE_5EED)
        replication = ReplicationWorld(seed: worldSeed, trace: trace)
        let options = options
        sides = replication.hosts.enumerated().map { MoveHost($1, isSecond: $0 == 1, options) }
    }

    func note(_ words: @autoclosure () -> String) {
        trace?("\(step) [\(replication.world.now / 1000) us] \(words())")
    }

    func failure(_ words: String) -> SimulationFailure {
        SimulationFailure(seed: seed, step: step, words: "moves: \(words)")
    }

    /// A step of a control plane, which cannot throw, has come to what must not be.
    func fail(_ words: String) { found = found ?? words }

    func other(than side: MoveHost) -> MoveHost { sides[side.isSecond ? 0 : 1] }

    /// The host that has the pair rightly.
    var holder: MoveHost { sides[0].right == .held ? sides[0] : sides[1] }

    /// Runs to the end; throws what a checker found.
    package func run() throws(SimulationFailure) {
        defer { coverage.decided(replication.hosts) }
        for side in sides { hostFaults.setClock(of: side.host) }
        for side in sides { start(side) }
        for _ in 0..<40 { try turn() }
        operate(holder, .activate, isForced: false)
        try calm()
        while step < options.stepCount {
            step += 1
            try takeStep()
        }
        try converge()
    }

    private func takeStep() throws(SimulationFailure) {
        startWhoIsDue()
        if random.chance(oneIn: options.sourceCrashOneIn) { return try crash(sides[0]) }
        if random.chance(oneIn: options.targetCrashOneIn) { return try crash(sides[1]) }
        if random.chance(oneIn: options.restartOneIn) { return try restartOne() }
        if random.chance(oneIn: options.operatorOneIn) { operateAtRandom() }
        if moves.hasSecondPair, random.chance(oneIn: options.operatorOneIn) { operateOnSecondAtRandom() }
        if random.chance(oneIn: moves.moveOneIn) { moveAtRandom() }
        if random.chance(oneIn: moves.takeOverOneIn) { takeOverAlone(sides[Int(random.below(2))]) }
        if random.chance(oneIn: options.restOneIn) { return try rest() }
        if random.chance(oneIn: options.calmOneIn) { return try calm() }
        befallHosts()
        if random.chance(oneIn: 2) { submit() }
        for _ in 0...random.below(6) { try turn() }
    }

    /// Perhaps something happens to one of the hosts.
    private func befallHosts() {
        if let words = hostFaults.disturbClocks(replication.hosts, &coverage) { note(words) }
        if let pause = hostFaults.pauseOne(of: replication.hosts, &coverage) {
            note("\(sides[pause.host].host.name) gets no core for \(pause.nanoseconds / 1_000_000) ms")
            sides[pause.host].branch?.workload.wait(pause.nanoseconds)
            // What has failed is not tried again before the host gets its turn.
            if sides[pause.host].mayFailUntil > replication.world.now {
                sides[pause.host].mayFailUntil += pause.nanoseconds
            }
        }
        let now = replication.world.now
        guard let mishap = diskFaults.inject(into: places, at: now, &hostFaults.random, &coverage) else { return }
        note(mishap.words)
        for side in sides where side.host === mishap.host {
            side.branch?.workload.excuse(readsOf: side.disk)
            guard let until = mishap.mayFailUntil else { continue }
            side.mayFailUntil = max(
                side.mayFailUntil,
                until + side.host.host.pausedUntil - min(now, side.host.host.pausedUntil)
            )
            side.branch?.workload.excuse()
        }
    }

    /// What may go wrong: the disks, as they are used now.
    private var places: [DiskFaultInjector.Place] {
        sides.flatMap { side -> [DiskFaultInjector.Place] in
            let hasPair = side.registry.entry == .pair
            let areas: [DiskFaultInjector.Place] = [
                .init(host: side.host, disk: side.metadata, purpose: .metadata),
                .init(host: side.host, disk: side.replicaMetadata, purpose: .replicaMetadata),
                .init(host: side.host, disk: side.undoArea, purpose: .undoArea),
            ]
            return [.init(host: side.host, disk: side.disk, purpose: hasPair ? .servingElement : .copy)]
                + areas.filter { ($0.purpose == .metadata) == hasPair }
        }
    }

    /// No disk does anything wrong any more.
    func healDisks() { diskFaults.liftAll(places) }

    /// The same for those of one host.
    func healDisks(of side: MoveHost) { diskFaults.liftAll(of: side.host) }

    /// Disks that were wrong for long enough are well again; a replica that has failed a flush has lost what that was to keep.
    private func observeDisks() {
        for name in diskFaults.lift(at: replication.world.now) { note("\(name) is well again") }
        for side in sides where side.disk.takeFailedFlush() {
            guard side.registry.entry == .replica else { continue }
            other(than: side).branch?.hasReplicaLostPower = true
            other(than: side).branch?.isLossKnown = false
        }
    }

    /// One turn of one engine and what the control planes do then, with every check that holds at all times.
    func turn() throws(SimulationFailure) {
        if sides.allSatisfy({ !$0.host.isUp }) { start(sides[0].downUntil < sides[1].downUntil ? sides[0] : sides[1]) }
        guard replication.step() else { throw failure("nothing will ever happen again") }
        observeDisks()
        for side in sides where side.host.isUp {
            observe(side)
            try takeAnswers(of: side)
            hear(side)
        }
        for side in sides where side.host.isUp {
            let delay = { [moves, replication] in replication.world.random.below(moves.stepDelayLimitNanoseconds) }
            for step in side.takeSteps(at: replication.world.now, delay) { step() }
        }
        try checkService()
        try checkSecondPairsRest()
        if let found { throw failure(found) }
    }

    // MARK: - Hosts

    func submit() {
        let serving = sides.filter { $0.servesHosts }
        guard !serving.isEmpty else { return }
        let side = serving[Int(random.below(UInt64(serving.count)))]
        guard let waiting = side.branch?.workload.waiting, waiting.count < options.depth else { return }
        let now = max(replication.world.now, side.host.host.pausedUntil)
        let words = side.branch?.workload.submit(
            to: side.host,
            Self.volume,
            on: side.disk,
            value: nextValue,
            at: now,
            isExcused: replication.world.now <= side.mayFailUntil,
            &random
        )
        guard let words else { return }
        nextValue += 1
        note("\(side.host.name): \(words)")
    }

    private func takeAnswers(of side: MoveHost) throws(SimulationFailure) {
        for number in side.host.takeAnswered() {
            if let flaw = side.branch?.workload.answered(number, by: side.host) {
                throw failure("\(side.host.name): \(flaw)")
            }
        }
        if let flaw = side.branch?.workload.overdue(at: replication.world.now) {
            throw failure("\(side.host.name): \(flaw)")
        }
    }

    /// What the engine of a host says of its pair, before the answers that hosts got in the same turn.
    private func observe(_ side: MoveHost) {
        guard side.registry.entry == .pair, let facts = side.facts else { return }
        let replica = other(than: side)
        let keepsFormer = replica.replicaMetadata.pairRecord?.hasUndo ?? false
        side.branch?.observe(facts.copyState, isReplicaUp: replica.host.isUp, keepsFormer: keepsFormer)
        if side.branch?.hasJustBroken == true { coverage[.hostPairsBroken] += 1 }
    }

    /// Looks at what the engine has told its control plane.
    private func hear(_ side: MoveHost) {
        for event in side.takeEvents() {
            switch event {
            case .takenOver:
                if side.right == .contested { side.right = .lost }
                returnPair(side)
            case .released: if side.stage == .unsure { side.stage = .idle }
            case .caughtUp: side.hasCaughtUp = true
            default: break
            }
        }
        // It has been told.
        if side.right == .contested, side.stage == .idle, !side.servesHosts { side.right = .lost }
        if side.hasCaughtUp, side.stage == .idle, side.registry.entry == .pair {
            side.hasCaughtUp = false
            if side.facts?.operation == .failback { handOver(side, .failback) }
        }
        for message in side.host.takeMessages() {
            let number = message.bytes.enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
            side.later { [unowned self] in receive(messages[number], side, message.token) }
        }
    }

    // MARK: - Commands

    func send(_ command: EngineCommand<SimulatedPlatform>, to side: MoveHost) {
        guard side.host.isUp else { return }
        _ = side.host.mailbox.send(command)
    }

    /// What cannot be refused.
    func expect(_ words: String, _ side: MoveHost) -> @Sendable (Result<Void, EngineRefusal>) -> Void {
        side.then { [unowned self] result in
            if case .failure(let refusal) = result { fail("\(side.host.name): \(words): refused: \(refusal)") }
        }
    }

    func number(_ message: MoveMessage) -> [UInt8] {
        messages.append(message)
        return (0..<8).map { UInt8(truncatingIfNeeded: (messages.count - 1) >> (8 * $0)) }
    }

    func operate(_ side: MoveHost, _ operation: ReplicationOperation, isForced: Bool) {
        note("operator asks \(side.host.name) for \(operation.name)\(isForced ? " by force" : "")")
        send(.operate(Self.pair, operation, isForced: isForced) { _ in }, to: side)
    }

    private func operateAtRandom() {
        let operations: [ReplicationOperation] = [
            .suspend, .resume, .resyncReplica, .deactivate, .activate, .split, .abort, .failback, .failback,
            .reverseRoles,
        ]
        let operation = operations[Int(random.below(UInt64(operations.count)))]
        let side = sides[Int(random.below(2))]
        // Where hosts move with it, the control plane does it.
        guard operation != .reverseRoles || side.facts?.copyState == .failedover else { return }
        operate(side, operation, isForced: random.chance(oneIn: 2))
    }

    private func moveAtRandom() {
        let kind: MoveKind = random.chance(oneIn: 3) ? .reverseRoles : .failover
        move(sides[Int(random.below(2))], kind, isForced: random.chance(oneIn: 2))
    }
}

/// How hosts of one run are moved, drawn from its seed.
struct MoveOptions {
    /// Each happens once in so many steps; 0 is never.
    var moveOneIn: UInt64
    var takeOverOneIn: UInt64
    /// Takeovers that are given up in the middle.
    var refusalOneIn: UInt64
    /// Longest time between two steps of a control plane.
    var stepDelayLimitNanoseconds: UInt64
    /// Extents that a host tells at most of what it has written alone.
    var extentLimit: Int
    /// The volume has another pair on each host.
    var hasSecondPair: Bool

    init(seed: UInt64) {
        var random = RandomSource(seed: seed ^ 0x30FE_0F0D_D500)
        func pick<Value>(_ values: [Value]) -> Value { values[Int(random.below(UInt64(values.count)))] }
        moveOneIn = pick([20, 60])
        takeOverOneIn = pick([0, 20, 60])
        refusalOneIn = pick([0, 8])
        stepDelayLimitNanoseconds = pick([1, 1_000_000, 300_000_000])
        extentLimit = pick([1, 4, 24])
        // Drawn apart: the course of a run without one is what it was before there were any.
        var apart = RandomSource(seed: seed ^ 0x5EC0_4D9A_1200)
        hasSecondPair = apart.chance(oneIn: 3)
    }
}
