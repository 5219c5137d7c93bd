internal import RepldCore

/// The end of a volume: drained, flushed, its bitmaps written, its pairs recorded as cleanly closed.
extension VolumeMachine {
    /// Takes no more requests, ends the copies, flushes every copy, records the pairs as cleanly closed: `closed` follows.
    ///
    /// The caller has no host requests in flight any more, or waits for them: closing goes on when they have ended.
    package mutating func close() {
        guard !isClosing else { return }
        isClosing = true
        if gate.isClosed { leaveGate(gate.pair, .cancelled) }
        closeStage = .draining
        for index in 0..<pairs.count where pairs[index].isInUse {
            endVerify(index, .closing)
            dropWaitingChunks(index)
        }
        // Nothing is copied any more: whoever waits for that waits in vain.
        mayReleaseHeld = true
        finishEvent()
        advanceClosing()
    }

    mutating func advanceClosing() {
        switch closeStage {
        case .draining:
            guard slots.isEmpty || onlyStuckRemain else { return }
            for index in 0..<pairs.count where pairs[index].isRecordPending { return }
            startCloseFlush()
        case .mapping:
            for index in 0..<pairs.count where pairs[index].isInUse && !isMapSettled(index) { return }
            recordClosing()
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
            if slots[id].stage != .abandoned, !isStuckRollback(id) { return false }
        }
        return true
    }

    /// A chunk that was being taken back has a limit of its own; nobody waits for it but the pair.
    private func isStuckRollback(_ id: SlotID) -> Bool {
        guard slots[id].purpose == .rollback, slots[id].pendingLegs != 0 else { return false }
        let limit = pairs[Int(slots[id].pair)].settings.targetTimeoutNanoseconds
        return awake.nanoseconds(since: slots[id].startedAt) > limit
    }

    private mutating func startCloseFlush() {
        closeStage = .flushing
        let request = Request(
            host: .ownFlush,
            purpose: .closeFlush,
            stage: .running,
            startedAt: awake
        )
        guard let id = slots.take(request) else { invariantFailed("the closing flush has a slot of its own") }
        startFlush(id)
    }

    mutating func closeFlushLegCompleted(_ id: SlotID, leg: UInt8, _ failure: IOFailure?) {
        if leg == 0 {
            slots[id].sourceFailure = failure
        } else {
            targetFlushCompleted(pair: Int(leg) - 1, failure)
        }
        guard slots[id].awaitedLegs == 0 else { return }
        if slots[id].pendingLegs != 0 { slots[id].stage = .abandoned }
        let isSourceDurable = slots[id].sourceFailure == nil
        if slots[id].pendingLegs == 0 { slots.release(id) }
        finishCloseFlush(isSourceDurable: isSourceDurable)
    }

    mutating func finishCloseFlush(isSourceDurable: Bool) {
        closeStage = .mapping
        isSourceDurableAtClose = isSourceDurable
        for index in 0..<pairs.count where pairs[index].isInUse {
            pairs[index].store.endEviction(isDurable: false)
            pairs[index].store.beginSweep()
        }
        mayAdvanceLogs = true
        finishEvent()
        advanceClosing()
    }

    /// The bitmaps are on disk, as far as they can be: the last records.
    private mutating func recordClosing() {
        closeStage = .recording
        for index in 0..<pairs.count where pairs[index].isInUse && pairs[index].isOpenRecorded {
            // A target that holds a stuck write may still change: that is not clean.
            let isStill = isSourceDurableAtClose && pairs[index].operationsInFlight == 0
            pairs[index].wantsCleanRecord = isStill && pairs[index].store.isSettled
            wantRecord(index)
        }
        advanceClosing()
    }
}
