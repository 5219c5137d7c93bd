internal import Foundation
internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// A replica of this host that becomes a pair of it.
struct TakingOver: Sendable {
    var replica: ReplicaEntry
    var pair: PairID
    var volume: VolumeEntry
    var peer: PeerEntry
    var operation: ReplicationOperation
    /// Of the record by which alone it may be taken over; `nil` where the source is not asked.
    var sequence: UInt64?
    var isEqual = false
    var isPeerAhead = false
    /// What the source says of the pair; `nil` where it is not asked.
    var moving: MovingPair?
}

/// Replicas of this host that take hosts over
///
///     claimed · metadata of the pair written, in a file of its own · REGISTRY · taken over · the replica's file removed
extension ReplicationService {
    /// What the source asks: answered with the record that the pair has here, or a refusal that is final where that is said.
    func answer(_ message: TakeOverMessage, from host: PairID) async -> PeerAnswer {
        do throws(ControlError) {
            return PeerAnswer(host: hostID, record: try await takeOver(message, from: host))
        } catch {
            logger.warning("a pair is not taken over", metadata: ["pair": "\(message.pair)", "reason": "\(error)"])
            var answer = PeerAnswer(host: hostID, refusal: error.reply)
            answer.isFinal = error.code != .operationInProgress
            if answer.isFinal == true, let id = PairID(message.pair) { refusedAttempts[id] = message.attempt }
            return answer
        }
    }

    private func takeOver(_ message: TakeOverMessage, from host: PairID) async throws(ControlError) -> PairRecord? {
        guard let id = PairID(message.pair) else { throw ControlError(.invalidRequest, "no pair's id") }
        let operation = try Self.operation(message.operation)
        if !message.isCheck, let entry = registry.content.pair(id) { return try taken(entry, message, from: host) }
        guard let replica = registry.content.replica(id), replica.hostID == host.description,
            let volume = registry.content.volume(replica.volumeNumber)
        else { throw ControlError(.pairNotFound, "there is no replica of pair \(id) of your host here") }
        let peer = try await peerOfSource(of: replica)
        if let reason = volumes[volume.number]?.failure {
            throw ControlError(.volumeNotServed, "volume '\(volume.name)' is not served: \(reason)")
        }
        if message.isCheck {
            try await checkOthersAreHere(volume, "\(operation.name) of pair '\(replica.name)'", isPlanned: true)
            return nil
        }
        let subjects = ["volume \(volume.name)", "pair \(replica.name)"]
        var begun: [String] = []
        defer { for subject in begun { end(on: subject) } }
        for subject in subjects {
            try begin("\(operation.name) of pair '\(replica.name)', asked by its source", on: subject)
            begun.append(subject)
        }
        if let entry = registry.content.pair(id) { return try taken(entry, message, from: host) }
        guard refusedAttempts[id] != message.attempt else {
            throw ControlError(.refused, "this attempt was refused before")
        }
        return try await takeOver(
            TakingOver(
                replica: replica,
                pair: id,
                volume: volume,
                peer: peer,
                operation: operation,
                sequence: message.sequence,
                isEqual: message.isEqual,
                isPeerAhead: message.isAhead,
                moving: message.moving
            )
        )
    }

    /// What was answered before, where the same is asked again; also where this side has taken the pair over without being asked.
    private func taken(
        _ entry: PairEntry,
        _ message: TakeOverMessage,
        from host: PairID
    ) throws(ControlError) -> PairRecord {
        let record = try state.readMetadata(of: entry).record
        guard entry.remote?.hostID == host.description, var record, record.sequence > message.sequence else {
            throw ControlError(.elementInUse, "pair \(entry.id) is known here as '\(entry.name)', and is this host's")
        }
        // It was settled, and has kept hosts away since: it has nothing to tell that this side does not take for different already.
        if message.isEqual, !entry.isPeerMet {
            try registry.commit { content in
                guard let index = content.pairs.firstIndex(where: { $0.id == entry.id }) else { return }
                content.pairs[index].isPeerMet = true
            }
        }
        // What has become of it since, its replica is told when it is opened; of a run that it was told nothing of, it keeps no record.
        record.lineage = record.lineage.toldPart
        record.sequence = message.sequence + 1
        return record
    }

