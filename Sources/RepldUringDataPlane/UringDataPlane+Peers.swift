package import RepldCore
package import RepldDataPlane
package import RepldEngine
internal import RepldFormat
internal import RepldUring
internal import Synchronization

/// Peers and what they write here
extension UringDataPlane {
    package func addPeer(_ peer: PeerOpening) async throws(DataPlaneError) {
        let key = try await onWorker { () throws(DataPlaneError) in try Self.key(of: peer) }
        let address = PeerAddress(
            host: peer.host,
            port: peer.port,
            security: key.map { RepldUring.PeerSecurity.key($0) } ?? .plaintext
        )
        guard peers.note(peer.id, address, key) else {
            throw DataPlaneError(.refused, "peer '\(peer.name)'", refusal: .tableFull("keys of peers"))
        }
        var spec = PeerSpec<UringPlatform>(id: peer.id, name: peer.name, handle: address, settings: peer.settings)
        spec.host = peer.hostID
        do {
            try await ask("peer '\(peer.name)'") { [spec] in .link(.addPeer(spec, answer: $0)) }
        } catch {
            peers.forget(peer.id)
            throw error
        }
    }

    package func removePeer(_ id: PeerID) async throws(DataPlaneError) {
        try await ask("peer \(id.rawValue)") { .link(.removePeer(id, answer: $0)) }
        peers.forget(id)
    }

    package func configurePeer(_ id: PeerID, _ settings: LinkSettings) async throws(DataPlaneError) {
        try await ask("peer \(id.rawValue)") { .link(.configurePeer(id, settings, answer: $0)) }
    }

    package func listenToPeers(at address: PeerListening) async throws(DataPlaneError) -> PeerListening {
        let listener: Listener
        do {
            listener = try Listener.peers(
                host: address.host,
                port: address.port,
                keys: peers.keys,
                allowsPlaintext: address.allowsPlaintext
            )
        } catch {
            throw DataPlaneError(.listener, "\(error)")
        }
        try await ask("\(address.host) port \(address.port)") { .link(.listenToPeers(listener, answer: $0)) }
        var bound = address
        bound.port = listener.boundPort
        return bound
    }

    package func setMode(
        _ id: PairID,
        isAsynchronous: Bool,
        recoveryPointNanoseconds limit: UInt64
    ) async throws(DataPlaneError) {
        try await ask("pair \(id)") {
            .link(.setMode(id, isAsynchronous: isAsynchronous, recoveryPointNanoseconds: limit, answer: $0))
        }
    }

    package func setRecovery(_ id: PairID, isAutomatic: Bool) async throws(DataPlaneError) {
        try await ask("pair \(id)") { .link(.setRecovery(id, isAutomatic: isAutomatic, answer: $0)) }
    }

    package func addReplica(_ replica: ReplicaOpening) async throws(DataPlaneError) {
        let (record, block) = try await onWorker { () throws(DataPlaneError) in try Self.record(in: replica.metadata) }
        let file = try await open(replica.metadata.path, isReadOnly: false)
        var spec = ReplicaSpec<UringPlatform>(
            volume: replica.volume,
            pair: replica.pair,
            name: replica.name,
            metadata: ElementSpec(handle: file, geometry: file.geometry, name: "\(replica.metadata)"),
            metadataOffset: replica.metadata.offset,
            record: record
        )
        spec.recordBlock = block
        try await takeUndo(replica, into: &spec)
        try await ask("replica '\(replica.name)'") { [spec] in .link(.addReplica(spec, answer: $0)) }
    }

    /// Opens the area in which a replica keeps what its peer overwrites, and reads what it says.
    private func takeUndo(
        _ replica: ReplicaOpening,
        into spec: inout ReplicaSpec<UringPlatform>
    ) async throws(DataPlaneError) {
        guard let served = try await status().volumes.first(where: { $0.id == replica.volume }) else { return }
        // Where the peer has told nothing yet, nothing is kept.
        var record =
            spec.record
            ?? PairRecord(
                sequence: 1,
                pair: replica.pair,
                volumeByteCount: served.byteCount,
                copyState: 0,
                isClosedCleanly: false
            )
        // The replica may be larger than the source.
        record.volumeByteCount = served.byteCount
        record.granuleShift = UInt8(replica.granuleByteCount.trailingZeroBitCount)
        let area = UndoOpening(
            pair: replica.name,
            path: replica.undoPath,
            granuleByteCount: replica.granuleByteCount,
            isKept: true
        )
        let file = try await prepareUndo(area, record, blockByteCount: served.blockByteCount)
        spec.granuleByteCount = replica.granuleByteCount
        spec.undoArea = file.element.map { ElementSpec(handle: $0, geometry: $0.geometry, name: replica.undoPath) }
        spec.undo = file.undo
    }

