package import Foundation
package import RepldControlAPI
package import RepldCore
package import RepldDataPlane
package import RepldEngine

/// A peer as the registry keeps it.
package struct PeerEntry: Codable, Hashable, Sendable {
    /// Never used again for another peer.
    package var number: UInt64
    package var name: String
    package var host: String
    package var port: UInt16
    /// An absolute path; `nil` for plaintext, which is then said as well.
    package var keyFile: String?
    package var isPlaintext: Bool
    package var compression: PeerCompression
    package var createdAt: Date
    /// What its daemon calls itself (`PairID.description`); `nil` until it has said so.
    package var hostID: String?

    package init(
        number: UInt64,
        name: String,
        host: String,
        port: UInt16,
        keyFile: String?,
        compression: PeerCompression = .auto,
        createdAt: Date
    ) {
        self.number = number
        self.name = name
        self.host = host
        self.port = port
        self.keyFile = keyFile
        isPlaintext = keyFile == nil
        self.compression = compression
        self.createdAt = createdAt
    }

    package var id: PeerID { PeerID(rawValue: number) }
    package var address: String { PeerAddressText.text(host: host, port: port) }

    /// What the data plane is told of it.
    package var opening: PeerOpening {
        var settings = LinkSettings()
        settings.compression = compression.mode
        let security = keyFile.map { PeerOpening.Security.key(path: $0) } ?? .plaintext
        var opening = PeerOpening(id: id, name: name, host: host, port: port, security: security, settings: settings)
        opening.hostID = hostID.flatMap { PairID($0) }
        return opening
    }

    /// What contradicts itself, in words; `nil` when nothing does.
    var fault: String? {
        if let fault = ObjectName.fault(of: name) { return fault }
        if !PeerAddressText.isHost(host) || port == 0 { return "the address of peer '\(name)' is none: \(address)" }
        if isPlaintext == (keyFile != nil) { return "peer '\(name)' needs a key or plaintext, and not both" }
        if let keyFile, !keyFile.hasPrefix("/") { return "the key file of peer '\(name)' is no absolute path" }
        if let hostID, PairID(hostID) == nil {
            return "the host of peer '\(name)' is '\(hostID)', expected 32 lower-case hexadecimal digits"
        }
        return nil
    }
}

extension PeerCompression {
    /// The same for the data plane.
    package var mode: CompressionMode {
        switch self {
        case .auto: .automatic
        case .always: .always
        case .off: .off
        }
    }
}

/// A peer's volume that is the other element of a pair, as the registry keeps it.
///
/// Its geometry is what the peer told when the pair was made, so that the pair can be opened while the peer is away.
package struct RemoteTarget: Codable, Hashable, Sendable {
    /// The peer's name here.
    package var peer: String
    package var volume: String
    /// What the peer's daemon calls itself (`PairID.description`).
    package var hostID: String
    package var geometry: RemoteGeometry

    package init(peer: String, volume: String, hostID: String, geometry: RemoteGeometry) {
        self.peer = peer
        self.volume = volume
        self.hostID = hostID
        self.geometry = geometry
    }

    /// As people write it.
    package var text: String { RemoteVolumeText.text(peer: peer, volume: volume) }

    /// What contradicts itself, in words; `nil` when nothing does.
    var fault: String? {
        if let fault = ObjectName.fault(of: volume) { return "its target: \(fault)" }
        if PairID(hostID) == nil {
            return "the host of its target is '\(hostID)', expected 32 lower-case hexadecimal digits"
        }
        return geometry.fault.map { "its target: \($0)" }
    }
}

