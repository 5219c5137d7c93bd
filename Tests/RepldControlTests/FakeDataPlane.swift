import Foundation
import RepldControl
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization

/// A data plane without data: it keeps states as the real one would, moves on when the test says so, and fails on demand.
final class FakeDataPlane: DataPlane {
    /// One call, as the test sees it.
    enum Call: Hashable, Sendable {
        case addVolume(String), removeVolume, addPair(String, isNew: Bool), detachPair, startCopy, suspend, stop
        case listen(FrontEndAddress)
    }

    private struct Pair {
        var opening: PairOpening
        var status: PairStatus
    }

    private struct State {
        var volumes: [VolumeID: VolumeStatus] = [:]
        var pairs: [PairID: Pair] = [:]
        var calls: [Call] = []
        var failures: [String: DataPlaneError] = [:]
        var held: CheckedContinuation<Void, Never>?
        var isHolding = false
        var beforeCall: (@Sendable (Call) -> Void)?
    }

    private let state = Mutex(State())
    let events: AsyncStream<EngineEvent>
    private let continuation: AsyncStream<EngineEvent>.Continuation

    init() { (events, continuation) = AsyncStream.makeStream(of: EngineEvent.self) }

    var calls: [Call] { state.withLock { $0.calls } }

    /// Is told of each call before it takes effect.
    func beforeEachCall(_ body: @escaping @Sendable (Call) -> Void) { state.withLock { $0.beforeCall = body } }

    /// Elements at `path` cannot be opened until `mend`.
    func breakElement(_ path: String) {
        state.withLock { $0.failures[path] = DataPlaneError(.element, "cannot open \(path): it is on fire") }
    }

    func mendElement(_ path: String) { state.withLock { $0.failures[path] = nil } }

    /// The next startCopy waits for `release`.
    func hold() { state.withLock { $0.isHolding = true } }

    /// Whether a call waits.
    var isHeld: Bool { state.withLock { $0.held != nil } }

    func release() {
        let held = state.withLock { state in
            state.isHolding = false
            defer { state.held = nil }
            return state.held
        }
        held?.resume()
    }

    func connectClients(_ count: Int, to volume: String) {
        state.withLock { state in
            for id in state.volumes.keys where state.volumes[id]?.name == volume {
                state.volumes[id]?.connectionCount = count
            }
        }
    }

    /// Moves the only pair's copy on.
    func progress(done: UInt64) {
        state.withLock { state in
            for id in state.pairs.keys {
                let total = state.pairs[id]?.status.copyTotalByteCount ?? 0
                state.pairs[id]?.status.copyDoneByteCount = done
                state.pairs[id]?.status.dirtyByteCount = total - done
            }
        }
    }

    /// Brings the only pair to a copy state, as something that happened by itself.
    func become(_ copyState: CopyState, _ progress: ProgressStatus = .completed, reason: String = "") {
        let changes = state.withLock { state in
            state.pairs.keys.compactMap { id in
                self.change(&state, id, to: copyState, progress, reason: reason)
            }
        }
        for change in changes { continuation.yield(change) }
    }

