internal import RepldCore

/// The operations of the table, carried out on the pairs of one volume.
///
/// An operation is accepted or refused at once (`OperationTable.verdict`). One that is accepted is `operation` of its pair
/// until its result holds or it has failed; `operationEnded` tells which, after the result is durable. At most one is
/// under way on a pair; a forward copy gives way to any other.
///
///     Activate, ResyncReplica, Resume    target's export closes → (stuck operations come back) → copy → Synchronized
///     Split                              (copy → Synchronized) → gate → Split
///     Failover                           gate → legs swapped → Failedover
///     Failback                           copy from leg 0, the target, to the source, mirroring → gate → swapped → Synchronized
///     RestoreFromReplica                 gate → legs swapped → copy to the source, mirroring → gate → swapped → Restored
///                                        target behind a peer: gate → copy to the source (`LinkRestore`) → Restored
///     ReverseRoles                       gate → legs swapped, roles changed; Failedover: roles changed
///     the others                         at once
///
/// While a restore or a failback runs, hosts are served by the target and their writes go to both elements: the target is
/// complete at every instant, so that a crash only repeats copies. If the source fails meanwhile, the pair is Failedover:
/// hosts stay with the element that has their data.
extension VolumeMachine {
    /// Begins an operation, or says why not; `facts` are this machine's, completed by who knows the clients.
    ///
    /// A copy that it begins keeps what it overwrites if the pair is set up so, and `keepsUndo` does not say otherwise.
    package mutating func operate(
        _ index: Int,
        _ operation: ReplicationOperation,
        _ facts: PairFacts,
        isForced: Bool,
        keepsUndo: Bool = true
    ) -> OperationVerdict {
        invariant(pairs[index].isInUse, "an operation is asked of a pair that exists")
        if let refusal = refusalNow(index) { return .refused(refusal) }
        let verdict = OperationTable.verdict(operation, facts, isForced: isForced)
        guard case .accepted = verdict else { return verdict }
        // The control plane moves the pair to the other daemon instead.
        if pairs[index].isRemote, closesGate(operation, index), movesHosts(operation) {
            return .refused(.notSupported(.notYet))
        }
        if pairs[index].isSettling { return .refused(.underWay(operation)) }
        if pairs[index].isRecordStuck, mustBeRecorded(operation, index) { return .refused(.metadataStuck) }
        // Every pair of the volume has to take down that another element serves.
        if closesGate(operation, index), hasFailingMetadata(besides: index) { return .refused(.metadataStuck) }
        if pairs[index].isPlaceHeld { return .refused(.underWay(.detach)) }
        // What a restore that has stopped still writes to the source must not come after what hosts write there.
        if pairs[index].linkRestore != .none, pairs[index].copiesInFlight > 0, operation != .abort {
            return .refused(.elementBusy)
        }
        if gate.isClosed, closesGate(operation, index) {
            return .refused(.underWay(pairs[gate.pair].operation ?? operation))
        }
        if closesGate(operation, index), !pairs[index].isRemote, isTargetBusy(index, facts) {
            return .refused(.elementBusy)
        }
        // A restore that is given up before it began must not begin when its gate is passed.
        leaveGate(index, .superseded(by: operation))
        endOperation(index, .superseded(by: operation))
        pairs[index].wantsStart = false
        closeTargetExport(index)
        pairs[index].operation = operation
        if facts.isSourceInconsistent, OperationTable.copiesForward(operation) { pairs[index].takesMixture = true }
        pairs[index].undo.isWanted = keepsUndo && pairs[index].settings.keepsUndo
        begin(operation, index)
        finishEvent()
        return verdict
    }

    private func refusalNow(_ index: Int) -> OperationRefusal? {
        if let finishing = pairs[index].finishingOperation { return .underWay(finishing) }
        if pairs[index].wantsDetach { return .underWay(.detach) }
        return isClosing ? .underWay(pairs[index].operation ?? .deactivate) : nil
    }

    /// What the operation begins may be forgotten by no crash: with a record that does not come back, hosts could not write.
    private func mustBeRecorded(_ operation: ReplicationOperation, _ index: Int) -> Bool {
        switch operation {
        case .suspend, .deactivate, .prepare, .unprepare: false
        case .abort: closesGate(operation, index)
        default: true
        }
    }

    /// Other hosts would be served, by the other daemon.
    private func movesHosts(_ operation: ReplicationOperation) -> Bool {
        operation != .split && operation != .restoreFromReplica && operation != .abort
    }

    private func hasFailingMetadata(besides index: Int) -> Bool {
        for other in 0..<pairs.count where other != index && pairs[other].isInUse {
            if pairs[other].hasRecordFailed || pairs[other].isRecordStuck { return true }
        }
        return false
    }

