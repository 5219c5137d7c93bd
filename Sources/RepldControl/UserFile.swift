package import Foundation
internal import Glibc
package import RepldControlAPI
internal import RepldCore
package import SystemPackage

/// A user as the file keeps it.
package struct UserEntry: Codable, Hashable, Sendable {
    package var name: String
    package var role: UserRole
    package var hash: PasswordHash
    package var createdAt: Date

    package init(name: String, role: UserRole, hash: PasswordHash, createdAt: Date) {
        self.name = name
        self.role = role
        self.hash = hash
        self.createdAt = createdAt
    }
}

extension PasswordHash: Codable {
    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        guard let hash = PasswordHash(text: try container.decode(String.self)) else {
            throw DecodingError.dataCorruptedError(
                in: container,
                debugDescription: "it is no yescrypt hash as this daemon writes it"
            )
        }
        self = hash
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(text)
    }
}

/// Everything the file of users keeps.
package struct UserContent: Codable, Hashable, Sendable {
    package static var formatName: String { "repld users" }
    package static var newestVersion: Int { 1 }
    /// Far more than the operators of one host; it bounds the file.
    package static var userCountMax: Int { 256 }

    package var format = Self.formatName
    package var version = Self.newestVersion
    package var users: [UserEntry] = []

    package init() {}

    package func user(named name: String) -> UserEntry? { users.first { $0.name == name } }

    /// What contradicts itself, in words; `nil` when nothing does.
    package var fault: String? {
        if users.count > Self.userCountMax {
            return "it lists \(users.count) users, expected at most \(Self.userCountMax)"
        }
        var seen: Set<String> = []
        for user in users {
            if let fault = ObjectName.fault(of: user.name) { return fault }
            if !seen.insert(user.name).inserted { return "the user '\(user.name)' is listed twice" }
        }
        return nil
    }
}

/// The durable record of users: a JSON file that only the daemon's user may read.
///
/// What is in `content` is on stable storage. A change is written first and counts only when that succeeded.
package struct UserFile: Sendable {
    /// More than `userCountMax` users take.
    private static var byteCountMax: Int { 1 << 20 }

    package let path: FilePath
    package private(set) var content: UserContent
    /// Told of each step of each write; what it throws stands for a failed disk.
    ///
    /// For tests.
    package var atStep: @Sendable (DurableFile.Step) throws -> Void = { _ in }

    /// Reads the file; one that is not there means no users, one that is damaged is refused.
    ///
    /// Takes away the rights of others to read it, which a copy from a backup may have.
    package init(path: FilePath) throws(ControlError) {
        self.path = path
        guard FileManager.default.fileExists(atPath: path.string) else {
            content = UserContent()
            return
        }
        do {
            guard unsafe chmod(path.string, 0o600) == 0 else { throw Errno(rawValue: Glibc.errno) }
            content = try Self.decode(Data(contentsOf: URL(filePath: path.string)), of: path)
        } catch let error as ControlError {
            throw error
        } catch {
            throw ControlError(.stateDirectory, "cannot read the users \(path)", underlying: error)
        }
    }

    /// Makes a change durable, then visible; after an error it is neither.
    package mutating func commit(_ change: (inout UserContent) -> Void) throws(ControlError) {
        var changed = content
        change(&changed)
        invariant(changed.fault == nil, "the users do not contradict themselves")
        do {
            var bytes = try ControlJSON.encode(changed, isPretty: true)
            bytes.append(UInt8(ascii: "\n"))
            try DurableFile.replace(path, with: bytes, atStep: atStep)
        } catch {
            throw ControlError(
                .stateDirectory,
                "cannot write the users \(path)",
                suggestion: "nothing was changed; check the space and the permissions of that directory",
                underlying: error
            )
        }
        content = changed
    }

    private struct Damage: Error { let words: String }

    /// What the bytes of the file at `path` say; refused when they are damaged.
    package static func decode(_ bytes: Data, of path: FilePath) throws(ControlError) -> UserContent {
        do {
            return try read(bytes)
        } catch {
            throw refusal(path, (error as? Damage)?.words ?? "\(error)")
        }
    }

    private static func read(_ bytes: Data) throws -> UserContent {
        struct Header: Decodable { var format: String, version: Int }
        guard bytes.count <= byteCountMax else {
            throw Damage(words: "it has \(bytes.count) bytes, expected at most \(byteCountMax)")
        }
        do {
            let header = try ControlJSON.decode(Header.self, from: bytes)
            guard header.format == UserContent.formatName else {
                throw Damage(words: "its format is '\(header.format)', expected '\(UserContent.formatName)'")
            }
            guard header.version == UserContent.newestVersion else {
                throw Damage(words: "its version is \(header.version), this daemon knows \(UserContent.newestVersion)")
            }
            let content = try ControlJSON.decode(UserContent.self, from: bytes)
            if let fault = content.fault { throw Damage(words: fault) }
            return content
        } catch let refusal as JSONRefusal {
            throw Damage(words: refusal.message)
        }
    }

    private static func refusal(_ path: FilePath, _ words: String) -> ControlError {
        ControlError(
            .usersDamaged,
            "the users \(path) cannot be used: \(words)",
            suggestion: """
                put back a copy from a backup; or move the file away, start, and add the users again: the daemon's own \
                user and root need no password
                """
        )
    }
}
