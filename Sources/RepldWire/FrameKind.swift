internal import RepldCore

/// What a frame is; the numbers are on the wire and never change their meaning.
///
/// Control frames never queue behind bulk data, by two means together. A session has one connection for control and one
/// for data (`Lane`): what lies in a socket's send buffer cannot be overtaken, so a shared connection would put a
/// keep-alive behind megabytes on a slow link. And bulk is cut into pieces of at most 128 KiB
/// (`WireLimits.pieceByteCountMaximum`), each a frame of its own, so that no reader is held up by one frame for long.
///
/// The price is that frames of different connections overtake each other. So every frame whose meaning depends on what was
/// sent before carries the position (epoch and sequence) that it stands behind, and its receiver holds it until that
/// position is reached; a mark of an epoch says how many frames the epoch has, because they may still be on their way.
package enum FrameKind: UInt8, Sendable, CaseIterable, BitwiseCopyable {
    /// The first frame of a connection, from the side that opened it: `Hello`.
    case hello = 1
    /// The answer to it: the other side's `Hello`.
    case helloReply = 2
    /// The last frame of a connection: a reason, and words for a log.
    case goodbye = 3
    /// Asks whether the peer is there: `Ping`.
    case ping = 4
    /// Answers with the clock that was asked with, and an own one.
    case pong = 5

    /// Binds a stream number to a pair and shows this side's record: `PairOpening`.
    case pairOpen = 16
    /// Answers with the other side's record, or with a refusal.
    case pairOpenReply = 17
    /// Unbinds a stream number.
    case pairClose = 18
    /// The source's record of the pair as it is now, to be kept on stable storage before the answer.
    ///
    /// From a record with an undo on, whatever is written is kept first (`UndoLayout` is one way), until a record has none; a replica that cannot answers `AckStatus.notKept`, and keeps the record that it has.
    case record = 21

    /// A question of one control plane to the other, in bytes that are not looked at here.
    case message = 24
    /// The answer to it.
    case messageReply = 25

    /// Bytes of the volume.
    case write = 32
    /// The host's write-zeroes: the range reads as zero afterwards.
    case zero = 33
    /// The host's discard: what the range holds afterwards is nobody's business.
    case discard = 34
    /// Everything up to the position is to be on stable storage before the answer.
    case flush = 35
    /// The epoch is complete, and has so many frames.
    case epochMark = 36
    /// Answers a request that has no reply of its own kind, and any that failed.
    case ack = 37

    /// Asks for bytes of the volume.
    case read = 48
    /// The bytes that were asked for.
    case readReply = 49
    /// Asks for digests of a range, one for each granule.
    case digestRequest = 50
    /// The digests that were asked for, 8 bytes each.
    case digestReply = 51
}

/// Which connection of a session a frame travels on.
package enum Lane: UInt8, Sendable, CaseIterable, BitwiseCopyable {
    case control = 0
    case data = 1
}

/// Modifies a frame; each kind allows some, and all others are refused.
package struct FrameFlags: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt16

    package init(rawValue: UInt16) { self.rawValue = rawValue }

    /// The payload is one LZ4 block that expands to exactly the frame's length.
    package static var compressed: FrameFlags { FrameFlags(rawValue: 1 << 0) }
    /// The range is all zero, and there is no payload.
    package static var zeroes: FrameFlags { FrameFlags(rawValue: 1 << 1) }
    /// Of a request: it is answered only when it is on stable storage; of an ack: it is.
    package static var durable: FrameFlags { FrameFlags(rawValue: 1 << 2) }
    /// Comes from the mover and not from a host: it belongs to no epoch.
    package static var copy: FrameFlags { FrameFlags(rawValue: 1 << 3) }
    /// Zeroing must keep the space allocated.
    package static var noHole: FrameFlags { FrameFlags(rawValue: 1 << 4) }
}

/// The fields of a header that a kind uses; all others are zero, or the frame is refused.
struct FrameFields: OptionSet, Sendable, BitwiseCopyable {
    let rawValue: UInt8

