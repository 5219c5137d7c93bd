package import RepldCore
package import RepldFormat

/// Pairs: how they come and go, start, stop and break, and what is durable about them.
extension VolumeMachine {
    // MARK: - Commands

    /// Takes a pair in, with the record that its metadata area held, and records it as open.
    ///
    /// What may differ is what the bitmaps have, and after a crash the extents that were active; there a copy compares before it
    /// writes. A pair that was Synchronized and closed cleanly is Synchronized at once. If a host has written since the volume is
    /// served, or nothing can be relied on, everything is dirty. A fresh pair (`isNew`) starts Initialized with everything dirty
    /// and copies without comparing.
    /// A remote pair begins out of reach: one that flowed is Partitioned until `linkRestored`. Its records are of the run `generation`.
    /// Returns the place of the pair; `nil` when every place is taken.
    package mutating func addPair(
        _ record: PairRecord,
        _ maps: RecoveredMaps,
        isNew: Bool,
        settings: PairSettings,
        undo: RecoveredUndo? = nil,
        isRemote: Bool = false,
        generation: Generation = .none
    ) -> Int? {
        guard !isClosing else { return nil }
        guard let index = (0..<pairs.count).first(where: { !pairs[$0].isInUse }) else { return nil }
        invariant(
            MetadataLayout.isValid(
                extentByteCount: UInt64(settings.logExtentByteCount),
                granuleByteCount: UInt64(settings.granuleByteCount),
                volumeByteCount: byteCount
            ),
            "an extent of the activity log has from one granule to 1024"
        )
        pairs[index] = Pair(
            volumeByteCount: byteCount,
            settings: settings,
            hasUndo: !isRemote && (settings.keepsUndo || undo != nil)
        )
        pairs[index].isInUse = true
        findPairEnd()
        pairs[index].id = record.pair
        pairs[index].settings.copyDepth = min(max(settings.copyDepth, 1), UInt8(Pair.copyDepthLimit))
        pairs[index].recordSequence = record.sequence
        pairs[index].lineage = record.lineage
        pairs[index].lineage.begin(generation, after: record.sequence + (record.isOneBehind ? 1 : 0))
        // The area of a new pair is blank, which no start takes for "in sync".
        pairs[index].isOpenRecorded = isNew
        takeUp(record, maps, isNew: isNew, index)
        if isRemote {
            beginOutOfReach(record, maps, index)
            takeUpRemoteUndo(record, index)
        } else {
            takeUpUndo(record, undo, index)
        }
        if pairs[index].isMirroring { resetCopyCounters(index) }
        if isFollowing { restForPeer(index) }
        // Of what a crash has interrupted only one of the two blocks may know.
        markRecordCritical(index)
        wantRecord(index)
        return index
    }

    /// The state that a pair begins in, by its record.
    private mutating func takeUp(_ record: PairRecord, _ maps: RecoveredMaps, isNew: Bool, _ index: Int) {
        var state = CopyState(rawValue: record.copyState) ?? .initialized
        pairs[index].term = record.term
        pairs[index].isSecondSource = record.isSecondSource
        pairs[index].isSecondPrimary = record.isSecondPrimary
        pairs[index].isTargetConsistent = record.isTargetConsistent
        pairs[index].isSourceAhead = record.isSourceAhead
        pairs[index].isSourceInconsistent = record.isSourceInconsistent
        // Of what is behind the size that a record has, nothing is known; the bitmaps of a larger volume say nothing of this one.
        let isLarger = record.volumeByteCount > byteCount
        let isCurrent = isNew || meetServingEpoch(record.servingEpoch, index) && !isLarger
        let wasInSync =
            state == .synchronized && record.isClosedCleanly && !isNew && !pairs[index].isMisplaced && isCurrent
        takeUpMaps(record, isCurrent ? maps : .unknown(because: nil), isNew: isNew, wasInSync: wasInSync, index)
        if wasInSync && pairs[index].dirty.isClean {
            pairs[index].copyState = .synchronized
            pairs[index].isTargetConsistent = true
            // In a pair that was in sync nothing but a verify marks the target's side.
            pairs[index].hasVerifyMarks = !pairs[index].targetChanged.isClean
            pairs[index].isInStep = !pairs[index].hasVerifyMarks
            return
        }
        pairs[index].comparesFirst = !isNew && (!record.isClosedCleanly || pairs[index].store.trust == .none)
        let operation = ReplicationOperation(rawValue: record.operation)
        if pairs[index].isMisplaced {
            let flowsBack = operation == .failback || operation == .restoreFromReplica
            pairs[index].operation = flowsBack ? operation : nil
            pairs[index].isFlowingBack = flowsBack
            // The record may be of the instant before the copy began.
            if flowsBack { pairs[index].isSourceInconsistent = true }
            if operation != .restoreFromReplica { state = .failedover }
        } else if state == .unsynchronized || state == .synchronized {
            // What was in flight at the crash may be on either element. Both are images that the crash of a single one could
            // have left, and so is every mixture that the copy makes of them.
            if state == .synchronized { pairs[index].isTargetConsistent = true }
            state = .unsynchronized
            switch operation {
            case .activate, .resyncReplica, .resume, .split: pairs[index].operation = operation
            default: break
            }
        } else if state == .failedover {
            // Hosts are with the source again, whatever else the record says.
            state = .suspended
        }
        pairs[index].copyState = state
        if pairs[index].isMirroring { pairs[index].joinChanges() }
    }

