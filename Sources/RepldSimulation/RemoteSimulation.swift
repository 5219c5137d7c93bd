internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// One run of a pair between two simulated hosts: the real engine on both, the real frames between them, a network with faults,
/// hosts with numbered writes, crashes and restarts of either side, and an operator.
///
/// Checked:
/// - every read against the history of the volume, also after crashes;
/// - whenever nothing is in flight: what differs is covered by a dirty bit, and a Synchronized target is equal;
/// - while the target counts as a usable image and nothing is being copied to it, it is an image of the source's past
///   (`WriteOrder`), also as a loss of power would leave it where the pair is asynchronous;
/// - host requests end within bounded time, and never fail, whatever becomes of the peer and of the network;
/// - in a healed world the pair becomes Synchronized by itself, or with one operation, within bounded time.
package final class RemoteSimulation {
    package let seed: UInt64
    let replication: ReplicationWorld
    let options: RemoteOptions
    var random: RandomSource
    let source: ReplicationHost
    let target: ReplicationHost
    let sourceDisk: SimulatedDisk
    let targetDisk: SimulatedDisk
    let metadata: SimulatedDisk
    let replicaMetadata: SimulatedDisk
    var history: WriteHistory
    var order: WriteOrder
    /// The writes before the last crash of the source, as long as the target's image is of those.
    var formerOrder: WriteOrder?
    /// The target has lost what it had not flushed, and has not been copied to since.
    var hasLostPower = false
    /// The source has found the link lost since then.
    var isLossKnown = false
    /// Requests that hosts wait for, by number on the source's host.
    var waiting: [Waiting] = []
    var nextValue: UInt64 = 1
    var step = 0
    package internal(set) var coverage = SimulationCoverage()
    private let trace: ((String) -> Void)?

    /// A request that a host waits for.
    struct Waiting {
        var number: Int
        var operation: HostOperation
        var sectors: Range<Int>
        var value: UInt64
        var isDurable: Bool
        var covered: [UInt64]
        var since: UInt64
    }

    static var volume: VolumeID { VolumeID(rawValue: 1) }
    static var pair: PairID { PairID(high: 7, low: 7) }
    static var peer: PeerID { PeerID(rawValue: 1) }
    /// Longer than the silence after which a link is lost, and than anything else that a host may have to wait for.
    static var patienceNanoseconds: UInt64 { 60_000_000_000 }

    package init(seed: UInt64, trace: ((String) -> Void)? = nil) {
        self.seed = seed
        self.trace = trace
        options = RemoteOptions(seed: seed)
        random = RandomSource(seed: seed ^ 0xB10C_5EED)
        replication = ReplicationWorld(seed: seed, hostNames: ["source", "target"], trace: trace)
        (source, target) = (replication.hosts[0], replication.hosts[1])
        sourceDisk = source.makeDisk("disk s", byteCount: options.volumeByteCount)
        metadata = source.makeDisk("metadata", byteCount: Int(options.layout.areaByteCount))
        targetDisk = target.makeDisk("disk t", byteCount: options.volumeByteCount)
        replicaMetadata = target.makeDisk("replica metadata", byteCount: Int(options.layout.areaByteCount))
        history = WriteHistory(sectorCount: sourceDisk.sectorCount)
        order = WriteOrder(values: Array(repeating: 0, count: sourceDisk.sectorCount))
    }

    func note(_ words: @autoclosure () -> String) {
        trace?("\(step) [\(replication.world.now / 1000) us] \(words())")
    }

    func failure(_ words: String) -> SimulationFailure {
        SimulationFailure(seed: seed, step: step, words: "between hosts: \(words)")
    }

    /// Runs to the end; throws what a checker found.
    package func run() throws(SimulationFailure) {
        try startTarget()
        try startSource(isNew: true)
        try operate(.activate)
        if random.chance(oneIn: 8) { replication.faults = options.network } else { try calm() }
        while step < options.stepCount {
            step += 1
            try takeStep()
        }
        try converge()
    }

    private func takeStep() throws(SimulationFailure) {
        if random.chance(oneIn: options.sourceCrashOneIn) { return try crashSource() }
        if random.chance(oneIn: options.targetCrashOneIn) { return try crashTarget() }
        if random.chance(oneIn: options.restartOneIn) { return try restartOne() }
        if random.chance(oneIn: options.operatorOneIn) { return try operateAtRandom() }
        if random.chance(oneIn: options.restOneIn) { return try rest() }
        if random.chance(oneIn: options.calmOneIn) { return try calm() }
        if random.chance(oneIn: 2) { submit() }
        for _ in 0...random.below(6) { try turn() }
    }

    /// One turn of one engine, with every check that holds at all times.
    func turn() throws(SimulationFailure) {
        guard replication.step() else { throw failure("nothing will ever happen again") }
        try takeAnswers()
        if source.isUp, source.engine?.copyState(of: Self.pair) == .synchronized {
            formerOrder = nil
            if isLossKnown { (hasLostPower, isLossKnown) = (false, false) }
        } else if source.isUp {
            isLossKnown = hasLostPower && target.isUp
        }
        if random.chance(oneIn: 20) { try checkImage() }
    }

    // MARK: - Hosts

    func submit() {
        guard source.isUp, waiting.count < options.depth else { return }
        let count = sourceDisk.sectorCount
        let length = random.chance(oneIn: 8) ? Int(1 + random.below(64)) : Int(1 + random.below(8))
        let first = Int(random.below(UInt64(count - length)))
        // Many writes of the same few sectors meet each other.
        let start = random.chance(oneIn: 2) ? first % 32 : first
        var sectors = start..<start + length
        let kind = random.below(10)
        let operation: HostOperation = kind < 6 ? .write : kind < 8 ? .read : .flush
        if operation == .flush { sectors = 0..<0 }
        let isDurable = operation == .write && random.chance(oneIn: 6)
        let value = nextValue
        guard
            let number = source.submit(operation, sectors, value: value, isDurable: isDurable, to: Self.volume)
        else { return }
        nextValue += 1
        note("\(operation) \(sectors) value \(value)\(isDurable ? " FUA" : "")")
        if operation == .write {
            history.submitted(value, value: value, sectors)
            order.began(value, sectors)
        }
        waiting.append(
            Waiting(
                number: number,
                operation: operation,
                sectors: sectors,
                value: value,
                isDurable: isDurable,
                covered: operation == .flush ? history.covered() : [],
                since: replication.world.now
            )
        )
    }

    private func takeAnswers() throws(SimulationFailure) {
        guard source.isUp else { return }
        for number in source.takeAnswered() {
            guard let place = waiting.firstIndex(where: { $0.number == number }) else { continue }
            let host = waiting.remove(at: place)
            let request = source.requests[host.number]
            if let failure = request.failure {
                throw self.failure("\(host.operation) \(host.value) of a host failed: \(failure)")
            }
            switch host.operation {
            case .write:
                history.acknowledged(host.value, host.sectors, isDurable: host.isDurable)
                order.acknowledged(host.value, host.sectors)
            case .flush: history.flushed(covering: host.covered)
            case .read:
                for (sector, value) in zip(host.sectors, request.values) where !history.readable(sector).contains(value)
                {
                    throw failure("a read finds \(value) in sector \(sector), not \(history.readable(sector))")
                }
            default: break
            }
        }
        if let host = waiting.first, replication.world.now - host.since > Self.patienceNanoseconds {
            throw failure("\(host.operation) \(host.value) of a host has waited for more than a minute")
        }
    }

    // MARK: - The operator

    private func operateAtRandom() throws(SimulationFailure) {
        guard source.isUp else { return }
        let operations: [ReplicationOperation] = [
            .suspend, .resume, .resyncReplica, .deactivate, .activate, .split, .abort,
        ]
        try operate(operations[Int(random.below(UInt64(operations.count)))])
    }

    func operate(_ operation: ReplicationOperation) throws(SimulationFailure) {
        note("operator asks for \(operation.name)")
        // The answer of one that is done at once comes when its record is durable; nobody waits for it here.
        _ = source.mailbox.send(.operate(Self.pair, operation, isForced: false) { _ in })
        for _ in 0..<4 { try turn() }
    }

    // MARK: - Lives

    func startTarget() throws(SimulationFailure) {
        if !target.isUp { target.start() }
        guard replication.addVolume(Self.volume, named: "copy", on: targetDisk, of: target) else {
            throw failure("the target's volume was refused")
        }
        let spec = ReplicaSpec<SimulatedPlatform>(
            volume: Self.volume,
            pair: Self.pair,
            name: "pair",
            metadata: target.element(replicaMetadata),
            record: record(on: replicaMetadata)
        )
        let answer: Result<Void, EngineRefusal>? = replication.ask(target) { .link(.addReplica(spec, answer: $0)) }
        guard case .success = answer else { throw failure("the replica was refused: \(String(describing: answer))") }
        let place = target.peerPlace
        guard case .success = replication.ask(target, { .link(.listenToPeers(place, answer: $0)) }) else {
            throw failure("the target cannot listen")
        }
    }

    func startSource(isNew: Bool) throws(SimulationFailure) {
        if !source.isUp { source.start() }
        guard replication.addVolume(Self.volume, named: "volume", on: sourceDisk, of: source) else {
            throw failure("the source's volume was refused")
        }
        var links = LinkSettings()
        links.compression = options.compression
        let peer = PeerSpec<SimulatedPlatform>(
            id: Self.peer,
            name: "target",
            handle: target.peerPlace,
            settings: links
        )
        guard case .success = replication.ask(source, { .link(.addPeer(peer, answer: $0)) }) else {
            throw failure("the peer was refused")
        }
        let found = record(on: metadata)
        let record = found ?? newRecord
        let area = metadata.bytes(0..<metadata.byteCount)
        let granule = UInt64(options.settings.granuleByteCount)
        let maps =
            found == nil
            ? RecoveredMaps.unknown(because: nil)
            : unsafe RecoveredMaps.read(area.span.bytes, record, granuleByteCount: granule)
        let spec = PairSpec<SimulatedPlatform>(
            volume: Self.volume,
            pair: Self.pair,
            name: "pair",
            target: .remote(Self.peer, targetDisk.geometry),
            metadata: source.element(metadata),
            record: record,
            maps: maps,
            isNew: found == nil,
            settings: options.settings
        )
        note("the pair is taken in with \(record)")
        guard case .success = replication.ask(source, { .addPair(spec, answer: $0) }) else {
            throw failure("the pair was refused")
        }
        let mode: Result<Void, EngineRefusal>? = replication.ask(source) { [options] answer in
            .link(
                .setMode(
                    Self.pair,
                    isAsynchronous: options.isAsynchronous,
                    recoveryPointNanoseconds: options.recoveryPointNanoseconds,
                    answer: answer
                )
            )
        }
        guard case .success = mode else { throw failure("the mode was refused") }
    }

    private var newRecord: PairRecord {
        PairRecord(
            sequence: 0,
            pair: Self.pair,
            volumeByteCount: UInt64(options.volumeByteCount),
            copyState: CopyState.initialized.rawValue,
            isClosedCleanly: false
        )
    }

    /// What a metadata area says; `nil` where it was never written.
    func record(on disk: SimulatedDisk) -> PairRecord? {
        let block = PairRecord.blockByteCount
        let first = disk.bytes(0..<block)
        let second = disk.bytes(block..<2 * block)
        switch unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes) {
        case .found(let record), .older(let record, _): return record
        case .blank, .lost: return nil
        }
    }
}

