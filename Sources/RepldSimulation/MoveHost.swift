internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// One host of a `MoveSimulation`: its disks, what its control plane has on stable storage, and what that is at.
///
/// The control plane is a chain of steps. Each follows the answer of the one before after some time, and none follows over a
/// crash: what counts then is the registry.
///
/// Unchecked: engines answer on the thread of the simulation.
final class MoveHost: @unchecked Sendable {
    /// What the registry has the one pair as.
    enum Entry { case pair, replica }

    struct Registry {
        var entry: Entry
        /// The peer knows that this host has taken the pair over.
        var isPeerMet = true
        /// The volume's second pair rests, and goes on when the volume is a source again.
        var isSecondPairResting = false
    }

    enum Stage {
        case idle
        /// Hosts are kept away, and the peer is to take the pair over.
        case handingOver
        /// The peer was asked, and nobody knows whether it has done so.
        case unsure
        case takingOver
        /// The peer has the pair: this host tells what it knows, and becomes the replica.
        case returning
    }

    /// Whether hosts may be served here.
    enum Right {
        case held
        /// The peer took the pair over while this host served others and could not be asked: it may do so until it is told.
        case contested
        case lost
    }

    /// What hosts know of the volume as this host has served it.
    struct Branch {
        var workload: HostWorkload
        /// What the replica is an image of, where that is not what is served now.
        var formerOrder: WriteOrder?
        /// What the replica had to hold when the pair was last Synchronized, once it is not any more.
        var parting: WriteHistory?
        var isSynchronized = false
        var isBroken = false
        var hasJustBroken = false
        /// The replica has lost what it had not flushed, and has not been copied to since; this host has found the link lost since.
        var hasReplicaLostPower = false
        var isLossKnown = false

        /// What the engine says of the pair now.
        ///
        /// `keepsFormer`: the replica has not heard yet that the copy is over, and would take it back.
        mutating func observe(_ state: CopyState, isReplicaUp: Bool, keepsFormer: Bool) {
            (isBroken, hasJustBroken) = (state == .broken, state == .broken && !isBroken)
            guard state == .synchronized else {
                part()
                isLossKnown = hasReplicaLostPower && isReplicaUp
                return
            }
            isSynchronized = true
            parting = nil
            if !keepsFormer { formerOrder = nil }
            if isLossKnown { (hasReplicaLostPower, isLossKnown) = (false, false) }
        }

        /// The pair is not Synchronized any more: from here on the replica may lack what hosts are told.
        mutating func part() {
            if isSynchronized { parting = workload.history }
            isSynchronized = false
        }

        /// The daemon is gone: what the replica holds is of the time before.
        mutating func end() {
            part()
            formerOrder = formerOrder ?? workload.order
        }
    }

    private struct Step {
        var life: Int
        var dueAt: UInt64?
        var body: () -> Void
    }

    /// Carries what is not sendable into an answer: there is one thread.
    private struct Unchecked<Value>: @unchecked Sendable {
        let value: Value
    }

    let host: ReplicationHost
    /// The pair's second element is here.
    let isSecond: Bool
    let disk: SimulatedDisk
    let metadata: SimulatedDisk
    let replicaMetadata: SimulatedDisk
    /// Where a replica keeps what its peer overwrites.
    let undoArea: SimulatedDisk
    /// The target of the volume's second pair, and that pair's metadata; unused in runs without one.
    let secondTarget: SimulatedDisk
    let secondMetadata: SimulatedDisk
    var registry: Registry
    var stage = Stage.idle
    var right: Right
    var branch: Branch?
    /// A failback has nothing left to copy, and the peer has not been asked yet.
    var hasCaughtUp = false
    /// What it takes over is what a copy had been brought back to.
    var hasTakenBack = false
    /// Requests of its hosts may fail until then, because a disk does.
    var mayFailUntil: UInt64 = 0
    /// When it is started again, while it is down.
    var downUntil: UInt64 = 0
    /// Events that have been looked at.
    private var seenEventCount = 0
    private var life = 0
    private var steps: [Step] = []

    init(_ host: ReplicationHost, isSecond: Bool, _ options: RemoteOptions) {
        self.host = host
        self.isSecond = isSecond
        disk = host.makeDisk("disk of \(host.name)", byteCount: options.volumeByteCount)
        metadata = host.makeDisk("metadata of \(host.name)", byteCount: Int(options.layout.areaByteCount))
        replicaMetadata = host.makeDisk("replica metadata of \(host.name)", byteCount: PairRecord.areaByteCount)
        undoArea = host.makeDisk("undo area of \(host.name)", byteCount: Int(options.undoLayout.areaByteCount))
        secondTarget = host.makeDisk("second target of \(host.name)", byteCount: options.volumeByteCount)
        secondMetadata = host.makeDisk("second metadata of \(host.name)", byteCount: Int(options.layout.areaByteCount))
        registry = Registry(entry: isSecond ? .replica : .pair)
        right = isSecond ? .lost : .held
        if !isSecond { branch = Branch(workload: HostWorkload(sectorCount: disk.sectorCount)) }
    }

    var servesHosts: Bool { host.engine?.servesHosts(MoveSimulation.volume) == true }
    var facts: PairFacts? { host.engine?.facts(of: MoveSimulation.pair) }
    var secondFacts: PairFacts? { host.engine?.facts(of: MoveSimulation.secondPair) }

    /// The daemon is gone, and with it whatever its control plane was at.
    func die() {
        life += 1
        steps = []
        stage = .idle
        hasCaughtUp = false
        seenEventCount = host.events.count
    }

    func takeEvents() -> [EngineEvent.Kind] {
        defer { seenEventCount = host.events.count }
        return host.events[seenEventCount...].map(\.kind)
    }

    // MARK: - Steps

    /// What is to follow an answer.
    func then<Value: Sendable>(_ body: @escaping (Value) -> Void) -> @Sendable (Value) -> Void {
        let body = Unchecked(value: body)
        let life = life
        return { [self] value in steps.append(Step(life: life, dueAt: nil, body: { body.value(value) })) }
    }

    /// What is to follow this step.
    func later(_ body: @escaping () -> Void) { steps.append(Step(life: life, dueAt: nil, body: body)) }

    /// Takes the steps that are due, in the order in which they became possible; `delay` draws how long one takes to come.
    func takeSteps(at now: UInt64, _ delay: () -> UInt64) -> [() -> Void] {
        steps.removeAll { $0.life != life }
        for index in steps.indices where steps[index].dueAt == nil { steps[index].dueAt = now + delay() }
        let due = steps.filter { ($0.dueAt ?? 0) <= now }
        steps.removeAll { ($0.dueAt ?? 0) <= now }
        return due.map(\.body)
    }
}
