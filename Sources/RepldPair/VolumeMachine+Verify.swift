package import RepldCore

/// The online verify of a Synchronized pair: both elements are read and compared by digest while hosts go on, and what
/// differs is marked, not repaired.
///
/// A chunk's life: `waitingForBuffers → verifyReading → verifyComparing → decided`, without a lock. A host's write that was
/// under way when it began, or begins before it has been compared, spoils it: it proves nothing, and is looked at again
/// behind the others. After a few times it is compared under the interval lock, in small pieces
/// (`waitingForBuffers → waitingForLock → verifyReading → verifyComparing → (verifyLocating)`), so that the verify ends under
/// any load. A difference counts only when it is found under the lock; there the blocks that differ are looked for byte by
/// byte.
///
/// Buffers come before the lock, as for the mover. It has few chunks in flight, rests while the gate is closed, and ends
/// when the pair leaves Synchronized: what differs then is the mover's.
extension VolumeMachine {
    // MARK: - Commands

    /// Begins to compare the two elements of a pair over an extent (`nil` for all of the volume), or says why not.
    ///
    /// `verifyEnded` follows, when what was found is durable.
    package mutating func beginVerify(_ index: Int, _ wanted: Extent?) -> VerifyRefusal? {
        invariant(pairs[index].isInUse, "a verify is asked of a pair that exists")
        guard !isClosing, !pairs[index].wantsDetach, !pairs[index].isPlaceHeld else { return .ending }
        guard pairs[index].copyState == .synchronized else { return .state(pairs[index].copyState) }
        guard !pairs[index].verify.isRunning else { return .alreadyRunning }
        let extent = wanted ?? Extent(offset: 0, length: byteCount)
        let isAligned = extent.isAligned(to: UInt64(blockByteCount))
        guard !extent.isEmpty, isAligned, extent.end <= byteCount else {
            return .outsideVolume(byteCount: byteCount, blockByteCount: blockByteCount)
        }
        let (run, slotCount) = (pairs[index].verify.run, pairs[index].verify.slotCount)
        pairs[index].verify = PairVerify(isInUse: true)
        pairs[index].verify.run = run &+ 1
        pairs[index].verify.slotCount = slotCount
        pairs[index].verify.stage = .running
        pairs[index].verify.cursor = extent.offset
        pairs[index].verify.counts.extent = extent
        runningVerifyCount += 1
        pumpVerify(index)
        return nil
    }

    /// Gives the verify up; false where none is running.
    package mutating func cancelVerify(_ index: Int) -> Bool {
        guard pairs[index].verify.isRunning else { return false }
        endVerify(index, .cancelled)
        finishEvent()
        return true
    }

    /// How far the verify of a pair has come, or the last one came.
    package func verifyCounts(_ index: Int) -> VerifyCounts { pairs[index].verify.counts }

    /// How far the verify of a pair has come that runs; `nil` when none does.
    package func runningVerifyCounts(_ index: Int) -> VerifyCounts? {
        pairs[index].verify.isRunning ? pairs[index].verify.counts : nil
    }

    /// The ranges that the verify of a pair has found, or found last, in disk order.
    package func forEachVerifiedRange(_ index: Int, _ body: (Extent) -> Void) {
        for place in 0..<pairs[index].verify.rangeCount { body(pairs[index].verify.ranges[place]) }
    }

    // MARK: - Lanes

    /// Starts as many chunks as may be in flight; tells the end when there is nothing left to compare.
    mutating func pumpVerify(_ index: Int) {
        guard pairs[index].verify.stage == .running, !gate.isClosed, !isClosing else { return }
        for lane in 0..<PairVerify.laneCount where !pairs[index].verify.lanes[lane].isBusy {
            guard pairs[index].verify.slotCount < PairVerify.laneCount else { return }
            if pairs[index].verify.lanes[lane].isIdle {
                guard let chunk = nextChunk(index) else { continue }
                pairs[index].verify.lanes[lane].chunk = chunk
            }
            beginPiece(lane, pair: index)
        }
        for lane in 0..<PairVerify.laneCount where !pairs[index].verify.lanes[lane].isIdle { return }
        guard pairs[index].verify.differs else { return endVerify(index, nil) }
        // What was found is to be durable before the end is told.
        pairs[index].verify.stage = .recording
        if pairs[index].isRecordStuck { return endVerify(index, .recordFailed(.timedOut)) }
        wantRecord(index)
    }

