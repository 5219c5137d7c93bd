import Foundation
import Glibc
import RepldCore
import RepldEngine
import RepldUring
import Testing

/// Who is let in and who is not, and how long anybody waits for it.
@Suite struct PeerAdmissionTests {
    private func options(milliseconds: UInt64 = 10_000, capacity: Int = 64) -> UringPlatform.Options {
        var options = UringPlatform.Options()
        options.admissionTimeNanoseconds = milliseconds * 1_000_000
        options.admissionCapacity = capacity
        return options
    }

    @Test("A wrong key is refused on both sides, until it is a right one")
    func wrongKey() throws {
        let (known, other) = (try PeerKey.fresh(), try PeerKey.fresh())
        var pair = try PeerDesk([known])
        let address = pair.address(other)
        let failure = pair.failure(of: address)
        #expect(failure == .invalidArgument)
        #expect(address.trouble.note.words == "it does not know this key")
        let note = pair.listener.trouble?.note
        #expect(note?.count == 1 && note?.words?.hasSuffix(": it offers no key that is known here") == true)
        // Keys come and go while the listener listens.
        pair.keys.replace(with: [known, other])
        let later = try pair.connect(other)
        pair.keys.replace(with: [])
        let refused = pair.failure(of: pair.address(known))
        #expect(refused == .invalidArgument)
        // Who was let in stays.
        let memory = Memory(1024, seed: 1)
        let received = pair.desk.transfer(memory, headCount: 8, from: later.client, to: later.server, room: 4096)
        #expect(received?.equals(memory) == true)
        pair.close(later.client, later.server)
        pair.end()
    }

