import RepldCore
import RepldFrontends
import Synchronization
import Testing

@testable import RepldEngine

/// An engine that serves one volume to NBD clients in an `NBDWorld`.
final class NBDHost {
    /// Small, so that it runs dry: hosts get 24 + 16 + 12 buffers.
    static let smallClasses = [
        BufferPool.SizeClass(byteCount: 4 << 10, count: 24),
        BufferPool.SizeClass(byteCount: 16 << 10, count: 16),
        BufferPool.SizeClass(byteCount: 64 << 10, count: 21),
    ]
    static let volume = VolumeID(rawValue: 7)

    let world: NBDWorld
    let disk: NBDTestDisk
    let mailbox = Mailbox<NBDTestPlatform>()
    let events = EventLog()
    var engine: Engine<NBDTestPlatform>
    var hasEnded = false
    let idleBuffers: Int

    init(
        seed: UInt64 = 1,
        byteCount: Int = 8 << 20,
        classes: [BufferPool.SizeClass] = smallClasses,
        isReadOnly: Bool = false
    ) {
        world = NBDWorld(seed: seed)
        disk = NBDTestDisk(byteCount: byteCount)
        let events = events
        engine = Engine(
            platform: NBDTestPlatform(world: world),
            mailbox: mailbox,
            bufferClasses: classes,
            eventSink: { events.append($0) }
        )
        idleBuffers = engine.pool.takenCount
        let source = ElementSpec<NBDTestPlatform>(
            handle: NBDTestElement(disk: disk),
            geometry: disk.geometry,
            name: "memory"
        )
        let spec = VolumeSpec(id: Self.volume, name: "db1", isReadOnly: isReadOnly, source: source)
        send(.addVolume(spec) { #expect((try? $0.get()) != nil) })
        send(.listen(0) { #expect((try? $0.get()) != nil) })
        turn()
        turn()
    }

    func send(_ command: EngineCommand<NBDTestPlatform>) { #expect(mailbox.send(command)) }

    func turn() {
        guard !hasEnded else { return }
        hasEnded = !engine.turn()
    }

    /// Turns until `condition` holds; false when it never did.
    @discardableResult
    func run(turns: Int = 200_000, until condition: () -> Bool) -> Bool {
        for _ in 0..<turns {
            if condition() { return true }
            if hasEnded || world.idleTurns > 100 { return condition() }
            turn()
        }
        return condition()
    }

    /// Turns until nothing but the clock moves.
    func settle() {
        run { world.idleTurns > 2 }
        world.idleTurns = 0
    }

    /// What must hold when no client is connected: every buffer, request, piece and place has come back.
    func expectIdle() {
        #expect(engine.pool.takenCount == idleBuffers)
        let requestCount = engine.nbd.pendings.takenCount
        let pieceCount = engine.nbd.pieces.takenCount
        #expect(requestCount == 0 && pieceCount == 0)
        #expect(engine.nbd.openConnectionCount == 0)
        #expect(engine.nbd.waiterCount == 0)
        #expect(engine.nbd.collector == nil)
        for index in 0..<NBDServer.connectionLimit {
            #expect(engine.nbd.connections[index].requestCount == 0)
            #expect(engine.nbd.connections[index].heldByteCount == 0)
            #expect(engine.nbd.connections[index].outboxHead == .none)
        }
    }
}

/// The events of an engine, in order.
final class EventLog: Sendable {
    private let events = Mutex<[EngineEvent]>([])

    func append(_ event: EngineEvent) { events.withLock { $0.append(event) } }

    /// The reasons of clients that went away.
    var disconnections: [String?] {
        events.withLock { events in
            events.compactMap { event -> String?? in
                if case .clientDisconnected(_, let reason) = event.kind { return .some(reason) }
                return nil
            }
        }
    }
}

/// A client of the protocol: says what a test tells it to, and reads the replies by the protocol's rules.
final class NBDTestClient {
    struct Answer: Equatable {
        var error: UInt32?
        var data: [UInt8] = []
        /// What BLOCK_STATUS told of `base:allocation`, and of other contexts, by their numbers.
        var extents: [[UInt32]] = []
        var differences: [UInt32: [[UInt32]]] = [:]
    }

    struct Sent {
        var command: NBDCommand
        var offset: UInt64
        var length: UInt32
        var data: [UInt8]
        var isPresent: [Bool]
        var failure: UInt32?
        var statuses: [UInt32: [[UInt32]]] = [:]
    }

    let host: NBDHost
    let socket: NBDTestSocket
    let isStructured: Bool
    /// The metadata contexts that it asks for.
    let queries: [String]
    private var readPosition = 0
    private(set) var isInTransmission = false
    private var nextCookie: UInt64 = 1
    private(set) var sent: [UInt64: Sent] = [:]
    private(set) var answers: [UInt64: Answer] = [:]

    init(
        _ host: NBDHost,
        isStructured: Bool,
        export: String = "db1",
        queries: [String] = ["base:allocation"],
        startsAtOnce: Bool = true
    ) {
        self.host = host
        self.isStructured = isStructured
        self.queries = queries
        socket = host.world.connect()
        guard startsAtOnce else { return }
        var bytes: [UInt8] = []
        put(UInt32(3), &bytes)
        if isStructured {
            option(.structuredReply, [], &bytes)
            var meta: [UInt8] = []
            put(UInt32(export.utf8.count), &meta)
            meta += Array(export.utf8)
            put(UInt32(queries.count), &meta)
            for query in queries {
                put(UInt32(query.utf8.count), &meta)
                meta += Array(query.utf8)
            }
            option(.setMetaContext, meta, &bytes)
            var go: [UInt8] = []
            put(UInt32(export.utf8.count), &go)
            go += Array(export.utf8) + [0, 0]
            option(.go, go, &bytes)
        } else {
            option(.exportName, Array(export.utf8), &bytes)
        }
        socket.toServer += bytes
    }

    private func put<Value: FixedWidthInteger>(_ value: Value, _ bytes: inout [UInt8]) {
        withUnsafeBytes(of: value.bigEndian) { bytes += Array($0) }
    }

    private func option(_ option: NBDOption, _ data: [UInt8], _ bytes: inout [UInt8]) {
        put(NBDMagic.option, &bytes)
        put(option.rawValue, &bytes)
        put(UInt32(data.count), &bytes)
        bytes += data
    }

    /// Sends a request; `payload` is what a write carries.
    @discardableResult
    func request(
        _ command: NBDCommand,
        _ offset: UInt64 = 0,
        _ length: UInt32 = 0,
        _ flags: NBDCommandFlags = [],
        payload: [UInt8] = []
    ) -> UInt64 {
        let cookie = nextCookie
        nextCookie += 1
        let isRead = command == .read
        sent[cookie] = Sent(
            command: command,
            offset: offset,
            length: length,
            data: Array(repeating: 0, count: isRead ? Int(length) : 0),
            isPresent: Array(repeating: false, count: isRead ? Int(length) / 512 : 0)
        )
        put(NBDMagic.request, &socket.toServer)
        put(flags.rawValue, &socket.toServer)
        put(command.rawValue, &socket.toServer)
        put(cookie, &socket.toServer)
        put(offset, &socket.toServer)
        put(length, &socket.toServer)
        socket.toServer += payload
        return cookie
    }

    /// Sends a request and waits for its answer.
    func ask(
        _ command: NBDCommand,
        _ offset: UInt64 = 0,
        _ length: UInt32 = 0,
        _ flags: NBDCommandFlags = [],
        payload: [UInt8] = []
    ) -> Answer? {
        let cookie = request(command, offset, length, flags, payload: payload)
        host.run {
            parse()
            return answers[cookie] != nil || socket.isClosed
        }
        #expect(answers[cookie] != nil, "\(command) at \(offset), \(length) bytes, is answered")
        return answers[cookie]
    }

    // MARK: - Replies

    private func big<Value: FixedWidthInteger>(_ offset: Int, _ type: Value.Type) -> Value {
        let start = readPosition + offset
        return socket.fromServer[start..<start + MemoryLayout<Value>.size].reduce(0) {
            $0 << 8 | Value(truncatingIfNeeded: $1)
        }
    }

    private var available: Int { socket.fromServer.count - readPosition }

    /// Reads all replies that have arrived whole.
    func parse() {
        if !isInTransmission { parseHandshake() }
        guard isInTransmission else { return }
        while available >= 16 {
            let magic = big(0, UInt32.self)
            if magic == NBDMagic.simpleReply {
                guard parseSimple() else { return }
            } else if magic == NBDMagic.structuredReply {
                guard isStructured, available >= 20 else { return #expect(isStructured) }
                guard parseChunk() else { return }
            } else {
                Issue.record("a reply begins with a magic")
                readPosition = socket.fromServer.count
            }
        }
    }

    private func parseHandshake() {
        if !isStructured {
            guard socket.fromServer.count >= 28 else { return }
            readPosition = 28
            isInTransmission = true
            return
        }
        if readPosition == 0 && available >= 18 { readPosition = 18 }
        while readPosition >= 18, available >= 20 {
            let length = Int(big(16, UInt32.self))
            guard available >= 20 + length else { return }
            let isEnd = big(8, UInt32.self) == NBDOption.go.rawValue && big(12, UInt32.self) == 1
            readPosition += 20 + length
            if isEnd {
                isInTransmission = true
                return
            }
        }
    }

    private func parseSimple() -> Bool {
        let cookie = big(8, UInt64.self)
        let error = big(4, UInt32.self)
        guard let request = sent[cookie] else {
            Issue.record("a reply is to a request")
            return false
        }
        #expect(!(isStructured && request.command == .read), "reads are answered by chunks")
        var data: [UInt8] = []
        if request.command == .read && error == 0 {
            guard available >= 16 + Int(request.length) else { return false }
            data = Array(socket.fromServer[readPosition + 16..<readPosition + 16 + Int(request.length)])
        }
        readPosition += 16 + data.count
        finish(cookie, Answer(error: error == 0 ? nil : error, data: data))
        return true
    }

    private func parseChunk() -> Bool {
        let length = Int(big(16, UInt32.self))
        guard available >= 20 + length else { return false }
        let cookie = big(8, UInt64.self)
        let isDone = big(4, UInt16.self) == 1
        guard let request = sent[cookie] else {
            Issue.record("a chunk is to a request")
            return false
        }
        switch NBDChunkKind(rawValue: big(6, UInt16.self)) {
        case .some(.none):
            #expect(isDone && length == 0)
        case .offsetData:
            let start = Int(big(20, UInt64.self) - request.offset)
            let data = socket.fromServer[readPosition + 28..<readPosition + 20 + length]
            sent[cookie]?.data.replaceSubrange(start..<start + data.count, with: data)
            for block in start / 512..<(start + data.count) / 512 {
                #expect(request.isPresent[block] == false, "chunks do not overlap")
                sent[cookie]?.isPresent[block] = true
            }
        case .blockStatus:
            let context = big(20, UInt32.self)
            #expect(request.statuses[context] == nil, "a context has one chunk")
            sent[cookie]?.statuses[context] = stride(from: 24, to: 20 + length, by: 8).map {
                [big($0, UInt32.self), big($0 + 4, UInt32.self)]
            }
        case .error:
            #expect(request.failure == nil, "an error is told once")
            sent[cookie]?.failure = big(20, UInt32.self)
        case .offsetHole, .errorOffset, nil:
            Issue.record("the server does not send such chunks")
        }
        readPosition += 20 + length
        if isDone, let request = sent[cookie] {
            let isWhole = request.isPresent.allSatisfy { $0 }
            #expect(request.failure != nil || isWhole, "a read without error is complete")
            let data = request.failure == nil ? request.data : []
            var answer = Answer(error: request.failure, data: data, differences: request.statuses)
            answer.extents = answer.differences.removeValue(forKey: NBDMetadataContexts.allocation.id) ?? []
            finish(cookie, answer)
        }
        return true
    }

    private func finish(_ cookie: UInt64, _ answer: Answer) {
        sent[cookie] = nil
        answers[cookie] = answer
    }

    func takeAnswers() -> [UInt64: Answer] {
        defer { answers = [:] }
        return answers
    }
}
