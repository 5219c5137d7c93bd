public import RepldCore

/// The number of an open element in a platform's table.
@usableFromInline
package struct ElementID: Hashable, Sendable, BitwiseCopyable {
    @usableFromInline
    package let index: UInt16
    @inlinable
    package init(index: UInt16) { self.index = index }
}

/// The number of an open stream socket in a platform's table.
@usableFromInline
package struct SocketID: Hashable, Sendable, BitwiseCopyable {
    @usableFromInline
    package let index: UInt16
    @inlinable
    package init(index: UInt16) { self.index = index }
}

/// The engine's name for one operation in flight: what it is for, which leg of it, and the slot that waits for it.
///
/// 8 bits of kind, 8 of leg, 16 of generation, 32 of slot. The platform carries it from the call to the completion and
/// never looks inside. A late or doubled completion does not match the generation of its slot, which is an invariant.
@usableFromInline
package struct Token: Hashable, Sendable, BitwiseCopyable {
    @usableFromInline
    package let rawValue: UInt64

    @inlinable
    package init(rawValue: UInt64) { self.rawValue = rawValue }

    @inlinable
    package init(kind: UInt8, leg: UInt8, slot: SlotID) {
        rawValue = UInt64(kind) << 56 | UInt64(leg) << 48 | UInt64(slot.generation) << 32 | UInt64(slot.index)
    }

    @inlinable
    package var kind: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 56) }
    @inlinable
    package var leg: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 48) }
    @inlinable
    package var slot: SlotID {
        SlotID(
            index: UInt32(truncatingIfNeeded: rawValue),
            generation: UInt16(truncatingIfNeeded: rawValue >> 32)
        )
    }
}

/// The end of one operation.
///
/// Element operations end whole or not at all: short reads and writes, interruptions and retries are the platform's
/// business, and `count` is then the full length. Socket operations may be short: `count` is what was moved, and a
/// receive of 0 bytes is the orderly end of the stream.
@usableFromInline
package struct Completion: Sendable, BitwiseCopyable {
    @usableFromInline
    package var token: Token
    @usableFromInline
    package var count: UInt32
    @usableFromInline
    package var failure: IOFailure?

    @inlinable
    package init(token: Token, count: UInt32, failure: IOFailure?) {
        self.token = token
        self.count = count
        self.failure = failure
    }
}

/// How a range is to be made zero, or given up.
package enum ZeroKind: UInt8, Sendable, BitwiseCopyable, CaseIterable {
    /// The host no longer needs the range. Where the element can, it is deallocated and reads as zeroes afterwards.
    /// An element that cannot deallocate with that promise answers `notSupported` and changes nothing.
    case discard
    /// The range reads as zeroes afterwards; its space may be given back.
    case mayDeallocate
    /// The range reads as zeroes afterwards and its space stays allocated.
    case keepAllocated
}

/// A run of an element's bytes, as the allocation query reports it.
package struct AllocationRun: Sendable, BitwiseCopyable {
    /// First byte behind the run.
    package var end: UInt64
    /// A hole: nothing is stored here and it reads as zeroes.
    package var isHole: Bool

    package init(end: UInt64, isHole: Bool) {
        self.end = end
        self.isHole = isHole
    }
}

/// Rouses an engine's loop from another thread.
package protocol Waker: Sendable {
    /// Makes the loop's `wait` return with a completion for `Token.wake`; calls may coalesce.
    func wake()
}

extension Token {
    /// The token of the completion that `Waker.wake()` causes.
    package static var wake: Token { Token(rawValue: .max) }
}

