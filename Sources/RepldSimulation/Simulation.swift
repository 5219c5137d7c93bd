internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// What a checker found wrong, in words that a person can follow.
package struct SimulationFailure: Error, CustomStringConvertible, Sendable {
    package var seed: UInt64
    package var step: Int
    package var words: String

    package var description: String { "seed \(seed), step \(step): \(words)" }
}

/// What a run did, for the table of what was covered.
package struct SimulationCoverage: Sendable, Hashable {
    package var writes = 0
    package var reads = 0
    package var flushes = 0
    package var zeroings = 0
    package var failedRequests = 0
    package var crashes = 0
    package var cleanRestarts = 0
    package var pairsBroken = 0
    package var synchronizations = 0
    package var readsServedByTarget = 0
    package var comparisonsAtRest = 0

    package init() {}

    /// The counts with their names, for a table.
    package var rows: [(name: String, count: Int)] {
        [
            ("host writes", writes), ("host reads", reads), ("host flushes", flushes),
            ("host discards and write-zeroes", zeroings), ("host requests that failed", failedRequests),
            ("crashes with loss of power", crashes), ("clean restarts", cleanRestarts), ("pairs broken", pairsBroken),
            ("pairs that became Synchronized", synchronizations), ("reads served by a target", readsServedByTarget),
            ("comparisons of all copies at rest", comparisonsAtRest),
        ]
    }

    package mutating func add(_ other: SimulationCoverage) {
        writes += other.writes
        reads += other.reads
        flushes += other.flushes
        zeroings += other.zeroings
        failedRequests += other.failedRequests
        crashes += other.crashes
        cleanRestarts += other.cleanRestarts
        pairsBroken += other.pairsBroken
        synchronizations += other.synchronizations
        readsServedByTarget += other.readsServedByTarget
        comparisonsAtRest += other.comparisonsAtRest
    }
}

