import RepldCore

@testable import RepldWire

/// The bytes that `encode` writes to the front of a buffer of a size.
func written(_ byteCount: Int, _ encode: (inout MutableRawSpan) -> Void) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: byteCount)
    bytes.withUnsafeMutableBytes { buffer in
        var span = MutableRawSpan(_unsafeBytes: buffer)
        encode(&span)
    }
    return bytes
}

/// A whole frame as it is sent.
func frame(_ header: FrameHeader, _ payload: [UInt8] = []) -> [UInt8] {
    var header = header
    if !payload.isEmpty { header.seal(payload: payload.span.bytes) }
    return written(FrameHeader.byteCount) { header.encode(into: &$0) } + payload
}

/// A payload with fields as it is sent.
func bytes(of payload: some FramePayload) -> [UInt8] {
    written(type(of: payload).byteCount) { payload.encode(into: &$0) }
}

/// What a reader that has just begun says of the bytes.
func read(_ bytes: [UInt8], lane: Lane, terms: WireTerms? = .all) throws(FrameError) -> FrameReader.Progress {
    var reader = FrameReader(context: WireContext(lane: lane, terms: terms))
    return try reader.advance(bytes.span.bytes)
}

/// The error that the bytes are refused with; `nil` when they are not.
func refusal(_ bytes: [UInt8], lane: Lane, terms: WireTerms? = .all) -> FrameError? {
    do throws(FrameError) {
        _ = try read(bytes, lane: lane, terms: terms)
        return nil
    } catch {
        return error
    }
}

extension WireTerms {
    /// Version 1 with all features.
    static var all: WireTerms { WireTerms(version: 1, features: .known, limits: WireLimits()) }
}

extension FrameKind {
    /// A lane that the kind may take.
    var someLane: Lane { rule.lane ?? .control }
}

/// Makes frames of every kind with values from a seed.
struct FrameSource {
    var random: RandomSource

    init(seed: UInt64) { random = RandomSource(seed: seed) }

    mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) } }

    /// A header and payload that a side of version 1 may send.
    mutating func frame(_ kind: FrameKind) -> (header: FrameHeader, payload: [UInt8]) {
        var header = FrameHeader(kind: kind)
        let fields = kind.rule.fields
        if fields.contains(.stream) { header.stream = UInt32(1 + random.below(1 << 31)) }
        if fields.contains(.position) {
            header.epoch = random.next()
            header.sequence = random.next()
        }
        if fields.contains(.tag) { header.tag = random.next() }
        if fields.contains(.detail) { header.detail = UInt32(truncatingIfNeeded: random.next()) }
        if fields.contains(.range) {
            header.length = UInt32(1 + random.below(8192))
            header.offset = random.below(1 << 62)
        }
        for bit in 0..<5 where kind.rule.flags.rawValue >> UInt16(bit) & 1 != 0 && random.chance(oneIn: 2) {
            header.flags.insert(FrameFlags(rawValue: 1 << UInt16(bit)))
        }
        if header.flags.contains(.zeroes) { header.flags.remove(.compressed) }
        if header.flags.contains(.copy) { header.epoch = 0 }
        let payload = payload(&header)
        if !payload.isEmpty { header.seal(payload: payload.span.bytes) }
        return (header, payload)
    }

    private mutating func payload(_ header: inout FrameHeader) -> [UInt8] {
        switch header.kind.rule.payload {
        case .none:
            if header.kind == .digestRequest { header.detail = 4096 }
            return []
        case .fixed(let count): return bytes(count)
        case .words: return bytes(Int(random.below(513)))
        case .message: return bytes(Int(random.below(65537)))
        case .data, .digests:
            if header.kind.rule.payload != .data { header.detail = 512 << UInt32(random.below(8)) }
            if header.flags.contains(.zeroes) { return [] }
            guard header.flags.contains(.compressed) else { return bytes(header.plainByteCount) }
            guard header.plainByteCount > 1 else {
                header.flags.remove(.compressed)
                return bytes(header.plainByteCount)
            }
            return bytes(Int(1 + random.below(UInt64(header.plainByteCount - 1))))
        }
    }
}
