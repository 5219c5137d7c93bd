internal import Foundation
internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// Pairs of this host that their peer has taken over: this side becomes the replica
///
/// Everything may be done again: until the registry has the replica, the next start begins anew.
extension ReplicationService {
    /// The peer says that it has a pair, and says so again and again.
    func followTakeOver(_ id: PairID) async {
        guard let entry = registry.content.pair(id), let remote = entry.remote, !moves.contains(id),
            let volume = registry.content.volume(entry.volumeNumber),
            let peer = registry.content.peer(named: remote.peer)
        else { return }
        if let reason = await reasonNotToFollow(entry, volume) {
            return noteTrouble("peer '\(peer.name)' has taken pair '\(entry.name)' over; \(reason)", of: entry)
        }
        let what = "the move of pair '\(entry.name)'"
        let subjects = ["volume \(volume.name)", "pair \(entry.name)"]
        var begun: [String] = []
        defer { for subject in begun { end(on: subject) } }
        for subject in subjects {
            // It is told again.
            do { try begin(what, on: subject) } catch { return }
            begun.append(subject)
        }
        moves.insert(id)
        defer { moves.remove(id) }
        do throws(ControlError) {
            let record = try await tellChanges(of: entry, volume, peer)
            try await becomeReplica(entry, volume, record)
        } catch {
            guard error.code != .stopping else { return }
            noteTrouble(
                "peer '\(peer.name)' has taken pair '\(entry.name)' over, and this side is not its replica yet: \(error)",
                of: entry
            )
        }
    }

    /// Tells the peer that has a pair where this side's element may differ; answers the record that it has.
    func tellChanges(
        of entry: PairEntry,
        _ volume: VolumeEntry,
        _ peer: PeerEntry
    ) async throws(ControlError) -> PairRecord {
        let what = "the changes of pair '\(entry.name)' cannot be told"
        // Hosts are gone already: before, nobody is told that the peer has taken over, or settles.
        let (extents, unitByteCount) = try await allChanges(of: entry, what)
        let facts: PairFacts?
        do {
            facts = try await plane.status().volumes.lazy.flatMap(\.pairs).first { $0.id == entry.id }?.facts
        } catch {
            throw Self.controlError(error, what)
        }
        guard let facts else { throw ControlError(.pairNotFound, "\(what): the data plane does not have it") }
        let telling = UInt64.random(in: 1...UInt64.max)
        var packer = DifferencesPacker(extents, unitByteCount: unitByteCount)
        while let piece = packer.next() {
            _ = try await ask(peer, DifferencesMessage(pair: entry.id, telling: telling, piece))
        }
        let now = registry.content.pair(entry.id) ?? entry
        var message = MeetMessage(
            record: try lastRecord(of: entry, volume, what),
            isAhead: facts.isSourceAhead || now.mode == .asynchronous && !extents.isEmpty,
            telling: telling,
            differingUnitCount: packer.differingUnitCount,
            geometry: try await ownGeometry(of: volume)
        )
        message.recoveryPointNanoseconds = now.recoveryPointNanoseconds
        message.recoversByItself = now.settings.recoversByItself ? nil : false
        let answer = try await ask(peer, message)
        guard let record = answer.record.flatMap({ PeerMessages.record(in: $0, of: entry.id) }) else {
            throw ControlError(.refused, "peer '\(peer.name)' has answered without a record")
        }
        return record
    }

    /// All that may differ, in disk order, and the unit of it in bytes.
    private func allChanges(
        of entry: PairEntry,
        _ what: String
    ) async throws(ControlError) -> (extents: [Extent], unitByteCount: UInt64) {
        var extents: [Extent] = []
        var unit = UInt64(entry.settings.granuleByteCount)
        var offset: UInt64? = 0
        while let start = offset {
            let page: PairChanges
            do { page = try await plane.changes(entry.id, ChangesQuery(offset: start)) } catch {
                throw Self.controlError(error, what)
            }
            unit = page.granuleByteCount
            extents += page.runs
            offset = page.nextOffset
            let limit = DifferencesTelling.extentLimit
            // Not page by page: each time looks at all of them.
            if extents.count >= 2 * limit || offset == nil {
                extents = CoarseExtents.joined(extents, limit: limit)
            }
        }
        return (extents, unit)
    }

