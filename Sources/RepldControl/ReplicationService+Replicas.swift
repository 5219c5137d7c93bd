internal import Foundation
internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair
internal import SystemPackage

/// Volumes of this host that are the other elements of peers' pairs
///
/// Hosts cannot use such a volume: only the peer writes it. What was made here for a pair whose making failed at the source
/// is ended by the source; where that cannot tell it, it stays and is listed, and a forced Detach ends it here.
extension ReplicationService {
    /// Makes a volume the replica of a peer's pair; answers its geometry.
    ///
    /// The same pair again is answered again: the first answer may have been lost.
    func associate(
        _ message: AssociateMessage,
        from host: PairID
    ) async throws(ControlError) -> RemoteGeometry {
        guard message.host == host.description, host != hostID, let id = PairID(message.pair) else {
            throw ControlError(.invalidRequest, "the host that asks is not the one that it says it is")
        }
        // So that operations that are asked for here find the way to the source. A peer that is stuck must not hold it up.
        if registry.content.peer(ofHost: message.host) == nil { await identifyPeers(onlyUnknown: true) }
        let subjects = ["volume \(message.volume)", "pair \(message.name)", "pair id \(id)"]
        var begun: [String] = []
        defer { for subject in begun { end(on: subject) } }
        for subject in subjects {
            try begin("associate pair '\(message.name)' of a peer", on: subject)
            begun.append(subject)
        }
        let volume = try volumeEntry(named: message.volume)
        if let reason = volumes[volume.number]?.failure {
            throw ControlError(.volumeNotServed, "volume '\(volume.name)' is not served: \(reason)")
        }
        if let known = registry.content.replica(id) { return try await geometry(of: known, volume, message) }
        try checkFree(volume, message, id)
        let geometry = try await checkFits(volume, message)
        try state.beginReplica(id)
        var entry = ReplicaEntry(
            pair: id,
            name: message.name,
            volumeNumber: volume.number,
            hostID: message.host,
            sourceVolume: message.sourceVolume,
            sourceByteCount: message.byteCount,
            granuleByteCount: message.granuleByteCount,
            createdAt: Date()
        )
        entry.mode = message.mode ?? .synchronous
        do {
            try await plane.addReplica(opening(of: entry, id))
        } catch {
            try? state.removeReplica(id)
            throw Self.controlError(error, "volume '\(volume.name)' cannot become a replica")
        }
        do {
            try registry.commit { [entry] in $0.replicas.append(entry) }
        } catch {
            try? await plane.removeReplica(id)
            try? state.removeReplica(id)
            throw error
        }
        let words = "the volume is the replica of volume '\(message.sourceVolume)' of \(peerName(ofHost: host)) now"
        record("replica-added", volume: volume.name, pair: entry.name, message: words, level: .notice)
        return geometry
    }

    /// Ends a replica whose pair is no more; one that is not known is fine.
    func dissociate(_ message: DissociateMessage, from host: PairID) async throws(ControlError) {
        let found = PairID(message.pair).flatMap { registry.content.replica($0) }
        guard let entry = found, entry.hostID == host.description else { return }
        try await endReplica(entry, because: "\(peerName(ofHost: host)) has ended the pair")
    }

    /// Gives the volume of a replica back to this host.
    ///
    /// The registry is the commit point; what comes after is done again by the next start if need be.
    func endReplica(_ entry: ReplicaEntry, because words: String) async throws(ControlError) {
        let volume = registry.content.volume(entry.volumeNumber)
        let subjects = ["volume \(volume?.name ?? "")", "pair \(entry.name)"]
        var begun: [String] = []
        defer { for subject in begun { end(on: subject) } }
        for subject in subjects {
            try begin("end of pair '\(entry.name)'", on: subject)
            begun.append(subject)
        }
        guard let id = entry.id, registry.content.replica(id) != nil else { return }
        let isImage = await isUsableImage(entry, id)
        let resting = volume.map { registry.content.pairs(of: $0).filter(\.isResting) } ?? []
        try registry.commit { content in
            content.replicas.removeAll { $0.pair == entry.pair }
            for index in content.pairs.indices where content.pairs[index].volumeNumber == entry.volumeNumber {
                // A mixture is not copied over what may be the last good image without anybody's word.
                if !isImage { content.pairs[index].isResting = false }
            }
        }
        var trouble: ControlError?
        if volumes[entry.volumeNumber]?.failure == nil {
            do {
                try await plane.removeReplica(id)
            } catch {
                trouble = Self.controlError(error, "pair '\(entry.name)' is ended, but the peer may still write")
            }
        }
        if let volume, trouble == nil { await resumeResting(of: volume) }
        for pair in resting where !isImage { noteNotResumed(pair, volume) }
        do {
            try state.removeReplica(id)
        } catch {
            logger.warning("metadata of an ended replica is left over", metadata: ["reason": "\(error)"])
        }
        record(
            "replica-ended",
            volume: volume?.name,
            pair: entry.name,
            message: "the volume is this host's own again: \(words)",
            level: .notice
        )
        if let trouble { throw trouble }
    }

