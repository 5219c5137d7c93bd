package import RepldCore

/// Where things are in a pair's metadata area.
///
///     offset      size        what
///          0      8 KiB       the pair's record, two blocks (`PairRecord`)
///      8 KiB     32 KiB       the activity log: a ring of 8 blocks (`ActivityLogSector`)
///     40 KiB     24 KiB       zero
///     64 KiB      8 KiB each  bitmap pages (`BitmapSector`): for each run of 31 744 granules one of what may differ
///                             because the source was written, and one of what the target's own hosts wrote
///
/// Everything behind the record is made of sectors of 512 bytes with a checksum of their own, because a sector is what a
/// device writes whole or not at all: a block that is torn by a loss of power has old and new sectors, and all of them are
/// valid. A sector that is not valid has been damaged, and says nothing.
///
/// The area is a file, or lies at the end of an element. Its size for a volume of 1 TiB: 4.2 MiB at 64 KiB granules,
/// 66 MiB at 4 KiB, 0.3 MiB at 1 MiB.
package struct MetadataLayout: Hashable, Sendable, BitwiseCopyable {
    package let volumeByteCount: UInt64
    package let granuleByteCount: UInt64

    package init(volumeByteCount: UInt64, granuleByteCount: UInt64) {
        self.volumeByteCount = volumeByteCount
        self.granuleByteCount = granuleByteCount
    }

    package static var blockByteCount: Int { 4096 }
    package static var sectorByteCount: Int { 512 }
    package static var sectorsPerBlock: Int { blockByteCount / sectorByteCount }
    package static var logOffset: UInt64 { 8 << 10 }
    package static var logBlockCount: Int { 8 }
    package static var mapOffset: UInt64 { 64 << 10 }
    /// Words of 64 granules in a bitmap page.
    ///
    /// A multiple of 16, so that the granules of an extent of the activity log (at most 1024) never straddle two pages.
    package static var wordsPerPage: Int { sectorsPerBlock * BitmapSector.wordCount }
    package static var granulesPerPage: UInt64 { UInt64(64 * wordsPerPage) }

    package var granuleCount: UInt64 { Self.count(of: granuleByteCount, in: volumeByteCount) }
    /// Pages of each of the two maps.
    package var pageCount: UInt64 { (granuleCount + Self.granulesPerPage - 1) / Self.granulesPerPage }
    package var areaByteCount: UInt64 { Self.mapOffset + 2 * pageCount * UInt64(Self.blockByteCount) }

    /// Where a page is; `number` is twice the page, and one more for the map of the target's side.
    package static func pageOffset(_ number: UInt64) -> UInt64 { mapOffset + number * UInt64(blockByteCount) }

    /// Where a record of the activity log is written.
    package static func logBlockOffset(sequence: UInt64) -> UInt64 {
        logOffset + (sequence % UInt64(logBlockCount)) * UInt64(blockByteCount)
    }

    /// The largest volume, and the extents of the activity log that fit its keys.
    ///
    /// The last key of the target's side stands for "no extent".
    package static func isValid(extentByteCount: UInt64, granuleByteCount: UInt64, volumeByteCount: UInt64) -> Bool {
        extentByteCount.nonzeroBitCount == 1 && extentByteCount >= granuleByteCount
            && extentByteCount <= 1024 * granuleByteCount
            && count(of: extentByteCount, in: volumeByteCount) < UInt64(ActivityLog.targetSide)
    }

    /// How many pieces of a size a volume has, the last of which may be short; no volume is too large to be asked about.
    static func count(of pieceByteCount: UInt64, in volumeByteCount: UInt64) -> UInt64 {
        let (whole, rest) = volumeByteCount.quotientAndRemainder(dividingBy: pieceByteCount)
        return rest == 0 ? whole : whole + 1
    }
}

/// How much the bitmaps in a metadata area can be relied on.
package enum MapTrust: UInt8, Sendable, BitwiseCopyable, CaseIterable {
    /// Not at all: everything may differ.
    case none = 0
    /// Together they cover what may differ, but not each its own side.
    case union = 1
    /// Each covers its side, together with the extents of the activity log.
    case exact = 2
}

