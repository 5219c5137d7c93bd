package import Foundation
internal import RepldControlAPI
package import RepldCore
package import RepldEngine
package import RepldPair
package import SystemPackage

/// A volume as the registry keeps it.
package struct VolumeEntry: Codable, Hashable, Sendable {
    /// Never used again for another volume.
    package var number: UInt64
    package var name: String
    package var elementPath: String
    package var isReadOnly: Bool
    package var createdAt: Date

    package init(number: UInt64, name: String, elementPath: String, isReadOnly: Bool, createdAt: Date) {
        self.number = number
        self.name = name
        self.elementPath = elementPath
        self.isReadOnly = isReadOnly
        self.createdAt = createdAt
    }

    package var id: VolumeID { VolumeID(rawValue: number) }
}

/// A pair as the registry keeps it.
package struct PairEntry: Codable, Hashable, Sendable {
    package var id: PairID
    package var name: String
    package var volumeNumber: UInt64
    package var targetPath: String
    package var settings: PairSettings
    package var createdAt: Date
    /// Revisions below this may have been shown; the next start of the daemon begins here.
    package var revisionLimit: UInt64

    package init(
        id: PairID,
        name: String,
        volumeNumber: UInt64,
        targetPath: String,
        settings: PairSettings,
        createdAt: Date,
        revisionLimit: UInt64
    ) {
        self.id = id
        self.name = name
        self.volumeNumber = volumeNumber
        self.targetPath = targetPath
        self.settings = settings
        self.createdAt = createdAt
        self.revisionLimit = revisionLimit
    }

    private enum CodingKeys: String, CodingKey {
        case id, name, volumeNumber, targetPath, createdAt, revisionLimit
        case granuleByteCount, targetTimeoutNanoseconds, copyDepth, copyChunkByteCount
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let text = try container.decode(String.self, forKey: .id)
        guard let id = PairID(text) else {
            throw DecodingError.dataCorruptedError(
                forKey: .id,
                in: container,
                debugDescription: "found '\(text)', expected 32 lower-case hexadecimal digits"
            )
        }
        self.id = id
        name = try container.decode(String.self, forKey: .name)
        volumeNumber = try container.decode(UInt64.self, forKey: .volumeNumber)
        targetPath = try container.decode(String.self, forKey: .targetPath)
        createdAt = try container.decode(Date.self, forKey: .createdAt)
        revisionLimit = try container.decode(UInt64.self, forKey: .revisionLimit)
        settings = PairSettings(
            granuleByteCount: try container.decode(UInt32.self, forKey: .granuleByteCount),
            targetTimeoutNanoseconds: try container.decode(UInt64.self, forKey: .targetTimeoutNanoseconds),
            copyDepth: try container.decode(UInt8.self, forKey: .copyDepth),
            copyChunkByteCount: try container.decode(UInt32.self, forKey: .copyChunkByteCount)
        )
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(id.description, forKey: .id)
        try container.encode(name, forKey: .name)
        try container.encode(volumeNumber, forKey: .volumeNumber)
        try container.encode(targetPath, forKey: .targetPath)
        try container.encode(createdAt, forKey: .createdAt)
        try container.encode(revisionLimit, forKey: .revisionLimit)
        try container.encode(settings.granuleByteCount, forKey: .granuleByteCount)
        try container.encode(settings.targetTimeoutNanoseconds, forKey: .targetTimeoutNanoseconds)
        try container.encode(settings.copyDepth, forKey: .copyDepth)
        try container.encode(settings.copyChunkByteCount, forKey: .copyChunkByteCount)
    }
}

