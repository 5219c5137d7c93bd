import RepldCore
import RepldFormat

/// A valid area that inputs change, and what is to be read from it.
struct FuzzBase: Sendable {
    static let pair = PairID(high: 0x0123_4567_89AB_CDEF, low: 42)
    static let volumeByteCount: UInt64 = 300 << 20
    static let granuleByteCount: UInt64 = 64 << 10
    static let extentByteCount: UInt64 = 1 << 20

    var area: [UInt8]
    var record: PairRecord
    var maps: RecoveredMaps

    /// An area whose log has so many records, the last of them torn or not.
    init(recordCount: UInt64, capacity: Int, tornSectors: UInt8, isClosedCleanly: Bool) {
        let layout = MetadataLayout(volumeByteCount: Self.volumeByteCount, granuleByteCount: Self.granuleByteCount)
        area = [UInt8](repeating: 0, count: Int(layout.areaByteCount))
        record = PairRecord(
            sequence: 1,
            pair: Self.pair,
            volumeByteCount: Self.volumeByteCount,
            copyState: 4,
            isClosedCleanly: isClosedCleanly
        )
        record.mapTrust = .exact
        record.logGeneration = 1
        record.extentShift = UInt8(Self.extentByteCount.trailingZeroBitCount)
        maps = .unknown(because: nil)
        var random = RandomSource(seed: recordCount)
        for number in 0..<MetadataLayout.logBlockCount {
            write(at: MetadataLayout.logOffset + UInt64(number * 4096)) { block in
                ActivityLogSector.encodeBlank(number: number, Self.pair, into: &block)
            }
        }
        for side in 0..<UInt64(2) {
            var map = DirtyMap(volumeByteCount: Self.volumeByteCount, granuleByteCount: Self.granuleByteCount)
            for word in 0..<map.wordCount where random.chance(oneIn: 3) { map.mark(word: word, random.next()) }
            write(at: MetadataLayout.pageOffset(side)) { block in
                BitmapSector.encodePage(side, of: map, Self.pair, into: &block)
            }
        }
        writeLog(recordCount, capacity, tornSectors, &random)
        for sequence in UInt64(1)...2 {
            record.sequence = sequence
            let record = record
            write(at: record.areaOffset) { record.encode(into: &$0) }
        }
        maps = RecoveredMaps.read(area.span.bytes, record, granuleByteCount: Self.granuleByteCount)
        invariant(maps.trust == .exact && maps.damagedSectorCount == 0, "what was written is read")
    }

    private mutating func writeLog(
        _ recordCount: UInt64,
        _ capacity: Int,
        _ tornSectors: UInt8,
        _ random: inout RandomSource
    ) {
        var log = ActivityLog(capacity: capacity)
        while log.sequence < recordCount {
            for _ in 0..<random.below(30) { _ = log.want(UInt32(random.below(300))) }
            _ = log.chooseLeaving(limit: 20)
            log.leavingIsDurable()
            guard log.beginRecord() else { continue }
            let sectors = log.sequence == recordCount ? tornSectors : .max
            write(at: MetadataLayout.logBlockOffset(sequence: log.sequence), sectors: sectors) { block in
                ActivityLogSector.encodeRecord(of: log, generation: 1, Self.pair, into: &block)
            }
            log.recordIsDurable()
        }
    }

    private mutating func write(at offset: UInt64, sectors: UInt8 = .max, _ encode: (inout MutableRawSpan) -> Void) {
        var block = [UInt8](repeating: 0, count: 4096)
        block.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            encode(&span)
        }
        for sector in 0..<8 where sectors & 1 << UInt8(sector) != 0 {
            let start = Int(offset) + sector * 512
            area.replaceSubrange(start..<start + 512, with: block[sector * 512..<(sector + 1) * 512])
        }
    }
}

let bases = [
    FuzzBase(recordCount: 0, capacity: 8, tornSectors: .max, isClosedCleanly: false),
    FuzzBase(recordCount: 3, capacity: 100, tornSectors: .max, isClosedCleanly: false),
    FuzzBase(recordCount: 21, capacity: 100, tornSectors: .max, isClosedCleanly: false),
    FuzzBase(recordCount: 22, capacity: 60, tornSectors: 0x35, isClosedCleanly: false),
    FuzzBase(recordCount: 13, capacity: 60, tornSectors: .max, isClosedCleanly: true),
]

/// An area with changes: damage, as a disk does it, and forgery, with the checksums put right again.
struct FuzzArea {
    var bytes: [UInt8]
    /// Something was written that has a checksum: what is read may be anything that can be.
    var isForged = false
    var isCut = false

    /// One change of 8 bytes of input: what, where (in sectors, then in bytes), and a value.
    mutating func change(_ input: ArraySlice<UInt8>) {
        let input = Array(input)
        let place = Int(input[1]) | Int(input[2]) << 8
        let start = place % (bytes.count / 512) * 512
        let byte = start + (Int(input[3]) | Int(input[4]) << 8) % 512
        switch input[0] % 9 {
        case 0: bytes[byte] ^= 1 << (input[5] & 7)
        case 1: bytes[byte] = input[5]
        case 2: bytes.replaceSubrange(start..<start + 512, with: [UInt8](repeating: 0, count: 512))
        case 3: copy(from: start, to: (Int(input[3]) | Int(input[4]) << 8) % (bytes.count / 512) * 512, 512)
        case 4: copy(from: start & ~4095, to: Int(input[3]) % (bytes.count / 4096) * 4096, 4096)
        case 5:
            // The fields are in the head, or at the beginning of the entries.
            for (index, value) in input[5...].enumerated() { bytes[start + (Int(input[3]) + index) % 64] = value }
            seal(start)
        case 6:
            for (index, value) in input[4...].enumerated() {
                bytes[(place & 1) * 4096 + Int(input[3]) % 64 + index] = value
            }
            sealRecord(place & 1)
        case 7: seal(start)
        default:
            isCut = true
            bytes.removeLast(min(place * 2, bytes.count - 8192))
        }
    }

