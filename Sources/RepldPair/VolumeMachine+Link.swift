package import RepldCore
package import RepldFormat

/// Pairs whose target is behind a peer.
///
/// To the machine such a target is an element that may be out of reach, as a whole and at any time:
///
///     reachable ── linkLost ──> out of reach ── linkRestored ──> reachable
///
/// - Out of reach nothing is issued to the target. A pair that flowed is Partitioned: whatever the target has not acknowledged as
///   durable is dirty, hosts go on with the source alone, and the operation under way waits.
/// - The engine tells of a lost link before it gives back what was in flight, so that none of it counts as an error of the
///   target; and of a restored one only when nothing of the link before can reach the target any more.
/// - Whoever wants to begin a copy waits for the link, with the operation under way as the reason that is shown.
extension VolumeMachine {
    /// The pair is taken in before its peer has been reached.
    mutating func beginOutOfReach(_ record: PairRecord, _ maps: RecoveredMaps, _ index: Int) {
        pairs[index].isRemote = true
        pairs[index].isReachable = false
        if pairs[index].isFlowingBack {
            pairs[index].isFlowingBack = false
            pairs[index].wantsStart = true
        }
        takeUpLinkRestore(record, maps, index)
        guard pairs[index].isMirroring else { return }
        pairs[index].leaveStep(at: now)
        if pairs[index].hasVerifyMarks { pairs[index].joinChanges() }
        // Nothing is in flight, and no host has written: the maps have all that may differ.
        pairs[index].copyState = .partitioned
        pairs[index].reason = .linkLost
        pairs[index].wantsStart = true
    }

    /// The peer cannot be reached any more: nothing is issued to the target from here on.
    package mutating func linkLost(pair index: Int) {
        guard pairs[index].isInUse, pairs[index].isRemote, pairs[index].isReachable else { return }
        pairs[index].isReachable = false
        pairs[index].isBacklogLong = false
        if pairs[index].copyState == .skewed {
            pairs[index].reason = .linkLost
            pairs[index].wantsStart = false
            changeState(index, to: .partitioned)
        } else {
            // A restore that has not begun begins when it is back.
            if gate.purpose == .beginRestore { leaveGate(index, .pairBroken) }
            breakPair(index, .linkLost)
        }
        mayReleaseHeld = true
        finishEvent()
    }

    /// The peer can be reached, and has nothing of the time before in flight.
    package mutating func linkRestored(pair index: Int) {
        guard pairs[index].isInUse, pairs[index].isRemote, !pairs[index].isReachable else { return }
        pairs[index].isReachable = true
        if Mutation.isOn(.clearsOnReconnect) { pairs[index].forgetDirty() }
        // One that only a stop of this daemon has interrupted wants to start.
        let isForOperator =
            !pairs[index].settings.recoversByItself && pairs[index].operation == nil && !pairs[index].wantsStart
        if pairs[index].copyState == .partitioned, isForOperator, !pairs[index].wantsDetach {
            pairs[index].reason = nil
            changeState(index, to: .suspended)
            pairs[index].isResumeRequired = true
        }
        let comesBack = pairs[index].copyState == .partitioned || pairs[index].copyState == .skewed
        if comesBack, !pairs[index].wantsDetach { pairs[index].wantsStart = true }
        startIfPossible(index)
        finishEvent()
    }

    /// What becomes of a pair whose peer is back, from the next time on.
    ///
    /// One that waits for Resume goes on waiting.
    package mutating func setRecovery(pair index: Int, isAutomatic: Bool) {
        guard pairs[index].isInUse else { return }
        pairs[index].settings.recoversByItself = isAutomatic
    }

    /// What the target holds is not known: everything is to be compared.
    ///
    /// In a conflict only an operator can say whose data counts. Nothing of this may be told to the peer before it is recorded.
    /// An element that is an image of its own (`isImage`) stays one: a copy keeps what it overwrites there, so that whoever has decided
    /// wrongly can have it back as long as the copy is under way.
    /// False where nothing is compared by itself for it.
    @discardableResult
    package mutating func forgetTarget(pair index: Int, because stop: HandshakeStop?, isImage: Bool = false) -> Bool {
        guard pairs[index].isInUse, pairs[index].isRemote else { return false }
        // What was never copied is copied as a whole anyhow; but a peer that has heard of more is overwritten by no Activate.
        guard pairs[index].copyState != .initialized || stop != nil else { return false }
        if pairs[index].linkRestore != .none {
            loseLinkRestore(index)
            finishEvent()
            return false
        }
        pairs[index].markAgain(Extent(offset: 0, length: byteCount))
        pairs[index].distrustMaps()
        pairs[index].comparesFirst = true
        if !pairs[index].isMisplaced { pairs[index].isTargetConsistent = isImage }
        // Nobody knows whether what it has kept is of what it holds now.
        dropUndo(index)
        pairs[index].forgetStep()
        if let stop {
            pairs[index].reason = .historiesDiffer(stop)
            if pairs[index].isFlowingBack { stopFlowingBack(index) }
            pairs[index].wantsStart = false
            endOperation(index, .pairBroken)
            // Hosts are with the target, and stay: that both sides may have been written is what Failedover says anyhow.
            if pairs[index].isMisplaced {
                pairs[index].isSourceAhead = true
            } else {
                changeState(index, to: .invalid)
            }
        }
        wantRecord(index)
        finishEvent()
        return stop == nil
    }

