import RepldCore
import Testing

@testable import RepldPair

/// Where a pair may differ, as it is told to others.
@Suite struct PairChangesTests {
    /// Three granules and a half.
    private static let byteCount: UInt64 = 3 * 65536 + 32768

    private func withPair(_ body: (inout Pair) -> Void) {
        var pair = Pair(volumeByteCount: Self.byteCount, settings: PairSettings(granuleByteCount: 65536))
        body(&pair)
    }

    @Test func isToldBySide() {
        withPair { pair in
            pair.markDirty(Extent(offset: 70000, length: 1))
            pair.markTargetChanged(Extent(offset: 140_000, length: 1))
            let first = ChangedSide.allCases.map { pair.nextDifference(from: 0, by: $0) }
            #expect(first == [65536, 131_072, 65536])
            let ends = ChangedSide.allCases.map { pair.endOfDifference(from: 65536, upTo: Self.byteCount, by: $0) }
            #expect(ends == [131_072, 65536, 196_608], "neighbours of both sides are one run")
        }
    }

    @Test func beginsAndEndsWhereItIsAsked() {
        withPair { pair in
            pair.markAllDirty()
            let next = pair.nextDifference(from: 70000)
            #expect(next == 70000)
            let cut = pair.endOfDifference(from: 70000, upTo: 70512)
            #expect(cut == 70512)
            let whole = pair.endOfDifference(from: 70000, upTo: Self.byteCount)
            #expect(whole == Self.byteCount, "the last granule is cut at the volume's end")
            let behind = pair.nextDifference(from: Self.byteCount)
            #expect(behind == nil)
            let far = pair.nextDifference(from: .max)
            #expect(far == nil)
        }
    }

    @Test func isNothingWhereNothingIsDirty() {
        withPair { pair in
            let next = pair.nextDifference(from: 0)
            #expect(next == nil)
            let end = pair.endOfDifference(from: 5, upTo: 512)
            #expect(end == 5)
        }
    }

    @Test func rolesThatAreReversedTakeTheirChangesAlong() {
        withPair { pair in
            pair.markDirty(Extent(offset: 0, length: 1))
            pair.swapSides()
            let bySide = ChangedSide.allCases.map { pair.nextDifference(from: 0, by: $0) }
            #expect(bySide == [nil, 0, 0])
        }
    }
}
