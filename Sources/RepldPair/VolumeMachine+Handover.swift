package import RepldCore

/// Pairs that move to the daemon of their other element.
///
/// A pair between two hosts belongs to the daemon whose element serves hosts: there are its machine, its maps, and its record,
/// of which the other daemon keeps a copy. So that the other element can serve, the pair itself moves:
///
/// **Planned.** Hosts are kept away (`isWithheld`), the pair is settled (`settle`: drained, both elements flushed, and the record
/// that says so on both sides), the other daemon takes the pair over with clean maps, and this one becomes its replica.
///
/// **Unplanned.** The other daemon takes the pair over without asking. What the two differ in it does not know: everything counts
/// as different, until this side is back and tells what it has written (`meet`).
///
/// What must hold:
/// - At most one daemon believes that it has the pair and lets hosts write, unless an operator has said so. A daemon that starts
///   keeps hosts away until the peer has said that it has not taken over; one that hears that it has lets go at once.
/// - The peer takes a pair over only by the very record that this side has settled with: whatever has happened since has a later
///   one, and the peer has heard of that before any host may write here.
extension VolumeMachine {
    /// Keeps hosts away, or lets them come: whoever wants to submit a request finds no room.
    ///
    /// Hosts that come while a peer is out of reach may write what that one never gets.
    package mutating func setWithheld(_ isWithheld: Bool) {
        guard self.isWithheld != isWithheld else { return }
        self.isWithheld = isWithheld
        guard !isWithheld else { return }
        for index in 0..<pairs.count where pairs[index].isInUse && pairs[index].isRemote {
            guard !pairs[index].isMirroring, !pairs[index].isMisplaced, !pairs[index].isSourceAhead else { continue }
            pairs[index].isSourceAhead = true
            markRecordCritical(index)
            wantRecord(index)
        }
        finishEvent()
    }

    /// The pair was taken over from its peer, without knowledge of what differs.
    package mutating func awaitMeeting(_ index: Int) {
        pairs[index].isPlaceholder = pairs[index].isMisplaced && pairs[index].isAllDirtyForGood
    }

    /// What was written so far was a peer's: a pair that comes now has missed nothing.
    package mutating func forgetWriting() { hasWritten = false }

    /// No request of a host is under way on the volume's own export.
    package var isFreeOfHosts: Bool { hostRequestCount == 0 }

    /// Whether data goes to the pair's other element now.
    package func flows(_ index: Int) -> Bool { pairs[index].isMirroring }

    /// A record of the pair is on its way, or has to be.
    package func isRecordPending(_ index: Int) -> Bool { pairs[index].isRecordInFlight || pairs[index].isRecordWanted }

    /// A record has to be written behind the one that is on its way.
    package func isRecordWanted(_ index: Int) -> Bool { pairs[index].isRecordWanted }

    /// What the last record says is not durable, and will not be by itself.
    package func hasRecordFailed(_ index: Int) -> Bool { pairs[index].hasRecordFailed }

    /// Whether what is decided of the pair from now on is recorded.
    package func takesRecords(_ index: Int) -> Bool { closeStage != .closed && !pairs[index].wantsDetach }

    /// Writes the record of the pair once more, with a later sequence.
    package mutating func recordAnew(pair index: Int) {
        guard pairs[index].isInUse, !isRecordPending(index) else { return }
        wantRecord(index)
        finishEvent()
    }

    /// Brings a pair of a withheld volume to a point at which the peer can take it over: equal elements, flushed, recorded on both
    /// sides; `settled` follows.
    ///
    /// False where the two differ, or something is under way.
    package mutating func settle(_ index: Int) -> Bool {
        invariant(isWithheld && isFreeOfHosts, "a pair is settled without hosts")
        guard pairs[index].isInUse, pairs[index].isRemote, pairs[index].isReachable, !pairs[index].wantsDetach else {
            return false
        }
        let isEqual = pairs[index].copyState == .synchronized || pairs[index].isFlowingBack
        let isFree = pairs[index].operation == nil || pairs[index].operation == .failback
        guard pairs[index].takesWholeRecords else { return false }
        guard isEqual, pairs[index].dirty.isClean, isFree, !gate.isClosed, !isClosing, !pairs[index].isSettling else {
            return false
        }
        pairs[index].isSettling = true
        closeGate(index, .handover)
        advanceGate()
        finishEvent()
        return true
    }

    /// The pair is drained and flushed: the record that follows is the one that the peer takes over with.
    mutating func recordSettled(_ index: Int) {
        pairs[index].isSettled = true
        markRecordCritical(index)
        wantRecord(index)
    }

    /// Nothing differs any more in a failback to a peer: once for each time that this becomes true.
    mutating func tellCaughtUp(_ index: Int) {
        pairs[index].comparesFirst = false
        guard !pairs[index].hasCaughtUp else { return }
        pairs[index].hasCaughtUp = true
        announce(.caughtUp(pair: pairs[index].id))
    }

    mutating func endSettling(_ index: Int, _ failure: OperationFailure?) {
        guard pairs[index].isSettling else { return }
        pairs[index].isSettling = false
        pairs[index].isSettled = false
        effects.append(.settled(pair: index, failure))
    }

    /// The peer, from which this pair was taken over, tells where its element may differ from what both had when they parted.
    ///
    /// The first time that replaces "everything"; later it is added, because what was told before may have been copied. It is added
    /// as well after a start: of what is dirty then nobody knows whether this side has changed it.
    /// `isAhead`: hosts were told there of writes that are not here.
    package mutating func meet(_ index: Int, _ extents: [Extent], isAhead: Bool, isFirst: Bool) {
        guard pairs[index].isInUse, pairs[index].isRemote else { return }
        invariant(!pairs[index].isReachable, "a peer is met before it is written to")
        if pairs[index].linkRestore != .none, !extents.isEmpty { loseLinkRestore(index) }
        pairs[index].comparesFirst = true
        if pairs[index].isPlaceholder, isFirst {
            pairs[index].clearDirtyOfPeer()
            for extent in extents { pairs[index].markDirty(extent) }
        } else {
            for extent in extents { pairs[index].markAgain(extent) }
        }
        pairs[index].distrustMaps()
        if pairs[index].isMisplaced, isAhead { pairs[index].isSourceAhead = true }
        // The peer is answered with this record, and keeps it.
        pairs[index].lineage.isTold = true
        wantRecord(index)
        finishEvent()
    }
}

extension Pair {
    /// What the peer has changed is about to be told: nothing else is dirty in a pair whose own changes are kept apart.
    fileprivate mutating func clearDirtyOfPeer() {
        isPlaceholder = false
        invariant(isMisplaced && !isFlowingBack, "what this side has changed is in the other map")
        forgetDirty()
    }
}
