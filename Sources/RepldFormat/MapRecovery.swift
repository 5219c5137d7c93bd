internal import RepldCore

/// An extent of the activity log that was active when the area was last written.
package struct ActiveExtent: Hashable, Sendable, BitwiseCopyable {
    package var slot: Int
    package var key: UInt32

    package init(slot: Int, key: UInt32) {
        self.slot = slot
        self.key = key
    }
}

/// What the bitmaps and the activity log of a metadata area say.
package struct RecoveredMaps: Sendable, Hashable {
    package var trust: MapTrust
    /// Words of 64 granules of what may differ because the source was written; empty when nothing can be relied on.
    package var dirty: [UInt64]
    /// Words of what the target's own hosts wrote.
    package var targetChanged: [UInt64]
    package var active: [ActiveExtent]
    /// The sequence behind which the log goes on (`ActivityLog.resume`): that of its newest record, or one greater where that
    /// record is torn.
    package var logSequence: UInt64
    /// Bitmap sectors that were damaged, and count as dirty.
    package var damagedSectorCount: Int
    /// Why nothing can be relied on; `nil` when that is as it should be.
    package var distrust: String?

    /// Nothing is known: everything may differ.
    package static func unknown(because reason: String?) -> RecoveredMaps {
        RecoveredMaps(
            trust: .none,
            dirty: [],
            targetChanged: [],
            active: [],
            logSequence: 0,
            damagedSectorCount: 0,
            distrust: reason
        )
    }

    /// The elements are equal, and the area behind the record says nothing yet: all of it is to be written.
    package static var nothingDiffers: RecoveredMaps {
        var maps = unknown(because: nil)
        maps.trust = .exact
        maps.damagedSectorCount = 1
        return maps
    }

    /// Reads the area behind a pair's record, trusting nothing in it.
    ///
    /// - Parameters:
    ///   - area: the whole area, as far as it could be read.
    ///   - record: what the record of the area says; one that may not be the newest is unclean and has no trust.
    ///   - granuleByteCount: the granule that is wanted; maps of another granule are not used.
    ///   - grownByteCount: the size that the volume has where it is larger than the record says. The log may have extents of all of
    ///     it, the bitmaps are of what the record says.
    /// - Returns: what the maps say, or that nothing is known, and why.
    package static func read(
        _ area: borrowing RawSpan,
        _ record: PairRecord,
        granuleByteCount: UInt64,
        grownByteCount: UInt64 = 0
    ) -> RecoveredMaps {
        guard record.mapTrust != .none else { return .unknown(because: nil) }
        guard UInt64(1) << UInt64(record.granuleShift) == granuleByteCount else {
            return .unknown(because: "the bitmaps have granules of \(UInt64(1) << UInt64(record.granuleShift)) bytes")
        }
        let isPossible = MetadataLayout.isValid(
            extentByteCount: UInt64(1) << UInt64(record.extentShift),
            granuleByteCount: granuleByteCount,
            volumeByteCount: max(record.volumeByteCount, grownByteCount)
        )
        guard isPossible else { return .unknown(because: "the volume has more extents than an activity log has keys") }
        let layout = MetadataLayout(volumeByteCount: record.volumeByteCount, granuleByteCount: granuleByteCount)
        guard UInt64(area.byteCount) >= layout.areaByteCount else {
            return .unknown(because: "the area has \(area.byteCount) bytes of \(layout.areaByteCount)")
        }
        var maps = RecoveredMaps.unknown(because: nil)
        maps.trust = record.mapTrust
        if !record.isClosedCleanly {
            guard maps.readLog(area, record, upTo: max(record.volumeByteCount, grownByteCount)) else {
                return .unknown(because: "the activity log is damaged")
            }
        }
        for page in 0..<layout.pageCount {
            maps.damagedSectorCount += readPage(2 * page, area, record.pair, into: &maps.dirty)
            maps.damagedSectorCount += readPage(2 * page + 1, area, record.pair, into: &maps.targetChanged)
        }
        return maps
    }

    private static func readPage(
        _ number: UInt64,
        _ area: borrowing RawSpan,
        _ pair: PairID,
        into words: inout [UInt64]
    ) -> Int {
        let start = Int(MetadataLayout.pageOffset(number))
        let block = area.extracting(start..<start + MetadataLayout.blockByteCount)
        return BitmapSector.decodePage(number, block, pair, into: &words)
    }

    // MARK: - The log

    /// A block of the ring.
    private struct LogBlock {
        var start: Int
        /// The greatest sequence in it; 0 when it has nothing of the generation that counts.
        var sequence: UInt64 = 0
        /// The sectors that have this sequence.
        var sectorCount = 0

        var isWhole: Bool { sectorCount == MetadataLayout.sectorsPerBlock }
    }

    /// Replays the ring; false when a record that a write may have relied on cannot be read.
    ///
    /// Records are written one after the other, each into the block behind the one before. So only the block of the greatest
    /// sequence may be torn: it was being written, nothing has relied on it, and it is left out. All others have to be whole, and
    /// to go up in the ring's order. Anything else is damage, and of a record that nobody can read nobody knows what it said.
    private mutating func readLog(
        _ area: borrowing RawSpan,
        _ record: PairRecord,
        upTo volumeByteCount: UInt64
    ) -> Bool {
        var blocks: [LogBlock] = []
        // In the order of writing: the first record of a generation goes to block 1.
        for position in 1...MetadataLayout.logBlockCount {
            guard let block = Self.readBlock(position % MetadataLayout.logBlockCount, area, record) else {
                return false
            }
            blocks.append(block)
        }
        guard let newest = blocks.indices.max(by: { blocks[$0].sequence < blocks[$1].sequence }),
            blocks[newest].sequence <= Self.sequenceLimit
        else { return false }
        guard blocks[newest].sequence > 0 else { return true }
        let lapBefore = blocks[(newest + 1)...]
        let lap = blocks[..<newest]
        guard lapBefore.allSatisfy({ $0.sequence == 0 }) || lapBefore.allSatisfy(\.isWhole) else { return false }
        guard lap.allSatisfy(\.isWhole) else { return false }
        let older = lapBefore.filter { $0.sequence > 0 } + lap
        let ordered = older + [blocks[newest]]
        guard zip(ordered, ordered.dropFirst()).allSatisfy({ $0.sequence < $1.sequence }) else { return false }
        // The record behind one that is torn goes to the same block, with a sequence that no sector there has.
        let skipped = blocks[newest].isWhole ? 0 : UInt64(MetadataLayout.logBlockCount) - 1
        logSequence = blocks[newest].sequence + skipped
        return replay(blocks[newest].isWhole ? ordered : older, area, record, upTo: volumeByteCount)
    }

    /// More records than any log is ever written, and far enough from the end of the number for all that follow.
    private static var sequenceLimit: UInt64 { 1 << 62 }

    /// What a block of the ring holds; `nil` when one of its sectors is damaged or not where it belongs.
    private static func readBlock(_ number: Int, _ area: borrowing RawSpan, _ record: PairRecord) -> LogBlock? {
        var block = LogBlock(start: Int(MetadataLayout.logOffset) + number * MetadataLayout.blockByteCount)
        for sector in 0..<MetadataLayout.sectorsPerBlock {
            let start = block.start + sector * MetadataLayout.sectorByteCount
            let bytes = area.extracting(start..<start + MetadataLayout.sectorByteCount)
            guard let head = ActivityLogSector.head(bytes, record.pair, place: UInt64(start)) else { return nil }
            guard head.number == sector, head.generation <= record.logGeneration else { return nil }
            guard head.generation == record.logGeneration, head.sequence > 0 else { continue }
            guard head.sequence % UInt64(MetadataLayout.logBlockCount) == UInt64(number) else { return nil }
            if head.sequence > block.sequence {
                block.sequence = head.sequence
                block.sectorCount = 0
            }
            if head.sequence == block.sequence { block.sectorCount += 1 }
        }
        return block
    }

    /// Takes the table from whole records, oldest first; false when they do not have all of it, or have what cannot be.
    private mutating func replay(
        _ records: [LogBlock],
        _ area: borrowing RawSpan,
        _ record: PairRecord,
        upTo volumeByteCount: UInt64
    ) -> Bool {
        var keys = [UInt32](repeating: ActivityLog.noKey, count: ActivityLog.slotLimit)
        var isKnown = [Bool](repeating: false, count: keys.count)
        let extentByteCount = UInt64(1) << UInt64(record.extentShift)
        let extentCount = MetadataLayout.count(of: extentByteCount, in: volumeByteCount)
        for sector in 0..<records.count * MetadataLayout.sectorsPerBlock {
            let (index, number) = sector.quotientAndRemainder(dividingBy: MetadataLayout.sectorsPerBlock)
            let start = records[index].start + number * MetadataLayout.sectorByteCount
            let bytes = area.extracting(start..<start + MetadataLayout.sectorByteCount)
            for entry in 0..<ActivityLogSector.entryCount(of: bytes) {
                let (slot, key) = ActivityLogSector.entry(entry, of: bytes)
                let isPossible = key == ActivityLog.noKey || UInt64(key & ~ActivityLog.targetSide) < extentCount
                guard slot < keys.count, isPossible else { return false }
                keys[slot] = key
                isKnown[slot] = true
            }
        }
        // The first record of a generation has half the table; the rest is free. Any two have all of it.
        guard records.count < 2 || isKnown.allSatisfy({ $0 }) else { return false }
        var seen: Set<UInt32> = []
        for (slot, key) in keys.enumerated() where key != ActivityLog.noKey {
            guard seen.insert(key).inserted else { return false }
            active.append(ActiveExtent(slot: slot, key: key))
        }
        return true
    }
}
