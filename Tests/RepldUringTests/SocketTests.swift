import CRepldLinux
import Glibc
import RepldCore
import RepldEngine
import RepldUring
import Testing

/// Connections: made, used, half closed, broken off.
@Suite struct SocketTests {
    static let acceptToken = Token(rawValue: 10)
    static let multishot = [UringPlatform.Acceleration.all, [.setupFlags], []]

    @Test("Bytes go both ways over a unix socket and over TCP", arguments: multishot, ["unix", "127.0.0.1", "::1"])
    func bothWays(allowed: UringPlatform.Acceleration, kind: String) throws {
        let place = try TemporaryDirectory()
        var options = UringPlatform.Options()
        options.allowed = allowed
        var desk = try Desk(options)
        let listener =
            kind == "unix"
            ? try Listener.unix(path: place.file("socket")) : try Listener.tcp(host: kind, port: 0)
        desk.platform.startAccepting(listener, token: Self.acceptToken)
        // Several connections of one listener, one after the other and at once.
        for _ in 0..<3 {
            let client = try Client(listener)
            let other = try Client(listener)
            let accepted = try desk.acceptTwo()
            #expect(accepted.count == 2)
            for (socket, peer) in zip(accepted, [client, other]) {
                peer.send("question")
                let question = desk.receive(socket, 64)
                #expect(question == "question")
                desk.send(socket, "ans", "wer")
                let sent = desk.next()
                #expect(sent?.succeeded(6) == true)
                #expect(peer.receive(6) == "answer")
                desk.platform.close(socket)
                #expect(peer.isAtEnd)
            }
        }
        desk.stopAccepting()
    }

    @Test("A send larger than every buffer ends when all of it has gone, in order", arguments: multishot)
    func longSend(allowed: UringPlatform.Acceleration) throws {
        let (first, second) = (Memory(1 << 20, seed: 1), Memory(3 << 20, seed: 2))
        var options = UringPlatform.Options()
        options.allowed = allowed
        var pair = try Connection(options, sendBuffer: 4096)
        let peer = pair.peer
        let received = Memory(4 << 20)
        let target = UInt(bitPattern: received.bytes.baseAddress)
        let reader = try LoopThread(name: "reader") {
            var count = 0
            while count < 4 << 20 {
                let got = recv(peer.descriptor, UnsafeMutableRawPointer(bitPattern: target + UInt(count)), 7777, 0)
                if got <= 0 { return }
                count += got
            }
        }
        pair.desk.platform.send(
            pair.socket,
            UnsafeRawBufferPointer(first.bytes),
            UnsafeRawBufferPointer(second.bytes),
            token: Token(rawValue: 2)
        )
        let sent = pair.desk.next()
        #expect(sent?.succeeded(4 << 20) == true)
        reader.join()
        #expect(received.slice(0, 1 << 20).elementsEqual(first.bytes))
        #expect(received.slice(1 << 20, 3 << 20).elementsEqual(second.bytes))
        pair.end()
    }

    @Test(
        "A short send goes on where it stopped, in the first piece, between the two and in the second",
        arguments: [1, 3, 4, 6],
        [0, 3]
    )
    func shortSend(moved: Int32, secondLength: Int) throws {
        var pair = try Connection()
        if Int(moved) < 4 + secondLength { pair.desk.platform.replaceNextResult(of: .send, with: moved) }
        pair.desk.platform.replaceNextResult(of: .send, with: -EINTR)
        pair.desk.send(pair.socket, "abcd", String("efg".prefix(secondLength)))
        let sent = pair.desk.next()
        #expect(sent?.succeeded(4 + secondLength) == true)
        // What the kernel had sent already is sent again from the place that the test pretended.
        let whole = "abcd" + String("efg".prefix(secondLength))
        let rest = Int(moved) < whole.utf8.count ? String(whole.dropFirst(Int(moved))) : ""
        #expect(pair.peer.receive(whole.utf8.count + 2 * rest.utf8.count).hasPrefix(whole + rest))
        pair.end()
    }

