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
/// - `unflushed`: granules of mirrored writes that have ended on both elements since the last flush of both began.
/// - `flushing`: those that the flush in flight covers.
/// The first two are durable, as `MapStore` describes: they are changed by the methods here, which note the pages.
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
    /// An operator has said, by force, that this pair copies what another one has left half restored.
    var takesMixture = false
    /// Roles were reversed without a copy: the pair waits for Resume.
    var isResumeRequired = false
    /// Nothing that was meant to mirror or copy is in flight to the target: hosts may be let at it.
    var isTargetQuiet = true
    /// A restore or a failback copies and mirrors from the target to the source.
    var isFlowingBack = false
    /// A restore over a link, which leaves hosts with the source.
    package internal(set) var linkRestore = LinkRestore.none

    package private(set) var dirty: DirtyMap
    package private(set) var targetChanged: DirtyMap
    var store: MapStore
    var undo: PairUndo
    /// The peer that has the target keeps there what is overwritten.
    var canPeerKeep = false
    /// The first record with the undo, until the peer has it: as long as it has not, nothing is overwritten.
    var untoldUndoSequence: UInt64?
    /// `targetChanged` holds what a verify has found, and the pair is Synchronized all the same.
    var hasVerifyMarks = false
    var verify = PairVerify()
    var unflushed: DirtyMap
    var flushing: DirtyMap
    /// Operations issued to the target and not completed, stuck ones included.
    var operationsInFlight = 0

    /// References that the preferred one of the waiting writes has on its extents already, the first ones.
    var preferredKeyCount = 0

    // The durable record.
    var recordSequence: UInt64 = 0
    var lineage = Lineage()
    var isRecordInFlight = false
    /// The record that was begun last, which is the one in flight while there is one.
    var recordInFlight: PairRecord?
    /// The trust in the bitmaps that the record in flight, or the last one, states.
    var recordTrust = MapTrust.none
    /// The count of changes of the serving element that the last record was begun with.
    var recordServingEpoch: UInt32 = 0
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
    /// How fast the mover goes.
    var pace = CopyPace()
    /// The mover waits until the engine says whether another pair comes first.
    var awaitsOrder = false
    /// The pair of a smaller order number that comes first.
    var waitsFor: PairID?
    package internal(set) var copyTotalByteCount: UInt64 = 0
    package internal(set) var copyDoneByteCount: UInt64 = 0
    package internal(set) var copyWrittenByteCount: UInt64 = 0
    package internal(set) var copyZeroByteCount: UInt64 = 0
    package internal(set) var copyEqualByteCount: UInt64 = 0

    /// How often the pair has moved to the daemon of its other element.
    package internal(set) var term: UInt32 = 0
    /// The target is behind a peer, which may be out of reach.
    package internal(set) var isRemote = false
    /// Operations may be sent to the target: it is here, or its peer is.
    package internal(set) var isReachable = true
    /// Hosts are answered when the source has a write; the target gets it later, in the order of writing.
    package internal(set) var isAsynchronous = false
    /// So much is on its way to the target that a copy rather remembers what hosts write than sends it.
    var isBacklogLong = false
    /// When the oldest write came that is on its way to the target and that hosts were answered for; `nil` when none is.
    ///
    /// Counted in `operationsInFlight`.
    var backlogSince: Instant?
    /// It is Synchronized, and no verify has found anything; what one has found is joined to `dirty` a little before the pair
    /// leaves Synchronized, and counts until then.
    var isInStep = false
    /// When the pair was last in step, while it is not; `nil` where nobody knows.
    var inStepAt: Instant?

    /// It is being brought to a point at which the peer can take it over.
    var isSettling = false
    /// It has come to that point, and the record that says so is on its way.
    var isSettled = false
    /// All that is dirty stands for what the peer has not told yet, and what this side has changed is in the other map.
    var isPlaceholder = false
    /// A failback to a peer has been announced to have nothing left to copy.
    var hasCaughtUp = false

    var wantsStart = false
    var wantsDetach = false
    /// The elements keep their places: the pair is about to be detached.
    var isPlaceHeld = false

    /// Makes a place for a pair, with maps of the given size (0 for a place that is not in use).
    init(volumeByteCount: UInt64, settings: PairSettings, hasUndo: Bool = false) {
        let granuleByteCount = UInt64(settings.granuleByteCount)
        self.settings = settings
        store = MapStore(volumeByteCount: volumeByteCount, settings: settings)
        undo = hasUndo ? PairUndo(volumeByteCount: volumeByteCount, settings: settings) : PairUndo()
        dirty = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        targetChanged = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        unflushed = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        flushing = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        let capacity = volumeByteCount == 0 ? 1 : Self.copiedExtentLimit
        copied = BoundedQueue(capacity: capacity, blank: Extent(offset: 0, length: 0))
    }

    /// Memory that the maps of a pair take, near enough: a bit for each granule, and a little for finding them.
    ///
    /// What differs on either side, what is not flushed, what is being flushed, and what the undo area has.
    package static func mapByteCount(volumeByteCount: UInt64, granuleByteCount: UInt64) -> UInt64 {
        5 * (volumeByteCount / granuleByteCount / 8 + 1)
    }

    var hasBacklog: Bool { backlogSince != nil }

    /// Whether host writes go to the target now.
    var isMirroring: Bool {
        isInUse && (copyState == .unsynchronized || copyState == .synchronized || isFlowingBack) && !wantsDetach
    }

    /// Whether hosts are served by the target, which is not the source by its role.
    package var isMisplaced: Bool { isSecondPrimary != isSecondSource }

    /// Remembers that the primary was written and the other element was not.
    mutating func rememberWrite(_ extent: Extent) {
        if isMisplaced { markTargetChanged(extent) } else { markDirty(extent) }
    }

    /// Whether a record is on its way, or has to be.
    var isRecordPending: Bool { isInUse && !isRecordStuck && (isRecordInFlight || isRecordWanted) }

    /// Marks an extent that the mover may have copied already: what waits for its flush there is not to be cleared.
    mutating func markAgain(_ extent: Extent) {
        markDirty(extent)
        if Mutation.isOn(.clearsMarkedAgain) { return }
        for _ in 0..<copied.count {
            guard let done = copied.popFirst() else { return }
            if !done.overlaps(extent) { copied.append(done) }
        }
    }

    /// A flush of both elements begins: it covers all that has ended on both so far.
    mutating func beginFullFlush(_ id: SlotID) {
        invariant(flushing.isClean, "a flush that is over left nothing to cover")
        swap(&flushing, &unflushed)
        store.fullFlush = id
        store.fullFlushEpoch = store.writeEpoch
        store.writeEpoch += 1
    }

    /// The flush has ended on both elements.
    mutating func endFullFlush(isDurable: Bool) {
        guard isDurable else { return forgetFullFlush() }
        store.fullFlush = nil
        store.durableEpoch = store.fullFlushEpoch
        flushing.clearAll()
    }

    /// What a flush was to cover is not durable: it has failed, or is not waited for.
    mutating func forgetFullFlush() {
        store.fullFlush = nil
        unflushed.formUnion(flushing)
        flushing.clearAll()
    }

    /// The target is no longer written: all that it may not have made durable is dirty.
    mutating func rememberUnflushed() {
        Self.noteStalePages(of: unflushed, in: &store)
        Self.noteStalePages(of: flushing, in: &store)
        if !Mutation.isOn(.forgetsUnflushed) {
            dirty.formUnion(unflushed)
            dirty.formUnion(flushing)
        }
        unflushed.clearAll()
        // What leaves the log now needs its bits, and no flush.
        store.endEviction(isDurable: false)
    }

    /// A copy is under way and rests, because the operator says so or another one comes first.
    private var isHeldUp: Bool {
        (copyState == .unsynchronized || isFlowingBack || linkRestore == .running)
            && (settings.copy.isPaused || waitsFor != nil)
    }

    /// What is under way, in the standard's words.
    package var progress: ProgressStatus {
        if wantsDetach { return .detaching }
        if wantsStart || isHeldUp { return .pending }
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
    package var reasonWords: String { reason?.words(isFlowingBack: isMisplaced || linkRestore != .none) ?? "" }
}

