internal import RepldCore

/// The 64 bytes in front of every frame.
///
/// All numbers are little-endian. The layout is the same in all versions of the protocol, so that a side can say goodbye in
/// words to one that it does not understand:
///
///     offset  size  field
///          0     4  magic "RPLW"
///          4     1  version of the protocol: 1 in hello, helloReply and goodbye, the negotiated one in all others
///          5     1  kind (`FrameKind`)
///          6     2  flags (`FrameFlags`)
///          8     4  CRC-32C of the 64 bytes, with these four taken as zero
///         12     4  payload length: bytes behind the header
///         16     4  CRC-32C of the payload as sent; 0 without one
///         20     4  stream: the number that pairOpen gave to a pair; 0 for the session
///         24     8  epoch
///         32     8  sequence: counts what the stream's data lanes carry, from 1
///         40     8  offset in the volume, bytes
///         48     8  tag: the asker's name for the request, returned unchanged
///         56     4  length: bytes of the volume that the frame is about
///         60     4  detail: of an ack the status, of digests and maps the granule in bytes, of an epoch's mark the number of
///                   frames, of a reply to an opening its status, of a reply to a change of state the return code, of a
///                   goodbye the reason
///
/// Which fields a kind uses is in one table (`FrameKind.rule`); a field that it does not use is zero, and so is a flag.
/// Checked in this order, the first failure decides: magic, header checksum, version, kind, whether the kind is allowed now and
/// on this lane, flags, fields, payload length. So nothing of a header is looked at before its checksum is right, and a payload
/// is never waited for before its length is known to be within bounds.
package struct FrameHeader: Hashable, Sendable, BitwiseCopyable {
    package var version: UInt8
    package var kind: FrameKind
    package var flags: FrameFlags
    package var payloadByteCount: UInt32
    package var payloadChecksum: UInt32
    package var stream: UInt32
    package var epoch: UInt64
    package var sequence: UInt64
    package var offset: UInt64
    package var tag: UInt64
    package var length: UInt32
    package var detail: UInt32

    package static var byteCount: Int { 64 }
    static var magic: UInt32 { 0x574C_5052 }  // "RPLW" read as a little-endian number
    private static var checksumOffset: Int { 8 }
    /// What greetings carry as version.
    static var greetingVersion: UInt8 { 1 }

    package init(
        kind: FrameKind,
        flags: FrameFlags = [],
        version: UInt8 = 1,
        stream: UInt32 = 0,
        epoch: UInt64 = 0,
        sequence: UInt64 = 0,
        offset: UInt64 = 0,
        tag: UInt64 = 0,
        length: UInt32 = 0,
        detail: UInt32 = 0
    ) {
        self.version = kind.rule.isForGreeting ? Self.greetingVersion : version
        self.kind = kind
        self.flags = flags
        payloadByteCount = 0
        payloadChecksum = 0
        self.stream = stream
        self.epoch = epoch
        self.sequence = sequence
        self.offset = offset
        self.tag = tag
        self.length = length
        self.detail = detail
    }

    /// Header and payload.
    package var frameByteCount: Int { Self.byteCount + Int(payloadByteCount) }

    /// Takes the payload's length and checksum; the payload itself stays where it is.
    package mutating func seal(payload: borrowing RawSpan) {
        invariant(payload.byteCount <= WireLimits.pieceByteCountCeiling, "a payload is at most one piece")
        payloadByteCount = UInt32(truncatingIfNeeded: payload.byteCount)
        payloadChecksum = Checksum.crc32c(payload)
    }

    /// Writes the header to the front of `bytes`.
    ///
    /// A header that the other side would refuse is a mistake of ours and stops here.
    package func encode(into bytes: inout MutableRawSpan) {
        invariant(bytes.byteCount >= Self.byteCount, "a header has room")
        invariant(fieldFailure == nil && shapeFailure(piece: .max) == nil, "a frame is as its kind says")
        bytes.storeLittleEndian(Self.magic, at: 0)
        bytes.storeLittleEndian(version, at: 4)
        bytes.storeLittleEndian(kind.rawValue, at: 5)
        bytes.storeLittleEndian(flags.rawValue, at: 6)
        bytes.storeLittleEndian(UInt32(0), at: Self.checksumOffset)
        bytes.storeLittleEndian(payloadByteCount, at: 12)
        bytes.storeLittleEndian(payloadChecksum, at: 16)
        bytes.storeLittleEndian(stream, at: 20)
        bytes.storeLittleEndian(epoch, at: 24)
        bytes.storeLittleEndian(sequence, at: 32)
        bytes.storeLittleEndian(offset, at: 40)
        bytes.storeLittleEndian(tag, at: 48)
        bytes.storeLittleEndian(length, at: 56)
        bytes.storeLittleEndian(detail, at: 60)
        let checksum = Checksum.crc32c(bytes.bytes.extracting(0..<Self.byteCount))
        bytes.storeLittleEndian(checksum, at: Self.checksumOffset)
    }

    /// Reads the header at the front of `bytes`, at least `byteCount` of them, trusting nothing in it.
    package static func parse(
        _ bytes: borrowing RawSpan,
        _ context: WireContext
    ) throws(FrameError) -> FrameHeader {
        invariant(bytes.byteCount >= byteCount, "a header is parsed when it is there")
        let found: UInt32 = bytes.loadLittleEndian(at: 0)
        guard found == magic else { throw .wrongMagic(found) }
        let stored: UInt32 = bytes.loadLittleEndian(at: checksumOffset)
        let computed = headerChecksum(bytes)
        guard stored == computed else { throw .wrongHeaderChecksum(stored: stored, computed: computed) }
        let kindNumber: UInt8 = bytes.loadLittleEndian(at: 5)
        let version: UInt8 = bytes.loadLittleEndian(at: 4)
        guard let kind = FrameKind(rawValue: kindNumber) else {
            throw version == context.version ? .unknownKind(kindNumber) : .wrongVersion(version, context.version)
        }
        let wanted = kind.rule.isForGreeting ? greetingVersion : context.version
        guard version == wanted else { throw .wrongVersion(version, wanted) }
        var header = FrameHeader(
            kind: kind,
            flags: FrameFlags(rawValue: bytes.loadLittleEndian(at: 6)),
            version: version
        )
        header.payloadByteCount = bytes.loadLittleEndian(at: 12)
        header.payloadChecksum = bytes.loadLittleEndian(at: 16)
        header.stream = bytes.loadLittleEndian(at: 20)
        header.epoch = bytes.loadLittleEndian(at: 24)
        header.sequence = bytes.loadLittleEndian(at: 32)
        header.offset = bytes.loadLittleEndian(at: 40)
        header.tag = bytes.loadLittleEndian(at: 48)
        header.length = bytes.loadLittleEndian(at: 56)
        header.detail = bytes.loadLittleEndian(at: 60)
        try header.check(context)
        return header
    }

    /// Checks the payload, all of it, that came behind the header.
    package func check(payload: borrowing RawSpan) throws(FrameError) {
        invariant(payload.byteCount == Int(payloadByteCount), "a payload is checked when all of it is there")
        let computed = Checksum.crc32c(payload)
        guard computed == payloadChecksum else {
            throw .wrongPayloadChecksum(kind, stored: payloadChecksum, computed: computed)
        }
    }

    private static func headerChecksum(_ bytes: borrowing RawSpan) -> UInt32 {
        var zero: UInt32 = 0
        let before = Checksum.crc32c(bytes.extracting(0..<checksumOffset))
        let hole = unsafe withUnsafeBytes(of: &zero) {
            unsafe Checksum.crc32c(RawSpan(_unsafeBytes: $0), continuing: before)
        }
        return Checksum.crc32c(bytes.extracting(checksumOffset + 4..<byteCount), continuing: hole)
    }
}

