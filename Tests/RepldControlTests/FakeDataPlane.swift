import Foundation
import RepldControl
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization

/// A data plane without data: it follows the operations table as the real one does, ends operations when the test says so,
/// and fails on demand.
final class FakeDataPlane: DataPlane {
    /// One call, as the test sees it.
    enum Call: Hashable, Sendable {
        case addVolume(String), removeVolume, addPair(String, isNew: Bool), detachPair, stop
        case operate(ReplicationOperation), operateWithoutUndo(ReplicationOperation), cancelOperation
        case holdPlace(Bool), configureCopy(CopySettings)
        case verify(Extent), cancelVerify
        case listen(FrontEndAddress)
        case changes(ChangesQuery)
        case prepareGrowth(UInt64?), grow(UInt64)
        case addPeer(String), removePeer, listenToPeers(PeerListening)
        case withhold, release, settle, claimReplica(sequence: UInt64?), takeBack, unclaimReplica
        case prepareTakeOver(PairRecord), takeOver(isEqual: Bool)
        case meet([Extent], isAhead: Bool, isFirst: Bool)
        case addReplica(String), removeReplica, setMode(isAsynchronous: Bool, recoveryPointNanoseconds: UInt64 = 0)
        case configurePeer(CompressionMode), setRecovery(isAutomatic: Bool)
    }

    struct Pair {
        var opening: PairOpening
        var status: PairStatus
        /// Where it differs by what a side changed.
        var changes: [ChangedSide: [Extent]] = [:]
    }

    struct State {
        var volumes: [VolumeID: VolumeStatus] = [:]
        var openings: [VolumeID: VolumeOpening] = [:]
        var pairs: [PairID: Pair] = [:]
        var calls: [Call] = []
        var failures: [String: DataPlaneError] = [:]
        var held: CheckedContinuation<Void, Never>?
        var isHolding = false
        var refusal: EngineRefusal?
        var beforeCall: (@Sendable (Call) -> Void)?
        var peers: [PeerID: PeerOpening] = [:]
        var replicas: [PairID: ReplicaOpening] = [:]
        /// What peers have asked and was not answered yet.
        var questions: [UInt64: CheckedContinuation<Result<[UInt8], MessageFailure>, Never>] = [:]
        var nextToken: UInt64 = 1
        var hasStopped = false
        /// What the daemon calls itself.
        var host = PairID(high: 0, low: 0)
        var link: FakeLink?
        /// What replicas can take back, where their records count on it.
        var keptByteCount: UInt64? = 65536
        /// So many attempts to claim a replica come while its source's last writes are under way.
        var busyClaimCount = 0
    }

    let state = Mutex(State())
    let events: AsyncStream<EngineEvent>
    let continuation: AsyncStream<EngineEvent>.Continuation
    let messages: AsyncStream<PeerMessage>
    let messageContinuation: AsyncStream<PeerMessage>.Continuation

    init() {
        (events, continuation) = AsyncStream.makeStream(of: EngineEvent.self)
        (messages, messageContinuation) = AsyncStream.makeStream(of: PeerMessage.self)
    }

    func addVolume(_ volume: VolumeOpening) async throws(DataPlaneError) -> ElementGeometry {
        note(.addVolume(volume.name))
        try failIfBroken(volume.path)
        guard let size = try? FileManager.default.attributesOfItem(atPath: volume.path)[.size] as? UInt64 else {
            throw DataPlaneError(.element, "cannot open \(volume.path): no such file or directory")
        }
        var status = VolumeStatus(
            id: volume.id,
            name: volume.name,
            byteCount: volume.byteCount ?? size,
            blockByteCount: volume.blockByteCount ?? 4096,
            isReadOnly: volume.isReadOnly,
            connectionCount: 0,
            requestsInFlight: 0
        )
        status.awaitedPeerCount = volume.awaitedPeerCount
        status.isWithheld = volume.awaitedPeerCount > 0 || volume.isReplica
        state.withLock { [status] state in
            state.volumes[volume.id] = status
            state.openings[volume.id] = volume
        }
        return ElementGeometry(
            byteCount: status.byteCount,
            logicalBlockByteCount: status.blockByteCount,
            physicalBlockByteCount: 4096,
            isReadOnly: volume.isReadOnly,
            canDiscard: true,
            canZeroFast: true,
            isDirect: false
        )
    }

    func removeVolume(_ id: VolumeID, isForced: Bool) async throws(DataPlaneError) {
        note(.removeVolume)
        let count = state.withLock { $0.volumes[id]?.connectionCount ?? 0 }
        guard count == 0 || isForced else {
            throw DataPlaneError(.refused, "in use", refusal: .volumeInUse(connectionCount: count))
        }
        state.withLock { state in
            state.volumes[id] = nil
            state.openings[id] = nil
        }
    }

    func addPair(_ pair: PairOpening) async throws(DataPlaneError) {
        note(.addPair(pair.name, isNew: pair.isNew))
        let source = state.withLock { $0.volumes[pair.volume]?.byteCount ?? 0 }
        let size: UInt64
        switch pair.target {
        case .local(let path):
            try failIfBroken(path)
            size = (try? FileManager.default.attributesOfItem(atPath: path)[.size]) as? UInt64 ?? 0
        case .remote(let peer, let geometry):
            try failIfBroken("peer")
            guard state.withLock({ $0.peers[peer] }) != nil else {
                throw DataPlaneError(.refused, "refused", refusal: .tableFull("peers"))
            }
            size = geometry.byteCount
            await waitWhileHeld()
        }
        guard size >= source else {
            let refusal = EngineRefusal.targetTooSmall(sourceByteCount: source, targetByteCount: size)
            throw DataPlaneError(.refused, "too small", refusal: refusal)
        }
        var status = PairStatus.initialized(pair, byteCount: source)
        status.facts.isRemote = pair.target.path == nil
        if !pair.isNew {
            if let record = try? PairMetadata.read(pair.metadata).record { status.take(record, byteCount: source) }
        }
        state.withLock { state in
            state.pairs[pair.id] = Pair(opening: pair, status: status)
            store(state.pairs[pair.id])
        }
        if pair.awaitsPeer { askPeers() }
        // Whoever waits to be told may be told now.
        state.withLock { $0.link }?.other(than: self)?.askPeers()
    }