    /// Why the two sides' histories do not go together, as far as that is known.
    package func conflict(of index: Int) -> HandshakeConflict? {
        guard case .historiesDiffer(let stop) = pairs[index].reason else { return nil }
        return stop.conflict
    }

    /// The peer is known to have the record with the sequence: it never comes with an earlier one again.
    package mutating func peerHasRecord(pair index: Int, sequence: UInt64) {
        guard pairs[index].isInUse, pairs[index].isRemote else { return }
        pairs[index].lineage.confirmedSequence = max(pairs[index].lineage.confirmedSequence, sequence)
        if let first = pairs[index].untoldUndoSequence, sequence >= first { pairs[index].untoldUndoSequence = nil }
    }

    /// The peer is about to be told records of this run: a record that says so is written first.
    ///
    /// Once per run. Nothing may be sent before that one is durable.
    package mutating func beginTelling(pair index: Int) {
        guard pairs[index].isInUse, pairs[index].isRemote else { return }
        // One that was begun since says so, and one that has failed does not come by itself.
        if pairs[index].lineage.isTold, isRecordPending(index) { return }
        pairs[index].lineage.isTold = true
        wantRecord(index)
        finishEvent()
    }

    // MARK: - Asynchronous mode

    /// Whether a host is answered before the target has its write.
    ///
    /// What is under way goes on as it began.
    package mutating func setAsynchronous(pair index: Int, _ isAsynchronous: Bool) {
        guard pairs[index].isInUse else { return }
        pairs[index].isAsynchronous = isAsynchronous && pairs[index].isRemote
        if !pairs[index].isAsynchronous { pairs[index].isBacklogLong = false }
    }

    /// So much is on its way to the target of a copy that it would take longer than remembering and copying again.
    @inline(__always)
    func isRatherRemembered(_ index: Int) -> Bool {
        pairs[index].isBacklogLong && pairs[index].copyState == .unsynchronized
    }

    package mutating func backlogChanged(pair index: Int, isLong: Bool) {
        pairs[index].isBacklogLong = isLong && pairs[index].isAsynchronous
    }

    /// What is on its way to the target of an asynchronous pair is more, or older, than it may be.
    ///
    /// Nothing more is sent: the target keeps the image that it has come to, and what it lacks is remembered.
    package mutating func backlogTooLong(pair index: Int) {
        guard pairs[index].isInUse, pairs[index].isAsynchronous, pairs[index].copyState == .synchronized else { return }
        skew(index, nil)
        mayReleaseHeld = true
        finishEvent()
    }

    mutating func skew(_ index: Int, _ extent: Extent?) {
        if let extent { pairs[index].markAgain(extent) }
        // A copy goes on: what it did not get now it gets with the next pass.
        guard pairs[index].copyState == .synchronized else { return }
        pairs[index].reason = .backlogTooLong
        stopMirroring(index, to: .skewed)
        leaveGate(index, .pairBroken)
        // It catches up as soon as the target has what was sent.
        pairs[index].wantsStart = true
    }

    /// Since when something is on its way to the target that hosts were answered for, or that nothing is any more: it counts as one
    /// operation in flight.
    ///
    /// So whatever waits for the target to be quiet waits for it as well.
    package mutating func setBacklog(pair index: Int, since oldest: Instant?) {
        guard pairs[index].isInUse else { return }
        let hadBacklog = pairs[index].hasBacklog
        pairs[index].backlogSince = oldest
        let hasBacklog = pairs[index].hasBacklog
        guard hasBacklog != hadBacklog else { return }
        pairs[index].operationsInFlight += hasBacklog ? 1 : -1
        if hasBacklog { return }
        targetOperationEnded(index)
        if isClosing { advanceClosing() }
        finishEvent()
    }

    /// The target has failed a write that hosts were answered for already.
    package mutating func backlogFailed(pair index: Int, _ extent: Extent, _ failure: IOFailure) {
        guard pairs[index].isInUse else { return }
        pairs[index].markAgain(extent)
        breakPair(index, .targetWriteFailed(failure, extent))
        mayReleaseHeld = true
        finishEvent()
    }

    /// Whether a slot is that of a host's write, which an asynchronous target may get later.
    package func isHostWrite(_ id: SlotID) -> Bool { slots[id].purpose == .hostWrite }
}
