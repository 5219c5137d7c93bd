internal import RepldCore
internal import RepldFormat

/// What is durable of a pair's maps, and what is on its way there.
///
/// **What must hold** (rule 2): whatever a crash may leave different lies in a granule whose bit is set in a durable bitmap page,
/// or in an extent that a durable record of the activity log names, or behind the size that the durable record of the pair
/// has, or that record says that the bitmaps are not to be relied on (`MapTrust`).
/// - A write is issued when its extents are active in the log (`ActivityLog`).
/// - An extent leaves the log when no write of it is under way and what it has is durable: where writes are mirrored, a flush of
///   *both* elements that began after its last write ended has succeeded; and the pages that its bits have changed are written.
/// - The mover clears bits after a flush of both elements. A page with cleared bits is written when the sweep comes by.
/// - What changes a whole map at once (everything is dirty; the sides are joined or changed) lowers `trust` first. No page is
///   written before a record with that trust is durable; when all pages that it concerns are written, trust goes up again.
///
/// While the two sides count only together (`MapTrust.union`), bits move from one map to the other, and a page of one must not
/// lose what the page of the other has not got yet: so the first page of each two is written with the bits of both, before
/// either is written as it is (`joined`). And where they moved from the first to the second, the first is not written as it is
/// before the second is durable.
///
/// Pages are written four at a time, those that an eviction waits for first. The others (stale ones) are written in sweeps, one
/// a second at most: so a copy that is interrupted goes on about where it was.
///
/// If the metadata fails, writes to active extents go on, and those to others are refused after a few attempts, or when the
/// metadata has not answered for the pair's time limit: going on would break the rule.
struct MapStore: ~Copyable {
    /// Page writes in flight.
    static var pageWriteLimit: Int { 4 }
    /// Records of the log that may fail in a row before writes that need one are refused.
    static var logAttemptLimit: Int { 3 }

    struct PageWrite: BitwiseCopyable {
        var number: UInt64 = 0
        var isInUse = false
        /// An eviction waits for it.
        var isNeeded = false
        /// It has the bits of both sides.
        var isJoined = false
        /// Trust was lowered since, or the volume has grown: what was written is not what is owed.
        var isOutdated = false
        var startedAt = Instant(nanoseconds: 0)
    }

    var log: ActivityLog
    var generation: UInt32 = 0
    let extentShift: UInt8
    let logCapacity: Int

    /// How much the pages deserve to be relied on, and what the last durable record says of it.
    var trust = MapTrust.none
    var durableTrust = MapTrust.none
    /// What the last record that is known to be durable says, at most; `durableTrust` is what one may say.
    var provenTrust = MapTrust.none
    /// Pages (`MetadataLayout.pageOffset`) that are not on disk as they are here, those that must be written before trust goes
    /// up, and those that an eviction waits for.
    var stale: DirtyMap
    var owed: DirtyMap
    var needed: DirtyMap
    /// First pages that are to be written with the bits of both sides first.
    var joined: DirtyMap
    /// Pages that must be written before a record may have the size that the volume has grown to.
    var uncovered: DirtyMap
    /// What is behind this size the pages on disk say nothing of; `nil` where they cover all of the volume.
    var coveredByteCount: UInt64?
    var pageWrites: FixedArray<PageWrite>
    var pageWriteCount = 0
    var neededWriteCount = 0
    var isSweeping = false
    var sweepCursor: UInt64 = 0
    /// A page could not be written; tried again at the next tick.
    var hasPageFailed = false
    /// A page write in flight does not come back.
    var isPageStuck = false
    /// Ticks in a row in which what an eviction needs has failed.
    var evictionAttempts = 0

    /// Records of the log that must be written before trust goes up: the ring is not all of this log.
    var logRecordsOwed = 0
    var isLogWriteInFlight = false
    var logStartedAt = Instant(nanoseconds: 0)
    var logAttempts = 0
    /// A record of the log failed, and is written again at the next tick.
    var waitsForTick = false
    /// The record in flight does not come back.
    var isLogStuck = false

    /// Extents have been chosen to leave, and what they have is being made durable.
    var isEvicting = false
    var leavingEpoch: UInt64 = 0
    var isFlushInFlight = false