/// The geometry of a volume, as it travels between daemons and as the registry keeps it.
package struct RemoteGeometry: Codable, Hashable, Sendable {
    package var byteCount: UInt64
    package var logicalBlockByteCount: UInt32
    package var physicalBlockByteCount: UInt32
    package var canDiscard: Bool
    package var canZeroFast: Bool
    package var isDirect: Bool

    package init(_ geometry: ElementGeometry) {
        byteCount = geometry.byteCount
        logicalBlockByteCount = geometry.logicalBlockByteCount
        physicalBlockByteCount = geometry.physicalBlockByteCount
        canDiscard = geometry.canDiscard
        canZeroFast = geometry.canZeroFast
        isDirect = geometry.isDirect
    }

    package var element: ElementGeometry {
        ElementGeometry(
            byteCount: byteCount,
            logicalBlockByteCount: logicalBlockByteCount,
            physicalBlockByteCount: physicalBlockByteCount,
            isReadOnly: false,
            canDiscard: canDiscard,
            canZeroFast: canZeroFast,
            isDirect: isDirect
        )
    }

    /// What no volume has, in words; `nil` when it may be one's.
    var fault: String? {
        let blocks = [logicalBlockByteCount, physicalBlockByteCount]
        guard byteCount > 0, byteCount <= UInt64(Int64.max) else { return "its size is \(byteCount) bytes" }
        guard blocks.allSatisfy({ $0.nonzeroBitCount == 1 && $0 <= 1 << 20 }), blocks[0] >= 512 else {
            return "its blocks are \(blocks[0]) and \(blocks[1]) bytes, expected powers of two from 512"
        }
        return nil
    }
}

/// A volume of this host that is the other element of a peer's pair, as the registry keeps it.
package struct ReplicaEntry: Codable, Hashable, Sendable {
    /// The pair's (`PairID.description`).
    package var pair: String
    package var name: String
    package var volumeNumber: UInt64
    /// What the daemon calls itself that has the source (`PairID.description`).
    package var hostID: String
    /// The source's volume there.
    package var sourceVolume: String
    package var sourceByteCount: UInt64
    package var granuleByteCount: UInt32
    package var createdAt: Date
    /// The element that is here is the pair's second; otherwise the pair was made here, and has moved to the peer.
    package var isSecondHere = true
    /// When the source answers hosts; `nil` while it has not told.
    package var mode: ReplicationMode?

    package init(
        pair: PairID,
        name: String,
        volumeNumber: UInt64,
        hostID: String,
        sourceVolume: String,
        sourceByteCount: UInt64,
        granuleByteCount: UInt32,
        createdAt: Date
    ) {
        self.pair = pair.description
        self.name = name
        self.volumeNumber = volumeNumber
        self.hostID = hostID
        self.sourceVolume = sourceVolume
        self.sourceByteCount = sourceByteCount
        self.granuleByteCount = granuleByteCount
        self.createdAt = createdAt
    }

    /// `nil` for an entry that the registry would not take.
    package var id: PairID? { PairID(pair) }

    private enum CodingKeys: String, CodingKey {
        case pair, name, volumeNumber, hostID, sourceVolume, sourceByteCount, granuleByteCount, createdAt
        case isSecondHere, mode
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        pair = try container.decode(String.self, forKey: .pair)
        name = try container.decode(String.self, forKey: .name)
        volumeNumber = try container.decode(UInt64.self, forKey: .volumeNumber)
        hostID = try container.decode(String.self, forKey: .hostID)
        sourceVolume = try container.decode(String.self, forKey: .sourceVolume)
        sourceByteCount = try container.decode(UInt64.self, forKey: .sourceByteCount)
        granuleByteCount = try container.decode(UInt32.self, forKey: .granuleByteCount)
        createdAt = try container.decode(Date.self, forKey: .createdAt)
        isSecondHere = try container.decodeIfPresent(Bool.self, forKey: .isSecondHere) ?? true
        mode = try container.decodeIfPresent(ReplicationMode.self, forKey: .mode)
    }

    /// What contradicts itself, in words; `nil` when nothing does.
    func fault(in content: RegistryContent) -> String? {
        if let fault = ObjectName.fault(of: name) { return fault }
        let what = "replica '\(name)'"
        for id in [pair, hostID] where PairID(id) == nil {
            return "\(what) has the id '\(id)', expected 32 lower-case hexadecimal digits"
        }
        return content.volume(volumeNumber) == nil
            ? "\(what) belongs to volume number \(volumeNumber), which is not listed" : nil
    }
}