    /// Takes the replica from its source; what that has sent last may still be on its way to the disk, and is waited for.
    private func claim(_ taking: TakingOver, _ what: String) async throws(ControlError) -> PairRecord {
        var attemptsLeft = Self.claimAttemptLimit
        while true {
            do {
                return try await plane.claimReplica(taking.pair, sequence: taking.sequence)
            } catch {
                attemptsLeft -= 1
                guard error.refusal == .replicaBusy, attemptsLeft > 0, !Task.isCancelled else {
                    throw Self.controlError(error, what)
                }
            }
            try? await Task.sleep(for: settings.claimPause)
        }
    }

    /// Brings a claimed replica back to what it held before a copy that was under way.
    private func takeBack(_ taking: TakingOver, _ what: String) async throws(ControlError) {
        do {
            _ = try await plane.takeBack(taking.pair)
        } catch {
            throw Self.controlError(error, "\(what): the copy that was under way cannot be taken back")
        }
        record(
            "copy-taken-back",
            volume: taking.volume.name,
            pair: taking.replica.name,
            message: "the replica holds again what it held before the copy that was under way",
            level: .warning
        )
    }

    /// With the pauses between them about 5 s.
    package static var claimAttemptLimit: Int { 100 }

    /// The peer that has the source, which becomes the pair's other element.
    private func peerOfSource(of replica: ReplicaEntry) async throws(ControlError) -> PeerEntry {
        if let peer = registry.content.peer(ofHost: replica.hostID) { return peer }
        await identifyPeers(onlyUnknown: true)
        if let peer = registry.content.peer(ofHost: replica.hostID) { return peer }
        throw ControlError(
            .peerNotFound,
            """
            no peer that is known here is host \(replica.hostID), which has the source of pair '\(replica.name)': what hosts \
            write here could not be copied back to it
            """,
            suggestion: "'replctl peer add' with the address of that host makes it known; it must listen to peers"
        )
    }

    /// Makes a replica a pair of this host, whose element serves hosts; answers with the pair's record.
    ///
    /// What throws has changed nothing. The caller has claimed the volume and the pair.
    func takeOver(_ taking: TakingOver) async throws(ControlError) -> PairRecord {
        let what = "\(taking.operation.name) of pair '\(taking.replica.name)'"
        try await checkOthersAreHere(taking.volume, what, isPlanned: taking.sequence != nil)
        let former = try await claim(taking, what)
        // A replica that a copy has half overwritten is brought back to what it held before.
        let isTakenBack = taking.operation == .failover && former.hasUndo && !former.isTargetConsistent
        var entry = entry(of: taking, former)
        let terms = TakeOverRecord.Terms(
            operation: taking.operation,
            isSecondHere: taking.replica.isSecondHere,
            isEqual: taking.isEqual,
            isPeerAhead: taking.isPeerAhead,
            granuleByteCount: entry.settings.granuleByteCount,
            generation: .fresh(),
            servingEpoch: await servingEpoch(of: taking.volume)
        )
        let fit: VolumeEntry?
        let record: PairRecord
        do throws(ControlError) {
            guard let next = TakeOverRecord.make(after: former, terms) else {
                throw ControlError(.notInThisState, "\(what) does not lead to this host's element")
            }
            record = next
            fit = try await volume(of: taking, fitFor: former)
            let opening = try opening(of: entry, isNew: true)
            do {
                try await plane.prepareTakeOver(opening, next)
            } catch {
                throw Self.controlError(error, "\(what): its metadata cannot be made")
            }
            entry.revisionLimit = Self.firstMovedRevision + Self.revisionBlock
            // Last of all that can fail: the source has to compare everything from then on.
            if isTakenBack { try await takeBack(taking, what) }
            try checkPeerStays(of: entry)
            try registry.commit { [entry] content in
                content.replicas.removeAll { $0.pair == taking.replica.pair }
                content.pairs.append(entry)
                if let fit, let index = content.volumes.firstIndex(where: { $0.number == fit.number }) {
                    content.volumes[index] = fit
                }
            }
        } catch {
            try? await plane.unclaimReplica(taking.pair)
            try? state.removeFiles(of: entry)
            throw error
        }
        await serve(taking, entry, isReshaped: fit != nil)
        var told = record
        // The area has the record in both of its blocks, and the second is the later one.
        told.sequence += 1
        return told
    }

