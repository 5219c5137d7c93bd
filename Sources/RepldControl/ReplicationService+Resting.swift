internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// Pairs of a volume that is a peer's replica: they rest, and go on when the volume is a source again
///
///     p moves to the peer:   others noted as resting, in the commit that makes the volume a replica · others Suspended · peer writes
///     p comes back, or ends: volume is a source · others resumed · no longer noted
///
/// The note is the registry's, and what it says is done again by each start: where the volume is a replica, the data plane lets
/// nothing flow; where it is a source, what is noted is resumed. An operator's own operation on such a pair takes the note away.
extension ReplicationService {
    /// Whether the other pairs of a volume let it become the replica of one of them.
    func checkOthersCanRest(
        besides entry: PairEntry,
        of volume: VolumeEntry,
        _ what: String
    ) async throws(ControlError) {
        guard let reason = await reasonNotToFollow(entry, volume) else { return }
        throw ControlError(.otherPairFlows, "\(what) is refused: \(reason)")
    }

    /// While a pair of a volume moves, none of the others may come to a point at which it cannot rest.
    func checkNoOtherMoves(
        _ operation: ReplicationOperation,
        _ entry: PairEntry,
        _ volume: VolumeEntry
    ) throws(ControlError) {
        let blocked: Set<ReplicationOperation> = [.failover, .failback, .restoreFromReplica, .reverseRoles, .split]
        guard blocked.contains(operation),
            let other = registry.content.pairs(of: volume).first(where: { moves.contains($0.id) && $0.id != entry.id })
        else { return }
        throw ControlError(
            .operationInProgress,
            "\(operation.name) of pair '\(entry.name)' has to wait: pair '\(other.name)' of its volume moves to its peer",
            suggestion: "try again when that is done"
        )
    }

    /// Why the volume of a pair cannot become its replica; `nil` where it can.
    func reasonNotToFollow(_ entry: PairEntry, _ volume: VolumeEntry) async -> String? {
        let others = registry.content.pairs(of: volume).filter { $0.id != entry.id }
        guard !others.isEmpty else { return nil }
        let would = "volume '\(volume.name)' would become a replica"
        if let other = registry.content.replica(of: volume) {
            return "volume '\(volume.name)' is the replica of pair '\(other.name)' already"
        }
        guard let found = try? await planeStatus().volumes.first(where: { $0.id == volume.id }) else {
            return "volume '\(volume.name)' is not served"
        }
        if let other = found.pairs.first(where: { $0.id != entry.id && $0.isTakenOver }) {
            return """
                \(would), and a peer has taken its pair '\(other.name)' over as well; 'replctl set \(other.name) Detach --force' gives \
                up what that has
                """
        }
        guard let facts = found.pairs.first(where: { $0.id == entry.id })?.facts, facts.doesOtherPairMove else {
            return nil
        }
        let names = others.map { "'\($0.name)'" }.joined(separator: ", ")
        return """
            \(would), and that has to wait: of its other pairs (\(names)) one moves, restores, or has its target serve hosts
            """
    }

    /// Nobody else may have the volume's data either: a host that comes with the pair would find a second history.
    func checkOthersAreHere(_ volume: VolumeEntry, _ what: String, isPlanned: Bool) async throws(ControlError) {
        let found = try await planeStatus().volumes.first { $0.id == volume.id }
        if let other = found?.pairs.first(where: \.isTakenOver) {
            throw ControlError(
                .notInThisState,
                "\(what) is refused: pair '\(other.name)' of volume '\(volume.name)' has been taken over by its peer, which serves hosts",
                suggestion: "'replctl set \(other.name) Detach --force' gives up what hosts have written there"
            )
        }
        guard isPlanned, let other = found?.pairs.first(where: \.isAwaited) else { return }
        throw ControlError(
            .notInThisState,
            """
            \(what) is refused: hosts could not come to volume '\(volume.name)' before the peer of its pair '\(other.name)' has said that \
            it does not serve them
            """,
            suggestion: "wait until that is connected, or Detach '\(other.name)' there"
        )
    }

    /// Whether the volume of a pair is a peer's replica.
    func isInReplica(_ entry: PairEntry) -> Bool {
        registry.content.volume(entry.volumeNumber).flatMap { registry.content.replica(of: $0) } != nil
    }

    /// The other pairs of a volume that flow, or would by themselves.
    func othersThatFlow(besides entry: PairEntry, of volume: VolumeEntry) async -> Set<PairID> {
        guard let found = try? await planeStatus().volumes.first(where: { $0.id == volume.id }) else { return [] }
        let flowing: Set<CopyState> = [.unsynchronized, .synchronized, .skewed, .partitioned]
        let others = found.pairs.filter { pair in
            // One that was told to go on, and waits for its peer.
            let isAboutTo = pair.copyState == .suspended && pair.facts.operation != nil
            return pair.id != entry.id && (flowing.contains(pair.copyState) || isAboutTo)
        }
        return Set(others.map(\.id))
    }

    /// How often another element has come to serve the volume.
    func servingEpoch(of volume: VolumeEntry) async -> UInt32 {
        (try? await planeStatus())?.volumes.first { $0.id == volume.id }?.servingEpoch ?? 0
    }

    /// Tells of the pairs that have just begun to rest.
    func noteResting(of volume: VolumeEntry) {
        for pair in registry.content.pairs(of: volume) where pair.isResting {
            noteChange(
                "it rests while volume '\(volume.name)' is a replica, and goes on when that is a source again",
                of: pair
            )
        }
    }

    /// Lets the pairs go on that have rested while their volume was a replica.
    ///
    /// What is noted of them goes when they do (`noteOutOfSuspended`); until then each start, and each time that they are attached, does
    /// it again.
    func resumeResting(of volume: VolumeEntry) async {
        guard volumes[volume.number]?.failure == nil, registry.content.replica(of: volume) == nil else { return }
        for pair in registry.content.pairs(of: volume) where pair.isResting && pairs[pair.id]?.failure == nil {
            await resume(pair)
        }
    }

    /// A mixture is not copied by itself over what may be the last good image: the operator hears what is to be said.
    func noteNotResumed(_ entry: PairEntry, _ volume: VolumeEntry?) {
        let words = """
            it stays Suspended: its volume is not known to hold one point in time, because a copy to it was under way. \
            'replctl set \(entry.name) RestoreFromReplica' gives the volume what \(entry.targetPath) has, Resume the other way round
            """
        record("pair-not-resumed", volume: volume?.name, pair: entry.name, message: words, level: .error)
    }

    /// A pair is not Suspended any more: it has gone on, or an operator has said what becomes of it.
    func noteOutOfSuspended(_ entry: PairEntry, from old: CopyState) {
        // What was told before its volume became a replica says nothing of that.
        if old == .suspended, !isInReplica(entry) { setResting([entry.id], false) }
    }

    /// Writes down which pairs rest; what cannot be written is done again, or is for the operator.
    func setResting(_ ids: [PairID], _ isResting: Bool) {
        let changes = ids.contains { registry.content.pair($0)?.isResting == !isResting }
        guard changes else { return }
        do throws(ControlError) {
            try registry.commit { content in
                for index in content.pairs.indices where ids.contains(content.pairs[index].id) {
                    content.pairs[index].isResting = isResting
                }
            }
        } catch {
            logger.warning("it is not written down which pairs rest", metadata: ["reason": "\(error)"])
        }
    }
}
