import Foundation
import RepldControl
import RepldControlClient
import Testing

@Suite struct ControlEndpointTests {
    @Test(
        arguments: [
            ("/run/repld/control.sock", .unix(path: "/run/repld/control.sock")), ("a.sock", .unix(path: "a.sock")),
            ("http://127.0.0.1:7700", .tcp(host: "127.0.0.1", port: 7700)),
            ("http://127.0.0.1:80/", .tcp(host: "127.0.0.1", port: 80)),
            ("http://127.1.2.3", .tcp(host: "127.1.2.3", port: 7700)),
            ("http://localhost:7", .tcp(host: "127.0.0.1", port: 7)),
            ("http://[::1]:7700", .tcp(host: "::1", port: 7700)),
        ] as [(String, ControlEndpoint)]
    )
    func reads(text: String, endpoint: ControlEndpoint) throws {
        #expect(try ControlEndpoint.parse(text) == endpoint)
        #expect(try ControlEndpoint.parse(endpoint.description) == endpoint)
    }

    @Test(
        arguments: [
            ("", "expected the path of a socket"), ("http://", "expected http://127.0.0.1:7700"),
            ("https://127.0.0.1:7700", "speaks http, not https"), ("tcp://127.0.0.1:1", "speaks http, not tcp"),
            ("http://192.0.2.1:7700", "'192.0.2.1' is no loopback address"),
            ("http://127.0.0.1.example.com", "is no loopback address"), ("http://127.0.0.256", "no loopback address"),
            ("http://[fe80::1]:7700", "'fe80::1' is no loopback address"), ("http://0.0.0.0", "no loopback address"),
            ("http://a:b@127.0.0.1", "must not hold name or password"),
            ("http://127.0.0.1:7700/v1/daemon", "nothing behind the port"),
        ]
    )
    func refuses(text: String, words: String) {
        let error = #expect(throws: ControlEndpoint.Refusal.self) { try ControlEndpoint.parse(text) }
        #expect(error?.description.contains(words) == true, "\(String(describing: error))")
    }

    @Test func credentialsThatCannotBeReadAreToldAndNothingIsAsked() async throws {
        let client = ControlClient(.unix(path: "/nowhere/control.sock")) {
            ClientCredentials(user: "olga", password: try PasswordSource.file("/nowhere/password"))
        }
        let error = await #expect(throws: ClientError.self) { _ = try await client.bytes(.get, "/v1/daemon") }
        #expect(error?.code == .noCredentials)
        #expect(error?.description.contains("cannot open /nowhere/password: No such file or directory") == true)
    }
}

@Suite struct PasswordSourceTests {
    private func read(_ bytes: [UInt8]) throws -> String {
        let directory = try TemporaryDirectory()
        try Data(bytes).write(to: URL(filePath: directory.file("password")))
        return try PasswordSource.file(directory.file("password"))
    }

    @Test(
        arguments: [
            ("secret one\n", "secret one"), ("secret one", "secret one"), ("secret one\r\n", "secret one"),
            (" with spaces \nsecond line\n", " with spaces "), ("pässwörd\n", "pässwörd"),
        ]
    )
    func readsTheFirstLine(text: String, password: String) throws { #expect(try read(Array(text.utf8)) == password) }

    @Test(
        arguments: [
            ([], "its first line is empty"), (Array("\nsecond\n".utf8), "its first line is empty"),
            ([0xFF, 0xFE], "is not UTF-8 text"), (Array(repeating: 0x61, count: 5000), "more than 4096 bytes"),
        ] as [([UInt8], String)]
    )
    func refuses(bytes: [UInt8], words: String) {
        let error = #expect(throws: PasswordSource.Refusal.self) { try read(bytes) }
        #expect(error?.description.contains(words) == true, "\(String(describing: error))")
    }
}

/// The control section of the configuration file, beside its socket.
@Suite struct ControlListeningTests {
    @Test func readsEverything() throws {
        let text = """
            control:
              socket: /run/r/c.sock
              socket-mode: "0660"
              socket-group: storage
              listen: ["127.0.0.1:7700", "[::1]:7700"]
            """
        var expected = ControlListening(socketPath: "/run/r/c.sock")
        expected.socketMode = 0o660
        expected.socketGroup = "storage"
        expected.tcp = [HostPort(host: "127.0.0.1", port: 7700), HostPort(host: "::1", port: 7700)]
        #expect(try Configuration.parse(text, file: "f").control == expected)
    }

    @Test(
        arguments: [
            ("0.0.0.0:7700", "f:2:11: control.listen: 0.0.0.0:7700 can be reached from other hosts; passwords would"),
            ("[2001:db8::1]:7700", "f:2:11: control.listen: [2001:db8::1]:7700 can be reached from other hosts;"),
            ("localhost:7700", "f:2:11: control.listen: localhost:7700 is no IP address;"),
            ("7700", "f:2:11: control.listen: found '7700', expected HOST:PORT"),
        ]
    )
    func refusesWhatOthersCanReach(address: String, words: String) {
        let text = "control:\n  listen: \"\(address)\""
        let error = #expect(throws: ConfigurationError.self) { try Configuration.parse(text, file: "f") }
        #expect(error?.description.hasPrefix(words) == true, "\(String(describing: error))")
    }
}
