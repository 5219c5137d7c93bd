package import RepldCore

/// One volume: a source element, its targets, and every request on it, as a state machine without I/O.
///
/// Events are the methods; effects wait in `effects` and are carried out by the engine after each event. Same events in
/// the same order give the same effects in the same order.
///
/// **Life of a write** (also of a discard and of a write-zeroes):
/// `waitingForLock → waitingForRecord → running → settled → (answerHeld) → answered`.
/// 1. It takes an exclusive lock on its extent (`IntervalLock`): overlapping writes are applied in one order everywhere,
///    and the mover never copies under a write.
/// 2. It is issued only while no pair has a record pending: a pair that is not recorded as open must not be written.
/// 3. For each pair that mirrors, it gets a leg; for each other pair, its granules are marked dirty first.
/// 4. When no leg is pending it is settled: a failed target leg has broken its pair and does not concern the host; a
///    failed source leg is the host's failure, and marks the extent dirty for every pair, because nobody knows what the
///    source holds now.
/// 5. The answer is held while a record is pending, so that a write which a target lacks is not acknowledged before it is
///    durable that the pair is broken.
///
/// **Life of a read**: it is served by the source, without a lock. If the source fails, a pair that mirrors and has the
/// range clean serves it: exclusive lock, read of the target, rewriting of the source, answer.
///
/// **Flush**: a leg to the source and to each target that mirrors.
///
/// **The own export of a target** (Fractured, Split): requests with a `side`. They go to that leg alone, take locks in a space of
/// their own (a target that hangs must not hold up the volume), and are remembered in `targetChanged`.
///
/// **The gate**: an operation that moves a role, or wants a write boundary, closes it (see `VolumeMachine+Gate`): what arrives
/// waits in `waitingForGate`, what is under way ends, the copies are flushed, the change is made, the gate opens.
///
/// **A leg that hangs**: after the pair's time limit the pair is broken and the host answered; the slot and its buffer
/// stay taken until the late completion, and the pair cannot start again before it (a late write would undo newer data).
///
/// Invariants (checked by `checkInvariants`): a request is answered exactly once; a slot is released exactly when it is
/// answered and no leg is pending; a pair's `operationsInFlight` is the number of legs pending on its target; the
/// pair is Synchronized only with a clean `dirty` map.
///
/// Not thread-safe: owned by the loop of its volume.
package struct VolumeMachine: ~Copyable {
    /// Targets of one volume.
    ///
    /// Legs are bits of a byte: 0, 1...3 the pairs' elements, 4...6 their undo areas.
    package static var pairLimit: Int { 3 }
    /// Bitmap pages of one pair that are written at once.
    package static var pageWriteLimit: Int { MapStore.pageWriteLimit }
    /// Pages of one pair's undo area that are written at once.
    package static var undoPageWriteLimit: Int { PairUndo.pageWriteLimit }
    /// Requests in flight on the own export of one target.
    package static var targetSlotLimit: Int { 64 }

    package internal(set) var byteCount: UInt64
    package let blockByteCount: UInt32
    package internal(set) var effects: BoundedQueue<Effect>
    /// As many as there are `announce` effects, in their order.
    private var events: BoundedQueue<VolumeEvent>
    package internal(set) var readsServedByTarget: UInt64 = 0

    var now = Instant(nanoseconds: 0)
    /// The time without that in which the loop stood still, as in a virtual machine that was paused: limits of what is in flight
    /// are counted in it, because an element that was given no time to answer in is not one that hangs.
    var awake = Instant(nanoseconds: 0)
    /// When a request that arrives in this turn may have arrived at the earliest.
    var arrivalTime = Instant(nanoseconds: 0)
    var copyControl = CopyController()
    /// When a mover has to be looked at again: `wake` is to be called then; the end of time when none waits.
    package internal(set) var copyWakeAt = Instant(nanoseconds: .max)
    var slots: SlotTable<Request>
    var locks: IntervalLock
    var granted: BoundedQueue<SlotID>
    var pairs: FixedArray<Pair>
    /// Behind the last pair that is in use: requests look at the places before it, and at none where there are no targets.
    private(set) var pairEnd = 0
    let hostSlotLimit: Int
    /// Host requests that are not answered yet.
    package internal(set) var hostRequestCount = 0
    /// Requests on the own exports of the targets that are not answered yet.
    var targetRequestCounts: FixedArray<Int>
    /// Requests in `waitingForGate`, `waitingForRecord` or `answerHeld`.
    var heldCount = 0
    /// Requests in `waitingForGate`, in the order of asking: overlapping writes are applied in it.
    var gateWaiters: BoundedQueue<SlotID>
    /// A record that held requests back is no longer pending.
    var mayReleaseHeld = false
    /// The one of the writes that wait for extents of the log which keeps what it gets.
    var preferredWriter: SlotID?
    /// Something has changed that a pair's activity log waits for.
    var mayAdvanceLogs = false
    /// A host has written since the machine was made: a pair that comes now has missed it.
    var hasWritten = false
    /// Hosts are kept away: nobody finds room for a request.
    package internal(set) var isWithheld = false
    /// The volume is the replica of a peer's pair: its own pairs rest.
    package internal(set) var isFollowing = false
    var isClosing = false
    var closeStage = CloseStage.open
    var isSourceDurableAtClose = false
    /// How often another element has become leg 0, in this life and those before.
    package internal(set) var servingEpoch: UInt32 = 0
    var gate = Gate()
    /// The volume has a new size that hosts do not see yet.
    var isGrowing = false
    /// How many pairs are being verified.
    var runningVerifyCount = 0
    /// The primary failed a flush of the machine's own, and no host has heard of it.
    var owedFlushFailure: IOFailure?

    enum CloseStage: UInt8 { case open, draining, flushing, mapping, recording, closed }

    /// What a slot is used for.
    enum Purpose: UInt8, BitwiseCopyable {
        case hostRead, hostWrite, hostFlush
        case targetRead, targetWrite, targetFlush
        case rollback
        case copy, copyFlush, closeFlush, gateFlush, logFlush
        case verify
    }

    enum Stage: UInt8, BitwiseCopyable {
        case waitingForGate, waitingForLock, waitingForRecord, running
        /// A read that the source failed: it waits for its lock, then goes to the target, then back to the source.
        case redirectWaiting, redirectReading, redirectRepairing
        case waitingForBuffers, copyReading, copyComparing, copySaving, copyWriting
        /// A chunk that waits for the page of the undo area which says that it is saved; nothing of it is in flight.
        case copyRecording
        case rollbackReading, rollbackWriting
        case verifyReading, verifyComparing, verifyLocating
        case answerHeld
        /// Answered, but a target still holds an operation of it.
        case abandoned
    }

    /// One slot's record; `pendingLegs`, `issuedLegs` and `abandonedLegs` are bit sets of legs.
    struct Request: BitwiseCopyable {
        var host: HostRequest
        var purpose: Purpose
        var stage: Stage
        var pendingLegs: UInt8 = 0
        var issuedLegs: UInt8 = 0
        /// Pending legs that nobody waits for any more: their targets did not answer within the time limit.
        var abandonedLegs: UInt8 = 0
        /// Of a flush: legs that have ended well.
        var succeededLegs: UInt8 = 0
        /// Of a write: the pairs in whose logs it has references.
        var loggedPairs: UInt8 = 0
        var sourceFailure: IOFailure?
        var isMatch = false
        /// The page that a chunk waits for is being written with its bits.
        var isPageOnItsWay = false
        /// A chunk that may have read what the source has lost since: it proves nothing.
        var isStale = false
        /// What a primary that was left behind has not completed was issued to the target as well.
        var wasMirrored = false
        /// The targets' legs wait for the source's: a fast zeroing that the source refuses must change no copy.
        var awaitsSource = false
        /// The legs that such a request goes to then, as bits: those that mirrored when it began, and have not stopped since.
        var laterLegs: UInt8 = 0
        /// A piece of a verify that is compared under the interval lock, and has it.
        var holdsLock = false
        /// A chunk of a restore over a link, which is read from the target and written to the source, and takes no lock.
        var isLockless = false
        /// The pair of a copy, of a verify, of a target flush, or the one that serves a redirected read.
        var pair: UInt8 = 0
        var secondBuffer = BufferID.none
        var startedAt = Instant(nanoseconds: 0)
        var arrivedAt = Instant(nanoseconds: 0)

        var awaitedLegs: UInt8 { pendingLegs & ~abandonedLegs }

        /// An operation on a leg begins, over all that the request is about.
        @inline(__always)
        mutating func begin(
            _ id: SlotID,
            leg: UInt8,
            _ kind: ElementOperation.Kind,
            isDurable: Bool,
            fillsIfUnsupported: Bool
        ) -> ElementOperation {
            pendingLegs |= 1 << leg
            issuedLegs |= 1 << leg
            return ElementOperation(
                slot: id,
                leg: leg,
                kind: kind,
                isDurable: isDurable,
                fillsIfUnsupported: fillsIfUnsupported,
                buffer: host.buffer,
                secondBuffer: secondBuffer,
                extent: host.extent
            )
        }
    }

    /// Makes a machine without targets for a volume of `byteCount` bytes in blocks of `blockByteCount`.
    package init(byteCount: UInt64, blockByteCount: UInt32, hostSlotLimit: Int = 256) {
        invariant(byteCount > 0 && byteCount % UInt64(blockByteCount) == 0, "a volume is a whole number of blocks")
        self.byteCount = byteCount
        self.blockByteCount = blockByteCount
        self.hostSlotLimit = hostSlotLimit
        let blank = Request(
            host: .ownFlush,
            purpose: .hostFlush,
            stage: .running
        )
        // Every pair's mover, its flush and the closing flush have slots of their own, so that hosts never starve them.
        // A target that hangs keeps at most as many answered requests as hosts may have in flight, because its pair
        // does not start again before they are back: they have slots too, so that the volume goes on without them.
        let stuckLimit = Self.pairLimit * hostSlotLimit
        let targetLimit = Self.pairLimit * Self.targetSlotLimit
        let capacity =
            hostSlotLimit + stuckLimit + targetLimit + 2 * Self.pairLimit
            * (Pair.copyDepthLimit + 2 + PairVerify.laneCount) + 4
        slots = SlotTable(capacity: capacity, blank: blank)
        locks = IntervalLock(capacity: capacity)
        granted = BoundedQueue(capacity: capacity, blank: SlotID(index: 0, generation: 0))
        gateWaiters = BoundedQueue(capacity: hostSlotLimit, blank: SlotID(index: 0, generation: 0))
        effects = BoundedQueue(capacity: capacity * 8, blank: .closed)
        events = BoundedQueue(capacity: effects.capacity, blank: .recordFailed(pair: PairID(high: 0, low: 0), .gone))
        pairs = FixedArray(count: Self.pairLimit) { _ in Pair(volumeByteCount: 0, settings: PairSettings()) }
        targetRequestCounts = FixedArray(repeating: 0, count: Self.pairLimit)
    }

    /// Tells the machine the time of the turn that begins, how long what arrived before it may have waited, and for how long the
    /// loop has stood still since it began.
    package mutating func advance(to now: Instant, lag nanoseconds: UInt64 = 0, stalled: UInt64 = 0) {
        self.now = now
        awake = Instant(nanoseconds: now.nanoseconds - min(now.nanoseconds, stalled))
        arrivalTime = Instant(nanoseconds: now.nanoseconds - min(now.nanoseconds, nanoseconds))
    }

    /// The next effect to carry out.
    package mutating func nextEffect() -> Effect? { effects.popFirst() }

    /// What the `announce` effect that was taken last is about.
    package mutating func nextEvent() -> VolumeEvent {
        guard let event = events.popFirst() else {
            invariantFailed("an announcement has an event, which is taken once")
        }
        return event
    }

    mutating func announce(_ event: VolumeEvent) {
        effects.append(.announce)
        events.append(event)
    }

    /// Whether a host request would be taken now: one on the volume, or on the own export of a target.
    package func hasRoom(side: UInt8 = 0) -> Bool {
        if isClosing || isWithheld && side == 0 { return false }
        return side == 0
            ? hostRequestCount < hostSlotLimit : targetRequestCounts[Int(side) - 1] < Self.targetSlotLimit
    }

    /// Nothing is in flight and nothing waits.
    package var isIdle: Bool { slots.isEmpty }

    // MARK: - Events

    /// A host request arrived.
    ///
    /// False, and nothing happened, when every slot is taken: the front end tries again later.
    package mutating func begin(_ host: HostRequest) -> Bool {
        guard hasRoom(side: host.side) else { return false }
        let blockSize = UInt64(blockByteCount)
        invariant(host.extent.end <= byteCount, "a request lies inside its volume")
        invariant(host.extent.isAligned(to: blockSize), "a request is aligned to the volume's blocks")
        invariant(host.extent.isEmpty == (host.operation == .flush), "only a flush has no extent")
        if host.side != 0 {
            beginOnTarget(host)
            if mayAdvanceLogs { finishEvent() }
            return true
        }
        let purpose: Purpose =
            switch host.operation {
            case .read: .hostRead
            case .flush: .hostFlush
            case .write, .discard, .writeZeroes: .hostWrite
            }
        var request = Request(host: host, purpose: purpose, stage: .running)
        request.arrivedAt = arrivalTime
        guard let id = slots.take(request) else { invariantFailed("hosts leave room for the mover's slots") }
        hostRequestCount += 1
        copyControl.arrived(at: now)
        if gate.isClosed {
            hold(id, .waitingForGate)
            gateWaiters.append(id)
        } else {
            start(id)
        }
        if mayAdvanceLogs { finishEvent() }
        return true
    }

    /// A host's request that nothing holds back any more.
    mutating func start(_ id: SlotID) {
        slots[id].startedAt = awake
        switch slots[id].purpose {
        case .hostRead:
            startRead(id)
        case .hostFlush:
            startFlush(id)
        case .hostWrite:
            hasWritten = true
            slots[id].stage = .waitingForLock
            if runningVerifyCount > 0 { disturbVerify(slots[id].host.extent) }
            let extent = lockExtent(of: id, isWhole: !Mutation.isOn(.writesWithoutLock))
            if locks.acquire(extent, .exclusive, owner: id) { startWrite(id) }
        case .targetRead, .targetWrite, .targetFlush, .copy, .copyFlush, .closeFlush, .gateFlush, .logFlush, .verify,
            .rollback:
            invariantFailed("hosts of the volume read, write and flush")
        }
    }

    /// Keeps a request back until `releaseHeld` finds that its reason is gone.
    mutating func hold(_ id: SlotID, _ stage: Stage) {
        slots[id].stage = stage
        heldCount += 1
    }

    /// An operation on a copy ended.
    package mutating func completed(_ id: SlotID, leg: UInt8, _ outcome: OperationOutcome) {
        let bit: UInt8 = 1 << leg
        invariant(slots[id].pendingLegs & bit != 0, "a leg completes once, and only after it was issued")
        slots[id].pendingLegs &= ~bit
        if leg > 0 {
            pairs[pair(ofLeg: leg)].operationsInFlight -= 1
            invariant(pairs[pair(ofLeg: leg)].operationsInFlight >= 0, "operations on a target are counted")
        }
        if isFlush(slots[id].purpose) { flushLegCompleted(id, succeeded: outcome.failure == nil, leg: leg) }
        switch slots[id].stage {
        case .running:
            runningLegCompleted(id, leg: leg, outcome.failure)
        case .redirectReading, .redirectRepairing:
            redirectCompleted(id, leg: leg, outcome.failure)
        case .copyReading, .copyComparing, .copySaving, .copyWriting:
            copyStepCompleted(id, leg: leg, outcome)
        case .rollbackReading, .rollbackWriting:
            rollbackStepCompleted(id, outcome.failure)
        case .verifyReading, .verifyComparing:
            verifyStepCompleted(id, leg: leg, outcome)
        case .abandoned, .answerHeld:
            if leg > 0, isFlush(slots[id].purpose) {
                lateFlushCompleted(id, pair: Int(leg) - 1, outcome.failure)
            } else if let failure = outcome.failure, isFlush(slots[id].purpose), closeStage == .open {
                ownFlushOfPrimaryFailed(failure)
            }
            if slots[id].stage == .abandoned { releaseIfUnused(id) }
        case .waitingForGate, .waitingForLock, .waitingForRecord, .redirectWaiting, .waitingForBuffers,
            .verifyLocating, .copyRecording:
            invariantFailed("a waiting request has no operation in flight")
        }
        if leg > 0 { targetOperationEnded(pair(ofLeg: leg)) }
        if isClosing { advanceClosing() }
        finishEvent()
    }

    private func isFlush(_ purpose: Purpose) -> Bool {
        switch purpose {
        case .hostFlush, .copyFlush, .closeFlush, .gateFlush, .logFlush: true
        case .hostRead, .hostWrite, .targetRead, .targetWrite, .targetFlush, .copy, .verify, .rollback: false
        }
    }

    /// Whether a slot still waits for the buffers that it asked for; a copy that has ended meanwhile does not.
    package func awaitsBuffers(_ id: SlotID) -> Bool {
        slots.contains(id) && slots[id].stage == .waitingForBuffers
    }

    /// The buffers that `needBuffers` asked for.
    package mutating func buffersGranted(_ id: SlotID, _ first: BufferID, second: BufferID) {
        invariant(slots[id].stage == .waitingForBuffers, "buffers are granted to whoever waits for them")
        slots[id].host.buffer = first
        slots[id].secondBuffer = second
        if slots[id].purpose == .verify {
            verifyBuffersGranted(id)
        } else if slots[id].purpose == .rollback {
            startRollbackChunk(id)
        } else {
            slots[id].stage = .waitingForLock
            let extent = lockExtent(of: id, isWhole: !Mutation.isOn(.copiesWithoutLock))
            let isFree = slots[id].isLockless || locks.acquire(extent, .exclusive, owner: id)
            if isFree { startCopy(id) }
        }
        if isClosing { advanceClosing() }
        finishEvent()
    }

    /// Some time has passed: looks for target operations over their limit.
    ///
    /// To be called about once a second.
    package mutating func tick() {
        for index in 0..<pairs.count where pairs[index].isInUse && pairs[index].operationsInFlight > 0 {
            if Mutation.isOn(.waitsForStuckTarget) { continue }
            let limit = pairs[index].settings.targetTimeoutNanoseconds
            let bits = legBits(ofPair: index)
            for slot in 0..<slots.capacity {
                guard let id = slots.taken(at: slot), slots[id].pendingLegs & bits != 0 else { continue }
                guard slots[id].stage != .abandoned, slots[id].stage != .answerHeld else { continue }
                guard hasTimeLimit(slots[id].purpose) else { continue }
                guard awake.nanoseconds(since: slots[id].startedAt) > limit else { continue }
                breakPair(index, slots[id].stage == .copySaving ? .undoFailed(.timedOut) : .targetTimedOut)
                abandonLegs(of: index)
                break
            }
        }
        tickLogs()
        giveUpStuckRecords()
        retryRecords()
        if isClosing { advanceClosing() }
        let wasGateClosed = gate.isClosed
        checkGateDeadline()
        if isClosing { giveUpTargetRequests() }
        // Where the gate has just opened, hosts that waited have their turn first: the end of a copy would close it again.
        if !wasGateClosed { tickMovers() }
        tickUndo()
        tickVerify()
        finishEvent()
    }

    /// A host on a target's own export waits for its element as long as it takes; the gate has a limit of its own.
    private func hasTimeLimit(_ purpose: Purpose) -> Bool {
        switch purpose {
        case .targetRead, .targetWrite, .targetFlush, .gateFlush, .rollback: false
        case .hostRead, .hostWrite, .hostFlush, .copy, .copyFlush, .closeFlush, .logFlush, .verify: true
        }
    }

    /// Slots of all purposes, for tables beside the machine's.
    package var slotCapacity: Int { slots.capacity }

    // MARK: - Shared by the parts

    // What asks something of the machine for each request is inlined: a struct that cannot be copied is copied as bytes for each
    // call of a method that does not change it, and this one has half a KiB.

    func leg(ofPair index: Int) -> UInt8 { UInt8(index + 1) }

    /// Whether any pair has a record on its way: writes are not issued and answers are held.
    @inline(__always)
    var holdsForRecord: Bool {
        for index in 0..<pairEnd where pairs[index].isRecordPending { return true }
        return false
    }

    mutating func issue(
        _ id: SlotID,
        leg: UInt8,
        _ kind: ElementOperation.Kind,
        isDurable: Bool = false
    ) {
        if leg > 0 { pairs[pair(ofLeg: leg)].operationsInFlight += 1 }
        let fills = fillsIfUnsupported(id, leg: leg)
        let operation = slots[id].begin(id, leg: leg, kind, isDurable: isDurable, fillsIfUnsupported: fills)
        effects.append(.perform(operation))
    }

    @inline(__always)
    private func fillsIfUnsupported(_ id: SlotID, leg: UInt8) -> Bool {
        guard slots[id].purpose == .hostWrite else { return true }
        // Without a pair a discard is advice, and an element that cannot follow it changes nothing.
        if slots[id].host.operation == .discard { return hasPairs }
        return leg > 0 || !slots[id].host.mustBeFast
    }

    @inline(__always)
    private var hasPairs: Bool {
        for index in 0..<pairEnd where pairs[index].isInUse { return true }
        return false
    }

    /// A pair has come or gone.
    mutating func findPairEnd() {
        pairEnd = pairs.count
        while pairEnd > 0, !pairs[pairEnd - 1].isInUse { pairEnd -= 1 }
    }

    /// What a write or a chunk locks: all that it touches, unless a mutation cuts it to the first block.
    @inline(__always)
    private func lockExtent(of id: SlotID, isWhole: Bool) -> Extent {
        let extent = slots[id].host.extent
        return isWhole ? extent : Extent(offset: extent.offset, length: min(extent.length, UInt64(blockByteCount)))
    }

    /// Gives the lock back and starts whoever gets it.
    mutating func unlock(_ id: SlotID) {
        guard !slots[id].isLockless else { return }
        locks.release(owner: id, granted: &granted)
        while let next = granted.popFirst() {
            switch slots[next].purpose {
            case .hostWrite: startWrite(next)
            case .hostRead: startRedirectedRead(next)
            case .targetWrite: startTargetWrite(next)
            case .copy: startCopy(next)
            case .verify: startVerify(next)
            case .targetRead, .targetFlush, .hostFlush, .copyFlush, .closeFlush, .gateFlush, .logFlush, .rollback:
                invariantFailed("a flush takes no lock, nor does a read of a target's own export")
            }
        }
    }
}
