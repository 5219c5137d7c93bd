internal import RepldCore
internal import RepldFormat

/// Restores over a link (`LinkRestore`): how they begin, stop, go on and end, and what hosts may do meanwhile.
extension VolumeMachine {
    // MARK: - Beginning and end

    /// Nothing is in flight to the target, and its peer can be reached.
    mutating func startLinkRestore(_ index: Int) {
        pairs[index].wantsStart = false
        guard pairs[index].linkRestore == .stopped else { return closeGate(index, .beginRestore) }
        pairs[index].linkRestore = .running
        pairs[index].reason = nil
        resetCopyCounters(index)
        mayReleaseHeld = true
        pumpCopies(index)
    }

    /// Drained and flushed: from here on hosts find what the target holds.
    mutating func beginLinkRestore(_ index: Int) {
        if differs(index) { turnHostsAway() }
        for other in 0..<pairs.count where other != index && pairs[other].isInUse {
            spreadDifferences(of: index, to: other)
            pairs[other].takesMixture = false
        }
        pairs[index].giveToTarget()
        pairs[index].forgetFresh()
        // One that was given up before begins anew.
        if pairs[index].copyState == .aborted { changeState(index, to: .suspended) }
        pairs[index].linkRestore = .running
        pairs[index].reason = nil
        pairs[index].isSourceInconsistent = true
        // Whatever hosts write from now on the target does not get before it is resumed.
        pairs[index].isSourceAhead = true
        pairs[index].isInStep = false
        pairs[index].inStepAt = now
        resetCopyCounters(index)
        markRecordCritical(index)
        wantRecord(index)
        writePagesSoon(index)
    }

    /// Nothing is lacking any more, durably.
    mutating func finishLinkRestore(_ index: Int) {
        endsWell(index) { machine in
            machine.noteSourceWhole(index)
            machine.endLinkRestore(index)
            machine.pairs[index].comparesFirst = false
            machine.pairs[index].isTargetConsistent = true
            machine.changeState(index, to: .restored)
        }
    }

    /// All that a restore, this one or an earlier one that was given up, has left of another point in time is overwritten.
    mutating func noteSourceWhole(_ index: Int) {
        pairs[index].isSourceInconsistent = false
        for other in 0..<pairs.count where other != index && pairs[other].isInUse {
            guard pairs[other].isSourceInconsistent, pairs[other].isRemote, !pairs[other].isMisplaced else { continue }
            pairs[other].isSourceInconsistent = false
            wantRecord(other)
        }
    }

    /// The source counts as it is.
    mutating func endLinkRestore(_ index: Int) {
        pairs[index].linkRestore = .none
        pairs[index].copied.removeAll()
        pairs[index].forgetFresh()
        letOthersStart(besides: index)
        mayReleaseHeld = true
    }

    /// By force the source counts as it is, half restored: hosts find other data.
    mutating func giveUpLinkRestore(_ index: Int) {
        guard pairs[index].linkRestore != .none else { return }
        turnHostsAway()
        restOthers(besides: index)
        endLinkRestore(index)
    }

    /// The source stays half restored: no other pair that waits copies that by itself.
    mutating func restOthers(besides index: Int) {
        for other in 0..<pairs.count where other != index && pairs[other].isInUse && pairs[other].wantsStart {
            if !pairs[other].isMisplaced { restBeforeMixture(other) }
        }
    }

    /// Its target is whole, and stays so until an operator has said by force that it gets what is half restored.
    mutating func restBeforeMixture(_ index: Int) {
        pairs[index].wantsStart = false
        endOperation(index, .pairBroken)
        changeState(index, to: .suspended)
    }

    /// Whether another pair has left the source half restored.
    func isLeftHalfRestored(besides index: Int) -> Bool {
        for other in 0..<pairs.count where other != index && pairs[other].isInUse {
            if pairs[other].isRemote, pairs[other].isSourceInconsistent, !pairs[other].isMisplaced { return true }
        }
        return false
    }

    mutating func letOthersStart(besides index: Int) {
        for other in 0..<pairs.count where other != index && pairs[other].isInUse { startIfPossible(other) }
    }

