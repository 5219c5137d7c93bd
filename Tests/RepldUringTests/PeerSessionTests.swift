import CRepldTLS
import RepldCore
import Testing

/// TLS sessions face to face, without sockets: what they let through and what they do not.
@Suite struct PeerSessionTests {
    /// Two ends of a connection, whose ciphertext the test carries.
    final class Ends {
        let client: OpaquePointer
        let server: OpaquePointer
        private let keys: UnsafeMutablePointer<repld_tls_key>
        private let table: UnsafeMutablePointer<UnsafePointer<repld_tls_key>?>

        /// With the secrets that each side has; `nil` where OpenSSL says no.
        init?(client own: UInt8, server known: [UInt8]) {
            keys = .allocate(capacity: known.count + 1)
            table = .allocate(capacity: known.count + 1)
            for (place, seed) in (known + [own]).enumerated() {
                let secret = (0..<32).map { seed &+ UInt8($0) &* 7 }
                guard repld_tls_derive(secret, 32, keys + place) == 0 else { return nil }
                (table + place).initialize(to: UnsafePointer(keys + place))
            }
            guard let client = repld_tls_connecting(keys + known.count),
                let server = repld_tls_accepting(table, known.count)
            else { return nil }
            (self.client, self.server) = (client, server)
        }

        deinit {
            repld_tls_free(client)
            repld_tls_free(server)
            keys.deallocate()
            table.deallocate()
        }

        /// A key that has the name of another: it is not derived from any secret.
        func forgeClientKey() { keys[1].identity = keys[0].identity }

        /// Hands over what one end has to send, as `change` leaves it; how many bytes there were.
        @discardableResult
        func carry(from source: OpaquePointer, to target: OpaquePointer, change: (inout [UInt8]) -> Void = { _ in })
            -> Int
        {
            var count = 0
            let start = repld_tls_output(source, &count)
            var bytes = Array(UnsafeBufferPointer(start: start, count: count))
            repld_tls_sent(source, count)
            change(&bytes)
            for byte in bytes {
                var room = 0
                let place = repld_tls_room(target, &room)
                guard room > 0, let place else { return 0 }
                place.pointee = byte
                repld_tls_received(target, 1)
            }
            return count
        }

        /// Handshakes until both ends have what they want, or one failed.
        func handshake() -> (client: repld_tls_state, server: repld_tls_state) {
            var states = (REPLD_TLS_WANTS_INPUT, REPLD_TLS_WANTS_INPUT)
            for _ in 0..<4 {
                states.0 = repld_tls_handshake(client)
                carry(from: client, to: server)
                states.1 = repld_tls_handshake(server)
                carry(from: server, to: client)
            }
            return states
        }

        func seal(_ bytes: [UInt8], _ rest: [UInt8] = [], on end: OpaquePointer) -> Int {
            repld_tls_seal(end, bytes, bytes.count, rest, rest.count, 0)
        }

        func open(_ end: OpaquePointer, _ room: Int) -> (bytes: [UInt8], state: repld_tls_state) {
            var bytes = [UInt8](repeating: 0, count: room)
            var state = REPLD_TLS_WANTS_INPUT
            let count = repld_tls_open(end, &bytes, room, &state)
            return (Array(bytes[..<count]), state)
        }
    }

    private func connected() throws -> Ends {
        let ends = try #require(Ends(client: 1, server: [9, 5, 1]))
        let states = ends.handshake()
        try #require(states.client == REPLD_TLS_DONE && states.server == REPLD_TLS_DONE)
        return ends
    }

    @Test("The key that is meant is found among several, and both ends name it")
    func found() throws {
        let ends = try connected()
        var (own, other) = ([UInt8](repeating: 0, count: 16), [UInt8](repeating: 0, count: 16))
        repld_tls_identity(ends.client, &own)
        repld_tls_identity(ends.server, &other)
        #expect(own == other && own.contains { $0 != 0 })
    }

    @Test("Without a key that both have, both ends fail", arguments: [[], [2], [2, 3]] as [[UInt8]])
    func unknown(known: [UInt8]) throws {
        let ends = try #require(Ends(client: 1, server: known))
        let states = ends.handshake()
        #expect(states.client == REPLD_TLS_FAILED && states.server == REPLD_TLS_FAILED)
        #expect(repld_tls_is_refused(ends.client) && repld_tls_is_refused(ends.server))
        #expect(String(cString: repld_tls_words(ends.client)) == "it does not know this key")
        #expect(String(cString: repld_tls_words(ends.server)) == "it offers no key that is known here")
        #expect(ends.seal([1], on: ends.client) == 0 && ends.seal([1], on: ends.server) == 0)
    }

