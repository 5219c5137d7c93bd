internal import RepldCore
internal import RepldFormat

/// What the control planes of a `MoveSimulation` say to each other.
///
/// The frames carry its number alone: the words themselves are the registry's business, not the engine's.
enum MoveMessage {
    case takeOver(Handover)
    case tookOver(PairRecord)
    case meet(PairRecord, [Extent], isAhead: Bool)
    case met(PairRecord)
    case refused(String)
}

/// Why a pair moves to the other host's daemon.
enum MoveKind { case failover, failback, reverseRoles }

/// What the daemon that takes a pair over has to know.
struct Handover {
    var kind: MoveKind
    /// Of the record that both have; `nil` where the other daemon could not be asked.
    var sequence: UInt64?
    /// The two elements are equal.
    var isEqual: Bool

    /// The record that the pair begins with on the daemon that takes it over, which has the second element or not.
    func record(
        after last: PairRecord,
        isSecond: Bool,
        servingEpoch: UInt32,
        _ generation: Generation
    ) -> PairRecord {
        var record = last
        record.lineage.takenOverAt = HistoryPoint(last.lineage.generation, last.sequence)
        record.lineage.confirmedSequence = last.sequence
        record.lineage.isTold = true
        record.lineage.begin(generation, after: last.sequence)
        // The former source keeps it.
        record.lineage.isTold = true
        record.sequence += 1
        record.term += 1
        record.servingEpoch = servingEpoch
        record.operation = 0
        record.isSecondPrimary = isSecond
        record.isTargetConsistent = kind != .reverseRoles || !last.isSourceInconsistent
        record.isClosedCleanly = isEqual
        record.mapTrust = isEqual ? .exact : .none
        record.hasUndo = false
        if isEqual || kind == .reverseRoles { record.isSourceAhead = false }
        record.isSourceInconsistent = kind == .failover && last.isSourceInconsistent
        switch kind {
        case .failover: record.copyState = MoveSimulation.failedover
        case .failback: record.copyState = MoveSimulation.synchronized
        case .reverseRoles:
            record.isSecondSource = isSecond
            record.copyState = isEqual ? MoveSimulation.synchronized : MoveSimulation.suspended
        }
        return record
    }
}

extension [Extent] {
    /// Fewer extents that cover these, which are in disk order: the nearest neighbours are joined.
    func coarsened(to limit: Int) -> [Extent] {
        var extents = self
        while extents.count > limit {
            let gaps = (1..<extents.count).map { extents[$0].offset - extents[$0 - 1].end }
            guard let nearest = gaps.indices.min(by: { gaps[$0] < gaps[$1] }) else { break }
            let end = extents.remove(at: nearest + 1).end
            extents[nearest] = Extent(offset: extents[nearest].offset, length: end - extents[nearest].offset)
        }
        return extents
    }
}
