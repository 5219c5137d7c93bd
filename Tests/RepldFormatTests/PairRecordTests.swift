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
        #expect(Array(bytes[8..<12]) == [1, 0, 0, 0])
        #expect(Array(bytes[16..<24]) == [2, 1, 0, 0, 0, 0, 0, 0])
        #expect(Array(bytes[24..<32]) == [0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01])
        #expect(bytes[48] == 4 && bytes[49] == 1)
        #expect(bytes[50...].allSatisfy { $0 == 0 })
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
