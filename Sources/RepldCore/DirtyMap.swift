/// Which parts of a volume a copy may lack, one bit per granule of 4 KiB to 1 MiB.
///
/// A hierarchy of bitmaps: level 0 has one bit per granule, and a bit of each higher level says that its 64-bit word of
/// the level below is not zero. So marking a granule that is already dirty is one load and one compare, and the next
/// dirty granule of a nearly clean volume is found in as many steps as there are levels (at most 6 for 2^36 granules).
///
/// Invariants: `dirtyGranuleCount` is the number of bits set in level 0; a bit of level n+1 is set exactly when its word
/// of level n is not zero; bits behind the end of the volume are never set.
/// Memory: 1 bit per granule and 1/63 more: 16 MiB per 8 TiB at 64 KiB, stated by `memoryByteCount`.
/// Not thread-safe: owned by the loop of its volume.
package struct DirtyMap: ~Copyable {
    /// Size of the volume in bytes.
    package let volumeByteCount: UInt64
    /// log2 of the granule in bytes.
    package let granuleShift: UInt8
    package let granuleCount: UInt64
    package private(set) var dirtyGranuleCount: UInt64 = 0
    private var words: FixedArray<UInt64>
    /// Where each level starts in `words`; level 0 first.
    ///
    /// One more entry ends the last level.
    private var levelStarts: FixedArray<Int>

    package static var granuleByteCounts: ClosedRange<UInt64> { 4096...(1 << 20) }

    /// Makes a clean map; `granuleByteCount` is a power of two in `granuleByteCounts`.
    package init(volumeByteCount: UInt64, granuleByteCount: UInt64) {
        invariant(
            Self.granuleByteCounts.contains(granuleByteCount) && granuleByteCount.nonzeroBitCount == 1,
            "a granule is a power of two from 4 KiB to 1 MiB"
        )
        self.volumeByteCount = volumeByteCount
        granuleShift = UInt8(granuleByteCount.trailingZeroBitCount)
        granuleCount = (volumeByteCount + granuleByteCount - 1) >> UInt64(granuleShift)
        var starts = [0]
        var bits = max(granuleCount, 1)
        repeat {
            let wordCount = (bits + 63) / 64
            starts.append(starts[starts.count - 1] + Int(wordCount))
            bits = wordCount
        } while bits > 1
        words = FixedArray(repeating: 0, count: starts[starts.count - 1])
        levelStarts = FixedArray(count: starts.count) { starts[$0] }
    }

    package var granuleByteCount: UInt64 { 1 << UInt64(granuleShift) }
    package var isClean: Bool { dirtyGranuleCount == 0 }
    package var memoryByteCount: Int { words.count * 8 }

    /// Upper bound of the bytes that may differ: whole granules, the last one cut at the volume's end.
    package var dirtyByteCount: UInt64 {
        guard dirtyGranuleCount > 0 else { return 0 }
        let whole = dirtyGranuleCount << UInt64(granuleShift)
        let excess = (granuleCount << UInt64(granuleShift)) - volumeByteCount
        return isDirty(granule: granuleCount - 1) ? whole - excess : whole
    }

    /// The granules that an extent touches, even in part.
    package func granules(touching extent: Extent) -> Range<UInt64> {
        guard extent.length > 0 else { return 0..<0 }
        invariant(extent.end <= volumeByteCount, "an extent lies inside the volume")
        return (extent.offset >> UInt64(granuleShift))..<(((extent.end - 1) >> UInt64(granuleShift)) + 1)
    }

    /// The granules that lie wholly inside an extent; the last granule of the volume may be short.
    package func granules(inside extent: Extent) -> Range<UInt64> {
        guard extent.length > 0 else { return 0..<0 }
        invariant(extent.end <= volumeByteCount, "an extent lies inside the volume")
        let first = (extent.offset + granuleByteCount - 1) >> UInt64(granuleShift)
        let end = extent.end == volumeByteCount ? granuleCount : extent.end >> UInt64(granuleShift)
        return first < end ? first..<end : 0..<0
    }

    /// The bytes of a run of granules, cut at the end of the volume.
    package func extent(of granules: Range<UInt64>) -> Extent {
        invariant(granules.upperBound <= granuleCount, "a run of granules lies inside the volume")
        let offset = granules.lowerBound << UInt64(granuleShift)
        let end = min(granules.upperBound << UInt64(granuleShift), volumeByteCount)
        return Extent(offset: offset, length: end - offset)
    }

    package func isDirty(granule: UInt64) -> Bool {
        // Behind the last granule the words of the next level begin: the table's own check would not notice.
        invariant(granule < granuleCount, "a granule lies inside the volume")
        return words[Int(granule >> 6)] & (1 << (granule & 63)) != 0
    }

    /// Whether any granule that the extent touches is dirty.
    package func isDirty(touching extent: Extent) -> Bool {
        let range = granules(touching: extent)
        guard range.lowerBound < range.upperBound else { return false }
        guard let first = nextDirty(from: range.lowerBound) else { return false }
        return first < range.upperBound
    }

    /// Marks every granule that the extent touches; whether any was clean.
    @discardableResult
    package mutating func mark(touching extent: Extent) -> Bool {
        let range = granules(touching: extent)
        var granule = range.lowerBound
        var isChanged = false
        while granule < range.upperBound {
            let upTo = min(range.upperBound, (granule | 63) + 1)
            let mask = Self.mask(granule..<upTo)
            let before = words[Int(granule >> 6)]
            if before & mask != mask {
                words[Int(granule >> 6)] = before | mask
                dirtyGranuleCount += UInt64((mask & ~before).nonzeroBitCount)
                if before == 0 { raise(word: Int(granule >> 6)) }
                isChanged = true
            }
            granule = upTo
        }
        return isChanged
    }

    /// Clears the granules that lie wholly inside the extent: a granule touched in part stays dirty.
    package mutating func clear(inside extent: Extent) {
        let range = granules(inside: extent)
        var granule = range.lowerBound
        while granule < range.upperBound {
            let upTo = min(range.upperBound, (granule | 63) + 1)
            let mask = Self.mask(granule..<upTo)
            let before = words[Int(granule >> 6)]
            if before & mask != 0 {
                words[Int(granule >> 6)] = before & ~mask
                dirtyGranuleCount -= UInt64((mask & before).nonzeroBitCount)
                if before & ~mask == 0 { lower(word: Int(granule >> 6)) }
            }
            granule = upTo
        }
    }

    /// Words of level 0: 64 granules each, the first in the lowest bit.
    package var wordCount: Int { levelStarts[1] }

    /// The word of level 0 at an index, as formats store it.
    package func word(_ index: Int) -> UInt64 {
        invariant(index < wordCount, "a word lies inside its level")
        return words[index]
    }

    /// Marks the granules whose bits are set in a word, as formats store it; bits behind the end are ignored.
    package mutating func mark(word index: Int, _ bits: UInt64) {
        invariant(index < wordCount, "a word lies inside its level")
        let first = UInt64(index) << 6
        let mask = granuleCount - first >= 64 ? ~0 : (UInt64(1) << (granuleCount - first)) - 1
        let before = words[index]
        let added = bits & mask & ~before
        guard added != 0 else { return }
        words[index] = before | added
        dirtyGranuleCount += UInt64(added.nonzeroBitCount)
        if before == 0 { raise(word: index) }
    }

    package mutating func markAll() {
        mark(touching: Extent(offset: 0, length: volumeByteCount))
    }

    /// Clears everything, in time proportional to what is dirty.
    package mutating func clearAll() {
        while let granule = nextDirty(from: 0) {
            let word = Int(granule >> 6)
            dirtyGranuleCount -= UInt64(words[word].nonzeroBitCount)
            words[word] = 0
            lower(word: word)
        }
    }

    /// Becomes a map of a larger volume, with the same granules marked.
    ///
    /// A last granule that was short is longer then, and stays as it is: what is new in it is the caller's to mark.
    package mutating func grow(to volumeByteCount: UInt64) {
        invariant(volumeByteCount >= self.volumeByteCount, "a map does not lose granules")
        var grown = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        var next = nextDirty(from: 0)
        while let granule = next {
            let word = Int(granule >> 6)
            grown.mark(word: word, words[word])
            next = nextDirty(from: UInt64(word + 1) << 6)
        }
        self = grown
    }

    /// Marks whatever `other`, a map of the same shape, has marked.
    package mutating func formUnion(_ other: borrowing DirtyMap) {
        invariant(
            other.volumeByteCount == volumeByteCount && other.granuleShift == granuleShift,
            "only maps of one shape are joined"
        )
        var next = other.nextDirty(from: 0)
        while let granule = next {
            let word = Int(granule >> 6)
            let added = other.words[word] & ~words[word]
            if added != 0 {
                let wasZero = words[word] == 0
                words[word] |= added
                dirtyGranuleCount += UInt64(added.nonzeroBitCount)
                if wasZero { raise(word: word) }
            }
            next = other.nextDirty(from: UInt64(word + 1) << 6)
        }
    }

    /// The first dirty granule at or behind `granule`; `nil` when there is none.
    package func nextDirty(from granule: UInt64) -> UInt64? {
        guard granule < granuleCount else { return nil }
        var position = granule
        var level = 0
        let levelCount = levelStarts.count - 1
        // Climb while the rest of the word is clear, then descend along the first set bits.
        while true {
            let wordIndex = Int(position >> 6)
            guard wordIndex < levelStarts[level + 1] - levelStarts[level] else { return nil }
            let rest = words[levelStarts[level] + wordIndex] & (~0 << (position & 63))
            if rest != 0 {
                position = UInt64(wordIndex) << 6 | UInt64(rest.trailingZeroBitCount)
                break
            }
            level += 1
            guard level < levelCount else { return nil }
            position = UInt64(wordIndex) + 1
        }
        while level > 0 {
            level -= 1
            let word = words[levelStarts[level] + Int(position)]
            invariant(word != 0, "a summary bit stands for a word that is not zero")
            position = position << 6 | UInt64(word.trailingZeroBitCount)
        }
        return position
    }

    /// The first run of dirty granules at or behind `granule`, at most `limit` granules long.
    package func nextDirtyRun(from granule: UInt64, limit: UInt64) -> Range<UInt64>? {
        invariant(limit > 0, "a run has room for a granule")
        guard let first = nextDirty(from: granule) else { return nil }
        var end = first + 1
        while end < granuleCount, end - first < limit, isDirty(granule: end) { end += 1 }
        return first..<end
    }

    /// The end of the run, begun at `granule`, of granules that are dirty here or in `other`, a map of the same shape.
    ///
    /// It is `granule` itself where both are clean, and at most `limit`. Compares word by word: a run may be long.
    package func endOfRun(from granule: UInt64, limit: UInt64, joining other: borrowing DirtyMap) -> UInt64 {
        invariant(
            other.volumeByteCount == volumeByteCount && other.granuleShift == granuleShift,
            "only maps of one shape are joined"
        )
        invariant(granule <= limit && limit <= granuleCount, "a run lies inside the volume")
        var position = granule
        while position < limit {
            let word = Int(position >> 6)
            let clean = ~(words[word] | other.words[word]) & (~0 << (position & 63))
            if clean != 0 { return min(UInt64(word) << 6 | UInt64(clean.trailingZeroBitCount), limit) }
            position = min((UInt64(word) + 1) << 6, limit)
        }
        return position
    }

    private mutating func raise(word: Int) {
        var index = word
        for level in 1..<max(levelStarts.count - 1, 1) {
            let place = levelStarts[level] + index >> 6
            let before = words[place]
            words[place] = before | 1 << UInt64(index & 63)
            if before != 0 { return }
            index >>= 6
        }
    }

    private mutating func lower(word: Int) {
        var index = word
        for level in 1..<max(levelStarts.count - 1, 1) {
            let place = levelStarts[level] + index >> 6
            words[place] &= ~(1 << UInt64(index & 63))
            if words[place] != 0 { return }
            index >>= 6
        }
    }

    /// The bits of one word that stand for granules of one word's run.
    private static func mask(_ run: Range<UInt64>) -> UInt64 {
        let count = run.upperBound - run.lowerBound
        return (count == 64 ? ~0 : (1 << count) - 1) << (run.lowerBound & 63)
    }

    /// Checks the invariants of the type from scratch, in time proportional to its size.
    ///
    /// For tests and the simulator.
    package func checkInvariants() {
        var count: UInt64 = 0
        for word in 0..<levelStarts[1] { count += UInt64(words[word].nonzeroBitCount) }
        invariant(count == dirtyGranuleCount, "the count of dirty granules is the number of bits set")
        for level in 1..<max(levelStarts.count - 1, 1) {
            for word in 0..<(levelStarts[level] - levelStarts[level - 1]) {
                let summary = words[levelStarts[level] + word >> 6] & (1 << UInt64(word & 63)) != 0
                invariant(summary == (words[levelStarts[level - 1] + word] != 0), "a summary bit tells the truth")
            }
        }
        let excess = granuleCount & 63
        if excess != 0 {
            let last = words[levelStarts[1] - 1]
            invariant(last & ~((1 << excess) - 1) == 0, "no bit is set behind the end of the volume")
        }
    }
}