    /// Whether the pair has to wait with its copy for another one's restore.
    func waitsForLinkRestore(_ index: Int) -> Bool {
        for other in 0..<pairs.count where other != index && pairs[other].isInUse {
            let isRequested = pairs[other].isRemote && pairs[other].operation == .restoreFromReplica
            if isRequested || pairs[other].linkRestore != .none { return true }
        }
        return false
    }

    /// Nothing is copied from here on; what is lacking is remembered.
    mutating func stopLinkRestore(_ index: Int) {
        guard pairs[index].linkRestore == .running else { return }
        pairs[index].linkRestore = .stopped
        pairs[index].copied.removeAll()
        dropWaitingChunks(index)
        // Whoever waits for what is lacking waits in vain.
        mayReleaseHeld = true
    }

    /// The link is lost, or an element has failed.
    mutating func breakLinkRestore(_ index: Int, _ reason: BreakReason) {
        stopLinkRestore(index)
        pairs[index].reason = reason
        announce(.pairBroken(pair: pairs[index].id, reason, isFlowingBack: true))
        if reason == .linkLost {
            pairs[index].wantsStart = true
        } else {
            endOperation(index, .pairBroken)
            wantRecord(index)
        }
    }

    /// What hosts have written since the restore began, or what the target holds, is not known any more.
    mutating func loseLinkRestore(_ index: Int) {
        guard pairs[index].linkRestore != .lost else { return }
        stopLinkRestore(index)
        markLost(index)
        pairs[index].wantsStart = false
        endOperation(index, .pairBroken)
        let isInvalid = pairs[index].copyState == .invalid
        if isInvalid { wantRecord(index) } else { changeState(index, to: .invalid) }
        mayReleaseHeld = true
    }

    private mutating func markLost(_ index: Int) {
        pairs[index].linkRestore = .lost
        pairs[index].isTargetConsistent = false
        pairs[index].reason = .restoreForgotten
        pairs[index].forgetFresh()
        pairs[index].markAllDirty()
        pairs[index].comparesFirst = true
    }

    /// A pair is taken in whose record says that its source is half restored.
    mutating func takeUpLinkRestore(_ record: PairRecord, _ maps: RecoveredMaps, _ index: Int) {
        guard record.isRestoringOverLink, !pairs[index].isMisplaced else { return }
        let isRequested = record.operation == ReplicationOperation.restoreFromReplica.rawValue
        // A damaged sector counts as lacking, whatever hosts have written there.
        let isDamaged = maps.damagedSectorCount > 0
        if pairs[index].store.trust == .none || isDamaged || pairs[index].copyState == .invalid && !isRequested {
            pairs[index].copyState = .invalid
            return markLost(index)
        }
        pairs[index].linkRestore = .stopped
        // No host has written before the maps became exact.
        if pairs[index].store.trust == .union { pairs[index].giveToTarget() }
        guard isRequested else { return }
        pairs[index].operation = .restoreFromReplica
        pairs[index].wantsStart = true
    }

    // MARK: - Hosts

    /// Starts a host's read where the data is that counts.
    mutating func startRead(_ id: SlotID) {
        for index in 0..<pairEnd where pairs[index].isInUse && pairs[index].linkRestore != .none {
            return startRead(id, duringRestoreOf: index)
        }
        slots[id].stage = .running
        issue(id, leg: 0, .read)
    }

    private mutating func startRead(_ id: SlotID, duringRestoreOf index: Int) {
        let extent = slots[id].host.extent
        slots[id].stage = .running
        guard pairs[index].linkRestore != .lost else { return answer(id, .inputOutput) }
        guard pairs[index].targetChanged.isDirty(touching: extent) else { return issue(id, leg: 0, .read) }
        guard pairs[index].isReachable else { return answer(id, .inputOutput) }
        if pairs[index].isLackingWholly(extent) {
            moveUp(extent, index)
            return issue(id, leg: leg(ofPair: index), .read)
        }
        guard isCopying(index) else { return answer(id, .inputOutput) }
        hold(id, .waitingForRecord)
        pumpCopies(index)
    }

    /// What hosts ask for is copied next.
    private mutating func moveUp(_ extent: Extent, _ index: Int) {
        guard isCopying(index), !isBeingCopied(extent, index) else { return }
        pairs[index].cursor = pairs[index].targetChanged.granules(touching: extent).lowerBound
        pumpCopies(index)
    }

