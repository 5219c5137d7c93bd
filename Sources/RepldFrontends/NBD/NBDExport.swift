internal import RepldCore

/// One volume as NBD clients see it.
package struct NBDExport: Hashable, Sendable, BitwiseCopyable {
    /// Stands for the same volume as long as it is served; names and places in the directory may change hands.
    package var identity: UInt64
    /// Size in bytes, a multiple of `minimumBlockByteCount`.
    package var byteCount: UInt64
    /// Offsets and lengths are multiples of this: a power of two from 1 to 64 KiB.
    package var minimumBlockByteCount: UInt32
    /// From here on requests are efficient: a power of two, at least 512 and at least the minimum.
    package var preferredBlockByteCount: UInt32
    /// Largest payload of READ and WRITE in bytes, at most `NBDLimit.payloadByteCount`.
    package var maximumPayloadByteCount: UInt32
    /// What the volume can do, without the bits that the handshake adds (`hasFlags`, `sendDoNotFragment`).
    package var flags: NBDTransmissionFlags

    package init(
        identity: UInt64,
        byteCount: UInt64,
        minimumBlockByteCount: UInt32,
        preferredBlockByteCount: UInt32,
        maximumPayloadByteCount: UInt32 = NBDLimit.payloadByteCount,
        flags: NBDTransmissionFlags
    ) {
        self.identity = identity
        self.byteCount = byteCount
        self.minimumBlockByteCount = minimumBlockByteCount
        self.preferredBlockByteCount = preferredBlockByteCount
        self.maximumPayloadByteCount = maximumPayloadByteCount
        self.flags = flags
    }

    /// Checks what the protocol demands of these values (section "Size constraints").
    func checkInvariants() {
        invariant(
            minimumBlockByteCount.nonzeroBitCount == 1 && minimumBlockByteCount <= 1 << 16,
            "the minimum block is a power of two up to 64 KiB"
        )
        invariant(
            preferredBlockByteCount.nonzeroBitCount == 1
                && preferredBlockByteCount >= max(minimumBlockByteCount, 512),
            "the preferred block is a power of two, at least 512 and at least the minimum"
        )
        invariant(
            maximumPayloadByteCount >= preferredBlockByteCount
                && maximumPayloadByteCount <= NBDLimit.payloadByteCount,
            "the maximum payload lies between the preferred block and the limit"
        )
        invariant(byteCount % UInt64(minimumBlockByteCount) == 0, "an export ends on a block")
        invariant(byteCount <= UInt64(Int64.max), "an export's size is a file offset")
        invariant(
            flags.isDisjoint(with: [.hasFlags, .sendDoNotFragment]),
            "the handshake adds the bits that depend on it"
        )
        invariant(
            flags.contains(.sendWriteZeroes) || !flags.contains(.sendFastZero),
            "fast zeroing is a way of zeroing"
        )
    }
}

/// Where the handshake finds exports.
///
/// The engine's volume table is one.
package protocol NBDExportDirectory: ~Copyable {
    /// How many exports there are now.
    var exportCount: Int { get }
    /// The export at `index`, in `0..<exportCount`.
    func export(at index: Int) -> NBDExport
    /// The name of the export at `index`: at most `NBDLimit.stringByteCount` bytes of UTF-8, not empty, without NUL.
    func exportName(at index: Int) -> String
    /// Words about the export for people; empty when there are none, at most `NBDLimit.stringByteCount` bytes.
    func exportDescription(at index: Int) -> String
    /// The pairs whose differences clients of the export can ask for.
    func pairs(ofExport index: Int) -> NBDPairSet
    /// The name of the pair at a place of `pairs(ofExport:)`, without NUL.
    func pairName(ofExport index: Int, place: Int) -> String
}

extension NBDExportDirectory where Self: ~Copyable {
    package func exportDescription(at index: Int) -> String { "" }
    package func pairs(ofExport index: Int) -> NBDPairSet { NBDPairSet() }
    package func pairName(ofExport index: Int, place: Int) -> String { "" }

