internal import Foundation

/// Where the daemon is asked: its unix socket, or a TCP address of this host.
package enum ControlEndpoint: Hashable, Sendable, CustomStringConvertible {
    case unix(path: String)
    /// `host` is an IP address of the loopback.
    case tcp(host: String, port: Int)

    /// Why a text names no endpoint.
    package struct Refusal: Error, Hashable, Sendable, CustomStringConvertible {
        package let description: String
    }

    /// The port of a URL that names none.
    package static var defaultPort: Int { 7700 }

    /// Reads the path of a socket, or `http://127.0.0.1:7700`.
    package static func parse(_ text: String) throws(Refusal) -> ControlEndpoint {
        guard text.contains("://") else {
            if text.isEmpty { throw Refusal(description: "expected the path of a socket or \(example)") }
            return .unix(path: text)
        }
        guard let url = URLComponents(string: text), let scheme = url.scheme, let host = url.host, !host.isEmpty else {
            throw Refusal(description: "found '\(text)', expected \(example)")
        }
        guard scheme == "http" else {
            throw Refusal(
                description: "this tool speaks http, not \(scheme); \(advice)"
            )
        }
        guard url.user == nil, url.password == nil else {
            throw Refusal(description: "a URL must not hold name or password; give --user and --password-file")
        }
        guard url.path.isEmpty || url.path == "/", url.query == nil, url.fragment == nil else {
            throw Refusal(description: "found '\(text)', expected nothing behind the port, such as \(example)")
        }
        let bare = host.hasPrefix("[") && host.hasSuffix("]") ? String(host.dropFirst().dropLast()) : host
        guard let address = loopback(bare) else {
            throw Refusal(
                description: "'\(bare)' is no loopback address, and the password would be readable; \(advice)"
            )
        }
        return .tcp(host: address, port: url.port ?? defaultPort)
    }

    package var description: String {
        switch self {
        case .unix(let path): path
        case .tcp(let host, let port): host.contains(":") ? "http://[\(host)]:\(port)" : "http://\(host):\(port)"
        }
    }

    private static var example: String { "http://127.0.0.1:\(defaultPort)" }
    private static var advice: String { "forward a port: 'ssh -L \(defaultPort):127.0.0.1:\(defaultPort) HOST'" }

    /// The address of a host that cannot be anything but this one.
    private static func loopback(_ host: String) -> String? {
        if host.lowercased() == "localhost" { return "127.0.0.1" }
        if host == "::1" { return host }
        let parts = host.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4, parts[0] == "127", parts.allSatisfy({ UInt8($0) != nil }) else { return nil }
        return host
    }
}

/// Name and password for a daemon that asks for them; what is printed of them is never the password.
package struct ClientCredentials: Hashable, Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    package let user: String
    package let password: String

    package init(user: String, password: String) {
        self.user = user
        self.password = password
    }

    package var description: String { "credentials of \(user)" }
    package var debugDescription: String { description }

    /// The value of the header `Authorization`: Basic of RFC 7617.
    package var authorization: String { "Basic " + Data("\(user):\(password)".utf8).base64EncodedString() }
}
