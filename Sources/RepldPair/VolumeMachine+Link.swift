package import RepldCore

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
    mutating func beginOutOfReach(_ index: Int) {
        pairs[index].isRemote = true
        pairs[index].isReachable = false
        guard pairs[index].isMirroring else { return }
        if pairs[index].hasVerifyMarks { pairs[index].joinChanges() }
        // Nothing is in flight, and no host has written: the maps have all that may differ.
        pairs[index].copyState = .partitioned
        pairs[index].reason = .linkLost
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
            breakPair(index, .linkLost)
        }
        mayReleaseHeld = true
        finishEvent()
    }

    /// The peer can be reached, and has nothing of the time before in flight.
    package mutating func linkRestored(pair index: Int) {
        guard pairs[index].isInUse, pairs[index].isRemote, !pairs[index].isReachable else { return }
        pairs[index].isReachable = true
        let comesBack = pairs[index].copyState == .partitioned || pairs[index].copyState == .skewed
        if comesBack, !pairs[index].wantsDetach { pairs[index].wantsStart = true }
        startIfPossible(index)
        finishEvent()
    }

    /// What the target holds is not known: everything is to be compared.
    ///
    /// In a conflict only an operator can say whose data counts.
    package mutating func forgetTarget(pair index: Int, isConflict: Bool) {
        guard pairs[index].isInUse, pairs[index].isRemote, pairs[index].copyState != .initialized else { return }
        pairs[index].markAgain(Extent(offset: 0, length: byteCount))
        pairs[index].distrustMaps()
        pairs[index].comparesFirst = true
        pairs[index].isTargetConsistent = false
        if isConflict {
            pairs[index].reason = .historiesDiffer
            pairs[index].wantsStart = false
            endOperation(index, .pairBroken)
            changeState(index, to: .invalid)
        }
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

    /// Something is on its way to the target that hosts were answered for, or nothing any more: it counts as one operation in flight.
    ///
    /// So whatever waits for the target to be quiet waits for it as well.
    package mutating func setBacklogged(pair index: Int, _ hasBacklog: Bool) {
        guard pairs[index].isInUse, pairs[index].hasBacklog != hasBacklog else { return }
        pairs[index].hasBacklog = hasBacklog
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
