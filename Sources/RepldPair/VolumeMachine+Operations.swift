internal import RepldCore

/// The operations of the table, on the pairs of one volume.
extension VolumeMachine {
    package mutating func operate(
        _ index: Int,
        _ operation: ReplicationOperation,
        _ facts: PairFacts,
        isForced: Bool
    ) -> OperationVerdict {
        let verdict = OperationTable.verdict(operation, facts, isForced: isForced)
        guard case .accepted = verdict else { return verdict }
        switch operation {
        case .activate, .resume, .resyncReplica: _ = startPair(index)
        default: _ = suspendPair(index)
        }
        return verdict
    }

    package mutating func cancelOperation(_ index: Int) -> Bool { false }

    package func facts(of index: Int) -> PairFacts { PairFacts(copyState: pairs[index].copyState) }

    package func isTargetOpen(_ index: Int) -> Bool { false }
}
extension Pair {
    package var operation: ReplicationOperation? { nil }
    package var isSecondSource: Bool { false }
    package var isSecondPrimary: Bool { false }
    package var reasonWords: String { reason?.words ?? "" }
}
