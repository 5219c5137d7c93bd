package import Foundation

/// Asks for a peer: `POST /v1/peers`.
package struct PeerAddRequest: StrictRequest, Hashable {
    package var name: String
    /// `HOST` or `HOST:PORT`.
    package var address: String
    /// The file with the key that both hosts have; an absolute path.
    package var keyFile: String?
    /// Without a key, so that nobody is checked and nothing encrypted; one of the two has to be given.
    package var plaintext: Bool?
    /// When what is sent there is compressed; by default auto.
    package var compression: PeerCompression?

    package enum CodingKeys: String, CodingKey, CaseIterable { case name, address, keyFile, plaintext, compression }

    package init(
        name: String,
        address: String,
        keyFile: String? = nil,
        plaintext: Bool? = nil,
        compression: PeerCompression? = nil
    ) {
        self.name = name
        self.address = address
        self.keyFile = keyFile
        self.plaintext = plaintext
        self.compression = compression
    }
}

/// Changes what is set about a peer: `POST /v1/peers/{name}/Configure`.
///
/// What is not given stays as it is.
package struct PeerConfigureRequest: StrictRequest, Hashable {
    package var compression: PeerCompression?

    package enum CodingKeys: String, CodingKey, CaseIterable { case compression }

    package init(compression: PeerCompression? = nil) { self.compression = compression }
}

/// When what is sent to a peer is compressed.
package enum PeerCompression: String, Codable, Hashable, Sendable, CaseIterable {
    /// While it makes pairs faster, by measurement.
    case auto
    case always
    case off
}

/// A peer as `GET /v1/peers/{name}` shows it.
package struct PeerReply: Codable, Hashable, Sendable {
    package var name: String
    /// `HOST:PORT`.
    package var address: String
    /// Absent where there is none: plaintext.
    package var keyFile: String?
    package var plaintext: Bool
    package var compression: PeerCompression
    /// What the peer's daemon calls itself: 32 hexadecimal digits; absent until it has said so.
    package var host: String?
    package var isConnected: Bool
    /// Why it is not connected; absent when it is.
    package var reason: String?
    /// Absent until it was measured.
    package var roundTripMicroseconds: Double?
    package var sentByteCount: UInt64
    package var receivedByteCount: UInt64
    /// Of what was compressed before it was sent: its bytes before and after.
    package var plainByteCount: UInt64
    package var compressedByteCount: UInt64
    /// Bytes before for each byte after; absent where nothing was compressed.
    package var compressionRatio: Double?
    /// The pairs whose other element is there.
    package var pairs: [String]
    package var createdAt: Date

    package init(
        name: String,
        address: String,
        keyFile: String?,
        compression: PeerCompression,
        host: String? = nil,
        isConnected: Bool,
        reason: String?,
        pairs: [String] = [],
        createdAt: Date
    ) {
        self.name = name
        self.address = address
        self.keyFile = keyFile
        self.plaintext = keyFile == nil
        self.compression = compression
        self.host = host
        self.isConnected = isConnected
        self.reason = reason
        self.sentByteCount = 0
        self.receivedByteCount = 0
        self.plainByteCount = 0
        self.compressedByteCount = 0
        self.pairs = pairs
        self.createdAt = createdAt
    }
}

/// All peers, by name.
package struct PeerListReply: Codable, Hashable, Sendable {
    package var peers: [PeerReply]
    package init(peers: [PeerReply]) { self.peers = peers }
}

/// Which element of a pair between two hosts this host has.
package enum PairRole: String, Codable, Hashable, Sendable, CaseIterable {
    /// The pair was made here, and its hosts are served here.
    case source
    /// The pair is a peer's, and one of this host's volumes is its other element.
    case replica
}

/// The other host of a pair.
package struct PairPeerReply: Codable, Hashable, Sendable {
    /// Its name here; what its daemon calls itself where no peer is known by that.
    package var name: String
    /// The volume that is the pair's element there.
    package var volume: String
    package var isConnected: Bool
    /// Why it is not connected; absent when it is.
    package var reason: String?

    package init(name: String, volume: String, isConnected: Bool, reason: String?) {
        self.name = name
        self.volume = volume
        self.isConnected = isConnected
        self.reason = reason
    }
}
