internal import RepldCore

/// Why the gate of a volume is closed.
enum GatePurpose: UInt8, BitwiseCopyable {
    case split, failover, reverseRoles, beginRestore, endRestore, endFailback, abortRestore, abortLinkRestore, handover

    /// Whether leg 0 may be left behind when it does not answer: the other element takes over from it.
    var leavesPrimaryBehind: Bool { self == .failover || self == .abortRestore }
    /// Whether the target may fail its flush.
    var abortsRestore: Bool { self == .abortRestore || self == .abortLinkRestore }
}

/// The gate of a volume: how an operation gets a write boundary.
///
/// `open → draining → flushing → open`. While it is closed, new requests of hosts wait, the movers rest, and what had begun
/// ends. Then nothing is in flight to the two elements concerned; both are flushed, so that what was acknowledged is
/// durable on the element that will count, and what counts as equal is equal on stable storage. Then the change is made in
/// one step, and the gate opens; host writes still wait until the change is durable (`holdsForRecord`).
///
/// It always opens again: a drain or a flush that takes longer than the pair's time limit ends the operation with nothing
/// changed. Only a failover leaves a source behind that does not answer. Until the target serves, nothing is decided about
/// what hosts wait for there: if the failover fails after all, they simply go on waiting. When the target serves, a write
/// or a flush that it has completed succeeds, and anything else that was asked of the old primary fails. What may still
/// happen to that one is remembered as different.
struct Gate: BitwiseCopyable {
    enum Stage: UInt8, BitwiseCopyable { case open, draining, flushing }

    var stage = Stage.open
    var pair = 0
    var purpose = GatePurpose.split
    var deadline = Instant(nanoseconds: 0)
    var flush = SlotID(index: 0, generation: 0)
    var primaryFailure: IOFailure?
    var otherFailure: IOFailure?
    /// Leg 0 does not answer, and nobody waits for it any more.
    var isPrimaryGivenUp = false

    var isClosed: Bool { stage != .open }
}

extension VolumeMachine {
    mutating func closeGate(_ index: Int, _ purpose: GatePurpose) {
        invariant(!gate.isClosed, "one operation closes the gate at a time")
        gate = Gate()
        gate.stage = .draining
        gate.pair = index
        gate.purpose = purpose
        gate.deadline = gateDeadline(index)
        for other in 0..<pairs.count where pairs[other].isInUse { dropWaitingChunks(other) }
    }

    private func gateDeadline(_ index: Int) -> Instant {
        awake.advanced(byNanoseconds: pairs[index].settings.targetTimeoutNanoseconds)
    }

    /// Whether an operation drains or flushes now: what a flush of its own has found is acted upon at its end.
    package var isGateClosed: Bool { gate.isClosed }

    mutating func openGate() {
        gate.stage = .open
        mayReleaseHeld = true
        for index in 0..<pairs.count where pairs[index].isInUse {
            // One that flows back and could not end is looked at again at the next tick, after hosts had their turn.
            if !pairs[index].isFlowingBack { pumpCopies(index) }
            pumpVerify(index)
            pumpRollback(index)
            if !pairs[index].dirty.isClean { copyAgain(index) }
            startIfPossible(index)
            let waitsForSplit = pairs[index].operation == .split && pairs[index].copyState == .synchronized
            if waitsForSplit, !gate.isClosed, !isClosing { closeGate(index, .split) }
        }
    }

    /// Goes on when what the gate waits for has ended.
    mutating func advanceGate() {
        if gate.stage == .draining, isDrained || Mutation.isOn(.passesGateUndrained) { startGateFlush() }
    }

    /// Nothing is in flight to the two elements, and no record is on its way.
    private var isDrained: Bool {
        if holdsForRecord { return false }
        let legs: UInt8 = 1 << leg(ofPair: gate.pair) | (gate.isPrimaryGivenUp ? 0 : 1)
        for index in 0..<slots.capacity {
            guard let id = slots.taken(at: index) else { continue }
            switch slots[id].stage {
            case .waitingForGate: continue
            case .waitingForLock, .waitingForRecord, .redirectWaiting:
                // Behind what a primary that is given up holds on to: the new primary is asked.
                let isAskedLater = gate.isPrimaryGivenUp && slots[id].host.side == 0
                if !isAskedLater && !isElsewhere(id) { return false }
            case .abandoned, .answerHeld:
                if slots[id].pendingLegs & legs != 0 { return false }
            default:
                let isLeftBehind = gate.isPrimaryGivenUp && slots[id].pendingLegs == 1
                if !isLeftBehind && !isElsewhere(id) { return false }
            }
        }
        return true
    }

    /// Leg 0 is given up, and the other element has not taken its place yet: nothing new is asked of it.
    var isPrimaryLeftAlone: Bool { gate.isClosed && gate.isPrimaryGivenUp }

