package import Foundation
internal import RepldControlAPI
package import RepldCore
package import SystemPackage

/// Everything the registry keeps.
///
/// Version 2 has what version 1 has not, all of it optional: the mode and times of pairs, sizes of volumes, what
/// elements were, and aspects. Version 3 adds peers, pairs whose target is a peer's, and replicas of peers' pairs; a daemon
/// that knows only version 2 would not attach those, and refuses the file. Since version 4 pairs may have moved from one host
/// to the other: a daemon that knows only version 3 would let hosts come before it has asked the peer. Since version 5 a pair whose
/// link was lost may wait for Resume: a daemon that knows only version 4 would copy over its target. Since version 6 a volume that is
/// a replica may have pairs of its own, which rest.
package struct RegistryContent: Codable, Hashable, Sendable {
    package static var formatName: String { "repld registry" }
    package static var newestVersion: Int { 6 }

    package var format = Self.formatName
    package var version = Self.newestVersion
    package var nextVolumeNumber: UInt64 = 1
    package var volumes: [VolumeEntry] = []
    package var pairs: [PairEntry] = []
    /// What dissolved pairs have left, the newest last.
    package var aspects: [SynchronizationAspect] = []
    package var nextPeerNumber: UInt64 = 1
    package var peers: [PeerEntry] = []
    /// Volumes that are the other elements of peers' pairs.
    package var replicas: [ReplicaEntry] = []

    /// How many aspects are kept; of more the oldest go.
    package static var aspectLimit: Int { 256 }

    package init() {}

    private enum CodingKeys: String, CodingKey {
        case format, version, nextVolumeNumber, volumes, pairs, aspects
        case nextPeerNumber, peers, replicas
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        format = try container.decode(String.self, forKey: .format)
        nextVolumeNumber = try container.decode(UInt64.self, forKey: .nextVolumeNumber)
        volumes = try container.decode([VolumeEntry].self, forKey: .volumes)
        pairs = try container.decode([PairEntry].self, forKey: .pairs)
        aspects = try container.decodeIfPresent([SynchronizationAspect].self, forKey: .aspects) ?? []
        nextPeerNumber = try container.decodeIfPresent(UInt64.self, forKey: .nextPeerNumber) ?? 1
        peers = try container.decodeIfPresent([PeerEntry].self, forKey: .peers) ?? []
        replicas = try container.decodeIfPresent([ReplicaEntry].self, forKey: .replicas) ?? []
    }

    /// Keeps an aspect, and forgets the oldest where there are too many.
    package mutating func keep(_ aspect: SynchronizationAspect) {
        aspects.append(aspect)
        if aspects.count > Self.aspectLimit { aspects.removeFirst(aspects.count - Self.aspectLimit) }
    }

    package func volume(named name: String) -> VolumeEntry? { volumes.first { $0.name == name } }
    package func volume(_ number: UInt64) -> VolumeEntry? { volumes.first { $0.number == number } }
    package func pair(named name: String) -> PairEntry? { pairs.first { $0.name == name } }
    package func pair(_ id: PairID) -> PairEntry? { pairs.first { $0.id == id } }
    package func peer(named name: String) -> PeerEntry? { peers.first { $0.name == name } }
    package func peer(ofHost hostID: String) -> PeerEntry? { peers.first { $0.hostID == hostID } }
    package func replica(named name: String) -> ReplicaEntry? { replicas.first { $0.name == name } }
    package func replica(_ id: PairID) -> ReplicaEntry? { replicas.first { $0.id == id } }
    package func replica(of volume: VolumeEntry) -> ReplicaEntry? {
        replicas.first { $0.volumeNumber == volume.number }
    }
    package func pairs(of volume: VolumeEntry) -> [PairEntry] { pairs.filter { $0.volumeNumber == volume.number } }

    /// What contradicts itself, in words; `nil` when nothing does.
    package var fault: String? {
        if let name = Self.repeated(volumes.map(\.name)) { return "the volume '\(name)' is listed twice" }
        if let name = Self.repeated(pairs.map(\.name) + replicas.map(\.name)) {
            return "the pair '\(name)' is listed twice"
        }
        if let id = Self.repeated(pairs.map(\.id.description) + replicas.map(\.pair)) {
            return "the pair id \(id) is listed twice"
        }
        if let number = Self.repeated(volumes.map(\.number)) { return "the volume number \(number) is listed twice" }
        for volume in volumes {
            if let fault = ObjectName.fault(of: volume.name) { return fault }
            if !volume.elementPath.hasPrefix("/") {
                return "the element of volume '\(volume.name)' is no absolute path"
            }
            if volume.number >= nextVolumeNumber {
                return "volume '\(volume.name)' has number \(volume.number), expected one below \(nextVolumeNumber)"
            }
            if volume.byteCount == 0 { return "the size of volume '\(volume.name)' is 0" }
        }
        for pair in pairs {
            if let fault = ObjectName.fault(of: pair.name) { return fault }
            if let fault = targetFault(of: pair) { return fault }
            if self.volume(pair.volumeNumber) == nil {
                return "pair '\(pair.name)' belongs to volume number \(pair.volumeNumber), which is not listed"
            }
            if let fault = PairSettingsRule.fault(of: pair.settings) { return "pair '\(pair.name)': \(fault)" }
            if let fault = RecoveryPointRule.fault(of: pair) { return "pair '\(pair.name)': \(fault)" }
            if let fault = MetadataPlacing.fault(of: pair, in: self) { return "pair '\(pair.name)': \(fault)" }
        }
        return peerFault
    }

    private var peerFault: String? {
        if let name = Self.repeated(peers.map(\.name)) { return "the peer '\(name)' is listed twice" }
        if let number = Self.repeated(peers.map(\.number)) { return "the peer number \(number) is listed twice" }
        for peer in peers {
            if let fault = peer.fault { return fault }
            if peer.number >= nextPeerNumber {
                return "peer '\(peer.name)' has number \(peer.number), expected one below \(nextPeerNumber)"
            }
        }
        if let number = Self.repeated(replicas.map(\.volumeNumber)) {
            return "volume number \(number) is a replica twice"
        }
        return replicas.lazy.compactMap { $0.fault(in: self) }.first
    }

    private func targetFault(of pair: PairEntry) -> String? {
        guard let remote = pair.remote else {
            return pair.targetPath.hasPrefix("/") ? nil : "the target of pair '\(pair.name)' is no absolute path"
        }
        if let fault = remote.fault { return "pair '\(pair.name)': \(fault)" }
        return peer(named: remote.peer) == nil
            ? "the target of pair '\(pair.name)' is at peer '\(remote.peer)', which is not listed" : nil
    }

    private static func repeated<Value: Hashable>(_ values: [Value]) -> Value? {
        var seen: Set<Value> = []
        return values.first { !seen.insert($0).inserted }
    }
}