    @Test("A listener that is not encrypted gets nothing from who wants to be, and the reverse")
    func mixed() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key])
        // Words where a handshake belongs.
        let plain = try Client(pair.listener)
        plain.send("RPLW: a hello that is none, and is long enough for a record's header")
        // The loop has to turn for its accept.
        let right = try pair.connect(key)
        #expect(plain.isAtEnd)
        pair.close(right.client, right.server)
        let address = pair.address(nil)
        pair.desk.platform.connect(address, token: PeerDesk.connectToken)
        let unencrypted = pair.desk.next()
        // A connection without a proof is one as soon as TCP says so; the other end never takes part.
        #expect(unencrypted?.failure == nil && unencrypted?.token == PeerDesk.connectToken)
        let socket = SocketID(index: UInt16(unencrypted?.count ?? 0))
        pair.desk.send(socket, "hello", "")
        let sent = pair.desk.next()
        #expect(sent?.succeeded(5) == true)
        let end = pair.desk.receiveOnce(socket)
        #expect(end?.failure == .gone || end?.count ?? 0 < 64)
        pair.close(socket)

        // A server that is not encrypted answers with what is no handshake.
        let server = try Listener.tcp(host: "127.0.0.1", port: 0)
        pair.desk.platform.startAccepting(server, token: Token(rawValue: 30))
        pair.desk.platform.connect(PeerDesk.address(port: server.boundPort, key), token: PeerDesk.connectToken)
        let accepted = pair.desk.next()
        #expect(accepted?.token.rawValue == 30)
        let other = SocketID(index: UInt16(accepted?.count ?? 0))
        pair.desk.send(other, "what is it you", " want?")
        let answered = [pair.desk.next(), pair.desk.next()]
        let failed = answered.first { $0?.token == PeerDesk.connectToken }
        #expect(failed??.failure == .gone)
        pair.close(other)
        pair.desk.platform.stopAccepting(token: Token(rawValue: 30))
        let last = pair.desk.next()
        #expect(last?.failure == .cancelled)
        pair.end()
    }

    @Test("A TLS client that has no key, and would trust anybody, is refused", arguments: [[], [try? PeerKey.fresh()]])
    func noKey(known: [PeerKey?]) throws {
        var pair = try PeerDesk(known.compactMap { $0 })
        let port = "\(pair.listener.boundPort)"
        let program = """
            import socket, ssl, sys
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            try: context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
            except ssl.SSLError as error: sys.exit(0 if "HANDSHAKE_FAILURE" in str(error) else 2)
            sys.exit(1)
            """
        let result = Locked<Bool?>(nil)
        let client = try LoopThread(name: "client") {
            let isRefused = (try? run("python3", "-c", program, port)) != nil
            result.withLock { $0 = isRefused }
        }
        let deadline = Instant.soon(20_000)
        while result.withLock({ $0 }) == nil, .soon(0) < deadline {
            pair.desk.platform.wait(until: .soon(10), into: &pair.desk.completions)
        }
        client.join()
        #expect(result.withLock { $0 } == true)
        let count = pair.desk.completions.count
        #expect(count == 0)
        #expect(pair.listener.trouble?.note.count == 1)
        pair.end()
    }

    @Test("Where plaintext is allowed, both kinds are let in, each for what it is")
    func plaintext() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key], allowsPlaintext: true)
        let encrypted = try pair.connect(key)
        pair.desk.platform.connect(pair.address(nil), token: PeerDesk.connectToken)
        let connected = pair.desk.next()
        let client = SocketID(index: UInt16(connected?.count ?? 0))
        #expect(connected?.token == PeerDesk.connectToken)
        // Only now the listener knows what it is.
        pair.desk.send(client, "RPLW", "")
        var server: SocketID?
        while server == nil, let completion = pair.desk.next() {
            if completion.token == SocketTests.acceptToken { server = SocketID(index: UInt16(completion.count)) }
        }
        let plain = try #require(server)
        let text = pair.desk.receive(plain, 64)
        #expect(text == "RPLW")
        let identities = [encrypted.server, plain].map { pair.desk.platform.keyIdentity(of: $0) }
        #expect(identities == [key.identity, nil])
        // Without any key nobody has to speak first.
        pair.keys.replace(with: [])
        let bare = try pair.connect(nil)
        pair.close(client, plain, encrypted.client, encrypted.server, bare.client, bare.server)
        pair.end()
    }

    @Test("Those who say nothing do not keep others out, and are closed when their time is over")
    func silent() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key], options(milliseconds: 2000, capacity: 4))
        let silent = try (0..<9).map { _ in try Client(pair.listener) }
        let (client, server) = try pair.connect(key)
        let text = Memory(64, seed: 1)
        let received = pair.desk.transfer(text, headCount: 0, from: client, to: server, room: 64)
        #expect(received?.equals(text) == true)
        for peer in silent { #expect(peer.isAtEnd) }
        #expect(pair.listener.trouble?.note.count == 9)
        pair.close(client, server)
        pair.end()
    }

    @Test("Nobody listens there: refused at once, and by name")
    func closedPort() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key])
        let port: UInt16
        do { port = try Listener.tcp(host: "127.0.0.1", port: 0).boundPort }
        let address = PeerDesk.address(port: port, key)
        let failure = pair.failure(of: address)
        #expect(failure == .gone)
        #expect(address.trouble.note.words?.contains("refused") == true)
        pair.end()
    }

    @Test("A host that nobody knows is said to be unknown; one by name is found")
    func names() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key])
        let unknown = PeerAddress(host: "no such host", port: 1, security: .key(key))
        let failure = pair.failure(of: unknown)
        #expect(failure == .gone)
        #expect(unknown.trouble.note.words?.isEmpty == false)
        // It stands for two addresses on some hosts, and nobody listens on one of them.
        let named = PeerAddress(host: "localhost", port: pair.listener.boundPort, security: .key(key))
        pair.desk.platform.connect(named, token: PeerDesk.connectToken)
        var sockets: [SocketID] = []
        while sockets.count < 2, let completion = pair.desk.next(), completion.failure == nil {
            sockets.append(SocketID(index: UInt16(completion.count)))
        }
        #expect(sockets.count == 2)
        for socket in sockets { pair.desk.platform.close(socket) }
        pair.end()
    }

    @Test("Somebody listens and never answers: it ends when its time is over")
    func noAnswer() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key], options(milliseconds: 50))
        let deaf = try Listener.tcp(host: "127.0.0.1", port: 0)
        let address = PeerDesk.address(port: deaf.boundPort, key)
        let failure = pair.failure(of: address)
        #expect(failure == .timedOut)
        #expect(address.trouble.note.words?.contains("in time") == true)
        withExtendedLifetime(deaf) {}
        pair.end()
    }

    @Test("More attempts at once than there is room for are refused, and the others are not hurt")
    func tooMany() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key], options(milliseconds: 1000, capacity: 2))
        let deaf = try Listener.tcp(host: "127.0.0.1", port: 0)
        let address = PeerDesk.address(port: deaf.boundPort, key)
        for number in 0..<3 { pair.desk.platform.connect(address, token: Token(rawValue: UInt64(100 + number))) }
        var failures: [IOFailure?] = []
        for _ in 0..<3 { failures.append(pair.desk.next()?.failure) }
        #expect(failures == [.noResources, .timedOut, .timedOut])
        let ends = try pair.connect(key)
        pair.close(ends.client, ends.server)
        withExtendedLifetime(deaf) {}
        pair.end()
    }

    @Test("A full table of sockets refuses a peer that was let in, and a connection that was made")
    func fullTable() throws {
        let key = try PeerKey.fresh()
        var few = options()
        few.socketCapacity = 2
        var pair = try PeerDesk([key], few)
        let (client, server) = try pair.connect(key)
        pair.desk.platform.connect(pair.address(key), token: PeerDesk.connectToken)
        let refused = [pair.desk.next(), pair.desk.next()]
        #expect(refused.allSatisfy { $0?.failure == .noResources })
        pair.close(client, server)
        pair.end()
    }

    @Test("A platform that goes while attempts are under way leaves no thread, descriptor or open connection")
    func goes() async {
        // In a process of its own, where nobody else opens anything.
        await #expect(processExitsWith: .success) {
            func open() -> Int { (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd").count) ?? -1 }
            func threads() -> Int {
                (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task").count) ?? -1
            }
            let key = try PeerKey.fresh()
            let deaf = try Listener.tcp(host: "127.0.0.1", port: 0)
            let before = (open(), threads())
            do {
                var pair = try PeerDesk([key])
                for number in 0..<5 {
                    let address = PeerDesk.address(port: deaf.boundPort, key)
                    pair.desk.platform.connect(address, token: Token(rawValue: UInt64(100 + number)))
                }
                // One is through, and both its ends stay open; one has said nothing; of one nobody took the completion.
                let ends = try pair.connect(key)
                let silent = try Client(pair.listener)
                pair.desk.platform.connect(pair.address(key), token: Token(rawValue: 200))
                guard pair.desk.next() != nil, threads() > before.1, open() > before.0 + 10 else { exit(2) }
                pair.desk.platform.stopAccepting(token: SocketTests.acceptToken)
                while let completion = pair.desk.next(), completion.failure != .cancelled {}
                withExtendedLifetime((ends, silent)) {}
            }
            exit(open() == before.0 && threads() == before.1 ? 0 : 3)
        }
    }
}