    /// Whether a pair's record knows of the last change of the serving element; others that do not know of what it knows lose
    /// their maps.
    private mutating func meetServingEpoch(_ epoch: UInt32, _ index: Int) -> Bool {
        guard epoch > servingEpoch else { return epoch == servingEpoch }
        servingEpoch = epoch
        for other in 0..<pairs.count where other != index && pairs[other].isInUse {
            if pairs[other].linkRestore != .none {
                loseLinkRestore(other)
                continue
            }
            pairs[other].markAgain(Extent(offset: 0, length: byteCount))
            pairs[other].distrustMaps()
            pairs[other].comparesFirst = true
            copyAgain(other)
            wantRecord(other)
        }
        return true
    }

    private mutating func takeUpMaps(
        _ record: PairRecord,
        _ maps: RecoveredMaps,
        isNew: Bool,
        wasInSync: Bool,
        _ index: Int
    ) {
        if isNew || hasWritten {
            pairs[index].store.durableTrust = record.mapTrust
            pairs[index].store.provenTrust = record.mapTrust
            pairs[index].store.beginLog(after: record.logGeneration)
            pairs[index].markAllDirty()
        } else if wasInSync && record.mapTrust == .none {
            // Of a version without bitmaps: in sync and closed cleanly means that nothing differs.
            pairs[index].store.beginLog(after: record.logGeneration)
            pairs[index].distrustMaps()
        } else {
            pairs[index].restore(maps, from: record)
        }
        if !isNew, record.volumeByteCount < byteCount { pairs[index].remember(growthFrom: record.volumeByteCount) }
        pairs[index].store.beginSweep()
    }

    /// Starts to copy what differs and to mirror what is written, as soon as the target holds nothing back: a late write would
    /// undo what the copy writes.
    mutating func startPair(_ index: Int) {
        pairs[index].wantsStart = true
        startIfPossible(index)
    }

    /// Begins the copy that is wanted, in the direction of the operation.
    mutating func startIfPossible(_ index: Int) {
        guard pairs[index].wantsStart, pairs[index].operationsInFlight == 0, !isClosing, !gate.isClosed else { return }
        guard pairs[index].isReachable, !isFollowing else { return }
        guard !pairs[index].undo.isBusy, pairs[index].undo.rollbacksInFlight == 0 else { return }
        if pairs[index].operation == .failback { return beginFlowingBack(index) }
        if pairs[index].isRemote, pairs[index].operation == .restoreFromReplica { return startLinkRestore(index) }
        guard !waitsForLinkRestore(index) else { return }
        if isLeftHalfRestored(besides: index), !pairs[index].takesMixture, !pairs[index].isMisplaced {
            return restBeforeMixture(index)
        }
        // Whoever starts after a crash could not know for which of the two sizes an undo had been begun.
        guard pairs[index].takesWholeRecords || !pairs[index].undo.isWanted else { return }
        if !awaitsUndo(index) { beginCopying(index) }
    }