    /// Counts flushes of both elements: mirrored writes that end now are of this epoch.
    var writeEpoch: UInt64 = 1
    /// Writes of this epoch, and of those before, are durable on both elements.
    var durableEpoch: UInt64 = 0
    var fullFlush: SlotID?
    var fullFlushEpoch: UInt64 = 0

    init(volumeByteCount: UInt64, settings: PairSettings) {
        let granuleByteCount = UInt64(settings.granuleByteCount)
        let layout = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        extentShift = UInt8(settings.logExtentByteCount.trailingZeroBitCount)
        logCapacity = min(max(Int(settings.logExtentCount), 1), ActivityLog.slotLimit)
        log = ActivityLog(capacity: logCapacity)
        // Sets of pages: a map of as many granules.
        let pages = 2 * layout.pageCount * 4096
        stale = DirtyMap(volumeByteCount: pages, granuleByteCount: 4096)
        owed = DirtyMap(volumeByteCount: pages, granuleByteCount: 4096)
        needed = DirtyMap(volumeByteCount: pages, granuleByteCount: 4096)
        joined = DirtyMap(volumeByteCount: pages, granuleByteCount: 4096)
        uncovered = DirtyMap(volumeByteCount: pages, granuleByteCount: 4096)
        pageWrites = FixedArray(repeating: PageWrite(), count: Self.pageWriteLimit)
    }

    /// Makes room for the pages of a larger volume; what is known of the others stays.
    mutating func grow(volumeByteCount: UInt64, granuleByteCount: UInt64) {
        let layout = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        let pages = 2 * layout.pageCount * 4096
        stale.grow(to: pages)
        owed.grow(to: pages)
        needed.grow(to: pages)
        joined.grow(to: pages)
        uncovered.grow(to: pages)
    }

    /// The pages on disk count granules behind `byteCount` as clean, or are not there: until they are written, records have
    /// that size.
    mutating func uncover(behind byteCount: UInt64, granuleByteCount: UInt64) {
        coveredByteCount = min(coveredByteCount ?? byteCount, byteCount)
        let first = byteCount / granuleByteCount / MetadataLayout.granulesPerPage * 2
        for number in first..<uncovered.granuleCount {
            makeStale(number)
            uncovered.mark(touching: Self.extent(ofPage: number))
        }
        for index in 0..<pageWrites.count where pageWrites[index].isInUse && pageWrites[index].number >= first {
            pageWrites[index].isOutdated = true
        }
    }

    /// The size that a record may have of a volume of `byteCount` bytes.
    ///
    /// A record without trust in the pages has that of the volume.
    func recordableByteCount(of byteCount: UInt64) -> UInt64 {
        trust == .none || uncovered.isClean ? byteCount : coveredByteCount ?? byteCount
    }

    /// Pages that a record with the volume's size waits for fail or hang: it has to do without them.
    var isCoveringImpossible: Bool {
        coveredByteCount != nil && trust != .none && !uncovered.isClean && (hasPageFailed || isPageStuck)
    }

    /// Whether the pages have come to cover all of the volume since this was asked last: a record is to say so.
    mutating func endsCovering() -> Bool {
        guard coveredByteCount != nil, uncovered.isClean else { return false }
        coveredByteCount = nil
        return true
    }

    /// Writes that need a record of the log cannot have it.
    var isLogImpossible: Bool {
        let isEvictionImpossible = isPageStuck || evictionAttempts >= Self.logAttemptLimit
        let hasRoom = log.freeCount + log.readyCount > 0
        return isLogStuck || logAttempts >= Self.logAttemptLimit || (isEvictionImpossible && !hasRoom)
    }
    var hasWriteInFlight: Bool { isLogWriteInFlight || pageWriteCount > 0 }
    /// Every page is on disk as it is here.
    var isSettled: Bool { stale.isClean && pageWriteCount == 0 }

    private static func extent(ofPage number: UInt64) -> Extent { Extent(offset: number * 4096, length: 4096) }

    /// A page is no longer on disk as it is here.
    mutating func makeStale(_ number: UInt64) { stale.mark(touching: Self.extent(ofPage: number)) }

    /// Pages are not what their trust says: it goes down, and up again when they are written.
    mutating func owe(_ number: UInt64) {
        stale.mark(touching: Self.extent(ofPage: number))
        owed.mark(touching: Self.extent(ofPage: number))
        for index in 0..<pageWrites.count where pageWrites[index].isInUse && pageWrites[index].number == number {
            pageWrites[index].isOutdated = true
        }
    }