    private func closesGate(_ operation: ReplicationOperation, _ index: Int) -> Bool {
        switch operation {
        case .failover, .restoreFromReplica: true
        case .split: pairs[index].copyState == .synchronized
        case .reverseRoles: !pairs[index].isMisplaced
        case .abort: pairs[index].isFlowingBack || pairs[index].linkRestore != .none
        default: false
        }
    }

    /// The target still holds operations that nobody waits for: it cannot take over.
    private func isTargetBusy(_ index: Int, _ facts: PairFacts) -> Bool {
        pairs[index].operationsInFlight > 0 && !pairs[index].isMirroring && facts.targetClientCount == 0
    }

    private mutating func begin(_ operation: ReplicationOperation, _ index: Int) {
        switch operation {
        case .resyncReplica where pairs[index].copyState == .synchronized:
            // It mirrors, and goes on to: writes and the mover meet at the lock, and nothing has to come back first. Every copied
            // granule brings the target nearer to the source.
            beginCopying(index, keepsImage: true)
        case .activate, .resyncReplica, .resume:
            startPair(index)
        case .split:
            if pairs[index].copyState == .synchronized { return closeGate(index, .split) }
            wantRecord(index)
            // What waits for Synchronized catches up first.
            if pairs[index].copyState == .skewed { startPair(index) }
        case .failover:
            if pairs[index].undo.isPresent { beginRollback(index) } else { closeGate(index, .failover) }
        case .reverseRoles:
            if pairs[index].isMisplaced { makeChange(.reverseRoles, index) } else { closeGate(index, .reverseRoles) }
        case .restoreFromReplica:
            if pairs[index].isRemote { startPair(index) } else { closeGate(index, .beginRestore) }
        case .failback:
            startPair(index)
        case .abort:
            if closesGate(.abort, index) { beginAbortOfRestore(index) } else { rest(index, in: .aborted) }
        case .suspend: rest(index, in: .suspended)
        case .deactivate: rest(index, in: .inactive)
        case .fracture:
            // What hosts write on the target is not saved.
            dropUndo(index)
            rest(index, in: .fractured)
        case .prepare, .unprepare: prepare(index)
        default:
            invariantFailed("the control plane carries out what is not the data plane's")
        }
    }

    /// Gives up the operation that is under way; false where that cannot be.
    package mutating func cancelOperation(_ index: Int) -> Bool {
        guard let operation = pairs[index].operation, !pairs[index].wantsDetach else { return false }
        // The peer may be about to take it over.
        guard !pairs[index].isSettling else { return false }
        switch operation {
        case .activate, .resyncReplica, .resume:
            pairs[index].wantsStart = false
            if pairs[index].copyState == .unsynchronized { stopMirroring(index, to: .suspended) }
            endOperation(index, .cancelled)
        case .split where !closesOwnGate(index):
            endOperation(index, .cancelled)
            wantRecord(index)
        case .failback where !closesOwnGate(index):
            pairs[index].wantsStart = false
            if pairs[index].isFlowingBack { stopFlowingBack(index) }
            endOperation(index, .cancelled)
            wantRecord(index)
        case .failover where pairs[index].undo.isRollingBack:
            endOperation(index, .cancelled)
            wantRecord(index)
        case .split, .failover, .reverseRoles:
            guard gate.stage == .draining, gate.pair == index else { return false }
            leaveGate(index, .cancelled)
        default:
            return false
        }
        finishEvent()
        return true
    }

    private func closesOwnGate(_ index: Int) -> Bool { gate.isClosed && gate.pair == index }

    /// Keeps the place of the pair's elements as it is, so that the control plane can write down which one serves before it
    /// detaches the pair: a drain that would move it is given up.
    package mutating func holdPlace(_ index: Int, _ isHeld: Bool) {
        pairs[index].isPlaceHeld = isHeld
        if isHeld { leaveGate(index, .superseded(by: .detach)) }
        if isHeld, pairs[index].operation == .failover || pairs[index].operation == .reverseRoles {
            endOperation(index, .superseded(by: .detach))
        }
        finishEvent()
    }