/// Changes of the two durable maps, each with the pages that it concerns.
///
/// What is marked bit by bit lies in extents of the activity log, which a crash marks anyway. What changes a map as a whole
/// lowers the trust in the pages; the caller asks for a record, which goes before them.
extension Pair {
    mutating func markDirty(_ extent: Extent) {
        if dirty.mark(touching: extent) { noteStalePages(touching: extent, side: 0) }
    }

    mutating func markTargetChanged(_ extent: Extent) {
        if targetChanged.mark(touching: extent) { noteStalePages(touching: extent, side: 1) }
    }

    /// The mover has made the extent equal, durably on both elements.
    mutating func clearDirty(_ extent: Extent) {
        dirty.clear(inside: extent)
        noteStalePages(touching: extent, side: 0)
    }

    /// The mover has brought the extent from the target, durably on the source.
    mutating func clearLacking(_ extent: Extent) {
        targetChanged.clear(inside: extent)
        unflushed.mark(touching: extent)
        noteStalePages(touching: extent, side: 1)
    }

    /// Nothing is known to be equal.
    mutating func markAllDirty() {
        dirty.markAll()
        distrustMaps()
    }

    /// The volume has more bytes: nothing is known to be equal in the new ones.
    ///
    /// What is known of the others stays, here and for a start: records have the former size until the pages say something of the
    /// new bytes. Where nothing on disk is relied on, nothing can be kept.
    mutating func grow(to byteCount: UInt64) {
        let former = dirty.volumeByteCount
        let formerDirtyByteCount = dirty.dirtyByteCount
        dirty.grow(to: byteCount)
        targetChanged.grow(to: byteCount)
        unflushed.grow(to: byteCount)
        flushing.grow(to: byteCount)
        undo.grow(to: byteCount)
        store.grow(volumeByteCount: byteCount, granuleByteCount: dirty.granuleByteCount)
        remember(growthFrom: former)
        // A copy that is under way has more to do.
        copyTotalByteCount += dirty.dirtyByteCount - formerDirtyByteCount
    }