    @Test("Whoever knows the name of a key, and not the key, is refused")
    func forged() throws {
        let ends = try #require(Ends(client: 1, server: [5]))
        ends.forgeClientKey()
        let states = ends.handshake()
        #expect(states.client == REPLD_TLS_FAILED && states.server == REPLD_TLS_FAILED)
        #expect(String(cString: repld_tls_words(ends.server)) == "it knows a key's name, but not the key")
    }

    @Test("Nothing is sealed or opened before the proof")
    func early() throws {
        let ends = try #require(Ends(client: 1, server: [1]))
        #expect(ends.seal([1, 2, 3], on: ends.client) == 0)
        _ = repld_tls_handshake(ends.client)
        #expect(ends.seal([1, 2, 3], on: ends.client) == 0)
    }

    @Test("A short first piece shares a record with the second, and the buffer bounds what is sealed at once")
    func pieces() throws {
        let ends = try connected()
        #expect(ends.seal(Array(repeating: 1, count: 24), Array(repeating: 2, count: 4096), on: ends.client) == 4120)
        let sealed = ends.carry(from: ends.client, to: ends.server)
        #expect(sealed == 4120 + 22)
        #expect(ends.open(ends.server, 8192).bytes == Array(repeating: 1, count: 24) + Array(repeating: 2, count: 4096))
        let much = [UInt8](repeating: 3, count: 1 << 20)
        #expect(ends.seal(much, on: ends.client) == 4 * 16384)
        #expect(ends.seal(much, on: ends.client) == 0)
    }

    @Test("The traffic key is replaced after so many records, in both directions, without a byte lost")
    func keyUpdate() throws {
        let ends = try connected()
        for end in [ends.client, ends.server] { repld_tls_set_records_per_key(end, 3) }
        for turn in 0..<20 {
            for (source, target) in [(ends.client, ends.server), (ends.server, ends.client)] {
                let bytes = [UInt8](repeating: UInt8(turn), count: 100 + turn)
                #expect(ends.seal(bytes, on: source) == bytes.count)
                ends.carry(from: source, to: target)
                #expect(ends.open(target, 1000).bytes == bytes)
            }
        }
        #expect(repld_tls_key_updates(ends.client) == 6 && repld_tls_key_updates(ends.server) == 6)
    }

    @Test("A turned bit anywhere in a record, a record left out or sent twice: nothing is opened any more")
    func changed() throws {
        let message = Array("attack at dawn".utf8)
        for place in 0..<message.count + 22 {
            let ends = try connected()
            _ = ends.seal(message, on: ends.client)
            // What follows makes up a record that the change made longer.
            _ = ends.seal([UInt8](repeating: 0, count: 16384), on: ends.client)
            ends.carry(from: ends.client, to: ends.server) { $0[place] ^= 1 }
            let opened = ends.open(ends.server, 100)
            #expect(opened.bytes.isEmpty && opened.state == REPLD_TLS_FAILED, "byte \(place)")
            #expect(ends.open(ends.server, 100).state == REPLD_TLS_FAILED)
        }
        let ends = try connected()
        _ = ends.seal(message, on: ends.client)
        ends.carry(from: ends.client, to: ends.server) { $0 += $0 }
        let twice = ends.open(ends.server, 100)
        #expect(twice.bytes == message && twice.state == REPLD_TLS_FAILED)
        #expect(ends.open(ends.server, 100).bytes.isEmpty)
    }

    @Test("A goodbye is an end, and what comes behind it is not looked at")
    func goodbye() throws {
        let ends = try connected()
        _ = ends.seal([1, 2, 3], on: ends.client)
        repld_tls_goodbye(ends.client)
        ends.carry(from: ends.client, to: ends.server)
        let last = ends.open(ends.server, 100)
        #expect(last.bytes == [1, 2, 3] && last.state == REPLD_TLS_DONE)
        let end = ends.open(ends.server, 100)
        #expect(end.bytes.isEmpty && end.state == REPLD_TLS_DONE)
    }
}