    /// Requests on the own export of another pair's target do not concern the gate.
    private func isElsewhere(_ id: SlotID) -> Bool {
        slots[id].host.side != 0 && Int(slots[id].host.side) - 1 != gate.pair
    }

    private mutating func startGateFlush() {
        gate.stage = .flushing
        gate.deadline = gateDeadline(gate.pair)
        let request = Request(host: .ownFlush, purpose: .gateFlush, stage: .running, startedAt: awake)
        guard let id = slots.take(request) else { invariantFailed("the gate's flush has a slot of its own") }
        gate.flush = id
        if !gate.isPrimaryGivenUp { issue(id, leg: 0, .flush) }
        issue(id, leg: leg(ofPair: gate.pair), .flush)
    }

    /// A leg of the gate's flush ended.
    mutating func gateFlushLegCompleted(_ id: SlotID, leg: UInt8, _ failure: IOFailure?) {
        if leg == 0 {
            gate.primaryFailure = failure
        } else {
            gate.otherFailure = failure
            targetFlushCompleted(pair: Int(leg) - 1, failure)
        }
        guard slots[id].pendingLegs == 0 else { return }
        slots.release(id)
        // The pair may have been broken by its flush, and the gate opened with that.
        if gate.stage == .flushing, gate.flush == id { passGate() }
    }

    /// Drained and flushed: the change is made, or the operation has failed.
    private mutating func passGate() {
        let index = gate.pair
        if let failure = gate.primaryFailure, !gate.purpose.leavesPrimaryBehind {
            return failGate(.flushFailed(failure))
        }
        if let failure = gate.otherFailure, !gate.purpose.abortsRestore { return failGate(.flushFailed(failure)) }
        if pairs[index].isFlowingBack, !pairs[index].dirty.isClean {
            // A write that ended meanwhile has failed: the copy goes on.
            gate.stage = .open
            endSettling(index, .pairBroken)
            return openGate()
        }
        if gate.purpose == .failover { pairs[index].isSourceAhead = hasUnmirroredWrites(index) }
        if gate.primaryFailure != nil || gate.isPrimaryGivenUp {
            // Of the element that is left behind nobody knows what it has lost.
            pairs[index].markAllDirty()
            pairs[index].comparesFirst = true
            if gate.purpose == .failover { pairs[index].isSourceInconsistent = true }
        }
        gate.stage = .open
        makeChange(gate.purpose, index)
        openGate()
    }

    /// The operation that closed the gate has failed, with nothing changed; what flows goes on.
    mutating func failGate(_ failure: OperationFailure) {
        let index = gate.pair
        if let failure = gate.primaryFailure { ownFlushOfPrimaryFailed(failure) }
        gate.stage = .open
        gate.isPrimaryGivenUp = false
        switch gate.purpose {
        case .endRestore, .endFailback:
            // The copy has not failed: it tries again when it next finds nothing to do.
            break
        case .handover: endSettling(index, failure)
        case .beginRestore where pairs[index].isRemote && !pairs[index].isReachable && failure == .pairBroken:
            pairs[index].wantsStart = true
        case .split, .failover, .reverseRoles, .beginRestore, .abortRestore, .abortLinkRestore:
            endOperation(index, failure)
            // Hosts stay with the target, and the restore has ended.
            if pairs[index].isMisplaced, pairs[index].copyState != .failedover { changeState(index, to: .failedover) }
        }
        openGate()
    }

    /// The pair that the gate is closed for goes, or breaks.
    mutating func leaveGate(_ index: Int, _ failure: OperationFailure) {
        guard gate.isClosed, gate.pair == index else { return }
        if gate.stage == .flushing, slots.contains(gate.flush) { slots[gate.flush].stage = .abandoned }
        failGate(failure)
    }

    /// What takes longer than the pair's time limit is not waited for.
    mutating func checkGateDeadline() {
        guard gate.isClosed, awake > gate.deadline else { return }
        if gate.purpose.leavesPrimaryBehind, !gate.isPrimaryGivenUp, !isOtherElementBusy {
            gate.isPrimaryGivenUp = true
            gate.deadline = gateDeadline(gate.pair)
            if gate.stage == .flushing {
                guard slots[gate.flush].pendingLegs == 1 else { return leaveGate(gate.pair, .drainTimedOut) }
                slots[gate.flush].stage = .abandoned
                return passGate()
            }
            return
        }
        leaveGate(gate.pair, .drainTimedOut)
    }

    private var isOtherElementBusy: Bool { gate.stage == .draining && pairs[gate.pair].operationsInFlight > 0 }

    /// Whether the source, as the gate found it, has acknowledged writes that the target never had.
    private func hasUnmirroredWrites(_ index: Int) -> Bool {
        pairs[index].hasVerifyMarks || !pairs[index].dirty.isClean && pairs[index].copyState != .synchronized
    }

