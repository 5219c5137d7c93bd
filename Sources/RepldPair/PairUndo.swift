package import RepldCore
package import RepldFormat

/// The undo area of a pair: what the target held before a copy overwrote it, so that the copy can be taken back.
///
/// **What must hold**: while the record says that there is an undo, a granule of the target is as it was when the undo began, or
/// its old content and its bit in a page are durable in the area. So:
/// - Pages are written, blank, before the record says so, and both blocks of the record say so before the target is written.
/// - Only the mover saves, under the lock of its chunk: old content, then the page, then the target is written.
/// - A host's write goes to the target only where every granule of it is saved; elsewhere it makes its granules dirty, and
///   the mover comes by.
/// - Both blocks of the record say that there is no undo before anything that is not saved is overwritten again.
///
/// What is saved is of the one image that the target held when the undo began: a copy that is interrupted and begun again goes on
/// with it, and no granule is saved twice.
///
/// **A copy with an undo ends under any load of hosts.** Each pass of the mover ends, as without an undo. In the first pass a
/// granule that is equal on both elements is left alone; in the later ones whatever is dirty is saved, equal or not. New dirty
/// granules come only from writes to granules that are not saved; so after the first pass each granule is dirty at most once more,
/// and the number of granules bounds the number of chunks.
package struct PairUndo: ~Copyable {
    package enum Stage: UInt8, BitwiseCopyable {
        case none
        /// Blank pages are being written.
        case preparing
        /// All pages are blank on disk, and the record does not know it.
        case blank
        /// What a copy overwrites is saved.
        case present
    }

    package struct PageWrite: BitwiseCopyable {
        package var page: UInt64 = 0
        package var isInUse = false
        var startedAt = Instant(nanoseconds: 0)
    }

    /// Page writes in flight.
    package static var pageWriteLimit: Int { 4 }

    package var stage = Stage.none
    /// The operation under way wants what it overwrites to be kept.
    var isWanted = false
    package var generation: UInt32 = 0
    /// Granules whose old content is durable in the area; before its chunk writes the target, the bit is durable as well.
    package var saved: DirtyMap
    /// Pages that are to be written.
    package var stale: DirtyMap
    package var pageWrites: FixedArray<PageWrite>
    package var pageWriteCount = 0
    /// The area is being emptied.
    var isEmptying = false
    /// The undo was dropped: when the record says so, the area is emptied.
    package var wantsEmptying = false
    /// A pass of the mover has come to its end since the copy began.
    var hasPassed = false

    /// A failover waits for the target to become what it was.
    var isRollingBack = false
    var rollbackCursor: UInt64 = 0
    var rollbacksInFlight = 0
    var rollbackDeadline = Instant(nanoseconds: 0)

    package init(volumeByteCount: UInt64, settings: PairSettings) {
        let layout = MetadataLayout(
            volumeByteCount: volumeByteCount,
            granuleByteCount: UInt64(settings.granuleByteCount)
        )
        saved = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: UInt64(settings.granuleByteCount))
        // A set of pages: a map of as many granules.
        stale = DirtyMap(volumeByteCount: layout.pageCount * 4096, granuleByteCount: 4096)
        pageWrites = FixedArray(repeating: PageWrite(), count: Self.pageWriteLimit)
    }

    /// Makes a place without an area.
    package init() {
        self.init(volumeByteCount: 0, settings: PairSettings())
    }

    package var isPresent: Bool { stage == .present }
    /// Something is on its way to the area besides what the mover saves.
    var isBusy: Bool { pageWriteCount > 0 || isEmptying }

    /// Whether the old content of every granule that the extent touches is saved.
    package func hasSaved(_ extent: Extent) -> Bool {
        let range = saved.granules(touching: extent)
        return saved.endOfRun(from: range.lowerBound, limit: range.upperBound, joining: saved) == range.upperBound
    }

    /// Where a chunk that begins at a granule has to end: what is saved and what is not are copied in different ways, and a
    /// chunk waits for one page.
    package func chunkEnd(from granule: UInt64) -> UInt64 {
        let pageEnd = min((Self.page(of: granule) + 1) * MetadataLayout.granulesPerPage, saved.granuleCount)
        if saved.isDirty(granule: granule) { return saved.endOfRun(from: granule, limit: pageEnd, joining: saved) }
        return min(saved.nextDirty(from: granule) ?? pageEnd, pageEnd)
    }

    static func page(of granule: UInt64) -> UInt64 { granule / MetadataLayout.granulesPerPage }

    package func page(of extent: Extent) -> UInt64 { Self.page(of: extent.offset >> UInt64(saved.granuleShift)) }

    /// Old content is durable: the page is to say so.
    package mutating func noteSaved(_ extent: Extent) {
        saved.mark(touching: extent)
        stale.mark(touching: Self.extent(ofPage: page(of: extent)))
    }

    /// Nothing is saved, under a generation of its own; every page is to be written.
    package mutating func beginBlank() { beginBlank(generation: generation &+ 1) }

    /// The same under a generation that another host has counted.
    package mutating func beginBlank(generation: UInt32) {
        stage = .preparing
        self.generation = generation
        saved.clearAll()
        stale.markAll()
        wantsEmptying = false
        hasPassed = false
    }

    /// Takes up what the pages of an area say.
    package mutating func takeUp(_ undo: RecoveredUndo) {
        stage = .present
        generation = undo.generation
        for (word, bits) in undo.saved.enumerated() where word < saved.wordCount && bits != 0 {
            saved.mark(word: word, bits)
        }
    }

    /// The write of a page has ended; where nothing else is to be written, an area that was being prepared is blank.
    package mutating func pageWritten(place: Int) -> UInt64 {
        invariant(pageWrites[place].isInUse, "a page was on its way")
        pageWrites[place].isInUse = false
        pageWriteCount -= 1
        return pageWrites[place].page
    }

    /// All pages are blank on disk.
    package mutating func finishPreparing() -> Bool {
        guard stage == .preparing, pageWriteCount == 0, stale.isClean else { return false }
        stage = .blank
        return true
    }

    /// Takes the next page that is to be written; the place of its write.
    package mutating func takePage(now: Instant) -> Int? {
        guard stage == .preparing || stage == .present, pageWriteCount < Self.pageWriteLimit else { return nil }
        var next = stale.nextDirty(from: 0)
        while let page = next {
            if !isBeingWritten(page) { break }
            next = stale.nextDirty(from: page + 1)
        }
        guard let page = next, let place = (0..<pageWrites.count).first(where: { !pageWrites[$0].isInUse }) else {
            return nil
        }
        stale.clear(inside: Self.extent(ofPage: page))
        pageWrites[place] = PageWrite(page: page, isInUse: true, startedAt: now)
        pageWriteCount += 1
        return place
    }

    /// Two writes of one page could reach the disk in either order.
    private func isBeingWritten(_ page: UInt64) -> Bool {
        for index in 0..<pageWrites.count where pageWrites[index].isInUse && pageWrites[index].page == page {
            return true
        }
        return false
    }

    private static func extent(ofPage page: UInt64) -> Extent { Extent(offset: page * 4096, length: 4096) }

    /// The volume has more bytes, and the area more room.
    package mutating func grow(to byteCount: UInt64) {
        invariant(stage == .none, "an area that is in use keeps its layout")
        // A place without an area has no maps.
        guard saved.volumeByteCount > 0 else { return }
        let layout = MetadataLayout(volumeByteCount: byteCount, granuleByteCount: saved.granuleByteCount)
        saved.grow(to: byteCount)
        stale.grow(to: layout.pageCount * 4096)
    }

    /// There is nothing to take back any more.
    package mutating func drop() {
        if stage == .present { wantsEmptying = true }
        stage = .none
        isRollingBack = false
        saved.clearAll()
        stale.clearAll()
    }

    func checkInvariants() {
        saved.checkInvariants()
        invariant(stage == .present || saved.isClean, "only an undo that is there has saved something")
        invariant(!isRollingBack || stage == .present, "only what was saved is taken back")
        var count = 0
        for index in 0..<pageWrites.count where pageWrites[index].isInUse { count += 1 }
        invariant(count == pageWriteCount, "page writes are counted")
    }
}
