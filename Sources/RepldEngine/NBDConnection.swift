internal import RepldCore
internal import RepldFrontends
internal import RepldPair

/// One NBD client: its socket, where it is in the stream of bytes that it sends, and what it is to be sent.
///
/// Life: `free → handshake → transmission → ending → free`. It is free again when nothing is in flight on its socket
/// and none of its requests exists any more.
///
/// Receiving: at most one receive in flight, into the staging memory or, for what is missing of a large payload, into
/// the buffer of the piece. The parser takes bytes off the front of staging and stops when it needs more, when it has
/// to wait for something, or for good.
/// Sending: at most one send in flight. Replies gather in one half of the send memory while the other half is sent; a
/// large payload is not copied but goes as the second part of the send, and ends the gathering.
///
/// Invariants: `requestCount` is the number of requests of the client; `heldByteCount` the sum of the lengths of the
/// buffers it holds; it stands on the wait list exactly when `wait` is not nil.
struct NBDConnection: ~Copyable {
    enum Stage: UInt8, BitwiseCopyable { case free, handshake, transmission }

    /// How a connection ends.
    enum Ending: UInt8, BitwiseCopyable {
        case none
        /// Requests in flight are answered first.
        case graceful
        /// Nothing is sent any more; what is in flight comes back and is dropped.
        case abrupt
    }

    /// What the bytes at the front of the stream are.
    enum Parser: BitwiseCopyable {
        case handshake
        case header
        /// Nothing is read: pieces of this request are still to be made.
        case submitting(SlotID)
        /// The payload of a write.
        case payload(SlotID)
        /// The payload of a write that has failed already: so many bytes to drop.
        case skipping(SlotID, byteCount: UInt32)
        case ended
    }

    var stage = Stage.free
    var ending = Ending.none
    var parser = Parser.ended
    /// Changes with each use of the place, so that a late completion would be noticed.
    var generation: UInt16 = 0
    /// The client's number, for people; never used again.
    var number: UInt32 = 0
    var socket = SocketID(index: 0)
    var acceptedAt = Instant(nanoseconds: 0)
    var endReason = NBDEndReason.none

    var handshake = NBDHandshake()
    var session: NBDSession?
    var isStructured = false
    var volume = 0
    /// 0 for the volume's own export; n for that of the target of pair n-1.
    var side: UInt8 = 0
    var requestCount = 0
    var heldByteCount = 0

    var wait: NBDWait?
    /// The buffer that it wants or wanted last, in bytes.
    var wantedByteCount = 0
    /// Parsing goes on when something of its own has been released or sent.
    var isPaused = false

    let memory: NBDConnectionMemory
    /// Bytes received and not yet parsed.
    var stagedRange = 0..<0
    var isReceiving = false
    var receivesIntoPiece = false
    var receiveStartedAt = Instant(nanoseconds: 0)
    /// The piece whose payload is being received, and how much of it is there.
    var filling: SlotID?
    var filledByteCount = 0
    /// The buffer of a piece that was given up while a receive into it was in flight.
    var orphan = NBDPayload.none

    var outboxHead = NBDOutboxItem.none
    var outboxTail = NBDOutboxItem.none
    var gatherHalf = 0
    var gatheredByteCount = 0
    /// Sent behind the gathered bytes; nothing is gathered behind it.
    var gatheredPayload = NBDPayload.none
    var isSending = false
    var sendStartedAt = Instant(nanoseconds: 0)
    var sentPayload = NBDPayload.none
    /// It stands on the list of those with something to send.
    var isMarkedForSending = false
    var isShutDown = false

    init() { memory = NBDConnectionMemory() }

    var stagedByteCount: Int { stagedRange.count }
    /// Whether a send would have anything to carry.
    var hasGathered: Bool { gatheredByteCount > 0 || gatheredPayload.buffer != .none }
    var hasOutput: Bool { hasGathered || outboxHead != .none }

    /// Bytes that can still be gathered.
    var gatherCapacity: Int {
        gatheredPayload.buffer == .none ? NBDConnectionMemory.sendByteCount - gatheredByteCount : 0
    }

    /// The staged bytes.
    ///
    /// Valid until something is received.
    var staged: UnsafeRawBufferPointer { unsafe memory.staging(stagedRange) }

    mutating func dropStaged(_ byteCount: Int) {
        invariant(byteCount <= stagedByteCount, "no more is parsed than was received")
        stagedRange = stagedRange.lowerBound + byteCount..<stagedRange.upperBound
    }