    private mutating func isBeingCopied(_ extent: Extent, _ index: Int) -> Bool {
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].purpose == .copy, Int(slots[id].pair) == index else {
                continue
            }
            if slots[id].host.extent.overlaps(extent) { return true }
        }
        for place in 0..<pairs[index].copied.count where pairs[index].copied[place].overlaps(extent) { return true }
        return false
    }

    /// Whether the source of a pair is half restored, which is seldom so.
    @inline(__always)
    var isRestoringOverLink: Bool {
        for index in 0..<pairEnd where pairs[index].linkRestore != .none { return true }
        return false
    }

    /// Whether a host's write may go to the source now.
    mutating func enterRestores(_ extent: Extent) -> LogEntry {
        for index in 0..<pairEnd where pairs[index].isInUse && pairs[index].linkRestore != .none {
            if pairs[index].linkRestore == .lost { return .refused }
            if pairs[index].targetChanged.isDirty(touching: extent) { return isCopying(index) ? .waits : .refused }
            let isExact = pairs[index].store.provenTrust == .exact
            if isExact, !pairs[index].isFresh(extent) { continue }
            // A gate that waits for the write would wait for what waits for the gate.
            let isGivenUp = gate.isClosed && gate.purpose == .abortLinkRestore
            if isGivenUp || pairs[index].isLogImpossible { return .refused }
            let hasRecord = !pairs[index].hasRecordFailed && !pairs[index].isRecordStuck
            let hasPages = !pairs[index].store.hasPageFailed && !pairs[index].store.isPageStuck
            return hasRecord && hasPages ? .waits : .refused
        }
        return .entered
    }

    /// The write waits, with its lock, for what the source lacks.
    mutating func holdForRestore(_ id: SlotID) {
        hold(id, .waitingForRecord)
        for index in 0..<pairs.count where pairs[index].linkRestore == .running { pumpCopies(index) }
    }

    // MARK: - The mover

    /// Goes on with what hosts wait for, before anything else; false where they wait for nothing.
    ///
    /// What is under way ends first and becomes durable, then what is asked for does: a host waits for two flushes at most.
    mutating func pumpAwaited(_ index: Int) -> Bool {
        guard pairs[index].linkRestore == .running, heldCount > 0, hasAwaited(index) else { return false }
        guard pairs[index].copiesInFlight == 0 else { return true }
        guard pairs[index].copied.isEmpty else {
            startCopyFlush(index)
            return true
        }
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), isAwaited(id, index) else { continue }
            let range = pairs[index].targetChanged.granules(touching: slots[id].host.extent)
            beginAwaitedChunks(range, index)
        }
        return true
    }

    private mutating func beginAwaitedChunks(_ range: Range<UInt64>, _ index: Int) {
        let limit = max(UInt64(pairs[index].settings.copyChunkByteCount) >> UInt64(pairs[index].dirty.granuleShift), 1)
        var start = range.lowerBound
        while pairs[index].copiesInFlight < Int(pairs[index].settings.copyDepth), start < range.upperBound {
            guard
                let run = pairs[index].targetChanged.nextDirtyRun(
                    from: start,
                    limit: min(limit, range.upperBound - start)
                )
            else { return }
            guard run.lowerBound < range.upperBound else { return }
            let found = run.lowerBound..<min(run.upperBound, range.upperBound)
            beginChunk(pairs[index].targetChanged.extent(of: found), pair: index)
            start = found.upperBound
        }
    }

    private mutating func hasAwaited(_ index: Int) -> Bool {
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot) else { continue }
            if isAwaited(id, index) { return true }
        }
        return false
    }

    /// A host's request waits for what is lacking.
    private func isAwaited(_ id: SlotID, _ index: Int) -> Bool {
        guard slots[id].stage == .waitingForRecord, slots[id].host.side == 0 else { return false }
        guard slots[id].purpose == .hostRead || slots[id].purpose == .hostWrite else { return false }
        return pairs[index].targetChanged.isDirty(touching: slots[id].host.extent)
    }

    /// What was copied is durable on the source.
    mutating func noteRestored(_ index: Int) {
        while let extent = pairs[index].copied.popFirst() { pairs[index].clearLacking(extent) }
        writePagesSoon(index)
        mayReleaseHeld = true
    }

    private mutating func writePagesSoon(_ index: Int) {
        pairs[index].store.beginSweepAnew()
        mayAdvanceLogs = true
    }
}
