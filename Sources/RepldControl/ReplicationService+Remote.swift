internal import Foundation
internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// Pairs of this host whose target is a peer's volume
extension ReplicationService {
    /// How often a peer is asked for its volume whose answer was lost.
    private static var associateAttempts: Int { 2 }

    /// Pairs a served volume with a peer's: the peer first, then as with an element of this host.
    ///
    /// What the peer has made is ended there when a later step fails here.
    func createRemotePair(
        _ request: PairCreateRequest,
        named name: String,
        of volume: VolumeEntry,
        for caller: Caller
    ) async throws(ControlError) -> PairReply {
        let (peer, remoteVolume) = try remoteTarget(of: request)
        var settings = try pairSettings(for: request)
        if let text = request.copyRecoveryMode {
            settings.recoversByItself = try Self.recoveryMode(text) == .automatic
        }
        guard let served = try await planeStatus().volumes.first(where: { $0.id == volume.id }) else {
            throw ControlError(.volumeNotServed, "volume '\(volume.name)' is not served")
        }
        let id = Self.newPairID()
        let message = AssociateMessage(
            pair: id,
            name: name,
            host: hostID,
            sourceVolume: volume.name,
            byteCount: served.byteCount,
            blockByteCount: served.blockByteCount,
            granuleByteCount: settings.granuleByteCount,
            volume: remoteVolume
        )
        var entry = PairEntry(
            id: id,
            name: name,
            volumeNumber: volume.number,
            targetPath: RemoteVolumeText.text(peer: peer.name, volume: remoteVolume),
            settings: settings,
            createdAt: Date(),
            revisionLimit: 1 + Self.revisionBlock
        )
        try Self.takeMode(of: request, into: &entry)
        entry.remote = try await askForReplica(message, peer)
        do {
            if request.metadata == .internal {
                let overwrites = request.overwritesMetadata ?? false
                entry.internalMetadata = try await internalPlace(for: entry, of: volume, overwrites: overwrites)
            }
            try await associate(entry, with: volume, aspect(of: volume.elementPath, entry.targetPath))
            await resumeMode(of: entry)
        } catch {
            var error = error
            if let left = await endAtPeer(id, name, peer) { error.status.message += "; \(left)" }
            throw error
        }
        if request.activates ?? true { try await startFirstCopy(of: entry, caller) }
        return try await pair(named: name)
    }

    /// The peer and its volume that a request names, where it may be a pair's target.
    private func remoteTarget(of request: PairCreateRequest) throws(ControlError) -> (PeerEntry, String) {
        guard let target = RemoteVolumeText(request.targetPath) else {
            throw ControlError(
                .invalidRequest,
                "targetPath: found '\(request.targetPath)', expected \(RemoteVolumeText.expectation)"
            )
        }
        if let fault = ObjectName.fault(of: target.volume) { throw ControlError(.invalidName, fault) }
        if request.createsTarget ?? false {
            throw ControlError(
                .invalidRequest,
                "the target is a peer's volume, which cannot be made from here",
                suggestion: "make it there: 'replctl volume add \(target.volume) --element PATH --create SIZE'"
            )
        }
        let peer = try peerEntry(at: target.address)
        let text = RemoteVolumeText.text(peer: peer.name, volume: target.volume)
        if let pair = registry.content.pairs.first(where: { $0.targetPath == text }) {
            throw ControlError(.elementInUse, "\(text) is the target of pair '\(pair.name)' already")
        }
        return (peer, target.volume)
    }

    /// Asks for the volume, once more where the answer was lost.
    private func askForReplica(
        _ message: AssociateMessage,
        _ peer: PeerEntry
    ) async throws(ControlError) -> RemoteTarget {
        var attempt = 1
        while true {
            do throws(ControlError) {
                let answer = try await ask(peer, message)
                guard let geometry = answer.geometry else {
                    throw ControlError(.refused, "peer '\(peer.name)' has not said what its volume is like")
                }
                return RemoteTarget(peer: peer.name, volume: message.volume, hostID: answer.host, geometry: geometry)
            } catch {
                attempt += 1
                if error.code == .noAnswer, attempt <= Self.associateAttempts { continue }
                let mayBeMade = error.code == .noAnswer || error.code == .refused
                guard mayBeMade, let id = PairID(message.pair) else { throw error }
                var error = error
                if let left = await endAtPeer(id, message.name, peer) { error.status.message += "; \(left)" }
                throw error
            }
        }
    }

