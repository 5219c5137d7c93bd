internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// The target of a pair that a peer has: a table of what its machine wants of it.
///
/// A slot of the machine has at most one operation on one leg, so the slot's index names the request. A long one travels in
/// pieces, each a frame of its own with an answer of its own; it has ended when all are answered.
///
///     closed → opening → recording → up → closed
struct RemoteTarget: ~Copyable {
    enum Stage: UInt8, BitwiseCopyable {
        case closed
        /// The peer was asked to bind the stream.
        case opening
        /// The peer was sent the record.
        case recording
        case up
    }

    var isInUse = false
    var stage = Stage.closed
    var peer = 0
    var pair = PairID(high: 0, low: 0)
    var volume = 0
    /// The pair's place in the volume's machine.
    var index = 0
    /// Names the pair on the wire, in this session and in later ones.
    var stream: UInt32 = 0
    /// The record as it is on stable storage here; `nil` before the first.
    var record: PairRecord?
    /// The last one that was begun.
    var recordInFlight: PairRecord?
    /// The machine waits until the peer has the record as well.
    var isRecordAwaited = false
    /// The peer is told nothing before a record is durable that says what was decided when it was met.
    var isRecordHeldBack = false
    /// Counts the records that were sent: the answer to an older one means nothing.
    var recordTag: UInt64 = 0
    var recordSentAt = Instant(nanoseconds: 0)
    var requests: FixedArray<RemoteRequest>
    /// Requests of which not all pieces have been sent, by slot, in the order of coming; those of the backlog are numbered
    /// from `Backlog.firstNumber` on.
    var waiting: BoundedQueue<UInt32>
    /// Requests that have begun and not ended.
    var activeCount = 0
    /// Writes that hosts were answered for, or will be when the source has them.
    var backlog = Backlog(byteCount: 0)
    var isAsynchronous = false
    /// How old what the peer lacks may become, in nanoseconds; 0 for no limit.
    var recoveryPointNanoseconds: UInt64 = 0
    /// Requests that have ended, on their way to the machine.
    var ended: BoundedQueue<RemoteOutcome>
    /// Hosts are kept away until the peer has said that it has not taken the pair over.
    var isAwaited = false
    /// The peer said, when it was last asked, that it has taken the pair over.
    var isTakenOver = false
    /// The sequence of the record by which the peer may take it over.
    var handedOverSequence: UInt64 = 0
    /// Counts the openings that were asked for: the answer to an earlier one means nothing.
    var openTag: UInt64 = 0
    /// Why the peer does not open the pair; empty when it was never asked.
    var reason = ""

    init() {
        requests = FixedArray(repeating: RemoteRequest.blank, count: 0)
        waiting = BoundedQueue(capacity: 1, blank: 0)
        ended = BoundedQueue(capacity: 1, blank: .blank)
    }

    init(peer: Int, pair: PairID, volume: Int, slotCapacity: Int) {
        isInUse = true
        self.peer = peer
        self.pair = pair
        self.volume = volume
        requests = FixedArray(repeating: RemoteRequest.blank, count: slotCapacity)
        waiting = BoundedQueue(capacity: slotCapacity + Backlog.entryLimit, blank: 0)
        ended = BoundedQueue(capacity: slotCapacity, blank: .blank)
    }
}

extension RemoteTarget {
    /// A request that was begun, by its number; `nil` when none has that number now.
    func request(_ number: Int) -> RemoteRequest? {
        let isOfBacklog = number >= Backlog.firstNumber
        let place = isOfBacklog ? number - Backlog.firstNumber : number
        guard place < (isOfBacklog ? backlog.entries.count : requests.count) else { return nil }
        let request = isOfBacklog ? backlog.entries[place] : requests[place]
        return request.isActive ? request : nil
    }

    mutating func update(_ number: Int, _ change: (inout RemoteRequest) -> Void) {
        if number >= Backlog.firstNumber {
            backlog.update(number - Backlog.firstNumber, change)
        } else {
            change(&requests[number])
        }
    }
}

/// One operation on a remote element.
struct RemoteRequest: BitwiseCopyable {
    enum Kind: UInt8, BitwiseCopyable { case read, write, zero, keptZero, discard, flush, digest }

    var isActive = false
    var kind = Kind.flush
    var isDurable = false
    /// It fills the second buffer of its slot, or is compared with the first.
    var isComparison = false
    /// A digest was not that of what is here.
    var differs = false
    var slot = SlotID(index: 0, generation: 0)
    /// The place of the element in its volume.
    var place: UInt8 = 0
    var buffer = BufferID.none
    var extent = Extent(offset: 0, length: 0)
    /// Bytes of the extent for which frames have been sent.
    var sentByteCount: UInt64 = 0
    var isSent = false
    /// Pieces that were sent and not answered, as bits; they are of one length, but for the last.
    var openPieces: UInt64 = 0
    var failure: IOFailure?
    /// Of one in the backlog: where its data is, and when it came.
    var dataOffset = 0
    var acceptedAt = Instant(nanoseconds: 0)
    /// The epoch that it belongs to; 0 for none.
    var epoch: UInt64 = 0

    static var blank: RemoteRequest { RemoteRequest() }

    /// A request has at most so many pieces: the largest buffer in the smallest pieces that this side agrees to.
    static var pieceLimit: UInt64 { 64 }

    /// It does not write, and is about what all writes before it have come to.
    var isBehindWrites: Bool { kind == .flush || kind == .read || kind == .digest }

    /// Data that travels, and so counts against the window.
    var carriesData: Bool { kind == .read || kind == .write }
}

/// How an operation on a remote element has ended.
struct RemoteOutcome: BitwiseCopyable {
    var slot: SlotID
    var place: UInt8
    var failure: IOFailure?
    /// What the machine wants to know about the data, where that is known without it.
    var isMatch: Bool?

    static var blank: RemoteOutcome {
        RemoteOutcome(slot: SlotID(index: 0, generation: 0), place: 0, failure: nil, isMatch: nil)
    }
}

/// The number of an element that a peer has, among those of the platform.
extension ElementID {
    private static var remoteBit: UInt16 { 1 << 15 }

    init(remoteTarget: Int) { self.init(index: UInt16(remoteTarget) | Self.remoteBit) }

    /// Which remote target it is; `nil` for an element of this host.
    var remoteTarget: Int? { index & Self.remoteBit != 0 ? Int(index & ~Self.remoteBit) : nil }
}
