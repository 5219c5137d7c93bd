import RepldCore
import RepldFormat
import Testing

/// The record of a pair and the decision over its two blocks.
@Suite struct PairRecordTests {
    private func record(_ sequence: UInt64, isClosedCleanly: Bool = true) -> PairRecord {
        PairRecord(
            sequence: sequence,
            pair: PairID(high: 0x0123_4567_89AB_CDEF, low: 42),
            volumeByteCount: 1 << 40,
            copyState: 4,
            isClosedCleanly: isClosedCleanly
        )
    }

    private func block(_ record: PairRecord) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xFF, count: PairRecord.blockByteCount)
        bytes.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            record.encode(into: &span)
        }
        return bytes
    }

    private func decide(_ first: [UInt8], _ second: [UInt8]) -> PairRecordRecovery {
        PairRecordRecovery.decide(first.span.bytes, second.span.bytes)
    }

    private let blank = [UInt8](repeating: 0, count: PairRecord.blockByteCount)

    @Test func whatIsWrittenIsRead() throws {
        for isClean in [true, false] {
            let written = record(5, isClosedCleanly: isClean)
            #expect(try PairRecord.decode(block(written).span.bytes) == written)
        }
    }

    /// Golden bytes: the format is a promise to the next version.
    @Test func formatIsAsDocumented() {
        let bytes = block(record(0x0102))
        #expect(Array(bytes[0..<8]) == Array("REPLPAIR".utf8))
        #expect(Array(bytes[8..<12]) == [7, 0, 0, 0])
        #expect(Array(bytes[16..<24]) == [2, 1, 0, 0, 0, 0, 0, 0])
        #expect(Array(bytes[24..<32]) == [0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01])
        #expect(bytes[48] == 4 && bytes[49] == 1)
        #expect(bytes[50..<60].allSatisfy { $0 == 0 })
        #expect(bytes[60] == 16 && bytes[61] == 22)
        #expect(bytes[62...].allSatisfy { $0 == 0 })
    }

    /// Version 2: who is source, who serves, what is under way.
    @Test func placesAndOperationAreAsDocumented() throws {
        var moved = record(3, isClosedCleanly: false)
        moved.operation = 15
        moved.volumeBlockByteCount = 4096
        moved.isSecondPrimary = true
        moved.isSourceInconsistent = true
        let bytes = block(moved)
        #expect(bytes[49] == 0b10_0100 && bytes[50] == 15 && bytes[51] == 0)
        #expect(Array(bytes[52..<56]) == [0, 16, 0, 0])
        #expect(try PairRecord.decode(bytes.span.bytes) == moved)
        for (flag, bit) in [
            (\PairRecord.isClosedCleanly, 0), (\.isSecondSource, 1), (\.isSecondPrimary, 2), (\.isTargetConsistent, 3),
            (\.isSourceAhead, 4), (\.isSourceInconsistent, 5), (\.hasUndo, 6),
        ] {
            var one = record(3, isClosedCleanly: false)
            one[keyPath: flag] = true
            #expect(block(one)[49] == 1 << UInt8(bit))
            #expect(try PairRecord.decode(block(one).span.bytes) == one)
        }
    }

    /// Version 5: which records lie behind it.
    @Test func lineageIsAsDocumented() throws {
        var record = record(9)
        for (generation, last) in [(1, 3), (2, 4), (0x0102, 6)] {
            record.lineage.begin(Generation(UInt64(generation)), after: UInt64(last))
            record.lineage.isTold = true
        }
        record.lineage.begin(.none, after: 8)
        record.lineage.confirmedSequence = 7
        record.lineage.takenOverAt = HistoryPoint(Generation(2), 5)
        var bytes = block(record)
        #expect(try PairRecord.decode(bytes.span.bytes) == record)
        let words = stride(from: 80, to: 160, by: 8).map { bytes.span.bytes.loadLittleEndian(at: $0, as: UInt64.self) }
        #expect(words == [0x0102, 7, 2, 5, 2, 6, 1, 4, 0, 0])
        bytes[8] = 4
        seal(&bytes)
        #expect(try PairRecord.decode(bytes.span.bytes).lineage == Lineage())
    }

    /// Version 6: to the source it is as if the replica had no record.
    @Test func whatWasTakenBackHasNoHistory() throws {
        var record = record(9)
        record.lineage.generation = Generation(1)
        record.isTakenBack = true
        var bytes = block(record)
        #expect(bytes[62] == 1 && bytes[63] == 0)
        let found = try PairRecord.decode(bytes.span.bytes)
        #expect(found == record)
        let side = found.side(hasPair: false)
        #expect(side == SideRecord(pair: record.pair, volumeByteCount: record.volumeByteCount, hasPair: false))
        var own = record
        own.isTakenBack = false
        own.lineage.confirmedSequence = 9
        #expect(HandshakeDecision.decide(own.side(hasPair: true), side) == .compareAll(.lostRecord))
        bytes[8] = 5
        seal(&bytes)
        #expect(try PairRecord.decode(bytes.span.bytes).isTakenBack == false)
    }

    /// Version 7: only what is known to be untold takes no place in the history.
    @Test func untoldRunsAreForgotten() throws {
        var record = record(9)
        record.lineage.begin(Generation(1), after: 0)
        record.lineage.isTold = true
        record.lineage.begin(Generation(2), after: 5)
        var bytes = block(record)
        #expect(bytes[62] == 2)
        #expect(try PairRecord.decode(bytes.span.bytes) == record)
        let parted = record.lineage
        for generation in 3...20 { record.lineage.begin(Generation(UInt64(generation)), after: 9) }
        #expect(record.lineage.history == parted.history && record.lineage.history[0] == HistoryPoint(Generation(1), 5))
        #expect(record.lineage.toldPart.generation == Generation(1) && record.lineage.toldPart.isTold)
        #expect(record.lineage.toldPart.history == GenerationHistory())
        bytes[62] = 4
        seal(&bytes)
        #expect(throws: PairRecordDamage.impossible("flags at byte 62")) { try PairRecord.decode(bytes.span.bytes) }
        bytes[62] = 0
        bytes[8] = 6
        seal(&bytes)
        #expect(try PairRecord.decode(bytes.span.bytes).lineage.isTold, "of a time in which nobody knew")
    }

    /// The damaged block may have said that the peer is told.
    @Test func whatStandsInForADamagedRecordIsTold() throws {
        var record = record(9)
        record.lineage.begin(Generation(1), after: 0)
        var damaged = block(record)
        damaged[8] ^= 1
        guard case .older(let found, _) = PairRecordRecovery.decide(damaged.span.bytes, block(record).span.bytes) else {
            Issue.record("one of the two is whole")
            return
        }
        #expect(found.lineage.isTold)
    }

    /// A record of version 1, made by hand: its pair is where it was made, and nothing is under way.
    @Test func theFirstVersionIsRead() throws {
        var bytes = block(record(9))
        bytes[8] = 1
        seal(&bytes)
        #expect(try PairRecord.decode(bytes.span.bytes) == record(9))
        bytes[49] = 3
        seal(&bytes)
        #expect(throws: PairRecordDamage.impossible("flags")) { try PairRecord.decode(bytes.span.bytes) }
        bytes[8] = 8
        seal(&bytes)
        #expect(throws: PairRecordDamage.unknownVersion(8)) { try PairRecord.decode(bytes.span.bytes) }
    }

    /// Version 3: how far the bitmaps are relied on, which activity log counts, and the sizes of both.
    @Test(arguments: MapTrust.allCases)
    func mapsAreAsDocumented(trust: MapTrust) throws {
        var record = record(7, isClosedCleanly: false)
        record.mapTrust = trust
        record.logGeneration = 0x0102_0304
        record.granuleShift = 12
        record.extentShift = 22
        let bytes = block(record)
        #expect(bytes[51] == trust.rawValue)
        #expect(Array(bytes[56..<62]) == [4, 3, 2, 1, 12, 22])
        #expect(try PairRecord.decode(bytes.span.bytes) == record)
    }

    /// Version 4: how often the pair has moved to the other daemon, which an older record does not say.
    @Test func termIsAsDocumented() throws {
        var record = record(7, isClosedCleanly: false)
        record.term = 0x0102_0304
        var bytes = block(record)
        #expect(Array(bytes[72..<76]) == [4, 3, 2, 1])
        #expect(try PairRecord.decode(bytes.span.bytes) == record)
        bytes[8] = 3
        seal(&bytes)
        record.term = 0
        #expect(try PairRecord.decode(bytes.span.bytes) == record)
    }

    /// Whatever stood where version 3 has its maps, an older record has none.
    @Test(arguments: [1, 2] as [UInt8])
    func olderVersionsHaveNoMaps(version: UInt8) throws {
        var bytes = block(record(9))
        bytes[8] = version
        for place in [51, 56, 60, 61] { bytes[place] = 0 }
        seal(&bytes)
        #expect(try PairRecord.decode(bytes.span.bytes) == record(9))
        bytes[51] = MapTrust.exact.rawValue
        bytes[56] = 9
        seal(&bytes)
        let found = try PairRecord.decode(bytes.span.bytes)
        #expect(found.mapTrust == .none && found.logGeneration == 0)
    }

    @Test(
        arguments: [
            (51, 3, "trust"), (51, 255, "trust"), (60, 11, "granule"), (60, 21, "granule"), (60, 0, "granule"),
            (61, 15, "extent of the activity log"), (61, 27, "extent of the activity log"),
            (47, 0x80, "size of the volume"), (62, 4, "flags at byte 62"),
        ] as [(Int, UInt8, String)]
    )
    func impossibleFieldsAreNamed(place: Int, value: UInt8, field: String) {
        var bytes = block(record(9))
        bytes[place] = value
        seal(&bytes)
        #expect(throws: PairRecordDamage.impossible(field)) { try PairRecord.decode(bytes.span.bytes) }
    }

    /// All that a record says is in the first sector: a block that is torn between sectors is the old one or the new one.
    @Test func tornBlockIsOneOfTwoRecords() throws {
        let old = record(7)
        var new = record(9, isClosedCleanly: false)
        new.mapTrust = .exact
        new.logGeneration = 8
        for written in 0..<256 {
            var torn = block(old)
            for sector in 0..<8 where written & 1 << sector != 0 {
                torn.replaceSubrange(
                    sector * 512..<(sector + 1) * 512,
                    with: block(new)[sector * 512..<(sector + 1) * 512]
                )
            }
            #expect(try PairRecord.decode(torn.span.bytes) == (written & 1 == 0 ? old : new))
        }
    }

    /// Found by the fuzzer: with the second record zeroed, the first one's bitmaps were believed.
    @Test func firstRecordHasNoTrust() {
        var first = record(1)
        first.mapTrust = .exact
        #expect(decide(blank, block(first)) == .found(record(1)))
    }

    /// The block that cannot be read may have said that the bitmaps are not to be relied on, or that another log counts.
    @Test func olderRecordHasNoTrust() {
        var trusted = record(8)
        trusted.mapTrust = .exact
        guard case .older(let found, .wrongMagic) = decide(block(trusted), [UInt8](repeating: 1, count: 4096)) else {
            Issue.record("the older record is used")
            return
        }
        #expect(found.mapTrust == .none)
    }

    private func seal(_ bytes: inout [UInt8]) {
        bytes.replaceSubrange(12..<16, with: [0, 0, 0, 0])
        let checksum = Checksum.crc32c(bytes.span.bytes)
        for byte in 0..<4 { bytes[12 + byte] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * byte)) }
    }

    @Test(
        arguments: [(0, false), (1, true), (1 << 62, true), ((1 << 62) + 1, false), (.max, false)] as [(UInt64, Bool)]
    )
    func impossibleSequenceIsRefused(sequence: UInt64, isPossible: Bool) throws {
        let bytes = block(record(sequence))
        if isPossible {
            #expect(try PairRecord.decode(bytes.span.bytes).sequence == sequence)
        } else {
            #expect(throws: PairRecordDamage.impossible("sequence")) { try PairRecord.decode(bytes.span.bytes) }
        }
    }

    @Test func everyFlippedBitIsNoticed() {
        let good = block(record(9))
        for byte in 0..<128 {
            for bit in 0..<8 {
                var bad = good
                bad[byte] ^= 1 << UInt8(bit)
                #expect(throws: PairRecordDamage.self) { try PairRecord.decode(bad.span.bytes) }
            }
        }
        for byte in stride(from: 128, to: PairRecord.blockByteCount, by: 97) {
            var bad = good
            bad[byte] ^= 0x10
            #expect(throws: PairRecordDamage.self) { try PairRecord.decode(bad.span.bytes) }
        }
    }

    @Test(arguments: [0, 1, 511, 4095])
    func shortBlockIsRefused(byteCount: Int) {
        let bytes = Array(block(record(1))[..<byteCount])
        #expect(throws: PairRecordDamage.truncated(byteCount: byteCount)) { try PairRecord.decode(bytes.span.bytes) }
    }

    @Test func greaterSequenceWins() {
        #expect(decide(block(record(8)), block(record(7))) == .found(record(8)))
        #expect(decide(block(record(8)), block(record(9))) == .found(record(9)))
    }

    @Test func firstRecordStandsAlone() {
        #expect(decide(blank, block(record(1))) == .found(record(1)))
        #expect(decide(blank, blank) == .blank)
    }

    /// A damaged block may have held the newer record, which said that the pair was open: never trust "clean" then.
    @Test func olderRecordIsNeverClean() {
        var torn = block(record(9, isClosedCleanly: false))
        torn[4000] ^= 1
        guard case .older(let found, .wrongChecksum) = decide(block(record(8)), torn) else {
            Issue.record("the older record is used")
            return
        }
        #expect(found.sequence == 8 && !found.isClosedCleanly)
        guard case .older(let zeroed, .blank) = decide(block(record(8)), blank) else {
            Issue.record("a block that was zeroed is noticed")
            return
        }
        #expect(!zeroed.isClosedCleanly)
    }

    @Test func equalSequencesAreNeverClean() {
        guard case .older(let found, _) = decide(block(record(8)), block(record(8))) else {
            Issue.record("two records of one sequence are impossible")
            return
        }
        #expect(!found.isClosedCleanly)
    }

    /// Found by the simulator: an area that another pair had used was believed.
    @Test func recordsOfTwoPairsAreNoRecord() {
        var other = record(3)
        other.pair = PairID(high: 7, low: 7)
        guard case .lost = decide(block(record(8)), block(other)) else {
            Issue.record("an area belongs to one pair")
            return
        }
    }

    @Test func nothingReadableIsSaidSo() {
        let noise = [UInt8](repeating: 0x5A, count: PairRecord.blockByteCount)
        #expect(decide(noise, noise) == .lost(.wrongMagic, .wrongMagic))
        #expect(decide(noise, blank) == .lost(.wrongMagic, .blank))
    }
}