    /// The page is to be written with the bits of both sides before either is written as it is.
    mutating func join(_ number: UInt64) { joined.mark(touching: Self.extent(ofPage: number)) }

    mutating func oweAll() {
        stale.markAll()
        owed.markAll()
        // From here on the pages do not count.
        if trust == .none { joined.clearAll() }
        for index in 0..<pageWrites.count { pageWrites[index].isOutdated = true }
    }

    mutating func beginSweep() {
        guard !isSweeping else { return }
        isSweeping = true
        sweepCursor = 0
    }

    /// Pages that have become stale behind the sweep that is under way are not to wait for the next one.
    mutating func beginSweepAnew() {
        isSweeping = true
        sweepCursor = 0
    }

    // MARK: - Page writes

    /// Takes the next page that is to be written now; the place of its write.
    mutating func takePage(now: Instant) -> Int? {
        guard !hasPageFailed, durableTrust.rawValue <= trust.rawValue, pageWriteCount < Self.pageWriteLimit else {
            return nil
        }
        guard let number = nextPage() else { return nil }
        guard let place = (0..<pageWrites.count).first(where: { !pageWrites[$0].isInUse }) else { return nil }
        pageWriteCount += 1
        if joined.isDirty(granule: number & ~1) {
            pageWrites[place] = PageWrite(number: number & ~1, isInUse: true, isJoined: true, startedAt: now)
            return place
        }
        let isNeeded = needed.isDirty(granule: number)
        pageWrites[place] = PageWrite(number: number, isInUse: true, isNeeded: isNeeded, startedAt: now)
        if isNeeded { neededWriteCount += 1 }
        needed.clear(inside: Self.extent(ofPage: number))
        stale.clear(inside: Self.extent(ofPage: number))
        return place
    }

    private mutating func nextPage() -> UInt64? {
        // Two writes of one page could reach the disk in either order.
        if let number = firstIdle(of: needed, from: 0) { return number }
        guard isSweeping else { return nil }
        guard let number = firstIdle(of: stale, from: sweepCursor) else {
            if stale.nextDirty(from: sweepCursor) == nil { isSweeping = false }
            return nil
        }
        // One that is written for both sides first is still to come, and so is a first page that waits for its second.
        let isFirstToCome =
            joined.isDirty(granule: number & ~1) || (number % 2 == 1 && stale.isDirty(granule: number - 1))
        sweepCursor = isFirstToCome ? number & ~1 : number + 1
        return number
    }

    private func firstIdle(of set: borrowing DirtyMap, from start: UInt64) -> UInt64? {
        var next = set.nextDirty(from: start)
        while let number = next {
            let isJoined = joined.isDirty(granule: number & ~1)
            var isBusy = isBeingWritten(isJoined ? number & ~1 : number) || isBeingJoined(number)
            // Bits that have moved to the second page are nowhere on disk if the first goes there alone.
            if !isJoined, number % 2 == 0, trust == .union, owed.isDirty(granule: number + 1) { isBusy = true }
            if !isBusy { return number }
            next = set.nextDirty(from: number + 1)
        }
        return nil
    }

    private func isBeingWritten(_ number: UInt64) -> Bool {
        for index in 0..<pageWrites.count where pageWrites[index].isInUse && pageWrites[index].number == number {
            return true
        }
        return false
    }

    private func isBeingJoined(_ number: UInt64) -> Bool {
        for index in 0..<pageWrites.count where pageWrites[index].isInUse && pageWrites[index].isJoined {
            if pageWrites[index].number == number & ~1 { return true }
        }
        return false
    }

    /// A page write ended.
    mutating func pageWritten(_ place: Int, isDurable: Bool) {
        invariant(pageWrites[place].isInUse, "a page write ends once")
        let write = pageWrites[place]
        pageWrites[place].isInUse = false
        pageWriteCount -= 1
        if write.isNeeded { neededWriteCount -= 1 }
        isPageStuck = false
        guard isDurable else {
            noteEvictionFailed()
            makeStale(write.number)
            if write.isNeeded, isEvicting { needed.mark(touching: Self.extent(ofPage: write.number)) }
            return
        }
        evictionAttempts = 0
        if write.isJoined {
            if !write.isOutdated { joined.clear(inside: Self.extent(ofPage: write.number)) }
            return
        }
        guard !write.isOutdated else { return }
        owed.clear(inside: Self.extent(ofPage: write.number))
        uncovered.clear(inside: Self.extent(ofPage: write.number))
    }

