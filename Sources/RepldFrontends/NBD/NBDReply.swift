internal import RepldCore

/// Produces the messages of the server in transmission.
///
/// Each appends to memory of the caller, who has made sure that the constant of its length is free there; payload data
/// is the caller's to send behind a header.
package enum NBDReply {
    package static let simpleByteCount = 16
    package static let chunkHeaderByteCount = 20
    /// A chunk header and the offset that stands before the data.
    package static let dataHeaderByteCount = chunkHeaderByteCount + 8
    package static let holeByteCount = chunkHeaderByteCount + 12
    /// An error chunk with the longest of `words(for:)`.
    package static let errorByteCountMaximum = chunkHeaderByteCount + 6 + 64
    /// A BLOCK_STATUS chunk with `extentCount` extents.
    package static func blockStatusByteCount(extentCount: Int) -> Int { chunkHeaderByteCount + 4 + 8 * extentCount }

    /// A simple reply; `error` is `nil` for success.
    ///
    /// The data of a read follows it.
    @inlinable
    package static func appendSimple(cookie: UInt64, error: NBDErrorCode?, to output: inout OutputRawSpan) {
        output.appendBigEndian(NBDMagic.simpleReply)
        output.appendBigEndian(error?.rawValue ?? 0)
        output.appendBigEndian(cookie)
    }

    @inlinable
    static func appendChunkHeader(
        _ kind: NBDChunkKind,
        cookie: UInt64,
        byteCount: UInt32,
        isDone: Bool,
        to output: inout OutputRawSpan
    ) {
        output.appendBigEndian(NBDMagic.structuredReply)
        output.appendBigEndian(isDone ? NBDChunkFlags.done.rawValue : 0)
        output.appendBigEndian(kind.rawValue)
        output.appendBigEndian(cookie)
        output.appendBigEndian(byteCount)
    }

    /// The chunk that carries nothing: ends a reply, with success unless an error chunk went before.
    @inlinable
    package static func appendDone(cookie: UInt64, to output: inout OutputRawSpan) {
        appendChunkHeader(.none, cookie: cookie, byteCount: 0, isDone: true, to: &output)
    }

    /// The head of a chunk of data, `byteCount` bytes of the export from `offset`; they follow it.
    @inlinable
    package static func appendDataHeader(
        cookie: UInt64,
        offset: UInt64,
        byteCount: UInt32,
        isDone: Bool,
        to output: inout OutputRawSpan
    ) {
        appendChunkHeader(.offsetData, cookie: cookie, byteCount: 8 + byteCount, isDone: isDone, to: &output)
        output.appendBigEndian(offset)
    }

    /// A chunk that stands for `byteCount` zero bytes from `offset`.
    @inlinable
    package static func appendHole(
        cookie: UInt64,
        offset: UInt64,
        byteCount: UInt32,
        isDone: Bool,
        to output: inout OutputRawSpan
    ) {
        appendChunkHeader(.offsetHole, cookie: cookie, byteCount: 12, isDone: isDone, to: &output)
        output.appendBigEndian(offset)
        output.appendBigEndian(byteCount)
    }

    /// An error chunk with words for the client's user.
    package static func appendError(
        cookie: UInt64,
        error: NBDErrorCode,
        isDone: Bool,
        to output: inout OutputRawSpan
    ) {
        let words = words(for: error)
        let byteCount = UInt32(6 + words.utf8CodeUnitCount)
        appendChunkHeader(.error, cookie: cookie, byteCount: byteCount, isDone: isDone, to: &output)
        output.appendBigEndian(error.rawValue)
        output.appendBigEndian(UInt16(words.utf8CodeUnitCount))
        output.appendText(words)
    }

    /// What an error means, at most 64 bytes.
    package static func words(for error: NBDErrorCode) -> StaticString {
        switch error {
        case .notPermitted: "the export is read-only"
        case .inputOutput: "input/output error"
        case .outOfMemory: "the server is out of memory"
        case .invalidArgument: "the request is not valid for this export"
        case .noSpace: "no space left, or past the end of the export"
        case .overflow: "the request is too long"
        case .notSupported: "the export cannot do this"
        case .shuttingDown: "the server is shutting down"
        }
    }
}

/// Produces one BLOCK_STATUS chunk, of one metadata context, from runs that come one after the other.
///
/// Neighbours of equal state become one extent. The answer ends at the end of the request, at the largest number of
/// extents, or with the first extent if the client wants one only. It has at least one extent, so a client that asks
/// again from its end makes progress.
package struct NBDBlockStatus: Sendable, BitwiseCopyable {
    private let start: Int
    private let extentCountMaximum: Int
    private var remainingByteCount: UInt32
    private var extentCount = 0
    /// The extent that may still grow; not written yet.
    private var openByteCount: UInt32 = 0
    private var openState: UInt32 = 0

    /// Begins the chunk of `context` that answers `request`, of at most `extentCountMaximum` extents; there is room for
    /// them.
    ///
    /// A reply has a chunk for each context that the client selected; `isDone` is for the last.
    package init(
        answering request: NBDRequest,
        about context: NBDMetadataContexts = .allocation,
        isDone: Bool = true,
        extentCountMaximum: Int,
        output: inout OutputRawSpan
    ) {
        invariant(extentCountMaximum >= 1, "a status answer has at least one extent")
        start = output.byteCount
        self.extentCountMaximum = request.flags.contains(.requestOne) ? 1 : extentCountMaximum
        remainingByteCount = request.length
        // The length is filled in by `finish`.
        NBDReply.appendChunkHeader(.blockStatus, cookie: request.cookie, byteCount: 0, isDone: isDone, to: &output)
        output.appendBigEndian(context.id)
    }

    /// Adds the next run; what lies behind the request's end is cut off.
    ///
    /// False when no further run can be taken.
    package mutating func append(byteCount: UInt64, _ state: NBDAllocationState, to output: inout OutputRawSpan) -> Bool
    {
        append(byteCount: byteCount, state: state.rawValue, to: &output)
    }

    /// The same for a context that tells differences.
    package mutating func append(
        byteCount: UInt64,
        difference: NBDDifferenceState,
        to output: inout OutputRawSpan
    ) -> Bool {
        append(byteCount: byteCount, state: difference.rawValue, to: &output)
    }

    private mutating func append(byteCount: UInt64, state: UInt32, to output: inout OutputRawSpan) -> Bool {
        let taken = UInt32(min(byteCount, UInt64(remainingByteCount)))
        guard taken > 0 else { return remainingByteCount > 0 }
        if openByteCount > 0 && state != openState {
            guard extentCount + 1 < extentCountMaximum else {
                remainingByteCount = 0
                return false
            }
            writeOpenExtent(to: &output)
        }
        openState = state
        openByteCount += taken
        remainingByteCount -= taken
        return remainingByteCount > 0
    }

    /// Ends the chunk.
    package mutating func finish(output: inout OutputRawSpan) {
        invariant(openByteCount > 0, "a status answer says something of at least one run")
        writeOpenExtent(to: &output)
        let byteCount = UInt32(output.byteCount - start - NBDReply.chunkHeaderByteCount)
        output.replaceBigEndian(at: start + NBDReply.chunkHeaderByteCount - 4, with: byteCount)
    }

    private mutating func writeOpenExtent(to output: inout OutputRawSpan) {
        output.appendBigEndian(openByteCount)
        output.appendBigEndian(openState)
        extentCount += 1
        openByteCount = 0
    }
}
