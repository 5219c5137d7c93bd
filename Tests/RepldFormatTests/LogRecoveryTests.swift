import RepldCore
import RepldFormat
import Testing

/// Recovery of the activity log after losses of power, whatever part of a record was written.
@Suite struct LogRecoveryTests {
    private static let volumeByteCount: UInt64 = 1 << 31
    private static let keyCount = volumeByteCount / MapArea.extentByteCount

    /// Every record of a random history is torn in some ways; the table before it, or with it, is found each time.
    @Test(arguments: [1, 3, 100, 1000, 1024], UInt64(1)...3)
    func tornRecordIsLeftOut(capacity: Int, seed: UInt64) {
        var random = RandomSource(seed: seed << 16 | UInt64(capacity))
        var log = ActivityLog(capacity: capacity)
        var area = MapArea(volumeByteCount: Self.volumeByteCount)
        var durable: [ActiveExtent] = []
        for _ in 0..<60 {
            wantSome(in: &log, keyCount: Self.keyCount, &random)
            guard log.beginRecord() else { continue }
            let new = activeExtents(of: log)
            for sectors in [0, 1, 0x80, 0x7F, 0xFE, UInt8(truncatingIfNeeded: random.next()), .max] as [UInt8] {
                var torn = area
                torn.writeLog(log, sectors: sectors)
                let found = torn.read()
                #expect(found.trust == .exact && found.distrust == nil)
                #expect(found.active == (sectors == .max ? new : durable))
            }
            area.writeLog(log)
            log.recordIsDurable()
            durable = new
        }
        #expect(log.sequence > 30)
    }

    /// Each of the 256 ways to tear a record, early in a log's life and when the ring has been round.
    @Test(arguments: [1, 2, 7, 8, 9, 16, 17, 30])
    func everySubsetOfSectors(recordCount: Int) {
        var random = RandomSource(seed: UInt64(recordCount))
        var log = ActivityLog(capacity: 150)
        var area = MapArea(volumeByteCount: Self.volumeByteCount)
        var durable: [ActiveExtent] = []
        while log.sequence < UInt64(recordCount) {
            wantSome(in: &log, keyCount: Self.keyCount, &random)
            guard log.beginRecord() else { continue }
            if log.sequence == UInt64(recordCount) { break }
            area.writeLog(log)
            log.recordIsDurable()
            durable = activeExtents(of: log)
        }
        let new = activeExtents(of: log)
        for sectors in UInt8.min...UInt8.max {
            var torn = area
            torn.writeLog(log, sectors: sectors)
            let found = torn.read()
            #expect(found.trust == .exact && found.active == (sectors == .max ? new : durable))
        }
    }

    /// Crash after crash, each in the middle of a record: no extent is lost, and none is more than has to be.
    ///
    /// A record that was torn made the next crash distrust the whole log, because its block was no longer the newest one.
    @Test(arguments: UInt64(1)...40)
    func crashAfterCrash(seed: UInt64) {
        var random = RandomSource(seed: seed)
        let capacity = [2, 60, 700, 1024][Int(random.below(4))]
        var area = MapArea(volumeByteCount: Self.volumeByteCount)
        var durable: [ActiveExtent] = []
        for _ in 0..<12 {
            let found = area.read()
            #expect(found.trust == .exact && found.active == durable)
            var log = ActivityLog(capacity: capacity)
            log.resume(after: found.logSequence)
            for extent in found.active { log.restore(key: extent.key, inSlot: extent.slot) }
            // Most runs end early: the torn block then stays in the ring for the next recoveries.
            var left = random.chance(oneIn: 3) ? random.below(30) : random.below(3)
            for _ in 0..<1000 {
                wantSome(in: &log, keyCount: Self.keyCount, &random)
                guard log.beginRecord() else { continue }
                let sectors = left == 0 ? UInt8(truncatingIfNeeded: random.next()) : .max
                area.writeLog(log, sectors: sectors)
                if sectors == .max { durable = activeExtents(of: log) }
                guard left > 0 else { break }
                left -= 1
                log.recordIsDurable()
            }
        }
    }

