import RepldCore
import Testing

/// The same promises kept in the plainest way: one truth value per granule.
private struct NaiveDirtyMap {
    let volumeByteCount: UInt64
    let granuleByteCount: UInt64
    var isDirty: [Bool]

    init(volumeByteCount: UInt64, granuleByteCount: UInt64) {
        self.volumeByteCount = volumeByteCount
        self.granuleByteCount = granuleByteCount
        var count = 0
        while UInt64(count) * granuleByteCount < volumeByteCount { count += 1 }
        isDirty = Array(repeating: false, count: count)
    }

    func bytes(of granule: Int) -> Range<UInt64> {
        let start = UInt64(granule) * granuleByteCount
        return start..<min(start + granuleByteCount, volumeByteCount)
    }

    mutating func mark(touching extent: Extent) {
        for granule in isDirty.indices where bytes(of: granule).overlaps(extent.offset..<extent.end) {
            isDirty[granule] = true
        }
    }

    mutating func clear(inside extent: Extent) {
        for granule in isDirty.indices {
            let bytes = bytes(of: granule)
            if extent.offset <= bytes.lowerBound && bytes.upperBound <= extent.end { isDirty[granule] = false }
        }
    }

    func isDirty(touching extent: Extent) -> Bool {
        isDirty.indices.contains { isDirty[$0] && bytes(of: $0).overlaps(extent.offset..<extent.end) }
    }

    func nextDirty(from granule: Int) -> UInt64? {
        guard granule < isDirty.count else { return nil }
        return isDirty[granule...].firstIndex(of: true).map(UInt64.init)
    }

    var dirtyByteCount: UInt64 {
        isDirty.indices.reduce(0) { $0 + (isDirty[$1] ? UInt64(bytes(of: $1).count) : 0) }
    }
}

@Suite("The dirty map")
struct DirtyMapTests {
    /// Sizes around one granule, one word, one word of the first summary, and a volume with a short last granule.
    static let granuleCounts: [UInt64] = [1, 2, 63, 64, 65, 127, 128, 129, 4095, 4096, 4097]

    @Test(
        "agrees with one truth value per granule, whatever is done to it",
        arguments: granuleCounts,
        [0, 1, 512, 4095]
    )
    func agreesWithNaiveModel(granuleCount: UInt64, shortBy: UInt64) {
        let granule: UInt64 = 4096
        let size = granuleCount * granule - shortBy
        var map = DirtyMap(volumeByteCount: size, granuleByteCount: granule)
        var model = NaiveDirtyMap(volumeByteCount: size, granuleByteCount: granule)
        var random = RandomSource(seed: granuleCount << 16 | shortBy)
        for step in 0..<200 {
            let extent = Self.extent(within: size, granule: granule, &random)
            switch random.below(8) {
            case 0...3:
                map.mark(touching: extent)
                model.mark(touching: extent)
            case 4...6:
                map.clear(inside: extent)
                model.clear(inside: extent)
            default:
                if random.chance(oneIn: 4) {
                    map.clearAll()
                    model.clear(inside: Extent(offset: 0, length: size))
                }
            }
            Self.compare(map, model, probe: extent, step: step)
        }
    }

    /// An extent whose ends lie on a granule's edge, one byte off it, or anywhere.
    private static func extent(within size: UInt64, granule: UInt64, _ random: inout RandomSource) -> Extent {
        func place(_ random: inout RandomSource) -> UInt64 {
            let edge = random.below(size / granule + 1) * granule
            switch random.below(5) {
            case 0: return min(edge, size)
            case 1: return min(edge + 1, size)
            case 2: return edge > 0 ? min(edge - 1, size) : 0
            case 3: return size - random.below(min(size, 2) + 1)
            default: return random.below(size + 1)
            }
        }
        let ends = (place(&random), place(&random))
        return Extent(offset: min(ends.0, ends.1), length: max(ends.0, ends.1) - min(ends.0, ends.1))
    }