    func detachPair(_ id: PairID) async throws(DataPlaneError) {
        note(.detachPair)
        await waitWhileHeld()
        state.withLock { $0.pairs[id] = nil }
    }

    func operate(
        _ id: PairID,
        _ operation: ReplicationOperation,
        isForced: Bool,
        keepsUndo: Bool
    ) async throws(DataPlaneError) -> OperationStart {
        note(keepsUndo ? .operate(operation) : .operateWithoutUndo(operation))
        await waitWhileHeld()
        let (result, events) = state.withLock { begin(operation, of: id, isForced: isForced, &$0) }
        for event in events { continuation.yield(event) }
        switch result {
        case .success(let start): return start
        case .failure(let refusal): throw DataPlaneError(.refused, "refused", refusal: refusal)
        }
    }

    func holdPlace(_ id: PairID, isHeld: Bool) async throws(DataPlaneError) -> Bool {
        note(.holdPlace(isHeld))
        let (isSecond, events) = try state.withLock { state throws(DataPlaneError) in
            guard let pair = state.pairs[id] else {
                throw DataPlaneError(.refused, "refused", refusal: .noSuchPair)
            }
            let moves: [ReplicationOperation] = [.failover, .reverseRoles]
            let isMoving = pair.status.facts.operation.map { moves.contains($0) } ?? false
            let events = isHeld && isMoving ? cancel(id, &state).1 : []
            return (pair.status.isSecondPrimary, events)
        }
        for event in events { continuation.yield(event) }
        return isSecond
    }

    func cancelOperation(_ id: PairID) async throws(DataPlaneError) {
        note(.cancelOperation)
        let (operation, events) = state.withLock { cancel(id, &$0) }
        for event in events { continuation.yield(event) }
        if events.isEmpty { throw DataPlaneError(.refused, "refused", refusal: .cannotCancel(operation)) }
    }

    func changes(_ id: PairID, _ query: ChangesQuery) async throws(DataPlaneError) -> PairChanges {
        note(.changes(query))
        return try state.withLock { state throws(DataPlaneError) in
            guard let pair = state.pairs[id], let volume = state.volumes[pair.opening.volume] else {
                throw DataPlaneError(.refused, "refused", refusal: .noSuchPair)
            }
            var changes = PairChanges(
                copyState: pair.status.copyState,
                volumeByteCount: volume.byteCount,
                granuleByteCount: UInt64(pair.opening.settings.granuleByteCount)
            )
            let left = (pair.changes[query.side] ?? []).filter { $0.offset >= query.offset }
            changes.runs = Array(left.prefix(query.runLimit))
            changes.nextOffset = left.count > query.runLimit ? left[query.runLimit].offset : nil
            return changes
        }
    }

    func configureCopy(_ id: PairID, _ settings: CopySettings) async throws(DataPlaneError) {
        note(.configureCopy(settings))
        try state.withLock { state throws(DataPlaneError) in
            guard state.pairs[id] != nil else { throw DataPlaneError(.refused, "refused", refusal: .noSuchPair) }
            state.pairs[id]?.opening.settings.copy = settings
        }
    }

    func verify(_ id: PairID, _ extent: Extent) async throws(DataPlaneError) {
        note(.verify(extent))
        let refusal = state.withLock { beginVerify(of: id, extent, &$0) }
        if let refusal { throw DataPlaneError(.refused, "refused", refusal: refusal) }
    }

    func cancelVerify(_ id: PairID) async throws(DataPlaneError) {
        note(.cancelVerify)
        guard endVerify(.cancelled) else { throw DataPlaneError(.refused, "refused", refusal: .noVerifyRunning) }
    }

    func status() async throws(DataPlaneError) -> EngineStatus {
        state.withLock { state in
            var volumes = state.volumes.values.sorted { $0.id.rawValue < $1.id.rawValue }
            for index in volumes.indices {
                let id = volumes[index].id
                let count = UInt32(volumes[index].connectionCount)
                volumes[index].pairs = state.pairs.values.filter { $0.opening.volume == id }.map { pair in
                    var status = pair.status
                    status.facts.volumeClientCount = count
                    return status
                }
            }
            let connections = volumes.reduce(0) { $0 + $1.connectionCount }
            var status = EngineStatus(volumes: volumes, connectionCount: connections, buffersTaken: 0)
            status.peers = Self.peers(of: state)
            status.replicas = Self.replicas(of: state)
            return status
        }
    }

    func listen(at address: FrontEndAddress) async throws(DataPlaneError) -> FrontEndAddress {
        note(.listen(address))
        return address
    }

    func stop() async {
        note(.stop)
        continuation.finish()
        stopTalking()
    }

    func note(_ call: Call) {
        let hook = state.withLock { state in
            state.calls.append(call)
            return state.beforeCall
        }
        hook?(call)
    }

    private func waitWhileHeld() async {
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let isHeld = state.withLock { state in
                if state.isHolding { state.held = continuation }
                return state.isHolding
            }
            if !isHeld { continuation.resume() }
        }
    }

    func failIfBroken(_ path: String) throws(DataPlaneError) {
        if let failure = state.withLock({ $0.failures[path] }) { throw failure }
    }
}
