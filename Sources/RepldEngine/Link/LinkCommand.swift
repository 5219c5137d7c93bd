package import RepldCore
package import RepldFormat

/// Names a peer to the engine; given by the control plane, never used again for another peer.
package struct PeerID: Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// When what is sent to a peer is compressed.
package enum CompressionMode: UInt8, Sendable, Hashable, CaseIterable, BitwiseCopyable {
    /// While it makes the pair faster, by measurement.
    case automatic
    case always
    case off
}

/// How a link to a peer behaves.
package struct LinkSettings: Sendable, Hashable {
    /// How often the peer is asked whether it is there, in nanoseconds.
    package var keepAliveNanoseconds: UInt64 = 1_000_000_000
    /// How long the peer may be silent before the link counts as lost, in nanoseconds.
    package var silenceNanoseconds: UInt64 = 5_000_000_000
    /// Between two attempts to connect, in nanoseconds.
    package var retryNanoseconds: UInt64 = 1_000_000_000
    package var compression = CompressionMode.automatic

    package init() {}
}

/// A peer to keep in touch with.
package struct PeerSpec<P: Platform & ~Copyable>: Sendable {
    package var id: PeerID
    /// The name that people know it by.
    package var name: String
    package var handle: P.PeerHandle
    package var settings: LinkSettings
    /// What its daemon has called itself before; `nil` where it has never been heard of.
    package var host: PairID?

    package init(id: PeerID, name: String, handle: P.PeerHandle, settings: LinkSettings = LinkSettings()) {
        self.id = id
        self.name = name
        self.handle = handle
        self.settings = settings
    }
}

/// Where the other element of a pair is.
package enum TargetSpec<P: Platform & ~Copyable>: Sendable {
    /// An element of this host, by path.
    case local(ElementSpec<P>)
    /// The volume that a peer serves as a replica of this pair; its geometry as the peer told it.
    case remote(PeerID, ElementGeometry)

    package var geometry: ElementGeometry {
        switch self {
        case .local(let spec): spec.geometry
        case .remote(_, let geometry): geometry
        }
    }
}

/// A volume of this host that is to be the other element of a pair whose source is a peer's.
///
/// While it is one, only the peer writes it: its own exports are closed.
package struct ReplicaSpec<P: Platform & ~Copyable>: Sendable {
    package var volume: VolumeID
    package var pair: PairID
    /// The name that people know the pair by.
    package var name: String
    /// Where the last record is kept that the peer told of.
    package var metadata: ElementSpec<P>
    /// Where the area begins in that element, in bytes: a multiple of 4096.
    package var metadataOffset: UInt64
    /// What that area said when it was opened; `nil` while the peer has told nothing.
    package var record: PairRecord?
    /// The block of the area that has it, 0 or 1.
    package var recordBlock = 1
    /// Where it keeps what its peer overwrites, of `UndoLayout.areaByteCount` bytes for the volume at least; `nil` where it keeps nothing.
    package var undoArea: ElementSpec<P>?
    /// What that area says, where the record counts on it.
    package var undo: RecoveredUndo?
    /// In which old content is kept, in bytes.
    package var granuleByteCount: UInt32 = 64 << 10

    package init(
        volume: VolumeID,
        pair: PairID,
        name: String,
        metadata: ElementSpec<P>,
        metadataOffset: UInt64 = 0,
        record: PairRecord?
    ) {
        self.volume = volume
        self.pair = pair
        self.name = name
        self.metadata = metadata
        self.metadataOffset = metadataOffset
        self.record = record
    }
}

/// A question from a peer's control plane to ours, in bytes that the engine does not look at.
package struct PeerMessage: Sendable, Hashable {
    /// What the answer is given with; of no meaning once the connection is gone.
    package var token: UInt64
    /// The host that asks.
    package var host: PairID
    package var bytes: [UInt8]

    package static var byteCountMaximum: Int { 64 << 10 }

    package init(token: UInt64, host: PairID, bytes: [UInt8]) {
        self.token = token
        self.host = host
        self.bytes = bytes
    }
}

/// Why a message was not answered.
package enum MessageFailure: Error, Hashable, Sendable {
    case noSuchPeer
    /// The peer is not connected now; why not.
    case notConnected(String)
    /// The connection was lost, or time ran out: it may have been carried out.
    case noAnswer
    case tooLong(byteCount: Int)
    case stopping
}

/// One thing about peers that the control plane asks of a data-plane thread.
package enum LinkCommand<P: Platform & ~Copyable>: Sendable {
    /// Keeps a connection to the peer from now on; answered before there is one.
    case addPeer(PeerSpec<P>, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Changes how the link to a peer behaves, at once.
    case configurePeer(PeerID, LinkSettings, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Refused while a pair's target is there.
    case removePeer(PeerID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    case listenToPeers(P.ListenerHandle, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Lets a peer write a volume that is served; refused while it has hosts or pairs.
    case addReplica(ReplicaSpec<P>, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// The volume is this host's own again; answered when nothing of the peer is in flight.
    case removeReplica(PairID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Whether hosts are answered before the target of a pair has their writes, and how old what it lacks may become, in
    /// nanoseconds; at once.
    case setMode(
        PairID,
        isAsynchronous: Bool,
        recoveryPointNanoseconds: UInt64,
        answer: @Sendable (Result<Void, EngineRefusal>) -> Void
    )
    /// Whether a pair mirrors again by itself when its peer is back; from the next time on.
    case setRecovery(PairID, isAutomatic: Bool, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// What concerns pairs that move to the other daemon.
    case handover(HandoverCommand<P>)
    /// Asks the peer's control plane something.
    case send(PeerID, [UInt8], answer: @Sendable (Result<[UInt8], MessageFailure>) -> Void)
    /// Answers a `PeerMessage`.
    case reply(token: UInt64, [UInt8])
}

/// How it stands with a peer.
package struct PeerStatus: Sendable, Hashable {
    package var id: PeerID
    package var name: String
    package var isConnected: Bool
    /// Why it is not connected; empty when it is, or was never tried.
    package var reason: String
    /// Measured with the last keep-alive, in nanoseconds; 0 before the first.
    package var roundTripNanoseconds: UInt64 = 0
    package var sentByteCount: UInt64 = 0
    package var receivedByteCount: UInt64 = 0
    /// Of what was to be sent compressed: bytes before and after.
    package var plainByteCount: UInt64 = 0
    package var compressedByteCount: UInt64 = 0

    package init(id: PeerID, name: String, isConnected: Bool, reason: String) {
        self.id = id
        self.name = name
        self.isConnected = isConnected
        self.reason = reason
    }
}

/// How it stands with a volume that is a peer's replica.
package struct ReplicaStatus: Sendable, Hashable {
    package var pair: PairID
    package var name: String
    package var volume: VolumeID
    package var isConnected: Bool
    /// What the peer told last; `nil` when it has told nothing.
    package var record: PairRecord?
    /// How much of what a copy has overwritten can be taken back, in bytes; `nil` where nothing is kept.
    package var keptByteCount: UInt64?

    package init(pair: PairID, name: String, volume: VolumeID, isConnected: Bool, record: PairRecord?) {
        self.pair = pair
        self.name = name
        self.volume = volume
        self.isConnected = isConnected
        self.record = record
    }
}
