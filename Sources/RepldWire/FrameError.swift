/// Why a frame is refused; it ends the connection, because behind a frame that cannot be read nothing can.
package enum FrameError: Error, Hashable, Sendable, BitwiseCopyable {
    case wrongMagic(UInt32)
    case wrongHeaderChecksum(stored: UInt32, computed: UInt32)
    case wrongPayloadChecksum(FrameKind, stored: UInt32, computed: UInt32)
    /// The version that was found, and the one that belongs there.
    case wrongVersion(UInt8, UInt8)
    case unknownKind(UInt8)
    /// Only greetings are allowed before both sides know what they agree on.
    case notYet(FrameKind)
    case wrongLane(FrameKind, Lane)
    case notNegotiated(FrameKind, WireFeatures)
    /// A flag or field that the kind does not use is set, or one that it needs is not.
    case reserved(FrameKind, StaticName)
    /// A value that no side sends.
    case impossible(FrameKind, StaticName)
    /// The length that was found, and the greatest that is accepted.
    case payloadTooLong(FrameKind, UInt32, UInt32)

    /// Words for a log line and for the goodbye.
    package var words: String {
        switch self {
        case .wrongMagic(let found): "not a frame: it begins with \(found) instead of \(FrameHeader.magic)"
        case .wrongHeaderChecksum(let stored, let computed):
            "the header's checksum is \(stored), but its bytes give \(computed)"
        case .wrongPayloadChecksum(let kind, let stored, let computed):
            "the payload's checksum in a \(kind) frame is \(stored), but its bytes give \(computed)"
        case .wrongVersion(let found, let wanted): "a frame of version \(found), where version \(wanted) was agreed on"
        case .unknownKind(let number): "no frame has kind \(number)"
        case .notYet(let kind): "a \(kind) frame came before hello and its reply"
        case .wrongLane(let kind, let lane): "a \(kind) frame does not travel on the \(lane) connection"
        case .notNegotiated(let kind, let features): "a \(kind) frame needs \(features.words), which was not agreed on"
        case .reserved(let kind, let field): "\(field.words) of a \(kind) frame is not as it has to be"
        case .impossible(let kind, let field): "impossible \(field.words) in a \(kind) frame"
        case .payloadTooLong(let kind, let found, let most):
            "a \(kind) frame announces \(found) bytes, and at most \(most) are accepted"
        }
    }
}

/// The name of a field, known when the program was built: an error carries it without allocating.
package struct StaticName: Hashable, Sendable, BitwiseCopyable, ExpressibleByStringLiteral {
    private let name: StaticString

    package init(stringLiteral name: StaticString) { self.name = name }

    package var words: String { String(describing: name) }

    package static func == (left: StaticName, right: StaticName) -> Bool { left.words == right.words }

    package func hash(into hasher: inout Hasher) { hasher.combine(words) }
}
