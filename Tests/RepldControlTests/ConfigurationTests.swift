import Foundation
import Logging
import RepldControl
import RepldControlAPI
import RepldDataPlane
import RepldPair
import Testing

@Suite struct ConfigurationTests {
    @Test func readsEverything() throws {
        let text = """
            # A comment.
            state-dir: /srv/repld
            control:
              socket: /run/r/c.sock
            nbd:
              unix: /run/r/n.sock
              unix-mode: "0600"
              listen: ["127.0.0.1:10809", "[::1]:10810"]
            peers:
              listen: 0.0.0.0
              allow-plaintext: true
            log: {level: debug, format: json}
            pair-defaults:
              granule: 128KiB
              target-timeout: 5m
              copy-depth: 8
              undo: false
            """
        let found = try Configuration.parse(text, file: "repld.yaml")
        var expected = Configuration()
        expected.stateDirectory = "/srv/repld"
        expected.control.socketPath = "/run/r/c.sock"
        expected.nbdSocket = "/run/r/n.sock"
        expected.nbdSocketMode = 0o600
        expected.nbdListen = [HostPort(host: "127.0.0.1", port: 10809), HostPort(host: "::1", port: 10810)]
        expected.peerListen = HostPort(host: "0.0.0.0", port: 7733)
        expected.allowsPlaintextPeers = true
        expected.logLevel = .debug
        expected.logFormat = .json
        expected.pairDefaults = PairSettings(
            granuleByteCount: 128 << 10,
            targetTimeoutNanoseconds: 300_000_000_000,
            copyDepth: 8
        )
        #expect(found == expected)
    }

    @Test(arguments: [("host", 7733), ("host:1", 1), ("[::1]", 7733), ("[::1]:0", 0)] as [(String, UInt16)])
    func peersAreListenedToAtTheUsualPortUnlessTold(text: String, port: UInt16) throws {
        let found = try Configuration.parse("peers: {listen: '\(text)'}", file: "f").peerListening
        #expect(found?.port == port && found?.host == (text.hasPrefix("[") ? "::1" : "host"))
        #expect(found?.allowsPlaintext == false)
    }

    @Test(arguments: ["", "# nothing\n", "---\n", "nbd:\n", "log: {}"])
    func nothingMeansTheDefaults(text: String) throws {
        #expect(try Configuration.parse(text, file: "f") == Configuration())
    }

    /// What is wrong, and how it is told.
    @Test(
        arguments: [
            ("state-dir: relative", "f:1:12: state-dir: found 'relative', expected an absolute path"),
            (
                "statedir: /x",
                "f:1:1: found the unknown key 'statedir'; did you mean 'state-dir'? Known are state-dir, control, nbd, "
                    + "peers, log, pair-defaults"
            ),
            (
                "log:\n  levle: info",
                "f:2:3: found the unknown key 'levle' in 'log'; did you mean 'level'? Known are level, format"
            ),
            (
                "log:\n  level: loud",
                "f:2:10: log.level: found 'loud', expected one of trace, debug, info, notice, warning, error, critical"
            ),
            (
                "log:\n  rotation: daily",
                "f:2:3: found the unknown key 'rotation' in 'log'. Known are level, format"
            ),
            ("peers:\n  listen: '::1'", "f:2:11: peers.listen: found '::1', expected \(PeerAddressText.expectation)"),
            (
                "peers:\n  allow-plaintext: yes",
                "f:2:20: peers.allow-plaintext: found 'yes', expected true or false"
            ),
            ("log: info", "f:1:6: found 'info', expected the keys level, format under 'log'"),
            ("nbd:\n  unix: [a]", "f:2:9: nbd.unix: found a list, expected a single value"),
            (
                "nbd:\n  unix-mode: 660",
                "f:2:14: nbd.unix-mode: found '660', expected permission bits in octal and quotes such as \"0660\""
            ),
            (
                "nbd:\n  listen: [\"127.0.0.1:1\", \"here\"]",
                "f:2:27: nbd.listen: found 'here', expected HOST:PORT such as 127.0.0.1:10809 or [::1]:10809"
            ),
            (
                "pair-defaults:\n  granule: 3KiB",
                "f:2:12: pair-defaults.granule: found '3KiB', expected a power of two from 4KiB to 1MiB"
            ),
            (
                "pair-defaults:\n  target-timeout: 30",
                "f:2:19: pair-defaults.target-timeout: found '30', expected a duration from 1s to 1h"
            ),
            (
                "pair-defaults:\n  copy-depth: 65",
                "f:2:15: pair-defaults.copy-depth: found '65', expected a whole number from 1 to 64"
            ),
            ("- a\n", "f:1:1: found a list, expected keys such as 'state-dir: PATH'"),
        ]
    )
    func tellsWhatIsWrong(text: String, words: String) {
        let error = #expect(throws: ConfigurationError.self) { try Configuration.parse(text, file: "f") }
        #expect(error?.description == words)
    }

    @Test(arguments: ["a: [", "a: b: c", "state-dir: /a\nstate-dir: /b", "\tx: y", "a: *nothing"])
    func tellsTheLineOfWhatIsNoYAML(text: String) {
        let error = #expect(throws: ConfigurationError.self) { try Configuration.parse(text, file: "f") }
        #expect((error?.line ?? 0) > 0, "\(String(describing: error))")
    }

