import RepldControl
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization

/// Pairs that move between two fakes
extension FakeDataPlane {
    func withhold(_ id: VolumeID) async throws(DataPlaneError) {
        note(.withhold)
        try failIfBroken("withhold")
        state.withLock { state in
            state.volumes[id]?.isWithheld = true
            state.volumes[id]?.connectionCount = 0
        }
    }

    func release(_ id: VolumeID) async throws(DataPlaneError) {
        note(.release)
        let isTakenOver = state.withLock { $0.volumes[id]?.isTakenOver ?? false }
        if isTakenOver { throw DataPlaneError(.refused, "refused", refusal: .takenOver) }
        letHostsCome(to: id)
    }

    func keepAway(_ id: VolumeID) async throws(DataPlaneError) { state.withLock { $0.volumes[id]?.isWithheld = true } }

    func settle(_ id: PairID) async throws(DataPlaneError) -> PairRecord {
        note(.settle)
        try failIfBroken("settle")
        let (pair, link) = state.withLock { ($0.pairs[id], $0.link) }
        guard let pair, let record = try? PairMetadata.read(pair.opening.metadata).record else {
            throw DataPlaneError(.refused, "refused", refusal: .noSuchPair)
        }
        link?.other(than: self)?.hear(record)
        return record
    }

    /// The record that both sides have from now on.
    private func hear(_ record: PairRecord) {
        let place = state.withLock { $0.replicas[record.pair]?.metadata }
        if let place { try? PairMetadata.begin(record, in: place) }
    }

    func claimReplica(_ id: PairID, sequence: UInt64?) async throws(DataPlaneError) -> PairRecord {
        note(.claimReplica(sequence: sequence))
        try failIfBroken("claim")
        let isBusy = state.withLock { state in
            defer { state.busyClaimCount = max(state.busyClaimCount - 1, 0) }
            return state.busyClaimCount > 0
        }
        if isBusy { throw DataPlaneError(.refused, "refused", refusal: .replicaBusy) }
        let (place, link) = state.withLock { ($0.replicas[id]?.metadata, $0.link) }
        guard let place, let record = try? PairMetadata.read(place).record else {
            throw DataPlaneError(.refused, "refused", refusal: .recordMismatch)
        }
        if sequence == nil, link?.cutReason == nil {
            throw DataPlaneError(.refused, "refused", refusal: .sourceConnected)
        }
        if let sequence, sequence != record.sequence {
            throw DataPlaneError(.refused, "refused", refusal: .recordMismatch)
        }
        return record
    }

    func takeBack(_ id: PairID) async throws(DataPlaneError) -> PairRecord {
        note(.takeBack)
        try failIfBroken("takeBack")
        guard let place = state.withLock({ $0.replicas[id]?.metadata }),
            var record = try? PairMetadata.read(place).record
        else { throw DataPlaneError(.refused, "refused", refusal: .nothingKept) }
        record.isTargetConsistent = true
        record.hasUndo = false
        return record
    }

    var claimCount: Int { calls.count { if case .claimReplica = $0 { true } else { false } } }

    func unclaimReplica(_ id: PairID) async throws(DataPlaneError) { note(.unclaimReplica) }

    func prepareTakeOver(_ pair: PairOpening, _ record: PairRecord) async throws(DataPlaneError) {
        note(.prepareTakeOver(record))
        try failIfBroken("prepare")
        do {
            try PairMetadata.beginBoth(record, in: pair.metadata)
        } catch {
            throw DataPlaneError(.metadata, "\(error)")
        }
    }

    func takeOver(_ pair: PairOpening, isEqual: Bool) async throws(DataPlaneError) {
        note(.takeOver(isEqual: isEqual))
        try failIfBroken("takeOver")
        let byteCount = state.withLock { $0.volumes[pair.volume]?.byteCount ?? 0 }
        guard let record = try? PairMetadata.read(pair.metadata).record else {
            throw DataPlaneError(.metadata, "there is no record")
        }
        var status = PairStatus.initialized(pair, byteCount: byteCount)
        status.take(record, byteCount: byteCount)
        status.facts.isRemote = true
        if isEqual { status.facts.differingByteCount = 0 }
        state.withLock { state in
            state.replicas[pair.id] = nil
            let others = state.pairs.values.filter { $0.opening.volume == pair.volume }
            state.volumes[pair.volume]?.isWithheld = others.contains { $0.status.isAwaited }
            state.volumes[pair.volume]?.isTakenOver = false
            Self.rest(pairsOf: pair.volume, false, &state)
            state.pairs[pair.id] = Pair(opening: pair, status: status)
        }
    }

    func meet(
        _ id: PairID,
        by former: PairRecord,
        _ extents: [Extent],
        isAhead: Bool,
        isFirst: Bool
    ) async throws(DataPlaneError) -> PairRecord {
        note(.meet(extents, isAhead: isAhead, isFirst: isFirst))
        try failIfBroken("meet")
        let place = state.withLock { state in
            state.pairs[id]?.status.facts.isSourceAhead = isAhead
            return state.pairs[id]?.opening.metadata
        }
        guard let place, let record = try? PairMetadata.read(place).record else {
            throw DataPlaneError(.refused, "refused", refusal: .noSuchPair)
        }
        return record
    }

    /// The peers are asked that a volume waits for: those that can be reached say at once what they have.
    func askPeers() {
        let pairs = state.withLock { state in
            state.pairs.values.filter { state.volumes[$0.opening.volume]?.isWithheld ?? false }
        }
        for pair in pairs {
            let link = state.withLock { $0.link }
            guard let other = link?.other(than: self), link?.cutReason == nil else { continue }
            let (isReplica, isPair) = other.state.withLock { state in
                (state.replicas[pair.opening.id] != nil, state.pairs[pair.opening.id] != nil)
            }
            let isUndecided = pair.status.copyState == .invalid && pair.status.facts.operation == nil
            if isReplica, pair.opening.awaitsPeer, !isUndecided { letHostsCome(to: pair.opening.volume) }
            // Of two that have it, the one with the greater term has it rightly.
            if isPair, other.term(of: pair.opening.id) > term(of: pair.opening.id) {
                let id = pair.opening.id
                state.withLock { state in
                    state.volumes[pair.opening.volume]?.isTakenOver = true
                    state.pairs[id]?.status.isTakenOver = true
                }
                continuation.yield(EngineEvent(volume: pair.opening.volume, pair: id, kind: .takenOver))
            }
        }
    }

    private func term(of id: PairID) -> UInt32 {
        let place = state.withLock { $0.pairs[id]?.opening.metadata }
        return place.flatMap { try? PairMetadata.read($0).record?.term } ?? 0
    }

    private func letHostsCome(to id: VolumeID) {
        let wasWithheld = state.withLock { state in
            defer {
                state.volumes[id]?.isWithheld = false
                state.volumes[id]?.awaitedPeerCount = 0
            }
            return state.volumes[id]?.isWithheld ?? false
        }
        if wasWithheld { continuation.yield(EngineEvent(volume: id, pair: nil, kind: .released)) }
    }

    func volumeStatus(_ name: String) -> VolumeStatus? {
        state.withLock { $0.volumes.values.first { $0.name == name } }
    }
}