    @Test("The other end stops sending: the stream ends here, and replies still arrive there")
    func halfClose() throws {
        var pair = try Connection()
        pair.peer.send("last words")
        Glibc.shutdown(pair.peer.descriptor, Int32(SHUT_WR))
        let words = pair.desk.receive(pair.socket, 64)
        #expect(words == "last words")
        let end = pair.desk.receive(pair.socket, 64)
        #expect(end == "")
        pair.desk.send(pair.socket, "good", "bye")
        let sent = pair.desk.next()
        #expect(sent?.succeeded(7) == true)
        #expect(pair.peer.receive(7) == "goodbye")
        pair.end()
    }

    @Test("The other end is cut off while we receive and send")
    func reset() throws {
        var pair = try Connection()
        let memory = Memory(4096)
        let much = Memory(16 << 20)
        pair.desk.platform.receive(pair.socket, into: memory.bytes, token: Token(rawValue: 1))
        pair.desk.platform.send(
            pair.socket,
            UnsafeRawBufferPointer(much.bytes),
            UnsafeRawBufferPointer(memory.bytes),
            token: Token(rawValue: 2)
        )
        pair.desk.platform.wait(until: .soon(0), into: &pair.desk.completions)
        pair.peer.reset()
        for _ in 0..<2 {
            let completion = pair.desk.next()
            #expect(completion?.failure == .gone || completion?.token.rawValue == 1 && completion?.count == 0)
        }
        // Writing to what is gone is an error, not a signal.
        pair.desk.send(pair.socket, "more", "")
        let failed = pair.desk.next()
        #expect(failed?.failure == .gone)
        pair.end()
    }

    @Test("Our own shutdown ends what is in flight")
    func ownShutdown() throws {
        var pair = try Connection()
        let memory = Memory(4096)
        pair.desk.platform.receive(pair.socket, into: memory.bytes, token: Token(rawValue: 1))
        pair.desk.platform.wait(until: .soon(0), into: &pair.desk.completions)
        pair.desk.platform.shutdown(pair.socket)
        let ended = pair.desk.next()
        #expect(ended?.token.rawValue == 1 && (ended?.count == 0 || ended?.failure == .gone))
        pair.end()
    }

    @Test("A full table of sockets refuses, and takes again when one was closed", arguments: multishot)
    func fullTable(allowed: UringPlatform.Acceleration) throws {
        var options = UringPlatform.Options()
        options.allowed = allowed
        options.socketCapacity = 1
        var pair = try Connection(options)
        let refused = try Client(pair.listener)
        let completion = pair.desk.next()
        #expect(completion?.token == Self.acceptToken && completion?.failure == .noResources)
        #expect(refused.isAtEnd)
        pair.desk.platform.close(pair.socket)
        let welcome = try Client(pair.listener)
        let accepted = pair.desk.next()
        #expect(accepted?.failure == nil)
        welcome.send("x")
        pair.socket = SocketID(index: UInt16(accepted?.count ?? 0))
        let text = pair.desk.receive(pair.socket, 4)
        #expect(text == "x")
        pair.end()
    }