    /// What is behind the former end may differ, and the pages on disk do not say so.
    mutating func remember(growthFrom former: UInt64) {
        let byteCount = dirty.volumeByteCount
        markDirty(Extent(offset: former, length: byteCount - former))
        if store.trust == .none {
            distrustMaps()
        } else {
            store.uncover(behind: former, granuleByteCount: dirty.granuleByteCount)
        }
    }

    /// A record that is begun now has the volume's size.
    var takesWholeRecords: Bool {
        store.recordableByteCount(of: dirty.volumeByteCount) == dirty.volumeByteCount
    }

    /// Whether the last record that was begun could have the volume's size, or none can be written.
    var isGrowthRecorded: Bool {
        store.coveredByteCount == nil || store.trust == .none || isRecordStuck || hasRecordFailed
    }

    /// What was saved is about to be written back, and differs from then on.
    mutating func rememberSaved() {
        dirty.formUnion(undo.saved)
        distrustMaps()
    }

    /// Source and target have changed their roles, and with that the meaning of what each changed alone.
    mutating func swapSides() {
        isPlaceholder = false
        owePages()
        swap(&dirty, &targetChanged)
    }

    /// Nobody knows on which side a difference is: it is on both.
    mutating func shareChanges() {
        isPlaceholder = false
        owePages()
        dirty.formUnion(targetChanged)
        targetChanged.formUnion(dirty)
    }

    /// Before anything is copied: what either side changed is what differs.
    mutating func joinChanges() {
        hasVerifyMarks = false
        isPlaceholder = false
        guard !targetChanged.isClean else { return }
        owePages()
        dirty.formUnion(targetChanged)
        targetChanged.clearAll()
    }

    /// A restore over a link begins: whatever may differ, the target's data counts there.
    mutating func giveToTarget() {
        hasVerifyMarks = false
        isPlaceholder = false
        owePages()
        targetChanged.formUnion(dirty)
        dirty.clearAll()
    }

    /// The peer is about to say what differs, of which nothing was known.
    mutating func forgetDirty() {
        dirty.clearAll()
        distrustMaps()
    }

