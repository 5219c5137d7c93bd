internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// Volumes whose hosts are kept away, because a peer may serve them, or does
extension ReplicationService {
    /// Lets hosts use a volume although a peer may serve it.
    package func serveVolume(named name: String, _ request: VolumeServeRequest) async throws(ControlError)
        -> VolumeReply
    {
        let entry = try volumeEntry(named: name)
        let status = try await planeStatus()
        guard let found = status.volumes.first(where: { $0.id == entry.id }) else {
            throw ControlError(.volumeNotServed, "volume '\(name)' is not served")
        }
        guard let words = withheldWords(of: entry, found, status) else { return try await volume(named: name) }
        let members = registry.content.pairs(of: entry).filter { $0.remote != nil }
        let pair = takenOver(members, found).first ?? members.first
        let waysOut = waysOut(of: entry, found)
        if found.isTakenOver {
            throw ControlError(
                .notInThisState,
                "volume '\(name)' is \(words); what is here is older",
                suggestion: pair.map {
                    "'replctl set \($0.name) Detach --force' gives up what hosts have written there"
                }
            )
        }
        guard request.force ?? false else {
            if let waysOut {
                throw ControlError(
                    .needsForce,
                    "volume '\(name)' is \(words): hosts would read what may be older here, and write a second history",
                    suggestion: waysOut
                )
            }
            throw ControlError(
                .needsForce,
                """
                volume '\(name)' is \(words): where the peer has taken it over, hosts would read older data here, and write what \
                the next failback overwrites
                """,
                suggestion:
                    "wait until the peer is connected; or make sure that it does not serve the volume, and say --force"
            )
        }
        do {
            try await plane.release(entry.id)
        } catch {
            throw Self.controlError(error, "hosts cannot be let in to volume '\(name)'")
        }
        record(
            "volume-released",
            volume: name,
            pair: pair?.name,
            message: "hosts may come by force, although \(waysOut == nil ? "the peer has not been asked" : words)",
            level: .warning
        )
        return try await volume(named: name)
    }

    /// Why hosts are kept away from a volume; `nil` where they are not.
    func withheldWords(of entry: VolumeEntry, _ found: VolumeStatus, _ status: EngineStatus) -> String? {
        guard found.isWithheld, registry.content.replica(of: entry) == nil else { return nil }
        let members = registry.content.pairs(of: entry).filter { $0.remote != nil }
        if let trouble = members.lazy.compactMap({ self.moveTroubles[$0.id] }).first { return "withheld: \(trouble)" }
        if found.isTakenOver {
            let peers = takenOver(members, found).map { "peer '\($0.remote?.peer ?? "")'" }
            return "withheld: \(peers.joined(separator: ", ")) serves it"
        }
        if let moving = members.first(where: { moves.contains($0.id) }) {
            return "withheld: pair '\(moving.name)' moves to peer '\(moving.remote?.peer ?? "")'"
        }
        if let undecided = undecidedPair(of: entry, found) {
            let reason = undecided.reason.isEmpty ? "" : " (\(undecided.reason))"
            return "withheld: pair '\(undecided.name)' is Invalid\(reason), and nobody has said whose data counts"
        }
        let waits = members.map { member -> String in
            let peer = member.remote?.peer ?? ""
            let connection = connection(to: registry.content.peer(named: peer), status)
            let reported = found.pairs.first { $0.id == member.id }?.reason ?? ""
            let reason = connection.reason ?? pairs[member.id]?.failure ?? (reported.isEmpty ? nil : reported)
            return "peer '\(peer)' (\(reason ?? "it has not answered yet"))"
        }
        return "withheld: waiting for \(waits.joined(separator: ", "))"
    }

    /// Why hosts cannot use a volume that they are to use from now on, as it is said behind that; empty where they can.
    func troubleServing(_ volume: VolumeEntry) async -> String {
        if let failure = volumes[volume.number]?.failure { return ", but it is not served: \(failure)" }
        guard let status = try? await planeStatus(), let found = status.volumes.first(where: { $0.id == volume.id }),
            let words = withheldWords(of: volume, found, status)
        else { return "" }
        return ", but it is \(words)"
    }

    /// Those of a volume's pairs that their peers have taken over.
    private func takenOver(_ members: [PairEntry], _ found: VolumeStatus) -> [PairEntry] {
        members.filter { member in found.pairs.contains { $0.id == member.id && $0.isTakenOver } }
    }

    /// A pair for which hosts stay away whatever its peer answers.
    private func undecidedPair(of entry: VolumeEntry, _ found: VolumeStatus) -> PairStatus? {
        guard found.awaitedPeerCount > 0, !found.isTakenOver else { return nil }
        return found.pairs.first { pair in
            guard pair.facts.isRemote, moveTroubles[pair.id] == nil, !moves.contains(pair.id) else { return false }
            return pair.copyState == .invalid && pair.facts.operation == nil
        }
    }

    /// What lets hosts come to a volume that waits for an operator's word; `nil` where it waits for something else.
    func waysOut(of entry: VolumeEntry, _ found: VolumeStatus) -> String? {
        guard found.isWithheld, let pair = undecidedPair(of: entry, found)?.name else { return nil }
        return """
            'replctl set \(pair) ResyncReplica --force' keeps what is here, 'replctl set \(pair) RestoreFromReplica --force' what \
            the peer has; 'replctl volume serve \(entry.name) --force' lets hosts come to what is here before that is said
            """
    }

    /// Before a pair is ended whose volume is withheld: hosts would come to what is here.
    func checkHostsMayCome(_ entry: PairEntry, _ operation: ReplicationOperation, isForced: Bool)
        async throws(ControlError)
    {
        guard entry.remote != nil, !isForced, let volume = registry.content.volume(entry.volumeNumber) else { return }
        let status = try await planeStatus()
        guard let found = status.volumes.first(where: { $0.id == volume.id }),
            let words = withheldWords(of: volume, found, status)
        else { return }
        throw ControlError(
            .needsForce,
            """
            \(operation.name) of pair '\(entry.name)' needs force: volume '\(volume.name)' is \(words), and without the pair hosts \
            would come to what is here, which may be older
            """,
            suggestion: "wait until the peer is connected, or say --force"
        )
    }

    /// A pair has ended: nobody else has the volume, unless the peer of another pair may.
    func letHostsCome(afterTheEndOf entry: PairEntry, _ volume: VolumeEntry) async {
        guard let found = try? await planeStatus().volumes.first(where: { $0.id == volume.id }), found.isWithheld else {
            return
        }
        guard registry.content.replica(of: volume) == nil else { return }
        let others = registry.content.pairs(of: volume).filter { $0.remote != nil && $0.id != entry.id }
        // One that is not attached is counted by the data plane as one that may come yet, and the one that has ended as well.
        let isUnasked = others.contains { pairs[$0.id]?.failure != nil && asksPeer($0, pairs[$0.id]?.recovery?.record) }
        let isAwaited = isUnasked || found.pairs.contains { $0.id != entry.id && $0.isAwaited }
        let mayPeerServe = found.isTakenOver || isAwaited || others.contains { moves.contains($0.id) }
        guard others.isEmpty || !mayPeerServe else { return }
        do {
            try await plane.release(volume.id)
        } catch {
            record("volume-withheld", volume: volume.name, message: "hosts are kept away: \(error)", level: .error)
        }
    }
}
