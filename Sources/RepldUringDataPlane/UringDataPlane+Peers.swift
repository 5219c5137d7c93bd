package import RepldCore
package import RepldDataPlane
package import RepldEngine
internal import RepldFormat
internal import RepldUring

/// Peers and what they write here
extension UringDataPlane {
    package func addPeer(_ peer: PeerOpening) async throws(DataPlaneError) {
        throw Self.noConnections("peer '\(peer.name)'")
    }

    package func removePeer(_ id: PeerID) async throws(DataPlaneError) {
        try await ask("peer \(id.rawValue)") { .link(.removePeer(id, answer: $0)) }
    }

    package func listenToPeers(at address: PeerListening) async throws(DataPlaneError) -> PeerListening {
        throw Self.noConnections("\(address.host) port \(address.port)")
    }

    package func addReplica(_ replica: ReplicaOpening) async throws(DataPlaneError) {
        let record = try Self.record(in: replica.metadata)
        let file = try await open(replica.metadata.path, isReadOnly: false)
        let spec = ReplicaSpec<UringPlatform>(
            volume: replica.volume,
            pair: replica.pair,
            name: replica.name,
            metadata: ElementSpec(handle: file, geometry: file.geometry, name: "\(replica.metadata)"),
            metadataOffset: replica.metadata.offset,
            record: record
        )
        try await ask("replica '\(replica.name)'") { .link(.addReplica(spec, answer: $0)) }
    }

    package func removeReplica(_ id: PairID) async throws(DataPlaneError) {
        try await ask("replica \(id)") { .link(.removeReplica(id, answer: $0)) }
    }

    package func send(_ bytes: [UInt8], to peer: PeerID) async throws(MessageFailure) -> [UInt8] {
        let result: Result<[UInt8], MessageFailure> = await withCheckedContinuation { continuation in
            let isSent = mailbox.send(.link(.send(peer, bytes) { continuation.resume(returning: $0) }))
            if !isSent { continuation.resume(returning: .failure(.stopping)) }
        }
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

    /// What the peer told last; `nil` where it has told nothing, or what it told is lost: it tells that again.
    private static func record(in place: MetadataPlace) throws(DataPlaneError) -> PairRecord? {
        let recovery: PairRecordRecovery
        do {
            recovery = try PairMetadata.read(place)
        } catch {
            throw DataPlaneError(.metadata, "\(error)")
        }
        return switch recovery {
        case .found(let record), .older(let record, _): record
        case .blank, .lost: nil
        }
    }

    private static func noConnections(_ subject: String) -> DataPlaneError {
        DataPlaneError(.refused, "\(subject): this daemon cannot connect to peers")
    }
}