    /// The pair is this host's, whatever comes: a start would take it up so.
    private func serve(_ taking: TakingOver, _ entry: PairEntry, isReshaped: Bool) async {
        pairs[entry.id] = PairRuntime(revision: entry.revisionLimit - Self.revisionBlock)
        if isReshaped {
            await reopen(taking.volume, because: "it takes the size that hosts know")
        } else {
            do {
                var opening = try opening(of: entry, isNew: false)
                opening.awaitsPeer = false
                try await plane.takeOver(opening, isEqual: taking.isEqual)
                await resumeMode(of: entry)
            } catch {
                await reopen(taking.volume, because: "pair '\(entry.name)' cannot be taken over as it is: \(error)")
            }
        }
        await resumeResting(of: taking.volume)
        // Also what was kept there: it has been taken back, or nobody counts on it.
        state.removeReplicaArea(taking.pair)
        let outcome = await troubleServing(taking.volume)
        record(
            "pair-taken-over",
            volume: taking.volume.name,
            pair: entry.name,
            message: "volume '\(taking.volume.name)' serves hosts now, in place of \(entry.targetPath)\(outcome)",
            level: outcome.isEmpty ? .notice : .error
        )
    }

    private func entry(of taking: TakingOver, _ record: PairRecord) -> PairEntry {
        let replica = taking.replica
        var settings = taking.moving?.settings ?? self.settings.pairDefaults
        if taking.moving == nil {
            settings.granuleByteCount = replica.granuleByteCount
            settings.copyChunkByteCount = max(settings.copyChunkByteCount, settings.granuleByteCount)
        }
        let remoteVolume = taking.moving?.volume ?? replica.sourceVolume
        let block = record.volumeBlockByteCount == 0 ? 512 : record.volumeBlockByteCount
        // Of one that cannot be asked, what its record says; it tells the rest when it is back.
        let assumed = ElementGeometry(
            byteCount: record.volumeByteCount,
            logicalBlockByteCount: block,
            physicalBlockByteCount: max(block, 4096),
            isReadOnly: false,
            canDiscard: false,
            canZeroFast: false,
            isDirect: false
        )
        var entry = PairEntry(
            id: taking.pair,
            name: replica.name,
            volumeNumber: replica.volumeNumber,
            targetPath: RemoteVolumeText.text(peer: taking.peer.name, volume: remoteVolume),
            settings: settings,
            createdAt: replica.createdAt,
            revisionLimit: Self.revisionBlock
        )
        entry.remote = RemoteTarget(
            peer: taking.peer.name,
            volume: remoteVolume,
            hostID: replica.hostID,
            geometry: taking.moving?.geometry ?? RemoteGeometry(assumed)
        )
        entry.mode = taking.moving?.mode ?? replica.mode ?? .synchronous
        entry.recoveryPointNanoseconds = taking.moving?.recoveryPointNanoseconds
        entry.times = taking.moving?.times ?? PairTimes()
        entry.isSecondHere = replica.isSecondHere
        entry.isPeerMet = taking.isEqual
        return entry
    }

    /// Hosts find the size and the blocks that they know: the volume's entry where it has others, `nil` where it has these.
    private func volume(of taking: TakingOver, fitFor record: PairRecord) async throws(ControlError) -> VolumeEntry? {
        let served = try await planeStatus().volumes.first { $0.id == taking.volume.id }
        guard let served else {
            throw ControlError(.volumeNotServed, "volume '\(taking.volume.name)' is not served")
        }
        let block = record.volumeBlockByteCount == 0 ? served.blockByteCount : record.volumeBlockByteCount
        guard served.byteCount != record.volumeByteCount || served.blockByteCount != block else { return nil }
        var fit = registry.content.volume(taking.volume.number) ?? taking.volume
        fit.byteCount = record.volumeByteCount
        fit.blockByteCount = block
        return fit
    }

