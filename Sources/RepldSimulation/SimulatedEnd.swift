internal import RepldCore
internal import RepldEngine

/// When a transfer's completion is delivered.
struct SimulatedDue {
    var moment: UInt64
    var sequence: UInt64
}

/// A receive in flight.
@safe
struct SimulatedReceive {
    var memory: UnsafeMutableRawBufferPointer
    var token: Token
    /// Known as soon as there is something to complete it with.
    var due: SimulatedDue?
}

/// A send in flight.
@safe
struct SimulatedSend {
    let first: UnsafeRawBufferPointer
    let second: UnsafeRawBufferPointer
    let token: Token
    /// What was to be sent, to see whether somebody has used the memory for something else meanwhile.
    let bytes: [UInt8]
    /// Bytes that are in the buffer.
    var takenCount = 0
    /// Known as soon as all bytes are in the buffer, or never will be.
    var due: SimulatedDue?

    init(_ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer, token: Token) {
        unsafe self.first = first
        unsafe self.second = second
        self.token = token
        bytes = unsafe Array(first) + Array(second)
    }

    var isTaken: Bool { takenCount == bytes.count }

    var isUntouched: Bool {
        unsafe bytes.withUnsafeBytes { bytes in
            unsafe DataExamination.isEqual(UnsafeRawBufferPointer(rebasing: bytes[..<first.count]), first)
                && DataExamination.isEqual(UnsafeRawBufferPointer(rebasing: bytes[first.count...]), second)
        }
    }
}

/// Bytes in a row, added at the end and taken from the beginning.
struct SimulatedBytes {
    private var bytes: [UInt8] = []
    private var takenCount = 0

    var count: Int { bytes.count - takenCount }
    var isEmpty: Bool { count == 0 }

    mutating func append(_ more: ArraySlice<UInt8>) { bytes.append(contentsOf: more) }

    mutating func take(_ count: Int) -> [UInt8] {
        let taken = Array(bytes[takenCount..<takenCount + count])
        takenCount += count
        if takenCount * 2 >= bytes.count {
            bytes.removeFirst(takenCount)
            takenCount = 0
        }
        return taken
    }

    mutating func removeAll() { self = SimulatedBytes() }
}

/// One end of a connection: what has come there, and what is on its way from there to the other.
struct SimulatedEnd {
    enum State {
        case open
        /// Its socket takes and gives no more bytes; what it has sent, and then the end of the stream, still go out.
        case shutDown
        /// The same, and the socket is gone.
        case closed
        /// It knows that the connection is lost.
        case failed
        /// Nobody on its host knows of the connection any more.
        case gone
    }

    /// A piece of the stream on its way; one without bytes is the end of the stream.
    struct Piece {
        var bytes: [UInt8]
        var arrivesAt: UInt64
    }

    unowned let host: SimulatedHost
    /// To the other end.
    let link: SimulatedLink
    var state = State.open
    /// Why the connection is lost, until a transfer has told it.
    var failure: IOFailure?

    /// In the send buffer, and not yet with the link.
    var unsent = SimulatedBytes()
    var transit: [Piece] = []
    var transitByteCount = 0
    /// Arrived at the other end, whose word of it does not come through: the send buffer still holds them.
    var unacknowledgedByteCount = 0
    /// The link is taking a piece of this stream up to then.
    var leavingUntil: UInt64 = 0
    /// The end of the stream is to follow what is unsent.
    var isEnding = false
    var hasSentEnd = false
    /// What it sends vanishes from now on, for good.
    var isMuted = false
    /// Something is in the send buffer, and nothing comes back.
    var silentSince: UInt64?

    /// Received from the other end, and not yet taken by the socket's owner.
    var arrived = SimulatedBytes()
    var hasEnded = false
    /// A reset is on its way to this end.
    var resetArrivesAt: UInt64?

    var receive: SimulatedReceive?
    var send: SimulatedSend?

    init(host: SimulatedHost, link: SimulatedLink) {
        self.host = host
        self.link = link
    }

    /// What the send buffer holds: all that the other end has not confirmed.
    var bufferedByteCount: Int { unsent.count + transitByteCount + unacknowledgedByteCount }

    /// Whether its kernel still sends what is unsent.
    var isSending: Bool { state == .open || state == .shutDown || state == .closed }

    var hasSocket: Bool { state == .open || state == .shutDown || state == .failed }
}