    /// The last record of a pair that is durable here.
    private func lastRecord(
        of entry: PairEntry,
        _ volume: VolumeEntry,
        _ what: String
    ) throws(ControlError) -> PairRecord {
        switch try state.readMetadata(of: entry) {
        case .found(let record), .older(let record, _):
            guard record.pair == entry.id else { break }
            return record
        case .blank, .lost: break
        }
        throw ControlError(
            .stateDirectory,
            "\(what): its record in \(state.metadataPlace(of: entry)) cannot be read",
            suggestion:
                "'replctl set \(entry.name) Detach --force' makes volume '\(volume.name)' this host's own, and is needed there as well"
        )
    }

    /// Makes this side of a pair that the peer has the replica; the registry is the commit point.
    func becomeReplica(_ entry: PairEntry, _ volume: VolumeEntry, _ record: PairRecord) async throws(ControlError) {
        guard let remote = entry.remote, registry.content.pair(entry.id) != nil else { return }
        try state.beginReplica(entry.id, record)
        var replica = ReplicaEntry(
            pair: entry.id,
            name: entry.name,
            volumeNumber: entry.volumeNumber,
            hostID: remote.hostID,
            sourceVolume: remote.volume,
            sourceByteCount: record.volumeByteCount,
            granuleByteCount: entry.settings.granuleByteCount,
            createdAt: entry.createdAt
        )
        replica.isSecondHere = entry.isSecondHere
        replica.mode = registry.content.pair(entry.id)?.mode
        let flowing = await othersThatFlow(besides: entry, of: volume)
        try registry.commit { [replica] content in
            content.pairs.removeAll { $0.id == entry.id }
            content.replicas.append(replica)
            for index in content.pairs.indices where flowing.contains(content.pairs[index].id) {
                content.pairs[index].isResting = true
            }
        }
        pairs[entry.id] = nil
        moveTroubles[entry.id] = nil
        takenOverPairs.remove(entry.id)
        // Before the data plane hears that the pair ends, and with it what is under way.
        for job in jobs.running(of: entry.id) {
            let isMove = job.operation.map { Self.moving.contains($0) } ?? false
            if isMove {
                end(job, .completed)
            } else {
                end(job, .terminated, code: .failed, "the pair has moved to a peer")
            }
        }
        do {
            try await plane.keepAway(volume.id)
            try await plane.detachPair(entry.id)
            try await plane.addReplica(opening(of: replica, entry.id))
            noteResting(of: volume)
        } catch {
            await reopen(volume, because: "the replica of pair '\(entry.name)' cannot be attached: \(error)")
        }
        do {
            try state.removeFiles(of: entry)
        } catch {
            logger.warning("metadata of a pair that has moved is left over", metadata: ["reason": "\(error)"])
        }
        let words = "\(remote.text) serves hosts now, and volume '\(volume.name)' is its replica"
        self.record("pair-moved", volume: volume.name, pair: entry.name, message: words, level: .notice)
    }

    /// The operations that move a pair to a peer.
    static var moving: Set<ReplicationOperation> { [.failover, .failback, .reverseRoles] }

    /// Takes a volume away from the data plane and opens it again as the registry has it now, as a start does.
    func reopen(_ volume: VolumeEntry, because words: String) async {
        record("volume-reopened", volume: volume.name, message: words, level: .warning)
        let now = registry.content.volume(volume.number) ?? volume
        do {
            let status = try await plane.status()
            if status.volumes.contains(where: { $0.id == volume.id }) { try await plane.keepAway(volume.id) }
            for replica in status.replicas where replica.volume == volume.id {
                try await plane.removeReplica(replica.pair)
            }
            try await takeAway(now, because: words)
            try await open(now)
        } catch {
            fail(now, "\(words); it cannot be opened again: \(error)")
        }
    }
}
