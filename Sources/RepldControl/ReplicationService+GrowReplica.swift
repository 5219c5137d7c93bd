internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import SystemPackage

/// Growth of a volume whose pairs have replicas at peers
///
/// It is asked for on the source's host, once:
///
///     source               are all elements here large enough, and is no pair in a state that forbids it?
///     each replica         check: would its element hold it? Until here nothing has changed anywhere
///     each replica         REGISTRY there, then its volume: it may hold so much, whatever its source has
///     source               REGISTRY here, then its volume: the new range is dirty, and the records have the new size behind that
///     each replica         the record of the pair, with the new size: from then on it is the replica of so much
///     hosts                see the new size
///
/// - A replica is never smaller than its source may be: its registry has the size before the source's has.
/// - A replica that is larger than its source is nothing special. So what has come to nothing after the first step may be left,
///   and the same asked again completes it: what a replica holds already is answered as if it were done now.
/// - A replica learns the size of its source from the record alone, as it learns everything of it. One that takes over
///   serves what its last record has: with a connected replica no host has seen more (`VolumeMachine`), and one that is
///   out of reach has the image of a moment before that.
/// - A peer that cannot be asked is a refusal, whatever state its pair is in.
/// - A start of either host in between opens the pair as before: the source's record is of its former size or of the new one,
///   the replica's volume holds both. What the maps say of the former range counts in either case.
extension ReplicationService {
    /// The size that a volume is to have: what is asked for, or what its elements have, those of its replicas as well.
    ///
    /// Throws, with nothing changed anywhere, where an element of this host or of a peer does not hold it; `nil` where the data
    /// plane is to say, because all elements are here.
    func byteCount(
        for request: VolumeGrowRequest,
        _ entry: VolumeEntry,
        _ members: [PairEntry]
    ) async throws(ControlError) -> UInt64? {
        let replicas = members.filter { $0.remote != nil }
        guard !replicas.isEmpty else { return request.byteCount }
        let here = try await prepareGrowth(of: entry, to: request.byteCount, [])
        guard here.toByteCount > here.fromByteCount else { return here.toByteCount }
        var wanted = here.toByteCount
        for replica in replicas {
            let message = GrowMessage(pair: replica.id, isCheck: true, byteCount: request.byteCount)
            let geometry = try await ask(for: replica, message, entry)
            guard geometry.byteCount > here.fromByteCount else {
                throw ControlError(
                    .elementUnavailable,
                    """
                    volume '\(entry.name)' cannot grow: \(replica.targetPath) holds \(geometry.byteCount) bytes, and \
                    \(here.toByteCount) are needed
                    """,
                    suggestion: "enlarge its element first"
                )
            }
            wanted = min(wanted, geometry.byteCount)
        }
        let block = UInt64(volumes[entry.number]?.geometry?.logicalBlockByteCount ?? 512)
        return max(wanted / block * block, here.fromByteCount)
    }

    /// Lets the replicas of a volume grow; what they are like then.
    func growReplicas(
        of members: [PairEntry],
        _ entry: VolumeEntry,
        to byteCount: UInt64
    ) async throws(ControlError) -> [PairID: RemoteGeometry] {
        var geometries: [PairID: RemoteGeometry] = [:]
        for replica in members where replica.remote != nil {
            let message = GrowMessage(pair: replica.id, isCheck: false, byteCount: byteCount)
            let geometry = try await ask(for: replica, message, entry)
            guard geometry.byteCount >= byteCount else {
                throw ControlError(
                    .refused,
                    """
                    volume '\(entry.name)' cannot grow: \(replica.targetPath) says that it holds \(geometry.byteCount) bytes, and \
                    \(byteCount) were asked for
                    """
                )
            }
            geometries[replica.id] = geometry
        }
        return geometries
    }

    private func ask(
        for pair: PairEntry,
        _ message: GrowMessage,
        _ entry: VolumeEntry
    ) async throws(ControlError) -> RemoteGeometry {
        let what = "volume '\(entry.name)' cannot grow"
        guard let remote = pair.remote, let peer = registry.content.peer(named: remote.peer) else {
            throw ControlError(.peerNotFound, "\(what): the peer of pair '\(pair.name)' is not known")
        }
        do throws(ControlError) {
            let answer = try await ask(peer, message)
            guard let geometry = answer.geometry else {
                throw ControlError(.refused, "peer '\(peer.name)' has not said what its volume is like")
            }
            return geometry
        } catch {
            var error = error
            let needsPeer = error.code == .peerNotConnected || error.code == .noAnswer
            error.status.message = "\(what)\(needsPeer ? " without the replica's host" : ""): \(error.message)"
            if error.code == .noAnswer { error.status.suggestion = "ask again: what is done already is not done twice" }
            throw error
        }
    }

    // MARK: - The replica's host

    /// Lets the volume of a replica hold a size, or says whether it would; answers what it is like then.
    func growReplica(_ message: GrowMessage, from host: PairID) async throws(ControlError) -> RemoteGeometry {
        let found = PairID(message.pair).flatMap { registry.content.replica($0) }
        guard let replica = found, replica.hostID == host.description, let id = replica.id,
            let volume = registry.content.volume(replica.volumeNumber)
        else { throw ControlError(.pairNotFound, "there is no replica of pair \(message.pair) of your host here") }
        let subjects = ["volume \(volume.name)", "pair \(replica.name)"]
        var begun: [String] = []
        defer { for subject in begun { end(on: subject) } }
        for subject in subjects {
            try begin("grow, asked by the source of pair '\(replica.name)'", on: subject)
            begun.append(subject)
        }
        if let reason = volumes[volume.number]?.failure {
            throw ControlError(.volumeNotServed, "volume '\(volume.name)' is not served: \(reason)")
        }
        if let pair = registry.content.pairs(of: volume).first {
            throw ControlError(
                .volumeHasPairs,
                "volume '\(volume.name)' does not grow as a replica while it has pair '\(pair.name)'",
                suggestion:
                    "'replctl set \(pair.name) Detach' there; or make it the source again, and let it grow with both"
            )
        }
        var geometry = try await ownGeometry(of: volume)
        if let wanted = message.byteCount, wanted <= geometry.byteCount {
            // A size that only follows the element is kept from now on.
            if !message.isCheck, volume.byteCount == nil { try commitSize(geometry.byteCount, of: volume) }
            return geometry
        }
        let undo = MetadataArea(
            path: nil,
            undoPath: state.keptPath(of: id).string,
            granuleByteCount: replica.granuleByteCount
        )
        let growth = try await prepareGrowth(of: volume, to: message.byteCount, message.isCheck ? [] : [undo])
        if !message.isCheck, growth.toByteCount > growth.fromByteCount { try await grow(volume, growth) }
        geometry.byteCount = growth.toByteCount
        return geometry
    }

    /// A replica follows its source.
    func checkGrowsByItself(_ volume: VolumeEntry) throws(ControlError) {
        guard let replica = registry.content.replica(of: volume) else { return }
        let peer = registry.content.peer(ofHost: replica.hostID)?.name ?? replica.hostID
        throw ControlError(
            .volumeIsReplica,
            "volume '\(volume.name)' does not grow by itself: it is the replica of pair '\(replica.name)', and grows with its source",
            suggestion: """
                enlarge its element here, and say 'replctl volume grow \(replica.sourceVolume)' on the source's host (peer '\(peer)')
                """
        )
    }
}
