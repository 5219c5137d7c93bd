internal import RepldCore

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
        // Nothing is in flight, and no host has written: the maps have all that may differ.
        pairs[index].copyState = .partitioned
        pairs[index].reason = .linkLost
    }

    /// The peer cannot be reached any more: nothing is issued to the target from here on.
    package mutating func linkLost(pair index: Int) {
        guard pairs[index].isInUse, pairs[index].isRemote, pairs[index].isReachable else { return }
        pairs[index].isReachable = false
        if pairs[index].isMirroring {
            effects.append(.announce(.pairBroken(pair: pairs[index].id, .linkLost, isFlowingBack: false)))
            pairs[index].reason = .linkLost
            if pairs[index].isFlowingBack {
                stopFlowingBack(index)
                leaveGate(index, .pairBroken)
                endOperation(index, .pairBroken)
                changeState(index, to: .failedover)
                wantRecord(index)
            } else {
                stopMirroring(index, to: .partitioned)
                leaveGate(index, .pairBroken)
            }
        }
        mayReleaseHeld = true
        finishEvent()
    }

    /// The peer can be reached, and has nothing of the time before in flight.
    package mutating func linkRestored(pair index: Int) {
        guard pairs[index].isInUse, pairs[index].isRemote, !pairs[index].isReachable else { return }
        pairs[index].isReachable = true
        if pairs[index].copyState == .partitioned, !pairs[index].wantsDetach { pairs[index].wantsStart = true }
        startIfPossible(index)
        finishEvent()
    }
}
