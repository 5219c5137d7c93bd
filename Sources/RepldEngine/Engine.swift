package import RepldCore
internal import RepldFormat
package import RepldPair

/// What a completion is for: the first byte of its token.
enum TokenKind: UInt8 {
    /// An operation of a volume's machine; the slot's index carries the volume in its upper bits.
    case element = 1
    /// A zeroing that is written out where the element does not know it.
    case zeroOrFill = 2
    /// A discard that may be ignored.
    case adviceDiscard = 3
    /// One step of writing zeroes out.
    case fill = 4
    /// A pair's metadata record; the leg is the pair.
    case record = 5
    /// A record of a pair's activity log; the leg is the pair.
    case log = 6
    /// A bitmap page of a pair; the leg is the pair, the slot's index the page's place.
    case page = 7
    /// A page of a pair's undo area; the leg is the pair, the slot's index the page's place.
    case undoPage = 8
    /// A pair's undo area is emptied; the leg is the pair.
    case undoEmptied = 9
    /// An examination of what an operation of a volume's machine has read; everything else as of that.
    case examination = 10
    /// Front-end operations; the front end gives leg and slot their meaning.
    case accept = 16
    case receive = 17
    case send = 18
    case query = 19
    /// Operations on the sockets of links; the slot's index is the listener or the connection.
    case linkAccept = 24
    case linkConnect = 25
    case linkReceive = 26
    case linkSend = 27
    /// The record that a peer has told of; the slot's index is the replica.
    case replicaRecord = 28
    /// A payload is compressed; the slot's index is the session, the leg the place.
    case compression = 29
    /// A payload is expanded; the slot's index is the connection.
    case expansion = 30
    /// A replica's undo area: a step of keeping or of taking back (the leg is the place), a page (the leg is its place), the
    /// emptying; the slot's index is the replica.
    case replicaUndoStep = 31
    case replicaUndoPage = 32
    case replicaUndoEmptied = 33
}

enum EngineStage: UInt8, BitwiseCopyable { case running, stoppingFrontends, closingVolumes, closingLinks, ended }

/// An answer of a volume, on its way to whoever asked.
///
/// This and the types that follow stand outside `Engine`, because a type inside a generic one is generic as well: code
/// that is not specialised for a platform would look up its metadata with every use (measured: a third of the engine's
/// time per write).
struct EngineAnswer: BitwiseCopyable {
    var origin: RequestOrigin
    var failure: IOFailure?
}

/// The answer to a request that the embedder submitted.
package struct EmbedderAnswer: BitwiseCopyable {
    package var request: UInt32
    package var failure: IOFailure?
}

/// A mover that waits for buffers.
struct BufferWaiter: BitwiseCopyable {
    var volume: Int
    var slot: SlotID
    var byteCount: Int
    var isPair: Bool
}

