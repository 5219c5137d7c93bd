import RepldCore
import RepldEngine
import Synchronization

/// A platform on which everything has succeeded by the next `wait`: no disk, no socket, no system call.
///
/// What is left to measure is the engine and its machines.
struct ImmediatePlatform: ~Copyable, Platform {
    typealias ElementHandle = ImmediateElement
    typealias ListenerHandle = Never
    typealias PeerHandle = Never
    typealias PlatformWaker = ImmediateWaker

    let waker = ImmediateWaker()
    private(set) var now = Instant(nanoseconds: 1)
    private var completed = BoundedQueue(capacity: 4096, blank: Completion(token: .wake, count: 0, failure: nil))
    private var elementCount: UInt16 = 0
    /// Whether the element of a number holds metadata, which is written beside what hosts write.
    private var holdsMetadata: [Bool] = []
    private(set) var writeCount = 0
    private(set) var metadataWriteCount = 0

    mutating func random() -> UInt64 { 1 }
    mutating func register(memory: UnsafeMutableRawBufferPointer) {}

    mutating func attach(_ handle: ImmediateElement) -> ElementID? {
        elementCount += 1
        holdsMetadata.append(handle.holdsMetadata)
        return ElementID(index: elementCount - 1)
    }

    mutating func detach(_ element: ElementID) {}
    func byteCount(of element: ElementID) -> UInt64 { 0 }

    mutating func read(
        _ element: ElementID,
        at offset: UInt64,
        into memory: UnsafeMutableRawBufferPointer,
        token: Token
    ) {
        succeed(token, memory.count)
    }

    mutating func write(
        _ element: ElementID,
        at offset: UInt64,
        from memory: UnsafeRawBufferPointer,
        isDurable: Bool,
        token: Token
    ) {
        if holdsMetadata[Int(element.index)] {
            metadataWriteCount += 1
        } else {
            writeCount += 1
        }
        succeed(token, memory.count)
    }

    mutating func flush(_ element: ElementID, token: Token) { succeed(token, 0) }

    mutating func zero(_ element: ElementID, _ extent: Extent, _ kind: ZeroKind, isDurable: Bool, token: Token) {
        succeed(token, 0)
    }

    mutating func queryAllocation(
        _ element: ElementID,
        _ extent: Extent,
        into memory: UnsafeMutableBufferPointer<AllocationRun>,
        token: Token
    ) {
        succeed(token, 0)
    }

    mutating func recode(_ recoding: DataRecoding, token: Token) {
        invariantFailed("nothing is compressed in a world without links")
    }

    mutating func connect(_ peer: Never, token: Token) {}

    func hasProven(_ socket: SocketID, toBe peer: Never) -> Bool {}

    mutating func examine(_ examination: DataExamination, token: Token) {
        completed.append(Completion(token: token, count: examination.isMatch ? 1 : 0, failure: nil))
    }

    mutating func startAccepting(_ listener: Never, token: Token) {}
    mutating func stopAccepting(token: Token) {}
    mutating func receive(_ socket: SocketID, into memory: UnsafeMutableRawBufferPointer, token: Token) {}
    mutating func send(
        _ socket: SocketID,
        _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer,
        token: Token
    ) {}
    mutating func shutdown(_ socket: SocketID) {}
    mutating func close(_ socket: SocketID) {}

    mutating func wait(until deadline: Instant, into completions: inout BoundedQueue<Completion>) {
        now = now.advanced(byNanoseconds: 100)
        if waker.takePending() { completions.append(Completion(token: .wake, count: 0, failure: nil)) }
        while let completion = completed.popFirst() { completions.append(completion) }
    }

    private mutating func succeed(_ token: Token, _ byteCount: Int) {
        completed.append(Completion(token: token, count: UInt32(byteCount), failure: nil))
    }
}

struct ImmediateElement: Sendable {
    var holdsMetadata = false
}

final class ImmediateWaker: Waker {
    private let isPending = Atomic(false)

    func wake() { isPending.store(true, ordering: .relaxed) }
    func takePending() -> Bool {
        isPending.load(ordering: .relaxed) && isPending.exchange(false, ordering: .relaxed)
    }
}