    /// The next chunk in disk order; one that waits to be looked at again when there is no other, or too many wait.
    private mutating func nextChunk(_ index: Int) -> VerifyChunk? {
        let end = pairs[index].verify.counts.extent.end
        let cursor = pairs[index].verify.cursor
        guard cursor < end, !pairs[index].verify.postponed.isFull else {
            guard var chunk = pairs[index].verify.postponed.popFirst() else { return nil }
            pairs[index].verify.counts.recheckCount += 1
            if chunk.attemptCount >= PairVerify.attemptLimit {
                chunk.isLocked = true
                pairs[index].verify.counts.lockedCount += 1
            }
            return chunk
        }
        let limit = min(UInt64(pairs[index].settings.copyChunkByteCount), PairVerify.chunkByteLimit)
        let length = min(end - cursor, max(limit, UInt64(blockByteCount)))
        pairs[index].verify.cursor = cursor + length
        return VerifyChunk(extent: Extent(offset: cursor, length: length))
    }

    /// Asks for the buffers of a chunk, or of its next piece where it is compared under a lock.
    private mutating func beginPiece(_ lane: Int, pair index: Int) {
        var piece = pairs[index].verify.lanes[lane].chunk.extent
        if pairs[index].verify.lanes[lane].chunk.isLocked {
            piece.length = min(piece.length, max(PairVerify.lockedByteLimit, UInt64(blockByteCount)))
        }
        var request = Request(
            host: HostRequest(
                operation: .read,
                extent: piece,
                buffer: .none,
                origin: RequestOrigin(client: pairs[index].verify.run, request: UInt32(lane))
            ),
            purpose: .verify,
            stage: .waitingForBuffers
        )
        request.pair = UInt8(index)
        request.startedAt = awake
        guard let id = slots.take(request) else { invariantFailed("the slots of a verify are reserved") }
        pairs[index].verify.slotCount += 1
        pairs[index].verify.lanes[lane].isBusy = true
        pairs[index].verify.lanes[lane].isDisturbed = false
        pairs[index].verify.lanes[lane].piece = piece
        effects.append(.needBuffers(id, byteCount: UInt32(piece.length), isPair: true))
    }

    /// The lane that a slot works for; `nil` when its verify is over.
    private func lane(of id: SlotID) -> Int? {
        let index = Int(slots[id].pair)
        guard pairs[index].verify.stage == .running else { return nil }
        guard pairs[index].verify.run == slots[id].host.origin.client else { return nil }
        return Int(slots[id].host.origin.request)
    }

    /// The piece has its buffers.
    mutating func verifyBuffersGranted(_ id: SlotID) {
        let index = Int(slots[id].pair)
        guard let lane = lane(of: id), !gate.isClosed, !isClosing else { return endPiece(id) }
        guard pairs[index].verify.lanes[lane].chunk.isLocked else {
            // A write that is under way may be on one side already.
            guard locks.isFree(slots[id].host.extent) else {
                pairs[index].verify.lanes[lane].isDisturbed = true
                return decide(id, lane, isEqual: false)
            }
            return readForVerify(id)
        }
        slots[id].stage = .waitingForLock
        if locks.acquire(slots[id].host.extent, .exclusive, owner: id) { startVerify(id) }
    }

    /// The piece holds its lock.
    mutating func startVerify(_ id: SlotID) {
        slots[id].holdsLock = true
        guard lane(of: id) != nil, !isPrimaryLeftAlone else { return endPiece(id) }
        readForVerify(id)
    }

    private mutating func readForVerify(_ id: SlotID) {
        slots[id].stage = .verifyReading
        slots[id].startedAt = awake
        issue(id, leg: 0, .read)
    }

    /// A host's write, or the repair of a failed read, is about to change one side: what is being compared there is spoiled.
    mutating func disturbVerify(_ extent: Extent) {
        guard runningVerifyCount > 0 else { return }
        for index in 0..<pairs.count where pairs[index].verify.stage == .running {
            for lane in 0..<PairVerify.laneCount where pairs[index].verify.lanes[lane].isBusy {
                let isHit = pairs[index].verify.lanes[lane].piece.overlaps(extent)
                if isHit { pairs[index].verify.lanes[lane].isDisturbed = true }
            }
        }
    }