    /// All pages are written that trust waits for.
    var canBeTrusted: Bool {
        trust != .exact && owed.isClean && logRecordsOwed == 0 && durableTrust.rawValue <= trust.rawValue
    }

    /// Begins a log in a ring of which nothing can be used, under a generation of its own.
    ///
    /// What is left there, of an older log or of none, goes when the ring has been written once.
    mutating func beginLog(after generation: UInt32) {
        self.generation = generation + 1
        logRecordsOwed = MetadataLayout.logBlockCount
    }

    /// Nothing of the kind is tried before the next tick.
    mutating func noteEvictionFailed() {
        if isEvicting, !hasPageFailed { evictionAttempts = min(evictionAttempts + 1, Self.logAttemptLimit) }
        hasPageFailed = true
    }

    /// Gives up writes that do not come back within `limit` nanoseconds; true when one is given up now.
    mutating func giveUpStuck(now: Instant, limit: UInt64) -> Bool {
        var isNew = false
        if isLogWriteInFlight, !isLogStuck, now.nanoseconds(since: logStartedAt) > limit {
            isLogStuck = true
            isNew = true
        }
        for place in 0..<pageWrites.count where pageWrites[place].isInUse && !isPageStuck {
            guard now.nanoseconds(since: pageWrites[place].startedAt) > limit else { continue }
            isPageStuck = true
            isNew = true
        }
        return isNew
    }

    // MARK: - Eviction

    /// Whether extents should be chosen to leave: some wait, or few are free.
    var wantsEviction: Bool {
        guard !isEvicting else { return false }
        let room = log.freeCount + log.readyCount
        return room < log.wantedCount || room < logCapacity / 16
    }

    /// Chooses extents to leave, and the pages that they need; false when all are in use.
    mutating func beginEviction(granuleShift: UInt8) -> Bool {
        let limit = max(min(log.wantedCount, ActivityLog.updateLimit), logCapacity / 8, 1)
        guard log.chooseLeaving(limit: limit) > 0 else { return false }
        isEvicting = true
        leavingEpoch = 0
        for slot in 0..<log.slotCount where log.isLeaving(slot) {
            leavingEpoch = max(leavingEpoch, log.epoch(inSlot: slot))
            let page = pageNumber(ofKey: log.key(inSlot: slot), granuleShift)
            if isOnItsWay(page) { needed.mark(touching: Self.extent(ofPage: page)) }
            if isOnItsWay(page + 1) { needed.mark(touching: Self.extent(ofPage: page + 1)) }
        }
        return true
    }

    /// A page that is stale has to be written; one that is being written may have been built before the bits were set.
    private func isOnItsWay(_ number: UInt64) -> Bool {
        stale.isDirty(granule: number) || isBeingWritten(number)
    }

    private func pageNumber(ofKey key: UInt32, _ granuleShift: UInt8) -> UInt64 {
        let granule = UInt64(key & ~ActivityLog.targetSide) << UInt64(extentShift - granuleShift)
        return granule / MetadataLayout.granulesPerPage * 2
    }

    /// The pages of the leaving extents are durable.
    var hasNeededPages: Bool { needed.isClean && neededWriteCount == 0 }

    mutating func endEviction(isDurable: Bool) {
        guard isEvicting else { return }
        isEvicting = false
        needed.clearAll()
        for index in 0..<pageWrites.count where pageWrites[index].isInUse { pageWrites[index].isNeeded = false }
        neededWriteCount = 0
        if isDurable {
            evictionAttempts = 0
            log.leavingIsDurable()
        } else {
            log.leavingFailed()
        }
    }

    func checkInvariants() {
        log.checkInvariants()
        stale.checkInvariants()
        invariant(pageWriteCount >= neededWriteCount && neededWriteCount >= 0, "page writes are counted")
        invariant(trust != .exact || owed.isClean, "maps that are owed pages are not exact")
        invariant(coveredByteCount != nil || uncovered.isClean, "pages that cover all are written")
        invariant(isEvicting || log.leavingCount == 0, "extents leave while an eviction is under way")
    }
}
