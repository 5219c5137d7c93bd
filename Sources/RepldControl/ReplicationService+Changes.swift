package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
package import RepldPair

/// What has changed since the elements of a pair were equal
extension ReplicationService {
    /// The next runs in which the elements of a pair may differ.
    package func changes(
        ofPair name: String,
        by side: ChangedSide = .both,
        from offset: UInt64 = 0,
        limit: Int = PairChangesReply.runLimit
    ) async throws(ControlError) -> PairChangesReply {
        let entry = try pairEntry(named: name)
        let what = "cannot say where the elements of pair '\(name)' differ"
        if let failure = pairs[entry.id]?.failure {
            throw ControlError(
                .elementUnavailable,
                "\(what): \(failure)",
                suggestion: "mend that; 'replctl pair show \(name)' says how it stands"
            )
        }
        let query = ChangesQuery(side: side, offset: offset, runLimit: limit)
        let changes: PairChanges
        do {
            changes = try await plane.changes(entry.id, query)
        } catch {
            throw Self.controlError(error, what)
        }
        return PairChangesReply(
            name: entry.name,
            side: side.name,
            copyState: Enumerated(changes.copyState),
            byteCount: changes.volumeByteCount,
            granuleByteCount: changes.granuleByteCount,
            runs: changes.runs.map { ChangedRun(offset: $0.offset, length: $0.length) },
            nextOffset: changes.nextOffset
        )
    }
}
