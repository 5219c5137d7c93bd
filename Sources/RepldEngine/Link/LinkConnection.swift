internal import RepldCore
internal import RepldPair
internal import RepldWire

/// One connection of a session: what has been received of it, and what it is to be sent.
///
/// Receiving: at most one receive in flight, behind what is staged; frames are taken off the front as soon as they are whole.
/// A frame that needs what is not there (a buffer, a place in a table) stays where it is, and nothing more is received.
/// Sending: at most one send in flight; it carries as many of the waiting frames as fit, and the payload of at most one
/// more from where that is.
struct LinkConnection: ~Copyable {
    enum Stage: UInt8, BitwiseCopyable { case free, connecting, greeting, open }

    var stage = Stage.free
    /// Changes with each use of the place, so that a late completion would be noticed.
    var generation: UInt16 = 0
    var socket: SocketID?
    /// The session, once it is known.
    var session: Int?
    var lane = Lane.control
    var isInitiator = false
    var startedAt = Instant(nanoseconds: 0)
    /// When something came last; on a data connection also an answer to what was sent there.
    var heardAt = Instant(nanoseconds: 0)

    var memory = LinkMemory(isInUse: false)
    var reader = FrameReader(context: WireContext(lane: .control))
    var stagedRange = 0..<0
    var isReceiving = false
    /// A frame at the front waits for something.
    var isPaused = false

    var frames = BoundedQueue<OutgoingFrame>(capacity: 1, blank: .blank)
    /// The payloads of waiting control frames, in the order of these.
    var controlPayloads: [[UInt8]] = []
    var isSending = false
    var isMarked = false
    /// The request of a peer whose data the send in flight carries, or the place of a compressed payload.
    var sentServe: SlotID?
    var sentPlace: Int?
    var sentByteCount = 0
    /// The data of the frame at the front, which is being expanded or has been.
    var expansion = Expansion.none
    var isShutDown = false
    /// It is freed as soon as nothing is in flight on its socket.
    var isEnding = false

    enum Expansion: BitwiseCopyable {
        case none
        case running(BufferID)
        case done(BufferID, isWhole: Bool)
    }

    var isExpanding: Bool {
        if case .running = expansion { return true }
        return false
    }

    var hasOperations: Bool { isReceiving || isSending || isExpanding || stage == .connecting }

    mutating func open(_ stage: Stage, at now: Instant) {
        generation &+= 1
        self.stage = stage
        startedAt = now
        memory = LinkMemory(isInUse: true)
        frames = BoundedQueue(capacity: Links.frameLimit, blank: .blank)
    }

    mutating func close() {
        let generation = generation
        self = LinkConnection()
        self.generation = generation
    }

    /// What has been received and not been taken.
    ///
    /// Valid until something is received.
    var staged: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(rebasing: memory.staging[stagedRange]) }

    mutating func dropStaged(_ byteCount: Int) {
        stagedRange = stagedRange.lowerBound + byteCount..<stagedRange.upperBound
    }

    /// Where the next receive puts its bytes: behind the staged ones, which move to the front first.
    mutating func room() -> UnsafeMutableRawBufferPointer {
        if stagedRange.lowerBound > 0 {
            unsafe memory.staging.copyMemory(from: staged)
            stagedRange = 0..<stagedRange.count
        }
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory.staging[stagedRange.upperBound...])
    }
}

/// A frame on its way to a connection.
struct OutgoingFrame: BitwiseCopyable {
    enum Payload: BitwiseCopyable {
        case none
        /// The first of the connection's `controlPayloads`.
        case control
        /// So many bytes of a buffer, from a place in it on.
        case buffer(BufferID, offset: Int, count: Int)
        /// So many bytes of the backlog of a remote target.
        case backlog(target: Int, offset: Int, count: Int)
        /// So many bytes of a place of a session's compressor.
        case compressed(session: Int, place: Int, count: Int)
    }

    var header: FrameHeader
    var payload = Payload.none
    /// The request of a peer that is over when the frame has been sent.
    var serve: SlotID?
    /// Where its payload is compressed.
    var place: Int?

    static var blank: OutgoingFrame { OutgoingFrame(header: FrameHeader(kind: .pong)) }
}

/// The memory of one connection, while it has one.
@safe
struct LinkMemory: ~Copyable {
    let staging: UnsafeMutableRawBufferPointer
    let sending: UnsafeMutableRawBufferPointer

    /// Three of the longest frames: one that is being looked at, and as much again that has come behind it.
    static var stagingByteCount: Int { 3 * (WireLimits.frameByteCountMaximum + 4096) }
    static var sendingByteCount: Int { 192 << 10 }

    init(isInUse: Bool) {
        unsafe staging = .allocate(byteCount: isInUse ? Self.stagingByteCount : 0, alignment: 64)
        unsafe sending = .allocate(byteCount: isInUse ? Self.sendingByteCount : 0, alignment: 64)
    }

    deinit {
        unsafe staging.deallocate()
        unsafe sending.deallocate()
    }
}