/// All that the engine needs of a world: elements, sockets, a clock, randomness and a way to wait.
///
/// `RepldUring` is the real one, `RepldSimulation` the other. Operations are only *started* by these calls; each ends
/// with exactly one completion, delivered by `wait`. Nothing completes inside the call that started it. All memory given
/// to an operation stays valid and, for writes and sends, unchanged until its completion.
///
/// Belongs to one loop thread, like the engine that owns it.
package protocol Platform: ~Copyable {
    /// An element opened by the control plane, ready to be attached.
    associatedtype ElementHandle: Sendable
    /// A listening socket opened by the control plane.
    associatedtype ListenerHandle: Sendable
    /// Where a peer's daemon is, and how the two prove to each other who they are.
    associatedtype PeerHandle: Sendable
    associatedtype PlatformWaker: Waker

    var waker: PlatformWaker { get }
    /// The moment at which the last `wait` returned: one reading of the clock per turn.
    var now: Instant { get }
    /// How long the loop was busy before the last `wait` let it rest: what arrived meanwhile has waited up to that long, and
    /// nobody has seen it.
    var lagNanoseconds: UInt64 { get }
    mutating func random() -> UInt64

    /// Announces the engine's buffer memory once, so that operations on it may use registered buffers.
    mutating func register(memory: UnsafeMutableRawBufferPointer)

    /// Takes an element into the table; `nil` when the table is full.
    mutating func attach(_ handle: ElementHandle) -> ElementID?
    /// Closes an element with no operation in flight.
    mutating func detach(_ element: ElementID)

    /// How large an element is now, in bytes; it may have grown since it was opened. 0 when it does not say.
    func byteCount(of element: ElementID) -> UInt64

    /// Reads `memory.count` bytes. Offset, length and address are multiples of the element's logical block size.
    mutating func read(
        _ element: ElementID,
        at offset: UInt64,
        into memory: UnsafeMutableRawBufferPointer,
        token: Token
    )
    /// Writes all of `memory`; `isDurable` makes the completion wait for stable storage of this write (FUA).
    mutating func write(
        _ element: ElementID,
        at offset: UInt64,
        from memory: UnsafeRawBufferPointer,
        isDurable: Bool,
        token: Token
    )
    /// Makes all writes that completed before this call durable.
    mutating func flush(_ element: ElementID, token: Token)
    /// Zeroes or discards a range without moving data; `notSupported`, with nothing changed, where the element cannot.
    /// `isDurable` as for a write.
    mutating func zero(_ element: ElementID, _ extent: Extent, _ kind: ZeroKind, isDurable: Bool, token: Token)
    /// Writes the allocation runs of `extent`, in order and without gaps, into `memory` (bound to `AllocationRun`);
    /// the completion's count is their number. Stops when `memory` is full. An element that cannot tell reports one
    /// run of data. The run that crosses the end of `extent` is cut there.
    mutating func queryAllocation(
        _ element: ElementID,
        _ extent: Extent,
        into memory: UnsafeMutableBufferPointer<AllocationRun>,
        token: Token
    )

    /// Answers a question about bulk data in memory, away from the loop; the count is 1 for a match, 0 otherwise.
    ///
    /// The memory stays as it is until the completion.
    mutating func examine(_ examination: DataExamination, token: Token)

    /// Compresses or expands bulk data in memory, away from the loop; the count is that of the bytes written, 0 where it
    /// does not shrink, or does not expand to exactly the destination.
    ///
    /// The memory stays as it is until the completion.
    mutating func recode(_ recoding: DataRecoding, token: Token)

    /// Connects to a peer; one completion, whose count is the new `SocketID.index`.
    ///
    /// When it comes, both sides have proven who they are, and what is sent is encrypted, as far as the handle asks for that;
    /// names are resolved anew each time. It fails with `timedOut` within a bounded time where nobody answers.
    mutating func connect(_ peer: PeerHandle, token: Token)
    /// Whether the other end of a socket has proven to be whom the handle reaches; true where the handle asks for no proof.
    func hasProven(_ socket: SocketID, toBe peer: PeerHandle) -> Bool
    /// Accepts connections until `stopAccepting`; each is one completion whose count is the new `SocketID.index`.
    /// A failure of one accept (no descriptors left) is a completion with a failure; accepting goes on. A listener for peers
    /// tells only of those that have proven who they are.
    mutating func startAccepting(_ listener: ListenerHandle, token: Token)
    /// Ends accepting; a last completion with `cancelled` follows.
    mutating func stopAccepting(token: Token)
    /// Receives at least one byte, at most `memory.count`; count 0 is the end of the stream.
    mutating func receive(_ socket: SocketID, into memory: UnsafeMutableRawBufferPointer, token: Token)
    /// Sends both pieces, in order, completely, or fails. At most one send per socket is in flight.
    mutating func send(
        _ socket: SocketID,
        _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer,
        token: Token
    )
    /// Ends both directions at once: operations in flight complete soon, with a failure or as they were.
    mutating func shutdown(_ socket: SocketID)
    /// Frees a socket with no operation in flight.
    mutating func close(_ socket: SocketID)

    /// Hands over all operations started since the last call, then waits until something has completed or `deadline`
    /// has passed, and appends completions to `completions` while it has room.
    mutating func wait(until deadline: Instant, into completions: inout BoundedQueue<Completion>)
}

extension Platform where Self: ~Copyable {
    /// Work takes no time, unless a platform knows better.
    package var lagNanoseconds: UInt64 { 0 }
}
