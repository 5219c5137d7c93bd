package import RepldControlAPI
package import RepldPair

/// What an operation would do to a pair: a pure function of its facts, from the table that decides in earnest.
package enum OperationPlan {
    /// `keepsUndo` where a copy would keep what it overwrites on a usable target.
    package static func plan(
        _ operation: ReplicationOperation,
        _ facts: PairFacts,
        _ pair: PairWords,
        keepsUndo: Bool = false
    ) -> PlanReply {
        let verdict = OperationTable.verdict(operation, facts, isForced: false)
        var plan = PlanReply(
            operation: Enumerated(operation),
            copyState: Enumerated(facts.copyState),
            verdict: Self.word(for: verdict)
        )
        if let refusal = OperationWords.refusal(of: operation, verdict, facts, pair) {
            plan.reason = refusal.message
            plan.bytesAtStake = refusal.status.bytesAtStake
            plan.suggestedOperation = refusal.status.suggestedOperation
        }
        guard case .accepted(let result) = OperationTable.verdict(operation, facts, isForced: true) else {
            if verdict == .holds { plan.resultingCopyState = Enumerated(facts.copyState) }
            return plan
        }
        plan.remark = OperationWords.remark(on: operation, pair)
        let rule = OperationTable.rule(of: operation)
        plan.resultingCopyState = ends(operation) ? nil : Enumerated(result ?? facts.copyState)
        plan.startsJob = rule.startsJob
        plan.updatesSynchronizedPath = rule.changesPath
        plan.clientsDisconnected = clientsDisconnected(by: operation, to: result, facts)
        switch copy(operation, from: facts.copyState) {
        case .none: break
        case .toTarget:
            plan.byteCountToCopy = facts.differingByteCount
            plan.overwritten = [
                .init(role: "target", path: pair.targetPath, byteCount: facts.differingByteCount)
            ]
        case .toSource:
            plan.byteCountToCopy = facts.differingByteCount
            plan.overwritten = [
                .init(role: "source", path: pair.sourcePath, byteCount: facts.differingByteCount)
            ]
        }
        plan.overwritten.removeAll { $0.byteCount == 0 }
        let undoByteCount = keepsUndo ? undoByteCount(operation, facts) : 0
        if undoByteCount > 0 { plan.undoByteCount = undoByteCount }
        if operation == .failover, facts.hasUndo { plan.takenBackByteCount = facts.undoByteCount }
        return plan
    }

    /// How many bytes a copy may have to keep in the undo area besides what is there; what hosts write meanwhile adds to it.
    static func undoByteCount(_ operation: ReplicationOperation, _ facts: PairFacts) -> UInt64 {
        let begins: Bool =
            switch operation {
            case .activate, .resume, .resyncReplica: true
            default: false
            }
        // A Synchronized pair whose differences are repaired stays the image that it is.
        guard begins, facts.copyState != .synchronized, facts.isTargetConsistent || facts.hasUndo else { return 0 }
        return facts.differingByteCount
    }

    static func word(for verdict: OperationVerdict) -> PlanVerdict {
        switch verdict {
        case .accepted: .accepted
        case .holds: .alreadyHolds
        case .needsForce: .needsForce
        case .refused: .refused
        }
    }

    private enum Copy { case none, toTarget, toSource }

    /// Which way data would be copied.
    private static func copy(_ operation: ReplicationOperation, from state: CopyState) -> Copy {
        switch operation {
        case .activate, .resume, .resyncReplica: .toTarget
        case .restoreFromReplica, .failback: .toSource
        // It waits until the copy has come to its end.
        case .split: state == .synchronized ? .none : .toTarget
        case .abort, .activateConsistency, .addSyncPair, .deactivateConsistency, .deactivate, .detach, .dissolve,
            .failover, .fracture, .removeSyncPair, .resetToSync, .resetToAsync, .returnToResourcePool, .reverseRoles,
            .suspend, .unprepare, .prepare, .resetToAdaptive, .resetToActive, .resetReplica:
            .none
        }
    }

    private static func ends(_ operation: ReplicationOperation) -> Bool {
        operation == .detach || operation == .dissolve
    }

    /// Clients of the target's own export go when the target is no longer theirs to use; those of the volume too, where
    /// what they read would change under them.
    private static func clientsDisconnected(
        by operation: ReplicationOperation,
        to result: CopyState?,
        _ facts: PairFacts
    ) -> Int {
        let volumeClients = turnsHostsAway(operation, facts) ? Int(facts.volumeClientCount) : 0
        let hasExport = facts.copyState == .fractured || facts.copyState == .split
        guard hasExport, operation != .resetToSync, operation != .resetToAsync else { return volumeClients }
        let keepsExport = !ends(operation) && (result == .fractured || result == .split) && operation != .reverseRoles
        return volumeClients + (keepsExport ? 0 : Int(facts.targetClientCount))
    }

    /// Hosts of the volume would be served by an element with other data.
    private static func turnsHostsAway(_ operation: ReplicationOperation, _ facts: PairFacts) -> Bool {
        // They find nobody on this host any more.
        if facts.isRemote, operation == .failover || operation == .failback { return true }
        if facts.isRemote, operation == .reverseRoles { return facts.copyState != .failedover }
        return switch operation {
        case .failover, .restoreFromReplica: facts.differingByteCount > 0
        case .reverseRoles: facts.copyState != .failedover && facts.differingByteCount > 0
        case .abort: facts.operation == .restoreFromReplica
        default: false
        }
    }
}
