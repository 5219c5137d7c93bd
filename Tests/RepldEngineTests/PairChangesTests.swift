import RepldCore
import Testing

@testable import RepldEngine
@testable import RepldPair

/// The bounds of one answer about changes.
@Suite struct PairChangesAnswerTests {
    private static let granule: UInt64 = 4096
    /// What one answer may cover.
    private static let span = PairChanges.granuleLimit * granule

    /// All answers to questions that continue each other.
    private func answers(_ pair: borrowing Pair, from start: UInt64 = 0) -> [PairChanges] {
        var answers: [PairChanges] = []
        var offset: UInt64? = start
        while let from = offset, answers.count < 100 {
            let answer = pair.changes(ChangesQuery(offset: from))
            answers.append(answer)
            offset = answer.nextOffset
        }
        return answers
    }

    @Test func aRunOfManyGranulesIsCutAndGoesOn() {
        let byteCount = 2 * Self.span + 512
        var pair = Pair(volumeByteCount: byteCount, settings: PairSettings(granuleByteCount: UInt32(Self.granule)))
        pair.markAllDirty()
        let found = answers(pair)
        let span = Self.span
        let cuts = [Extent(offset: 0, length: span), Extent(offset: span, length: span)]
        #expect(found.map(\.runs) == (cuts + [Extent(offset: 2 * span, length: 512)]).map { [$0] })
        #expect(found.map(\.nextOffset) == [span, 2 * span, nil])
        let late = answers(pair, from: 512)
        let first = Extent(offset: 512, length: span - 512)
        #expect(late.first?.runs == [first], "a part of a granule counts as one")
        #expect(late.reduce(0) { $0 + $1.runs.reduce(0) { $0 + $1.length } } == byteCount - 512)
    }

    @Test func whatIsCleanCostsNothingAndIsPassedOver() {
        var pair = Pair(volumeByteCount: 16 * Self.span, settings: PairSettings(granuleByteCount: UInt32(Self.granule)))
        let ends = [Extent(offset: 0, length: 1), Extent(offset: 16 * Self.span - 1, length: 1)]
        for extent in ends { pair.markTargetChanged(extent) }
        let found = answers(pair)
        #expect(found.count == 1)
        #expect(found.first?.runs.map(\.offset) == [0, 16 * Self.span - Self.granule])
    }

    @Test(arguments: [(-1, 1), (0, 1), (1, 1), (7, 7), (1000, 1000), (1001, 1000), (Int.max, 1000)])
    func anAnswerHasABoundedNumberOfRuns(wanted: Int, given: Int) {
        var pair = Pair(
            volumeByteCount: 4096 * Self.granule,
            settings: PairSettings(granuleByteCount: UInt32(Self.granule))
        )
        for index in 0..<UInt64(2048) { pair.markDirty(Extent(offset: index * 8192, length: 1)) }
        let answer = pair.changes(ChangesQuery(runLimit: wanted))
        #expect(answer.runs.count == given && answer.nextOffset == UInt64(given) * 8192)
    }
}
