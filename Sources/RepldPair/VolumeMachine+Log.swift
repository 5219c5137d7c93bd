package import RepldCore
internal import RepldFormat

/// The activity logs and bitmaps of the pairs: what a write waits for before it is issued, and how that gets on disk.
///
/// A write that needs an extent which is not active waits with its lock held (`waitingForRecord`), as it does for a record of
/// the pair. All that wait are tried again after each record.
///
/// **No deadlock, and an end to each wait.** A write takes its references all at once, or none; so whoever has references waits for
/// its elements only. Extents with references do not leave, all others can. But with many waiting writes of several extents each,
/// one record might bring what the next takes away: so one of those that wait, the *preferred* one, keeps what it gets. It
/// gets the rest, because all other references are given back and a log has room for any one write (32 MiB at most); then
/// another one is preferred.
extension VolumeMachine {
    enum LogEntry { case entered, waits, refused }

    // MARK: - Writes

    /// Takes references on the extents of a write in the log of every pair.
    mutating func enterLogs(_ id: SlotID) -> LogEntry {
        let extent = slots[id].host.extent
        let side = Int(slots[id].host.side)
        let isPreferred = preferredWriter == id
        var entered: UInt8 = 0
        var outcome = LogEntry.entered
        for index in 0..<pairEnd where pairs[index].isInUse && !pairs[index].wantsDetach {
            guard side == 0 || side - 1 == index else { continue }
            let keys = pairs[index].logKeys(of: extent, isTargetSide: side != 0)
            let hasEntered =
                isPreferred ? pairs[index].enterLogByParts(keys) : pairs[index].enterLog(keys)
            if hasEntered {
                entered |= 1 << UInt8(index)
            } else {
                mayAdvanceLogs = true
                outcome = pairs[index].isLogImpossible || outcome == .refused ? .refused : .waits
            }
        }
        slots[id].loggedPairs = entered
        switch outcome {
        case .entered:
            if isPreferred { endPreference() }
        case .waits:
            if isPreferred { break }
            leaveLogs(id)
            if Mutation.isOn(.writesBeforeLog) { return .entered }
            if preferredWriter == nil { preferredWriter = id }
        case .refused:
            leaveLogs(id)
        }
        return outcome
    }

    private mutating func endPreference() {
        preferredWriter = nil
        for index in 0..<pairs.count { pairs[index].preferredKeyCount = 0 }
    }

    /// Gives the references of a write back: it has ended, or nobody waits for it.
    mutating func leaveLogs(_ id: SlotID) {
        let logged = slots[id].loggedPairs
        slots[id].loggedPairs = 0
        let isPreferred = preferredWriter == id
        guard logged != 0 || isPreferred else { return }
        let extent = slots[id].host.extent
        for index in 0..<pairEnd where pairs[index].isInUse {
            let keys = pairs[index].logKeys(of: extent, isTargetSide: slots[id].host.side != 0)
            if logged & 1 << UInt8(index) != 0 {
                let wasMirrored = slots[id].issuedLegs & 1 << leg(ofPair: index) != 0 && slots[id].host.side == 0
                pairs[index].leaveLog(keys, wasMirrored: wasMirrored)
            } else if isPreferred, pairs[index].preferredKeyCount > 0 {
                let last = keys.lowerBound + UInt32(pairs[index].preferredKeyCount) - 1
                pairs[index].leaveLog(keys.lowerBound...last, wasMirrored: false)
            }
            if pairs[index].store.log.wantedCount > 0 { mayAdvanceLogs = true }
        }
        if isPreferred { endPreference() }
    }