    @Test("No descriptors left: said, rested, and accepting goes on", arguments: multishot)
    func noDescriptors(allowed: UringPlatform.Acceleration) async {
        // In a process of its own: the limit is the whole process's.
        let rawValue = Int32(allowed.rawValue)
        await #expect(processExitsWith: .success) { [rawValue = rawValue as Int32] in
            var options = UringPlatform.Options()
            options.allowed = UringPlatform.Acceleration(rawValue: UInt8(rawValue))
            var desk = try Desk(options)
            let listener = try Listener.tcp(host: "127.0.0.1", port: 0)
            let waiting = Client(unconnected: listener)
            var former = rlimit()
            getrlimit(__rlimit_resource_t(7), &former)
            let lowest = dup(0)
            Glibc.close(lowest)
            // The lowest free number is one too many. The kernel looks at the limit when an accept is armed.
            var none = rlimit(rlim_cur: rlim_t(lowest), rlim_max: former.rlim_max)
            setrlimit(__rlimit_resource_t(7), &none)
            desk.platform.startAccepting(listener, token: Self.acceptToken)
            try waiting.connect(listener)
            var failures = 0
            var socket: SocketID?
            while socket == nil, let completion = desk.next() {
                guard completion.failure == nil else {
                    guard completion.failure == .noResources else { exit(2) }
                    failures += 1
                    // Twice: it went on after the first, and did not spin meanwhile.
                    if failures == 2 { setrlimit(__rlimit_resource_t(7), &former) }
                    continue
                }
                socket = SocketID(index: UInt16(completion.count))
            }
            guard let socket, failures >= 2, failures <= 4 else { exit(3) }
            waiting.send("at last")
            let text = desk.receive(socket, 16)
            desk.platform.close(socket)
            desk.stopAccepting()
            exit(text == "at last" ? 0 : 4)
        }
    }

    @Test("A connection that is gone before it was accepted does not end accepting", arguments: multishot)
    func aborted(allowed: UringPlatform.Acceleration) throws {
        var options = UringPlatform.Options()
        options.allowed = allowed
        options.allowed.remove(.multishotAccept)
        var pair = try Connection(options)
        pair.desk.platform.replaceNextResult(of: .accept, with: -ECONNABORTED)
        let lost = try Client(pair.listener)
        let second = try Client(pair.listener)
        let accepted = pair.desk.next()
        #expect(accepted?.failure == nil)
        second.send("here")
        let socket = SocketID(index: UInt16(accepted?.count ?? 0))
        let text = pair.desk.receive(socket, 16)
        #expect(text == "here")
        pair.desk.platform.close(socket)
        pair.end()
        withExtendedLifetime(lost) {}
    }

    @Test("More listeners than there is room for are refused")
    func tooManyListeners() throws {
        let place = try TemporaryDirectory()
        var options = UringPlatform.Options()
        options.listenerCapacity = 1
        var desk = try Desk(options)
        desk.platform.startAccepting(try Listener.unix(path: place.file("a")), token: Self.acceptToken)
        desk.platform.startAccepting(try Listener.unix(path: place.file("b")), token: Token(rawValue: 11))
        let refused = desk.next()
        #expect(refused?.token.rawValue == 11 && refused?.failure == .noResources)
        desk.stopAccepting()
        // Its place is free again.
        desk.platform.startAccepting(try Listener.unix(path: place.file("b")), token: Self.acceptToken)
        desk.stopAccepting()
    }

    @Test("Sockets still open when the platform goes are closed")
    func closedWithPlatform() throws {
        let peer: Client
        do {
            var pair = try Connection()
            peer = pair.peer
            pair.desk.stopAccepting()
        }
        #expect(peer.isAtEnd)
    }
}

/// A desk with one accepted connection over TCP.
struct Connection: ~Copyable {
    var desk: Desk
    let listener: Listener
    let peer: Client
    var socket: SocketID

    init(_ options: UringPlatform.Options = .init(), sendBuffer: Int32 = 0) throws {
        let listener = try Listener.tcp(host: "127.0.0.1", port: 0)
        let peer = Client(unconnected: listener)
        var size = sendBuffer
        if size > 0 { setsockopt(peer.descriptor, SOL_SOCKET, SO_RCVBUF, &size, 4) }
        try peer.connect(listener)
        var desk = try Desk(options)
        desk.platform.startAccepting(listener, token: SocketTests.acceptToken)
        socket = SocketID(index: UInt16(desk.next()?.count ?? 0))
        self.listener = listener
        self.peer = peer
        self.desk = desk
    }

    mutating func end() {
        desk.platform.close(socket)
        desk.stopAccepting()
    }
}

extension Desk {
    mutating func stopAccepting() {
        platform.stopAccepting(token: SocketTests.acceptToken)
        let last = next()
        #expect(last?.token == SocketTests.acceptToken && last?.failure == .cancelled)
    }

