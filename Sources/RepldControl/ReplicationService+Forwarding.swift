internal import RepldControlAPI
internal import RepldCore
internal import RepldPair

/// Operations that are asked of the host that has a pair's replica
extension ReplicationService {
    /// Lets the source's daemon carry an operation out, and answers with its reply.
    ///
    /// Nothing is claimed here meanwhile: an operation that ends the pair has the source's daemon ask for the end of the replica.
    func forward(
        _ request: SetReplicationRelationshipRequest,
        of entry: ReplicaEntry,
        for caller: Caller
    ) async throws(ControlError) -> MethodReply {
        let operation = try Self.operation(request.operation)
        let wanted = try request.waitForCopyState.map { text throws(ControlError) in
            try Self.copyState(text, field: "waitForCopyState")
        }
        let deadline = try Self.deadline(request.timeoutSeconds)
        let reply: MethodReply
        do throws(ControlError) {
            let peer = try await sourcePeer(of: entry)
            let answer = try await ask(peer, OperateMessage(pair: entry.pair, by: caller.name, request))
            guard let found = answer.reply else {
                throw ControlError(.refused, "peer '\(peer.name)' has not said what became of \(operation.name)")
            }
            reply = found
        } catch {
            let done = try await operateAlone(operation, on: entry, request, because: error)
            guard let wanted, done.plan == nil, let moved = entry.id.flatMap({ registry.content.pair($0) }) else {
                return done
            }
            try await wait(for: wanted, of: moved, until: deadline, job: nil)
            return done
        }
        let isEnd = operation == .detach || operation == .dissolve
        guard let wanted, reply.plan == nil, !isEnd else { return reply }
        try await waitForSource(wanted, of: entry, until: deadline, job: reply.job)
        return MethodReply(returnCode: .success, job: reply.job, extendedStatus: reply.extendedStatus)
    }

    /// What can be done of an operation without the source: where its daemon cannot be asked, or knows nothing of the pair.
    ///
    /// This is the place of all operations that a replica's host may carry out by itself.
    private func operateAlone(
        _ operation: ReplicationOperation,
        on entry: ReplicaEntry,
        _ request: SetReplicationRelationshipRequest,
        because error: ControlError
    ) async throws(ControlError) -> MethodReply {
        let isAway = try await isSourceAway(operation, of: entry, because: error)
        guard isAway || error.code == .pairNotFound else { throw error }
        let what = "\(operation.name) of pair '\(entry.name)'"
        if operation == .failover, isAway { return try await failOverAlone(entry, request, because: error) }
        guard operation == .detach, !(request.plan ?? false) else {
            var refusal = ControlError(
                error.code,
                "\(what) is the source's to carry out: \(error.message)",
                suggestion: isAway
                    ? "ask when it is connected, or on its host"
                    : "'replctl set \(entry.name) Detach --force' here makes the volume this host's own again"
            )
            refusal.status.copyState = try await reply(for: entry, planeStatus()).copyState
            throw refusal
        }
        guard request.force ?? false else {
            throw ControlError(
                .needsForce,
                """
                \(what) needs force here: \(error.message); the volume would be this host's own again, with what it holds now, and \
                the source could not go on with it
                """,
                suggestion: isAway
                    ? "detach on the source's host, or say --force" : "say --force if that may be"
            )
        }
        try await endReplica(entry, because: "it was detached here by force")
        let left = isAway ? "; where the pair is still there on the source's host, detach it there as well" : ""
        let words = "the volume is this host's own again\(left)"
        return MethodReply(
            returnCode: .success,
            extendedStatus: ExtendedStatus(code: "replica-ended", message: words)
        )
    }

    /// Whether the source's daemon cannot be asked.
    ///
    /// A Failover is asked for when that host dies, and often over a connection that is dead already and not known to be. Asking
    /// again would find it closed; whoever asked need not.
    private func isSourceAway(
        _ operation: ReplicationOperation,
        of entry: ReplicaEntry,
        because error: ControlError
    ) async throws(ControlError) -> Bool {
        if error.code == .peerNotConnected || error.code == .peerNotFound { return true }
        guard error.code == .noAnswer, operation == .failover else { return false }
        return try await !connection(to: registry.content.peer(ofHost: entry.hostID), planeStatus()).isConnected
    }

    /// The peer that has the source; peers that have not said who they are are asked.
    func sourcePeer(of entry: ReplicaEntry) async throws(ControlError) -> PeerEntry {
        if let peer = registry.content.peer(ofHost: entry.hostID) { return peer }
        await identifyPeers()
        if let peer = registry.content.peer(ofHost: entry.hostID) { return peer }
        throw ControlError(
            .peerNotFound,
            "no peer that is known here has the source of pair '\(entry.name)' (host \(entry.hostID))",
            suggestion: "'replctl peer add' with the address of its host makes it known"
        )
    }

    /// Asks again and again for a copy state, where the pair is then; each question is held back there for a while.
    func waitForSource(
        _ wanted: CopyState,
        of entry: ReplicaEntry,
        until deadline: ContinuousClock.Instant?,
        job: String?
    ) async throws(ControlError) {
        let peer = try await sourcePeer(of: entry)
        while true {
            if let moved = entry.id.flatMap({ registry.content.pair($0) }) {
                return try await wait(for: wanted, of: moved, until: deadline, job: job)
            }
            let left = deadline.map { max($0 - .now, .zero) } ?? PeerMessages.awaitLimit
            let limit = min(left, PeerMessages.awaitLimit)
            let message = AwaitMessage(
                pair: entry.pair,
                copyState: .number(Int(wanted.rawValue)),
                job: job,
                milliseconds: UInt32(limit / .milliseconds(1))
            )
            do throws(ControlError) {
                _ = try await ask(peer, message)
                return
            } catch {
                let isOver = deadline.map { $0 <= .now } ?? false
                if error.code != .timeout || isOver || Task.isCancelled { throw error }
            }
        }
    }

    /// Refuses what only the source's daemon can say or do.
    func checkIsSource(_ name: String) throws(ControlError) {
        guard let entry = registry.content.replica(named: name) else { return }
        let peer = registry.content.peer(ofHost: entry.hostID)?.name ?? entry.hostID
        throw ControlError(
            .notSupported,
            "pair '\(name)' has its source at peer '\(peer)'; here is its replica",
            suggestion: "ask there; operations ('replctl set') may be asked here as well"
        )
    }
}