    /// Everything is dirty, and no start believes otherwise.
    var isAllDirtyForGood: Bool {
        dirty.dirtyGranuleCount == dirty.granuleCount && store.trust == .none && store.durableTrust == .none
    }

    /// Extents that the activity log does not have are about to be marked.
    mutating func distrustMaps() {
        store.trust = .none
        store.oweAll()
    }

    /// The maps change sides: until all pages that have bits are written again, only both together can be relied on.
    private mutating func owePages() {
        guard !dirty.isClean || !targetChanged.isClean else { return }
        if store.trust != .none { store.trust = .union }
        var granule: UInt64 = 0
        while let found = Self.earliest(dirty.nextDirty(from: granule), targetChanged.nextDirty(from: granule)) {
            let page = found / MetadataLayout.granulesPerPage
            store.owe(2 * page)
            store.owe(2 * page + 1)
            if store.trust == .union { store.join(2 * page) }
            granule = (page + 1) * MetadataLayout.granulesPerPage
        }
    }

    private static func earliest(_ left: UInt64?, _ right: UInt64?) -> UInt64? {
        guard let left else { return right }
        guard let right else { return left }
        return min(left, right)
    }

    private mutating func noteStalePages(touching extent: Extent, side: UInt64) {
        let range = dirty.granules(touching: extent)
        guard !range.isEmpty else { return }
        let last = (range.upperBound - 1) / MetadataLayout.granulesPerPage
        for page in range.lowerBound / MetadataLayout.granulesPerPage...last { store.makeStale(2 * page + side) }
    }

    private static func noteStalePages(of map: borrowing DirtyMap, in store: inout MapStore) {
        var granule: UInt64 = 0
        while let found = map.nextDirty(from: granule) {
            let page = found / MetadataLayout.granulesPerPage
            store.makeStale(2 * page)
            granule = (page + 1) * MetadataLayout.granulesPerPage
        }
    }

    // MARK: - Recovery

    /// Takes up what the metadata area says: bits, the active extents, and how far both can be relied on.
    mutating func restore(_ maps: RecoveredMaps, from record: PairRecord) {
        store.generation = record.logGeneration
        store.durableTrust = record.mapTrust
        store.provenTrust = record.mapTrust
        guard maps.trust != .none, record.extentShift == store.extentShift else {
            store.beginLog(after: record.logGeneration)
            return markAllDirty()
        }
        store.trust = maps.trust
        for (index, bits) in maps.dirty.enumerated() where index < dirty.wordCount && bits != 0 {
            dirty.mark(word: index, bits)
        }
        for (index, bits) in maps.targetChanged.enumerated() where index < targetChanged.wordCount && bits != 0 {
            targetChanged.mark(word: index, bits)
        }
        if maps.trust == .union {
            store.oweAll()
            store.joined.markAll()
            shareChanges()
        }
        if maps.damagedSectorCount > 0 { store.stale.markAll() }
        // A closed log holds nothing: its generation is over.
        guard !record.isClosedCleanly else { return store.generation += 1 }
        store.log.resume(after: maps.logSequence)
        for active in maps.active {
            store.log.restore(key: active.key, inSlot: active.slot)
            // The target has had no hosts since the restore began, and what they wrote before is in the bitmaps.
            let isSettled = record.isRestoringOverLink && maps.trust == .exact
            if !isSettled || active.key & ActivityLog.targetSide == 0 { markActive(active.key) }
        }
    }

    /// An extent was active at a crash: writes of it may have reached either element, or neither.
    private mutating func markActive(_ key: UInt32) {
        if Mutation.isOn(.forgetsActive) { return }
        let start = UInt64(key & ~ActivityLog.targetSide) << UInt64(store.extentShift)
        let end = min(start + 1 << UInt64(store.extentShift), dirty.volumeByteCount)
        let extent = Extent(offset: start, length: end - start)
        let isTargetSide = key & ActivityLog.targetSide != 0
        if !isTargetSide { markDirty(extent) }
        if isTargetSide || isMisplaced { markTargetChanged(extent) }
    }
}