    /// Revisions that no host has shown of the pair: they are counted from the milliseconds since 1970 on each time it moves.
    private static var firstMovedRevision: UInt64 { UInt64(max(Date().timeIntervalSince1970 * 1000, 0)) }

    // MARK: - The former source

    /// Takes note of a piece of where the former source's element may differ; nothing comes of it before the meeting.
    func takeNote(of message: DifferencesMessage, from host: PairID) throws(ControlError) {
        let entry = try sharedPair(message.pair, with: host)
        guard pairs[entry.id] != nil else {
            throw ControlError(.notInThisState, "pair '\(entry.name)' is not attached")
        }
        let unit = message.unitByteCount
        var telling = pairs[entry.id]?.telling ?? DifferencesTelling(number: message.telling, unitByteCount: unit)
        if telling.number != message.telling || telling.unitByteCount != unit {
            telling = DifferencesTelling(number: message.telling, unitByteCount: unit)
        }
        // Not in both places at once, or adding to it would copy all of it.
        pairs[entry.id]?.telling = nil
        guard telling.take(message.extents ?? []) else {
            throw ControlError(
                .invalidRequest,
                "pieces of what differs: expected them in disk order, with at most \(DifferencesTelling.extentLimit) extents"
            )
        }
        pairs[entry.id]?.telling = telling
    }

    /// All that was told before a meeting.
    private func told(by message: MeetMessage, of entry: PairEntry) throws(ControlError) -> [Extent] {
        guard message.differingUnitCount > 0 else { return [] }
        guard let telling = pairs[entry.id]?.telling, telling.number == message.telling,
            telling.differingUnitCount == message.differingUnitCount
        else {
            throw ControlError(
                .notInThisState,
                "not all of what differs has come: \(message.differingUnitCount) units of pair '\(entry.name)' are to be told first"
            )
        }
        return telling.extents
    }

    /// Meets the former source, which has told where its element may differ; answers with the record that it begins with as the replica.
    func meet(_ message: MeetMessage, from host: PairID) async throws(ControlError) -> PairRecord {
        let entry = try sharedPair(message.pair, with: host)
        guard let former = PeerMessages.record(in: message.record, of: entry.id) else {
            throw ControlError(.invalidRequest, "record: expected one of the pair")
        }
        let extents = try told(by: message, of: entry)
        let record: PairRecord
        do {
            record = try await plane.meet(
                entry.id,
                by: former,
                extents,
                isAhead: message.isAhead,
                isFirst: !entry.isPeerMet
            )
        } catch {
            throw Self.controlError(error, "the changes of pair '\(entry.name)' cannot be taken in")
        }
        if pairs[entry.id]?.telling?.number == message.telling { pairs[entry.id]?.telling = nil }
        try registry.commit { content in
            guard let index = content.pairs.firstIndex(where: { $0.id == entry.id }) else { return }
            content.pairs[index].isPeerMet = true
            content.pairs[index].remote?.geometry = message.geometry
            if !entry.isPeerMet { Self.takeUp(message, into: &content.pairs[index]) }
        }
        if !entry.isPeerMet { await handSettings(of: entry.id) }
        let ahead =
            message.isAhead ? "; hosts were told there of writes that are not here, and that Failback overwrites" : ""
        let words = "peer '\(entry.remote?.peer ?? "")' is back and has told what differs there\(ahead)"
        noteChange(words, of: entry)
        return record
    }

    /// The mode of a pair whose replica is here.
    func takeNote(of message: ModeMessage, from host: PairID) throws(ControlError) {
        guard let entry = PairID(message.pair).flatMap({ registry.content.replica($0) }),
            entry.hostID == host.description
        else { throw ControlError(.pairNotFound, "there is no replica of pair \(message.pair) of your host here") }
        guard entry.mode != message.mode else { return }
        try registry.commit { content in
            guard let index = content.replicas.firstIndex(where: { $0.pair == entry.pair }) else { return }
            content.replicas[index].mode = message.mode
        }
    }
}