    // MARK: - Comparing

    mutating func verifyStepCompleted(_ id: SlotID, leg: UInt8, _ outcome: OperationOutcome) {
        let index = Int(slots[id].pair)
        let extent = slots[id].host.extent
        guard let lane = lane(of: id) else { return endPiece(id) }
        if let failure = outcome.failure {
            endPiece(id, pumps: false)
            return endVerify(
                index,
                leg == 0 ? .sourceReadFailed(failure, extent) : .targetReadFailed(failure, extent)
            )
        }
        guard slots[id].stage == .verifyComparing else {
            slots[id].stage = .verifyComparing
            slots[id].startedAt = awake
            return issue(id, leg: self.leg(ofPair: index), .readAndCompare)
        }
        if pairs[index].verify.lanes[lane].chunk.isLocked, !outcome.isMatch {
            slots[id].stage = .verifyLocating
            return effects.append(.locateDifference(id, from: extent.offset))
        }
        decide(id, lane, isEqual: outcome.isMatch)
    }

    /// The next run of blocks that differ in a piece that is held under its lock, or `nil` where there are no more.
    package mutating func differenceLocated(_ id: SlotID, _ extent: Extent?) {
        invariant(slots[id].stage == .verifyLocating, "differences are looked for where the digests differ")
        let index = Int(slots[id].pair)
        guard let lane = lane(of: id) else { return endPiece(id) }
        guard let extent else {
            decide(id, lane, isEqual: true)
            return finishEvent()
        }
        noteDifference(extent, index)
        effects.append(.locateDifference(id, from: extent.end))
    }

    private mutating func noteDifference(_ extent: Extent, _ index: Int) {
        let isFirst = !pairs[index].verify.differs
        if !Mutation.isOn(.dropsVerifyMarks) { pairs[index].markFoundDifferent(extent) }
        pairs[index].verify.counts.differentByteCount += extent.length
        pairs[index].verify.insert(extent)
        pairs[index].verify.hasUnrecordedMarks = true
        if pairs[index].verify.announcedCount < PairVerify.announcedLimit {
            pairs[index].verify.announcedCount += 1
            announce(.verifyFound(pair: pairs[index].id, extent))
        }
        // Later marks are recorded once per tick: hosts' writes wait for each record.
        if isFirst { recordMarks(index) }
    }

    private mutating func recordMarks(_ index: Int) {
        guard pairs[index].verify.hasUnrecordedMarks else { return }
        pairs[index].verify.hasUnrecordedMarks = false
        wantRecord(index)
    }

    /// What the comparison of a piece says: it is equal, or looked at again, or under the lock.
    private mutating func decide(_ id: SlotID, _ lane: Int, isEqual: Bool) {
        let index = Int(slots[id].pair)
        var chunk = pairs[index].verify.lanes[lane].chunk
        let piece = slots[id].host.extent
        if chunk.isLocked {
            pairs[index].verify.counts.doneByteCount += piece.length
            chunk.extent = Extent(offset: piece.end, length: chunk.extent.end - piece.end)
            pairs[index].verify.lanes[lane].chunk = chunk
            return endPiece(id)
        }
        if pairs[index].verify.lanes[lane].isDisturbed {
            if chunk.attemptCount == 0 {
                pairs[index].verify.counts.skippedCount += 1
                pairs[index].verify.counts.skippedByteCount += piece.length
            }
            chunk.attemptCount += 1
            pairs[index].verify.lanes[lane].chunk = .none
            postpone(chunk, lane, index)
        } else if isEqual {
            pairs[index].verify.counts.doneByteCount += piece.length
            pairs[index].verify.lanes[lane].chunk = .none
        } else {
            pairs[index].verify.lanes[lane].chunk.isLocked = true
        }
        endPiece(id)
    }

    /// Puts a spoiled chunk behind the others; where that queue is full, the lane keeps it.
    private mutating func postpone(_ chunk: VerifyChunk, _ lane: Int, _ index: Int) {
        guard pairs[index].verify.postponed.isFull else { return pairs[index].verify.postponed.append(chunk) }
        var chunk = chunk
        chunk.isLocked = true
        pairs[index].verify.counts.lockedCount += 1
        pairs[index].verify.lanes[lane].chunk = chunk
    }