/// The head of a checksummed sector: 16 bytes.
///
///     offset  size  field
///          0     4  CRC-32C of the pair id (high, low), the sector's place in the area in bytes, and bytes 4 to 511
///          4     4  kind: "RLAL" activity log, "RLBM" bitmap, "RLUD" bitmap of an undo area
///          8     8  activity log: sequence of the record; bitmap: zero; undo area: its generation
///
/// The pair and the place are in the checksum, so that a sector of another pair, or of another place, is not valid.
enum MetadataSector {
    static var headByteCount: Int { 16 }

    static func checksum(_ sector: borrowing RawSpan, _ pair: PairID, place: UInt64) -> UInt32 {
        var salt = InlineArray<3, UInt64>(repeating: 0)
        salt[0] = pair.high.littleEndian
        salt[1] = pair.low.littleEndian
        salt[2] = place.littleEndian
        let start = Checksum.crc32c(unsafe salt.span.bytes)
        return Checksum.crc32c(sector.extracting(4..<MetadataLayout.sectorByteCount), continuing: start)
    }

    static func isValid(_ sector: borrowing RawSpan, kind: UInt32, _ pair: PairID, place: UInt64) -> Bool {
        guard sector.byteCount == MetadataLayout.sectorByteCount else { return false }
        guard sector.loadLittleEndian(at: 4, as: UInt32.self) == kind else { return false }
        return sector.loadLittleEndian(at: 0, as: UInt32.self) == checksum(sector, pair, place: place)
    }

    /// Completes a sector inside a block, whose other fields are there.
    static func seal(_ block: inout MutableRawSpan, at start: Int, kind: UInt32, _ pair: PairID, place: UInt64) {
        block.storeLittleEndian(kind, at: start + 4)
        let sum = checksum(block.bytes.extracting(start..<start + MetadataLayout.sectorByteCount), pair, place: place)
        block.storeLittleEndian(sum, at: start)
    }
}