    mutating func acceptTwo() throws -> [SocketID] {
        var found: [SocketID] = []
        while found.count < 2, let completion = next() {
            #expect(completion.failure == nil && completion.token == SocketTests.acceptToken)
            found.append(SocketID(index: UInt16(completion.count)))
        }
        return found
    }

    /// What one receive brings, as text; empty at the end of the stream.
    mutating func receive(_ socket: SocketID, _ limit: Int) -> String? {
        let memory = Memory(limit)
        platform.receive(socket, into: memory.bytes, token: Token(rawValue: 1))
        guard let completion = next(), completion.failure == nil else { return nil }
        return String(decoding: memory.slice(0, Int(completion.count)), as: UTF8.self)
    }

    /// Starts to send two texts; their memory is left behind for the kernel to read whenever it likes.
    mutating func send(_ socket: SocketID, _ first: String, _ second: String) {
        func bytes(_ text: String) -> UnsafeRawBufferPointer {
            let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, text.utf8.count), alignment: 1)
            copy.copyBytes(from: Array(text.utf8))
            return UnsafeRawBufferPointer(rebasing: copy[..<text.utf8.count])
        }
        platform.send(socket, bytes(first), bytes(second), token: Token(rawValue: 2))
    }
}

/// The other end of a connection, with plain system calls.
final class Client: Sendable {
    let descriptor: Int32

    init(_ listener: Listener) throws {
        let isTCP = listener.isTCP
        let family = !isTCP ? AF_UNIX : listener.address.hasPrefix("[") ? AF_INET6 : AF_INET
        descriptor = Glibc.socket(family, Int32(SOCK_STREAM.rawValue), 0)
        try connect(listener)
    }

    init(unconnected listener: Listener) {
        let family = !listener.isTCP ? AF_UNIX : listener.address.hasPrefix("[") ? AF_INET6 : AF_INET
        descriptor = Glibc.socket(family, Int32(SOCK_STREAM.rawValue), 0)
    }

    deinit { Glibc.close(descriptor) }

    func connect(_ listener: Listener) throws {
        let result: Int32
        if !listener.isTCP {
            result = repld_connect_unix(descriptor, listener.address)
        } else if listener.address.hasPrefix("[") {
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = listener.boundPort.bigEndian
            inet_pton(AF_INET6, "::1", &address.sin6_addr)
            result = connect(&address, MemoryLayout<sockaddr_in6>.size)
        } else {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = listener.boundPort.bigEndian
            inet_pton(AF_INET, "127.0.0.1", &address.sin_addr)
            result = connect(&address, MemoryLayout<sockaddr_in>.size)
        }
        // This thread is the ring's, too: work of the kernel for the accept interrupts the call, which then starts again
        // and finds itself connected.
        guard result == 0 || errno == EISCONN else { throw ToolFailure(words: "connect: \(errno)") }
    }

    private func connect(_ address: UnsafeMutableRawPointer, _ length: Int) -> Int32 {
        Glibc.connect(descriptor, address.assumingMemoryBound(to: sockaddr.self), socklen_t(length))
    }

    func send(_ text: String) {
        let bytes = Array(text.utf8)
        _ = Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    /// Exactly so many bytes, or what came before the end; two minutes at most.
    func receive(_ count: Int) -> String {
        var limit = timeval(tv_sec: 120, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        var bytes = [UInt8](repeating: 0, count: count)
        let got = recv(descriptor, &bytes, count, Int32(MSG_WAITALL))
        return String(decoding: bytes.prefix(max(0, got)), as: UTF8.self)
    }

    var isAtEnd: Bool {
        var byte: UInt8 = 0
        return recv(descriptor, &byte, 1, 0) <= 0
    }

    /// Breaks off without a goodbye.
    func reset() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<linger>.size))
        // The number stays taken, so that the deinit closes nobody else's.
        let nothing = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        dup2(nothing, descriptor)
        Glibc.close(nothing)
    }
}
