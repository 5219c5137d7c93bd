package import Foundation

/// What a user may do.
package enum UserRole: String, Codable, Sendable, CaseIterable {
    /// May look at everything but the users, and ask what an operation would do.
    case readOnly = "read-only"
    /// May do everything.
    case `operator` = "operator"
}

/// The bounds of a password.
package enum PasswordRule {
    package static var minimumByteCount: Int { 8 }
    /// What crypt(3) takes: 512 bytes with the end mark.
    package static var maximumByteCount: Int { 511 }

    /// What is wrong with a password, in words that do not repeat it; `nil` when nothing is.
    package static func fault(of password: String) -> String? {
        let count = password.utf8.count
        if count < minimumByteCount || count > maximumByteCount {
            return "the password has \(count) bytes; expected \(minimumByteCount) to \(maximumByteCount)"
        }
        // RFC 7617 forbids them, and crypt(3) would stop at a zero byte.
        if password.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) {
            return "the password has a control character in it, such as the end of a line"
        }
        return nil
    }
}

/// Asks for a user: `POST /v1/users`.
package struct UserAddRequest: StrictRequest, Hashable {
    package var name: String
    /// One of the words of `UserRole`.
    package var role: String
    package var password: String

    package enum CodingKeys: String, CodingKey, CaseIterable { case name, role, password }

    package init(name: String, role: String, password: String) {
        self.name = name
        self.role = role
        self.password = password
    }
}

/// Gives a user another password: `POST /v1/users/{name}/Password`.
package struct UserPasswordRequest: StrictRequest, Hashable {
    package var password: String

    package enum CodingKeys: String, CodingKey, CaseIterable { case password }

    package init(password: String) { self.password = password }
}

/// Gives a user another role: `POST /v1/users/{name}/Role`.
package struct UserRoleRequest: StrictRequest, Hashable {
    /// One of the words of `UserRole`.
    package var role: String

    package enum CodingKeys: String, CodingKey, CaseIterable { case role }

    package init(role: String) { self.role = role }
}

/// A user as `GET /v1/users` shows it; never with its password, nor the hash of that.
package struct UserReply: Codable, Hashable, Sendable {
    package var name: String
    /// One of the words of `UserRole`.
    package var role: String
    package var createdAt: Date

    package init(name: String, role: String, createdAt: Date) {
        self.name = name
        self.role = role
        self.createdAt = createdAt
    }
}

/// All users, by name.
package struct UserListReply: Codable, Hashable, Sendable {
    package var users: [UserReply]
    package init(users: [UserReply]) { self.users = users }
}
