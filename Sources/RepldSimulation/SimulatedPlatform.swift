package import RepldCore
package import RepldEngine

/// Rouses a simulated loop: there is one thread, so it is a flag.
package struct SimulatedWaker: Waker, @unchecked Sendable {
    let host: SimulatedHost

    package func wake() { host.isWakePending = true }
}

/// A simulated element, as the control plane would hand it over.
///
/// Unchecked: the simulation has one thread.
package struct SimulatedElement: @unchecked Sendable {
    package let disk: SimulatedDisk

    package init(_ disk: SimulatedDisk) { self.disk = disk }
}

/// The platform of one host of a simulated world: disks with faults, a network with faults, and a virtual clock.
///
/// To make one is to start the host. Listeners and peers are places in the network; who is at the other end of a
/// connection is never in doubt, and nothing is encrypted, because the faults of those would end the connection too.
package struct SimulatedPlatform: ~Copyable, Platform {
    package typealias ElementHandle = SimulatedElement
    package typealias ListenerHandle = SimulatedPlace
    package typealias PeerHandle = SimulatedPlace
    package typealias PlatformWaker = SimulatedWaker

    private let world: SimulatedWorld
    private let host: SimulatedHost
    private var elements: [SimulatedDisk?]

    package init(host: SimulatedHost) {
        world = host.world
        self.host = host
        elements = Array(repeating: nil, count: 64)
        host.boot()
    }

    package var waker: SimulatedWaker { SimulatedWaker(host: host) }
    package var now: Instant { Instant(nanoseconds: host.clockReading) }
    package mutating func random() -> UInt64 { world.random.next() }
    package mutating func register(memory: UnsafeMutableRawBufferPointer) {}

    package mutating func attach(_ handle: SimulatedElement) -> ElementID? {
        guard let index = elements.firstIndex(where: { $0 == nil }) else { return nil }
        elements[index] = handle.disk
        return ElementID(index: UInt16(index))
    }

    package mutating func detach(_ element: ElementID) {
        invariant(elements[Int(element.index)] != nil, "an element is detached once")
        elements[Int(element.index)] = nil
    }

    package func byteCount(of element: ElementID) -> UInt64 { disk(element).geometry.byteCount }

    private func disk(_ element: ElementID) -> SimulatedDisk {
        guard let disk = elements[Int(element.index)] else {
            invariantFailed("an element is used while it is attached")
        }
        return disk
    }

    package mutating func read(
        _ element: ElementID,
        at offset: UInt64,
        into memory: UnsafeMutableRawBufferPointer,
        token: Token
    ) {
        unsafe host.start(disk(element), .read(Int(offset), memory), byteCount: memory.count, token: token)
    }

    package mutating func write(
        _ element: ElementID,
        at offset: UInt64,
        from memory: UnsafeRawBufferPointer,
        isDurable: Bool,
        token: Token
    ) {
        let kind = unsafe SimulatedOperation.Kind.write(Int(offset), memory, isDurable: isDurable)
        host.start(disk(element), kind, byteCount: memory.count, token: token)
    }

    package mutating func flush(_ element: ElementID, token: Token) {
        host.start(disk(element), .flush, byteCount: 0, token: token)
    }

    package mutating func zero(
        _ element: ElementID,
        _ extent: Extent,
        _ kind: ZeroKind,
        isDurable: Bool,
        token: Token
    ) {
        host.start(disk(element), .zero(extent, isDurable: isDurable), byteCount: 0, token: token)
    }

    package mutating func queryAllocation(
        _ element: ElementID,
        _ extent: Extent,
        into memory: UnsafeMutableBufferPointer<AllocationRun>,
        token: Token
    ) {
        unsafe memory[0] = AllocationRun(end: extent.end, isHole: false)
        host.start(disk(element), .queryAllocation, byteCount: 1, token: token)
    }

    package mutating func examine(_ examination: DataExamination, token: Token) {
        host.start(.examine(examination), token: token)
    }

    package mutating func recode(_ recoding: DataRecoding, token: Token) {
        host.start(.recode(recoding), token: token)
    }

    package mutating func wait(until deadline: Instant, into completions: inout BoundedQueue<Completion>) {
        host.wait(until: deadline.nanoseconds, into: &completions)
    }
}

/// Sockets.
extension SimulatedPlatform {
    package mutating func connect(_ peer: SimulatedPlace, token: Token) {
        world.network.connect(host, to: peer, token: token)
    }

    package func hasProven(_ socket: SocketID, toBe peer: SimulatedPlace) -> Bool {
        let open = host.socket(Int(socket.index))
        return open.connection.ends[1 - open.side].host === peer.host
    }

    package mutating func startAccepting(_ listener: SimulatedPlace, token: Token) {
        host.startAccepting(listener, token: token)
    }

    package mutating func stopAccepting(token: Token) { host.stopAccepting(token) }

    package mutating func receive(_ socket: SocketID, into memory: UnsafeMutableRawBufferPointer, token: Token) {
        invariant(memory.count > 0, "a receive has room for at least a byte")
        let socket = host.socket(Int(socket.index))
        socket.connection.start(unsafe SimulatedReceive(memory: memory, token: token), socket.side)
    }

    package mutating func send(
        _ socket: SocketID,
        _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer,
        token: Token
    ) {
        invariant(first.count + second.count > 0, "a send sends at least a byte")
        let socket = host.socket(Int(socket.index))
        socket.connection.start(unsafe SimulatedSend(first, second, token: token), socket.side)
    }

    package mutating func shutdown(_ socket: SocketID) {
        let socket = host.socket(Int(socket.index))
        socket.connection.shutDown(socket.side)
    }

    package mutating func close(_ socket: SocketID) { host.close(Int(socket.index)) }
}