    /// The log of a generation that is over says nothing, torn or not; the next one starts in the same ring.
    @Test func olderGenerationsAreOver() {
        var random = RandomSource(seed: 9)
        var area = MapArea(volumeByteCount: Self.volumeByteCount)
        for generation in UInt32(1)...20 {
            area.record.logGeneration = generation
            let empty = area.read()
            #expect(empty.trust == .exact && empty.active.isEmpty && empty.logSequence == 0)
            var log = ActivityLog(capacity: 64)
            var durable: [ActiveExtent] = []
            for _ in 0..<random.below(20) {
                wantSome(in: &log, keyCount: Self.keyCount, &random)
                guard log.beginRecord() else { continue }
                area.writeLog(log)
                log.recordIsDurable()
                durable = activeExtents(of: log)
                #expect(area.read().active == durable)
            }
            wantSome(in: &log, keyCount: Self.keyCount, &random)
            if log.beginRecord() { area.writeLog(log, sectors: 0x3C) }
            let found = area.read()
            #expect(found.trust == .exact && found.active == durable)
        }
    }

    /// A log that was closed is not read: what it says is in the bitmaps.
    @Test func closedLogIsNotRead() {
        var area = MapArea()
        area.record.isClosedCleanly = true
        for byte in MapArea.ringBlock(3) { area.bytes[byte] = 0x5A }
        let found = area.read()
        #expect(found.trust == .exact && found.active.isEmpty)
    }
}

/// Damage of the ring: the table is exactly what it was, or nothing is relied on.
@Suite struct LogDamageTests {
    /// An area whose log has been round the ring, and its table.
    private static func used(_ recordCount: UInt64 = 21, pair: PairID = PairID(high: 1, low: 2)) -> (
        MapArea, [ActiveExtent]
    ) {
        var random = RandomSource(seed: recordCount)
        var log = ActivityLog(capacity: 300)
        var area = MapArea(volumeByteCount: 1 << 31, pair: pair)
        while log.sequence < recordCount {
            wantSome(in: &log, keyCount: 2048, &random)
            guard log.beginRecord() else { continue }
            area.writeLog(log)
            log.recordIsDurable()
        }
        return (area, activeExtents(of: log))
    }

    private func expectDistrust(_ area: MapArea, _ location: SourceLocation = #_sourceLocation) {
        let found = area.read()
        #expect(found.trust == .none && found.active.isEmpty && found.dirty.isEmpty, sourceLocation: location)
        #expect(found.distrust != nil, sourceLocation: location)
    }

    @Test(arguments: [1, 5, 8, 21] as [UInt64])
    func flippedBit(recordCount: UInt64) {
        var random = RandomSource(seed: 3)
        let (area, table) = Self.used(recordCount)
        #expect(area.read().active == table)
        for sector in 0..<64 {
            let start = Int(MetadataLayout.logOffset) + sector * 512
            for bit in (0..<192) + (0..<24).map({ _ in Int(random.below(4096)) }) + [4095] {
                var damaged = area
                damaged.bytes[start + bit / 8] ^= 1 << UInt8(bit % 8)
                expectDistrust(damaged)
            }
        }
    }

    @Test func zeroedSectorOrBlock() {
        let (area, _) = Self.used()
        for sector in 0..<64 {
            var damaged = area
            let start = Int(MetadataLayout.logOffset) + sector * 512
            damaged.bytes.replaceSubrange(start..<start + 512, with: [UInt8](repeating: 0, count: 512))
            expectDistrust(damaged)
        }
        for block in 0..<8 {
            var damaged = area
            damaged.bytes.replaceSubrange(MapArea.ringBlock(block), with: [UInt8](repeating: 0, count: 4096))
            expectDistrust(damaged)
        }
    }

    @Test func blockOfAnotherPairOrPlace() {
        let (area, _) = Self.used()
        let (other, _) = Self.used(21, pair: PairID(high: 1, low: 3))
        for block in 0..<8 {
            var damaged = area
            damaged.bytes.replaceSubrange(MapArea.ringBlock(block), with: other.bytes[MapArea.ringBlock(block)])
            expectDistrust(damaged)
            for place in 0..<8 where place != block {
                var moved = area
                moved.bytes.replaceSubrange(MapArea.ringBlock(place), with: area.bytes[MapArea.ringBlock(block)])
                expectDistrust(moved)
            }
        }
    }