    func addVolume(_ volume: VolumeOpening) async throws(DataPlaneError) -> ElementGeometry {
        note(.addVolume(volume.name))
        try failIfBroken(volume.path)
        guard let size = try? FileManager.default.attributesOfItem(atPath: volume.path)[.size] as? UInt64 else {
            throw DataPlaneError(.element, "cannot open \(volume.path): no such file or directory")
        }
        let status = VolumeStatus(
            id: volume.id,
            name: volume.name,
            byteCount: size,
            blockByteCount: 4096,
            isReadOnly: volume.isReadOnly,
            connectionCount: 0,
            requestsInFlight: 0
        )
        state.withLock { $0.volumes[volume.id] = status }
        return ElementGeometry(
            byteCount: size,
            logicalBlockByteCount: 4096,
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
        state.withLock { $0.volumes[id] = nil }
    }

    func addPair(_ pair: PairOpening) async throws(DataPlaneError) {
        note(.addPair(pair.name, isNew: pair.isNew))
        try failIfBroken(pair.targetPath)
        let source = state.withLock { $0.volumes[pair.volume]?.byteCount ?? 0 }
        let size = (try? FileManager.default.attributesOfItem(atPath: pair.targetPath)[.size]) as? UInt64 ?? 0
        guard size >= source else {
            let refusal = EngineRefusal.targetTooSmall(sourceByteCount: source, targetByteCount: size)
            throw DataPlaneError(.refused, "too small", refusal: refusal)
        }
        // As the real one: a pair whose record does not say "clean" is no longer Synchronized.
        var copyState = CopyState.initialized
        if !pair.isNew, case .found(let record) = PairMetadata.read(pair.metadataPath) {
            copyState = CopyState(rawValue: record.copyState) ?? .initialized
            if copyState == .synchronized, !record.isClosedCleanly { copyState = .unsynchronized }
        }
        let status = PairStatus(
            id: pair.id,
            name: pair.name,
            copyState: copyState,
            progress: copyState == .synchronized ? .completed : .requiresActivate,
            reason: "",
            dirtyByteCount: copyState == .synchronized ? 0 : source,
            copyTotalByteCount: 0,
            copyDoneByteCount: 0,
            copyWrittenByteCount: 0,
            copyZeroByteCount: 0,
            copyEqualByteCount: 0
        )
        state.withLock { $0.pairs[pair.id] = Pair(opening: pair, status: status) }
        store(pair, copyState)
    }

    func detachPair(_ id: PairID) async throws(DataPlaneError) {
        note(.detachPair)
        state.withLock { $0.pairs[id] = nil }
    }

    func startCopy(_ id: PairID) async throws(DataPlaneError) {
        note(.startCopy)
        await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
            let isHeld = state.withLock { state in
                if state.isHolding { state.held = continuation }
                return state.isHolding
            }
            if !isHeld { continuation.resume() }
        }
        let event = state.withLock { state in
            let source = (state.pairs[id]?.opening.volume).flatMap { state.volumes[$0]?.byteCount } ?? 0
            state.pairs[id]?.status.copyTotalByteCount = source
            state.pairs[id]?.status.copyDoneByteCount = 0
            return self.change(&state, id, to: .unsynchronized, .synchronizing, reason: "")
        }
        guard let event else { throw DataPlaneError(.refused, "no such pair", refusal: .noSuchPair) }
        continuation.yield(event)
    }

    func suspend(_ id: PairID) async throws(DataPlaneError) {
        note(.suspend)
        let event = state.withLock { self.change(&$0, id, to: .suspended, .dormant, reason: "") }
        guard let event else { throw DataPlaneError(.refused, "no such pair", refusal: .noSuchPair) }
        continuation.yield(event)
    }

    func status() async throws(DataPlaneError) -> EngineStatus {
        state.withLock { state in
            var volumes = state.volumes.values.sorted { $0.id.rawValue < $1.id.rawValue }
            for index in volumes.indices {
                volumes[index].pairs = state.pairs.values.filter { $0.opening.volume == volumes[index].id }
                    .map(\.status)
            }
            let connections = volumes.reduce(0) { $0 + $1.connectionCount }
            return EngineStatus(volumes: volumes, connectionCount: connections, buffersTaken: 0)
        }
    }

    func listen(at address: FrontEndAddress) async throws(DataPlaneError) -> FrontEndAddress {
        note(.listen(address))
        return address
    }

    func stop() async {
        note(.stop)
        continuation.finish()
    }

    private func note(_ call: Call) {
        let hook = state.withLock { state in
            state.calls.append(call)
            return state.beforeCall
        }
        hook?(call)
    }

    private func failIfBroken(_ path: String) throws(DataPlaneError) {
        if let failure = state.withLock({ $0.failures[path] }) { throw failure }
    }

    private func change(
        _ state: inout State,
        _ id: PairID,
        to copyState: CopyState,
        _ progress: ProgressStatus,
        reason: String
    ) -> EngineEvent? {
        guard let pair = state.pairs[id] else { return nil }
        state.pairs[id]?.status.copyState = copyState
        state.pairs[id]?.status.progress = progress
        state.pairs[id]?.status.reason = reason
        if copyState == .synchronized { state.pairs[id]?.status.dirtyByteCount = 0 }
        store(pair.opening, copyState)
        let old = pair.status.copyState
        return EngineEvent(
            volume: pair.opening.volume,
            pair: id,
            kind: .copyStateChanged(from: old, to: copyState)
        )
    }

    private func store(_ pair: PairOpening, _ state: CopyState) {
        let record = PairRecord(
            sequence: 1,
            pair: pair.id,
            volumeByteCount: 1 << 20,
            copyState: state.rawValue,
            isClosedCleanly: true
        )
        let area = PairMetadata.area(with: record, insteadOf: "/dev/null")
        try? Data(area).write(to: URL(filePath: pair.metadataPath))
    }
}
