package import RepldCore

/// The durable record of one pair: which pair it is, where its copy stood, and whether it was closed cleanly.
///
/// The area has two blocks of 4096 bytes. A record with sequence n is written to block n mod 2, so that the record
/// before it is still whole while it is written; recovery takes the valid block with the greater sequence. All numbers
/// are little-endian:
///
///     offset  size  field
///          0     8  magic "REPLPAIR"
///          8     4  version, 7 (1 to 6 are read as well: their fields from 50, from 56, from 72, from 80 on, and at 62, are zero)
///         12     4  CRC-32C of the 4096 bytes, with these four taken as zero
///         16     8  sequence, from 1
///         24    16  pair id (high, low)
///         40     8  size of the volume in bytes
///         48     1  copy state, the standard's number
///         49     1  flags: bit 0 closed cleanly, 1 second element is the source, 2 second element serves hosts,
///                   3 target is a usable image, 4 source is ahead, 5 source is inconsistent,
///                   6 the undo area is whole (`UndoLayout`), 7 a restore over a link is under way
///         50     1  operation under way, the standard's number; 0 for none
///         51     1  how much the bitmaps can be relied on (`MapTrust`)
///         52     4  block size of the volume in bytes; 0 in version 1
///         56     4  generation of the activity log that counts
///         60     1  log2 of the bitmaps' granule in bytes
///         61     1  log2 of the activity log's extent in bytes
///         62     1  flags: bit 0 the element was brought back to what it held before a copy,
///                   1 the peer was told no record of this run (from version 7 on)
///         63     1  zero
///         64     4  serving epoch: counts how often another element of the volume has become the one that serves hosts
///         68     4  generation of the undo area, which its pages carry
///         72     4  term: counts how often the pair has moved to the daemon of its other element
///         76     4  zero
///         80     8  generation: the run that wrote the record; 0 in a pair of one host
///         88     8  confirmed: the sequence of the latest record that the peer is known to have had
///         96    16  generation and sequence of the peer's record by which this side took the pair over
///        112   128  the runs before, newest first: generation and sequence of the last record of each of eight
///        240  3856  zero
///
/// Meaning of "closed cleanly": everything acknowledged is durable on the source and, when the state is Synchronized, on
/// the target, nothing has been written to either since, and the bitmaps say all that may differ. Without it, the extents of
/// the activity log may differ as well. So a pair that is opened first writes a record without the flag, and only then touches
/// an element.
///
/// A pair has a first element, which was the volume's when the pair was made, and a second, which was its target. Roles and
/// service may move between them; the record, and nothing else, says where they are. A record that moves them is written
/// twice, into both blocks, before a host may write: then one damaged block cannot hide the move.
package struct PairRecord: Hashable, Sendable, BitwiseCopyable {
    package var sequence: UInt64
    package var pair: PairID
    package var volumeByteCount: UInt64
    /// The raw number of the copy state; `RepldPair` knows its meaning.
    package var copyState: UInt8
    package var isClosedCleanly: Bool
    /// The raw number of the operation under way; 0 for none.
    package var operation: UInt8 = 0
    /// The volume's block size in bytes; 0 where a record of version 1 does not say.
    package var volumeBlockByteCount: UInt32 = 0
    /// Roles are reversed: the second element is the source.
    package var isSecondSource = false
    /// Hosts are served by the second element: it has the data that counts.
    package var isSecondPrimary = false
    /// The target is a usable image.
    package var isTargetConsistent = false
    /// The source has changes that the target never had.
    package var isSourceAhead = false
    /// The source is half restored.
    package var isSourceInconsistent = false
    /// What the source lacks is on the target, behind a peer.
    package var isRestoringOverLink = false
    /// How much the bitmaps of the area can be relied on.
    package var mapTrust = MapTrust.none
    package var logGeneration: UInt32 = 0
    package var granuleShift: UInt8 = 16
    package var extentShift: UInt8 = 22
    /// How often another element of the volume has become the one that serves hosts.
    ///
    /// A pair compares with the serving element: the maps of one whose record has missed a change say nothing any more.
    package var servingEpoch: UInt32 = 0
    /// What a copy has overwritten on the target can be taken back: the undo area of `undoGeneration` has its old content.
    package var hasUndo = false
    package var undoGeneration: UInt32 = 0
    /// Of a replica's copy alone: its element holds again what it held before the copy that the record tells of.
    ///
    /// To the source that is as if the replica had no record: of what it knows to be equal, nobody knows what still is.
    package var isTakenBack = false
    /// How often a pair between two hosts has moved to the daemon of its other element.
    ///
    /// Of two daemons that both have the pair, the one with the greater term has it rightly.
    package var term: UInt32 = 0
    /// What identifies the history of a pair between two hosts.
    package var lineage = Lineage()
    /// The other block of the area may have held a later record, and is damaged; not stored.
    package var isOneBehind = false

    package static var blockByteCount: Int { 4096 }
    package static var areaByteCount: Int { 2 * blockByteCount }

    package init(
        sequence: UInt64,
        pair: PairID,
        volumeByteCount: UInt64,
        copyState: UInt8,
        isClosedCleanly: Bool
    ) {
        self.sequence = sequence
        self.pair = pair
        self.volumeByteCount = volumeByteCount
        self.copyState = copyState
        self.isClosedCleanly = isClosedCleanly
    }

    /// What the record says of its side's history.
    package func side(hasPair: Bool) -> SideRecord {
        var side = SideRecord(pair: pair, volumeByteCount: volumeByteCount, hasPair: hasPair)
        guard !isTakenBack else { return side }
        side.term = term
        side.sequence = sequence
        side.lineage = lineage
        return side
    }

    /// Whether the two records say the same of what the target is an image of.
    package func isOfSameImage(as other: PairRecord) -> Bool {
        volumeByteCount == other.volumeByteCount && isTargetConsistent == other.isTargetConsistent
            && hasUndo == other.hasUndo
            && undoGeneration == other.undoGeneration && isTakenBack == other.isTakenBack
    }

    /// Where in the area the record is written.
    package var areaOffset: UInt64 { (sequence & 1) * UInt64(Self.blockByteCount) }
}

