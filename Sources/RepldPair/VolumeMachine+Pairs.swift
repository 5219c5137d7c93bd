package import RepldCore
package import RepldFormat

/// Pairs: how they come and go, start, stop and break, and what is durable about them.
extension VolumeMachine {
    // MARK: - Commands

    /// Takes a pair in, with the record that its metadata area held, and records it as open.
    ///
    /// A pair that was Synchronized and closed cleanly is Synchronized at once, if no host has written since the volume is
    /// served. Otherwise nothing is known of where it differs: everything is dirty, and a copy compares before it writes.
    /// A fresh pair (`isNew`) starts Initialized with everything dirty and copies without comparing.
    /// Returns the place of the pair; `nil` when every place is taken.
    package mutating func addPair(_ record: PairRecord, isNew: Bool, settings: PairSettings) -> Int? {
        guard !isClosing else { return nil }
        guard let index = (0..<pairs.count).first(where: { !pairs[$0].isInUse }) else { return nil }
        pairs[index] = Pair(volumeByteCount: byteCount, granuleByteCount: UInt64(settings.granuleByteCount))
        pairs[index].isInUse = true
        pairs[index].id = record.pair
        pairs[index].settings = settings
        pairs[index].settings.copyDepth = min(max(settings.copyDepth, 1), UInt8(Pair.copyDepthLimit))
        pairs[index].recordSequence = record.sequence
        // The area of a new pair is blank, which no start takes for "in sync".
        pairs[index].isOpenRecorded = isNew
        let state = CopyState(rawValue: record.copyState) ?? .initialized
        if state == .synchronized && record.isClosedCleanly && !isNew && !hasWritten {
            pairs[index].copyState = .synchronized
        } else {
            pairs[index].dirty.markAll()
            pairs[index].comparesFirst = !isNew
            pairs[index].copyState = state == .synchronized ? .unsynchronized : state
        }
        if pairs[index].copyState == .unsynchronized { resetCopyCounters(index) }
        wantRecord(index)
        return index
    }

    /// Starts to copy what differs and to mirror what is written; false where the pair's state has nothing to start.
    package mutating func startPair(_ index: Int) -> Bool {
        invariant(pairs[index].isInUse, "a pair that is started exists")
        guard !pairs[index].wantsDetach else { return false }
        switch pairs[index].copyState {
        case .unsynchronized, .synchronized:
            return true
        case .initialized, .broken, .suspended, .prepared, .inactive, .aborted:
            // What is stuck on the target must come back first: a late write would undo what the copy writes.
            pairs[index].wantsStart = true
            if pairs[index].operationsInFlight == 0 { beginCopying(index) }
            return true
        default:
            return false
        }
    }

    /// Stops copying and mirroring; what is written meanwhile is remembered.
    package mutating func suspendPair(_ index: Int) -> Bool {
        guard !pairs[index].wantsDetach else { return false }
        switch pairs[index].copyState {
        case .suspended:
            return true
        case .unsynchronized, .synchronized:
            stopMirroring(index, to: .suspended)
            return true
        default:
            return false
        }
    }

    /// Forgets a pair once nothing is in flight to its target; `pairDetached` follows.
    package mutating func detachPair(_ index: Int) {
        invariant(pairs[index].isInUse, "a pair that is detached exists")
        pairs[index].wantsDetach = true
        pairs[index].wantsStart = false
        pairs[index].isRecordWanted = false
        dropWaitingChunks(index)
        finishDetachIfIdle(index)
        mayReleaseHeld = true
        finishEvent()
    }

    package func pairIndex(_ id: PairID) -> Int? {
        (0..<pairs.count).first { pairs[$0].isInUse && pairs[$0].id == id }
    }

    /// Reads a pair in place.
    package func withPair<Result>(_ index: Int, _ body: (borrowing Pair) -> Result) -> Result? {
        guard index >= 0, index < pairs.count, pairs[index].isInUse else { return nil }
        return body(pairs[index])
    }

    // MARK: - Changes of state

    mutating func changeState(_ index: Int, to state: CopyState) {
        let before = pairs[index].copyState
        guard before != state else { return }
        pairs[index].copyState = state
        effects.append(.announce(.copyStateChanged(pair: pairs[index].id, from: before, to: state)))
        wantRecord(index)
    }

    mutating func beginCopying(_ index: Int) {
        pairs[index].wantsStart = false
        pairs[index].reason = nil
        resetCopyCounters(index)
        changeState(index, to: .unsynchronized)
        pumpCopies(index)
    }

