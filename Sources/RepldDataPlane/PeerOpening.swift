package import RepldCore
package import RepldEngine

/// A peer that the data plane is to keep in touch with.
package struct PeerOpening: Hashable, Sendable {
    /// How the two hosts prove to each other who they are.
    package enum Security: Hashable, Sendable {
        /// By a key that both have, in a file of this host; what is sent is encrypted.
        case key(path: String)
        /// Not at all, and nothing is encrypted: for links that nobody else can reach.
        case plaintext
    }

    package var id: PeerID
    /// The name that people know it by.
    package var name: String
    /// A name or an address, resolved anew with each attempt to connect.
    package var host: String
    package var port: UInt16
    package var security: Security
    package var settings: LinkSettings
    /// What its daemon has called itself before; `nil` where it has never been heard of.
    package var hostID: PairID?

    package init(
        id: PeerID,
        name: String,
        host: String,
        port: UInt16,
        security: Security,
        settings: LinkSettings = LinkSettings()
    ) {
        self.id = id
        self.name = name
        self.host = host
        self.port = port
        self.security = security
        self.settings = settings
    }
}

/// Where peers connect.
package struct PeerListening: Hashable, Sendable {
    package var host: String
    /// 0 takes a free one.
    package var port: UInt16
    /// Whether a peer may come without a key.
    package var allowsPlaintext: Bool

    package init(host: String, port: UInt16, allowsPlaintext: Bool = false) {
        self.host = host
        self.port = port
        self.allowsPlaintext = allowsPlaintext
    }
}

/// A volume that the data plane is to give to a peer, as the other element of a pair of that peer's.
package struct ReplicaOpening: Hashable, Sendable {
    package var volume: VolumeID
    package var pair: PairID
    /// The name that people know the pair by.
    package var name: String
    /// Has two blocks for records; what the peer tells of the pair is kept there.
    package var metadata: MetadataPlace
    /// The file in which is kept what the peer overwrites; made where it is missing.
    package var undoPath: String
    /// In which that is kept, in bytes.
    package var granuleByteCount: UInt32

    package init(
        volume: VolumeID,
        pair: PairID,
        name: String,
        metadata: MetadataPlace,
        undoPath: String,
        granuleByteCount: UInt32
    ) {
        self.volume = volume
        self.pair = pair
        self.name = name
        self.metadata = metadata
        self.undoPath = undoPath
        self.granuleByteCount = granuleByteCount
    }
}

/// Where the element of a pair is that does not serve hosts.
package enum TargetOpening: Hashable, Sendable {
    /// An absolute path of a file or block device of this host.
    case local(path: String)
    /// A volume of a peer, with the geometry that the peer told.
    case remote(PeerID, ElementGeometry)

    /// The path of an element of this host; `nil` for a peer's.
    package var path: String? {
        if case .local(let path) = self { path } else { nil }
    }
}
