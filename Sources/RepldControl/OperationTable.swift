internal import RepldControlAPI
internal import RepldPair

/// What each operation that is carried out asks of a pair's copy state: the rows of the operations table.
///
/// An operation in a state where its result already holds is acceptable: it answers 0 and does nothing, which makes
/// retries safe.
struct OperationRule {
    /// What the data plane is asked to do.
    enum Action { case startCopy, suspend, detach }

    var action: Action
    var acceptedFrom: Set<CopyState>
    /// Accepted only with `force`, because something could be lost.
    var acceptedWithForceFrom: Set<CopyState> = []
    var holdsIn: Set<CopyState> = []
    var result: CopyState?

    /// The rule of an operation; `nil` for those that are not carried out.
    static func rule(for operation: ReplicationOperation) -> OperationRule? {
        let flowing: Set<CopyState> = [.unsynchronized, .synchronized]
        switch operation {
        case .activate:
            return OperationRule(
                action: .startCopy,
                acceptedFrom: [.initialized, .prepared, .inactive],
                holdsIn: flowing,
                result: .synchronized
            )
        case .resyncReplica:
            return OperationRule(
                action: .startCopy,
                acceptedFrom: [.fractured, .split, .broken, .aborted, .skewed, .restored, .partitioned],
                acceptedWithForceFrom: [.invalid],
                holdsIn: flowing,
                result: .synchronized
            )
        case .resume:
            return OperationRule(
                action: .startCopy,
                acceptedFrom: [.suspended, .restored],
                holdsIn: flowing,
                result: .synchronized
            )
        case .suspend:
            return OperationRule(
                action: .suspend,
                acceptedFrom: [.unsynchronized, .synchronized, .skewed, .partitioned],
                holdsIn: [.suspended],
                result: .suspended
            )
        case .detach:
            let forced: Set<CopyState> = [.unsynchronized, .aborted]
            return OperationRule(
                action: .detach,
                acceptedFrom: Set(CopyState.allCases).subtracting(forced),
                acceptedWithForceFrom: forced
            )
        case .abort, .activateConsistency, .addSyncPair, .deactivateConsistency, .deactivate, .dissolve, .failover,
            .failback, .fracture, .removeSyncPair, .restoreFromReplica, .resetToSync, .resetToAsync,
            .returnToResourcePool, .reverseRoles, .split, .unprepare, .prepare, .resetToAdaptive, .resetToActive,
            .resetReplica:
            return nil
        }
    }

    /// The operations that are carried out, in the order of their numbers.
    static var supported: [ReplicationOperation] { ReplicationOperation.allCases.filter { rule(for: $0) != nil } }

    /// The operation that starts the copy from a state, for the refusal of another.
    static func operationThatStartsCopy(from state: CopyState) -> ReplicationOperation? {
        [.activate, .resume, .resyncReplica].first { rule(for: $0)?.acceptedFrom.contains(state) == true }
    }
}