    /// A piece is over, one way or the other: its lock, buffers and slot are given back.
    private mutating func endPiece(_ id: SlotID, pumps: Bool = true) {
        let index = Int(slots[id].pair)
        invariant(slots[id].pendingLegs == 0, "a piece ends when its operation is over")
        freeLane(id)
        pairs[index].verify.slotCount -= 1
        if slots[id].holdsLock { unlock(id) }
        recycleBuffers(id)
        slots.release(id)
        if pumps { pumpVerify(index) }
        finishDetachIfIdle(index)
    }

    /// The slot works on its lane's chunk no more; a chunk that was not decided is begun again.
    private mutating func freeLane(_ id: SlotID) {
        guard let lane = lane(of: id) else { return }
        pairs[Int(slots[id].pair)].verify.lanes[lane].isBusy = false
    }

    /// The buffers of a piece have not come, and what it was for does not happen now.
    mutating func dropWaitingPiece(_ id: SlotID) {
        freeLane(id)
        pairs[Int(slots[id].pair)].verify.slotCount -= 1
        slots.release(id)
    }

    /// An element does not answer: whoever waits for the piece's lock goes on, and the slot stays taken until it does.
    mutating func abandonPiece(_ id: SlotID) {
        slots[id].stage = .abandoned
        freeLane(id)
        pairs[Int(slots[id].pair)].verify.slotCount -= 1
        if slots[id].holdsLock { unlock(id) }
    }

    // MARK: - The end

    /// Records what was marked since the last time, and goes on where something was in the way.
    ///
    /// Once per tick.
    mutating func tickVerify() {
        guard runningVerifyCount > 0 else { return }
        for index in 0..<pairs.count where pairs[index].verify.stage == .running {
            recordMarks(index)
            pumpVerify(index)
        }
    }

    /// The verify of a pair, if one runs, is over; what it has in flight ends by itself.
    mutating func endVerify(_ index: Int, _ failure: VerifyFailure?) {
        guard pairs[index].verify.isRunning else { return }
        pairs[index].verify.stage = .idle
        runningVerifyCount -= 1
        if !pairs[index].wantsDetach, !isClosing { recordMarks(index) }
        announce(.verifyEnded(pair: pairs[index].id, failure))
    }

    /// What a verify has marked is what differs, as whatever else does, from the moment that the pair is not Synchronized.
    mutating func leaveSynchronized(_ index: Int, for state: CopyState) {
        endVerify(index, .leftSynchronized(state))
        if pairs[index].hasVerifyMarks { pairs[index].joinChanges() }
    }

    /// What the pair is now is durable, or cannot be made durable: so are the marks of a verify that has compared everything.
    mutating func tellVerifyEnd(_ index: Int, _ failure: IOFailure?) {
        guard pairs[index].verify.stage == .recording else { return }
        if failure == nil, !isMapSettled(index) {
            // The marks are in bitmap pages, which go on their own; the last of them comes here again.
            pairs[index].store.beginSweep()
            mayAdvanceLogs = true
            return
        }
        pairs[index].verify.hasUnrecordedMarks = false
        let unsettled: IOFailure = pairs[index].store.isPageStuck ? .timedOut : .inputOutput
        let found = failure ?? (pairs[index].store.isSettled ? nil : unsettled)
        endVerify(index, found.map { .recordFailed($0) })
    }
}

extension PairVerify {
    /// Something was found.
    var differs: Bool { counts.differentByteCount > 0 }
}

extension Pair {
    /// A verify has found the two elements different here, and nothing else says so.
    mutating func markFoundDifferent(_ extent: Extent) {
        invariant(copyState == .synchronized, "a verify marks what differs in a pair that counts as equal")
        markTargetChanged(extent)
        hasVerifyMarks = true
        forgetStep()
    }

    /// Bytes that a verify has found different and nobody has copied since, in whole granules.
    package var verifyMarkedByteCount: UInt64 { hasVerifyMarks ? targetChanged.dirtyByteCount : 0 }
}