    private static func compare(_ map: borrowing DirtyMap, _ model: NaiveDirtyMap, probe: Extent, step: Int) {
        map.checkInvariants()
        var differing: [Int] = []
        for granule in model.isDirty.indices {
            if map.isDirty(granule: UInt64(granule)) != model.isDirty[granule] { differing.append(granule) }
        }
        #expect(differing.isEmpty, "granules that differ from the model after step \(step)")
        let count = map.dirtyGranuleCount
        #expect(count == UInt64(model.isDirty.count { $0 }))
        let bytes = map.dirtyByteCount
        #expect(bytes == model.dirtyByteCount)
        let isClean = map.isClean
        #expect(isClean == !model.isDirty.contains(true))
        let touched = map.isDirty(touching: probe)
        #expect(touched == model.isDirty(touching: probe), "probe \(probe) at step \(step)")
        for start in [0, 1, 62, 63, 64, 65, model.isDirty.count / 2, model.isDirty.count - 1, model.isDirty.count] {
            let next = map.nextDirty(from: UInt64(start))
            #expect(next == model.nextDirty(from: start), "from granule \(start) at step \(step)")
        }
    }

    @Test(
        "a write marks the granules it touches, and only those",
        arguments: [UInt64(0), 1, 2, 62, 63, 64, 65, 126, 127]
    )
    func marksExactly(granule: UInt64) {
        let size: UInt64 = 128 * 4096
        let start = granule * 4096
        let cases: [(offset: UInt64, length: UInt64, granules: Range<UInt64>)] = [
            (start, 1, granule..<granule + 1),
            (start, 4096, granule..<granule + 1),
            (start + 4095, 1, granule..<granule + 1),
            (start, 4097, granule..<granule + 2),
            (start + 4095, 2, granule..<granule + 2),
        ]
        for example in cases where example.offset + example.length <= size {
            var map = DirtyMap(volumeByteCount: size, granuleByteCount: 4096)
            map.mark(touching: Extent(offset: example.offset, length: example.length))
            let run = map.nextDirtyRun(from: 0, limit: 128)
            #expect(run == example.granules)
            let count = map.dirtyGranuleCount
            #expect(count == UInt64(example.granules.count))
            map.checkInvariants()
        }
    }

    @Test("an acknowledgement that covers a granule in part leaves it dirty")
    func clearsWholeGranulesOnly() {
        var map = DirtyMap(volumeByteCount: 16 * 4096, granuleByteCount: 4096)
        map.markAll()
        map.clear(inside: Extent(offset: 4096 + 1, length: 4095))
        map.clear(inside: Extent(offset: 4096, length: 4095))
        let untouched = map.dirtyGranuleCount
        #expect(untouched == 16)
        map.clear(inside: Extent(offset: 4096 - 1, length: 4096 + 2))
        let isDirty = (map.isDirty(granule: 0), map.isDirty(granule: 1), map.isDirty(granule: 2))
        #expect(isDirty == (true, false, true))
        map.checkInvariants()
    }

    @Test("the short last granule is cleared by an acknowledgement up to the end, and counted by its own length")
    func shortLastGranule() {
        var map = DirtyMap(volumeByteCount: 2 * 4096 + 512, granuleByteCount: 4096)
        map.markAll()
        let all = map.dirtyByteCount
        #expect(all == 2 * 4096 + 512)
        map.clear(inside: Extent(offset: 2 * 4096, length: 511))
        let notYet = map.isDirty(granule: 2)
        #expect(notYet)
        map.clear(inside: Extent(offset: 2 * 4096, length: 512))
        let cleared = (map.isDirty(granule: 2), map.dirtyByteCount)
        #expect(cleared == (false, 2 * 4096))
        let last = map.extent(of: 2..<3)
        #expect(last == Extent(offset: 2 * 4096, length: 512))
    }

