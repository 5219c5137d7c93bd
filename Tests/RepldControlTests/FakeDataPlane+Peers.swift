import RepldControl
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization

/// What joins two fakes: the messages of two daemons, in memory.
final class FakeLink: Sendable {
    /// What becomes of the next message that asks for more than a name.
    enum Loss: Hashable, Sendable {
        /// It never arrives.
        case message
        /// It is carried out, and the answer never arrives.
        case answer
        /// It never arrives: the connection is dead, which is found out by it.
        case connection
    }

    private struct State {
        var ends: [FakeDataPlane] = []
        var cut: String?
        var dead: [FakeDataPlane] = []
        var losses: [Loss] = []
        var sent: [PeerRequest] = []
    }

    private let state = Mutex(State())

    init(_ first: FakeDataPlane, _ second: FakeDataPlane) {
        join([first, second])
    }

    private func join(_ ends: [FakeDataPlane]) {
        state.withLock { $0.ends = ends }
        for end in ends { end.state.withLock { $0.link = self } }
    }

    /// Puts the data plane of a daemon that was started again in the place of the one before.
    func replace(_ old: FakeDataPlane, by new: FakeDataPlane) {
        state.withLock { $0.dead.removeAll { $0 === old } }
        join(state.withLock { $0.ends }.map { $0 === old ? new : $0 })
    }

    func cut(_ reason: String = "the cable is out") { state.withLock { $0.cut = reason } }
    func mend() { state.withLock { $0.cut = nil } }
    func lose(_ losses: Loss...) { lose(losses) }
    func lose(_ losses: [Loss]) { state.withLock { $0.losses = losses } }

    /// The daemon of an end is killed: nothing that it says is heard any more, and nobody answers in its place.
    func kill(_ end: FakeDataPlane) { state.withLock { $0.dead.append(end) } }

    /// The other end; `nil` where one of the two is not there.
    func other(than end: FakeDataPlane) -> FakeDataPlane? {
        let ends = state.withLock { $0.dead.isEmpty ? $0.ends : [] }
        return ends.contains { $0 === end } ? ends.first { $0 !== end } : nil
    }

    var cutReason: String? { state.withLock { $0.cut ?? ($0.dead.isEmpty ? nil : "its daemon was killed") } }
    /// What was asked through it, whether it arrived or not.
    var sent: [PeerRequest] { state.withLock { $0.sent } }

    func pass(_ bytes: [UInt8], from end: FakeDataPlane, host: PairID) async throws(MessageFailure) -> [UInt8] {
        let loss = state.withLock { state in
            let request = try? PeerMessages.decode(bytes)
            if let request { state.sent.append(request) }
            let isLost = request != .identify(IdentifyMessage()) && !state.losses.isEmpty
            return isLost ? state.losses.removeFirst() : nil
        }
        if loss == .connection { cut() }
        guard let other = other(than: end), loss != .message, loss != .connection else { throw .noAnswer }
        let answer = await other.hear(bytes, from: host)
        guard loss != .answer, self.other(than: end) === other else { throw .noAnswer }
        return try answer.get()
    }
}

/// Peers, as far as the control plane can see them
extension FakeDataPlane {
    func addPeer(_ peer: PeerOpening) async throws(DataPlaneError) {
        note(.addPeer(peer.name))
        if case .key(let path) = peer.security { try failIfBroken(path) }
        state.withLock { $0.peers[peer.id] = peer }
    }

    func removePeer(_ id: PeerID) async throws(DataPlaneError) {
        note(.removePeer)
        state.withLock { $0.peers[id] = nil }
    }

    func configurePeer(_ id: PeerID, _ settings: LinkSettings) async throws(DataPlaneError) {
        note(.configurePeer(settings.compression))
        try failIfBroken("peer settings")
        state.withLock { $0.peers[id]?.settings = settings }
    }

    func listenToPeers(at address: PeerListening) async throws(DataPlaneError) -> PeerListening {
        note(.listenToPeers(address))
        return address
    }

    func addReplica(_ replica: ReplicaOpening) async throws(DataPlaneError) {
        note(.addReplica(replica.name))
        try failIfBroken("replica")
        let refusal = state.withLock { state -> EngineRefusal? in
            guard let volume = state.volumes[replica.volume] else { return .noSuchVolume }
            guard volume.connectionCount == 0 else { return .volumeInUse(connectionCount: volume.connectionCount) }
            state.replicas[replica.pair] = replica
            state.volumes[replica.volume]?.isWithheld = false
            state.volumes[replica.volume]?.isTakenOver = false
            Self.rest(pairsOf: replica.volume, true, &state)
            return nil
        }
        if let refusal { throw DataPlaneError(.refused, "refused", refusal: refusal) }
        // Whoever waits to be told may be told now.
        state.withLock { $0.link }?.other(than: self)?.askPeers()
    }

    func removeReplica(_ id: PairID) async throws(DataPlaneError) {
        note(.removeReplica)
        state.withLock { state in
            if let volume = state.replicas.removeValue(forKey: id)?.volume { Self.rest(pairsOf: volume, false, &state) }
        }
    }