/// Drives the volumes' machines and the front ends against a platform: one loop, one thread, not one system call.
///
/// A turn: take commands; hand each completion to whom it belongs; carry out the effects of each event at once; deliver
/// answers to clients; let those who waited for buffers or slots go on; send what has gathered; wait. Answers go
/// through a queue, so that a client which reacts to one by submitting more never re-enters a machine.
///
/// Stopping: front ends and peers that write here stop and drain, then every volume closes (drains, flushes, records), then the
/// links to other peers, then the loop ends.
///
/// Not thread-safe: everything but the mailbox belongs to the loop thread.
package struct Engine<P: Platform & ~Copyable>: ~Copyable {
    /// Volumes on one loop.
    package static var volumeLimit: Int { 32 }
    /// Host requests in flight on one volume.
    package static var hostSlotLimit: Int { 256 }
    /// The loop wakes at least once a second; what it is late beyond this it has stood still for.
    private static var stallLimitNanoseconds: UInt64 { 1_000_000_000 }
    /// How long an engine that stops waits for operations that a target has not given back.
    static var stuckGraceNanoseconds: UInt64 { 5_000_000_000 }
    /// Memory that the dirty maps of one pair may take: 128 TiB at 64 KiB, 8 TiB at 4 KiB.
    static var mapByteLimit: UInt64 { 1 << 30 }
    /// Large buffers that hosts leave to the movers, so that copies go on under any host load.
    static var copyReserve: Int { 8 }

    package var pool: BufferPool
    package let mailbox: Mailbox<P>
    var volumes: FixedArray<HostedVolume>
    /// Behind the last volume that is in use: a turn looks at the places before it.
    private(set) var volumeEnd = 0
    var nbd: NBDServer
    var links: Links
    /// How the platform reaches the peers, by their places.
    var peerHandles: [P.PeerHandle?] = Array(repeating: nil, count: Links.peerLimit)
    /// Gets what the control planes of peers ask ours; called on the loop thread, must not block.
    let messageSink: @Sendable (PeerMessage) -> Void
    var answers: BoundedQueue<EngineAnswer>
    /// Answers to whoever embeds the engine; it takes them between turns.
    package var embedderAnswers: BoundedQueue<EmbedderAnswer>
    /// Buffers that movers hold, and how many of the largest they may hold together: half, so that hosts keep the rest.
    var isMoverBuffer: FixedArray<Bool>
    var moverBufferCount = 0
    let moverBufferLimit: Int
    var bufferWaiters: BoundedQueue<BufferWaiter>
    var completions: BoundedQueue<Completion>
    /// A buffer or a request slot has been given back since waiters were last looked at.
    var hasFreedResources = false
    let zeroes: BufferID
    let eventSink: @Sendable (EngineEvent) -> Void
    var nextTick: Instant
    /// Until when the last `wait` was to return.
    private var wakesBy = Instant(nanoseconds: .max)
    /// How long the loop has stood still since it began.
    var stalledNanoseconds: UInt64 = 0
    /// When the first mover has to be looked at again, or earlier.
    var nextWake = Instant(nanoseconds: .max)
    /// Something may have changed in whose mover comes first.
    var isOrderStale = false
    var stage = EngineStage.running
    var stuckDeadline: Instant?
    var stopAnswers: [@Sendable () -> Void] = []
    var detachAnswers: [PairID: @Sendable (Result<Void, EngineRefusal>) -> Void] = [:]
    var operationAnswers: [PairID: @Sendable (Result<OperationStart, EngineRefusal>) -> Void] = [:]
    var growAnswers: [VolumeID: @Sendable (Result<Void, EngineRefusal>) -> Void] = [:]
    var meetAnswers: [PairID: @Sendable (Result<PairRecord, EngineRefusal>) -> Void] = [:]
    var settleAnswers: [PairID: @Sendable (Result<PairRecord, EngineRefusal>) -> Void] = [:]
    var withholdAnswers: [WithholdAnswer] = []
    var removeAnswers: [VolumeID: @Sendable (Result<Void, EngineRefusal>) -> Void] = [:]

    /// The last of the stored properties: those before it lie at places that do not depend on the platform, so that code
    /// which is not specialised for a platform reaches them without asking the runtime.
    package var platform: P

    /// Makes an engine without volumes.
    ///
    /// `eventSink` is called on the loop thread and must not block, nor must `messageSink`; `host` names this daemon to its peers,
    /// drawn by chance where it is not given.
    package init(
        platform: consuming P,
        mailbox: Mailbox<P>,
        bufferClasses: [BufferPool.SizeClass] = BufferPool.standardClasses,
        host: PairID? = nil,
        messageSink: @escaping @Sendable (PeerMessage) -> Void = { _ in },
        eventSink: @escaping @Sendable (EngineEvent) -> Void
    ) {
        self.platform = platform
        self.mailbox = mailbox
        self.eventSink = eventSink
        self.messageSink = messageSink
        links = Links(host: host ?? PairID(high: 0, low: 0))
        pool = BufferPool(bufferClasses)
        guard let zeroes = pool.take(byteCount: pool.largestByteCount) else { invariantFailed("a new pool is full") }
        self.zeroes = zeroes
        isMoverBuffer = FixedArray(repeating: false, count: pool.bufferCount)
        moverBufferLimit = max(2, pool.largestBufferCount / 2)
        volumes = FixedArray(count: Self.volumeLimit) { _ in HostedVolume() }
        nbd = NBDServer()
        let slotLimit = Self.volumeLimit * (Self.hostSlotLimit + 64)
        answers = BoundedQueue(
            capacity: slotLimit,
            blank: EngineAnswer(origin: RequestOrigin(client: 0, request: 0), failure: nil)
        )
        embedderAnswers = BoundedQueue(capacity: slotLimit, blank: EmbedderAnswer(request: 0, failure: nil))
        bufferWaiters = BoundedQueue(
            capacity: slotLimit,
            blank: BufferWaiter(volume: 0, slot: SlotID(index: 0, generation: 0), byteCount: 0, isPair: false)
        )
        completions = BoundedQueue(capacity: 4096, blank: Completion(token: .wake, count: 0, failure: nil))
        nextTick = Instant(nanoseconds: 0)
        unsafe self.platform.register(memory: pool.memory)
        mailbox.open(self.platform.waker)
    }

    /// Turns until a `stop` command has been carried out.
    package mutating func run() {
        while turn() {}
    }

    /// One turn of the loop; false when it has ended.
    package mutating func turn() -> Bool {
        guard stage != .ended else { return false }
        noticeStall()
        while let completion = completions.popFirst() { dispatch(completion) }
        if platform.now >= nextWake { wakeMovers() }
        if isOrderStale { orderMovers() }
        settleTurn()
        let hasTicked = platform.now >= nextTick
        if hasTicked { tick() }
        if stage != .running { advanceStopping() }
        // What time and stopping have begun is to be sent now, and not with the next event.
        if hasTicked || stage != .running { settleTurn() }
        guard stage != .ended else {
            end()
            return false
        }
        wakesBy = max(platform.now, min(nextTick, nextWake))
        platform.wait(until: min(nextTick, nextWake), into: &completions)
        noticeStall()
        let lag = platform.lagNanoseconds
        let now = platform.now
        for index in 0..<volumeEnd where volumes[index].isInUse {
            volumes[index].machine.advance(to: now, lag: lag, stalled: stalledNanoseconds)
        }
        return true
    }

    /// Takes note of time in which the loop stood still: its host was paused, or gave it no core.
    ///
    /// A second of it counts as time that has passed, so that a loop which is late in each turn still comes to its limits.
    private mutating func noticeStall() {
        let late = platform.now.nanoseconds(since: wakesBy)
        guard late > Self.stallLimitNanoseconds else { return }
        stalledNanoseconds += late - Self.stallLimitNanoseconds
        wakesBy = platform.now
    }

    /// A volume has come or gone.
    mutating func findVolumeEnd() {
        volumeEnd = volumes.count
        while volumeEnd > 0, !volumes[volumeEnd - 1].isInUse { volumeEnd -= 1 }
    }

    /// Delivers answers and wakes waiters until nothing more happens, then sends what has gathered.
    private mutating func settleTurn() {
        repeat {
            while let answer = answers.popFirst() { deliver(answer) }
            if hasFreedResources {
                hasFreedResources = false
                serveBufferWaiters()
                frontendResourcesFreed()
                retryLinks()
            }
            if links.hasEnded { deliverRemoteOutcomes() }
        } while !answers.isEmpty || hasFreedResources || links.hasEnded
        answerWithheld()
        frontendFlushOutput()
        flushLinks()
    }

    private mutating func deliver(_ answer: EngineAnswer) {
        if answer.origin.client == RequestOrigin.embedder {
            embedderAnswers.append(EmbedderAnswer(request: answer.origin.request, failure: answer.failure))
        } else if answer.origin.client == RequestOrigin.peers {
            serveAnswered(answer.origin.request, answer.failure)
        } else {
            frontendAnswered(answer.origin, answer.failure)
        }
    }

    // MARK: - Host requests

    /// Hands a checked request to a volume; false when the volume takes none now (try again when resources are freed).
    package mutating func submit(_ request: HostRequest, to volume: Int) -> Bool {
        invariant(volumes[volume].isInUse, "requests go to volumes that are served")
        guard volumes[volume].machine.begin(request) else { return false }
        if request.side == 0 { count(request, of: volume) }
        carryOut(volume)
        return true
    }

    private mutating func count(_ request: HostRequest, of volume: Int) {
        switch request.operation {
        case .read:
            volumes[volume].counters.readCount += 1
            volumes[volume].counters.readByteCount += request.extent.length
        case .write, .discard, .writeZeroes:
            volumes[volume].counters.writeCount += 1
            volumes[volume].counters.writeByteCount += request.extent.length
        case .flush:
            volumes[volume].counters.flushCount += 1
        }
    }

    /// Takes a buffer for a host request, leaving the movers their reserve; `nil` is the back-pressure.
    package mutating func takeHostBuffer(byteCount: Int) -> BufferID? {
        pool.take(byteCount: byteCount, leaving: Self.copyReserve + peerReserve)
    }

    /// Large buffers that only the requests of peers may take, where there are peers.
    ///
    /// Two daemons that replicate to each other would otherwise wait for each other's buffers.
    var peerReserve: Int { links.isInUse ? min(Self.copyReserve, pool.largestBufferCount / 8) : 0 }

    /// Gives a buffer back and lets waiters know.
    package mutating func releaseBuffer(_ buffer: BufferID) {
        if isMoverBuffer[Int(buffer.rawValue)] {
            isMoverBuffer[Int(buffer.rawValue)] = false
            moverBufferCount -= 1
        }
        pool.release(buffer)
        hasFreedResources = true
    }

    // MARK: - Completions

    private mutating func dispatch(_ completion: Completion) {
        if completion.token == .wake { return takeCommands() }
        guard let kind = TokenKind(rawValue: completion.token.kind) else {
            invariantFailed("a completion carries a token that the engine made")
        }
        switch kind {
        case .element, .zeroOrFill, .adviceDiscard, .fill, .record, .log, .page, .undoPage, .undoEmptied,
            .examination:
            elementCompleted(kind, completion)
        case .accept, .receive, .send, .query:
            frontendCompleted(kind, completion)
        case .linkAccept, .linkConnect, .linkReceive, .linkSend, .replicaRecord, .compression, .expansion,
            .replicaUndoStep, .replicaUndoPage, .replicaUndoEmptied:
            linkCompleted(kind, completion)
        }
    }

    /// Not inlined: an array of commands is of a generic type, whose metadata `dispatch` would look up with every completion.
    @inline(never)
    private mutating func takeCommands() {
        for command in mailbox.takeAll() { carryOut(command) }
    }

    // MARK: - Time and end

    private mutating func tick() {
        nextTick = platform.now.advanced(byNanoseconds: 1_000_000_000)
        frontendTick()
        tickLinks()
        for index in 0..<volumes.count where volumes[index].isInUse {
            volumes[index].machine.advance(to: platform.now, stalled: stalledNanoseconds)
            volumes[index].machine.tick()
            carryOut(index)
        }
        isOrderStale = true
    }

    private mutating func advanceStopping() {
        if stage == .stoppingFrontends && isFrontendStopped && isLinkServingStopped {
            stage = .closingVolumes
            for index in 0..<volumes.count where volumes[index].isInUse && !volumes[index].isRemoving {
                volumes[index].machine.close()
                carryOut(index)
            }
        }
        if stage == .closingVolumes {
            for index in 0..<volumes.count where volumes[index].isInUse && !volumes[index].isClosed { return }
            // What a target does not give back is waited for once more, and then left.
            let deadline = stuckDeadline ?? platform.now.advanced(byNanoseconds: Self.stuckGraceNanoseconds)
            stuckDeadline = deadline
            guard !hasStuckOperations || platform.now >= deadline else { return }
            stage = .closingLinks
            endAllSessions()
        }
        if stage == .closingLinks && areLinksClosed { stage = .ended }
    }

    /// Whether closed volumes have operations in flight that their targets do not give back.
    ///
    /// An engine that ended so must not be destroyed: the kernel may still use its memory. It goes with the process.
    package var hasStuckOperations: Bool {
        for index in 0..<volumes.count where volumes[index].isInUse { return true }
        return false
    }

    private mutating func end() {
        for command in mailbox.close() { refuse(command, .stopping) }
        for answer in detachAnswers.values { answer(.failure(.stopping)) }
        for answer in removeAnswers.values { answer(.failure(.stopping)) }
        for answer in operationAnswers.values { answer(.failure(.stopping)) }
        for answer in growAnswers.values { answer(.failure(.stopping)) }
        for answer in settleAnswers.values { answer(.failure(.stopping)) }
        for answer in meetAnswers.values { answer(.failure(.stopping)) }
        meetAnswers = [:]
        for waiting in withholdAnswers { waiting.answer(.failure(.stopping)) }
        settleAnswers = [:]
        withholdAnswers = []
        detachAnswers = [:]
        operationAnswers = [:]
        growAnswers = [:]
        removeAnswers = [:]
        for answer in stopAnswers { answer() }
        stopAnswers = []
    }
}
