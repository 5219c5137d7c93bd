// The options that carry data: INFO and GO, and the metadata contexts.

/// Why an option is refused: the protocol's kind, and words for the client's user.
struct NBDOptionRefusal: Error {
    var kind: NBDReplyKind
    var words: StaticString

    init(_ kind: NBDReplyKind, _ words: StaticString) {
        self.kind = kind
        self.words = words
    }

    static var hasData: NBDOptionRefusal { NBDOptionRefusal(.errorInvalid, "this option carries no data") }
    static var malformed: NBDOptionRefusal {
        NBDOptionRefusal(.errorInvalid, "the lengths inside the option's data contradict each other")
    }
    static var tooBig: NBDOptionRefusal { NBDOptionRefusal(.errorTooBig, "the option's data is too long") }
    static var unknownExport: NBDOptionRefusal { NBDOptionRefusal(.errorUnknown, "there is no export of this name") }
    static var needsStructuredReplies: NBDOptionRefusal {
        NBDOptionRefusal(.errorInvalid, "metadata contexts need structured replies: negotiate those first")
    }
}

/// Reads the data of an option from front to back; whatever is missing is `malformed`.
private struct OptionReader: ~Escapable {
    private let bytes: RawSpan
    private var position = 0

    @_lifetime(copy bytes)
    init(_ bytes: RawSpan) { self.bytes = bytes }

    var remainingByteCount: Int { bytes.byteCount - position }

    mutating func next<Value: FixedWidthInteger & BitwiseCopyable>(
        _ type: Value.Type
    ) throws(NBDOptionRefusal) -> Value {
        guard remainingByteCount >= MemoryLayout<Value>.size else { throw .malformed }
        defer { position += MemoryLayout<Value>.size }
        return bytes.loadBigEndian(at: position, as: type)
    }

    /// The place in the option's data of a string with its length before it.
    mutating func nextString() throws(NBDOptionRefusal) -> Range<Int> {
        let byteCount = try next(UInt32.self)
        guard byteCount <= remainingByteCount else { throw .malformed }
        guard byteCount <= NBDLimit.stringByteCount else {
            throw NBDOptionRefusal(.errorTooBig, "a string of the protocol has at most 4096 bytes")
        }
        defer { position += Int(byteCount) }
        return position..<position + Int(byteCount)
    }
}

/// The contexts of the export at `index` that queries matched.
private struct FoundContexts {
    var contexts: NBDMetadataContexts
    var index: Int
}

extension NBDHandshake {
    /// Answers INFO or GO up to its final acknowledgement.
    ///
    /// The block sizes are always told, asked for or not: the export may enforce a minimum, and the protocol wants such
    /// servers to say so. A client that did not ask may still send what it likes and gets `invalidArgument` for it.
    func describe<Directory: NBDExportDirectory & ~Copyable>(
        _ option: NBDOption,
        _ data: RawSpan,
        exports: borrowing Directory,
        output: inout OutputRawSpan
    ) throws(NBDOptionRefusal) -> NBDExport {
        var reader = OptionReader(data)
        let name = try reader.nextString()
        let requestCount = Int(try reader.next(UInt16.self))
        guard reader.remainingByteCount == 2 * requestCount else { throw .malformed }
        guard requestCount <= NBDLimit.infoRequestCount else {
            throw NBDOptionRefusal(.errorTooBig, "more information requests than there can be kinds of information")
        }
        var wantsName = false
        var wantsDescription = false
        for _ in 0..<requestCount {
            switch NBDInfoKind(rawValue: try reader.next(UInt16.self)) {
            case .name: wantsName = true
            case .description: wantsDescription = true
            case .export, .blockSize, nil: break
            }
        }
        guard let index = exports.index(ofExport: data.extracting(name)) else { throw .unknownExport }
        let export = exports.export(at: index)
        export.checkInvariants()
        Self.appendInfoHeader(option, .export, byteCount: 10, to: &output)
        output.appendBigEndian(export.byteCount)
        output.appendBigEndian(session(for: export).transmissionFlags.rawValue)
        if wantsName { Self.appendInfo(option, .name, exports.exportName(at: index), to: &output) }
        if wantsDescription {
            let words = exports.exportDescription(at: index)
            if !words.isEmpty { Self.appendInfo(option, .description, words, to: &output) }
        }
        Self.appendInfoHeader(option, .blockSize, byteCount: 12, to: &output)
        output.appendBigEndian(export.minimumBlockByteCount)
        output.appendBigEndian(export.preferredBlockByteCount)
        output.appendBigEndian(export.maximumPayloadByteCount)
        Self.appendReplyHeader(option, .acknowledge, byteCount: 0, to: &output)
        return export
    }

    func listContexts<Directory: NBDExportDirectory & ~Copyable>(
        _ data: RawSpan,
        exports: borrowing Directory,
        output: inout OutputRawSpan
    ) throws(NBDOptionRefusal) {
        guard hasStructuredReplies else { throw .needsStructuredReplies }
        let found = try Self.contexts(queriedBy: data, exports: exports, isListing: true)
        Self.appendContexts(.listMetaContext, found, exports: exports, to: &output)
        Self.appendReplyHeader(.listMetaContext, .acknowledge, byteCount: 0, to: &output)
    }