    /// Nothing flows in the pairs of a replica.
    static func rest(pairsOf volume: VolumeID, _ isReplica: Bool, _ state: inout State) {
        for (id, pair) in state.pairs where pair.opening.volume == volume {
            state.pairs[id]?.status.facts.isSourceReplica = isReplica
            let flowing: [CopyState] = [.synchronized, .unsynchronized, .skewed, .partitioned]
            guard isReplica, flowing.contains(pair.status.copyState) else { continue }
            state.pairs[id]?.status.copyState = .suspended
            state.pairs[id]?.status.facts.copyState = .suspended
            state.pairs[id]?.status.facts.operation = nil
        }
    }

    func setMode(
        _ id: PairID,
        isAsynchronous: Bool,
        recoveryPointNanoseconds: UInt64
    ) async throws(DataPlaneError) {
        note(.setMode(isAsynchronous: isAsynchronous, recoveryPointNanoseconds: recoveryPointNanoseconds))
        try failIfBroken("mode")
    }

    func setRecovery(_ id: PairID, isAutomatic: Bool) async throws(DataPlaneError) {
        note(.setRecovery(isAutomatic: isAutomatic))
        try failIfBroken("recovery")
        try state.withLock { state throws(DataPlaneError) in
            guard state.pairs[id] != nil else { throw DataPlaneError(.refused, "refused", refusal: .noSuchPair) }
            state.pairs[id]?.opening.settings.recoversByItself = isAutomatic
        }
    }

    func send(_ bytes: [UInt8], to peer: PeerID) async throws(MessageFailure) -> [UInt8] {
        guard bytes.count <= PeerMessage.byteCountMaximum else { throw .tooLong(byteCount: bytes.count) }
        let (link, host, isKnown) = state.withLock { ($0.link, $0.host, $0.peers[peer] != nil) }
        guard isKnown else { throw .noSuchPeer }
        guard let link else { throw .notConnected("nobody is there") }
        if let reason = link.cutReason { throw .notConnected(reason) }
        return try await link.pass(bytes, from: self, host: host)
    }

    func reply(to token: UInt64, with bytes: [UInt8]) {
        state.withLock { $0.questions.removeValue(forKey: token) }?.resume(returning: .success(bytes))
    }

    /// Lets the service answer a message of `host`, of whatever bytes.
    func hear(_ bytes: [UInt8], from host: PairID) async -> Result<[UInt8], MessageFailure> {
        await withCheckedContinuation { continuation in
            let message = state.withLock { state -> PeerMessage? in
                if state.hasStopped { return nil }
                let token = state.nextToken
                state.nextToken += 1
                state.questions[token] = continuation
                return PeerMessage(token: token, host: host, bytes: bytes)
            }
            guard let message else { return continuation.resume(returning: .failure(.noAnswer)) }
            messageContinuation.yield(message)
        }
    }

    func stopTalking() {
        messageContinuation.finish()
        let questions = state.withLock { state in
            state.hasStopped = true
            defer { state.questions = [:] }
            return Array(state.questions.values)
        }
        for question in questions { question.resume(returning: .failure(.noAnswer)) }
    }

    static func peers(of state: State) -> [PeerStatus] {
        state.peers.values.map { peer in
            let reason = state.link == nil ? "connection refused" : state.link?.cutReason
            var status = PeerStatus(
                id: peer.id,
                name: peer.name,
                isConnected: reason == nil,
                reason: reason ?? ""
            )
            status.roundTripNanoseconds = 250_000
            status.sentByteCount = 5000
            status.plainByteCount = 8000
            status.compressedByteCount = 2000
            return status
        }
    }

    static func replicas(of state: State) -> [ReplicaStatus] {
        state.replicas.values.map { replica in
            var status = ReplicaStatus(
                pair: replica.pair,
                name: replica.name,
                volume: replica.volume,
                isConnected: state.link?.cutReason == nil,
                record: (try? PairMetadata.read(replica.metadata))?.record
            )
            status.keptByteCount = status.record?.hasUndo ?? false ? state.keptByteCount : nil
            return status
        }
    }

    /// What the source has told of a pair whose replica is here.
    func hearRecord(
        _ copyState: CopyState,
        _ operation: ReplicationOperation? = nil,
        _ change: (inout PairRecord) -> Void = { _ in }
    ) {
        for replica in state.withLock({ Array($0.replicas.values) }) {
            var record = PairRecord(
                sequence: 1,
                pair: replica.pair,
                volumeByteCount: 1 << 20,
                copyState: copyState.rawValue,
                isClosedCleanly: false
            )
            record.operation = operation?.rawValue ?? 0
            change(&record)
            try? PairMetadata.begin(record, in: replica.metadata)
        }
    }

    /// Whether a volume is a peer's replica.
    func isReplica(_ volume: String) -> Bool {
        state.withLock { state in
            let id = state.volumes.first { $0.value.name == volume }?.key
            return state.replicas.values.contains { $0.volume == id }
        }
    }

    /// Whether hosts can use a volume.
    func isExported(_ volume: String) -> Bool {
        state.withLock { state in
            guard let id = state.volumes.first(where: { $0.value.name == volume })?.key else { return false }
            let isWithheld = state.volumes[id]?.isWithheld ?? false
            return !isWithheld && !state.replicas.values.contains { $0.volume == id }
        }
    }
}
