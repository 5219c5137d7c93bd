import RepldCore
import Testing

@Suite("The dirty map, word by word as formats store it")
struct DirtyMapWordTests {
    private let granule: UInt64 = 4096

    @Test("takes words of another map and is that map", arguments: [1, 63, 64, 65, 4096, 4097, 9000] as [UInt64])
    func roundTrip(granuleCount: UInt64) {
        var random = RandomSource(seed: granuleCount)
        let size = granuleCount * granule - 512
        var map = DirtyMap(volumeByteCount: size, granuleByteCount: granule)
        for _ in 0..<50 where random.chance(oneIn: 2) {
            let first = random.below(granuleCount)
            let end = min(size, (first + 1 + random.below(70)) * granule)
            map.mark(touching: Extent(offset: first * granule, length: end - first * granule))
        }
        var copy = DirtyMap(volumeByteCount: size, granuleByteCount: granule)
        for index in 0..<map.wordCount { copy.mark(word: index, map.word(index)) }
        copy.checkInvariants()
        let counts = (map.dirtyGranuleCount, copy.dirtyGranuleCount)
        #expect(counts.0 == counts.1)
        for index in 0..<map.wordCount {
            let words = (map.word(index), copy.word(index))
            #expect(words.0 == words.1)
        }
    }

    @Test("ignores bits behind the end of the volume", arguments: [0, 1, 63, 64, 65, 128, 130] as [UInt64])
    func bitsBehindTheEnd(granuleCount: UInt64) {
        var map = DirtyMap(volumeByteCount: granuleCount * granule, granuleByteCount: granule)
        for index in 0..<map.wordCount { map.mark(word: index, .max) }
        map.checkInvariants()
        let (count, byteCount) = (map.dirtyGranuleCount, map.dirtyByteCount)
        #expect(count == granuleCount && byteCount == granuleCount * granule)
    }

    @Test("a word adds to what is marked, and says which granule it is")
    func wordsAdd() {
        var map = DirtyMap(volumeByteCount: 200 * granule, granuleByteCount: granule)
        map.mark(word: 1, 0b101)
        map.mark(word: 1, 0b110)
        map.mark(word: 1, 0)
        map.checkInvariants()
        let (word, first, count) = (map.word(1), map.nextDirty(from: 0), map.dirtyGranuleCount)
        #expect(word == 0b111 && first == 64 && count == 3)
    }

    @Test("marking says whether anything was clean")
    func markingSaysWhetherItChanged() {
        var map = DirtyMap(volumeByteCount: 200 * granule, granuleByteCount: granule)
        let changes = [
            map.mark(touching: Extent(offset: 10, length: 1)),
            map.mark(touching: Extent(offset: 4095, length: 1)),
            map.mark(touching: Extent(offset: 4095, length: 2)),
            map.mark(touching: Extent(offset: 60 * granule, length: 10 * granule)),
            map.mark(touching: Extent(offset: 60 * granule, length: 10 * granule)),
            map.mark(touching: Extent(offset: 69 * granule, length: granule + 1)),
            map.mark(touching: Extent(offset: 0, length: 0)),
        ]
        #expect(changes == [true, false, true, true, false, true, false])
        map.checkInvariants()
    }

    @Test("a word past the last stops the process")
    func wordPastTheEnd() async {
        await #expect(processExitsWith: .failure) {
            var map = DirtyMap(volumeByteCount: 64 * 4096, granuleByteCount: 4096)
            map.mark(word: 1, 0)
        }
        await #expect(processExitsWith: .failure) {
            let map = DirtyMap(volumeByteCount: 64 * 4096, granuleByteCount: 4096)
            _ = map.word(1)
        }
    }
}