    /// The pair goes: nobody has references on its extents any more.
    mutating func forgetLog(_ index: Int) {
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot) else { continue }
            slots[id].loggedPairs &= ~(1 << UInt8(index))
            slots[id].laterLegs &= ~(1 << leg(ofPair: index))
            // The pair that comes to this place next has copied nothing that such a flush would have made durable.
            let isOfPair = slots[id].purpose == .copyFlush || slots[id].purpose == .logFlush
            if isOfPair, Int(slots[id].pair) == index { slots[id].stage = .abandoned }
        }
    }

    // MARK: - Records of the log, evictions, pages

    /// Goes on wherever something can be written.
    mutating func advanceLogs() {
        for index in 0..<pairs.count where pairs[index].isInUse && !pairs[index].wantsDetach && closeStage != .closed {
            advanceLog(index)
            pumpPages(index)
            // A drain waits for no record that is begun after it.
            guard !gate.isClosed else { continue }
            if pairs[index].store.isCoveringImpossible {
                // The peer learns the size from the record, and hosts are about to see it: no page is waited for.
                pairs[index].distrustMaps()
                wantRecord(index)
                startIfPossible(index)
            }
            if pairs[index].store.endsCovering() {
                wantRecord(index)
                startIfPossible(index)
            }
            if pairs[index].store.canBeTrusted {
                pairs[index].store.trust = .exact
                wantRecord(index)
            }
        }
    }

    private mutating func advanceLog(_ index: Int) {
        if pairs[index].store.isEvicting { advanceEviction(index) }
        writeLog(index)
        if pairs[index].store.wantsEviction, mayEvict(index) {
            guard pairs[index].store.beginEviction(granuleShift: pairs[index].dirty.granuleShift) else { return }
            advanceEviction(index)
            writeLog(index)
        }
    }

    /// Between a gate's drain and its change nothing is to be in flight to the elements.
    private func mayEvict(_ index: Int) -> Bool {
        if gate.isClosed {
            return pairs[index].store.log.wantedCount > 0 && gate.stage == .draining && !isPrimaryLeftAlone
        }
        return !pairs[index].store.hasPageFailed
    }

    private mutating func writeLog(_ index: Int) {
        guard !pairs[index].store.isLogWriteInFlight, !pairs[index].store.waitsForTick else { return }
        // A ring that may still be needed is not written over before it is durable that it is not.
        let isForced = pairs[index].store.logRecordsOwed > 0 && pairs[index].store.durableTrust == .none
        guard pairs[index].store.log.isRecordOwed || pairs[index].store.log.beginRecord(isForced: isForced) else {
            return
        }
        pairs[index].store.isLogWriteInFlight = true
        pairs[index].store.logStartedAt = awake
        effects.append(.writeLog(pair: index))
    }

    /// A record of the log is durable, or could not be written.
    package mutating func logWritten(pair index: Int, _ failure: IOFailure?) {
        invariant(pairs[index].isInUse && pairs[index].store.isLogWriteInFlight, "a record of the log was on its way")
        pairs[index].store.isLogWriteInFlight = false
        pairs[index].store.isLogStuck = false
        if let failure {
            pairs[index].store.logAttempts += 1
            if pairs[index].store.logAttempts == MapStore.logAttemptLimit {
                announce(.recordFailed(pair: pairs[index].id, failure))
            }
            pairs[index].store.waitsForTick = pairs[index].store.isLogImpossible
        } else {
            pairs[index].store.logAttempts = 0
            pairs[index].store.logRecordsOwed = max(pairs[index].store.logRecordsOwed - 1, 0)
            pairs[index].store.log.recordIsDurable()
        }
        metadataWritten(index)
    }

    /// Builds the record of the log that is to be written now over a whole block.
    package func encodeLog(pair index: Int, into block: inout MutableRawSpan) {
        ActivityLogSector.encodeRecord(
            of: pairs[index].store.log,
            generation: pairs[index].store.generation,
            pairs[index].id,
            into: &block
        )
    }

    /// Where that record goes in the metadata area.
    package func logOffset(pair index: Int) -> UInt64 {
        MetadataLayout.logBlockOffset(sequence: pairs[index].store.log.sequence)
    }

    private mutating func pumpPages(_ index: Int) {
        while let place = pairs[index].store.takePage(now: awake) {
            pairs[index].beginPage(place)
            effects.append(.writePage(pair: index, place: place))
        }
    }

    /// Builds a bitmap page that is to be written now over a whole block; where it goes in the metadata area.
    package func encodePage(pair index: Int, place: Int, into block: inout MutableRawSpan) -> UInt64 {
        let number = pairs[index].store.pageWrites[place].number
        let id = pairs[index].id
        if pairs[index].store.pageWrites[place].isJoined {
            BitmapSector.encodeJoinedPage(number, pairs[index].dirty, pairs[index].targetChanged, id, into: &block)
        } else if number % 2 == 0 {
            BitmapSector.encodePage(number, of: pairs[index].dirty, id, into: &block)
        } else {
            BitmapSector.encodePage(number, of: pairs[index].targetChanged, id, into: &block)
        }
        return MetadataLayout.pageOffset(number)
    }

    /// A bitmap page is durable, or could not be written.
    package mutating func pageWritten(pair index: Int, place: Int, _ failure: IOFailure?) {
        invariant(pairs[index].isInUse, "a pair stays while its metadata is written")
        if let failure, !pairs[index].store.hasPageFailed {
            announce(.recordFailed(pair: pairs[index].id, failure))
        }
        pairs[index].endPage(place, isDurable: failure == nil)
        pairs[index].store.pageWritten(place, isDurable: failure == nil)
        metadataWritten(index)
    }

    private mutating func metadataWritten(_ index: Int) {
        mayAdvanceLogs = true
        mayReleaseHeld = true
        if isMapSettled(index), !pairs[index].isRecordPending { tellVerifyEnd(index, nil) }
        finishDetachIfIdle(index)
        finishEvent()
        if isClosing { advanceClosing() }
        finishEvent()
    }

    // MARK: - Evictions

    /// What the leaving extents have becomes durable: their bits, and what was mirrored.
    private mutating func advanceEviction(_ index: Int) {
        // Where it is durable that everything may differ, there is nothing to add.
        // The mover may be about to clear bits, and counts on what leaves to be durable on both elements.
        let isDirtyForGood = pairs[index].isAllDirtyForGood && !pairs[index].isCopyFlushInFlight
        if isDirtyForGood { return pairs[index].store.endEviction(isDurable: true) }
        guard pairs[index].store.hasNeededPages || Mutation.isOn(.evictsBeforePages) else { return }
        let needsFlush = pairs[index].isMirroring && pairs[index].store.leavingEpoch > pairs[index].store.durableEpoch
        guard needsFlush, !Mutation.isOn(.evictsBeforeFlush) else {
            return pairs[index].store.endEviction(isDurable: true)
        }
        guard pairs[index].store.fullFlush == nil, !pairs[index].store.isFlushInFlight else { return }
        guard gate.stage != .flushing, !isPrimaryLeftAlone, closeStage == .open || closeStage == .draining else {
            return
        }
        var request = Request(host: .ownFlush, purpose: .logFlush, stage: .running)
        request.pair = UInt8(index)
        request.startedAt = awake
        guard let id = slots.take(request) else { invariantFailed("the log's flush has a slot of its own") }
        pairs[index].store.isFlushInFlight = true
        issue(id, leg: 0, .flush)
        issue(id, leg: leg(ofPair: index), .flush)
        noteFullFlush(id, index)
    }

    /// A flush was issued to the primary and to the pair's element: when both succeed, what ended before is durable.
    mutating func noteFullFlush(_ id: SlotID, _ index: Int) {
        guard pairs[index].store.fullFlush == nil else { return }
        pairs[index].beginFullFlush(id)
    }

    /// A leg of a flush has ended.
    mutating func flushLegCompleted(_ id: SlotID, succeeded: Bool, leg: UInt8) {
        if succeeded { slots[id].succeededLegs |= 1 << leg }
        for index in 0..<pairs.count where pairs[index].isInUse && pairs[index].store.fullFlush == id {
            let legs: UInt8 = 1 | 1 << self.leg(ofPair: index)
            guard slots[id].pendingLegs & legs == 0 else { continue }
            pairs[index].endFullFlush(isDurable: slots[id].succeededLegs & legs == legs)
            if pairs[index].store.isEvicting { mayAdvanceLogs = true }
        }
    }

    /// The log's own flush has ended on both elements, or is not waited for.
    mutating func logFlushEnded(_ index: Int) {
        pairs[index].store.isFlushInFlight = false
        let isWaitedFor = pairs[index].isMirroring && pairs[index].store.isEvicting
        if isWaitedFor, pairs[index].store.durableEpoch < pairs[index].store.leavingEpoch {
            // Not before the next tick: an element that fails flushes would be asked for one after the other.
            pairs[index].store.noteEvictionFailed()
            pairs[index].store.endEviction(isDurable: false)
        }
        mayAdvanceLogs = true
    }

    // MARK: - Time

    /// Writes what is stale, tries again what failed, and gives up what does not come back.
    ///
    /// Once per tick.
    mutating func tickLogs() {
        for index in 0..<pairs.count where pairs[index].isInUse && !pairs[index].wantsDetach {
            pairs[index].store.hasPageFailed = false
            pairs[index].store.waitsForTick = false
            if !pairs[index].store.stale.isClean { pairs[index].store.beginSweep() }
            let limit = pairs[index].settings.targetTimeoutNanoseconds
            if pairs[index].store.giveUpStuck(now: awake, limit: limit) {
                announce(.recordFailed(pair: pairs[index].id, .timedOut))
                mayReleaseHeld = true
            }
            if pairs[index].isLogImpossible { mayReleaseHeld = true }
        }
        mayAdvanceLogs = true
    }

    /// Metadata of a pair is being written, stuck or not: its area cannot be closed.
    func hasMetadataInFlight(_ index: Int) -> Bool {
        pairs[index].isRecordInFlight || pairs[index].store.hasWriteInFlight || pairs[index].undo.isBusy
    }

    /// Whether the bitmaps of a pair are on disk, or cannot be brought there now.
    func isMapSettled(_ index: Int) -> Bool {
        if pairs[index].store.isSettled || pairs[index].isRecordStuck || pairs[index].hasRecordFailed { return true }
        if pairs[index].store.hasPageFailed { return true }
        return pairs[index].store.isPageStuck
    }
}
