internal import Foundation
internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// Failover on the replica's host while the source cannot be asked
extension ReplicationService {
    func failOverAlone(
        _ entry: ReplicaEntry,
        _ request: SetReplicationRelationshipRequest,
        because error: ControlError
    ) async throws(ControlError) -> MethodReply {
        let what = "Failover of pair '\(entry.name)'"
        // Without a peer nothing could be copied back.
        let peer = try await sourcePeer(of: entry)
        guard let id = entry.id, let volume = registry.content.volume(entry.volumeNumber) else {
            throw ControlError(.internalFailure, "pair '\(entry.name)' has no volume")
        }
        let found = try await planeStatus().replicas.first { $0.pair == id }
        guard let record = found?.record else {
            throw ControlError(
                .targetNotUsable,
                "\(what) is refused, with force as well: the source has told nothing of the pair yet",
                suggestion:
                    "'replctl set \(entry.name) Detach --force' makes the volume this host's own, with what it holds"
            )
        }
        let word = LastWord(
            record: record,
            isSecondHere: entry.isSecondHere,
            mode: entry.mode,
            keptByteCount: found?.keptByteCount
        )
        let verdict = word.verdict
        let refusal = refusal(of: verdict, what, entry, record, because: error)
        if request.plan ?? false { return MethodReply(returnCode: .success, plan: plan(verdict, record, refusal)) }
        if let refusal, refusal.code != .needsForce || !(request.force ?? false) { throw refusal }
        let subjects = ["volume \(volume.name)", "pair \(entry.name)"]
        var begun: [String] = []
        defer { for subject in begun { end(on: subject) } }
        for subject in subjects {
            try begin(what, on: subject)
            begun.append(subject)
        }
        guard registry.content.replica(id) != nil else {
            throw ControlError(.notInThisState, "\(what): the pair has just been taken over or ended")
        }
        _ = try await takeOver(
            TakingOver(replica: entry, pair: id, volume: volume, peer: peer, operation: .failover)
        )
        let outcome = await troubleServing(volume)
        let words = """
            volume '\(volume.name)' serves hosts now\(outcome). When peer '\(peer.name)' is back, it keeps its hosts away and becomes the \
            replica by itself; 'replctl set \(entry.name) Failback' then brings hosts back to it. Do not let hosts use it before
            """
        self.record("failed-over-alone", volume: volume.name, pair: entry.name, message: words, level: .warning)
        return MethodReply(
            returnCode: .success,
            extendedStatus: ExtendedStatus(code: "failed-over-alone", message: words)
        )
    }

    private func refusal(
        of verdict: LastWord.Verdict,
        _ what: String,
        _ entry: ReplicaEntry,
        _ record: PairRecord,
        because error: ControlError
    ) -> ControlError? {
        var refusal: ControlError
        switch verdict {
        case .accepted: return nil
        case .needsForce(let words):
            let heard = lastHeard(of: entry).map { "; its source was last heard of at \($0.formatted(.iso8601))" } ?? ""
            refusal = ControlError(
                .needsForce,
                """
                \(what) needs force here, where its source cannot be asked (\(error.message)): \(words)\(heard). What only the source \
                has is lost when hosts are brought back to it
                """,
                suggestion: "bring the source's host back, or say --force"
            )
        case .refused(let words):
            refusal = ControlError(
                .targetNotUsable,
                "\(what) is refused, with force as well: \(words)",
                suggestion:
                    "bring the source's host back; or 'replctl set \(entry.name) Detach --force' makes the volume this host's own"
            )
        }
        refusal.status.copyState = CopyState(rawValue: record.copyState).map { Enumerated($0) }
        return refusal
    }

    private func plan(_ verdict: LastWord.Verdict, _ record: PairRecord, _ refusal: ControlError?) -> PlanReply {
        let word: PlanVerdict =
            switch verdict {
            case .accepted: .accepted
            case .needsForce: .needsForce
            case .refused: .refused
            }
        var plan = PlanReply(
            operation: Enumerated(ReplicationOperation.failover),
            copyState: Enumerated(CopyState(rawValue: record.copyState) ?? .initialized),
            verdict: word
        )
        plan.reason = refusal?.message
        if word != .refused { plan.resultingCopyState = Enumerated(CopyState.failedover) }
        plan.remark = "the source cannot be asked; what it has that is not here is told when it is back"
        return plan
    }

    /// When the last record of the source was written down here.
    private func lastHeard(of entry: ReplicaEntry) -> Date? {
        guard let id = entry.id else { return nil }
        let path = state.replicaMetadata(of: id).path
        return (try? FileManager.default.attributesOfItem(atPath: path))?[.modificationDate] as? Date
    }
}