/// What is wrong with one block of a pair's metadata area.
package enum PairRecordDamage: Error, Hashable, Sendable {
    /// Shorter than a block.
    case truncated(byteCount: Int)
    /// All zero: never written.
    case blank
    case wrongMagic
    case unknownVersion(UInt32)
    case wrongChecksum(stored: UInt32, computed: UInt32)
    /// Whole, but with a value that no version of repld writes; which field.
    case impossible(String)

    /// Words for a log line.
    package var words: String {
        switch self {
        case .truncated(let byteCount): "only \(byteCount) of \(PairRecord.blockByteCount) bytes are there"
        case .blank: "never written"
        case .wrongMagic: "not a pair record (wrong magic)"
        case .unknownVersion(let version): "format version \(version) is not known here; versions 1 to 7 are"
        case .wrongChecksum(let stored, let computed): "checksum is \(stored), but its bytes give \(computed)"
        case .impossible(let field): "impossible value in \(field)"
        }
    }
}

extension PairRecord {
    private static var magic: UInt64 { 0x5249_4150_4C50_4552 }  // "REPLPAIR" read as a little-endian number
    private static var version: UInt32 { 7 }
    private static var checksumOffset: Int { 12 }
    /// More records than any pair is ever written, and far enough from the end of the number for all that follow.
    private static var sequenceLimit: UInt64 { 1 << 62 }

    /// Writes the record over a whole block.
    package func encode(into block: inout MutableRawSpan) {
        invariant(block.byteCount == Self.blockByteCount, "a record fills one block")
        for word in 0..<Self.blockByteCount / 8 { block.storeLittleEndian(UInt64(0), at: word * 8) }
        block.storeLittleEndian(Self.magic, at: 0)
        block.storeLittleEndian(Self.version, at: 8)
        block.storeLittleEndian(sequence, at: 16)
        block.storeLittleEndian(pair.high, at: 24)
        block.storeLittleEndian(pair.low, at: 32)
        block.storeLittleEndian(volumeByteCount, at: 40)
        block.storeLittleEndian(copyState, at: 48)
        block.storeLittleEndian(flags, at: 49)
        block.storeLittleEndian(operation, at: 50)
        block.storeLittleEndian(mapTrust.rawValue, at: 51)
        block.storeLittleEndian(volumeBlockByteCount, at: 52)
        block.storeLittleEndian(logGeneration, at: 56)
        block.storeLittleEndian(granuleShift, at: 60)
        block.storeLittleEndian(extentShift, at: 61)
        block.storeLittleEndian(UInt8((isTakenBack ? 1 : 0) | (lineage.isTold ? 0 : 2)), at: 62)
        block.storeLittleEndian(servingEpoch, at: 64)
        block.storeLittleEndian(undoGeneration, at: 68)
        block.storeLittleEndian(term, at: 72)
        encodeLineage(into: &block)
        block.storeLittleEndian(Checksum.crc32c(block.bytes), at: Self.checksumOffset)
    }

