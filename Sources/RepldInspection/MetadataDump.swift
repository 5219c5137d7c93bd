internal import RepldCore
internal import RepldFormat
internal import RepldPair

/// What a metadata area says, field by field, for those who have to know what a pair that is not running would do.
package struct MetadataDump: Encodable, Sendable {
    package struct Record: Encodable, Sendable {
        package var sequence: UInt64
        package var pair: String
        package var volumeBytes: UInt64
        package var blockBytes: UInt32
        package var copyState: String
        package var closedCleanly: Bool
        package var operation: String?
        package var source: String
        package var servesHosts: String
        package var targetConsistent: Bool
        package var sourceAhead: Bool
        package var sourceInconsistent: Bool
        package var bitmapTrust: String
        package var logGeneration: UInt32
        package var granuleBytes: UInt64
        package var extentBytes: UInt64
    }

    /// One of the two blocks that the pair's record is written to in turn.
    package struct Block: Encodable, Sendable {
        package var offset: UInt64
        /// What is wrong with it; `nil` for a valid record.
        package var damage: String?
        package var counts: Bool
        package var record: Record?
    }

    package struct Range: Encodable, Sendable, Hashable {
        package var offset: UInt64
        package var length: UInt64

        package init(offset: UInt64, length: UInt64) {
            self.offset = offset
            self.length = length
        }
    }

    package struct Log: Encodable, Sendable {
        package var generation: UInt32
        /// What the next record's sequence comes after.
        package var sequence: UInt64
        package var activeExtents: Int
        package var source: [Range]
        package var targetHosts: [Range]
    }

    package struct Bitmap: Encodable, Sendable {
        package var dirtyBytes: UInt64
        package var ranges: [Range]
    }

    package struct DamagedSector: Encodable, Sendable, Hashable {
        package var offset: UInt64
        package var part: String
    }

    package var offset: UInt64
    /// The bytes that the area should have, by its record.
    package var areaBytes: UInt64?
    package var blocks: [Block]
    package var verdict: String
    /// How much the bitmaps can be relied on: none, union, exact.
    package var trust: String
    package var distrust: String?
    package var log: Log?
    package var dirty: Bitmap?
    package var targetChanged: Bitmap?
    package var damagedSectors: [DamagedSector]

    /// Reads the area at `offset` of a file or device.
    package static func read(_ file: borrowing MetadataFile, offset: UInt64) throws(MetadataFileError) -> MetadataDump {
        var area = try file.read(from: offset, byteCount: UInt64(PairRecord.areaByteCount))
        if let record = decide(area).record {
            area = try file.read(from: offset, byteCount: layout(of: record).areaByteCount)
        }
        return MetadataDump(area: area, offset: offset)
    }

    /// How much of the end of an element is looked at, and in which steps.
    private static var scanByteCount: UInt64 { 1 << 30 }
    private static var scanStepByteCount: UInt64 { 4 << 20 }

    /// Finds the only area at the end of an element by its records: where it begins.
    ///
    /// Never chooses between two: one may be left by a pair that was given up.
    package static func find(in file: borrowing MetadataFile) throws(MetadataFileError) -> UInt64 {
        let blockByteCount = UInt64(PairRecord.blockByteCount)
        let end = file.byteCount / blockByteCount * blockByteCount
        let start = end - min(end, scanByteCount)
        var scan = MetadataScan()
        var place = end
        while place > start {
            let from = place - min(place - start, scanStepByteCount)
            let bytes = try file.read(from: from, byteCount: place - from)
            unsafe scan.add(bytes.span.bytes, from: from)
            place = from
        }
        switch scan.areas.count {
        case 0: throw MetadataFileError(path: file.path, reason: .noArea(scannedByteCount: end - start))
        case 1: return scan.areas[0].offset
        default: throw MetadataFileError(path: file.path, reason: .severalAreas(offsets: scan.areas.map(\.offset)))
        }
    }

    /// Reads an area from memory, as far as it is there.
    package init(area: [UInt8], offset: UInt64) {
        let decision = Self.decide(area)
        self.offset = offset
        verdict = decision.words
        blocks = (0..<2).map { Self.block($0, area, offset, counting: decision.record) }
        trust = "none"
        damagedSectors = []
        guard let record = decision.record else { return }
        let layout = Self.layout(of: record)
        areaBytes = layout.areaByteCount
        let maps = unsafe RecoveredMaps.read(area.span.bytes, record, granuleByteCount: layout.granuleByteCount)
        trust = "\(maps.trust)"
        distrust = maps.distrust
        damagedSectors = Self.damagedSectors(area, record.pair, offset)
        guard maps.trust != .none else { return }
        log = record.isClosedCleanly ? nil : Self.log(maps, record)
        dirty = Self.bitmap(maps.dirty, layout)
        targetChanged = Self.bitmap(maps.targetChanged, layout)
    }

    // MARK: - The record

    private struct Decision {
        var record: PairRecord?
        var words: String
    }

    private static func block(_ number: Int, of area: [UInt8]) -> [UInt8] {
        Array(area.dropFirst(number * PairRecord.blockByteCount).prefix(PairRecord.blockByteCount))
    }

    private static func decide(_ area: [UInt8]) -> Decision {
        let (first, second) = (block(0, of: area), block(1, of: area))
        switch unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes) {
        case .found(let record):
            return Decision(record: record, words: "the record with sequence \(record.sequence) counts")
        case .older(let record, let damage):
            let words =
                "the record with sequence \(record.sequence) counts, but as not closed cleanly and without bitmaps: the other "
            return Decision(record: record, words: words + "block may have had a newer one (\(damage.words))")
        case .blank: return Decision(words: "never written: nothing is known of a pair here")
        case .lost(let left, let right):
            return Decision(words: "no record can be used (first block: \(left.words); second block: \(right.words))")
        }
    }

    private static func block(
        _ number: Int,
        _ area: [UInt8],
        _ offset: UInt64,
        counting: PairRecord?
    ) -> Block {
        let place = offset + UInt64(number * PairRecord.blockByteCount)
        let bytes = block(number, of: area)
        do throws(PairRecordDamage) {
            let record = try unsafe PairRecord.decode(bytes.span.bytes)
            return Block(offset: place, counts: counting?.sequence == record.sequence, record: words(record))
        } catch {
            return Block(offset: place, damage: error.words, counts: false)
        }
    }

    private static func words(_ record: PairRecord) -> Record {
        let operation = ReplicationOperation(rawValue: record.operation)?.name ?? "unknown (\(record.operation))"
        return Record(
            sequence: record.sequence,
            pair: record.pair.description,
            volumeBytes: record.volumeByteCount,
            blockBytes: record.volumeBlockByteCount,
            copyState: CopyState(rawValue: record.copyState)?.name ?? "unknown (\(record.copyState))",
            closedCleanly: record.isClosedCleanly,
            operation: record.operation == 0 ? nil : operation,
            source: record.isSecondSource ? "second" : "first",
            servesHosts: record.isSecondPrimary ? "second" : "first",
            targetConsistent: record.isTargetConsistent,
            sourceAhead: record.isSourceAhead,
            sourceInconsistent: record.isSourceInconsistent,
            bitmapTrust: "\(record.mapTrust)",
            logGeneration: record.logGeneration,
            granuleBytes: 1 << UInt64(record.granuleShift),
            extentBytes: 1 << UInt64(record.extentShift)
        )
    }

    // MARK: - Behind the record

    private static func layout(of record: PairRecord) -> MetadataLayout {
        MetadataLayout(
            volumeByteCount: record.volumeByteCount,
            granuleByteCount: UInt64(1) << UInt64(record.granuleShift)
        )
    }

    private static func log(_ maps: RecoveredMaps, _ record: PairRecord) -> Log {
        let shift = UInt64(record.extentShift)
        func ranges(_ side: UInt32) -> [Range] {
            let keys = maps.active.map(\.key).filter { $0 & ActivityLog.targetSide == side }.sorted()
            var ranges: [Range] = []
            for key in keys {
                let start = UInt64(key & ~ActivityLog.targetSide) << shift
                append(start, min(start + 1 << shift, record.volumeByteCount), to: &ranges)
            }
            return ranges
        }
        return Log(
            generation: record.logGeneration,
            sequence: maps.logSequence,
            activeExtents: maps.active.count,
            source: ranges(0),
            targetHosts: ranges(ActivityLog.targetSide)
        )
    }

    private static func bitmap(_ words: [UInt64], _ layout: MetadataLayout) -> Bitmap {
        var bitmap = Bitmap(dirtyBytes: 0, ranges: [])
        for (index, word) in words.enumerated() where word != 0 {
            for bit in 0..<UInt64(64) where word & 1 << bit != 0 {
                let granule = UInt64(index) << 6 | bit
                guard granule < layout.granuleCount else { break }
                let start = granule * layout.granuleByteCount
                let end = min(start + layout.granuleByteCount, layout.volumeByteCount)
                bitmap.dirtyBytes += end - start
                append(start, end, to: &bitmap.ranges)
            }
        }
        return bitmap
    }

    /// Adds a range that is not before the last one, and joins the two where they meet.
    private static func append(_ start: UInt64, _ end: UInt64, to ranges: inout [Range]) {
        if let last = ranges.last, last.offset + last.length == start {
            ranges[ranges.count - 1].length += end - start
        } else {
            ranges.append(Range(offset: start, length: end - start))
        }
    }

    /// The sectors that are not what was written to their places, as far as the area is there.
    private static func damagedSectors(_ area: [UInt8], _ pair: PairID, _ offset: UInt64) -> [DamagedSector] {
        let sectorByteCount = MetadataLayout.sectorByteCount
        let logStart = Int(MetadataLayout.logOffset)
        let logEnd = logStart + MetadataLayout.logBlockCount * MetadataLayout.blockByteCount
        let starts =
            Array(stride(from: logStart, to: logEnd, by: sectorByteCount))
            + Array(stride(from: Int(MetadataLayout.mapOffset), to: area.count, by: sectorByteCount))
        return starts.compactMap { start in
            guard start + sectorByteCount <= area.count else { return nil }
            let sector = unsafe area.span.bytes.extracting(start..<start + sectorByteCount)
            let place = UInt64(start)
            let isLog = start < logEnd
            let isValid =
                isLog
                ? ActivityLogSector.isValid(sector, pair, place: place)
                : BitmapSector.isValid(sector, pair, place: place)
            return isValid ? nil : DamagedSector(offset: offset + place, part: isLog ? "activity log" : "bitmap")
        }
    }
}
