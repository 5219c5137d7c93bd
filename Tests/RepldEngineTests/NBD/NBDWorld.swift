import RepldCore

@testable import RepldEngine

/// An element in memory, with faults that a test switches on.
final class NBDTestDisk {
    var bytes: [UInt8]
    /// Blocks of 4 KiB that were given up: they read as zeroes.
    var isHole: [Bool]
    var failingRanges: [Range<UInt64>] = []
    var lacksZeroing = false
    var lacksQuery = false
    /// Allocation queries do not complete.
    var holdsQueries = false
    /// Nothing completes while it is stuck.
    var isStuck = false
    var flushCount = 0
    var durableWriteCount = 0
    var keptAllocatedCount = 0

    init(byteCount: Int) {
        bytes = Array(repeating: 0, count: byteCount)
        isHole = Array(repeating: true, count: byteCount / 4096)
    }

    var geometry: ElementGeometry {
        ElementGeometry(
            byteCount: UInt64(bytes.count),
            logicalBlockByteCount: 512,
            physicalBlockByteCount: 4096,
            isReadOnly: false,
            canDiscard: true,
            canZeroFast: true,
            isDirect: true
        )
    }

    func fails(_ start: UInt64, _ count: Int) -> Bool {
        failingRanges.contains { $0.lowerBound < start + UInt64(count) && start < $0.upperBound }
    }
}

/// A stream between a client and the server, and how the client behaves.
final class NBDTestSocket {
    var toServer: [UInt8] = []
    var taken = 0
    var fromServer: [UInt8] = []
    /// The client has closed its side.
    var hasEnded = false
    /// The connection was lost: everything on it fails.
    var isLost = false
    var isShutDown = false
    var isClosed = false
    /// The client takes what it is sent.
    var isReading = true
    /// Most bytes that one receive brings.
    var receiveLimit = Int.max
    /// A receive in flight does not complete.
    var holdsReceive = false

    var untaken: Int { toServer.count - taken }
}

/// The world of one engine: disks, clients and a clock that jumps when nothing else can happen.
///
/// Operations under way complete in an order that the seed chooses.
final class NBDWorld {
    enum Operation {
        case read(NBDTestDisk, UInt64, UnsafeMutableRawBufferPointer)
        case write(NBDTestDisk, UInt64, UnsafeRawBufferPointer, isDurable: Bool)
        case flush(NBDTestDisk)
        case zero(NBDTestDisk, Extent, ZeroKind)
        case query(NBDTestDisk, Extent, UnsafeMutableBufferPointer<AllocationRun>)
        case examine(DataExamination)
        case receive(NBDTestSocket, UnsafeMutableRawBufferPointer)
        case send(NBDTestSocket, UnsafeRawBufferPointer, UnsafeRawBufferPointer)
    }

    var random: RandomSource
    var now: UInt64 = 1
    var operations: [(operation: Operation, token: Token)] = []
    var sockets: [NBDTestSocket] = []
    var unaccepted: [Int] = []
    var acceptToken: Token?
    var isAcceptStopped = false
    var isWakePending = false
    var sendCount = 0
    var receiveCount = 0
    /// Turns in which only the clock moved.
    var idleTurns = 0

    init(seed: UInt64) { random = RandomSource(seed: seed) }

    func connect() -> NBDTestSocket {
        let socket = NBDTestSocket()
        sockets.append(socket)
        unaccepted.append(sockets.count - 1)
        return socket
    }

    func isReady(_ operation: Operation) -> Bool {
        switch operation {
        case .read(let disk, _, _), .write(let disk, _, _, _), .flush(let disk), .zero(let disk, _, _):
            !disk.isStuck
        case .query(let disk, _, _):
            !disk.isStuck && !disk.holdsQueries
        case .examine:
            true
        case .receive(let socket, _):
            !socket.holdsReceive
                && (socket.untaken > 0 || socket.hasEnded || socket.isLost || socket.isShutDown)
        case .send(let socket, _, _):
            socket.isReading || socket.isLost || socket.isShutDown
        }
    }

    func wait(until deadline: UInt64, into completions: inout BoundedQueue<Completion>) {
        if isWakePending {
            isWakePending = false
            completions.append(Completion(token: .wake, count: 0, failure: nil))
            return
        }
        var count = 1 + Int(random.below(6))
        while count > 0, let completion = next() {
            completions.append(completion)
            count -= 1
        }
        if completions.isEmpty {
            now = max(now, deadline)
            idleTurns += 1
        } else {
            now += 1000
            idleTurns = 0
        }
    }