    package func removeReplica(_ id: PairID) async throws(DataPlaneError) {
        try await ask("replica \(id)") { .link(.removeReplica(id, answer: $0)) }
    }

    package func send(_ bytes: [UInt8], to peer: PeerID) async throws(MessageFailure) -> [UInt8] {
        let result: Result<[UInt8], MessageFailure> = await withCheckedContinuation { continuation in
            let isSent = mailbox.send(.link(.send(peer, bytes) { continuation.resume(returning: $0) }))
            if !isSent { continuation.resume(returning: .failure(.stopping)) }
        }
        // Connecting has better words for it than the engine, which sees a number.
        if case .failure(.notConnected) = result, let words = peers.trouble(of: peer) { throw .notConnected(words) }
        return try result.get()
    }

    package func reply(to token: UInt64, with bytes: [UInt8]) {
        _ = mailbox.send(.link(.reply(token: token, bytes)))
    }

    /// The other element of a pair, opened where it is this host's.
    func open(_ target: TargetOpening) async throws(DataPlaneError) -> TargetSpec<UringPlatform> {
        switch target {
        case .local(let path):
            let element = try await open(path, isReadOnly: false)
            return .local(ElementSpec(handle: element, geometry: element.geometry, name: path))
        case .remote(let peer, let geometry):
            return .remote(peer, geometry)
        }
    }

    /// What the peer told last, and the block that has it; `nil` where it has told nothing, or what it told is lost: it tells
    /// that again.
    private static func record(in place: MetadataPlace) throws(DataPlaneError) -> (PairRecord?, block: Int) {
        do {
            switch try PairMetadata.read(place) {
            case .found(let record), .older(let record, _):
                return (record, try PairMetadata.block(of: record, in: place))
            case .blank, .lost: return (nil, 1)
            }
        } catch {
            throw DataPlaneError(.metadata, "\(error)")
        }
    }

    /// The key that a peer is known by; `nil` for plaintext.
    private static func key(of peer: PeerOpening) throws(DataPlaneError) -> PeerKey? {
        guard case .key(let path) = peer.security else { return nil }
        do {
            return try PeerKey.read(path: path)
        } catch {
            throw DataPlaneError(.element, "\(error)")
        }
    }
}

/// The peers that the loop keeps in touch with: their keys, which open the way in as well, and what became of connecting.
final class OpenPeers: Sendable {
    private struct Entry: Sendable {
        var id: PeerID
        var address: PeerAddress
        var key: PeerKey?
    }

    let keys = PeerKeySet()
    private let entries = Mutex<[Entry]>([])

    /// False, with nothing changed, where there are too many keys.
    func note(_ id: PeerID, _ address: PeerAddress, _ key: PeerKey?) -> Bool {
        entries.withLock { entries in
            let changed = entries.filter { $0.id != id } + [Entry(id: id, address: address, key: key)]
            guard keys.replace(with: changed.compactMap(\.key)) else { return false }
            entries = changed
            return true
        }
    }

    func forget(_ id: PeerID) {
        entries.withLock { entries in
            entries.removeAll { $0.id == id }
            keys.replace(with: entries.compactMap(\.key))
        }
    }

    /// Says why peers are not connected, where connecting has words for it that the engine has not.
    func explain(_ statuses: inout [PeerStatus]) {
        for index in statuses.indices where !statuses[index].isConnected {
            if let words = trouble(of: statuses[index].id) { statuses[index].reason = words }
        }
    }

    /// Why connecting failed last, in words; `nil` where it has not, or there is no such peer.
    func trouble(of id: PeerID) -> String? {
        entries.withLock { $0 }.first { $0.id == id }?.address.trouble.note.words
    }
}