    static var stream: FrameFields { FrameFields(rawValue: 1 << 0) }
    /// Epoch and sequence.
    static var position: FrameFields { FrameFields(rawValue: 1 << 1) }
    /// Offset and length; the length is not zero.
    static var range: FrameFields { FrameFields(rawValue: 1 << 2) }
    static var tag: FrameFields { FrameFields(rawValue: 1 << 3) }
    static var detail: FrameFields { FrameFields(rawValue: 1 << 4) }
}

/// What a kind's payload has to look like.
enum PayloadShape: Hashable, Sendable, BitwiseCopyable {
    case none
    case fixed(Int)
    /// The frame's length as it is, less when compressed, nothing when zeroes.
    case data
    /// 8 bytes for each granule of the range; the detail is the granule in bytes.
    case digests
    /// Words in UTF-8, or none.
    case words
    /// Bytes of a message, at most `WireLimits.messageByteCountMaximum`.
    case message
}

/// All that is fixed about a kind.
struct FrameRule: Sendable, BitwiseCopyable {
    var fields: FrameFields
    var flags: FrameFlags = []
    var payload = PayloadShape.none
    /// The lane that it has to take; `nil` for either.
    var lane: Lane?
    /// What has to be negotiated for it.
    var needs: WireFeatures = []
    /// Whether it may be sent before both sides know what they agree on.
    var isForGreeting = false
}

extension FrameKind {
    /// The one table of what a frame of each kind may hold.
    var rule: FrameRule {
        switch self {
        case .hello, .helloReply: FrameRule(fields: [], payload: .fixed(Hello.byteCount), isForGreeting: true)
        case .goodbye: FrameRule(fields: [.detail], payload: .words, isForGreeting: true)
        case .ping, .pong: FrameRule(fields: [.tag], payload: .fixed(Ping.byteCount))
        case .pairOpen: FrameRule(fields: [.stream, .tag], payload: .fixed(PairOpening.byteCount), lane: .control)
        case .pairOpenReply:
            FrameRule(fields: [.stream, .tag, .detail], payload: .fixed(PairOpening.byteCount), lane: .control)
        case .pairClose: FrameRule(fields: [.stream, .tag, .position], lane: .control)
        case .record:
            FrameRule(fields: [.stream, .tag], payload: .fixed(WireLimits.recordByteCount), lane: .control)
        case .message: FrameRule(fields: [.tag], payload: .message, lane: .control)
        case .messageReply: FrameRule(fields: [.tag], payload: .message, lane: .control)
        case .write, .zero, .discard, .flush, .epochMark, .ack: writeRule
        case .read, .readReply, .digestRequest, .digestReply: readRule
        }
    }

    private var writeRule: FrameRule {
        let request: FrameFields = [.stream, .position, .range, .tag]
        switch self {
        case .write:
            return FrameRule(
                fields: request,
                flags: [.compressed, .zeroes, .durable, .copy],
                payload: .data,
                lane: .data
            )
        case .zero: return FrameRule(fields: request, flags: [.durable, .copy, .noHole], lane: .data)
        case .discard: return FrameRule(fields: request, flags: [.durable, .copy], lane: .data)
        case .flush: return FrameRule(fields: [.stream, .position, .tag], lane: .data)
        case .epochMark: return FrameRule(fields: [.stream, .position, .tag, .detail], lane: .data)
        case .ack: return FrameRule(fields: [.stream, .position, .tag, .detail], flags: [.durable], lane: .control)
        default: invariantFailed("a kind of writing has a rule")
        }
    }

    private var readRule: FrameRule {
        let request: FrameFields = [.stream, .position, .range, .tag]
        let detailed = request.union(.detail)
        switch self {
        // With an epoch they are about what all writes before them have come to, and so travel behind these.
        case .read: return FrameRule(fields: request)
        case .readReply: return FrameRule(fields: request, flags: [.compressed, .zeroes], payload: .data, lane: .data)
        case .digestRequest: return FrameRule(fields: detailed, needs: .digests)
        case .digestReply: return FrameRule(fields: detailed, payload: .digests, lane: .data, needs: .digests)
        default: invariantFailed("a kind of reading has a rule")
        }
    }
}
