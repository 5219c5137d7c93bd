package import Foundation
package import Logging
internal import RepldControlAPI
package import RepldDataPlane
package import RepldPair

/// Where something stands in a configuration file, and why it was refused.
///
/// It reads as compilers write: `/etc/repld/repld.yaml:4:12: found …, expected …`.
package struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    package let file: String
    /// From 1; 0 when it is the file as a whole.
    package let line: Int
    package let column: Int
    package let message: String

    package init(file: String, line: Int = 0, column: Int = 0, message: String) {
        self.file = file
        self.line = line
        self.column = column
        self.message = message
    }

    package var description: String {
        line == 0 ? "\(file): \(message)" : "\(file):\(line):\(column): \(message)"
    }
}

/// What the daemon is told by its file and its command line.
package struct Configuration: Hashable, Sendable {
    /// How log lines look.
    package enum LogFormat: String, Sendable, CaseIterable {
        case text, json
    }

    /// Read when it is there and no other is named.
    package static var defaultFile: String { "/etc/repld/repld.yaml" }

    package var stateDirectory = "/var/lib/repld"
    package var control = ControlListening(socketPath: "/run/repld/control.sock")
    /// `nil` when there is to be none.
    package var nbdSocket: String? = "/run/repld/nbd.sock"
    package var nbdSocketMode: UInt32 = 0o660
    package var nbdListen: [HostPort] = []
    /// Where peers connect; `nil` where they cannot.
    package var peerListen: HostPort?
    /// Whether a peer may come without a key.
    package var allowsPlaintextPeers = false
    package var logLevel = Logger.Level.info
    package var logFormat = LogFormat.text
    package var pairDefaults = PairSettings(keepsUndo: true)

    package init() {}

    /// Every address on which hosts may connect.
    package var frontEnds: [FrontEndAddress] {
        let unix = nbdSocket.map { FrontEndAddress.nbdUnix(path: $0, mode: nbdSocketMode) }
        return (unix.map { [$0] } ?? []) + nbdListen.map { .nbdTCP(host: $0.host, port: $0.port) }
    }

    /// Where peers connect, as the data plane takes it.
    package var peerListening: PeerListening? {
        peerListen.map { PeerListening(host: $0.host, port: $0.port, allowsPlaintext: allowsPlaintextPeers) }
    }

    /// Reads a file: the one that is named, which must be there, or the default one, which need not.
    package static func load(file: String?) throws(ConfigurationError) -> Configuration {
        let path = file ?? defaultFile
        guard file != nil || FileManager.default.fileExists(atPath: path) else { return Configuration() }
        let bytes: Data
        do {
            bytes = try Data(contentsOf: URL(filePath: path))
        } catch {
            let exists = FileManager.default.fileExists(atPath: path)
            throw ConfigurationError(file: path, message: exists ? "cannot be read" : "there is no such file")
        }
        return try parse(bytes, file: path)
    }

    /// Reads the bytes of a file; `file` is only named in refusals.
    package static func parse(_ bytes: Data, file: String) throws(ConfigurationError) -> Configuration {
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw ConfigurationError(file: file, message: "is not UTF-8 text")
        }
        return try parse(text, file: file)
    }

    /// Reads the text of a file; `file` is only named in refusals.
    package static func parse(_ text: String, file: String) throws(ConfigurationError) -> Configuration {
        var configuration = Configuration()
        guard let root = try YAMLSection.root(of: text, file: file) else { return configuration }
        let keys = ["state-dir", "control", "nbd", "peers", "log", "pair-defaults"]
        try root.checkKeys(keys)
        if let value = try root.scalar("state-dir") { configuration.stateDirectory = try value.absolutePath() }
        if let control = try root.section("control", keys: ControlListening.keys) {
            try configuration.control.read(control)
        }
        if let nbd = try root.section("nbd", keys: ["unix", "unix-mode", "listen"]) {
            try configuration.readNBD(nbd)
        }
        if let peers = try root.section("peers", keys: ["listen", "allow-plaintext"]) {
            try configuration.readPeers(peers)
        }
        if let log = try root.section("log", keys: ["level", "format"]) {
            if let value = try log.scalar("level") { configuration.logLevel = try value.word(among: Logger.Level.self) }
            if let value = try log.scalar("format") { configuration.logFormat = try value.word(among: LogFormat.self) }
        }
        if let pairs = try root.section("pair-defaults", keys: ["granule", "target-timeout", "copy-depth", "undo"]) {
            try configuration.readPairDefaults(pairs)
        }
        return configuration
    }

    private mutating func readNBD(_ section: YAMLSection) throws(ConfigurationError) {
        if let value = try section.scalar("unix") {
            nbdSocket = value.text == "none" ? nil : try value.socketPath()
        }
        if let value = try section.scalar("unix-mode") { nbdSocketMode = try value.fileMode() }
        for value in try section.scalars("listen") { nbdListen.append(try value.hostPort()) }
    }

    private mutating func readPeers(_ section: YAMLSection) throws(ConfigurationError) {
        if let value = try section.scalar("listen") {
            peerListen = try value.read(PeerAddressText.expectation) { HostPort(peerAddress: $0) }
        }
        if let value = try section.scalar("allow-plaintext") {
            allowsPlaintextPeers = try value.read("true or false") { Bool($0) }
        }
    }

    private mutating func readPairDefaults(_ section: YAMLSection) throws(ConfigurationError) {
        if let value = try section.scalar("granule") {
            pairDefaults.granuleByteCount = try value.read("a power of two from 4KiB to 1MiB") { text in
                guard let count = (try? ByteCount.parse(text)).flatMap({ UInt32(exactly: $0) }) else { return nil }
                return (4096...(1 << 20)).contains(count) && count.nonzeroBitCount == 1 ? count : nil
            }
        }
        if let value = try section.scalar("target-timeout") {
            pairDefaults.targetTimeoutNanoseconds = try value.read("a duration from 1s to 1h") { text in
                guard let duration = try? DurationText.parse(text), duration >= .seconds(1), duration <= .seconds(3600)
                else { return nil }
                return UInt64(duration / .nanoseconds(1))
            }
        }
        if let value = try section.scalar("undo") {
            pairDefaults.keepsUndo = try value.read("true or false") { Bool($0) }
        }
        if let value = try section.scalar("copy-depth") {
            pairDefaults.copyDepth = try value.read("a whole number from 1 to 64") { text in
                UInt8(text).flatMap { (1...64).contains($0) ? $0 : nil }
            }
        }
    }
}

/// A TCP address to listen on.
package struct HostPort: Hashable, Sendable {
    package static var expectation: String { "HOST:PORT such as 127.0.0.1:10809 or [::1]:10809" }

    package var host: String
    package var port: UInt16

    package init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    /// Reads the address that peers are listened to at; without a port, that is the usual one.
    package init?(peerAddress text: String) {
        if let address = HostPort(text) {
            self = address
            return
        }
        guard let address = PeerAddressText(text) else { return nil }
        self.init(host: address.host, port: address.port)
    }

    /// Reads `HOST:PORT`; an IPv6 address needs its brackets.
    ///
    /// `nil` for anything else.
    package init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return nil
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
            guard host.contains(":") else { return nil }
        } else if host.contains(":") {
            return nil
        }
        guard !host.isEmpty, !host.contains(where: \.isWhitespace) else { return nil }
        self.init(host: String(host), port: port)
    }
}