    /// What a key refers to was looked at as often as it would stand there when written out: for hours.
    @Test func aFileOfAFewLinesTakesNoHours() {
        var lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
        for (old, new) in zip("abcdefgh", "bcdefghi") {
            lines.append("\(new): &\(new) [\(repeatElement("*\(old)", count: 9).joined(separator: ", "))]")
        }
        let text = (lines + ["z: {? *i : 1}"]).joined(separator: "\n")
        let error = #expect(throws: ConfigurationError.self) { try Configuration.parse(text, file: "f") }
        #expect(error?.description == "f: found more than 8 aliases such as '*name'")
    }

    /// Some of them are no harm, and neither is what only looks like them.
    @Test func aFileMayHaveAFewAliases() throws {
        let aliases = "peers: {listen: &a '[::1]:1'}\nnbd: {listen: [*a, *a]}\n"
        #expect(try Configuration.parse(aliases, file: "f").nbdListen.count == 2)
        let comment = "# *a *b *c *d *e *f *g *h *i *j\n"
        #expect(try Configuration.parse(comment, file: "f") == Configuration())
    }

    /// The system would take the path for one that ends there.
    @Test(arguments: ["state-dir: \"/srv\\0/repld\"", "nbd: {listen: [\"a\\0b:1\"]}"])
    func noValueHasAZeroByte(text: String) {
        let error = #expect(throws: ConfigurationError.self) { try Configuration.parse(text, file: "f") }
        #expect(error?.description.hasSuffix(": found a zero byte, which no value has") == true)
    }

    @Test func refusesWhatIsNoText() {
        let error = #expect(throws: ConfigurationError.self) {
            try Configuration.parse(Data([0x61, 0x3A, 0xFF]), file: "f")
        }
        #expect(error?.description == "f: is not UTF-8 text")
    }

    @Test func aNamedFileMustBeThere() {
        let error = #expect(throws: ConfigurationError.self) { try Configuration.load(file: "/nowhere/repld.yaml") }
        #expect(error?.description == "/nowhere/repld.yaml: there is no such file")
    }

    @Test(arguments: ["", ":1", "a:", "a:65536", "a:-1", "::1:1", "[::1]", "[a]:1", "a b:1"])
    func refusesTheAddress(text: String) { #expect(HostPort(text) == nil) }
}

@Suite struct QuantityTests {
    @Test(
        arguments: [
            ("0", 0), ("1", 1), ("512B", 512), ("64KiB", 65536), ("64 KiB", 65536), ("64k", 65536), ("1MiB", 1 << 20),
            ("10GiB", 10 << 30), ("2t", 2 << 40), ("15PiB", 15 << 50), ("16383PiB", 16383 << 50),
            ("18446744073709551615", .max),
        ] as [(String, UInt64)]
    )
    func readsSizes(text: String, count: UInt64) throws { #expect(try ByteCount.parse(text) == count) }

    @Test(arguments: ["", "KiB", "-1", "1.5GiB", "1XB", "16384PiB", "18446744073709551616", "٣", "1KB"])
    func refusesSizes(text: String) { #expect(throws: QuantityRefusal.self) { try ByteCount.parse(text) } }

    @Test(
        arguments: [
            (0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (2047, "1.9KiB"), (1 << 20, "1MiB"),
            ((1 << 30) - 1, "1023.9MiB"), (3 << 29, "1.5GiB"), (.max, "15.9EiB"),
        ] as [(UInt64, String)]
    )
    func writesSizes(count: UInt64, text: String) { #expect(ByteCount.format(count) == text) }

    @Test(arguments: [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("2h", 7_200_000), ("0s", 0)])
    func readsDurations(text: String, milliseconds: Int) throws {
        #expect(try DurationText.parse(text) == .milliseconds(milliseconds))
    }

    @Test(arguments: ["", "30", "s", "-1s", "9223372036854775807h", "8785h", "1 day"])
    func refusesDurations(text: String) { #expect(throws: QuantityRefusal.self) { try DurationText.parse(text) } }

    @Test(
        arguments: [
            (0, "0s"), (59, "59s"), (60, "1m 0s"), (3599, "59m 59s"), (3600, "1h 0m"), (172_800, "2d 0h"),
        ] as [(UInt64, String)]
    )
    func writesDurations(seconds: UInt64, text: String) { #expect(DurationText.format(seconds: seconds) == text) }

    @Test(arguments: [("a", true), (String(repeating: "a", count: 64), true), ("a.b-c_D9", true), ("_a", true)])
    func acceptsNames(name: String, isAccepted: Bool) { #expect((ObjectName.fault(of: name) == nil) == isAccepted) }

    @Test func suggestsTheNearestWord() {
        let known = ReplicationOperation.allCases.map(\.name)
        #expect(Suggestion.nearest(to: "resync", among: known) == nil)
        #expect(Suggestion.nearest(to: "ResyncReplca", among: known) == "ResyncReplica")
        #expect(Suggestion.nearest(to: "resume", among: known) == "Resume")
        #expect(Suggestion.nearest(to: "x", among: []) == nil)
    }
}