    mutating func setContexts<Directory: NBDExportDirectory & ~Copyable>(
        _ data: RawSpan,
        exports: borrowing Directory,
        output: inout OutputRawSpan
    ) throws(NBDOptionRefusal) {
        // A selection that fails still replaces the one before.
        contexts = []
        guard hasStructuredReplies else { throw .needsStructuredReplies }
        let found = try Self.contexts(queriedBy: data, exports: exports, isListing: false)
        contexts = found.contexts
        contextsIdentity = exports.export(at: found.index).identity
        contextsPairs = exports.pairs(ofExport: found.index)
        Self.appendContexts(.setMetaContext, found, exports: exports, to: &output)
        Self.appendReplyHeader(.setMetaContext, .acknowledge, byteCount: 0, to: &output)
    }

    /// The contexts that the queries in `data` match.
    ///
    /// In a listing no query at all asks for everything. Queries of other namespaces, and unknown names in ours, match
    /// nothing.
    private static func contexts<Directory: NBDExportDirectory & ~Copyable>(
        queriedBy data: RawSpan,
        exports: borrowing Directory,
        isListing: Bool
    ) throws(NBDOptionRefusal) -> FoundContexts {
        var reader = OptionReader(data)
        let name = try reader.nextString()
        let queryCount = try reader.next(UInt32.self)
        guard queryCount <= NBDLimit.metaQueryCount else {
            throw NBDOptionRefusal(.errorTooBig, "more queries than this server takes")
        }
        let index = exports.index(ofExport: data.extracting(name))
        var matched: NBDMetadataContexts = []
        if let index, isListing, queryCount == 0 { matched = exports.contexts(ofExport: index) }
        for _ in 0..<queryCount {
            let query = data.extracting(try reader.nextString())
            guard query.hasColon else {
                throw NBDOptionRefusal(.errorInvalid, "a context query is a namespace, a colon and a name")
            }
            guard let index else { continue }
            matched.formUnion(exports.contexts(ofExport: index, named: query, isListing: isListing))
        }
        guard reader.remainingByteCount == 0 else { throw .malformed }
        guard let index else { throw .unknownExport }
        return FoundContexts(contexts: matched, index: index)
    }
}

// Answers to options. Each begins with the same 20 bytes.
extension NBDHandshake {
    static func appendReplyHeader(
        _ option: NBDOption,
        _ kind: NBDReplyKind,
        byteCount: Int,
        to output: inout OutputRawSpan
    ) {
        appendReplyHeader(number: option.rawValue, kind, byteCount: byteCount, to: &output)
    }

    private static func appendReplyHeader(
        number: UInt32,
        _ kind: NBDReplyKind,
        byteCount: Int,
        to output: inout OutputRawSpan
    ) {
        output.appendBigEndian(NBDMagic.optionReply)
        output.appendBigEndian(number)
        output.appendBigEndian(kind.rawValue)
        output.appendBigEndian(UInt32(byteCount))
    }

    static func appendRefusal(_ refusal: NBDOptionRefusal, of number: UInt32, to output: inout OutputRawSpan) {
        appendReplyHeader(number: number, refusal.kind, byteCount: refusal.words.utf8CodeUnitCount, to: &output)
        output.appendText(refusal.words)
    }

    private static func appendInfoHeader(
        _ option: NBDOption,
        _ kind: NBDInfoKind,
        byteCount: Int,
        to output: inout OutputRawSpan
    ) {
        appendReplyHeader(option, .info, byteCount: 2 + byteCount, to: &output)
        output.appendBigEndian(kind.rawValue)
    }

    private static func appendInfo(
        _ option: NBDOption,
        _ kind: NBDInfoKind,
        _ text: String,
        to output: inout OutputRawSpan
    ) {
        appendInfoHeader(option, kind, byteCount: text.utf8.count, to: &output)
        output.appendText(text)
    }

    /// One reply for each context, with the number that stands for it; that means nothing in a listing and is 0 there.
    fileprivate static func appendContexts<Directory: NBDExportDirectory & ~Copyable>(
        _ option: NBDOption,
        _ found: FoundContexts,
        exports: borrowing Directory,
        to output: inout OutputRawSpan
    ) {
        for index in 0..<NBDMetadataContexts.limit {
            let context = NBDMetadataContexts.context(at: index)
            guard found.contexts.contains(context) else { continue }
            let pair = context.place.map { exports.pairName(ofExport: found.index, place: $0) } ?? ""
            let name: StaticString =
                if context == .allocation {
                    NBDMetadataContexts.allocationName
                } else if context == .difference {
                    NBDMetadataContexts.differenceName
                } else {
                    NBDMetadataContexts.pairDifferencePrefix
                }
            let byteCount = name.utf8CodeUnitCount + pair.utf8.count
            appendReplyHeader(option, .metaContext, byteCount: 4 + byteCount, to: &output)
            output.appendBigEndian(option == .listMetaContext ? 0 : context.id)
            output.appendText(name)
            output.appendText(pair)
        }
    }
}

extension RawSpan {
    fileprivate var hasColon: Bool {
        for offset in 0..<byteCount where loadBigEndian(at: offset, as: UInt8.self) == UInt8(ascii: ":") { return true }
        return false
    }
}
