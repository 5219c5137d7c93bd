import RepldCore
import RepldEngine
import RepldSimulation

/// One open socket of a scripted host, and all that went over it.
final class ScriptedSocket {
    let index: UInt16
    /// What is still to be given to sends.
    var unsent: [UInt8] = []
    var sentByteCount = 0
    var received: [UInt8] = []
    /// The sizes in which it came.
    var pieces: [Int] = []
    var isSending = false
    var isReceiving = false
    /// No receive is started while this is false.
    var wantsToReceive = true
    var hasEnded = false
    var receiveFailure: IOFailure?
    var sendFailure: IOFailure?

    init(index: UInt16) { self.index = index }

    var isLost: Bool { receiveFailure != nil || sendFailure != nil }
}

/// A host whose program is a test: it accepts, connects, sends what it is told to and receives what comes.
final class ScriptedHost {
    enum Kind: UInt8 { case accept = 1, connect, receive, send, work }

    let host: SimulatedHost
    private var platform: SimulatedPlatform
    private var completions = BoundedQueue(
        capacity: 64,
        blank: Completion(token: .wake, count: 0, failure: nil)
    )
    private var buffers: [UInt64: UnsafeMutableRawBufferPointer] = [:]
    var sockets: [ScriptedSocket] = []
    /// Those of them that were accepted, and those that it connected.
    var accepted: [ScriptedSocket] = []
    var connected: [ScriptedSocket] = []
    var connectFailures: [IOFailure] = []
    var acceptFailures: [IOFailure] = []
    /// Whether sockets receive from the start.
    var receivesAtOnce = true
    var deadline = UInt64.max
    var turnCount = 0
    var chunkByteCount = 100_000
    let note: (String) -> Void

    init(_ host: SimulatedHost, note: @escaping (String) -> Void) {
        self.host = host
        self.note = note
        platform = SimulatedPlatform(host: host)
    }

    deinit { freeBuffers() }

    private func freeBuffers() {
        for buffer in buffers.values { buffer.deallocate() }
        buffers = [:]
    }

    static func token(_ kind: Kind, _ index: Int = 0) -> Token {
        Token(kind: kind.rawValue, leg: 0, slot: SlotID(index: UInt32(index), generation: 0))
    }

    func listen(port: Int = 0) {
        platform.startAccepting(SimulatedPlace(host, port: port), token: Self.token(.accept, port))
    }

    func stopListening(port: Int = 0) { platform.stopAccepting(token: Self.token(.accept, port)) }

    func connect(to other: ScriptedHost, port: Int = 0) {
        platform.connect(SimulatedPlace(other.host, port: port), token: Self.token(.connect))
    }

    func connect(toPlace place: SimulatedPlace) { platform.connect(place, token: Self.token(.connect)) }

    func send(_ bytes: [UInt8], on socket: ScriptedSocket) {
        socket.unsent += bytes
        proceed(socket)
    }

    func receive(on socket: ScriptedSocket) {
        socket.wantsToReceive = true
        proceed(socket)
    }

    func shutDown(_ socket: ScriptedSocket) { platform.shutdown(SocketID(index: socket.index)) }

    func close(_ socket: ScriptedSocket) {
        sockets.removeAll { $0 === socket }
        platform.close(SocketID(index: socket.index))
    }

    /// Changes the memory of all sends in flight, as nobody may.
    func spoilSends() {
        for (token, memory) in buffers where Token(rawValue: token).kind == Kind.send.rawValue { memory[0] ^= 1 }
    }

    func recode(_ recoding: DataRecoding) { platform.recode(recoding, token: Self.token(.work)) }
    var workCounts: [UInt32] = []

    func crash() {
        host.crash(disks: [])
        completions.removeAll()
        sockets = []
        freeBuffers()
    }

    func restart() { platform = SimulatedPlatform(host: host) }

    private func proceed(_ socket: ScriptedSocket) {
        let id = SocketID(index: socket.index)
        if !socket.isReceiving, socket.wantsToReceive, !socket.hasEnded, !socket.isLost {
            socket.isReceiving = true
            let token = Self.token(.receive, Int(socket.index))
            platform.receive(id, into: buffer(token, byteCount: 10_000), token: token)
        }
        if !socket.isSending, !socket.unsent.isEmpty, !socket.isLost {
            socket.isSending = true
            let count = min(chunkByteCount, socket.unsent.count)
            let token = Self.token(.send, Int(socket.index))
            let memory = buffer(token, byteCount: count)
            memory.copyBytes(from: socket.unsent[..<count])
            socket.unsent.removeFirst(count)
            // Sometimes one piece, sometimes two.
            let first = count / 3 == 0 ? count : count / 3
            platform.send(
                id,
                UnsafeRawBufferPointer(rebasing: memory[..<first]),
                UnsafeRawBufferPointer(rebasing: memory[first...]),
                token: token
            )
        }
    }

