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
/// - the two sides never take each other's histories for different ones;
/// - host requests end within bounded time, and never fail, whatever becomes of the peer and of the network, unless the source is
///   half restored: then those fail that need what the target has and cannot be asked for;
/// - from the moment a restore begins hosts find what the target held then, overlaid with what they have written since: also after
///   crashes in the middle, and in the end on the source alone;
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
    /// Where the replica keeps what is overwritten.
    let undoArea: SimulatedDisk
    /// What the image that is kept there is of, where the source counts the copy as over already.
    var keptOrder: WriteOrder?
    /// That image had lost what was not flushed.
    var hasKeptLoss = false
    var workload: HostWorkload
    /// The writes before the last crash of the source, as long as the target's image is of those.
    var formerOrder: WriteOrder?
    /// The target has lost what it had not flushed, and has not been copied to since.
    var hasLostPower = false
    /// The source has found the link lost since then.
    var isLossKnown = false
    let restore = RestoreModel()
    var aimed: AimedFaults
    var hostFaults: HostFaultInjector
    var diskFaults: DiskFaultInjector
    /// Requests of hosts may fail until then, because a disk does.
    private var mayFailUntil: UInt64 = 0
    /// A crash of the source is aimed: so many turns are left until it comes.
    var turnsToCrash: UInt64?
    /// The last backups, and what was put back and has not been noticed yet.
    var sourceBackup: HostBackup?
    var targetBackup: HostBackup?
    var older: OlderSide?
    /// Since then the pair was once not Synchronized.
    var hasMetOlder = false
    /// The pair is Invalid, and rightly.
    var hasNoticedOlder = false
    private var lastState: CopyState?
    var nextValue: UInt64 = 1
    var step = 0
    package internal(set) var coverage = SimulationCoverage()
    private let trace: ((String) -> Void)?

    static var volume: VolumeID { VolumeID(rawValue: 1) }
    static var pair: PairID { PairID(high: 7, low: 7) }
    static var peer: PeerID { PeerID(rawValue: 1) }

    /// Sets the world of a seed up; `run` does the rest.
    package init(seed: UInt64, limits: SimulationLimits = SimulationLimits(), trace: ((String) -> Void)? = nil) {
        self.seed = seed
        self.trace = trace
        options = RemoteOptions(seed: seed, limits: limits)
        aimed = AimedFaults(seed: seed, limits: limits)
        if limits.without.contains(.crashes) { aimed = .off }
        hostFaults = HostFaultInjector(faults: options.hosts, random: HostFaults.random(seed: seed, limits: limits))
        diskFaults = DiskFaultInjector(options.hosts.disks)
        let worldSeed = limits.worldSeed(seed)
        random = RandomSource(seed: worldSeed ^ 0xB10C_5EED)
        replication = ReplicationWorld(seed: worldSeed, hostNames: ["source", "target"], trace: trace)
        (source, target) = (replication.hosts[0], replication.hosts[1])
        sourceDisk = source.makeDisk("disk s", byteCount: options.volumeByteCount)
        metadata = source.makeDisk("metadata", byteCount: Int(options.layout.areaByteCount))
        targetDisk = target.makeDisk("disk t", byteCount: options.volumeByteCount)
        replicaMetadata = target.makeDisk("replica metadata", byteCount: Int(options.layout.areaByteCount))
        undoArea = target.makeDisk("undo area", byteCount: Int(options.undoLayout.areaByteCount))
        workload = HostWorkload(sectorCount: sourceDisk.sectorCount)
    }

    /// Steps until everything heals.
    package var stepCount: Int { options.stepCount }

    func note(_ words: @autoclosure () -> String) {
        trace?("\(step) [\(replication.world.now / 1000) us] \(words())")
    }

    func failure(_ words: String) -> SimulationFailure {
        SimulationFailure(seed: seed, step: step, words: "between hosts: \(words)")
    }

    /// Runs to the end; throws what a checker found.
    package func run() throws(SimulationFailure) {
        defer { coverage.decided(replication.hosts) }
        for host in replication.hosts { hostFaults.setClock(of: host) }
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
        if random.chance(oneIn: options.sourceCrashOneIn) || turnsToCrash == 0 { return try crashSource() }
        if random.chance(oneIn: options.targetCrashOneIn) { return try crashTarget() }
        if random.chance(oneIn: options.restartOneIn) { return try restartOne() }
        if random.chance(oneIn: options.operatorOneIn) { return try operateAtRandom() }
        if random.chance(oneIn: options.restOneIn) { return try rest() }
        if random.chance(oneIn: options.calmOneIn) { return try calm() }
        befallHosts()
        backUp()
        if random.chance(oneIn: 2) { submit() }
        for _ in 0...random.below(6) where turnsToCrash != 0 { try turn() }
    }

    /// Perhaps something happens to one of the hosts.
    private func befallHosts() {
        if let words = hostFaults.disturbClocks(replication.hosts, &coverage) { note(words) }
        if let pause = hostFaults.pauseOne(of: replication.hosts, &coverage) {
            note("\(replication.hosts[pause.host].name) gets no core for \(pause.nanoseconds / 1_000_000) ms")
            if replication.hosts[pause.host] === source { workload.wait(pause.nanoseconds) }
        }
        let now = replication.world.now
        guard let mishap = diskFaults.inject(into: places, at: now, &hostFaults.random, &coverage) else { return }
        note(mishap.words)
        workload.excuse(readsOf: sourceDisk)
        guard let until = mishap.mayFailUntil else { return }
        mayFailUntil = max(mayFailUntil, until)
        workload.excuse()
    }

    private var places: [DiskFaultInjector.Place] {
        [
            .init(host: source, disk: sourceDisk, purpose: .servingElement),
            .init(host: source, disk: metadata, purpose: .metadata),
            .init(host: target, disk: targetDisk, purpose: .copy),
            .init(host: target, disk: replicaMetadata, purpose: .replicaMetadata),
            .init(host: target, disk: undoArea, purpose: .undoArea),
        ]
    }

    /// No disk does anything wrong any more.
    func healDisks() { diskFaults.liftAll(places) }

    /// Disks that were wrong for long enough are well again; a target that has failed a flush has lost what that was to keep.
    private func observeDisks() {
        for name in diskFaults.lift(at: replication.world.now) { note("\(name) is well again") }
        if targetDisk.takeFailedFlush() { (hasLostPower, isLossKnown) = (true, false) }
    }

    /// The record of a new state is on its way for a short time: of the seeds that aim, some crash the source then.
    private func aimCrash() {
        if let turns = turnsToCrash { turnsToCrash = turns > 0 ? turns - 1 : 0 }
        defer { lastState = state }
        if state == .broken, lastState != .broken { coverage[.hostPairsBroken] += 1 }
        guard state != lastState, turnsToCrash == nil, aimed.strikes(oneIn: 3) else { return }
        turnsToCrash = 1 + aimed.random.below(12)
    }

    /// One turn of one engine, with every check that holds at all times.
    func turn() throws(SimulationFailure) {
        guard replication.step() else { throw failure("nothing will ever happen again") }
        observeDisks()
        try takeAnswers()
        try observeRestore()
        aimCrash()
        if source.isUp, source.engine?.copyState(of: Self.pair) == .synchronized {
            if let former = formerOrder, isKept { keptOrder = keptOrder ?? former }
            formerOrder = nil
            if isLossKnown { (hasKeptLoss, hasLostPower, isLossKnown) = (isKept, false, false) }
        } else if source.isUp {
            isLossKnown = hasLostPower && target.isUp
        }
        try observeOlder()
        if !isKept { (keptOrder, hasKeptLoss) = (nil, false) }
        if random.chance(oneIn: 20) { try checkImage() }
    }

    // MARK: - Hosts

    func submit() {
        guard source.isUp, workload.waiting.count < options.depth else { return }
        let now = max(replication.world.now, source.host.pausedUntil)
        guard let words = submit(at: now) else { return }
        nextValue += 1
        note(words)
    }

    private func submit(at now: UInt64) -> String? {
        let isExcused = replication.world.now <= mayFailUntil
        return workload.submit(
            to: source,
            Self.volume,
            on: sourceDisk,
            value: nextValue,
            at: now,
            isExcused: isExcused,
            &random
        )
    }

    private func takeAnswers() throws(SimulationFailure) {
        guard source.isUp else { return }
        for number in source.takeAnswered() {
            if let flaw = workload.answered(number, by: source, mayFail: mayFail) { throw failure(flaw) }
        }
        if let flaw = workload.overdue(at: replication.world.now) { throw failure(flaw) }
    }

    // MARK: - The operator

    private func operateAtRandom() throws(SimulationFailure) {
        guard source.isUp else { return }
        let operations: [ReplicationOperation] = [
            .suspend, .resume, .resyncReplica, .deactivate, .activate, .split, .abort, .restoreFromReplica,
            .restoreFromReplica,
        ]
        try operate(operations[Int(random.below(UInt64(operations.count)))], isForced: random.chance(oneIn: 4))
    }

    func operate(_ operation: ReplicationOperation, isForced: Bool = false) throws(SimulationFailure) {
        note("operator asks for \(operation.name)\(isForced ? ", forced" : "")")
        // The answer of one that is done at once comes when its record is durable; nobody waits for it here.
        _ = source.mailbox.send(.operate(Self.pair, operation, isForced: isForced) { _ in })
        for _ in 0..<4 { try turn() }
    }

    // MARK: - Lives

    private func boot(_ host: ReplicationHost) {
        guard !host.isUp else { return }
        hostFaults.setClock(of: host)
        host.start()
    }

    func startTarget() throws(SimulationFailure) {
        boot(target)
        guard replication.addVolume(Self.volume, named: "copy", on: targetDisk, of: target) else {
            throw failure("the target's volume was refused")
        }
        let record = replicaMetadata.pairRecord
        var spec = ReplicaSpec<SimulatedPlatform>(
            volume: Self.volume,
            pair: Self.pair,
            name: "pair",
            metadata: target.element(replicaMetadata),
            record: record
        )
        if let record { spec.recordBlock = replicaMetadata.block(of: record) }
        if options.settings.keepsUndo {
            spec.undo = options.recoverUndo(undoArea, record)
            spec.undoArea = target.element(undoArea)
            spec.granuleByteCount = options.settings.granuleByteCount
        }
        let answer: Result<Void, EngineRefusal>? = replication.ask(target) { [spec] in
            .link(.addReplica(spec, answer: $0))
        }
        guard case .success = answer else { throw failure("the replica was refused: \(String(describing: answer))") }
        let place = target.peerPlace
        guard case .success = replication.ask(target, { .link(.listenToPeers(place, answer: $0)) }) else {
            throw failure("the target cannot listen")
        }
    }

    func startSource(isNew: Bool) throws(SimulationFailure) {
        boot(source)
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
        let found = metadata.pairRecord
        let record = found ?? newRecord
        let area = metadata.bytes(0..<metadata.byteCount)
        let granule = UInt64(options.settings.granuleByteCount)
        let maps =
            found == nil
            ? RecoveredMaps.unknown(because: nil)
            : unsafe RecoveredMaps.read(area.span.bytes, record, granuleByteCount: granule)
        var spec = PairSpec<SimulatedPlatform>(
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
        spec.generation = replication.nextGeneration()
        note("the pair is taken in with \(record)")
        guard case .success = replication.ask(source, { [spec] in .addPair(spec, answer: $0) }) else {
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
    var hosts: HostFaults
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
        hosts = HostFaults(seed: seed)
        compression = pick(CompressionMode.allCases)
        // Not drawn, so that what a seed has found once it finds again.
        settings.recoversByItself = seed % 16 != 11
        settings.keepsUndo = seed % 4 != 1
    }

    /// Every other seed with replicas that keep what is overwritten.
    var undoLayout: UndoLayout {
        UndoLayout(
            volumeByteCount: UInt64(volumeByteCount),
            granuleByteCount: UInt64(settings.granuleByteCount)
        )
    }

    /// What the area of a replica says; `nil` where the record counts on nothing that is there.
    func findUndo(_ area: SimulatedDisk, _ record: PairRecord) -> RecoveredUndo? {
        let head = area.bytes(0..<Int(UndoLayout.pageOffset(undoLayout.pageCount)))
        let granule = UInt64(settings.granuleByteCount)
        return unsafe RecoveredUndo.read(head.span.bytes, record, granuleByteCount: granule)
    }

    /// The same as a daemon finds it when it is started: one that is not counted on is emptied.
    func recoverUndo(_ area: SimulatedDisk, _ record: PairRecord?) -> RecoveredUndo? {
        if let undo = record.flatMap({ findUndo(area, $0) }) { return undo }
        area.overwrite([UInt8](repeating: 0, count: area.byteCount), at: 0)
        return nil
    }

    var layout: MetadataLayout {
        MetadataLayout(volumeByteCount: UInt64(volumeByteCount), granuleByteCount: UInt64(settings.granuleByteCount))
    }
}