    /// Where the next receive puts its bytes: behind the staged ones, which move to the front first.
    mutating func stagingToReceiveInto() -> UnsafeMutableRawBufferPointer {
        if stagedRange.lowerBound > 0 {
            memory.moveStagedToFront(stagedRange)
            stagedRange = 0..<stagedRange.count
        }
        return unsafe memory.staging(from: stagedRange.upperBound)
    }

    /// Appends to the gathered bytes; the caller has checked `gatherCapacity`.
    mutating func gather(_ body: (inout OutputRawSpan) -> Void) {
        let half = unsafe memory.half(gatherHalf)
        var output = unsafe OutputRawSpan(buffer: half, initializedCount: gatheredByteCount)
        body(&output)
        gatheredByteCount = unsafe output.finalize(for: half)
    }
}

/// Why a connection waits, and for what all connections share.
enum NBDWait: UInt8, BitwiseCopyable {
    /// A buffer of the pool.
    case buffer
    /// A place in the tables of requests or pieces.
    case table
    /// A request slot of its volume.
    case volume
    /// Its turn to collect the buffers of a long simple read.
    case collection
}

/// A payload that is sent from a pool buffer.
struct NBDPayload: BitwiseCopyable {
    var buffer: BufferID
    var byteCount: Int

    static var none: NBDPayload { NBDPayload(buffer: .none, byteCount: 0) }
}

/// Why a connection ended, as the event tells it.
enum NBDEndReason: BitwiseCopyable {
    /// In order: the client said so, or the server stops.
    case none
    case `protocol`(NBDCloseReason)
    case receiveFailed(IOFailure)
    case sendFailed(IOFailure)
    case endedInsideMessage
    case readFailedAfterReplyBegan
    case handshakeTimedOut
    case heldBuffersTooLong
    case lastRepliesTimedOut
    case volumeRemoved
    case targetClosed
    case servedByOtherElement
    case tooManyClients

    /// Words for the event; `nil` when there is nothing to explain.
    var words: String? {
        switch self {
        case .none, .protocol(.requestedByClient): nil
        case .protocol(let reason): reason.words
        case .receiveFailed(let failure): "receiving from the client failed: \(failure.words)"
        case .sendFailed(let failure): "sending to the client failed: \(failure.words)"
        case .endedInsideMessage: "the client went away in the middle of a message"
        case .readFailedAfterReplyBegan: "a read failed after its reply had begun"
        case .handshakeTimedOut: "the client did not choose an export in time"
        case .heldBuffersTooLong: "the client neither read nor wrote while others waited for its buffers"
        case .lastRepliesTimedOut: "the client did not take its last replies"
        case .volumeRemoved: "the volume was removed"
        case .servedByOtherElement: "the volume is served by another element now, whose data is not the same"
        case .targetClosed: "the target is no longer the hosts' to use"
        case .tooManyClients: "there are too many clients"
        }
    }
}

/// The memory of one connection, made once: staging for what is received, and two halves for what is sent.
@safe
struct NBDConnectionMemory: ~Copyable {
    /// Holds a whole option of the handshake, and some dozen small requests.
    static var stagingByteCount: Int { 64 << 10 }
    /// Holds some dozen replies with 4 KiB each, and the longest reply of the handshake several times.
    static var sendByteCount: Int { 64 << 10 }

    private let base: UnsafeMutableRawBufferPointer

    init() {
        unsafe base = .allocate(byteCount: Self.stagingByteCount + 2 * Self.sendByteCount, alignment: 4096)
    }

    deinit { unsafe base.deallocate() }

    func staging(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        invariant(range.upperBound <= Self.stagingByteCount, "staged bytes lie in the staging memory")
        return unsafe UnsafeRawBufferPointer(rebasing: base[range])
    }

    func staging(from start: Int) -> UnsafeMutableRawBufferPointer {
        invariant(start < Self.stagingByteCount, "there is room to receive into")
        return unsafe UnsafeMutableRawBufferPointer(rebasing: base[start..<Self.stagingByteCount])
    }

    func moveStagedToFront(_ range: Range<Int>) {
        let staged = unsafe UnsafeRawBufferPointer(rebasing: base[range])
        unsafe UnsafeMutableRawBufferPointer(rebasing: base[0..<range.count]).copyMemory(from: staged)
    }

    func half(_ index: Int) -> UnsafeMutableRawBufferPointer {
        let start = Self.stagingByteCount + index * Self.sendByteCount
        return unsafe UnsafeMutableRawBufferPointer(rebasing: base[start..<start + Self.sendByteCount])
    }
}