    private mutating func resetCopyCounters(_ index: Int) {
        pairs[index].cursor = 0
        pairs[index].copied.removeAll()
        pairs[index].copyTotalByteCount = pairs[index].dirty.dirtyByteCount
        pairs[index].copyDoneByteCount = 0
        pairs[index].copyWrittenByteCount = 0
        pairs[index].copyZeroByteCount = 0
        pairs[index].copyEqualByteCount = 0
    }

    mutating func finishCopying(_ index: Int) {
        invariant(pairs[index].dirty.isClean, "a copy is over when nothing is dirty")
        pairs[index].comparesFirst = false
        changeState(index, to: .synchronized)
    }

    mutating func breakPair(_ index: Int, _ reason: BreakReason) {
        guard pairs[index].isMirroring else { return }
        pairs[index].reason = reason
        effects.append(.announce(.pairBroken(pair: pairs[index].id, reason)))
        stopMirroring(index, to: .broken)
    }

    /// From here on nothing new goes to the target; all that it may not have is dirty.
    private mutating func stopMirroring(_ index: Int, to state: CopyState) {
        rememberUnproven(index)
        pairs[index].copied.removeAll()
        dropWaitingChunks(index)
        changeState(index, to: state)
    }

    private mutating func rememberUnproven(_ index: Int) {
        pairs[index].rememberUnflushed()
        let bit: UInt8 = 1 << leg(ofPair: index)
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].purpose == .hostWrite else { continue }
            if slots[id].pendingLegs & bit != 0 { pairs[index].dirty.mark(touching: slots[id].host.extent) }
        }
    }

    /// The target does not answer: whoever waits only for it is answered now.
    mutating func abandonLegs(of index: Int) {
        let bit: UInt8 = 1 << leg(ofPair: index)
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].pendingLegs & bit != 0 else { continue }
            slots[id].abandonedLegs |= bit
            guard slots[id].awaitedLegs == 0 else { continue }
            switch (slots[id].purpose, slots[id].stage) {
            case (.hostWrite, .running), (.hostFlush, .running):
                settle(id)
            case (.hostRead, .redirectReading):
                unlock(id)
                answer(id, slots[id].sourceFailure)
            case (.copy, .copyComparing), (.copy, .copyWriting):
                // Host writes wait for this lock.
                slots[id].stage = .abandoned
                pairs[index].copiesInFlight -= 1
                unlock(id)
            case (.copyFlush, .running):
                slots[id].stage = .abandoned
            case (.closeFlush, .running):
                slots[id].stage = .abandoned
                finishCloseFlush(isSourceDurable: slots[id].sourceFailure == nil)
            default:
                break
            }
        }
    }

    /// An operation on a target is over: what waited for the last of them can go on.
    mutating func targetOperationEnded(_ index: Int) {
        guard pairs[index].isInUse, pairs[index].operationsInFlight == 0 else { return }
        if pairs[index].wantsDetach { return finishDetachIfIdle(index) }
        if pairs[index].wantsStart && !isClosing { beginCopying(index) }
    }

    mutating func finishDetachIfIdle(_ index: Int) {
        guard pairs[index].isInUse, pairs[index].wantsDetach, pairs[index].operationsInFlight == 0 else { return }
        guard pairs[index].copiesInFlight == 0, !pairs[index].isRecordInFlight else { return }
        pairs[index] = Pair(volumeByteCount: 0, granuleByteCount: 4096)
        effects.append(.pairDetached(pair: index))
        mayReleaseHeld = true
    }

    // MARK: - Records

    private static var recordAttemptLimit: Int { 3 }

    /// Asks for a record of the pair as it is now.
    ///
    /// One is in flight at a time; the last wish wins.
    mutating func wantRecord(_ index: Int) {
        // What a stuck target gives back after the last record changes nothing that a start would believe: with an
        // operation in flight, that record was not a clean one.
        guard closeStage != .closed, !pairs[index].wantsDetach else { return }
        pairs[index].isRecordWanted = true
        pairs[index].recordAttempts = 0
        writeRecord(index)
    }

    private mutating func writeRecord(_ index: Int) {
        guard pairs[index].isRecordWanted, !pairs[index].isRecordInFlight, !pairs[index].wantsDetach else { return }
        pairs[index].isRecordWanted = false
        pairs[index].isRecordInFlight = true
        pairs[index].recordSequence += 1
        let record = PairRecord(
            sequence: pairs[index].recordSequence,
            pair: pairs[index].id,
            volumeByteCount: byteCount,
            copyState: pairs[index].copyState.rawValue,
            isClosedCleanly: pairs[index].wantsCleanRecord
        )
        effects.append(.persist(pair: index, record))
    }

    /// The record of a `persist` effect is durable, or could not be written.
    package mutating func recordWritten(pair index: Int, _ failure: IOFailure?) {
        invariant(pairs[index].isInUse && pairs[index].isRecordInFlight, "a record was on its way")
        pairs[index].isRecordInFlight = false
        if let failure {
            recordFailed(index, failure)
        } else {
            if !pairs[index].wantsCleanRecord { pairs[index].isOpenRecorded = true }
            pairs[index].isRecordImpossible = false
            pairs[index].hasRecordFailed = false
            pairs[index].recordAttempts = 0
        }
        if pairs[index].wantsDetach { pairs[index].isRecordWanted = false }
        writeRecord(index)
        finishDetachIfIdle(index)
        mayReleaseHeld = true
        finishEvent()
        if pairs[index].isInUse, !pairs[index].isRecordPending { pumpCopies(index) }
        if isClosing { advanceClosing() }
        finishEvent()
    }

    /// Tries again to write the records that could not be written.
    ///
    /// Once per tick.
    mutating func retryRecords() {
        for index in 0..<pairs.count where pairs[index].isInUse && pairs[index].hasRecordFailed && !isClosing {
            wantRecord(index)
        }
    }

    /// After a few attempts the pair goes on without the record if an open one is durable: then a restart takes
    /// everything as different, which is safe.
    ///
    /// Without one, writes are refused, because a restart could believe an old record that says "in sync".
    private mutating func recordFailed(_ index: Int, _ failure: IOFailure) {
        pairs[index].recordAttempts += 1
        if pairs[index].recordAttempts < Self.recordAttemptLimit {
            pairs[index].isRecordWanted = true
            return
        }
        if !pairs[index].hasRecordFailed { effects.append(.announce(.recordFailed(pair: pairs[index].id, failure))) }
        pairs[index].hasRecordFailed = true
        if !pairs[index].isOpenRecorded { pairs[index].isRecordImpossible = true }
    }

    // MARK: - Closing

    /// Takes no more requests, ends the copies, flushes every copy, records the pairs as cleanly closed: `closed` follows.
    ///
    /// The caller has no host requests in flight any more, or waits for them: closing goes on when they have ended.
    package mutating func close() {
        guard !isClosing else { return }
        isClosing = true
        closeStage = .draining
        for index in 0..<pairs.count where pairs[index].isInUse { dropWaitingChunks(index) }
        advanceClosing()
    }

    mutating func advanceClosing() {
        switch closeStage {
        case .draining:
            guard slots.isEmpty || onlyStuckRemain else { return }
            for index in 0..<pairs.count where pairs[index].isRecordPending { return }
            startCloseFlush()
        case .recording:
            for index in 0..<pairs.count where pairs[index].isRecordPending { return }
            closeStage = .closed
            effects.append(.closed)
        case .open, .flushing, .closed:
            break
        }
    }

    /// What a target does not give back is not waited for.
    private var onlyStuckRemain: Bool {
        for index in 0..<slots.capacity {
            guard let id = slots.taken(at: index) else { continue }
            if slots[id].stage != .abandoned { return false }
        }
        return true
    }

    private mutating func startCloseFlush() {
        closeStage = .flushing
        let request = Request(
            host: HostRequest(
                operation: .flush,
                extent: Extent(offset: 0, length: 0),
                buffer: .none,
                origin: RequestOrigin(client: 0, request: 0)
            ),
            purpose: .closeFlush,
            stage: .running,
            startedAt: now
        )
        guard let id = slots.take(request) else { invariantFailed("the closing flush has a slot of its own") }
        startFlush(id)
    }

    mutating func closeFlushLegCompleted(_ id: SlotID, leg: UInt8, _ failure: IOFailure?) {
        if leg == 0 {
            slots[id].sourceFailure = failure
        } else {
            targetFlushCompleted(id, pair: Int(leg) - 1, failure)
        }
        guard slots[id].awaitedLegs == 0 else { return }
        if slots[id].pendingLegs != 0 { slots[id].stage = .abandoned }
        let isSourceDurable = slots[id].sourceFailure == nil
        if slots[id].pendingLegs == 0 { slots.release(id) }
        finishCloseFlush(isSourceDurable: isSourceDurable)
    }

    private mutating func finishCloseFlush(isSourceDurable: Bool) {
        closeStage = .recording
        for index in 0..<pairs.count where pairs[index].isInUse && pairs[index].isOpenRecorded {
            // A target that holds a stuck write may still change: that is not clean.
            pairs[index].wantsCleanRecord = isSourceDurable && pairs[index].operationsInFlight == 0
            wantRecord(index)
        }
        advanceClosing()
    }
}