    /// The pair whose target is about to take over from a primary that does not answer, or fails.
    func leavesPrimary(_ index: Int) -> Bool { gate.isClosed && gate.pair == index && gate.purpose == .failover }

    /// What was asked of the old primary, and is now the pair's leg, is not waited for any more.
    ///
    /// What the target has completed succeeds: it serves. The rest fails; of a read, the memory stays taken, because the old
    /// primary may still write to it, or read from it what was to repair a bad sector.
    private mutating func leaveBehind(_ id: SlotID, isMirrored: Bool) {
        switch (slots[id].purpose, slots[id].stage) {
        case (.hostWrite, .running), (.hostFlush, .running):
            slots[id].sourceFailure = isMirrored ? nil : .timedOut
            settle(id)
        case (.hostRead, .running):
            answer(id, .timedOut)
        case (.hostRead, .redirectRepairing):
            unlock(id)
            answer(id, .timedOut)
        case (.copy, .copyReading):
            slots[id].stage = .abandoned
            pairs[Int(slots[id].pair)].copiesInFlight -= 1
            unlock(id)
        case (.copyFlush, .running):
            slots[id].stage = .abandoned
            pairs[Int(slots[id].pair)].isCopyFlushInFlight = false
        case (.logFlush, .running):
            slots[id].stage = .abandoned
            logFlushEnded(Int(slots[id].pair))
        case (.verify, .verifyReading):
            abandonPiece(id)
        default:
            invariant(slots[id].stage == .abandoned || slots[id].stage == .answerHeld, "the gate has drained the rest")
        }
    }

    /// Hosts would go on with other data than they have read and written: they are disconnected, and what they asked for
    /// meanwhile is not carried out.
    mutating func turnHostsAway() {
        effects.append(.disconnectHosts)
        while let id = gateWaiters.popFirst() {
            heldCount -= 1
            answer(id, .cancelled)
        }
        for index in 0..<slots.capacity {
            guard let id = slots.taken(at: index), slots[id].host.side == 0 else { continue }
            switch (slots[id].purpose, slots[id].stage) {
            case (.hostWrite, .waitingForLock), (.hostWrite, .waitingForRecord): slots[id].sourceFailure = .cancelled
            default: break
            }
        }
    }

    /// Leg 0 and the pair's leg change places; what is still in flight to the element that is left behind goes with it.
    mutating func swapLegs(_ index: Int) {
        invariant(pairs[index].operationsInFlight == 0, "nothing is in flight to the element that becomes the primary")
        let bit: UInt8 = 1 << leg(ofPair: index)
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].pendingLegs & 1 != 0 else { continue }
            slots[id].wasMirrored = slots[id].issuedLegs & bit != 0
            slots[id].issuedLegs |= bit
            slots[id].pendingLegs = slots[id].pendingLegs & ~1 | bit
            slots[id].abandonedLegs = slots[id].abandonedLegs & ~1 | bit
            pairs[index].operationsInFlight += 1
        }
        for other in 0..<pairs.count where other != index && pairs[other].isInUse {
            spreadDifferences(of: index, to: other)
        }
        servingEpoch += 1
        pairs[index].isSecondPrimary.toggle()
        for other in 0..<pairs.count { pairs[other].forgetFullFlush() }
        // What the element that is left behind has lost, hosts do not miss.
        owedFlushFailure = nil
        markRecordCritical(index)
        effects.append(.swapLegs(pair: index))
    }

    /// After a failover: whoever waits for the old primary is told how that ended.
    mutating func leavePrimaryBehind(_ index: Int, wasMirroring: Bool) {
        let bit: UInt8 = 1 << leg(ofPair: index)
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].abandonedLegs & bit != 0 else { continue }
            guard slots[id].pendingLegs & bit != 0 else { continue }
            leaveBehind(id, isMirrored: wasMirroring && slots[id].wasMirrored)
        }
    }

    /// Other pairs compare with leg 0: where that changes, they may differ.
    mutating func spreadDifferences(of index: Int, to other: Int) {
        guard !pairs[index].dirty.isClean || !pairs[index].targetChanged.isClean else { return }
        pairs[other].distrustMaps()
        wantRecord(other)
        var run = pairs[index].dirty.nextDirtyRun(from: 0, limit: .max)
        while let found = run {
            pairs[other].markAgain(pairs[index].dirty.extent(of: found))
            run = pairs[index].dirty.nextDirtyRun(from: found.upperBound, limit: .max)
        }
        run = pairs[index].targetChanged.nextDirtyRun(from: 0, limit: .max)
        while let found = run {
            pairs[other].markAgain(pairs[index].targetChanged.extent(of: found))
            run = pairs[index].targetChanged.nextDirtyRun(from: found.upperBound, limit: .max)
        }
        if pairs[other].copyState == .synchronized, !pairs[other].wantsDetach { beginCopying(other) }
    }
}