extension FrameHeader {
    private func check(_ context: WireContext) throws(FrameError) {
        let rule = kind.rule
        guard rule.isForGreeting || context.terms != nil else { throw .notYet(kind) }
        if let lane = rule.lane, lane != context.lane { throw .wrongLane(kind, context.lane) }
        if let terms = context.terms {
            let needed = flags.contains(.compressed) ? rule.needs.union(.lz4) : rule.needs
            guard terms.features.isSuperset(of: needed) else { throw .notNegotiated(kind, needed) }
        }
        if let failure = fieldFailure { throw failure }
        let piece = context.terms?.limits.pieceByteCount ?? UInt32(WireLimits.pieceByteCountCeiling)
        if let failure = shapeFailure(piece: piece) { throw failure }
    }

    /// What is wrong with flags and fields, for a frame of this kind.
    private var fieldFailure: FrameError? {
        let rule = kind.rule
        guard flags.isSubset(of: rule.flags) else { return .reserved(kind, "flags") }
        guard !flags.isSuperset(of: [.compressed, .zeroes]) else { return .reserved(kind, "flags") }
        let fields = rule.fields
        if fields.contains(.stream) ? stream == 0 : stream != 0 { return .reserved(kind, "stream") }
        if !fields.contains(.position) && epoch != 0 { return .reserved(kind, "epoch") }
        if flags.contains(.copy) && epoch != 0 { return .reserved(kind, "epoch") }
        if !fields.contains(.position) && sequence != 0 { return .reserved(kind, "sequence") }
        if !fields.contains(.tag) && tag != 0 { return .reserved(kind, "tag") }
        if !fields.contains(.detail) && detail != 0 { return .reserved(kind, "detail") }
        if !fields.contains(.range) {
            if offset != 0 { return .reserved(kind, "offset") }
            if length != 0 { return .reserved(kind, "length") }
            return nil
        }
        guard length > 0 else { return .impossible(kind, "length") }
        // What the kernel counts in is signed.
        let (end, overflow) = offset.addingReportingOverflow(UInt64(length))
        guard !overflow && end <= UInt64(Int64.max) else { return .impossible(kind, "offset") }
        return nil
    }

