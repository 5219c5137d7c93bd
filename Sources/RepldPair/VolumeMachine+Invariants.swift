internal import RepldCore

/// What holds between two events, looked at from scratch.
extension VolumeMachine {
    /// Checks the invariants of the type from scratch.
    ///
    /// For tests and the simulator.
    package func checkInvariants() {
        locks.checkInvariants()
        var hostCount = 0
        var held = 0
        for index in 0..<slots.capacity {
            guard let id = slots.taken(at: index) else { continue }
            let request = slots[id]
            switch request.purpose {
            case .hostRead, .hostWrite, .hostFlush: hostCount += request.stage == .abandoned ? 0 : 1
            case .targetRead, .targetWrite, .targetFlush, .copy, .copyFlush, .closeFlush, .gateFlush, .logFlush,
                .verify, .rollback:
                break
            }
            switch request.stage {
            case .waitingForGate, .waitingForRecord, .answerHeld: held += 1
            default: break
            }
            invariant(request.pendingLegs & ~request.issuedLegs == 0, "a pending leg was issued")
        }
        invariant(hostCount == hostRequestCount, "host requests are counted")
        invariant(held == heldCount, "held requests are counted")
        for index in 0..<pairs.count {
            let isLast = index == pairEnd - 1
            invariant(
                pairs[index].isInUse ? index < pairEnd : !isLast,
                "requests look at every pair, and at no more places"
            )
        }
        for index in 0..<pairs.count where pairs[index].isInUse {
            var legs = pairs[index].hasBacklog ? 1 : 0
            for slot in 0..<slots.capacity {
                guard let id = slots.taken(at: slot) else { continue }
                legs += (slots[id].pendingLegs & legBits(ofPair: index)).nonzeroBitCount
            }
            invariant(legs == pairs[index].operationsInFlight, "operations on a target are counted")
            pairs[index].dirty.checkInvariants()
            pairs[index].unflushed.checkInvariants()
            pairs[index].store.checkInvariants()
            pairs[index].undo.checkInvariants()
            let isInSync =
                pairs[index].copyState == .synchronized && !pairs[index].wantsDetach && !leavesPrimary(index)
            invariant(!isInSync || pairs[index].dirty.isClean, "a Synchronized pair has nothing dirty")
            checkPlace(of: index)
        }
    }

    /// Where hosts are served fits what is under way.
    private func checkPlace(of index: Int) {
        let isServedByTarget =
            pairs[index].copyState == .failedover || pairs[index].isFlowingBack
            || (gate.isClosed && gate.pair == index && gate.purpose == .abortRestore)
        invariant(
            pairs[index].isMisplaced == isServedByTarget,
            "a target serves hosts only in Failedover and in a restore"
        )
        invariant(
            !pairs[index].isMirroring || pairs[index].targetChanged.isClean || pairs[index].hasVerifyMarks,
            "what hosts changed on the target is joined before anything flows"
        )
        let isHalfRestored = pairs[index].linkRestore != .none
        invariant(
            !isHalfRestored
                || pairs[index].isSourceInconsistent && !pairs[index].isMisplaced && !pairs[index].isMirroring,
            "a source that is half restored counts as that, serves hosts, and is not mirrored"
        )
        invariant(
            isHalfRestored == false || pairs[index].linkRestore == .lost || pairs[index].copiesInFlight == 0
                || !pairs[index].targetChanged.isClean,
            "a restore brings what is lacking"
        )
        invariant(
            !pairs[index].undo.isPresent || !pairs[index].isMisplaced && !Self.endsUndo(pairs[index].copyState),
            "a copy that has ended, or whose target was given to hosts, cannot be taken back"
        )
        invariant(
            !pairs[index].hasVerifyMarks || pairs[index].copyState == .synchronized,
            "what a verify has marked is joined to what differs when the pair leaves Synchronized"
        )
        invariant(
            pairs[index].isInStep == (pairs[index].copyState == .synchronized && !pairs[index].hasVerifyMarks),
            "a Synchronized pair is in step unless a verify has found something"
        )
        invariant(
            !pairs[index].verify.isRunning || pairs[index].copyState == .synchronized && !pairs[index].wantsDetach,
            "only a Synchronized pair is verified"
        )
    }
}