    private func encodeLineage(into block: inout MutableRawSpan) {
        block.storeLittleEndian(lineage.generation.rawValue, at: 80)
        block.storeLittleEndian(lineage.confirmedSequence, at: 88)
        block.storeLittleEndian(lineage.takenOverAt.generation.rawValue, at: 96)
        block.storeLittleEndian(lineage.takenOverAt.sequence, at: 104)
        for age in 0..<GenerationHistory.capacity {
            block.storeLittleEndian(lineage.history[age].generation.rawValue, at: 112 + 16 * age)
            block.storeLittleEndian(lineage.history[age].sequence, at: 120 + 16 * age)
        }
    }

    private static func decodeLineage(_ block: RawSpan) -> Lineage {
        var lineage = Lineage()
        lineage.generation = Generation(block.loadLittleEndian(at: 80))
        lineage.confirmedSequence = block.loadLittleEndian(at: 88)
        lineage.takenOverAt = HistoryPoint(
            Generation(block.loadLittleEndian(at: 96)),
            block.loadLittleEndian(at: 104)
        )
        for age in 0..<GenerationHistory.capacity {
            lineage.history.generations[age] = block.loadLittleEndian(at: 112 + 16 * age)
            lineage.history.sequences[age] = block.loadLittleEndian(at: 120 + 16 * age)
        }
        return lineage
    }

    private var flags: UInt8 {
        var flags: UInt8 = 0
        let bits = [
            isClosedCleanly, isSecondSource, isSecondPrimary, isTargetConsistent, isSourceAhead, isSourceInconsistent,
            hasUndo, isRestoringOverLink,
        ]
        for (bit, isSet) in bits.enumerated() where isSet { flags |= 1 << UInt8(bit) }
        return flags
    }

    /// Reads a record from a block, trusting nothing in it.
    package static func decode(_ block: RawSpan) throws(PairRecordDamage) -> PairRecord {
        guard block.byteCount >= blockByteCount else { throw .truncated(byteCount: block.byteCount) }
        guard block.loadLittleEndian(at: 0, as: UInt64.self) == magic else {
            var isBlank = true
            for word in 0..<blockByteCount / 8 where block.loadLittleEndian(at: word * 8, as: UInt64.self) != 0 {
                isBlank = false
                break
            }
            throw isBlank ? .blank : .wrongMagic
        }
        let stored: UInt32 = block.loadLittleEndian(at: checksumOffset)
        var computed = Checksum.crc32c(block.extracting(0..<checksumOffset))
        let zeroes: [UInt8] = [0, 0, 0, 0]
        computed = unsafe Checksum.crc32c(zeroes.span.bytes, continuing: computed)
        computed = Checksum.crc32c(block.extracting(checksumOffset + 4..<blockByteCount), continuing: computed)
        guard stored == computed || Mutation.isOn(.trustsDamagedRecord) else {
            throw .wrongChecksum(stored: stored, computed: computed)
        }
        let foundVersion: UInt32 = block.loadLittleEndian(at: 8)
        guard (1...version).contains(foundVersion) else { throw .unknownVersion(foundVersion) }
        let flags: UInt8 = block.loadLittleEndian(at: 49)
        let bitCount: UInt8 = [2: 6, 3: 7, 4: 7, 5: 8, 6: 8, 7: 8][foundVersion] ?? 1
        guard UInt16(flags) < 1 << UInt16(bitCount) else { throw .impossible("flags") }
        var record = PairRecord(
            sequence: block.loadLittleEndian(at: 16),
            pair: PairID(high: block.loadLittleEndian(at: 24), low: block.loadLittleEndian(at: 32)),
            volumeByteCount: block.loadLittleEndian(at: 40),
            copyState: block.loadLittleEndian(at: 48),
            isClosedCleanly: flags & 1 != 0
        )
        record.operation = block.loadLittleEndian(at: 50)
        record.volumeBlockByteCount = block.loadLittleEndian(at: 52)
        record.isSecondSource = flags & 2 != 0
        record.isSecondPrimary = flags & 4 != 0
        record.isTargetConsistent = flags & 8 != 0
        record.isSourceAhead = flags & 16 != 0
        record.isSourceInconsistent = flags & 32 != 0
        record.hasUndo = flags & 64 != 0
        record.isRestoringOverLink = flags & 128 != 0
        guard record.sequence > 0, record.sequence <= sequenceLimit else { throw .impossible("sequence") }
        // What the kernel counts in is signed.
        guard record.volumeByteCount <= UInt64(Int64.max) else { throw .impossible("size of the volume") }
        if foundVersion >= 3 { try decodeMaps(block, into: &record) }
        if foundVersion >= 4 { record.term = block.loadLittleEndian(at: 72) }
        if foundVersion >= 5 { record.lineage = decodeLineage(block) }
        if foundVersion >= 6 {
            let more: UInt8 = block.loadLittleEndian(at: 62)
            guard more < (foundVersion == 6 ? 2 : 4) else { throw .impossible("flags at byte 62") }
            record.isTakenBack = more & 1 != 0
            record.lineage.isTold = more & 2 == 0
        }
        return record
    }