    private mutating func copy(from source: Int, to target: Int, _ byteCount: Int) {
        guard source + byteCount <= bytes.count, target + byteCount <= bytes.count else { return }
        bytes.replaceSubrange(target..<target + byteCount, with: Array(bytes[source..<source + byteCount]))
    }

    private mutating func seal(_ start: Int) {
        guard start >= 8192 else { return sealRecord(start / 4096) }
        isForged = true
        var salted: [UInt8] = []
        for number in [FuzzBase.pair.high, FuzzBase.pair.low, UInt64(start)] {
            for shift in 0..<UInt64(8) { salted.append(UInt8(truncatingIfNeeded: number >> (8 * shift))) }
        }
        salted += bytes[start + 4..<start + 512]
        put(Checksum.crc32c(salted.span.bytes), at: start)
    }

    private mutating func sealRecord(_ block: Int) {
        isForged = true
        let start = block * 4096
        put(0, at: start + 12)
        let block = Array(bytes[start..<start + 4096])
        put(Checksum.crc32c(block.span.bytes), at: start + 12)
    }

    private mutating func put(_ number: UInt32, at place: Int) {
        for index in 0..<4 { bytes[place + index] = UInt8(truncatingIfNeeded: number >> UInt32(8 * index)) }
    }
}

/// Takes up what was read, as whoever opens a pair does; none of it may stop the process.
func use(_ maps: RecoveredMaps, _ record: PairRecord) {
    guard maps.trust != .none else {
        invariant(maps.dirty.isEmpty && maps.targetChanged.isEmpty && maps.active.isEmpty, "nothing is known")
        return
    }
    let granuleByteCount = UInt64(1) << UInt64(record.granuleShift)
    let layout = MetadataLayout(volumeByteCount: record.volumeByteCount, granuleByteCount: granuleByteCount)
    let wordCount = Int(layout.pageCount) * MetadataLayout.wordsPerPage
    invariant(maps.dirty.count == wordCount && maps.targetChanged.count == wordCount, "each page has its words")
    var map = DirtyMap(volumeByteCount: record.volumeByteCount, granuleByteCount: granuleByteCount)
    for word in 0..<map.wordCount where layout.pageCount > 0 { map.mark(word: word, maps.dirty[word]) }
    map.checkInvariants()
    var log = ActivityLog(capacity: 16)
    log.resume(after: maps.logSequence)
    for active in maps.active {
        let start = UInt64(active.key & ~ActivityLog.targetSide) << UInt64(record.extentShift)
        invariant(start < record.volumeByteCount, "an extent lies inside the volume")
        log.restore(key: active.key, inSlot: active.slot)
    }
    _ = log.want(1 << 30)
    if log.beginRecord() { log.recordIsDurable() }
    log.checkInvariants()
}

/// Changes a valid area as the input says and reads it: forged or not, what is read can be used; damaged only, it is exactly what
/// was written, or more, or nothing.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ input: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let input, count > 1 else { return 0 }
    let program = Array(UnsafeBufferPointer(start: input, count: count))
    let base = bases[Int(program[0]) % bases.count]
    var area = FuzzArea(bytes: base.area)
    var start = 1
    while start + 8 <= count, start < 16 * 8 {
        area.change(program[start..<start + 8])
        start += 8
    }
    let first = Array(area.bytes[0..<4096])
    let second = Array(area.bytes[4096..<8192])
    switch PairRecordRecovery.decide(first.span.bytes, second.span.bytes) {
    case .blank, .lost: break
    case .older(let record, _):
        invariant(
            !record.isClosedCleanly && record.mapTrust == .none,
            "a record that may not be the newest has no trust"
        )
        read(area, record, base)
    case .found(let record):
        // The second block may be zeroed, which looks as if there never had been a second record.
        let isKnown = record == base.record || record.sequence == 1 && record.mapTrust == .none
        invariant(area.isForged || isKnown, "damage makes no record")
        read(area, record, base)
    }
    return 0
}

func read(_ area: FuzzArea, _ record: PairRecord, _ base: FuzzBase) {
    var record = record
    for granuleByteCount in [FuzzBase.granuleByteCount, 1 << UInt64(record.granuleShift)] {
        use(RecoveredMaps.read(area.bytes.span.bytes, record, granuleByteCount: granuleByteCount), record)
    }
    // The same area with a record that makes all of it be read.
    record.mapTrust = .exact
    record.isClosedCleanly = false
    let granuleByteCount = UInt64(1) << UInt64(record.granuleShift)
    use(RecoveredMaps.read(area.bytes.span.bytes, record, granuleByteCount: granuleByteCount), record)
    guard !area.isForged else { return }
    let maps = RecoveredMaps.read(area.bytes.span.bytes, base.record, granuleByteCount: FuzzBase.granuleByteCount)
    invariant(!area.isCut || area.bytes.count == base.area.count || maps.trust == .none, "half an area says nothing")
    guard maps.trust != .none else { return }
    invariant(maps.active == base.maps.active, "a damaged log is not relied on")
    for word in 0..<maps.dirty.count {
        invariant(base.maps.dirty[word] & ~maps.dirty[word] == 0, "what was dirty is dirty")
        invariant(
            base.maps.targetChanged[word] & ~maps.targetChanged[word] == 0,
            "what the target's hosts wrote is there"
        )
    }
}
