import Glibc
import RepldCore
import RepldEngine
import RepldUring
import Testing

/// A desk that listens for peers, and connects to itself.
struct PeerDesk: ~Copyable {
    static let connectToken = Token(rawValue: 20)

    var desk: Desk
    let listener: Listener
    let keys: PeerKeySet

    init(_ keys: [PeerKey], allowsPlaintext: Bool = false, _ options: UringPlatform.Options = .init()) throws {
        let set = PeerKeySet(keys)
        let listener = try Listener.peers(host: "127.0.0.1", port: 0, keys: set, allowsPlaintext: allowsPlaintext)
        var desk = try Desk(options)
        desk.platform.startAccepting(listener, token: SocketTests.acceptToken)
        self.keys = set
        self.listener = listener
        self.desk = desk
    }

    /// The listener's address, for whoever has this key.
    func address(_ key: PeerKey?) -> PeerAddress { Self.address(port: listener.boundPort, key) }

    static func address(port: UInt16, _ key: PeerKey?) -> PeerAddress {
        PeerAddress(host: "127.0.0.1", port: port, security: key.map { .key($0) } ?? .plaintext)
    }

    /// Connects, over a port in between if there is one; both ends.
    mutating func connect(_ key: PeerKey?, via port: UInt16? = nil) throws -> (client: SocketID, server: SocketID) {
        let address = Self.address(port: port ?? listener.boundPort, key)
        desk.platform.connect(address, token: Self.connectToken)
        var ends: [Token: SocketID] = [:]
        while ends.count < 2 {
            guard let completion = desk.next() else { throw giveUp("no connection in time") }
            guard completion.failure == nil else {
                let notes = "\(address.trouble.note) \(String(describing: listener.trouble?.note))"
                throw giveUp("\(completion) \(notes)")
            }
            ends[completion.token] = SocketID(index: UInt16(completion.count))
        }
        guard let client = ends[Self.connectToken], let server = ends[SocketTests.acceptToken] else {
            throw giveUp("completions of \(ends.keys)")
        }
        return (client, server)
    }

    /// Stops accepting, without which the platform must not go, and says why.
    private mutating func giveUp(_ words: String) -> ToolFailure {
        desk.platform.stopAccepting(token: SocketTests.acceptToken)
        while let completion = desk.next(), completion.failure != .cancelled {}
        return ToolFailure(words: words)
    }

    /// How an attempt ends that must fail, while nobody is let in.
    mutating func failure(of address: PeerAddress) -> IOFailure? {
        desk.platform.connect(address, token: Self.connectToken)
        let completion = desk.next()
        #expect(completion?.token == Self.connectToken)
        return completion?.failure
    }

    mutating func close(_ sockets: SocketID...) {
        for socket in sockets { desk.platform.close(socket) }
    }

    mutating func end() { desk.stopAccepting() }
}

extension Desk {
    /// Sends all of `memory` from one socket to another, the first `headCount` bytes as a piece of their own; how it arrived.
    ///
    /// Receives `room` bytes at a time.
    mutating func transfer(_ memory: Memory, headCount: Int, from source: SocketID, to target: SocketID, room: Int)
        -> Memory?
    {
        let total = memory.bytes.count
        let received = Memory(total)
        platform.send(
            source,
            UnsafeRawBufferPointer(memory.slice(0, headCount)),
            UnsafeRawBufferPointer(memory.slice(headCount, total - headCount)),
            token: Token(rawValue: 2)
        )
        var done = 0
        var isSent = false
        platform.receive(target, into: received.slice(0, min(room, total)), token: Token(rawValue: 1))
        while done < total || !isSent {
            guard let completion = next(), completion.failure == nil else { return nil }
            if completion.token.rawValue == 2 {
                #expect(completion.succeeded(total))
                isSent = true
                continue
            }
            guard completion.count > 0 else { return nil }
            done += Int(completion.count)
            guard done < total else { continue }
            platform.receive(target, into: received.slice(done, min(room, total - done)), token: Token(rawValue: 1))
        }
        return received
    }

    /// How one receive ends.
    mutating func receiveOnce(_ socket: SocketID) -> Completion? {
        let memory = Memory(4096)
        platform.receive(socket, into: memory.bytes, token: Token(rawValue: 1))
        defer { withExtendedLifetime(memory) {} }
        return next()
    }
}

/// A man in the middle of one connection: hands bytes on in both directions until one side ends.
///
/// It may change one byte of what goes one way, or break off before it.
final class Proxy: Sendable {
    enum Mischief {
        case none
        /// Turns over a bit of the byte at that place.
        case flip(Int, toListener: Bool)
        /// Closes instead of handing on the byte at that place.
        case cut(Int, toListener: Bool)
    }

    let port: UInt16
    private let thread: LoopThread

    init(to target: Listener, _ mischief: Mischief) throws {
        let listening = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        inet_pton(AF_INET, "127.0.0.1", &address.sin_addr)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isListening = withUnsafeMutablePointer(to: &address) { place in
            place.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listening, $0, length) == 0 && listen(listening, 1) == 0
                    && getsockname(listening, $0, &length) == 0
            }
        }
        guard isListening else { throw ToolFailure(words: "listen: \(errno)") }
        port = UInt16(bigEndian: address.sin_port)
        thread = try LoopThread(name: "proxy") {
            let near = accept(listening, nil, nil)
            Glibc.close(listening)
            if near >= 0, let far = try? Client(target) { Proxy.pump(near, far.descriptor, mischief) }
            Glibc.close(near)
        }
    }

    /// After both ends were closed.
    func join() { thread.join() }

    private static func pump(_ near: Int32, _ far: Int32, _ mischief: Mischief) {
        var bytes = [UInt8](repeating: 0, count: 32768)
        var passed = [near: 0, far: 0]
        while true {
            var polls = [
                pollfd(fd: near, events: Int16(POLLIN), revents: 0), pollfd(fd: far, events: Int16(POLLIN), revents: 0),
            ]
            guard poll(&polls, 2, 10_000) > 0 else { return }
            for entry in polls where entry.revents != 0 {
                let source = entry.fd
                let toListener = source == near
                var count = recv(source, &bytes, bytes.count, 0)
                guard count > 0, let start = passed[source] else { return }
                var isCut = false
                switch mischief {
                case .flip(let place, toListener): if start..<start + count ~= place { bytes[place - start] ^= 0x20 }
                case .cut(let place, toListener):
                    if start..<start + count ~= place { (count, isCut) = (place - start, true) }
                case .none, .flip, .cut: break
                }
                if count > 0, send(toListener ? far : near, bytes, count, Int32(MSG_NOSIGNAL)) != count { return }
                if isCut { return }
                passed[source] = start + count
            }
        }
    }
}
