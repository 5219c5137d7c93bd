import RepldCore

/// What the dirty map of a large volume costs.
struct DirtyMapBenchmark: ~Copyable {
    private static var volumeByteCount: UInt64 { 16 << 40 }
    private static var granuleByteCount: UInt64 { 64 << 10 }
    /// Writes go to this many different granules, over and over.
    private static var hotGranuleCount: UInt64 { 1024 }
    /// Dirty granules of the nearly clean map, evenly spread with a random place each.
    private static var scatteredCount: UInt64 { 4096 }

    private var map = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
    private var random = RandomSource(seed: 1)

    var memoryByteCount: Int { map.memoryByteCount }

    /// Nanoseconds to mark 4 KiB in a granule that is dirty already.
    mutating func markHot(count: Int) -> Double {
        for granule in 0..<Self.hotGranuleCount {
            map.mark(touching: Extent(offset: granule * Self.granuleByteCount, length: 4096))
        }
        let hotByteCount = Self.hotGranuleCount * Self.granuleByteCount
        let start = processorNanoseconds()
        var offset: UInt64 = 0
        for _ in 0..<count {
            map.mark(touching: Extent(offset: offset, length: 4096))
            // A stride that is odd in blocks visits all of them, each time another granule.
            offset = (offset + 37 * 4096 + Self.granuleByteCount) & (hotByteCount - 1)
        }
        let nanoseconds = processorNanoseconds() - start
        invariant(map.dirtyGranuleCount == Self.hotGranuleCount, "marking what is dirty marks nothing new")
        map.clearAll()
        return Double(nanoseconds) / Double(count)
    }

    /// Nanoseconds to find the next dirty granule of a nearly clean map, far away each time.
    mutating func findNext(count: Int) -> Double {
        let stride = map.granuleCount / Self.scatteredCount
        for place in 0..<Self.scatteredCount {
            let granule = place * stride + random.next() % stride
            map.mark(touching: Extent(offset: granule * Self.granuleByteCount, length: 4096))
        }
        let start = processorNanoseconds()
        var foundCount: UInt64 = 0
        var cursor: UInt64 = 0
        var passCount: UInt64 = 0
        while foundCount < UInt64(count) || cursor != 0 {
            if let granule = map.nextDirty(from: cursor) {
                foundCount += 1
                cursor = granule + 1
            } else {
                passCount += 1
                cursor = 0
            }
        }
        let nanoseconds = processorNanoseconds() - start
        invariant(foundCount == passCount * Self.scatteredCount, "every pass finds each dirty granule once")
        map.clearAll()
        return Double(nanoseconds) / Double(foundCount)
    }
}
