internal import RepldCore
internal import RepldFormat
internal import RepldPair

/// Keeps, on a replica's host, what its peer overwrites there, so that a copy that was interrupted can be taken back.
///
/// The peer's record says when: from a record with an undo on, whatever the peer writes is kept first, until one has none.
///
///     none ─record with an undo─> preparing ─pages blank, record durable─> present ─record without─> emptying ──> none
///
/// **What must hold**: while a durable record says that there is an undo, a granule of the element is as it was when that record came,
/// or its old content and its bit in a page are durable in the area. So:
/// - The pages are blank and durable before the record is written, and the peer writes nothing before it is answered. That is when both
///   blocks of the area have it, whichever way it changes: one damaged block must not bring back a record that calls a half
///   overwritten element a usable image, or counts on what is gone.
/// - A request that writes waits until all of its granules are saved: content, then page. What comes behind it waits as
///   well, so that overlapping requests keep their order; what is to be saved for them is saved meanwhile.
/// - A request whose old content cannot be kept is refused, and changes nothing.
/// - Before anything is taken back, both blocks of the record say so: to the peer this side then has no record, and everything is
///   compared.
///
/// The area is that of `UndoLayout`, of the replica's size.
struct ReplicaUndo: ~Copyable {
    /// Steps in flight at once, each with memory of its own: requests that wait hold the buffers of the pool.
    static var stepLimit: Int { 4 }
    /// The bytes that one step moves at most, unless a granule is larger.
    private static var stepByteCount: Int { 256 << 10 }
    /// Requests that wait and are looked at for what they need.
    static var lookahead: Int { 16 }

    var pages: PairUndo
    let area: ElementID?
    /// Where the old content of the volume's first byte is.
    private(set) var headByteCount: UInt64
    var steps: FixedArray<UndoStep>
    /// Requests that wait, in the order in which they came.
    var held: BoundedQueue<SlotID>
    var isEmptying = false
    var takingBack: TakingBack?
    private let blocks: AlignedBytes
    private let memory: AlignedBytes
    private let stepByteCount: Int

    /// A replica that keeps nothing.
    init() {
        pages = PairUndo()
        area = nil
        headByteCount = 0
        steps = FixedArray(repeating: UndoStep(), count: 0)
        held = BoundedQueue(capacity: 1, blank: SlotID(index: 0, generation: 0))
        blocks = AlignedBytes(count: 0)
        memory = AlignedBytes(count: 0)
        stepByteCount = 0
    }

    init(area: ElementID, volumeByteCount: UInt64, granuleByteCount: UInt32, _ recovered: RecoveredUndo?) {
        var settings = PairSettings()
        settings.granuleByteCount = granuleByteCount
        pages = PairUndo(volumeByteCount: volumeByteCount, settings: settings)
        if let recovered { pages.takeUp(recovered) }
        self.area = area
        headByteCount =
            UndoLayout(volumeByteCount: volumeByteCount, granuleByteCount: UInt64(granuleByteCount)).headByteCount
        steps = FixedArray(repeating: UndoStep(), count: Self.stepLimit)
        held = BoundedQueue(capacity: Links.serveLimit, blank: SlotID(index: 0, generation: 0))
        blocks = AlignedBytes(count: PairUndo.pageWriteLimit * MetadataLayout.blockByteCount)
        stepByteCount = max(Self.stepByteCount, Int(granuleByteCount))
        memory = AlignedBytes(count: Self.stepLimit * stepByteCount)
    }

    /// How large the area has to be for a volume of a size.
    func areaByteCount(ofVolume byteCount: UInt64) -> UInt64 {
        UndoLayout(volumeByteCount: byteCount, granuleByteCount: pages.saved.granuleByteCount).areaByteCount
    }

    /// The volume has more bytes, and the area more room; nothing is kept there.
    mutating func grow(to byteCount: UInt64) {
        guard area != nil else { return }
        pages.grow(to: byteCount)
        let layout = UndoLayout(volumeByteCount: byteCount, granuleByteCount: pages.saved.granuleByteCount)
        headByteCount = layout.headByteCount
    }