    /// Whether a replica holds a point in time, and not what a copy has left half done.
    private func isUsableImage(_ entry: ReplicaEntry, _ id: PairID) async -> Bool {
        guard let record = (try? await planeStatus())?.replicas.first(where: { $0.pair == id })?.record else {
            return false
        }
        guard record.isSecondSource == entry.isSecondHere else {
            return record.copyState == CopyState.synchronized.rawValue || record.isTargetConsistent
        }
        // The source by its role, which a failback or a restore writes.
        let writing: [ReplicationOperation] = [.failback, .restoreFromReplica]
        return !record.isSourceInconsistent && !writing.contains { $0.rawValue == record.operation }
    }

    /// Gives the volume of a replica, which has just been opened, to the peer; where that fails, it is not served at all.
    func attach(_ entry: ReplicaEntry, to volume: VolumeEntry) async throws(ControlError) -> Bool {
        guard let id = entry.id else { return true }
        do {
            try await plane.addReplica(opening(of: entry, id))
            return true
        } catch {
            // Hosts that wrote to it would part it from its source, and nobody would know.
            let reason = "it is the replica of pair '\(entry.name)', and cannot be given to the peer: \(error)"
            try await takeAway(volume, because: reason)
            fail(volume, reason)
            return false
        }
    }

    func checkIsNoReplica(_ volume: VolumeEntry, _ what: String) throws(ControlError) {
        guard let replica = registry.content.replica(of: volume) else { return }
        throw ControlError(
            .volumeIsReplica,
            "volume '\(volume.name)' \(what): it is the replica of pair '\(replica.name)'",
            suggestion: "end the pair first: 'replctl set \(replica.name) Detach'"
        )
    }

    /// How people know a host.
    func peerName(ofHost host: PairID) -> String {
        registry.content.peer(ofHost: host.description).map { "peer '\($0.name)'" } ?? "host \(host)"
    }

    func opening(of entry: ReplicaEntry, _ id: PairID) -> ReplicaOpening {
        ReplicaOpening(
            volume: VolumeID(rawValue: entry.volumeNumber),
            pair: id,
            name: entry.name,
            metadata: state.replicaMetadata(of: id),
            undoPath: state.keptPath(of: id).string,
            granuleByteCount: entry.granuleByteCount
        )
    }

    /// What was answered before, where the same is asked again.
    private func geometry(
        of known: ReplicaEntry,
        _ volume: VolumeEntry,
        _ message: AssociateMessage
    ) async throws(ControlError) -> RemoteGeometry {
        guard known.hostID == message.host, known.volumeNumber == volume.number, known.name == message.name else {
            throw ControlError(
                .elementInUse,
                "pair \(known.pair) is known here as '\(known.name)', with another volume"
            )
        }
        return try await checkFits(volume, message, countsClients: false)
    }

    private func checkFree(_ volume: VolumeEntry, _ message: AssociateMessage, _ id: PairID) throws(ControlError) {
        // It names files here.
        if let pair = registry.content.pair(id) {
            throw ControlError(.elementInUse, "pair \(id) is known here as '\(pair.name)', which has its source here")
        }
        try checkIsNoReplica(volume, "cannot become a replica")
        if let pair = registry.content.pairs(of: volume).first {
            throw ControlError(.volumeHasPairs, "volume '\(volume.name)' is the source of pair '\(pair.name)'")
        }
        if volume.isReadOnly {
            throw ControlError(.invalidSettings, "volume '\(volume.name)' is read-only, and a replica is written")
        }
        let name = message.name
        if registry.content.pair(named: name) != nil || registry.content.replica(named: name) != nil {
            throw ControlError(.nameInUse, "there is a pair '\(name)' already", suggestion: "choose another --name")
        }
    }

