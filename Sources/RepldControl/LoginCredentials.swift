internal import Foundation
internal import RepldControlAPI

/// A name and a password as somebody gave them; what is printed of them is never the password.
package struct LoginCredentials: Hashable, Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    package let name: String
    package let password: String

    package init(name: String, password: String) {
        self.name = name
        self.password = password
    }

    package var description: String { "credentials of \(shownName)" }
    package var debugDescription: String { description }

    /// The name when it could be a user's; whatever else was given does not go into the log.
    package var shownName: String { ObjectName.fault(of: name) == nil ? name : "(no valid name)" }
}

extension LoginCredentials {
    /// Longer than every name and password in Base64.
    package static var headerByteCountMax: Int { 1024 }

    /// Reads the value of an `Authorization` header of the scheme Basic (RFC 7617), in UTF-8.
    ///
    /// Throws `notAuthenticated` with what is wrong, in words that do not repeat it.
    package init(authorization value: String) throws(ControlError) {
        guard value.utf8.count <= Self.headerByteCountMax else {
            throw Self.malformed("it has \(value.utf8.count) bytes, expected at most \(Self.headerByteCountMax)")
        }
        let parts = value.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, parts[0].lowercased() == "basic" else {
            throw Self.malformed("expected 'Basic' and one value")
        }
        guard let bytes = Data(base64Encoded: String(parts[1])) else { throw Self.malformed("it is not Base64") }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw Self.malformed("it is not UTF-8 text")
        }
        guard let colon = text.utf8.firstIndex(of: UInt8(ascii: ":")) else {
            throw Self.malformed("it has no ':' between name and password")
        }
        guard colon > text.startIndex else { throw Self.malformed("it has no name") }
        name = String(text[..<colon])
        password = String(text[text.utf8.index(after: colon)...])
    }

    /// The one that was given, of the header's and the body's; both are fine when they are the same.
    package static func agreed(
        header: LoginCredentials?,
        body: LoginCredentials?
    ) throws(ControlError) -> LoginCredentials? {
        guard let header, let body else { return header ?? body }
        guard header == body else {
            throw ControlError(
                .notAuthenticated,
                "the body's username and password are others than those of the Authorization header",
                suggestion: "give one of them"
            )
        }
        return header
    }

    private static func malformed(_ words: String) -> ControlError {
        ControlError(
            .notAuthenticated,
            "the Authorization header cannot be read: \(words)",
            suggestion: "send 'Basic' and the Base64 of NAME:PASSWORD"
        )
    }
}
