import RepldCore
import RepldFormat
import Testing

/// Bitmap pages: what is written is read, and what is damaged is dirty, there and nowhere else.
@Suite struct BitmapRecoveryTests {
    /// Three pages and a bit: the last granule is short.
    private static let volumeByteCount = (3 * MetadataLayout.granulesPerPage + 77) * MapArea.granuleByteCount - 512

    private static func map(seed: UInt64, oneIn: UInt64) -> DirtyMap {
        var random = RandomSource(seed: seed)
        var map = DirtyMap(volumeByteCount: volumeByteCount, granuleByteCount: MapArea.granuleByteCount)
        for word in 0..<map.wordCount where random.chance(oneIn: oneIn) { map.mark(word: word, random.next()) }
        return map
    }

    private static func words(_ map: borrowing DirtyMap) -> [UInt64] { (0..<map.wordCount).map { map.word($0) } }

    private static func area(seed: UInt64 = 1, oneIn: UInt64 = 5) -> (area: MapArea, dirty: [UInt64], changed: [UInt64])
    {
        let dirty = map(seed: seed, oneIn: oneIn)
        let changed = map(seed: seed + 100, oneIn: oneIn)
        var area = MapArea(volumeByteCount: volumeByteCount)
        area.write(dirty, side: 0)
        area.write(changed, side: 1)
        return (area, words(dirty), words(changed))
    }

    @Test(arguments: [1, 2, 50, 100_000] as [UInt64])
    func roundTrip(oneIn: UInt64) {
        let (area, dirty, changed) = Self.area(seed: oneIn, oneIn: oneIn)
        let found = area.read()
        #expect(found.trust == .exact && found.damagedSectorCount == 0 && found.distrust == nil)
        #expect(Array(found.dirty.prefix(dirty.count)) == dirty)
        #expect(Array(found.targetChanged.prefix(changed.count)) == changed)
        #expect(found.dirty[dirty.count...].allSatisfy { $0 == 0 } && found.targetChanged.count == found.dirty.count)
    }

    @Test(arguments: [MapTrust.union, .exact], [true, false])
    func trustIsThatOfTheRecord(trust: MapTrust, isClosedCleanly: Bool) {
        var (area, _, _) = Self.area()
        area.record.mapTrust = trust
        area.record.isClosedCleanly = isClosedCleanly
        #expect(area.read().trust == trust)
        area.record.mapTrust = .none
        let found = area.read()
        #expect(found == .unknown(because: nil))
    }

    /// A flipped bit, zeroes, another pair's sector or another place's: just this sector's granules are dirty.
    @Test(arguments: UInt64(0)..<10)
    func damagedSectorIsDirty(seed: UInt64) {
        var random = RandomSource(seed: seed)
        let (area, dirty, changed) = Self.area()
        let (other, _, _) = Self.area(seed: 7)
        let sectorCount =
            8 * 2
            * MetadataLayout(
                volumeByteCount: Self.volumeByteCount,
                granuleByteCount: MapArea.granuleByteCount
            ).pageCount
        for sector in 0..<sectorCount {
            let start = Int(MetadataLayout.mapOffset + sector * 512)
            let range = start..<start + 512
            var damaged = area
            switch (seed + sector) % 5 {
            case 0: damaged.bytes.replaceSubrange(range, with: [UInt8](repeating: 0, count: 512))
            case 1:
                var foreign = MapArea(volumeByteCount: Self.volumeByteCount, pair: PairID(high: 9, low: 9))
                foreign.write(Self.map(seed: 1, oneIn: 5), side: 0)
                damaged.bytes.replaceSubrange(range, with: foreign.bytes[range])
            case 2:
                let place = start == Int(MetadataLayout.mapOffset) ? start + 512 : start - 512
                damaged.bytes.replaceSubrange(range, with: other.bytes[place..<place + 512])
            default:
                let bit = Int(random.below(4096))
                damaged.bytes[start + bit / 8] ^= 1 << UInt8(bit % 8)
            }
            let found = damaged.read()
            #expect(found.trust == .exact && found.damagedSectorCount == 1)
            let page = Int(sector / 16)
            let first = page * MetadataLayout.wordsPerPage + Int(sector % 8) * BitmapSector.wordCount
            let side = Int(sector / 8 % 2)
            expectDirty(found.dirty, dirty, side == 0 ? first..<first + BitmapSector.wordCount : 0..<0)
            expectDirty(found.targetChanged, changed, side == 1 ? first..<first + BitmapSector.wordCount : 0..<0)
        }
    }

    private func expectDirty(_ found: [UInt64], _ written: [UInt64], _ damaged: Range<Int>) {
        var expected = written + [UInt64](repeating: 0, count: found.count - written.count)
        for word in damaged { expected[word] = .max }
        #expect(found == expected)
    }

    /// What a damaged page says of granules behind the end of the volume is no harm.
    @Test func damageFitsTheVolume() {
        var (area, _, _) = Self.area()
        for byte in Int(MetadataLayout.mapOffset)..<area.bytes.count { area.bytes[byte] = 0 }
        let found = area.read()
        #expect(found.damagedSectorCount == 4 * 2 * 8)
        var map = DirtyMap(volumeByteCount: Self.volumeByteCount, granuleByteCount: MapArea.granuleByteCount)
        for word in 0..<map.wordCount { map.mark(word: word, found.dirty[word]) }
        map.checkInvariants()
        let dirtyByteCount = map.dirtyByteCount
        #expect(dirtyByteCount == Self.volumeByteCount)
    }

    /// A page that is torn between sectors is whole in each of them.
    @Test(arguments: [1, 0x80, 0x55, 0xF0] as [UInt8])
    func tornPage(sectors: UInt8) {
        var (area, dirty, _) = Self.area()
        let new = Self.map(seed: 55, oneIn: 2)
        let pair = area.record.pair
        area.write(at: MetadataLayout.pageOffset(2), sectors: sectors) { block in
            BitmapSector.encodePage(2, of: new, pair, into: &block)
        }
        let found = area.read()
        #expect(found.damagedSectorCount == 0)
        for sector in 0..<8 where sectors & 1 << UInt8(sector) != 0 {
            let first = MetadataLayout.wordsPerPage + sector * BitmapSector.wordCount
            for word in first..<first + BitmapSector.wordCount { dirty[word] = new.word(word) }
        }
        #expect(Array(found.dirty.prefix(dirty.count)) == dirty)
    }

    @Test func truncatedAreaSaysNothing() {
        let (area, _, _) = Self.area()
        for byteCount in [0, 1, 4096, 8192, 40960, 65536, area.bytes.count - 4096, area.bytes.count - 1] {
            var short = area
            short.bytes = Array(area.bytes.prefix(byteCount))
            let found = short.read()
            #expect(found.trust == .none && found.dirty.isEmpty)
            #expect(found.distrust == "the area has \(byteCount) bytes of \(area.bytes.count)")
        }
        var long = area
        long.bytes += [1, 2, 3]
        #expect(long.read() == area.read())
    }

    @Test func anotherGranuleSaysNothing() {
        let (area, _, _) = Self.area()
        let found = area.read(granuleByteCount: 4096)
        #expect(found.trust == .none && found.distrust == "the bitmaps have granules of 65536 bytes")
    }

    /// A record that was not read by `decode`, or was: volumes that no log has keys for.
    @Test(arguments: [.max, 1 << 63, 1 << 62] as [UInt64])
    func giantVolumeSaysNothing(volumeByteCount: UInt64) {
        var (area, _, _) = Self.area()
        area.record.volumeByteCount = volumeByteCount
        #expect(area.read().trust == .none && area.read().distrust != nil)
    }
}
