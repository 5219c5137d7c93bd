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

/// One run: the real engine on one simulated host, workloads on the volume and on the targets' own exports, an operator
/// who asks for every operation of the table at any time, faults, crashes, and the checkers.
///
/// The same seed gives the same run on any machine: everything random comes from the world's generator, nothing from
/// time, addresses or the order of a dictionary.
///
/// There is one write history for each *image*: the volume's follows the primary from element to element, and a target
/// that is its own hosts' (Fractured, Split) has one as well. Checked:
/// - the machine's invariants after every turn; every read against the history of its image;
/// - every verdict on an operation against the table, and that what was accepted ends once, within bounded time;
/// - where the primary moves: nothing acknowledged is lost where the two were in sync, and elsewhere only what a dirty bit
///   covers differs, and what is found there is a usable image, with all that its own hosts wrote;
/// - after a crash: the element that the records choose is the one that served hosts, each image holds nothing older than
///   what was flushed, and no target that was its hosts' is taken from them;
/// - at rest: the elements differ only where a dirty bit says so, and not at all when Synchronized;
/// - a verify finds every sector of a target that rotted, and never any other; ResyncReplica repairs what it found;
/// - host requests fail only where an element or a metadata area was made to fail; every buffer comes back; and when all
///   faults are healed, every pair is brought back to Synchronized by operations, within bounded time.
///
/// Not simulated here: pairs between hosts, asynchronous mode.
package final class Simulation {
    package let options: SimulationOptions
    let world: SimulatedWorld
    let host: SimulatedHost
    /// The first element of every pair: it serves hosts, except while a pair has moved them to its second.
    var volumeDisk: SimulatedDisk
    var pairs: [SimulatedPair] = []
    var engine: Engine<SimulatedPlatform>
    var mailbox: Mailbox<SimulatedPlatform>
    /// What hosts of the volume may find.
    var history: WriteHistory
    /// A disk lost its cache in the last turn, and the engine hears of it in the next.
    var hasUntoldLoss = false
    /// Turns of the engine so far, and the one behind which a crash is due.
    var turnCount: UInt64 = 0
    var crashAtTurn: UInt64?
    var aimed: AimedFaults
    var inFlight: [HostOperation?]
    var nextNumber: UInt64 = 1
    var step = 0
    /// Metadata areas have failed: until this time writes may be refused.
    var metadataTroubleUntil: UInt64 = 0
    /// Sectors of a target that have rotted since it was last known to be equal, by pair: what a verify may find.
    var rotten: (pair: Int, sectors: Set<Int>)?
    /// What the last verify found that looked at everything.
    var lastVerified: Set<Int>?
    let log: EventLog
    package internal(set) var coverage = SimulationCoverage()

    /// Collects engine events and, when tracing, the lines that a person follows.
    final class EventLog: @unchecked Sendable {
        var trace: ((String) -> Void)?
        var brokenCount = 0
        var synchronizedCount = 0
        var servedByTargetCount = 0
        /// Operations that ended since the last look.
        var ended: [(pair: PairID, operation: ReplicationOperation, failure: OperationFailure?)] = []
        var verified: [(pair: PairID, report: VerifyReport, failure: VerifyFailure?)] = []
    }

    static var volumeID: VolumeID { VolumeID(rawValue: 1) }
    static var bufferClasses: [BufferPool.SizeClass] {
        [
            BufferPool.SizeClass(byteCount: 4096, count: 64),
            BufferPool.SizeClass(byteCount: 65536, count: 48),
        ]
    }
    /// Requests that may be in flight on the targets' own exports.
    static var targetDepth: Int { 8 }

    /// Sets the world of a seed up; `run` does the rest.
    ///
    /// `trace` gets a line for everything that happens, at once, so that it is there when an invariant ends the process.
    package init(_ options: SimulationOptions, trace: ((String) -> Void)? = nil) {
        self.options = options
        aimed = options.aimed
        world = SimulatedWorld(seed: options.worldSeed)
        host = world.addHost("host")
        host.examinationLimitNanoseconds = options.examinationLimitNanoseconds
        volumeDisk = SimulatedDisk(name: "disk 0", byteCount: options.volumeByteCount)
        volumeDisk.faults.lacksZeroing = options.sourceLacksZeroing
        history = WriteHistory(sectorCount: options.volumeByteCount / SimulatedDisk.sectorByteCount)
        inFlight = Array(repeating: nil, count: options.depth + Self.targetDepth)
        log = EventLog()
        log.trace = trace
        for index in 0..<options.pairCount {
            let disk = SimulatedDisk(name: "disk \(index + 1)", byteCount: options.volumeByteCount)
            disk.faults.lacksZeroing = options.targetLacksZeroing
            pairs.append(
                SimulatedPair(
                    id: PairID(high: options.seed, low: UInt64(index)),
                    second: disk,
                    metadata: SimulatedDisk(name: "metadata \(index)", byteCount: Int(options.layout.areaByteCount)),
                    copy: Self.copySettings(options, ofPair: index)
                )
            )
            pairs[index].undoArea = Self.undoArea(options, ofPair: index)
        }
        mailbox = Mailbox()
        engine = Self.makeEngine(host, mailbox, log)
    }

    static func makeEngine(
        _ host: SimulatedHost,
        _ mailbox: Mailbox<SimulatedPlatform>,
        _ log: EventLog
    ) -> Engine<SimulatedPlatform> {
        log.ended.removeAll()
        log.verified.removeAll()
        return Engine(
            platform: SimulatedPlatform(host: host),
            mailbox: mailbox,
            bufferClasses: bufferClasses
        ) { event in
            switch event.kind {
            case .pairBroken: log.brokenCount += 1
            case .sourceReadServedByTarget: log.servedByTargetCount += 1
            case .copyStateChanged(_, .synchronized): log.synchronizedCount += 1
            case .operationEnded(let operation, let failure):
                if let pair = event.pair { log.ended.append((pair, operation, failure)) }
            case .verifyEnded(let report, let failure):
                if let pair = event.pair { log.verified.append((pair, report, failure)) }
            default: break
            }
            log.trace?("    event: \(event.pair.map { "\($0.low) " } ?? "")\(event.kind)")
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
        coverage[.pairsBroken] = log.brokenCount
        coverage[.readsServedByTarget] = log.servedByTargetCount
        coverage[.synchronizations] = log.synchronizedCount
        coverage[.examinations] = host.examinationCount
    }

    private func takeStep() throws(SimulationFailure) {
        if world.random.chance(oneIn: options.crashOneIn) { return try crash() }
        if let due = crashAtTurn, turnCount >= due { return try crash() }
        if world.random.chance(oneIn: options.restartOneIn) { return try restartCleanly() }
        if world.random.chance(oneIn: options.restOneIn) { return try rest() }
        if world.random.chance(oneIn: options.stuckFailoverOneIn) { return try failOverFromStuckPrimary() }
        if world.random.chance(oneIn: options.operatorOneIn) { return try operate() }
        // Copies of small volumes are short: an operator who takes them back has to be quick.
        if let pair = pairs.firstIndex(where: \.hasUndo), world.random.chance(oneIn: 20) {
            _ = try ask(pair, .failover, isForced: true)
            return
        }
        if world.random.chance(oneIn: options.pauseOneIn) { return try changeCopySettings() }
        if world.random.chance(oneIn: options.verifyOneIn) { return try verify() }
        if world.random.chance(oneIn: options.rotOneIn) { return try rotAndVerify() }
        injectFaults()
        if world.random.chance(oneIn: 3) {
            try turn()
        } else {
            submit()
        }
    }

    /// One turn of the engine, with every check that holds at all times.
    func turn() throws(SimulationFailure) {
        excuseFlushes()
        turnCount += 1
        guard engine.turn() else { throw failure("the engine ended without being told to") }
        engine.checkInvariants()
        while let answer = engine.embedderAnswers.popFirst() { try answered(answer) }
        try observe()
    }

    func pick() -> Int { pick(&world.random) }
    func pick(_ random: inout RandomSource) -> Int { Int(random.below(UInt64(pairs.count))) }

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
