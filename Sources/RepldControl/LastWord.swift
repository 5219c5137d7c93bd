package import RepldControlAPI
package import RepldFormat
internal import RepldPair

/// What a replica's host knows of a pair whose source it cannot ask.
package struct LastWord: Hashable, Sendable {
    /// The last record that the source told of.
    package var record: PairRecord
    /// The element that is here is the pair's second.
    package var isSecondHere: Bool
    /// When the source answers hosts; `nil` where it has not told.
    package var mode: ReplicationMode?
    /// What can be taken back of the copy that was under way, in bytes; `nil` where nothing was kept.
    package var keptByteCount: UInt64?

    package init(record: PairRecord, isSecondHere: Bool, mode: ReplicationMode?, keptByteCount: UInt64? = nil) {
        self.record = record
        self.isSecondHere = isSecondHere
        self.mode = mode
        self.keptByteCount = keptByteCount
    }

    /// What becomes of a Failover without the source: a pure function.
    package enum Verdict: Hashable, Sendable {
        /// The replica has all that hosts were told is written, as far as the source ever said.
        case accepted
        /// In words, what may be lost.
        case needsForce(String)
        /// In words, why force does not help.
        case refused(String)
    }

    /// The replica can be brought back to what it held before a copy overwrote it.
    private var isKept: Bool { record.hasUndo && keptByteCount != nil }

    package var verdict: Verdict {
        let state = CopyState(rawValue: record.copyState) ?? .initialized
        guard record.isSecondSource != isSecondHere else {
            return .refused(
                "the element that is here is the pair's source, whose hosts have been served by the other one since"
            )
        }
        guard state != .initialized, state != .prepared, state != .failedover, state != .invalid,
            state == .synchronized || record.isTargetConsistent || isKept
        else {
            return .refused(
                "the replica is no usable image: the pair was \(state.name) when its source last told of it"
            )
        }
        if !record.isTargetConsistent, isKept, state != .synchronized {
            let count = OperationWords.bytes(keptByteCount ?? 0)
            return .needsForce(
                "the pair was \(state.name), and the copy is taken back (\(count)): the replica lacks what hosts have written since before it"
            )
        }
        guard state == .synchronized else {
            return .needsForce("the pair was \(state.name), and the replica lacks what hosts have written since")
        }
        switch mode {
        case .synchronous: return .accepted
        case .asynchronous:
            return .needsForce(
                "the pair is Asynchronous, and the replica may lack the last that hosts were told is written"
            )
        case nil:
            return .needsForce(
                "the source has not told whether the pair is Synchronous; otherwise the replica may lack the last that hosts wrote"
            )
        }
    }
}
