internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// A volume of this host that a peer writes: the other element of a pair whose source is there.
struct Replica: ~Copyable {
    var isInUse = false
    var pair = PairID(high: 0, low: 0)
    var name = ""
    var volume = 0
    var metadata: ElementID?
    var metadataOffset: UInt64 = 0
    var block = AlignedBlock(isInUse: false)
    /// The last record that the peer told of and that is on stable storage here.
    var record: PairRecord?
    /// The block of the area that the next one is written to: the blocks alternate, whatever the source's sequence does.
    var nextBlock = 0
    /// The record that is being written, its session, and what it is answered under.
    var writing: PairRecord?
    var writingSession: Int?
    var writingTag: UInt64 = 0
    /// How often the record has to be written until it counts as durable.
    ///
    /// Twice where it says something new of the image that is here.
    var copiesOwed = 1
    /// The session that has opened the pair, and the stream's number there.
    var session: Int?
    var stream: UInt32 = 0
    /// Requests of peers in flight, of whatever session, and those of them that write.
    var requestCount = 0
    var writeCount = 0
    /// The epoch that is being applied: all before it is on stable storage.
    ///
    /// 0 when nothing is known of it.
    var epoch: UInt64 = 0
    /// A flush ends the epoch.
    var isEndingEpoch = false
    /// Why the epoch is not all there: no later one is applied before the peer says that this is no image any more.
    var epochFailure: IOFailure?
    /// It is being made this host's own pair: the peer does not get it open any more.
    var isClaimed = false
    /// Keeps what the peer overwrites.
    var undo = ReplicaUndo()
    var removal: (@Sendable (Result<Void, EngineRefusal>) -> Void)?

    /// What is here is a usable image, as far as anybody has told.
    var isImage: Bool {
        guard let record, epochFailure == nil else { return false }
        return record.isTargetConsistent || record.copyState == CopyState.synchronized.rawValue
    }

    var isIdle: Bool { requestCount == 0 && writing == nil && !undo.isBusy }
}

/// One aligned block of metadata.
@safe
struct AlignedBlock: ~Copyable {
    let memory: UnsafeMutableRawBufferPointer

    init(isInUse: Bool) {
        let byteCount = isInUse ? PairRecord.blockByteCount : 0
        unsafe memory = .allocate(byteCount: byteCount, alignment: BufferPool.alignment)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { unsafe memory.deallocate() }
}

/// One request of a peer, from its frame to its answer.
struct PeerRequest: BitwiseCopyable {
    var kind: FrameKind
    var replica: Int
    /// The session that asked; its place may be another's when it ends.
    var session: Int
    var sessionNumber: UInt32
    var stream: UInt32
    var tag: UInt64
    var extent: Extent
    var granule: UInt32 = 0
    var isDurable = false
    /// It is of an epoch.
    var isOrdered = false
    var keepsAllocation = false
    var buffer = BufferID.none
    /// The volume's machine has it.
    var isSubmitted = false

    var isWrite: Bool { kind == .write || kind == .zero || kind == .discard }

    static var blank: PeerRequest {
        PeerRequest(
            kind: .flush,
            replica: 0,
            session: 0,
            sessionNumber: 0,
            stream: 0,
            tag: 0,
            extent: Extent(offset: 0, length: 0)
        )
    }
}

extension RequestOrigin {
    /// The client number of all peers; the request's is the index of its slot.
    static var peers: UInt32 { .max - 1 }
}
