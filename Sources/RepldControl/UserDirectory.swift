internal import Foundation
internal import Logging
package import RepldControlAPI
package import SystemPackage

/// The users of this daemon, and what can be done about them.
package actor UserDirectory {
    private var file: UserFile
    /// Where passwords are hashed, those that are set and those that are checked.
    package let workers = PasswordWorkers()
    /// What a new hash costs: see `PasswordHash.defaultCost`.
    package let cost: Int

    /// Reads the file at `path`, or throws why it cannot be used.
    package init(path: FilePath, cost: Int = PasswordHash.defaultCost) throws(ControlError) {
        file = try UserFile(path: path)
        self.cost = cost
    }

    /// Replaces what is told of each write; for tests.
    package func observeWrites(_ atStep: @escaping @Sendable (DurableFile.Step) throws -> Void) {
        file.atStep = atStep
    }

    /// The user as it is kept; `nil` when there is none.
    package func entry(named name: String) -> UserEntry? { file.content.user(named: name) }

    /// All users, by name.
    package func list() -> UserListReply {
        UserListReply(users: file.content.users.sorted { $0.name < $1.name }.map(Self.reply))
    }

    /// Makes a user.
    package func add(_ request: UserAddRequest) async throws(ControlError) -> UserReply {
        if let fault = ObjectName.fault(of: request.name) { throw ControlError(.invalidName, fault) }
        let role = try Self.role(request.role)
        try checkRoom(for: request.name)
        let hash = try await hash(of: request.password)
        // Others may have come first while the password was hashed.
        try checkRoom(for: request.name)
        let entry = UserEntry(name: request.name, role: role, hash: hash, createdAt: Date())
        try file.commit { $0.users.append(entry) }
        return Self.reply(entry)
    }

    /// Takes a user away; its next request is refused.
    package func remove(named name: String) throws(ControlError) {
        _ = try require(name)
        try file.commit { content in content.users.removeAll { $0.name == name } }
    }

    /// Gives a user another password.
    package func setPassword(_ request: UserPasswordRequest, of name: String) async throws(ControlError) -> UserReply {
        _ = try require(name)
        let hash = try await hash(of: request.password)
        return try change(name) { $0.hash = hash }
    }

    /// Gives a user another role.
    package func setRole(_ request: UserRoleRequest, of name: String) throws(ControlError) -> UserReply {
        let role = try Self.role(request.role)
        return try change(name) { $0.role = role }
    }

    private func change(_ name: String, _ change: (inout UserEntry) -> Void) throws(ControlError) -> UserReply {
        var entry = try require(name)
        change(&entry)
        try file.commit { content in
            guard let index = content.users.firstIndex(where: { $0.name == name }) else { return }
            content.users[index] = entry
        }
        return Self.reply(entry)
    }

    private func hash(of password: String) async throws(ControlError) -> PasswordHash {
        if let fault = PasswordRule.fault(of: password) { throw ControlError(.invalidRequest, fault) }
        let cost = cost
        return try await workers.run { () throws(ControlError) in try PasswordHash(of: password, cost: cost) }
    }

    private func require(_ name: String) throws(ControlError) -> UserEntry {
        guard let entry = entry(named: name) else {
            let shown = ObjectName.fault(of: name) == nil ? "'\(name)'" : "of that name"
            throw ControlError(.userNotFound, "there is no user \(shown)", suggestion: "'replctl user ls' lists them")
        }
        return entry
    }

    private func checkRoom(for name: String) throws(ControlError) {
        guard entry(named: name) == nil else {
            throw ControlError(.nameInUse, "there is a user '\(name)' already")
        }
        guard file.content.users.count < UserContent.userCountMax else {
            throw ControlError(
                .notEnoughResources,
                "there are \(file.content.users.count) users, and there can be no more",
                suggestion: "remove some with 'replctl user rm'"
            )
        }
    }

    private static func role(_ word: String) throws(ControlError) -> UserRole {
        guard let role = UserRole(rawValue: word) else {
            let known = UserRole.allCases.map(\.rawValue)
            throw ControlError(
                .invalidRequest,
                "role: found '\(word)', expected one of \(known.joined(separator: ", "))",
                suggestion: Suggestion.nearest(to: word, among: known).map { "did you mean '\($0)'?" }
            )
        }
        return role
    }

    private static func reply(_ entry: UserEntry) -> UserReply {
        UserReply(name: entry.name, role: entry.role.rawValue, createdAt: entry.createdAt)
    }
}