    /// What the operations table is asked about a pair, as far as this machine knows it.
    package func facts(of index: Int) -> PairFacts {
        var facts = PairFacts(copyState: pairs[index].copyState)
        facts.operation = pairs[index].operation
        facts.isTargetConsistent = pairs[index].isTargetConsistent
        facts.hasUndo = pairs[index].undo.isPresent
        facts.isRemote = pairs[index].isRemote
        facts.undoByteCount = undoByteCount(of: index)
        facts.isSourceAhead = pairs[index].isSourceAhead
        facts.isSourceInconsistent = pairs[index].isSourceInconsistent
        facts.isRestoringOverLink = pairs[index].linkRestore != .none
        facts.changedByteCount = min(pairs[index].dirty.dirtyByteCount + waitingByteCount(index), byteCount)
        facts.targetChangedByteCount = min(pairs[index].targetChanged.dirtyByteCount, byteCount)
        facts.verifyMarkedByteCount = min(pairs[index].verifyMarkedByteCount, byteCount)
        facts.differingByteCount = min(facts.changedByteCount + facts.targetChangedByteCount, byteCount)
        facts.isSourceReplica = isFollowing
        // The volume has one source.
        if isLeftHalfRestored(besides: index), !pairs[index].isMisplaced { facts.isSourceInconsistent = true }
        for other in 0..<pairs.count where other != index && pairs[other].isInUse {
            if !canRest(other) { facts.doesOtherPairMove = true }
            if pairs[other].linkRestore != .none { facts.doesOtherPairFlow = true }
            let isServedElsewhere = pairs[other].isSecondPrimary && !pairs[other].isRemote || pairs[other].isMisplaced
            if pairs[other].isMirroring || isServedElsewhere || isMoving(other) {
                facts.doesOtherPairFlow = true
            }
        }
        return facts
    }