    private func next() -> Completion? {
        if let acceptToken {
            if !unaccepted.isEmpty {
                return Completion(token: acceptToken, count: UInt32(unaccepted.removeFirst()), failure: nil)
            }
            if isAcceptStopped {
                self.acceptToken = nil
                return Completion(token: acceptToken, count: 0, failure: .cancelled)
            }
        }
        let ready = operations.indices.filter { isReady(operations[$0].operation) }
        guard !ready.isEmpty else { return nil }
        let index = ready[Int(random.below(UInt64(ready.count)))]
        let (operation, token) = operations.remove(at: index)
        let (count, failure) = apply(operation)
        return Completion(token: token, count: UInt32(count), failure: failure)
    }

    private func apply(_ operation: Operation) -> (Int, IOFailure?) {
        switch operation {
        case .read(let disk, let offset, let memory):
            if disk.fails(offset, memory.count) { return (0, .inputOutput) }
            let start = Int(offset)
            disk.bytes.withUnsafeBytes { memory.copyMemory(from: .init(rebasing: $0[start..<start + memory.count])) }
            return (memory.count, nil)
        case .write(let disk, let offset, let memory, let isDurable):
            if disk.fails(offset, memory.count) { return (0, .noSpace) }
            let start = Int(offset)
            disk.bytes.replaceSubrange(start..<start + memory.count, with: memory)
            for block in start / 4096...(start + memory.count - 1) / 4096 { disk.isHole[block] = false }
            if isDurable { disk.durableWriteCount += 1 }
            return (memory.count, nil)
        case .flush(let disk):
            disk.flushCount += 1
            return (0, nil)
        case .zero(let disk, let extent, let kind):
            return zero(disk, extent, kind)
        case .query(let disk, let extent, let memory):
            return query(disk, extent, memory)
        case .examine(let examination):
            return (examination.isMatch ? 1 : 0, nil)
        case .receive(let socket, let memory):
            return receive(socket, memory)
        case .send(let socket, let first, let second):
            if socket.isLost || socket.isShutDown { return (0, .gone) }
            socket.fromServer += Array(first) + Array(second)
            return (first.count + second.count, nil)
        }
    }

    private func zero(_ disk: NBDTestDisk, _ extent: Extent, _ kind: ZeroKind) -> (Int, IOFailure?) {
        if disk.lacksZeroing { return (0, .notSupported) }
        let range = Int(extent.offset)..<Int(extent.end)
        disk.bytes.replaceSubrange(range, with: repeatElement(0, count: range.count))
        if kind == .keepAllocated {
            disk.keptAllocatedCount += 1
        } else {
            for block in range.lowerBound / 4096..<range.upperBound / 4096 { disk.isHole[block] = true }
        }
        return (0, nil)
    }

    private func query(
        _ disk: NBDTestDisk,
        _ extent: Extent,
        _ memory: UnsafeMutableBufferPointer<AllocationRun>
    ) -> (Int, IOFailure?) {
        if disk.lacksQuery { return (0, .notSupported) }
        var count = 0
        var start = extent.offset
        while start < extent.end && count < memory.count {
            let isHole = disk.isHole[Int(start / 4096)]
            let end = min((start / 4096 + 1) * 4096, extent.end)
            memory[count] = AllocationRun(end: end, isHole: isHole)
            count += 1
            start = end
        }
        return (count, nil)
    }

    private func receive(_ socket: NBDTestSocket, _ memory: UnsafeMutableRawBufferPointer) -> (Int, IOFailure?) {
        if socket.isLost || socket.isShutDown {
            // Until it completes, a receive may put anything into its memory.
            memory.initializeMemory(as: UInt8.self, repeating: 0xEE)
        }
        if socket.isLost { return (0, .gone) }
        if socket.isShutDown { return (0, random.chance(oneIn: 2) ? .cancelled : nil) }
        let most = min(memory.count, socket.untaken, socket.receiveLimit)
        guard most > 0 else { return (0, nil) }
        let count = random.chance(oneIn: 2) ? most : 1 + Int(random.below(UInt64(most)))
        socket.toServer.withUnsafeBytes {
            memory.copyMemory(from: .init(rebasing: $0[socket.taken..<socket.taken + count]))
        }
        socket.taken += count
        return (count, nil)
    }
}

struct NBDTestWaker: Waker, @unchecked Sendable {
    let world: NBDWorld
    func wake() { world.isWakePending = true }
}

struct NBDTestElement: @unchecked Sendable {
    let disk: NBDTestDisk
}

/// The platform of an `NBDWorld`.
struct NBDTestPlatform: ~Copyable, Platform {
    let world: NBDWorld
    var disks: [NBDTestDisk?] = Array(repeating: nil, count: 16)

    init(world: NBDWorld) { self.world = world }