    private static func decodeMaps(_ block: RawSpan, into record: inout PairRecord) throws(PairRecordDamage) {
        guard let trust = MapTrust(rawValue: block.loadLittleEndian(at: 51)) else { throw .impossible("trust") }
        record.mapTrust = trust
        record.logGeneration = block.loadLittleEndian(at: 56)
        record.granuleShift = block.loadLittleEndian(at: 60)
        record.extentShift = block.loadLittleEndian(at: 61)
        record.servingEpoch = block.loadLittleEndian(at: 64)
        record.undoGeneration = block.loadLittleEndian(at: 68)
        guard (12...20).contains(record.granuleShift) else { throw .impossible("granule") }
        guard (record.granuleShift...record.granuleShift + 10).contains(record.extentShift) else {
            throw .impossible("extent of the activity log")
        }
    }
}

/// What the two blocks of a metadata area say together.
package enum PairRecordRecovery: Hashable, Sendable {
    /// Both blocks are as they should be.
    case found(PairRecord)
    /// One block is damaged, and may have held the newer record: the other one is used, but never as cleanly closed.
    case older(PairRecord, damage: PairRecordDamage)
    /// Never written.
    case blank
    /// Neither block can be read.
    case lost(PairRecordDamage, PairRecordDamage)

    /// Decides by what the two blocks of the area are.
    ///
    ///     first    second   decision
    ///     valid    valid    the one with the greater sequence; equal sequences: older, not clean;
    ///                       records of two pairs: lost, because nobody can say which of them is meant
    ///     valid    blank    the valid one, if it is the first ever (sequence 1), but without trust in the bitmaps, because
    ///                       the second record may have been there, and zeroed; else older, not clean
    ///     valid    damaged  older, not clean: the damaged block may have said that the pair was opened since
    ///     blank    blank    blank
    ///     damaged  damaged or blank   lost
    package static func decide(_ first: RawSpan, _ second: RawSpan) -> PairRecordRecovery {
        let firstResult = read(first)
        let secondResult = read(second)
        switch (firstResult, secondResult) {
        case (.success(let left), .success(let right)):
            if left.pair != right.pair { return .lost(.impossible("pair id"), .impossible("pair id")) }
            if left.sequence == right.sequence { return .older(unclean(left), damage: .impossible("sequence")) }
            return .found(left.sequence > right.sequence ? left : right)
        case (.success(let record), .failure(let damage)), (.failure(let damage), .success(let record)):
            if damage == .blank && record.sequence == 1 { return .found(untrusted(record)) }
            return .older(unclean(record), damage: damage)
        case (.failure(.blank), .failure(.blank)):
            return .blank
        case (.failure(let left), .failure(let right)):
            return .lost(left, right)
        }
    }

    private static func read(_ block: RawSpan) -> Result<PairRecord, PairRecordDamage> {
        do throws(PairRecordDamage) {
            return .success(try PairRecord.decode(block))
        } catch {
            return .failure(error)
        }
    }

    private static func unclean(_ record: PairRecord) -> PairRecord {
        var record = untrusted(record)
        record.isClosedCleanly = false
        record.isOneBehind = true
        return record
    }

    /// The record that cannot be read may have said that the bitmaps are not to be relied on, and that the peer is told of the run.
    private static func untrusted(_ record: PairRecord) -> PairRecord {
        var record = record
        record.mapTrust = .none
        record.lineage.isTold = true
        return record
    }
}