    /// The place of the export that a client means by `name`; `nil` when there is none.
    ///
    /// The empty name means the default export, which exists while there is exactly one export.
    func index(ofExport name: borrowing RawSpan) -> Int? {
        if name.byteCount == 0 { return exportCount == 1 ? 0 : nil }
        for index in 0..<exportCount where name.holds(exportName(at: index)) { return index }
        return nil
    }
}

extension RawSpan {
    /// Whether these bytes are exactly the UTF-8 of `text`.
    func holds(_ text: String) -> Bool {
        let utf8 = text.utf8
        guard utf8.count == byteCount else { return false }
        var offset = 0
        for byte in utf8 {
            guard loadBigEndian(at: offset, as: UInt8.self) == byte else { return false }
            offset += 1
        }
        return true
    }

    /// Whether these bytes begin with, or with `isWhole` are exactly, the UTF-8 of `text`.
    func holds(_ text: StaticString, isWhole: Bool) -> Bool {
        let count = text.utf8CodeUnitCount
        guard isWhole ? count == byteCount : count <= byteCount else { return false }
        return text.withUTF8Buffer { utf8 in
            for offset in 0..<count {
                guard unsafe utf8[offset] == loadBigEndian(at: offset, as: UInt8.self) else { return false }
            }
            return true
        }
    }
}

/// What the handshake agreed on for one connection.
package struct NBDSession: Hashable, Sendable, BitwiseCopyable {
    package var export: NBDExport
    package var hasStructuredReplies: Bool
    /// The contexts that BLOCK_STATUS reports; not empty only with structured replies.
    package var contexts: NBDMetadataContexts
    /// The pairs that the export had when the client selected its contexts.
    package var pairs: NBDPairSet

    package init(
        export: NBDExport,
        hasStructuredReplies: Bool,
        contexts: NBDMetadataContexts,
        pairs: NBDPairSet = NBDPairSet()
    ) {
        self.export = export
        self.hasStructuredReplies = hasStructuredReplies
        self.contexts = contexts
        self.pairs = pairs
    }

    /// The flags that the client was told: the export's and those that depend on the negotiation.
    package var transmissionFlags: NBDTransmissionFlags {
        hasStructuredReplies ? export.flags.union([.hasFlags, .sendDoNotFragment]) : export.flags.union(.hasFlags)
    }
}

/// Why the server ends a connection.
///
/// All but the first two say that the client broke the protocol.
package enum NBDCloseReason: UInt8, Error, Hashable, Sendable, BitwiseCopyable, CaseIterable {
    /// The client said goodbye, in either phase.
    case requestedByClient
    /// EXPORT_NAME named no export, and that option has no error reply.
    case unknownExport
    case unknownClientFlags
    case badOptionMagic
    /// A client that did not take up fixed newstyle may send EXPORT_NAME only.
    case optionNeedsFixedNewstyle
    case exportNameTooLong
    case optionDataTooLong
    case tooManyOptions
    case badRequestMagic
    case writePayloadTooLong

    /// Words for an event or a log line.
    package var words: String {
        switch self {
        case .requestedByClient: "the client disconnected"
        case .unknownExport: "the client asked for an export that does not exist"
        case .unknownClientFlags: "the client set handshake flags that the server did not offer"
        case .badOptionMagic: "an option did not begin with IHAVEOPT"
        case .optionNeedsFixedNewstyle: "the client sent an option without having accepted fixed newstyle"
        case .exportNameTooLong: "an export name was longer than \(NBDLimit.stringByteCount) bytes"
        case .optionDataTooLong: "an option announced more than \(NBDLimit.skippedOptionByteCount) bytes of data"
        case .tooManyOptions: "the client sent more than \(NBDLimit.optionCount) options"
        case .badRequestMagic: "a request did not begin with the request magic"
        case .writePayloadTooLong:
            "a write announced more than \(NBDLimit.skippedPayloadByteCount) bytes of payload"
        }
    }
}