    @Test(
        "an empty extent marks and clears nothing, at either end of the volume",
        arguments: [UInt64(0), 1, 4096, 65536]
    )
    func emptyExtent(offset: UInt64) {
        var map = DirtyMap(volumeByteCount: 65536, granuleByteCount: 4096)
        map.mark(touching: Extent(offset: offset, length: 0))
        let isClean = map.isClean
        #expect(isClean)
        map.markAll()
        map.clear(inside: Extent(offset: offset, length: 0))
        let count = map.dirtyGranuleCount
        #expect(count == 16)
        let isDirty = map.isDirty(touching: Extent(offset: offset, length: 0))
        #expect(!isDirty)
    }

    @Test("a volume of no bytes has no dirty granule")
    func emptyVolume() {
        var map = DirtyMap(volumeByteCount: 0, granuleByteCount: 4096)
        map.markAll()
        let seen = (map.granuleCount, map.dirtyByteCount, map.nextDirty(from: 0))
        #expect(seen == (0, 0, nil))
        map.checkInvariants()
    }

    @Test("a run ends at a clean granule, at the limit and at the end of the volume")
    func runs() {
        var map = DirtyMap(volumeByteCount: 200 * 4096, granuleByteCount: 4096)
        map.mark(touching: Extent(offset: 60 * 4096, length: 10 * 4096))
        map.mark(touching: Extent(offset: 190 * 4096, length: 10 * 4096))
        let whole = map.nextDirtyRun(from: 0, limit: 64)
        #expect(whole == 60..<70)
        let cut = map.nextDirtyRun(from: 61, limit: 3)
        #expect(cut == 61..<64)
        let one = map.nextDirtyRun(from: 69, limit: 1)
        #expect(one == 69..<70)
        let last = map.nextDirtyRun(from: 70, limit: 64)
        #expect(last == 190..<200)
        let behind = map.nextDirtyRun(from: 200, limit: 64)
        #expect(behind == nil)
    }

    @Test("a union is dirty where either map was", arguments: [UInt64(1), 7, 42])
    func union(seed: UInt64) {
        let size: UInt64 = 5000 * 4096 - 512
        var random = RandomSource(seed: seed)
        var left = DirtyMap(volumeByteCount: size, granuleByteCount: 4096)
        var right = DirtyMap(volumeByteCount: size, granuleByteCount: 4096)
        var model = NaiveDirtyMap(volumeByteCount: size, granuleByteCount: 4096)
        for round in 0..<60 {
            let extent = Self.extent(within: size, granule: 4096, &random)
            let short = Extent(offset: extent.offset, length: min(extent.length, 100 * 4096))
            if round % 2 == 0 { left.mark(touching: short) } else { right.mark(touching: short) }
            model.mark(touching: short)
        }
        let before = right.dirtyGranuleCount
        left.formUnion(right)
        Self.compare(left, model, probe: Extent(offset: 0, length: size), step: 0)
        let after = right.dirtyGranuleCount
        #expect(before == after, "the other map is only read")
    }

    @Test("a run that either of two maps has ends where both are clean", arguments: [UInt64(1), 7, 42])
    func joinedRuns(seed: UInt64) {
        let count: UInt64 = 700
        var random = RandomSource(seed: seed)
        var left = DirtyMap(volumeByteCount: count * 4096, granuleByteCount: 4096)
        var right = DirtyMap(volumeByteCount: count * 4096, granuleByteCount: 4096)
        var isDirty = [Bool](repeating: false, count: Int(count))
        for round in 0..<12 {
            let first = random.below(count)
            let length = min(1 + random.below(90), count - first)
            let extent = Extent(offset: first * 4096, length: length * 4096)
            if round % 2 == 0 { left.mark(touching: extent) } else { right.mark(touching: extent) }
            for granule in first..<first + length { isDirty[Int(granule)] = true }
        }
        for granule in 0..<count {
            for limit in [granule, granule + 1, granule + 64, count] where limit <= count {
                let expected = isDirty[Int(granule)..<Int(limit)].firstIndex(of: false) ?? Int(limit)
                let found = left.endOfRun(from: granule, limit: limit, joining: right)
                #expect(found == UInt64(expected), "from \(granule), at most to \(limit)")
            }
        }
    }

