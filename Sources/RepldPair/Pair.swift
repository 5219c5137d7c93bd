package import RepldCore
internal import RepldFormat

/// One pair of a volume: what its target has, what it lacks, and what is under way.
///
/// **Elements, roles, legs.** A pair has a first and a second element. One of them is the source, by its role
/// (`isSecondSource`), and one of them is the primary, which has the data that counts and serves hosts
/// (`isSecondPrimary`). Leg 0 of the volume is the primary, the pair's own leg the other element. The source is the
/// primary, except in Failedover and while a restore runs: then the pair is *misplaced*, and data flows, if it flows,
/// from the target back to the source. The machine reads leg 0 and writes the pair's leg in either case.
///
/// The maps answer "what may differ?" at every instant:
/// - `dirty`: granules that the two elements are not known to have in common. Set before the write that makes them differ is
///   issued; cleared only by the mover, for exactly what it copied, after a flush of what it wrote (rule 3).
/// - `targetChanged`: granules that hosts wrote on the target while it was theirs (Fractured, Split, Failedover); joined into
///   `dirty` before anything is copied.
///   In Synchronized, with `hasVerifyMarks`: granules in which a verify has found the two different.
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

    /// The operation under way.
    package internal(set) var operation: ReplicationOperation?
    /// An operation whose result holds, and whose record is not durable yet.
    var finishingOperation: ReplicationOperation?
    /// Roles are reversed: the second element is the source.
    package internal(set) var isSecondSource = false
    /// Hosts are served by the second element: it is leg 0.
    package internal(set) var isSecondPrimary = false
    /// The target is a usable image: equal to the source, or to what the source was when mirroring stopped.
    package internal(set) var isTargetConsistent = false
    /// The source has changes that the target never had.
    package internal(set) var isSourceAhead = false
    /// The source is half restored.
    package internal(set) var isSourceInconsistent = false
    /// Roles were reversed without a copy: the pair waits for Resume.
    var isResumeRequired = false
    /// Nothing that was meant to mirror or copy is in flight to the target: hosts may be let at it.
    var isTargetQuiet = true
    /// A restore or a failback copies and mirrors from the target to the source.
    var isFlowingBack = false

    package internal(set) var dirty: DirtyMap
    package internal(set) var targetChanged: DirtyMap
    /// `targetChanged` holds what a verify has found, and the pair is Synchronized all the same.
    var hasVerifyMarks = false
    var verify = PairVerify()
    var unflushed: DirtyMap
    var flushing: DirtyMap
    /// The flush whose success empties `flushing`.
    var coveringFlush: SlotID?
    /// Operations issued to the target and not completed, stuck ones included.
    var operationsInFlight = 0

    // The durable record.
    var recordSequence: UInt64 = 0
    var isRecordInFlight = false
    var recordStartedAt = Instant(nanoseconds: 0)
    /// The record in flight does not come back: nobody waits for it, as little as for one that has failed.
    var isRecordStuck = false
    var isRecordWanted = false
    var recordAttempts = 0
    /// The last record could not be written; it is tried again at every tick.
    var hasRecordFailed = false
    /// A record without "closed cleanly" is durable: the elements may be written.
    var isOpenRecorded = false
    /// The metadata area refuses records, and no open record is durable: writes must be refused.
    var isRecordImpossible = false
    var wantsCleanRecord = false
    /// The state that is to be recorded must not be forgotten by a crash.
    ///
    /// A start would take the wrong element for the newer one, or overwrite a target that was the hosts'. No write happens
    /// before it is durable, in both blocks.
    var isRecordCritical = false
    /// How often the present state is to be recorded once more.
    var recordCopiesOwed = 0

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
    /// The elements keep their places: the pair is about to be detached.
    var isPlaceHeld = false

    /// Makes a place for a pair, with maps of the given size (0 for a place that is not in use).
    init(volumeByteCount: UInt64, granuleByteCount: UInt64) {
        dirty = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        targetChanged = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        unflushed = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        flushing = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        let capacity = granuleByteCount == 0 || volumeByteCount == 0 ? 1 : Self.copiedExtentLimit
        copied = BoundedQueue(capacity: capacity, blank: Extent(offset: 0, length: 0))
    }

    /// Memory that the four maps of a pair take, near enough: a bit for each granule, and a little for finding them.
    package static func mapByteCount(volumeByteCount: UInt64, granuleByteCount: UInt64) -> UInt64 {
        4 * (volumeByteCount / granuleByteCount / 8 + 1)
    }

    /// Whether host writes go to the target now.
    var isMirroring: Bool {
        isInUse && (copyState == .unsynchronized || copyState == .synchronized || isFlowingBack) && !wantsDetach
    }

    /// Whether hosts are served by the target, which is not the source by its role.
    package var isMisplaced: Bool { isSecondPrimary != isSecondSource }

    /// Remembers that the primary was written and the other element was not.
    mutating func rememberWrite(_ extent: Extent) {
        if isMisplaced { targetChanged.mark(touching: extent) } else { dirty.mark(touching: extent) }
    }

    /// Source and target have changed their roles, and with that the meaning of what each changed alone.
    mutating func swapSides() {
        swap(&dirty, &targetChanged)
    }

    /// Nobody knows on which side a difference is: it is on both.
    mutating func shareChanges() {
        dirty.formUnion(targetChanged)
        targetChanged.formUnion(dirty)
    }

    /// Before anything is copied: what either side changed is what differs.
    mutating func joinChanges() {
        dirty.formUnion(targetChanged)
        targetChanged.clearAll()
        hasVerifyMarks = false
    }

    /// Whether a record is on its way, or has to be.
    var isRecordPending: Bool { isInUse && !isRecordStuck && (isRecordInFlight || isRecordWanted) }

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
        if let operation { return OperationTable.rule(of: operation).progress }
        switch copyState {
        case .unsynchronized: return comparesFirst ? .resyncing : .synchronizing
        case .synchronized, .failedover: return .completed
        case .suspended: return isResumeRequired ? .requiresResume : .dormant
        case .inactive: return .dormant
        case .initialized, .prepared: return .requiresActivate
        case .broken, .aborted: return .requiresResync
        case .restored: return .requiresResume
        default: return .notApplicable
        }
    }

    /// Why it stopped, in words; empty when there is nothing to say.
    package var reasonWords: String { reason?.words(isFlowingBack: isMisplaced) ?? "" }
}