    /// Bytes of host writes that the target will lack, and that are not marked yet because they wait for a lock or a record.
    private func waitingByteCount(_ index: Int) -> UInt64 {
        guard !pairs[index].isMirroring else { return 0 }
        var count: UInt64 = 0
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].purpose == .hostWrite else { continue }
            if slots[id].stage == .waitingForLock || slots[id].stage == .waitingForRecord {
                count += slots[id].host.extent.length
            }
        }
        return count
    }

    /// The primary is about to become another element by an operation of the pair.
    func isMoving(_ index: Int) -> Bool {
        switch pairs[index].operation {
        case .failover, .failback, .restoreFromReplica, .reverseRoles: true
        default: false
        }
    }

    // MARK: - Steps

    /// Stops what flows, if anything does, and remembers from there on.
    private mutating func rest(_ index: Int, in state: CopyState) {
        endsWell(index) { machine in
            if machine.pairs[index].isMirroring {
                machine.stopMirroring(index, to: state)
            } else {
                machine.changeState(index, to: state)
            }
        }
    }

    /// Everything counts as out of sync; what is copied then is compared first.
    private mutating func prepare(_ index: Int) {
        giveUpLinkRestore(index)
        dropUndo(index)
        pairs[index].isTargetConsistent = false
        pairs[index].isSourceAhead = false
        pairs[index].comparesFirst = true
        pairs[index].reason = nil
        // Before the record, which says how far the bitmaps can be relied on.
        pairs[index].joinChanges()
        pairs[index].markAllDirty()
        rest(index, in: .prepared)
    }

    mutating func closeTargetExport(_ index: Int) {
        if Self.isHostsOwn(pairs[index].copyState) { effects.append(.closeTargetExport(pair: index)) }
    }

    private mutating func beginAbortOfRestore(_ index: Int) {
        if pairs[index].linkRestore != .none {
            stopLinkRestore(index)
            return closeGate(index, .abortLinkRestore)
        }
        stopFlowingBack(index)
        closeGate(index, .abortRestore)
    }

    /// Copies and mirrors from leg 0, the target, to the source.
    mutating func beginFlowingBack(_ index: Int) {
        pairs[index].wantsStart = false
        pairs[index].reason = nil
        pairs[index].joinChanges()
        pairs[index].isFlowingBack = true
        pairs[index].hasCaughtUp = false
        pairs[index].isSourceInconsistent = true
        resetCopyCounters(index)
        markRecordCritical(index)
        wantRecord(index)
    }

    /// From here on nothing new goes to the source; all that it may not have is dirty.
    mutating func stopFlowingBack(_ index: Int) {
        endSettling(index, .pairBroken)
        rememberUnproven(index)
        pairs[index].copied.removeAll()
        pairs[index].isFlowingBack = false
        dropWaitingChunks(index)
        markRecordCritical(index)
    }

    /// The one step for which the gate was closed.
    mutating func makeChange(_ purpose: GatePurpose, _ index: Int) {
        switch purpose {
        case .split:
            endsWell(index) { $0.stopMirroring(index, to: .split) }
        case .failover:
            endsWell(index) { $0.failOver(index) }
        case .reverseRoles:
            endsWell(index) { $0.reverseRoles(index) }
        case .beginRestore where pairs[index].isRemote: beginLinkRestore(index)
        case .beginRestore:
            if differs(index) { turnHostsAway() }
            pairs[index].joinChanges()
            swapLegs(index)
            // What the source alone had is given up: that is what a restore is for.
            pairs[index].isSourceAhead = false
            beginFlowingBack(index)
        case .endRestore, .endFailback:
            endsWell(index) { $0.endFlowingBack(index, to: purpose == .endRestore ? .restored : .synchronized) }
        case .handover: recordSettled(index)
        case .abortLinkRestore:
            endsWell(index) { machine in
                machine.turnHostsAway()
                machine.endLinkRestore(index)
                machine.changeState(index, to: .aborted)
            }
        case .abortRestore:
            endsWell(index) { machine in
                // The target served, and is complete; the source is not.
                machine.turnHostsAway()
                machine.swapLegs(index)
                machine.changeState(index, to: .aborted)
                machine.leavePrimaryBehind(index, wasMirroring: false)
            }
        }
    }

    /// Whether hosts would find other data on the pair's other element.
    func differs(_ index: Int) -> Bool {
        !pairs[index].dirty.isClean || !pairs[index].targetChanged.isClean
    }

    private mutating func failOver(_ index: Int) {
        let wasMirroring = pairs[index].isMirroring
        if wasMirroring { rememberUnproven(index) }
        pairs[index].copied.removeAll()
        if pairs[index].isSourceAhead || !pairs[index].targetChanged.isClean { turnHostsAway() }
        swapLegs(index)
        changeState(index, to: .failedover)
        leavePrimaryBehind(index, wasMirroring: wasMirroring)
    }

    private mutating func reverseRoles(_ index: Int) {
        let isPlaced = !pairs[index].isMisplaced
        pairs[index].isSecondSource.toggle()
        if isPlaced {
            if differs(index) { turnHostsAway() }
            swapLegs(index)
        }
        // What the old source changed alone is what the new target changed alone; what a verify has marked is where the two
        // differ, and stays that.
        if !pairs[index].hasVerifyMarks { pairs[index].swapSides() }
        // Where nothing is known, each may lack what the other has.
        if pairs[index].comparesFirst { pairs[index].shareChanges() }
        // An old source that is half overwritten is no usable image as a target.
        if pairs[index].isSourceInconsistent { pairs[index].isTargetConsistent = false }
        pairs[index].isSourceAhead = false
        pairs[index].isSourceInconsistent = false
        markRecordCritical(index)
        if pairs[index].copyState == .synchronized || pairs[index].copyState == .split {
            wantRecord(index)
        } else {
            changeState(index, to: .suspended)
            pairs[index].isResumeRequired = true
        }
        let isSecondSource = pairs[index].isSecondSource
        announce(.rolesReversed(pair: pairs[index].id, isSecondSource: isSecondSource))
    }

    private mutating func endFlowingBack(_ index: Int, to state: CopyState) {
        invariant(pairs[index].dirty.isClean, "a copy is over when nothing is dirty")
        if state == .restored { rememberUnproven(index) }
        pairs[index].isFlowingBack = false
        pairs[index].comparesFirst = false
        noteSourceWhole(index)
        pairs[index].isSourceAhead = false
        pairs[index].isTargetConsistent = true
        swapLegs(index)
        changeState(index, to: state)
    }

    // MARK: - The end of an operation

    /// Makes the last change of an operation: its record, and with that everything after a crash, says that it has ended.
    mutating func endsWell(_ index: Int, _ change: (inout VolumeMachine) -> Void) {
        pairs[index].finishingOperation = pairs[index].operation
        pairs[index].operation = nil
        let sequence = pairs[index].recordSequence
        change(&self)
        // A record that was on its way before says nothing of the change.
        if !pairs[index].isRecordWanted, pairs[index].recordSequence == sequence { wantRecord(index) }
        if pairs[index].isRecordStuck { tellEnd(index, .recordFailed(.timedOut)) }
    }

    /// The operation under way, if there is one, has failed.
    mutating func endOperation(_ index: Int, _ failure: OperationFailure) {
        guard let operation = pairs[index].operation else { return }
        pairs[index].operation = nil
        pairs[index].undo.isRollingBack = false
        announce(.operationEnded(pair: pairs[index].id, operation, failure))
    }

    /// What the pair is now is durable, or cannot be made durable.
    mutating func tellEnd(_ index: Int, _ failure: OperationFailure?) {
        switch failure {
        case nil: tellVerifyEnd(index, nil)
        case .recordFailed(let failure): tellVerifyEnd(index, failure)
        default: break
        }
        guard let operation = pairs[index].finishingOperation else { return }
        pairs[index].finishingOperation = nil
        announce(.operationEnded(pair: pairs[index].id, operation, failure))
    }
}
