import RepldCore
import RepldFormat
import Testing

/// A metadata area in memory, as whoever drives a pair would write it, with records of the log that may be torn.
struct MapArea {
    static let extentByteCount: UInt64 = 1 << 20
    static let granuleByteCount: UInt64 = 64 << 10

    var bytes: [UInt8]
    var record: PairRecord

    init(
        volumeByteCount: UInt64 = 1 << 30,
        pair: PairID = PairID(high: 0x0123_4567_89AB_CDEF, low: 42),
        generation: UInt32 = 1
    ) {
        let layout = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: Self.granuleByteCount)
        bytes = [UInt8](repeating: 0, count: Int(layout.areaByteCount))
        record = PairRecord(
            sequence: 1,
            pair: pair,
            volumeByteCount: volumeByteCount,
            copyState: 4,
            isClosedCleanly: false
        )
        record.mapTrust = .exact
        record.logGeneration = generation
        record.granuleShift = UInt8(Self.granuleByteCount.trailingZeroBitCount)
        record.extentShift = UInt8(Self.extentByteCount.trailingZeroBitCount)
        for number in 0..<MetadataLayout.logBlockCount {
            write(at: MetadataLayout.logOffset + UInt64(number * 4096)) { block in
                ActivityLogSector.encodeBlank(number: number, pair, into: &block)
            }
        }
        let map = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: Self.granuleByteCount)
        write(map, side: 0)
        write(map, side: 1)
        writeRecord()
    }

    /// Puts a block there, or those sectors of it whose bits are set.
    mutating func write(at offset: UInt64, sectors: UInt8 = .max, _ encode: (inout MutableRawSpan) -> Void) {
        var block = [UInt8](repeating: 0xEE, count: 4096)
        block.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            encode(&span)
        }
        for sector in 0..<8 where sectors & 1 << UInt8(sector) != 0 {
            let start = Int(offset) + sector * 512
            bytes.replaceSubrange(start..<start + 512, with: block[sector * 512..<(sector + 1) * 512])
        }
    }

    /// Writes the record that the log owes, or those sectors of it whose bits are set.
    mutating func writeLog(_ log: borrowing ActivityLog, sectors: UInt8 = .max) {
        let (pair, generation) = (record.pair, record.logGeneration)
        write(at: MetadataLayout.logBlockOffset(sequence: log.sequence), sectors: sectors) { block in
            ActivityLogSector.encodeRecord(of: log, generation: generation, pair, into: &block)
        }
    }

    mutating func write(_ map: borrowing DirtyMap, side: UInt64) {
        let layout = MetadataLayout(volumeByteCount: record.volumeByteCount, granuleByteCount: map.granuleByteCount)
        let pair = record.pair
        for page in 0..<layout.pageCount {
            let number = 2 * page + side
            write(at: MetadataLayout.pageOffset(number)) { block in
                BitmapSector.encodePage(number, of: map, pair, into: &block)
            }
        }
    }

    mutating func writeRecord() {
        let record = record
        write(at: record.areaOffset) { block in record.encode(into: &block) }
    }

    func read(granuleByteCount: UInt64 = MapArea.granuleByteCount) -> RecoveredMaps {
        RecoveredMaps.read(bytes.span.bytes, record, granuleByteCount: granuleByteCount)
    }

    /// The bytes of a block of the ring.
    static func ringBlock(_ number: Int) -> Range<Int> {
        let start = Int(MetadataLayout.logOffset) + number * 4096
        return start..<start + 4096
    }
}

/// The keys that a log holds, by slot: those that recovery has to find once its last record is durable.
func activeExtents(of log: borrowing ActivityLog) -> [ActiveExtent] {
    var active: [ActiveExtent] = []
    for slot in 0..<log.slotCount where log.key(inSlot: slot) != ActivityLog.noKey {
        active.append(ActiveExtent(slot: slot, key: log.key(inSlot: slot)))
    }
    return active
}

/// Asks for extents that random writes need, and evicts others to make room.
func wantSome(in log: inout ActivityLog, keyCount: UInt64, _ random: inout RandomSource) {
    for _ in 0..<1 + random.below(random.chance(oneIn: 3) ? 200 : 6) {
        let side = random.chance(oneIn: 5) ? ActivityLog.targetSide : 0
        _ = log.want(UInt32(random.below(keyCount)) | side)
    }
    if log.freeCount < log.wantedCount {
        _ = log.chooseLeaving(limit: 1 + Int(random.below(150)))
        log.leavingIsDurable()
    }
}