/// Everything the registry keeps.
package struct RegistryContent: Codable, Hashable, Sendable {
    package static var formatName: String { "repld registry" }
    package static var newestVersion: Int { 1 }

    package var format = Self.formatName
    package var version = Self.newestVersion
    package var nextVolumeNumber: UInt64 = 1
    package var volumes: [VolumeEntry] = []
    package var pairs: [PairEntry] = []

    package init() {}

    package func volume(named name: String) -> VolumeEntry? { volumes.first { $0.name == name } }
    package func volume(_ number: UInt64) -> VolumeEntry? { volumes.first { $0.number == number } }
    package func pair(named name: String) -> PairEntry? { pairs.first { $0.name == name } }
    package func pair(_ id: PairID) -> PairEntry? { pairs.first { $0.id == id } }
    package func pairs(of volume: VolumeEntry) -> [PairEntry] { pairs.filter { $0.volumeNumber == volume.number } }

    /// What contradicts itself, in words; `nil` when nothing does.
    package var fault: String? {
        if let name = Self.repeated(volumes.map(\.name)) { return "the volume '\(name)' is listed twice" }
        if let name = Self.repeated(pairs.map(\.name)) { return "the pair '\(name)' is listed twice" }
        if let id = Self.repeated(pairs.map(\.id)) { return "the pair id \(id) is listed twice" }
        if let number = Self.repeated(volumes.map(\.number)) { return "the volume number \(number) is listed twice" }
        for volume in volumes {
            if let fault = ObjectName.fault(of: volume.name) { return fault }
            if !volume.elementPath.hasPrefix("/") {
                return "the element of volume '\(volume.name)' is no absolute path"
            }
            if volume.number >= nextVolumeNumber {
                return "volume '\(volume.name)' has number \(volume.number), expected one below \(nextVolumeNumber)"
            }
        }
        for pair in pairs {
            if let fault = ObjectName.fault(of: pair.name) { return fault }
            if !pair.targetPath.hasPrefix("/") { return "the target of pair '\(pair.name)' is no absolute path" }
            if self.volume(pair.volumeNumber) == nil {
                return "pair '\(pair.name)' belongs to volume number \(pair.volumeNumber), which is not listed"
            }
            if let fault = PairSettingsRule.fault(of: pair.settings) { return "pair '\(pair.name)': \(fault)" }
        }
        return nil
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
            content = try Self.read(Data(contentsOf: URL(filePath: path.string)))
        } catch let error as Damage {
            throw Self.refusal(path, error.words)
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
                suggestion: "nothing was changed; check the space and the permissions of that directory",
                underlying: error
            )
        }
        content = changed
        return result
    }

    private struct Damage: Error { let words: String }

    private static func read(_ bytes: Data) throws -> RegistryContent {
        struct Header: Decodable { var format: String, version: Int }
        do {
            let header = try ControlJSON.decode(Header.self, from: bytes)
            guard header.format == RegistryContent.formatName else {
                throw Damage(words: "its format is '\(header.format)', expected '\(RegistryContent.formatName)'")
            }
            guard header.version == RegistryContent.newestVersion else {
                throw Damage(
                    words: "its version is \(header.version), this daemon knows \(RegistryContent.newestVersion)"
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

/// The bounds of what may be set about a pair.
package enum PairSettingsRule {
    /// What is wrong with the settings; `nil` when nothing is.
    package static func fault(of settings: PairSettings) -> String? {
        if !isPowerOfTwo(settings.granuleByteCount) || !(4096...(1 << 20)).contains(settings.granuleByteCount) {
            return "the granule is \(settings.granuleByteCount) bytes; expected a power of two from 4KiB to 1MiB"
        }
        if !(1_000_000_000...3_600_000_000_000).contains(settings.targetTimeoutNanoseconds) {
            return "the target timeout is out of range; expected 1s to 1h"
        }
        if !(1...64).contains(settings.copyDepth) {
            return "the copy depth is \(settings.copyDepth); expected 1 to 64"
        }
        let chunk = settings.copyChunkByteCount
        if chunk < settings.granuleByteCount || chunk > 1 << 20 || chunk % settings.granuleByteCount != 0 {
            return "the copy chunk is \(chunk) bytes; expected a multiple of the granule up to 1MiB"
        }
        return nil
    }

    private static func isPowerOfTwo(_ number: UInt32) -> Bool { number.nonzeroBitCount == 1 }
}