/// The durable record of volumes and pairs: a JSON file that people can read.
///
/// What is in `content` is on stable storage. A change is written first and shown only when that succeeded.
package struct Registry: Sendable {
    package let path: FilePath
    package private(set) var content: RegistryContent
    /// Told of each step of each write; what it throws stands for a failed disk.
    ///
    /// For tests.
    package var atStep: @Sendable (DurableFile.Step) throws -> Void = { _ in }

    /// Reads the file; one that is not there is a new registry, one that is damaged is refused.
    package init(path: FilePath) throws(ControlError) {
        self.path = path
        guard FileManager.default.fileExists(atPath: path.string) else {
            content = RegistryContent()
            return
        }
        do {
            content = try Self.decode(Data(contentsOf: URL(filePath: path.string)), of: path)
        } catch let error as ControlError {
            throw error
        } catch {
            throw ControlError(.stateDirectory, "cannot read the registry \(path)", underlying: error)
        }
    }

    /// Makes a change durable, then visible; after an error it is neither.
    package mutating func commit<Result>(
        _ change: (inout RegistryContent) -> Result
    ) throws(ControlError) -> Result {
        var changed = content
        let result = change(&changed)
        invariant(changed.fault == nil, "the registry does not contradict itself")
        do {
            var bytes = try ControlJSON.encode(changed, isPretty: true)
            bytes.append(UInt8(ascii: "\n"))
            try DurableFile.replace(path, with: bytes, atStep: atStep)
        } catch {
            throw ControlError(
                .stateDirectory,
                "cannot write the registry \(path)",
                suggestion:
                    "\(error is DurableFile.NotPutBack ? "" : "nothing was changed; ")check the space and the permissions of that directory",
                underlying: error
            )
        }
        content = changed
        return result
    }

    private struct Damage: Error { let words: String }

    /// What the bytes of the file at `path` say; refused when they are damaged.
    package static func decode(_ bytes: Data, of path: FilePath) throws(ControlError) -> RegistryContent {
        do {
            return try read(bytes)
        } catch {
            throw refusal(path, (error as? Damage)?.words ?? "\(error)")
        }
    }

    private static func read(_ bytes: Data) throws -> RegistryContent {
        struct Header: Decodable { var format: String, version: Int }
        do {
            let header = try ControlJSON.decode(Header.self, from: bytes)
            guard header.format == RegistryContent.formatName else {
                throw Damage(words: "its format is '\(header.format)', expected '\(RegistryContent.formatName)'")
            }
            guard (1...RegistryContent.newestVersion).contains(header.version) else {
                throw Damage(
                    words: "its version is \(header.version), this daemon knows 1 to \(RegistryContent.newestVersion)"
                )
            }
            let content = try ControlJSON.decode(RegistryContent.self, from: bytes)
            if let fault = content.fault { throw Damage(words: fault) }
            return content
        } catch let refusal as JSONRefusal {
            throw Damage(words: refusal.message)
        }
    }

    private static func refusal(_ path: FilePath, _ words: String) -> ControlError {
        ControlError(
            .registryDamaged,
            "the registry \(path) cannot be used: \(words)",
            suggestion: """
                put back a copy from a backup; or move the file away, start, and add volumes and pairs again: \
                no element has been touched
                """
        )
    }
}