/// One sector of a bitmap page: the bits of 62 words of 64 granules, behind a head of 16 bytes.
///
/// Bit n of word w is granule 64 · w + n of the map, counted from the sector's first; bits behind the end of the volume are
/// zero.
package enum BitmapSector {
    package static var wordCount: Int { 62 }
    private static var kind: UInt32 { 0x4D42_4C52 }  // "RLBM" read as a little-endian number
    private static var undoKind: UInt32 { 0x4455_4C52 }  // "RLUD" read as a little-endian number

    /// Writes page `number` (`MetadataLayout.pageOffset`) of `map` over a whole block.
    package static func encodePage(
        _ number: UInt64,
        of map: borrowing DirtyMap,
        _ pair: PairID,
        into block: inout MutableRawSpan
    ) {
        encodePage(number, pair, into: &block) { word in word < map.wordCount ? map.word(word) : 0 }
    }

    /// Writes page `page` of the undo area over a whole block: the granules whose old content is there.
    package static func encodeUndoPage(
        _ page: UInt64,
        of saved: borrowing DirtyMap,
        generation: UInt32,
        _ pair: PairID,
        into block: inout MutableRawSpan
    ) {
        let head = Head(kind: undoKind, sequence: UInt64(generation), place: UndoLayout.pageOffset(page))
        encode(head, firstWord: Int(page) * MetadataLayout.wordsPerPage, pair, into: &block) { word in
            word < saved.wordCount ? saved.word(word) : 0
        }
    }

    /// Appends the words of a page of the undo area; false when a sector is damaged or of another generation.
    static func decodeUndoPage(
        _ page: UInt64,
        _ block: borrowing RawSpan,
        generation: UInt32,
        _ pair: PairID,
        into words: inout [UInt64]
    ) -> Bool {
        for sector in 0..<MetadataLayout.sectorsPerBlock {
            let start = sector * MetadataLayout.sectorByteCount
            let bytes = block.extracting(start..<start + MetadataLayout.sectorByteCount)
            let place = UndoLayout.pageOffset(page) + UInt64(start)
            guard MetadataSector.isValid(bytes, kind: undoKind, pair, place: place) else { return false }
            guard bytes.loadLittleEndian(at: 8, as: UInt64.self) == UInt64(generation) else { return false }
            for index in 0..<wordCount {
                words.append(bytes.loadLittleEndian(at: MetadataSector.headByteCount + index * 8))
            }
        }
        return true
    }

    /// Writes page `number` with the bits of both maps over a whole block.
    package static func encodeJoinedPage(
        _ number: UInt64,
        _ dirty: borrowing DirtyMap,
        _ targetChanged: borrowing DirtyMap,
        _ pair: PairID,
        into block: inout MutableRawSpan
    ) {
        encodePage(number, pair, into: &block) { word in
            word < dirty.wordCount ? dirty.word(word) | targetChanged.word(word) : 0
        }
    }

    private static func encodePage(
        _ number: UInt64,
        _ pair: PairID,
        into block: inout MutableRawSpan,
        bits: (Int) -> UInt64
    ) {
        let head = Head(kind: kind, sequence: 0, place: MetadataLayout.pageOffset(number))
        encode(head, firstWord: Int(number / 2) * MetadataLayout.wordsPerPage, pair, into: &block, bits: bits)
    }

    private struct Head {
        var kind: UInt32
        var sequence: UInt64
        var place: UInt64
    }

    private static func encode(
        _ head: Head,
        firstWord: Int,
        _ pair: PairID,
        into block: inout MutableRawSpan,
        bits: (Int) -> UInt64
    ) {
        for sector in 0..<MetadataLayout.sectorsPerBlock {
            let start = sector * MetadataLayout.sectorByteCount
            block.storeLittleEndian(head.sequence, at: start + 8)
            for index in 0..<wordCount {
                let word = firstWord + sector * wordCount + index
                block.storeLittleEndian(bits(word), at: start + MetadataSector.headByteCount + index * 8)
            }
            MetadataSector.seal(&block, at: start, kind: head.kind, pair, place: head.place + UInt64(start))
        }
    }

    /// Whether a sector of a bitmap page is what was written to this place of the area.
    package static func isValid(_ sector: borrowing RawSpan, _ pair: PairID, place: UInt64) -> Bool {
        MetadataSector.isValid(sector, kind: kind, pair, place: place)
    }

    /// Appends the words of a page to `words`; a sector that is not valid counts as all dirty.
    ///
    /// Returns the number of those.
    package static func decodePage(
        _ number: UInt64,
        _ block: borrowing RawSpan,
        _ pair: PairID,
        into words: inout [UInt64]
    ) -> Int {
        var damagedCount = 0
        for sector in 0..<MetadataLayout.sectorsPerBlock {
            let start = sector * MetadataLayout.sectorByteCount
            let bytes = block.extracting(start..<start + MetadataLayout.sectorByteCount)
            let place = MetadataLayout.pageOffset(number) + UInt64(start)
            let isValid =
                MetadataSector.isValid(bytes, kind: kind, pair, place: place) || Mutation.isOn(.trustsDamagedPage)
            if !isValid { damagedCount += 1 }
            for index in 0..<wordCount {
                words.append(
                    isValid ? bytes.loadLittleEndian(at: MetadataSector.headByteCount + index * 8) : UInt64.max
                )
            }
        }
        return damagedCount
    }
}