    /// Tells a peer that a pair is no more; in words what is left to do there, where it could not be told.
    private func endAtPeer(_ id: PairID, _ name: String, _ peer: PeerEntry) async -> String? {
        do {
            _ = try await ask(peer, DissociateMessage(pair: id))
            return nil
        } catch {
            logger.warning("a peer was not told that a pair is no more", metadata: ["reason": "\(error)"])
            return """
                peer '\(peer.name)' was not told that pair '\(name)' is no more (\(error.message)): where 'replctl pair ls' lists \
                it on that host, say there 'replctl set \(name) Detach --force', and its volume is its own again
                """
        }
    }

    /// Before a pair is remembered: its peer may have been forgotten while the pair was made.
    func checkPeerStays(of entry: PairEntry) throws(ControlError) {
        guard let remote = entry.remote, registry.content.peer(named: remote.peer) == nil else { return }
        throw ControlError(.peerNotFound, "peer '\(remote.peer)' was removed meanwhile")
    }

    /// Before a mode holds: the replica's host goes by it when it is to fail over without being able to ask.
    func tellMode(_ mode: ReplicationMode, of entry: PairEntry) async throws(ControlError) {
        guard let remote = entry.remote, let peer = registry.content.peer(named: remote.peer) else { return }
        do {
            _ = try await ask(peer, ModeMessage(pair: entry.id, mode: mode))
        } catch {
            // A replica that takes a pair for Asynchronous asks for force where none is needed.
            if mode == .synchronous { return }
            var error = error
            error.status.message =
                "the mode of pair '\(entry.name)' cannot become \(mode.name) without the replica's host: \(error.message)"
            throw error
        }
    }

    /// Before a pair is ended: its peer should hear of it.
    func checkPeerListens(_ entry: PairEntry, _ operation: ReplicationOperation, isForced: Bool)
        async throws(ControlError)
    {
        guard let remote = entry.remote, !isForced else { return }
        let connection = connection(to: registry.content.peer(named: remote.peer), try await planeStatus())
        if connection.isConnected { return }
        throw ControlError(
            .needsForce,
            """
            \(operation.name) of pair '\(entry.name)' needs force: peer '\(remote.peer)' is not connected \
            (\(connection.reason ?? "")), and its volume '\(remote.volume)' would stay a replica until 'replctl set \
            \(entry.name) Detach --force' is said there
            """,
            suggestion: "wait until 'replctl peer ls' shows it connected, or say --force"
        )
    }

    /// After a pair was ended: tells its peer, and answers with what is left to do there.
    func release(_ entry: PairEntry, _ reply: MethodReply = MethodReply(returnCode: .success)) async -> MethodReply {
        guard let remote = entry.remote, let peer = registry.content.peer(named: remote.peer) else { return reply }
        guard let left = await endAtPeer(entry.id, entry.name, peer) else { return reply }
        var reply = reply
        let former = reply.extendedStatus.map { "\($0.message); " } ?? ""
        let status = ExtendedStatus(code: "replica-left", message: "\(former)\(left)")
        record("replica-left", pair: entry.name, message: left, level: .warning)
        reply.extendedStatus = status
        return reply
    }

    /// The other host of a pair, as it is shown.
    func peerReply(of entry: PairEntry, _ status: EngineStatus) -> PairPeerReply? {
        guard let remote = entry.remote else { return nil }
        let connection = connection(to: registry.content.peer(named: remote.peer), status)
        return PairPeerReply(
            name: remote.peer,
            volume: remote.volume,
            isConnected: connection.isConnected,
            reason: connection.reason
        )
    }
}