/// One run: the real engine on one simulated host, a host workload, an operator, faults, crashes, and the checkers.
///
/// The same seed gives the same run on any machine: everything random comes from the world's generator, nothing from
/// time, addresses or the order of a dictionary.
///
/// Checked: the machine's invariants after every turn; every read against the write history; after a crash the source,
/// and each target that was Synchronized, hold nothing older than what was flushed; at rest a target differs from the
/// source only where a dirty bit says so, and not at all when Synchronized; host requests fail only when the source was
/// made to fail; every buffer comes back; and when all faults are healed, every pair becomes Synchronized within bounded
/// time. Not simulated yet: links, asynchronous mode, several hosts.
package final class Simulation {
    struct HostOperation {
        var number: UInt64
        var operation: RepldPair.HostOperation
        var sectors: Range<Int>
        var buffer: BufferID
        var isDurable: Bool
        /// A write-zeroes that is to fail rather than take long.
        var isFast: Bool
        /// Of a read: what each sector might have held when it was submitted.
        ///
        /// Of a flush: what it covers.
        var before: [[UInt64]]
        var covered: [UInt64]
    }

    struct SimulatedPair {
        var id: PairID
        var disk: SimulatedDisk
        var metadata: SimulatedDisk
        var isAttached = false
        /// The sequence of the record that this life began with.
        var sequenceAtStart: UInt64 = 0
        /// Its records may not say how it stands.
        var hasMetadataFailed = false
    }

    package let options: SimulationOptions
    let world: SimulatedWorld
    let source: SimulatedDisk
    var pairs: [SimulatedPair] = []
    var engine: Engine<SimulatedPlatform>
    var mailbox: Mailbox<SimulatedPlatform>
    var history: WriteHistory
    var inFlight: [HostOperation?]
    var nextNumber: UInt64 = 1
    var step = 0
    var hasSourceFailed = false
    let log: EventLog
    package internal(set) var coverage = SimulationCoverage()

    /// Collects engine events and, when tracing, the lines that a person follows.
    final class EventLog: @unchecked Sendable {
        var trace: ((String) -> Void)?
        var brokenCount = 0
        var synchronizedCount = 0
        var servedByTargetCount = 0
    }

    static var volumeID: VolumeID { VolumeID(rawValue: 1) }
    static var bufferClasses: [BufferPool.SizeClass] {
        [
            BufferPool.SizeClass(byteCount: 4096, count: 64),
            BufferPool.SizeClass(byteCount: 65536, count: 48),
        ]
    }

    /// Sets the world of a seed up; `run` does the rest.
    ///
    /// `trace` gets a line for everything that happens, at once, so that it is there when an invariant ends the process.
    package init(_ options: SimulationOptions, trace: ((String) -> Void)? = nil) {
        self.options = options
        world = SimulatedWorld(seed: options.seed)
        source = SimulatedDisk(name: "source", byteCount: options.volumeByteCount)
        source.faults.lacksZeroing = options.sourceLacksZeroing
        history = WriteHistory(sectorCount: options.volumeByteCount / SimulatedDisk.sectorByteCount)
        inFlight = Array(repeating: nil, count: options.depth)
        log = EventLog()
        log.trace = trace
        for index in 0..<options.pairCount {
            let disk = SimulatedDisk(name: "target \(index)", byteCount: options.volumeByteCount)
            disk.faults.lacksZeroing = options.targetLacksZeroing
            pairs.append(
                SimulatedPair(
                    id: PairID(high: options.seed, low: UInt64(index)),
                    disk: disk,
                    metadata: SimulatedDisk(name: "metadata \(index)", byteCount: PairRecord.areaByteCount)
                )
            )
        }
        mailbox = Mailbox()
        engine = Self.makeEngine(world, mailbox, log)
    }

    static func makeEngine(
        _ world: SimulatedWorld,
        _ mailbox: Mailbox<SimulatedPlatform>,
        _ log: EventLog
    ) -> Engine<SimulatedPlatform> {
        Engine(
            platform: SimulatedPlatform(world: world),
            mailbox: mailbox,
            bufferClasses: bufferClasses
        ) { event in
            if case .pairBroken = event.kind { log.brokenCount += 1 }
            if case .sourceReadServedByTarget = event.kind { log.servedByTargetCount += 1 }
            if case .copyStateChanged(_, .synchronized) = event.kind { log.synchronizedCount += 1 }
            log.trace?("    event: \(event.kind)")
        }
    }

    func note(_ words: @autoclosure () -> String) {
        log.trace?("\(step) [\(world.now / 1000) us] \(words())")
    }

    func failure(_ words: String) -> SimulationFailure {
        SimulationFailure(seed: options.seed, step: step, words: words)
    }

    /// Runs to the end; throws what a checker found.
    package func run() throws(SimulationFailure) {
        try attachAll(isFirst: true)
        while step < options.stepCount {
            step += 1
            try takeStep()
        }
        try converge()
        coverage.pairsBroken = log.brokenCount
        coverage.readsServedByTarget = log.servedByTargetCount
        coverage.synchronizations = log.synchronizedCount
    }

    private func takeStep() throws(SimulationFailure) {
        if world.random.chance(oneIn: options.crashOneIn) { return try crash() }
        if world.random.chance(oneIn: options.restartOneIn) { return try restartCleanly() }
        if world.random.chance(oneIn: options.restOneIn) { return try rest() }
        if world.random.chance(oneIn: options.operatorOneIn) { return try operate() }
        injectFaults()
        if world.random.chance(oneIn: 3) {
            try turn()
        } else {
            submit()
        }
    }

    /// One turn of the engine, with every check that holds at all times.
    func turn() throws(SimulationFailure) {
        guard engine.turn() else { throw failure("the engine ended without being told to") }
        engine.checkInvariants()
        while let answer = engine.embedderAnswers.popFirst() { try answered(answer) }
    }

    // MARK: - Faults

    private func injectFaults() {
        if world.random.chance(oneIn: options.targetFailureOneIn) {
            let pair = pick()
            let isFailing = pairs[pair].disk.faults.failure != nil
            let failures: [IOFailure] = [.inputOutput, .noSpace, .gone]
            pairs[pair].disk.faults.failure = isFailing ? nil : failures[Int(world.random.below(3))]
            note("\(pairs[pair].disk.name) \(isFailing ? "heals" : "fails")")
        }
        if world.random.chance(oneIn: options.targetStuckOneIn) {
            let pair = pick()
            pairs[pair].disk.faults.isStuck.toggle()
            note("\(pairs[pair].disk.name) stuck: \(pairs[pair].disk.faults.isStuck)")
        }
        if world.random.chance(oneIn: options.sourceBadSectorOneIn) {
            let sector = Int(world.random.below(UInt64(options.volumeByteCount / SimulatedDisk.sectorByteCount)))
            source.spoil(sector: sector)
            hasSourceFailed = true
            note("source sector \(sector) goes bad")
        }
        if options.sourceFlakyOneIn > 0, world.random.chance(oneIn: 100) {
            source.faults.failsOneIn = source.faults.failsOneIn == 0 ? options.sourceFlakyOneIn : 0
            hasSourceFailed = true
            note("source fails once in \(source.faults.failsOneIn)")
        }
        if world.random.chance(oneIn: options.metadataFailureOneIn) {
            let pair = pick()
            let isFailing = pairs[pair].metadata.faults.failure != nil
            pairs[pair].metadata.faults.failure = isFailing ? nil : .inputOutput
            pairs[pair].hasMetadataFailed = true
            // Without a durable record, writes may have to be refused.
            hasSourceFailed = true
            note("\(pairs[pair].metadata.name) \(isFailing ? "heals" : "fails")")
        }
    }

    func pick() -> Int { Int(world.random.below(UInt64(pairs.count))) }

    func healAll() {
        source.faults.failsOneIn = 0
        for pair in pairs {
            pair.disk.faults.failure = nil
            pair.disk.faults.isStuck = false
            pair.metadata.faults.failure = nil
        }
    }

    // MARK: - The operator

    private func operate() throws(SimulationFailure) {
        let pair = pick()
        guard pairs[pair].isAttached else { return try attach(pair, isNew: true) }
        let id = pairs[pair].id
        switch world.random.below(8) {
        case 0...4:
            note("operator starts pair \(pair)")
            try start(id)
        case 5, 6:
            note("operator suspends pair \(pair)")
            _ = try ask { .operate(id, .suspend, isForced: false, answer: $0) }
        default:
            // Detaching waits for what is stuck on the target.
            pairs[pair].disk.faults.isStuck = false
            note("operator detaches pair \(pair)")
            _ = try ask { .detachPair(id, answer: $0) }
            pairs[pair].isAttached = false
        }
    }

    /// Starts the copy of a pair from wherever it stands.
    func start(_ id: PairID) throws(SimulationFailure) {
        for operation in [ReplicationOperation.activate, .resume, .resyncReplica] {
            let result = try ask { .operate(id, operation, isForced: false, answer: $0) }
            if case .success = result { return }
        }
    }

    /// Holds a command's answer: the engine and the asker are on one thread here.
    final class AnswerBox<Value>: @unchecked Sendable {
        var value: Value?
    }

    func ask<Answer: Sendable>(
        _ command: (@escaping @Sendable (Result<Answer, EngineRefusal>) -> Void) -> EngineCommand<SimulatedPlatform>
    ) throws(SimulationFailure) -> Result<Answer, EngineRefusal> {
        let box = AnswerBox<Result<Answer, EngineRefusal>>()
        guard mailbox.send(command({ box.value = $0 })) else { throw failure("the engine takes no commands") }
        for _ in 0..<100_000 {
            try turn()
            if let value = box.value { return value }
        }
        throw failure("a command was never answered")
    }
}