/// How one run between two hosts behaves, drawn from its seed.
struct RemoteOptions {
    var volumeByteCount: Int
    var settings: PairSettings
    var isAsynchronous: Bool
    var recoveryPointNanoseconds: UInt64
    var stepCount: Int
    var depth: Int
    /// Each happens once in so many steps; 0 is never.
    var sourceCrashOneIn: UInt64
    var targetCrashOneIn: UInt64
    var restartOneIn: UInt64
    var operatorOneIn: UInt64
    var restOneIn: UInt64
    var calmOneIn: UInt64
    var network: NetworkFaults
    var compression: CompressionMode

    init(seed: UInt64) {
        var random = RandomSource(seed: seed ^ 0x2E40_7E0F_D500)
        func pick<Value>(_ values: [Value]) -> Value { values[Int(random.below(UInt64(values.count)))] }
        volumeByteCount = pick([64 << 10, 256 << 10])
        let granule: UInt32 = pick([4096, 16384])
        settings = PairSettings(
            granuleByteCount: granule,
            targetTimeoutNanoseconds: 30_000_000_000,
            copyDepth: pick([1, 4]),
            copyChunkByteCount: pick([16384, 65536]),
            logExtentByteCount: 16384,
            logExtentCount: pick([6, 16])
        )
        isAsynchronous = random.chance(oneIn: 2)
        recoveryPointNanoseconds = pick([0, 2_000_000_000])
        stepCount = pick([300, 800])
        depth = pick([1, 4, 16])
        sourceCrashOneIn = pick([0, 100, 300])
        targetCrashOneIn = pick([0, 100, 300])
        restartOneIn = pick([0, 200])
        operatorOneIn = pick([0, 40])
        restOneIn = pick([30, 100])
        calmOneIn = pick([40, 120])
        network = NetworkFaults(seed: seed)
        compression = pick(CompressionMode.allCases)
    }

    var layout: MetadataLayout {
        MetadataLayout(volumeByteCount: UInt64(volumeByteCount), granuleByteCount: UInt64(settings.granuleByteCount))
    }
}