    /// A device that lost a write it had acknowledged: noticed, but for the newest record, which looks as if it had not been
    /// written, and the oldest, which nothing needs any more.
    @Test func blockOfTheLapBefore() {
        var random = RandomSource(seed: 21)
        var log = ActivityLog(capacity: 300)
        var area = MapArea(volumeByteCount: 1 << 31)
        var before: [[UInt8]] = []
        var tables: [[ActiveExtent]] = []
        while log.sequence < 21 {
            wantSome(in: &log, keyCount: 2048, &random)
            guard log.beginRecord() else { continue }
            before.append(Array(area.bytes[MapArea.ringBlock(Int(log.sequence % 8))]))
            area.writeLog(log)
            log.recordIsDurable()
            tables.append(activeExtents(of: log))
        }
        for sequence in 14...21 {
            let block = MapArea.ringBlock(sequence % 8)
            for sectors in [0xFF, 0x01, 0x80, 0x18] as [UInt8] {
                var stale = area
                for sector in 0..<8 where sectors & 1 << UInt8(sector) != 0 {
                    let start = sector * 512
                    let bytes = before[sequence - 1][start..<start + 512]
                    stale.bytes.replaceSubrange(block.lowerBound + start..<block.lowerBound + start + 512, with: bytes)
                }
                if sequence == 21 {
                    #expect(stale.read().active == tables[19])
                } else if sequence == 14 && sectors == .max {
                    #expect(stale.read().active == tables[20])
                } else {
                    expectDistrust(stale)
                }
            }
        }
    }

    /// A lost first lap: the block still has the generation before.
    @Test func blockOfAnOlderGeneration() {
        var random = RandomSource(seed: 5)
        var area = MapArea(volumeByteCount: 1 << 31)
        let blank = area
        area.record.logGeneration = 2
        var log = ActivityLog(capacity: 300)
        while log.sequence < 6 {
            wantSome(in: &log, keyCount: 2048, &random)
            guard log.beginRecord() else { continue }
            area.writeLog(log)
            log.recordIsDurable()
        }
        for sequence in 1...5 {
            var stale = area
            stale.bytes.replaceSubrange(MapArea.ringBlock(sequence), with: blank.bytes[MapArea.ringBlock(sequence)])
            expectDistrust(stale)
        }
        // And of a generation that the record does not know yet.
        area.record.logGeneration = 1
        expectDistrust(area)
    }

    /// Nothing that a record may say stops the process: keys and slots that cannot be are damage.
    @Test func impossibleEntries() {
        var log = ActivityLog(capacity: 8)
        var area = MapArea(volumeByteCount: 1 << 31)
        #expect(area.read().trust == .exact)
        expectWritten(&log, 2048)
        area.writeLog(log)
        expectDistrust(area)
        var last = ActivityLog(capacity: 8)
        var good = MapArea(volumeByteCount: 1 << 31)
        expectWritten(&last, 2047 | ActivityLog.targetSide)
        good.writeLog(last)
        #expect(good.read().active == [ActiveExtent(slot: 0, key: 2047 | ActivityLog.targetSide)])
    }

    private func expectWritten(_ log: inout ActivityLog, _ key: UInt32) {
        let isWanted = log.want(key)
        let isBuilt = log.beginRecord()
        #expect(isWanted && isBuilt)
    }

    /// A sequence from which nobody could go on counting.
    @Test func impossibleSequence() {
        for (sequence, isPossible) in [(1 << 62, true), ((1 << 62) + 1, false)] as [(UInt64, Bool)] {
            var log = ActivityLog(capacity: 8)
            var area = MapArea()
            log.resume(after: sequence - 8)
            for key in UInt32(0)..<8 {
                expectWritten(&log, key)
                area.writeLog(log)
                log.recordIsDurable()
            }
            #expect(area.read().trust == (isPossible ? .exact : .none))
        }
    }
}
