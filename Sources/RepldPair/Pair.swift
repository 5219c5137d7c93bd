package import RepldCore
internal import RepldFormat

/// One pair of a volume: what its target has, what it lacks, and what is under way.
///
/// The three maps answer "what may differ?" at every instant:
/// - `dirty`: granules that the target is not known to have. Set before the write that makes them differ is issued;
///   cleared only by the mover, for exactly what it copied, after a flush of the target (rule 3).
/// - `unflushed`: granules of mirrored writes that the target completed since its last flush began.
/// - `flushing`: those that the flush in flight covers.
/// When the pair stops mirroring, the latter two and every write still in flight are joined into `dirty`, because a
/// target that fails may have lost whatever it had not flushed.
package struct Pair: ~Copyable {
    /// The most operations that the mover of one pair has in flight.
    static var copyDepthLimit: Int { 16 }
    /// Copied extents that wait for one flush of the target before their bits are cleared.
    static var copiedExtentLimit: Int { 512 }

    var isInUse = false
    package internal(set) var id = PairID(high: 0, low: 0)
    package internal(set) var settings = PairSettings()
    package internal(set) var copyState = CopyState.initialized
    package internal(set) var reason: BreakReason?

    package internal(set) var dirty: DirtyMap
    var unflushed: DirtyMap
    var flushing: DirtyMap
    /// The flush whose success empties `flushing`.
    var coveringFlush: SlotID?
    /// Operations issued to the target and not completed, stuck ones included.
    var operationsInFlight = 0

    // The durable record.
    var recordSequence: UInt64 = 0
    var isRecordInFlight = false
    var isRecordWanted = false
    var recordAttempts = 0
    /// The last record could not be written; it is tried again at every tick.
    var hasRecordFailed = false
    /// A record without "closed cleanly" is durable: the elements may be written.
    var isOpenRecorded = false
    /// The metadata area refuses records, and no open record is durable: writes must be refused.
    var isRecordImpossible = false
    var wantsCleanRecord = false

    // The copy that runs or ran last.
    var cursor: UInt64 = 0
    var copiesInFlight = 0
    var isCopyFlushInFlight = false
    /// Nothing is known of what the target holds, so chunks are compared before they are written.
    var comparesFirst = false
    var copied: BoundedQueue<Extent>
    package internal(set) var copyTotalByteCount: UInt64 = 0
    package internal(set) var copyDoneByteCount: UInt64 = 0
    package internal(set) var copyWrittenByteCount: UInt64 = 0
    package internal(set) var copyZeroByteCount: UInt64 = 0
    package internal(set) var copyEqualByteCount: UInt64 = 0

    var wantsStart = false
    var wantsDetach = false

    /// Makes a place for a pair, with maps of the given size (0 for a place that is not in use).
    init(volumeByteCount: UInt64, granuleByteCount: UInt64) {
        dirty = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        unflushed = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        flushing = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        let capacity = granuleByteCount == 0 || volumeByteCount == 0 ? 1 : Self.copiedExtentLimit
        copied = BoundedQueue(capacity: capacity, blank: Extent(offset: 0, length: 0))
    }

    /// Memory that the three maps of a pair take, near enough: a bit for each granule, and a little for finding them.
    package static func mapByteCount(volumeByteCount: UInt64, granuleByteCount: UInt64) -> UInt64 {
        3 * (volumeByteCount / granuleByteCount / 8 + 1)
    }

    /// Whether host writes go to the target now.
    var isMirroring: Bool {
        isInUse && (copyState == .unsynchronized || copyState == .synchronized) && !wantsDetach
    }

    /// Whether a record is on its way, or has to be.
    var isRecordPending: Bool { isInUse && (isRecordInFlight || isRecordWanted) }

    /// Marks an extent that the mover may have copied already: what waits for its flush there is not to be cleared.
    mutating func markAgain(_ extent: Extent) {
        dirty.mark(touching: extent)
        for _ in 0..<copied.count {
            guard let done = copied.popFirst() else { return }
            if !done.overlaps(extent) { copied.append(done) }
        }
    }

    /// A flush begins that covers all that the target has completed so far.
    mutating func beginFlush(_ id: SlotID) {
        invariant(flushing.isClean, "a flush that is over left nothing to cover")
        swap(&flushing, &unflushed)
        coveringFlush = id
    }

    /// The flush failed: what it was to cover is not durable.
    mutating func takeBackFlushing() {
        unflushed.formUnion(flushing)
        flushing.clearAll()
    }

    /// The target is no longer written: all that it may not have made durable is dirty.
    mutating func rememberUnflushed() {
        dirty.formUnion(unflushed)
        dirty.formUnion(flushing)
        unflushed.clearAll()
    }

    /// What is under way, in the standard's words.
    package var progress: ProgressStatus {
        if wantsDetach { return .detaching }
        if wantsStart { return .pending }
        switch copyState {
        case .unsynchronized: return comparesFirst ? .resyncing : .synchronizing
        case .synchronized: return .completed
        case .suspended: return .dormant
        case .broken: return .requiresResync
        default: return .notApplicable
        }
    }
}