    /// Forgets a pair once nothing is in flight to its target; `pairDetached` follows.
    package mutating func detachPair(_ index: Int) {
        invariant(pairs[index].isInUse, "a pair that is detached exists")
        leaveGate(index, .superseded(by: .detach))
        if pairs[index].linkRestore != .none {
            turnHostsAway()
            restOthers(besides: index)
        }
        closeTargetExport(index)
        endOperation(index, .superseded(by: .detach))
        tellEnd(index, .superseded(by: .detach))
        endVerify(index, .detached)
        endSettling(index, .superseded(by: .detach))
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
        if before == .synchronized {
            pairs[index].leaveStep(at: now)
            leaveSynchronized(index, for: state)
        }
        pairs[index].isInStep = state == .synchronized
        if state == .restored, !pairs[index].isRemote { pairs[index].inStepAt = now }
        pairs[index].copyState = state
        pairs[index].isResumeRequired = false
        announce(.copyStateChanged(pair: pairs[index].id, from: before, to: state))
        pairs[index].isTargetQuiet = pairs[index].operationsInFlight == 0
        if Self.mustNotBeForgotten(before) || Self.mustNotBeForgotten(state) { markRecordCritical(index) }
        // A start that believed the record before this one would take a target that has stayed behind for a usable image
        // while it is copied to: both blocks are to have this one.
        let wasUsable = before == .synchronized || before == .unsynchronized && pairs[index].isTargetConsistent
        if wasUsable && !pairs[index].isMirroring { pairs[index].recordCopiesOwed = 1 }
        wantRecord(index)
    }

    /// States in which the target is the hosts', or has been: a start that believed another would overwrite what they wrote.
    private static func mustNotBeForgotten(_ state: CopyState) -> Bool {
        isHostsOwn(state) || state == .failedover || state == .restored
    }

    mutating func markRecordCritical(_ index: Int) {
        pairs[index].isRecordCritical = true
        pairs[index].recordCopiesOwed = Mutation.isOn(.recordsMoveOnce) ? 0 : 1
    }

    /// Copies forward; `keepsImage` where the target stays a usable image while it is copied to.
    mutating func beginCopying(_ index: Int, keepsImage: Bool = false) {
        pairs[index].wantsStart = false
        pairs[index].reason = nil
        giveUpLinkRestore(index)
        pairs[index].joinChanges()
        pairs[index].isSourceAhead = false
        pairs[index].isSourceInconsistent = false
        pairs[index].undo.hasPassed = false
        let endsImage = !pairs[index].dirty.isClean && !keepsImage && !Mutation.isOn(.callsHalfCopyUsable)
        if endsImage, pairs[index].isTargetConsistent {
            pairs[index].isTargetConsistent = false
            // One damaged block must not bring back a record that calls a half-copied target a usable image.
            markRecordCritical(index)
        }
        resetCopyCounters(index)
        changeState(index, to: .unsynchronized)
        pumpCopies(index)
    }

    mutating func resetCopyCounters(_ index: Int) {
        beginPacing(index)
        pairs[index].cursor = 0
        pairs[index].copied.removeAll()
        pairs[index].copyTotalByteCount = pairs[index].leftToCopyByteCount
        pairs[index].copyDoneByteCount = 0
        pairs[index].copyWrittenByteCount = 0
        pairs[index].copyZeroByteCount = 0
        pairs[index].copyEqualByteCount = 0
    }

    mutating func finishCopying(_ index: Int) {
        if pairs[index].linkRestore == .running { return finishLinkRestore(index) }
        invariant(pairs[index].dirty.isClean, "a copy is over when nothing is dirty")
        if pairs[index].isFlowingBack {
            if pairs[index].isRemote { return tellCaughtUp(index) }
            guard !gate.isClosed, !pairs[index].isPlaceHeld else { return }
            return closeGate(index, pairs[index].operation == .failback ? .endFailback : .endRestore)
        }
        pairs[index].comparesFirst = false
        pairs[index].isTargetConsistent = true
        dropUndo(index)
        pairs[index].undo.isWanted = pairs[index].settings.keepsUndo
        // A crash from here on is to find the cleared bits, and not wait for the next tick to write them.
        pairs[index].store.beginSweep()
        mayAdvanceLogs = true
        guard pairs[index].operation == .split else {
            return endsWell(index) { $0.changeState(index, to: .synchronized) }
        }
        changeState(index, to: .synchronized)
        if !gate.isClosed { closeGate(index, .split) }
    }