    private func buffer(_ token: Token, byteCount: Int) -> UnsafeMutableRawBufferPointer {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 16)
        buffers[token.rawValue] = memory
        return memory
    }

    func turn() {
        turnCount += 1
        platform.wait(until: Instant(nanoseconds: deadline), into: &completions)
        while let completion = completions.popFirst() { handle(completion) }
    }

    private func handle(_ completion: Completion) {
        let index = Int(completion.token.slot.index)
        let failure = completion.failure.map { " \($0)" } ?? ""
        guard let kind = Kind(rawValue: completion.token.kind) else { return note("\(host.name): wake") }
        note("\(host.name): \(kind) \(index): \(completion.count)\(failure)")
        switch kind {
        case .accept:
            if let failure = completion.failure { return acceptFailures.append(failure) }
            accepted.append(open(completion.count))
        case .connect:
            if let failure = completion.failure { return connectFailures.append(failure) }
            connected.append(open(completion.count))
        case .receive: received(completion, index)
        case .send: sent(completion, index)
        case .work: workCounts.append(completion.count)
        }
    }

    private func open(_ index: UInt32) -> ScriptedSocket {
        let socket = ScriptedSocket(index: UInt16(index))
        socket.wantsToReceive = receivesAtOnce
        sockets.append(socket)
        proceed(socket)
        return socket
    }

    private func received(_ completion: Completion, _ index: Int) {
        guard let socket = sockets.first(where: { $0.index == index }) else { return }
        socket.isReceiving = false
        let memory = buffers.removeValue(forKey: completion.token.rawValue)
        defer { memory?.deallocate() }
        if let failure = completion.failure {
            socket.receiveFailure = failure
        } else if completion.count == 0 {
            socket.hasEnded = true
        } else if let memory {
            socket.received += Array(memory[..<Int(completion.count)])
            socket.pieces.append(Int(completion.count))
        }
        proceed(socket)
    }

    private func sent(_ completion: Completion, _ index: Int) {
        guard let socket = sockets.first(where: { $0.index == index }) else { return }
        socket.isSending = false
        buffers.removeValue(forKey: completion.token.rawValue)?.deallocate()
        socket.sentByteCount += Int(completion.count)
        if let failure = completion.failure { socket.sendFailure = failure }
        proceed(socket)
    }
}

/// Hosts that are turned by a test, in one world.
final class ScriptedWorld {
    let world: SimulatedWorld
    private(set) var hosts: [ScriptedHost] = []
    private(set) var trace: [String] = []

    init(seed: UInt64, hostCount: Int = 2) {
        world = SimulatedWorld(seed: seed)
        for index in 0..<hostCount {
            let host = world.addHost("host \(index)")
            hosts.append(
                ScriptedHost(host) { [unowned self] words in trace.append("[\(world.now)] \(words)") }
            )
        }
    }

    var network: SimulatedNetwork { world.network }
    var first: ScriptedHost { hosts[0] }
    var second: ScriptedHost { hosts[1] }

    func link(_ from: Int, _ to: Int) -> SimulatedLink { network.link(from: hosts[from].host, to: hosts[to].host) }

    /// Turns hosts until something holds; false when nothing is left to happen, or `nanoseconds` have passed.
    @discardableResult
    func run(forNanoseconds nanoseconds: UInt64 = 600_000_000_000, until holds: () -> Bool = { false }) -> Bool {
        let limit = world.now + nanoseconds
        while !holds() {
            guard let host = world.nextHost(before: limit) else { return holds() }
            hosts[host.index].turn()
        }
        return true
    }

    /// Makes a connection from the first host to the second; `nil` when that fails.
    func makeConnection() -> (client: ScriptedSocket, server: ScriptedSocket)? {
        let connectedCount = first.connected.count
        let acceptedCount = second.accepted.count
        first.connect(to: second)
        run { first.connected.count > connectedCount && second.accepted.count > acceptedCount }
        guard first.connected.count > connectedCount, second.accepted.count > acceptedCount else { return nil }
        return (first.connected[connectedCount], second.accepted[acceptedCount])
    }

    /// Bytes in which a lost, doubled or displaced one shows.
    static func pattern(_ byteCount: Int, seed: UInt64 = 1) -> [UInt8] {
        var random = RandomSource(seed: seed)
        return (0..<byteCount).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }
}
