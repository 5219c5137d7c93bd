internal import RepldCore

/// A payload of a fixed size with fields of its own, as control frames have.
package protocol FramePayload: Hashable, Sendable {
    static var byteCount: Int { get }

    /// Writes over exactly `byteCount` bytes at the front of `bytes`.
    func encode(into bytes: inout MutableRawSpan)

    /// Reads what `encode` writes, trusting nothing in it.
    static func decode(_ bytes: borrowing RawSpan) throws(PayloadError) -> Self
}

extension FramePayload {
    static func checkSize(_ bytes: borrowing RawSpan) throws(PayloadError) {
        guard bytes.byteCount == byteCount else { throw .size(found: bytes.byteCount, expected: byteCount) }
    }
}

/// What is wrong with a payload whose checksum is right: the peer has sent what no version sends.
package enum PayloadError: Error, Hashable, Sendable {
    case size(found: Int, expected: Int)
    case impossible(StaticName)

    package var words: String {
        switch self {
        case .size(let found, let expected): "a payload of \(found) bytes, where \(expected) belong"
        case .impossible(let field): "impossible \(field.words) in a payload"
        }
    }
}

/// The payload of ping and pong: clocks in nanoseconds, each of its own side only, and how far behind the peer is.
///
///     offset  size  field
///          0     8  clock of the side that asked
///          8     8  clock of the side that answers; 0 in a ping
///         16     8  age in nanoseconds of the oldest acknowledged write that the receiver may not have; 0 for none
package struct Ping: FramePayload, BitwiseCopyable {
    package var askedClock: UInt64
    package var answeredClock: UInt64
    package var oldestUnsentAge: UInt64

    package static var byteCount: Int { 24 }

    package init(askedClock: UInt64, answeredClock: UInt64 = 0, oldestUnsentAge: UInt64 = 0) {
        self.askedClock = askedClock
        self.answeredClock = answeredClock
        self.oldestUnsentAge = oldestUnsentAge
    }

    package func encode(into bytes: inout MutableRawSpan) {
        bytes.storeLittleEndian(askedClock, at: 0)
        bytes.storeLittleEndian(answeredClock, at: 8)
        bytes.storeLittleEndian(oldestUnsentAge, at: 16)
    }

    package static func decode(_ bytes: borrowing RawSpan) throws(PayloadError) -> Ping {
        try checkSize(bytes)
        return Ping(
            askedClock: bytes.loadLittleEndian(at: 0),
            answeredClock: bytes.loadLittleEndian(at: 8),
            oldestUnsentAge: bytes.loadLittleEndian(at: 16)
        )
    }
}

/// How an opening was answered: the detail of a reply to it.
package enum OpenStatus: UInt32, Sendable, CaseIterable, BitwiseCopyable {
    case opened = 0
    /// No such pair there; the record is of no meaning.
    case unknownPair = 1
    /// The pair is open on another session, which is ended first.
    case alreadyOpen = 2
    /// Its metadata cannot be read.
    case damaged = 3
    case noResources = 4
    /// The peer has taken the pair over, and may be serving hosts: this side must not.
    case takenOver = 5
    /// Both daemons have the pair in the same term: an operator has to say which of them.
    case conflict = 6
}

/// How a request was answered: the detail of an ack.
package enum AckStatus: UInt32, Sendable, CaseIterable, BitwiseCopyable {
    case done = 0
    /// The element failed; the range may be half written.
    case ioError = 1
    case noSpace = 2
    /// The range lies outside of the volume, or is not aligned to its blocks.
    case outOfRange = 3
    /// The stream is bound to no pair.
    case notOpen = 4
    /// The pair is in a state that does not allow it; nothing was done.
    case refused = 5
    /// Given up because the stream was closed; it may have been done.
    case abandoned = 6
    /// The payload does not expand to what its header says; nothing was done.
    case badData = 7
    /// What it would overwrite could not be kept in the undo area; nothing was written, of a record neither.
    case notKept = 8
}

/// Why a connection is ended: the detail of a goodbye; words for a log are its payload.
package enum Goodbye: UInt32, Sendable, CaseIterable, BitwiseCopyable {
    /// The daemon stops in order.
    case stopping = 0
    /// The peer was removed here.
    case removed = 1
    /// What both sides speak has nothing in common.
    case notCompatible = 2
    /// A frame that cannot be read.
    case badFrame = 3
    /// A frame that can be read, and does not belong there.
    case badOrder = 4
    /// The other side was silent for too long.
    case silent = 5
    /// A newer session of the same peer takes its place.
    case replaced = 6
    case noResources = 7
    case internalError = 8

    package static var wordByteCountMaximum: Int { 512 }

    /// Reasons of later versions are read as `internalError`: the connection ends in any case.
    package init(detail: UInt32) { self = Goodbye(rawValue: detail) ?? .internalError }
}
