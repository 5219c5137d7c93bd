/// Where a peer's daemon is, as people write it: `HOST` or `HOST:PORT`.
package struct PeerAddressText: Hashable, Sendable, CustomStringConvertible {
    /// Where daemons listen to peers unless told otherwise.
    package static var defaultPort: UInt16 { 7733 }
    package static var expectation: String {
        "HOST or HOST:PORT such as storage2, 192.0.2.7:7733 or [2001:db8::7]:7733"
    }

    /// A name or an address, without brackets.
    package var host: String
    package var port: UInt16
    /// Whether the port was written.
    package var hasPort: Bool

    /// Reads `HOST` or `HOST:PORT`; an IPv6 address needs its brackets.
    ///
    /// `nil` for anything else.
    package init?(_ text: String) {
        var host = text[...]
        var port = Self.defaultPort
        hasPort = false
        if host.hasPrefix("[") {
            guard let end = host.firstIndex(of: "]") else { return nil }
            let rest = host[host.index(after: end)...]
            host = host[host.index(after: host.startIndex)..<end]
            guard host.contains(":") else { return nil }
            if !rest.isEmpty {
                guard rest.hasPrefix(":"), let number = Self.port(rest.dropFirst()) else { return nil }
                (port, hasPort) = (number, true)
            }
        } else if let colon = host.firstIndex(of: ":") {
            guard let number = Self.port(host[host.index(after: colon)...]) else { return nil }
            (port, hasPort) = (number, true)
            host = host[..<colon]
        }
        guard Self.isHost(host) else { return nil }
        (self.host, self.port) = (String(host), port)
    }

    /// With the port, and with brackets where the host has colons.
    package var description: String { Self.text(host: host, port: port) }

    package static func text(host: String, port: UInt16) -> String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }

    /// Whether it may be the name or address of a host; whether there is one is seen when it is looked up.
    package static func isHost(_ text: some StringProtocol) -> Bool {
        (1...253).contains(text.utf8.count)
            && text.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"):
                    true
                default: ".:-_%".utf8.contains(byte)
                }
            }
    }

    private static func port(_ text: some StringProtocol) -> UInt16? {
        guard text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return nil }
        return UInt16(text).flatMap { $0 > 0 ? $0 : nil }
    }
}

/// A volume of a peer, as people write it: `repl://PEER/VOLUME` or `repl://HOST[:PORT]/VOLUME`.
package struct RemoteVolumeText: Hashable, Sendable {
    package static var scheme: String { "repl://" }
    package static var expectation: String { "repl://PEER/VOLUME or repl://HOST[:PORT]/VOLUME" }

    package var address: PeerAddressText
    package var volume: String

    /// Whether a target is meant to be a peer's volume and not a path.
    package static func isMeant(by text: String) -> Bool { text.hasPrefix(scheme) }

    /// Reads one; `nil` for anything else.
    package init?(_ text: String) {
        guard Self.isMeant(by: text) else { return nil }
        let parts = text.dropFirst(Self.scheme.count).split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, !parts[1].isEmpty, let address = PeerAddressText(String(parts[0])) else { return nil }
        self.address = address
        volume = String(parts[1])
    }

    package static func text(peer: String, volume: String) -> String { "\(scheme)\(peer)/\(volume)" }
}
