internal import RepldCore
internal import RepldFrontends
internal import RepldPair

/// One request of an NBD client, from its header to its last reply.
///
/// Life: `taken → submitting (one piece after the other) → submitted → answered`, and released when its last reply has
/// been written into a send buffer, or dropped because the client is gone. A refused request has no pieces.
struct NBDPending: BitwiseCopyable {
    var connection: UInt16
    var command: NBDCommand
    var request: NBDRequest
    /// Bytes for which pieces have been made.
    var submittedByteCount: UInt32 = 0
    /// No more pieces will be made, and of a write the whole payload has been taken off the stream.
    var isSubmitted = false
    /// The first failure of a piece, or why the request was refused.
    var failure: NBDErrorCode?
    /// Pieces that exist: in flight, ended, or waiting to be sent.
    var pieceCount: Int32 = 0
    /// Of these, pieces of a simple read that have ended; they are sent when all have.
    var endedPieceCount: Int32 = 0
    /// The pieces of a simple read, in the order of their offsets.
    var firstPiece = NBDOutboxItem.none
    var lastPiece = NBDOutboxItem.none
    /// Behind it in the outbox of its connection.
    var next = NBDOutboxItem.none
}

/// One piece of a request: at most one buffer long, one `HostRequest`, or one allocation query.
struct NBDPiece: BitwiseCopyable {
    var pending: SlotID
    var offset: UInt64
    var length: UInt32
    var buffer = BufferID.none
    /// It has been answered; until then an element may hold its buffer.
    var hasEnded = false
    /// Of a query: the runs that were found.
    var runCount: UInt32 = 0
    /// Of a query: the place of the element that is asked.
    var place: UInt8 = 0
    /// The header of a simple reply goes before its data.
    var isReplyHead = false
    /// Behind it in the list of its request, or in the outbox of its connection.
    var next = NBDOutboxItem.none
}

/// What a connection has to send next: the data of a piece, or the status of a request.
///
/// Named by slot.
struct NBDOutboxItem: Hashable, BitwiseCopyable {
    private let rawValue: UInt32

    private static var pendingBit: UInt32 { 1 << 31 }

    static var none: NBDOutboxItem { NBDOutboxItem(rawValue: .max) }

    private init(rawValue: UInt32) { self.rawValue = rawValue }

    init(piece: SlotID) { rawValue = piece.index }
    init(pending: SlotID) { rawValue = pending.index | Self.pendingBit }

    var isPending: Bool { rawValue & Self.pendingBit != 0 }
    var index: Int { Int(rawValue & ~Self.pendingBit) }
}