    var waker: NBDTestWaker { NBDTestWaker(world: world) }
    var now: Instant { Instant(nanoseconds: world.now) }
    mutating func random() -> UInt64 { world.random.next() }
    mutating func register(memory: UnsafeMutableRawBufferPointer) {}

    mutating func attach(_ handle: NBDTestElement) -> ElementID? {
        guard let index = disks.firstIndex(where: { $0 == nil }) else { return nil }
        disks[index] = handle.disk
        return ElementID(index: UInt16(index))
    }

    mutating func detach(_ element: ElementID) {
        let disk = disk(element)
        disks[Int(element.index)] = nil
        for (operation, _) in world.operations {
            switch operation {
            case .read(let other, _, _), .write(let other, _, _, _), .flush(let other), .zero(let other, _, _),
                .query(let other, _, _):
                invariant(other !== disk, "an element is closed with nothing in flight")
            case .receive, .send, .examine:
                break
            }
        }
    }

    func byteCount(of element: ElementID) -> UInt64 { UInt64(disk(element).bytes.count) }

    func disk(_ element: ElementID) -> NBDTestDisk {
        guard let disk = disks[Int(element.index)] else { invariantFailed("an element is used while it is attached") }
        return disk
    }

    func start(_ operation: NBDWorld.Operation, _ token: Token) { world.operations.append((operation, token)) }

    mutating func read(
        _ element: ElementID,
        at offset: UInt64,
        into memory: UnsafeMutableRawBufferPointer,
        token: Token
    ) {
        start(.read(disk(element), offset, memory), token)
    }

    mutating func write(
        _ element: ElementID,
        at offset: UInt64,
        from memory: UnsafeRawBufferPointer,
        isDurable: Bool,
        token: Token
    ) {
        start(.write(disk(element), offset, memory, isDurable: isDurable), token)
    }

    mutating func flush(_ element: ElementID, token: Token) { start(.flush(disk(element)), token) }

    mutating func zero(_ element: ElementID, _ extent: Extent, _ kind: ZeroKind, isDurable: Bool, token: Token) {
        start(.zero(disk(element), extent, kind), token)
    }

    mutating func queryAllocation(
        _ element: ElementID,
        _ extent: Extent,
        into memory: UnsafeMutableBufferPointer<AllocationRun>,
        token: Token
    ) {
        start(.query(disk(element), extent, memory), token)
    }

    mutating func recode(_ recoding: DataRecoding, token: Token) {
        invariantFailed("no peer is simulated here")
    }

    mutating func connect(_ peer: Never, token: Token) {}

    func hasProven(_ socket: SocketID, toBe peer: Never) -> Bool {}

    mutating func examine(_ examination: DataExamination, token: Token) { start(.examine(examination), token) }

    mutating func startAccepting(_ listener: Int, token: Token) {
        invariant(world.acceptToken == nil, "the world has one listener")
        world.acceptToken = token
    }

    mutating func stopAccepting(token: Token) {
        invariant(world.acceptToken == token, "accepting is stopped under its token")
        world.isAcceptStopped = true
    }

    mutating func receive(_ socket: SocketID, into memory: UnsafeMutableRawBufferPointer, token: Token) {
        let socket = world.sockets[Int(socket.index)]
        invariant(!socket.isClosed && memory.count > 0, "a receive is on an open socket and has room")
        for case (.receive(let other, _), _) in world.operations {
            invariant(other !== socket, "one receive at a time")
        }
        world.receiveCount += 1
        start(.receive(socket, memory), token)
    }

    mutating func send(
        _ socket: SocketID,
        _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer,
        token: Token
    ) {
        let socket = world.sockets[Int(socket.index)]
        invariant(!socket.isClosed && first.count > 0, "a send is on an open socket and carries something")
        for case (.send(let other, _, _), _) in world.operations {
            invariant(other !== socket, "one send at a time")
        }
        world.sendCount += 1
        start(.send(socket, first, second), token)
    }

    mutating func shutdown(_ socket: SocketID) {
        let socket = world.sockets[Int(socket.index)]
        invariant(!socket.isClosed, "only an open socket is shut down")
        socket.isShutDown = true
    }

    mutating func close(_ socket: SocketID) {
        let socket = world.sockets[Int(socket.index)]
        invariant(!socket.isClosed, "a socket is closed once")
        for (operation, _) in world.operations {
            switch operation {
            case .receive(let other, _), .send(let other, _, _):
                invariant(other !== socket, "a socket is closed with nothing in flight")
            case .read, .write, .flush, .zero, .query, .examine:
                break
            }
        }
        socket.isClosed = true
    }

    mutating func wait(until deadline: Instant, into completions: inout BoundedQueue<Completion>) {
        world.wait(until: deadline.nanoseconds, into: &completions)
    }
}
