/// What the operations table is asked about: one pair at one instant.
package struct PairFacts: Hashable, Sendable, BitwiseCopyable {
    package var copyState: CopyState
    /// The operation that is under way.
    package var operation: ReplicationOperation?
    /// The target is a usable image: equal to the source, or to what the source was when mirroring stopped.
    package var isTargetConsistent: Bool
    /// What a copy has overwritten on the target can be taken back, and is a usable image then.
    package var hasUndo = false
    /// Bytes that would be taken back, in whole granules: the target lacks what the source has there.
    package var undoByteCount: UInt64 = 0
    /// The source has changes that the target never had.
    package var isSourceAhead: Bool
    /// A restore was given up in the middle: the source is a mixture of two points in time.
    package var isSourceInconsistent: Bool
    /// Bytes in which the target may lack what the source has, in whole granules.
    package var changedByteCount: UInt64
    /// Bytes that hosts may have changed on the target's side, in whole granules.
    package var targetChangedByteCount: UInt64
    /// Bytes in which a verify has found a Synchronized pair different, in whole granules.
    package var verifyMarkedByteCount: UInt64
    /// Bytes in which the two may differ at all, in whole granules: what a copy would look at.
    package var differingByteCount: UInt64
    /// Clients of the volume's export, and of the target's own.
    package var volumeClientCount: UInt32
    package var targetClientCount: UInt32
    /// Another pair of the volume copies or mirrors.
    package var doesOtherPairFlow: Bool
    /// Another pair of the volume cannot rest: it moves hosts or restores the source, or hosts are with its target.
    package var doesOtherPairMove = false
    /// The volume is the replica of another pair, which a peer has.
    package var isSourceReplica = false
    /// The target is behind a peer.
    package var isRemote = false
    /// What the source lacks is on the target, behind a peer.
    package var isRestoringOverLink = false

    package init(
        copyState: CopyState,
        operation: ReplicationOperation? = nil,
        isTargetConsistent: Bool = false,
        isSourceAhead: Bool = false,
        isSourceInconsistent: Bool = false,
        changedByteCount: UInt64 = 0,
        targetChangedByteCount: UInt64 = 0,
        verifyMarkedByteCount: UInt64 = 0,
        differingByteCount: UInt64 = 0,
        volumeClientCount: UInt32 = 0,
        targetClientCount: UInt32 = 0,
        doesOtherPairFlow: Bool = false
    ) {
        self.copyState = copyState
        self.operation = operation
        self.isTargetConsistent = isTargetConsistent
        self.isSourceAhead = isSourceAhead
        self.isSourceInconsistent = isSourceInconsistent
        self.changedByteCount = changedByteCount
        self.targetChangedByteCount = targetChangedByteCount
        self.verifyMarkedByteCount = verifyMarkedByteCount
        self.differingByteCount = differingByteCount
        self.volumeClientCount = volumeClientCount
        self.targetClientCount = targetClientCount
        self.doesOtherPairFlow = doesOtherPairFlow
    }

    /// The target's data flows back to the source: the target is the copy that counts.
    package var isFlowingBack: Bool { operation == .restoreFromReplica || operation == .failback }
}

/// What could be lost, for an edge that is accepted only with force.
package enum ForceReason: Hashable, Sendable, BitwiseCopyable {
    /// The target is left as a mixture of old and new data.
    case targetLeftInconsistent
    /// The source is left half restored.
    case sourceLeftInconsistent
    /// The target lacks up to so many bytes that hosts were told are written.
    case targetLacksWrites(byteCount: UInt64)
    /// Changes of the source that the target never had are overwritten.
    case sourceChangesLost(byteCount: UInt64)
    /// A pair that is in sync is copied from the start.
    case syncLost
    /// The source is half restored, and would overwrite the target, which is whole.
    case sourceInconsistent
    /// Both elements were written since they parted.
    case historiesDiffer(byteCount: UInt64)
    /// A verify has found the target different from the source, and nobody has repaired it.
    case targetFoundDifferent(byteCount: UInt64)
    /// Clients are disconnected, and find other data when they come back.
    case clientsConnected(count: UInt32)
}

/// Why an operation is refused, force or not.
package enum OperationRefusal: Hashable, Sendable, BitwiseCopyable {
    /// Not from this copy state.
    case state
    /// Another operation is under way and has to end first.
    case underWay(ReplicationOperation)
    /// The target is no usable image.
    case targetNotUsable
    /// Another pair of the volume copies or mirrors, and would copy from the wrong element.
    case otherPairFlows
    /// The volume is the replica of another pair: a peer writes it, and may be in the middle of a copy.
    case sourceIsReplica
    /// The element that is to serve does not answer: operations on it are still in flight.
    case elementBusy
    /// The pair's metadata does not answer: what the operation changes could not be made durable.
    case metadataStuck
    case notSupported(OperationSupport)
}

/// What the table says to an operation.
package enum OperationVerdict: Hashable, Sendable, BitwiseCopyable {
    /// It may begin; the copy state in the end.
    case accepted(to: CopyState?)
    /// The result holds already: nothing is done.
    case holds
    case needsForce(ForceReason)
    case refused(OperationRefusal)
}

