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
    /// The sequence of the newest record of the log.
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

    /// Reads the area behind a pair's record, trusting nothing in it.
    ///
    /// - Parameters:
    ///   - area: the whole area, as far as it could be read.
    ///   - record: what the record of the area says; one that may not be the newest is unclean and has no trust.
    ///   - granuleByteCount: the granule that is wanted; maps of another granule are not used.
    package static func read(
        _ area: borrowing RawSpan,
        _ record: PairRecord,
        granuleByteCount: UInt64
    ) -> RecoveredMaps {
        guard record.mapTrust != .none else { return .unknown(because: nil) }
        guard UInt64(1) << UInt64(record.granuleShift) == granuleByteCount else {
            return .unknown(because: "the bitmaps have granules of \(UInt64(1) << UInt64(record.granuleShift)) bytes")
        }
        let layout = MetadataLayout(volumeByteCount: record.volumeByteCount, granuleByteCount: granuleByteCount)
        guard UInt64(area.byteCount) >= layout.areaByteCount else {
            return .unknown(because: "the area has \(area.byteCount) bytes of \(layout.areaByteCount)")
        }
        var maps = RecoveredMaps.unknown(because: nil)
        maps.trust = record.mapTrust
        if !record.isClosedCleanly {
            guard maps.readLog(area, record) else {
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

    private struct LogSector {
        var head: ActivityLogSector.Head
        var start: Int
    }

    /// Replays the ring; false when a sector that may have been the newest cannot be read.
    ///
    /// With M the greatest sequence found, a block holds the record that the ring's order gives it, up to M: only the block
    /// of M itself may also have sectors of the record before (M was being written). Anything else is damage: of a record
    /// that nobody can read nobody knows whether a write has relied on it.
    private mutating func readLog(_ area: borrowing RawSpan, _ record: PairRecord) -> Bool {
        var sectors: [LogSector] = []
        let count = MetadataLayout.logBlockCount * MetadataLayout.sectorsPerBlock
        for index in 0..<count {
            let start = Int(MetadataLayout.logOffset) + index * MetadataLayout.sectorByteCount
            let bytes = area.extracting(start..<start + MetadataLayout.sectorByteCount)
            guard let head = ActivityLogSector.head(bytes, record.pair, place: UInt64(start)) else { return false }
            guard head.number == index % MetadataLayout.sectorsPerBlock || head.sequence == 0 else { return false }
            guard head.generation <= record.logGeneration else { return false }
            sectors.append(LogSector(head: head, start: start))
        }
        let newest = sectors.filter { $0.head.generation == record.logGeneration }.map(\.head.sequence).max() ?? 0
        for (index, sector) in sectors.enumerated() {
            let block = UInt64(index / MetadataLayout.sectorsPerBlock)
            guard Self.isExpected(sector.head, inBlock: block, newest, record.logGeneration) else { return false }
        }
        logSequence = newest
        return replay(sectors.filter { $0.head.generation == record.logGeneration }, area, record)
    }

    private static func isExpected(
        _ head: ActivityLogSector.Head,
        inBlock block: UInt64,
        _ newest: UInt64,
        _ generation: UInt32
    ) -> Bool {
        let ringCount = UInt64(MetadataLayout.logBlockCount)
        let distance = (newest % ringCount + ringCount - block) % ringCount
        let found = head.generation == generation ? head.sequence : 0
        let expected = newest > distance ? newest - distance : 0
        if found == expected { return true }
        let isBeingWritten = distance == 0 && newest > 0
        return isBeingWritten && found == (newest > ringCount ? newest - ringCount : 0)
    }

    private mutating func replay(_ sectors: [LogSector], _ area: borrowing RawSpan, _ record: PairRecord) -> Bool {
        let ordered = sectors.sorted { ($0.head.sequence, $0.head.number) < ($1.head.sequence, $1.head.number) }
        var keys = [UInt32](repeating: ActivityLog.noKey, count: ActivityLog.slotLimit)
        let extentByteCount = UInt64(1) << UInt64(record.extentShift)
        let extentCount = (record.volumeByteCount + extentByteCount - 1) / extentByteCount
        for sector in ordered {
            let bytes = area.extracting(sector.start..<sector.start + MetadataLayout.sectorByteCount)
            for index in 0..<sector.head.entryCount {
                let (slot, key) = ActivityLogSector.entry(index, of: bytes)
                let isPossible = key == ActivityLog.noKey || UInt64(key & ~ActivityLog.targetSide) < extentCount
                guard slot < keys.count, isPossible else { return false }
                keys[slot] = key
            }
        }
        var seen: Set<UInt32> = []
        for (slot, key) in keys.enumerated() where key != ActivityLog.noKey && seen.insert(key).inserted {
            active.append(ActiveExtent(slot: slot, key: key))
        }
        return true
    }
}