/// One sector of a record of the activity log: up to 80 entries, behind a head of 16 bytes.
///
///     offset  size  field
///          0    16  head; its sequence counts the records of this generation of the log, from 1
///         16     4  generation of the log: only entries of the generation that the pair's record names count
///         20     2  number of entries
///         22     2  number of the sector in its record
///         24   480  entries of 6 bytes: slot (2), key (4; 2^32 - 1 for "free")
///        504     8  zero
///
/// A record is a block of 8 sectors, written to block *sequence mod 8* of the ring. It has the slots that it changes, at most
/// 128, and then 512 slots of the table as it is, a window that goes on with each record: so any two records in a row, with
/// those behind them, have the whole table. A record that is not whole on disk is left out: an extent that it activates has not
/// been written yet, and what it evicts is still in the table of the record before. Its sequence is never used again, but its
/// block is: the next record has a sequence that is 8 greater. So no block looks whole that has sectors of two records.
package enum ActivityLogSector {
    package static var entryLimit: Int { 80 }
    private static var kind: UInt32 { 0x4C41_4C52 }  // "RLAL" read as a little-endian number
    private static var entriesOffset: Int { 24 }
    private static var entryByteCount: Int { 6 }

    /// Writes the record that is owed over a whole block.
    package static func encodeRecord(
        of log: borrowing ActivityLog,
        generation: UInt32,
        _ pair: PairID,
        into block: inout MutableRawSpan
    ) {
        clear(&block, generation: generation, sequence: log.sequence)
        var count = 0
        for index in 0..<log.updateCount {
            let slot = log.update(index)
            put(slot, log.key(inSlot: slot), number: &count, into: &block)
        }
        for index in 0..<ActivityLog.contextCount {
            let slot = (log.contextStart + index) % log.slotCount
            put(slot, log.key(inSlot: slot), number: &count, into: &block)
        }
        seal(&block, pair, sequence: log.sequence)
    }

    /// Writes a block of a log that was never used.
    package static func encodeBlank(number: Int, _ pair: PairID, into block: inout MutableRawSpan) {
        clear(&block, generation: 0, sequence: 0)
        seal(&block, pair, sequence: UInt64(number))
    }

    private static func clear(_ block: inout MutableRawSpan, generation: UInt32, sequence: UInt64) {
        for word in 0..<MetadataLayout.blockByteCount / 8 { block.storeLittleEndian(UInt64(0), at: word * 8) }
        for sector in 0..<MetadataLayout.sectorsPerBlock {
            let start = sector * MetadataLayout.sectorByteCount
            block.storeLittleEndian(sequence, at: start + 8)
            block.storeLittleEndian(generation, at: start + 16)
            block.storeLittleEndian(UInt16(sector), at: start + 22)
        }
    }

    private static func put(_ slot: Int, _ key: UInt32, number: inout Int, into block: inout MutableRawSpan) {
        let start = number / entryLimit * MetadataLayout.sectorByteCount
        let offset = start + entriesOffset + number % entryLimit * entryByteCount
        block.storeLittleEndian(UInt16(slot), at: offset)
        block.storeLittleEndian(key, at: offset + 2)
        block.storeLittleEndian(UInt16(number % entryLimit + 1), at: start + 20)
        number += 1
    }

    private static func seal(_ block: inout MutableRawSpan, _ pair: PairID, sequence: UInt64) {
        for sector in 0..<MetadataLayout.sectorsPerBlock {
            let start = sector * MetadataLayout.sectorByteCount
            let place = MetadataLayout.logBlockOffset(sequence: sequence) + UInt64(start)
            MetadataSector.seal(&block, at: start, kind: kind, pair, place: place)
        }
    }

    /// Whether a sector of the log is what was written to this place of the area.
    package static func isValid(_ sector: borrowing RawSpan, _ pair: PairID, place: UInt64) -> Bool {
        head(sector, pair, place: place) != nil
    }

    struct Head {
        var generation: UInt32
        var sequence: UInt64
        var number: Int
    }

    /// Reads the head of a sector; `nil` when the sector is damaged.
    static func head(_ sector: borrowing RawSpan, _ pair: PairID, place: UInt64) -> Head? {
        guard MetadataSector.isValid(sector, kind: kind, pair, place: place) else { return nil }
        let head = Head(
            generation: sector.loadLittleEndian(at: 16),
            sequence: sector.loadLittleEndian(at: 8),
            number: Int(sector.loadLittleEndian(at: 22, as: UInt16.self))
        )
        let isPossible = entryCount(of: sector) <= entryLimit && head.number < MetadataLayout.sectorsPerBlock
        return isPossible ? head : nil
    }

    /// The number of entries of a sector whose head was read.
    static func entryCount(of sector: borrowing RawSpan) -> Int {
        Int(sector.loadLittleEndian(at: 20, as: UInt16.self))
    }

    /// An entry of a sector whose head was read.
    static func entry(_ index: Int, of sector: borrowing RawSpan) -> (slot: Int, key: UInt32) {
        let offset = entriesOffset + index * entryByteCount
        return (Int(sector.loadLittleEndian(at: offset, as: UInt16.self)), sector.loadLittleEndian(at: offset + 2))
    }
}