extension OperationTable {
    /// Decides an operation: the one function behind the machine, the plan and the refusals.
    package static func verdict(
        _ operation: ReplicationOperation,
        _ facts: PairFacts,
        isForced: Bool
    ) -> OperationVerdict {
        let rule = rule(of: operation)
        guard rule.support == .mirror else { return .refused(.notSupported(rule.support)) }
        if let verdict = verdictDuring(facts.operation, operation, facts, isForced: isForced) { return verdict }
        if rule.holdsIn.contains(facts.copyState), !repairsMarks(operation, facts) { return .holds }
        if facts.isSourceReplica, needsSource(operation) { return .refused(.sourceIsReplica) }
        guard let edge = rule.edge(from: facts.copyState) else { return .refused(.state) }
        if movesPrimary(operation, from: facts.copyState) {
            let doOthersHinder = movesToPeer(operation, facts) ? facts.doesOtherPairMove : facts.doesOtherPairFlow
            if doOthersHinder { return .refused(.otherPairFlows) }
        }
        let isEnd = operation == .detach || operation == .dissolve
        if isEnd, facts.isRestoringOverLink, !isForced { return .needsForce(.sourceLeftInconsistent) }
        if facts.isSourceInconsistent, copiesForward(operation), !isForced { return .needsForce(.sourceInconsistent) }
        switch need(of: edge.condition, facts) {
        case .nothing: return .accepted(to: edge.to)
        case .refused(let refusal): return .refused(refusal)
        case .force(let reason): return isForced ? .accepted(to: edge.to) : .needsForce(reason)
        }
    }

    /// While data flows back, or a drain is under way, only what ends that is accepted; a forward copy gives way to anything.
    private static func verdictDuring(
        _ current: ReplicationOperation?,
        _ operation: ReplicationOperation,
        _ facts: PairFacts,
        isForced: Bool
    ) -> OperationVerdict? {
        guard let current else { return nil }
        if operation == .resetToSync || operation == .resetToAsync { return .accepted(to: nil) }
        switch current {
        case .restoreFromReplica, .failback:
            if operation == current { return .holds }
            let isAbort = operation == .abort && current == .restoreFromReplica
            guard isAbort || operation == .detach else { return .refused(.underWay(current)) }
            return isForced ? .accepted(to: isAbort ? .aborted : nil) : .needsForce(.sourceLeftInconsistent)
        case .split where facts.copyState == .unsynchronized:
            return operation == .split ? .holds : nil
        case .activate, .resyncReplica, .resume:
            return nil
        default:
            return .refused(.underWay(current))
        }
    }

    /// ResyncReplica repairs what a verify has found in a pair that is Synchronized; where there is nothing, its result holds.
    private static func repairsMarks(_ operation: ReplicationOperation, _ facts: PairFacts) -> Bool {
        operation == .resyncReplica && facts.copyState == .synchronized && facts.verifyMarkedByteCount > 0
    }

    /// Whether the operation makes another element the one that serves hosts, or writes the source.
    private static func movesPrimary(_ operation: ReplicationOperation, from state: CopyState) -> Bool {
        switch operation {
        case .failover, .failback, .restoreFromReplica: true
        case .reverseRoles: state != .failedover
        default: false
        }
    }

    /// Whether the pair itself goes to the other host, or what that one has changed comes here: the other pairs of the volume can rest
    /// meanwhile, or follow.
    private static func movesToPeer(_ operation: ReplicationOperation, _ facts: PairFacts) -> Bool {
        facts.isRemote && operation != .restoreFromReplica
    }

    /// Whether the operation copies from the volume or to it, or lets hosts go on with the target instead of it.
    private static func needsSource(_ operation: ReplicationOperation) -> Bool {
        switch operation {
        case .activate, .resyncReplica, .resume, .split, .failover, .failback, .restoreFromReplica, .reverseRoles: true
        default: false
        }
    }

    static func copiesForward(_ operation: ReplicationOperation) -> Bool {
        operation == .resyncReplica || operation == .activate || operation == .resume || operation == .prepare
            || operation == .unprepare
    }

    private static func foundDifferent(_ facts: PairFacts) -> Need {
        .force(.targetFoundDifferent(byteCount: facts.verifyMarkedByteCount))
    }

    private enum Need { case nothing, force(ForceReason), refused(OperationRefusal) }

    private static func need(of condition: OperationCondition, _ facts: PairFacts) -> Need {
        let changed = facts.changedByteCount
        switch condition {
        case .none, .ifVerifyFoundDifferences:
            return .nothing
        case .forceIfVerifyFoundDifferences:
            return facts.verifyMarkedByteCount == 0 ? .nothing : foundDifferent(facts)
        case .force:
            return .force(.syncLost)
        case .forceForHistory:
            return .force(.historiesDiffer(byteCount: facts.differingByteCount))
        case .forceIfTargetInconsistent:
            let hasImage = facts.copyState == .initialized || facts.copyState == .prepared || facts.isTargetConsistent
            let isAlways = facts.copyState == .unsynchronized || facts.copyState == .aborted
            if facts.verifyMarkedByteCount > 0 { return foundDifferent(facts) }
            return hasImage && !isAlways ? .nothing : .force(.targetLeftInconsistent)
        case .usableTarget:
            return facts.isTargetConsistent ? .nothing : .refused(.targetNotUsable)
        case .usableTargetAndForceIfItLacksWrites:
            guard facts.isTargetConsistent || facts.hasUndo else { return .refused(.targetNotUsable) }
            let lacking = changed + facts.undoByteCount
            return lacking == 0 ? .nothing : .force(.targetLacksWrites(byteCount: lacking))
        case .forceIfSourceIsAhead:
            return facts.isSourceAhead ? .force(.sourceChangesLost(byteCount: changed)) : .nothing
        case .forceIfTargetLacksWrites:
            guard facts.isTargetConsistent else { return .refused(.targetNotUsable) }
            return changed == 0 ? .nothing : .force(.targetLacksWrites(byteCount: changed))
        case .noClients:
            let count = facts.volumeClientCount + facts.targetClientCount
            return count == 0 ? .nothing : .force(.clientsConnected(count: count))
        }
    }
}