    /// What is wrong with the payload's length.
    private func shapeFailure(piece: UInt32) -> FrameError? {
        let count = payloadByteCount
        let isEmptyUnsummed = count > 0 || payloadChecksum == 0
        guard isEmptyUnsummed else { return .reserved(kind, "payload checksum") }
        switch kind.rule.payload {
        case .none:
            if kind == .digestRequest {
                guard let asked = granuleCount else { return .impossible(kind, "granule") }
                guard asked * 8 <= UInt64(piece) else { return .impossible(kind, "length") }
            }
            return kind == .read && length > piece ? .impossible(kind, "length") : exactly(0)
        case .fixed(let byteCount): return exactly(UInt32(byteCount))
        case .data:
            guard length <= piece else { return .payloadTooLong(kind, length, piece) }
            return sized(UInt64(length), piece)
        case .digests:
            guard let granuleCount else { return .impossible(kind, "granule") }
            return sized(granuleCount * 8, piece)
        case .words:
            let most = UInt32(Goodbye.wordByteCountMaximum)
            return count <= most ? nil : .payloadTooLong(kind, count, most)
        case .message:
            let most = UInt32(WireLimits.messageByteCountMaximum)
            return count <= most ? nil : .payloadTooLong(kind, count, most)
        }
    }

    private func exactly(_ expected: UInt32) -> FrameError? {
        if payloadByteCount > expected { return .payloadTooLong(kind, payloadByteCount, expected) }
        return payloadByteCount == expected ? nil : .impossible(kind, "payload length")
    }

    /// Whether the payload is `plain` bytes long, or shorter as its flags say.
    private func sized(_ plain: UInt64, _ piece: UInt32) -> FrameError? {
        guard plain <= UInt64(piece) else {
            return .payloadTooLong(kind, UInt32(clamping: plain), piece)
        }
        if flags.contains(.zeroes) { return exactly(0) }
        guard flags.contains(.compressed) else { return exactly(UInt32(plain)) }
        if UInt64(payloadByteCount) >= plain { return .payloadTooLong(kind, payloadByteCount, UInt32(plain) &- 1) }
        return payloadByteCount > 0 ? nil : .impossible(kind, "payload length")
    }

    /// Granules of the range; `nil` when the detail is no granule.
    private var granuleCount: UInt64? {
        guard detail >= 512, detail.nonzeroBitCount == 1 else { return nil }
        return (UInt64(length) + UInt64(detail) - 1) / UInt64(detail)
    }

    /// How many bytes the payload is once it is expanded.
    package var plainByteCount: Int {
        switch kind.rule.payload {
        case .data: Int(length)
        case .digests: Int((granuleCount ?? 0) * 8)
        case .none, .fixed, .words, .message: Int(payloadByteCount)
        }
    }
}
