package import Foundation
internal import RepldControlAPI

/// What matters for access in the body of `SetReplicationRelationship`: the standard's user name and password, and
/// whether it only asks what would be done.
package struct SetRelationshipAccess: Sendable {
    /// The body's `username` and `password`.
    package let credentials: LoginCredentials?
    /// Whether the body has `plan: true`.
    package let isPlan: Bool
    /// The body without the credentials.
    ///
    /// It is written anew from what was examined, so that no other reading of a body with, say, a field given twice can
    /// be carried out than the one that was allowed.
    package let body: Data

    /// Reads a body; `nil` when it is no JSON object, which the method itself refuses with better words.
    ///
    /// Throws `invalidRequest` when only one of name and password is given, or they are no strings.
    package init?(_ bytes: Data) throws(ControlError) {
        guard case .object(var fields) = try? JSONDecoder().decode(JSONValue.self, from: bytes) else { return nil }
        let name = try Self.text("username", of: fields)
        let password = try Self.text("password", of: fields)
        switch (name, password) {
        case (nil, nil): credentials = nil
        case (let name?, let password?): credentials = LoginCredentials(name: name, password: password)
        default:
            throw ControlError(.invalidRequest, "of 'username' and 'password' both are given or neither")
        }
        fields["username"] = nil
        fields["password"] = nil
        isPlan = fields["plan"] == .bool(true)
        guard let body = try? JSONEncoder().encode(JSONValue.object(fields)) else { return nil }
        self.body = body
    }

    private static func text(_ name: String, of fields: [String: JSONValue]) throws(ControlError) -> String? {
        switch fields[name] {
        case nil, .null: return nil
        case .string(let text): return text
        default: throw ControlError(.invalidRequest, "the field '\(name)' has the wrong type; expected a string")
        }
    }
}

/// Any JSON, as the decoder of all other bodies reads it.
private enum JSONValue: Codable, Hashable, Sendable {
    case null
    case bool(Bool)
    case signed(Int64)
    case unsigned(UInt64)
    case double(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Int64.self) {
            self = .signed(value)
        } else if let value = try? container.decode(UInt64.self) {
            self = .unsigned(value)
        } else if let value = try? container.decode(Double.self) {
            self = .double(value)
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .bool(let value): try container.encode(value)
        case .signed(let value): try container.encode(value)
        case .unsigned(let value): try container.encode(value)
        case .double(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .array(let value): try container.encode(value)
        case .object(let value): try container.encode(value)
        }
    }
}