    /// The geometry of a volume that can be the replica of one of that size.
    private func checkFits(
        _ volume: VolumeEntry,
        _ message: AssociateMessage,
        countsClients: Bool = true
    ) async throws(ControlError) -> RemoteGeometry {
        let served = try await planeStatus().volumes.first { $0.id == volume.id }
        guard let served, var geometry = volumes[volume.number]?.geometry else {
            throw ControlError(.volumeNotServed, "volume '\(volume.name)' is not served")
        }
        if countsClients, served.connectionCount > 0 {
            throw ControlError(
                .volumeInUse,
                "volume '\(volume.name)' has \(served.connectionCount) clients, and a replica can have none",
                suggestion: "disconnect them there"
            )
        }
        guard served.byteCount >= message.byteCount else {
            throw ControlError(
                .invalidSettings,
                "volume '\(volume.name)' has \(served.byteCount) bytes, the source \(message.byteCount)",
                suggestion: "the replica must be at least as large as the source"
            )
        }
        guard served.blockByteCount <= message.blockByteCount else {
            throw ControlError(
                .invalidSettings,
                "volume '\(volume.name)' has blocks of \(served.blockByteCount) bytes, the source of \(message.blockByteCount)",
                suggestion: "the replica's blocks must not be larger than the source's"
            )
        }
        geometry.byteCount = served.byteCount
        geometry.logicalBlockByteCount = served.blockByteCount
        return RemoteGeometry(geometry)
    }
}

/// What is shown of a replica
extension ReplicationService {
    func reply(for entry: ReplicaEntry, _ status: EngineStatus) -> PairReply {
        let volume = registry.content.volume(entry.volumeNumber)
        let found = status.replicas.first { $0.pair == entry.id }
        let peer = registry.content.peer(ofHost: entry.hostID)
        let name = peer?.name ?? entry.hostID
        let connection = connection(to: peer, status)
        let isConnected = found?.isConnected ?? false
        let record = found?.record
        // Without a word of the source, the pair is as it was made.
        let copyState = record.flatMap { CopyState(rawValue: $0.copyState) } ?? .initialized
        var settings = PairSettings()
        settings.granuleByteCount = entry.granuleByteCount
        // By their roles: after a Failover the source is the one that does not serve.
        let isOwnSource = record.map { $0.isSecondSource == entry.isSecondHere } ?? false
        let remotePath = RemoteVolumeText.text(peer: name, volume: entry.sourceVolume)
        let ownPath = volume?.elementPath ?? ""
        var reply = PairReply(
            name: entry.name,
            id: entry.pair,
            sourceVolume: entry.sourceVolume,
            sourcePath: isOwnSource ? ownPath : remotePath,
            targetPath: isOwnSource ? remotePath : ownPath,
            copyState: Enumerated(copyState),
            progressStatus: Enumerated(ProgressStatus.notApplicable),
            reason: volumes[entry.volumeNumber]?.failure,
            revision: 0,
            byteCount: record?.volumeByteCount ?? entry.sourceByteCount,
            settings: PairSettingsReply(
                granuleByteCount: settings.granuleByteCount,
                targetTimeoutSeconds: Double(settings.targetTimeoutNanoseconds) / 1e9,
                copyDepth: settings.copyDepth,
                keepsUndo: settings.keepsUndo
            ),
            createdAt: entry.createdAt
        )
        reply.undoByteCount = found?.keptByteCount
        if let operation = record.flatMap({ ReplicationOperation(rawValue: $0.operation) }) {
            reply.operation = Enumerated(operation)
            reply.requestedCopyState = Self.requestedCopyState(PairFacts(copyState: copyState, operation: operation))
        }
        reply.role = .replica
        if record != nil { reply.servingPath = remotePath }
        if let mode = entry.mode { reply.mode = Enumerated(mode) }
        reply.peer = PairPeerReply(
            name: name,
            volume: entry.sourceVolume,
            isConnected: isConnected,
            reason: isConnected ? nil : connection.reason ?? "it has not asked for the replica yet"
        )
        if reply.reason == nil, !isConnected {
            let last = record == nil ? "it has told nothing yet" : "this is what it told last"
            reply.reason = "the source is not connected (\(reply.peer?.reason ?? "")); \(last)"
        } else if reply.reason == nil, record == nil {
            reply.reason = "the source has told nothing yet"
        }
        return reply
    }
}