    var isPresent: Bool { pages.isPresent }

    /// Its pages are on disk; the record may be in one block only.
    var isWhole: Bool { pages.isPresent || pages.stage == .blank }

    /// Something is on its way to or from the area, or waits for it.
    var isBusy: Bool {
        isEmptying || pages.pageWriteCount > 0 || !held.isEmpty || takingBack != nil || hasSteps
    }

    var hasSteps: Bool {
        for place in 0..<steps.count where steps[place].stage != .free { return true }
        return false
    }

    /// Pages that one step can write.
    var stepPageCount: UInt64 { UInt64(stepByteCount / MetadataLayout.blockByteCount) }

    /// Granules that one step can move.
    var stepGranuleCount: UInt64 { UInt64(stepByteCount) >> UInt64(pages.saved.granuleShift) }

    /// Where a page is built.
    func block(_ place: Int) -> UnsafeMutableRawBufferPointer {
        unsafe blocks.slice(from: place * MetadataLayout.blockByteCount, count: MetadataLayout.blockByteCount)
    }

    /// What a step reads and writes.
    func bytes(ofStep place: Int) -> UnsafeMutableRawBufferPointer {
        unsafe memory.slice(from: place * stepByteCount, count: Int(steps[place].extent.length))
    }

    func freeStep() -> Int? {
        for place in 0..<steps.count where steps[place].stage == .free { return place }
        return nil
    }

    /// Whether a request may overwrite the extent.
    func mayOverwrite(_ extent: Extent) -> Bool {
        guard pages.hasSaved(extent) else { return false }
        for place in 0..<steps.count where steps[place].stage != .free {
            if steps[place].extent.overlaps(extent) { return false }
        }
        return true
    }

    /// The next granules of an extent that are neither saved nor about to be, as many as one step can take.
    func nextToSave(of extent: Extent) -> Extent? {
        let range = pages.saved.granules(touching: extent)
        var granule = range.lowerBound
        while granule < range.upperBound {
            if pages.saved.isDirty(granule: granule) {
                granule = pages.saved.endOfRun(from: granule, limit: range.upperBound, joining: pages.saved)
                continue
            }
            var end = min(pages.chunkEnd(from: granule), range.upperBound, granule + stepGranuleCount)
            var isTaken = false
            for place in 0..<steps.count where steps[place].stage != .free {
                let other = pages.saved.granules(touching: steps[place].extent)
                if other.contains(granule) {
                    granule = other.upperBound
                    isTaken = true
                    break
                }
                if other.lowerBound > granule { end = min(end, other.lowerBound) }
            }
            if !isTaken { return pages.saved.extent(of: granule..<end) }
        }
        return nil
    }
}

/// One piece of old content on its way to the area, or back.
struct UndoStep: BitwiseCopyable {
    enum Stage: UInt8, BitwiseCopyable {
        case free
        /// Blank pages are written, many at once: the peer waits for all of them.
        case blanking
        /// What the element holds is read, written to the area, and its page is to be written.
        case reading, writing, recording
        /// What the area holds is read, and written to the element.
        case readingBack, writingBack
    }

    var stage = Stage.free
    var extent = Extent(offset: 0, length: 0)
    var isPageOnItsWay = false
}

/// A copy that is being taken back.
struct TakingBack {
    /// Blocks of the record that do not say so yet.
    var recordsOwed = 2
    var cursor: UInt64 = 0
    var failure: IOFailure?
    var answer: @Sendable (Result<PairRecord, EngineRefusal>) -> Void
}

/// Aligned memory for operations on elements.
@safe
struct AlignedBytes: ~Copyable {
    private let memory: UnsafeMutableRawBufferPointer

    init(count: Int) {
        unsafe memory = .allocate(byteCount: count, alignment: BufferPool.alignment)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { unsafe memory.deallocate() }

    func slice(from start: Int, count: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + count])
    }
}
