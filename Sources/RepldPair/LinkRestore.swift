package import RepldCore
internal import RepldFormat

/// How far a restore over a link has come: a pair whose target is behind a peer gets its source back from there.
///
/// Unlike a restore between two elements of one host, the target cannot serve hosts in the place of the source, because it may go
/// out of reach at any time. So the source goes on serving them, and what it lacks is read from the target:
///
///     none ── RestoreFromReplica, link up, gate ──> running ── nothing is lacking ──> none, Restored
///     running ── link lost, daemon stopped ──> stopped ── link back ──> running, by itself
///     running ── an element fails ──> stopped, the operation has failed ── RestoreFromReplica ──> running
///     running, stopped ── what was copied is not known any more ──> lost, Invalid
///     lost ── RestoreFromReplica by force ──> running, from the start
///     any ── Abort; ResyncReplica, Resume, Activate, Prepare, Detach by force ──> none
///
/// In all but `none` the source is marked inconsistent, in the durable record as well, and:
/// - `targetChanged` has the *lacking* granules: what counts there is on the target. It begins as all that may differ; only a copy
///   takes a granule out, after a flush of the source, and nothing is added.
/// - `dirty` has what hosts have written since on the source alone; the target stays as it was, until Resume copies to it.
/// - `unflushed` has the *fresh* granules: they lack nothing any more, and the page on disk does not say so; `flushing` those of
///   them that a page on its way to the disk has.
///
/// **Reads** of what is lacking are answered by the target, and the mover goes on from there. A read that is lacking in part waits
/// until it is not. Where the target cannot be asked, both fail at once.
///
/// **Writes** never go to a granule that is lacking or fresh: a copy, or that of a start after a crash, would overwrite them. They
/// wait until the granule is copied, before anything else, and durably not lacking; where nothing is copied now, they fail. All
/// others go on, whatever becomes of the link.
///
/// **Chunks** take no interval lock: they write only what is lacking, to which no host writes, and a flush, which lets hosts come,
/// begins only when no chunk is under way. So a write may hold its lock while it waits for its chunk.
///
/// **After a crash** the maps tell the two sides apart only while they are exact: no host writes before that is durable. Until
/// then, all that differs is lacking. Where nothing can be relied on, nobody knows what hosts have written since: that is `lost`,
/// and neither reads nor writes get anywhere before an operator has said, by force, whose data counts.
///
/// Other pairs of the volume do not begin to copy from a source that is half restored: they wait.
package enum LinkRestore: UInt8, Sendable, BitwiseCopyable {
    case none, running, stopped, lost
}

extension Pair {
    /// What the mover has to copy, in either direction, at or behind a granule.
    func nextRunToCopy(from granule: UInt64, limit: UInt64) -> Range<UInt64>? {
        linkRestore == .running
            ? targetChanged.nextDirtyRun(from: granule, limit: limit) : dirty.nextDirtyRun(from: granule, limit: limit)
    }

    var hasNothingToCopy: Bool { linkRestore == .running ? targetChanged.isClean : dirty.isClean }

    var leftToCopyByteCount: UInt64 {
        linkRestore == .running ? targetChanged.dirtyByteCount : dirty.dirtyByteCount
    }

    /// What hosts find in an extent is, in part at least, on the target alone, or nowhere.
    package func isLacking(touching extent: Extent) -> Bool {
        linkRestore == .lost || linkRestore != .none && targetChanged.isDirty(touching: extent)
    }

    /// The target has all of what a host asks for, and the source nothing.
    func isLackingWholly(_ extent: Extent) -> Bool {
        let range = targetChanged.granules(touching: extent)
        return targetChanged.endOfRun(from: range.lowerBound, limit: range.upperBound, joining: targetChanged)
            == range.upperBound
    }

    /// What a crash now would take for lacking, though it is not.
    func isFresh(_ extent: Extent) -> Bool {
        unflushed.isDirty(touching: extent) || flushing.isDirty(touching: extent)
    }

    mutating func forgetFresh() {
        unflushed.clearAll()
        flushing.clearAll()
    }

    /// A page of the bitmaps is about to be written: what is fresh there is in it.
    mutating func beginPage(_ place: Int) {
        guard let extent = freshExtent(of: place) else { return }
        Self.move(extent, from: &unflushed, to: &flushing)
    }

    /// A page of the bitmaps is durable, or could not be written.
    mutating func endPage(_ place: Int, isDurable: Bool) {
        guard let extent = freshExtent(of: place) else { return }
        if isDurable { flushing.clear(inside: extent) } else { Self.move(extent, from: &flushing, to: &unflushed) }
    }

    /// The bytes whose lacking granules a page write tells of; `nil` where it does not, or nobody asks.
    private func freshExtent(of place: Int) -> Extent? {
        let write = store.pageWrites[place]
        guard linkRestore != .none, write.number % 2 == 1, !write.isJoined else { return nil }
        let first = write.number / 2 * MetadataLayout.granulesPerPage
        let end = min(first + MetadataLayout.granulesPerPage, unflushed.granuleCount)
        return first < end ? unflushed.extent(of: first..<end) : nil
    }

    private static func move(_ extent: Extent, from: inout DirtyMap, to: inout DirtyMap) {
        let range = from.granules(touching: extent)
        var next = from.nextDirtyRun(from: range.lowerBound, limit: range.upperBound - range.lowerBound)
        while let run = next, run.lowerBound < range.upperBound {
            let found = run.lowerBound..<min(run.upperBound, range.upperBound)
            to.mark(touching: from.extent(of: found))
            from.clear(inside: from.extent(of: found))
            next = from.nextDirtyRun(from: found.upperBound, limit: range.upperBound - range.lowerBound)
        }
    }
}
