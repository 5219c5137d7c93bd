/// What a connection's frames are read against.
package struct WireContext: Hashable, Sendable, BitwiseCopyable {
    package var lane: Lane
    /// What was agreed on; `nil` until both sides have greeted.
    package var terms: WireTerms?

    package init(lane: Lane, terms: WireTerms? = nil) {
        self.lane = lane
        self.terms = terms
    }

    var version: UInt8 { terms?.version ?? FrameHeader.greetingVersion }
}

/// Finds frames in the bytes of one connection: first a header, then its payload.
///
/// It holds no bytes. The driver keeps what it received and not yet dropped in a buffer of
/// `WireLimits.frameByteCountMaximum` bytes, which no frame exceeds, and shows it from its front. A header is checked once,
/// as soon as it is there, so that nobody waits for a payload that would be refused.
///
/// A driver that receives payloads in place (header into a small buffer, payload where it belongs) uses
/// `FrameHeader.parse` and `FrameHeader.check(payload:)` itself.
package struct FrameReader: Sendable {
    package enum Progress: Hashable, Sendable, BitwiseCopyable {
        /// So many bytes are missing before anything more can be said.
        case needs(Int)
        /// A whole frame is at the front: `frameByteCount` bytes, to be dropped before the next call.
        case frame(FrameHeader)
    }

    private var context: WireContext
    /// The header at the front, once it was checked, while its payload is awaited.
    private var header: FrameHeader?
    private var failure: FrameError?

    package init(context: WireContext) { self.context = context }

    /// Begins to read frames under what was agreed on.
    package mutating func agree(on terms: WireTerms) { context.terms = terms }

    /// Looks at what is at the front of the received bytes.
    ///
    /// After an error it always throws the same one: the connection is to be closed.
    package mutating func advance(_ received: borrowing RawSpan) throws(FrameError) -> Progress {
        if let failure { throw failure }
        do throws(FrameError) {
            return try read(received)
        } catch {
            failure = error
            throw error
        }
    }

    private mutating func read(_ received: borrowing RawSpan) throws(FrameError) -> Progress {
        let frame: FrameHeader
        if let header {
            frame = header
        } else {
            let missing = FrameHeader.byteCount - received.byteCount
            guard missing <= 0 else { return .needs(missing) }
            frame = try FrameHeader.parse(received, context)
        }
        header = frame
        let missing = frame.frameByteCount - received.byteCount
        guard missing <= 0 else { return .needs(missing) }
        try frame.check(payload: received.extracting(FrameHeader.byteCount..<frame.frameByteCount))
        header = nil
        return .frame(frame)
    }
}