    mutating func breakPair(_ index: Int, _ reason: BreakReason) {
        if pairs[index].linkRestore == .running { return breakLinkRestore(index, reason) }
        guard pairs[index].isMirroring else { return }
        var reason = reason
        // A peer keeps what is overwritten before it writes.
        if case .targetWriteFailed(.notKept, _) = reason { reason = .undoFailed(.notKept) }
        pairs[index].reason = reason
        let isFlowingBack = pairs[index].isFlowingBack
        announce(.pairBroken(pair: pairs[index].id, reason, isFlowingBack: isFlowingBack))
        if isFlowingBack {
            // The target has everything, and serves: that is what Failedover means.
            stopFlowingBack(index)
            leaveGate(index, .pairBroken)
            // What a lost link interrupts goes on when it is back.
            if reason == .linkLost { pairs[index].wantsStart = true } else { endOperation(index, .pairBroken) }
            changeState(index, to: .failedover)
            wantRecord(index)
        } else {
            stopMirroring(index, to: reason == .linkLost ? .partitioned : .broken)
            leaveGate(index, .pairBroken)
            if reason != .linkLost { endOperation(index, .pairBroken) }
        }
    }

    /// From here on nothing new goes to the target; all that it may not have is dirty.
    mutating func stopMirroring(_ index: Int, to state: CopyState) {
        endSettling(index, .pairBroken)
        // From here on hosts may be told of writes that the peer never gets.
        if pairs[index].isRemote, !isWithheld, !pairs[index].isMisplaced { pairs[index].isSourceAhead = true }
        rememberUnproven(index)
        pairs[index].copied.removeAll()
        dropWaitingChunks(index)
        changeState(index, to: state)
    }

    mutating func rememberUnproven(_ index: Int) {
        pairs[index].rememberUnflushed()
        if Mutation.isOn(.forgetsInFlight) { return }
        let bit: UInt8 = 1 << leg(ofPair: index)
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].purpose == .hostWrite else { continue }
            // One that has ended on the target alone is on the target alone as long as it has not ended on the source.
            let isUnproven = slots[id].stage == .running ? slots[id].issuedLegs & bit : slots[id].pendingLegs & bit
            if isUnproven | slots[id].laterLegs & bit != 0 { pairs[index].markDirty(slots[id].host.extent) }
            slots[id].laterLegs &= ~bit
        }
    }

    /// The target does not answer: whoever waits only for it is answered now.
    mutating func abandonLegs(of index: Int) {
        let bits = legBits(ofPair: index)
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].pendingLegs & bits != 0 else { continue }
            slots[id].abandonedLegs |= slots[id].pendingLegs & bits
            guard slots[id].awaitedLegs == 0 else { continue }
            switch (slots[id].purpose, slots[id].stage) {
            case (.hostWrite, .running), (.hostFlush, .running):
                settle(id)
            case (.hostRead, .running):
                answer(id, .timedOut)
            case (.hostRead, .redirectReading):
                unlock(id)
                answer(id, slots[id].sourceFailure)
            case (.copy, .copyReading), (.copy, .copyComparing), (.copy, .copySaving), (.copy, .copyWriting):
                // Host writes wait for this lock.
                slots[id].stage = .abandoned
                pairs[index].copiesInFlight -= 1
                unlock(id)
            case (.verify, .verifyComparing):
                abandonPiece(id)
            case (.copyFlush, .running), (.logFlush, .running):
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
        pairs[index].isTargetQuiet = true
        if pairs[index].wantsDetach { return finishDetachIfIdle(index) }
        startIfPossible(index)
        pumpRollback(index)
        emptyUndo(index)
    }

    mutating func finishDetachIfIdle(_ index: Int) {
        guard pairs[index].isInUse, pairs[index].wantsDetach, pairs[index].operationsInFlight == 0 else { return }
        guard pairs[index].undo.rollbacksInFlight == 0 else { return }
        guard pairs[index].copiesInFlight == 0, !hasMetadataInFlight(index), pairs[index].verify.slotCount == 0 else {
            return
        }
        forgetLog(index)
        pairs[index] = Pair(volumeByteCount: 0, settings: PairSettings())
        findPairEnd()
        effects.append(.pairDetached(pair: index))
        letOthersStart(besides: index)
        mayReleaseHeld = true
    }
}