    @Test(
        "a nearly clean 16 TiB map finds its one dirty granule",
        arguments: [0, 1, 63, 64, 4096, 1_048_576, 16_777_215] as [UInt64]
    )
    func sparse(granule: UInt64) {
        var map = DirtyMap(volumeByteCount: 16 << 40, granuleByteCount: 1 << 20)
        map.mark(touching: Extent(offset: granule << 20, length: 1))
        let found = (map.nextDirty(from: 0), map.nextDirty(from: granule), map.nextDirty(from: granule + 1))
        #expect(found == (granule, granule, nil))
        let bytes = map.memoryByteCount
        #expect(bytes < (2 << 20) * 65 / 63, "one bit per granule and about 1/63 more")
        map.clear(inside: Extent(offset: granule << 20, length: 1 << 20))
        let none = map.nextDirty(from: 0)
        #expect(none == nil)
    }

    @Test("a granule behind the end of the volume is not asked about")
    func granuleBehindTheEnd() async {
        await #expect(processExitsWith: .failure) {
            // 128 granules fill two words; what follows them in memory is the summary.
            let map = DirtyMap(volumeByteCount: 128 * 4096, granuleByteCount: 4096)
            _ = map.isDirty(granule: 128)
        }
        await #expect(processExitsWith: .failure) {
            let map = DirtyMap(volumeByteCount: 128 * 4096, granuleByteCount: 4096)
            _ = map.extent(of: 127..<129)
        }
    }

    @Test("a map that grows keeps its marks, over more words and levels, and its last granule")
    func growth() {
        for (before, after) in [(4096 + 512, 4096 + 1024), (63 << 12, 65 << 12), (1 << 20, 1 << 34)]
            as [(UInt64, UInt64)]
        {
            var map = DirtyMap(volumeByteCount: before, granuleByteCount: 4096)
            let marked = [0, map.granuleCount / 2, map.granuleCount - 1]
            for granule in marked { map.mark(touching: map.extent(of: granule..<granule + 1)) }
            let count = map.dirtyGranuleCount
            map.grow(to: after)
            map.checkInvariants()
            #expect(map.volumeByteCount == after)
            #expect(map.dirtyGranuleCount == count)
            for granule in marked {
                let isDirty = map.isDirty(granule: granule)
                #expect(isDirty)
            }
            map.mark(touching: Extent(offset: after - 1, length: 1))
            let isLastDirty = map.isDirty(granule: map.granuleCount - 1)
            #expect(isLastDirty)
            map.clearAll()
            map.checkInvariants()
        }
    }

    @Test("a run of no length stops the process")
    func runOfNoLength() async {
        await #expect(processExitsWith: .failure) {
            var map = DirtyMap(volumeByteCount: 4096, granuleByteCount: 4096)
            map.markAll()
            _ = map.nextDirtyRun(from: 0, limit: 0)
        }
    }

    @Test("an extent past the end of the volume stops the process")
    func extentPastTheEnd() async {
        await #expect(processExitsWith: .failure) {
            var map = DirtyMap(volumeByteCount: 4096, granuleByteCount: 4096)
            map.mark(touching: Extent(offset: 4096, length: 1))
        }
    }

    @Test("a granule size that is no power of two, or out of range, stops the process")
    func granuleSizes() async {
        await #expect(processExitsWith: .failure) {
            _ = DirtyMap(volumeByteCount: 1 << 20, granuleByteCount: 4097)
        }
        await #expect(processExitsWith: .failure) {
            _ = DirtyMap(volumeByteCount: 1 << 20, granuleByteCount: 2048)
        }
        await #expect(processExitsWith: .failure) {
            _ = DirtyMap(volumeByteCount: 1 << 20, granuleByteCount: 2 << 20)
        }
    }
}
