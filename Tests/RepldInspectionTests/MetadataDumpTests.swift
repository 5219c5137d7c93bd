import Foundation
import RepldCore
import RepldFormat
import RepldInspection
import Testing

/// What `replctl metadata dump` says of areas that are made here.
@Suite struct MetadataDumpTests {
    private static let pair = PairID(high: 0x0123_4567_89AB_CDEF, low: 42)
    private static let granule: UInt64 = 64 << 10
    private static let volumeByteCount: UInt64 = (100 << 20) + 512

    private var record: PairRecord {
        var record = PairRecord(
            sequence: 2,
            pair: Self.pair,
            volumeByteCount: Self.volumeByteCount,
            copyState: 9,
            isClosedCleanly: false
        )
        record.operation = 15
        record.isTargetConsistent = true
        record.mapTrust = .exact
        record.logGeneration = 3
        record.extentShift = 20
        return record
    }

    private func put(_ area: inout [UInt8], at offset: UInt64, _ encode: (inout MutableRawSpan) -> Void) {
        var block = [UInt8](repeating: 0, count: 4096)
        block.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            encode(&span)
        }
        area.replaceSubrange(Int(offset)..<Int(offset) + 4096, with: block)
    }

    /// Two records; extents 3, 4 and 99 active, 5 on the target's side; granules 2, 3 and the short last one dirty.
    private func area(_ record: PairRecord) -> [UInt8] {
        let layout = MetadataLayout(volumeByteCount: Self.volumeByteCount, granuleByteCount: Self.granule)
        var area = [UInt8](repeating: 0, count: Int(layout.areaByteCount))
        for back in [1, 0] as [UInt64] {
            var record = record
            record.sequence -= back
            put(&area, at: record.areaOffset) { record.encode(into: &$0) }
        }
        for number in 0..<MetadataLayout.logBlockCount {
            put(&area, at: MetadataLayout.logOffset + UInt64(number * 4096)) {
                ActivityLogSector.encodeBlank(number: number, Self.pair, into: &$0)
            }
        }
        var log = ActivityLog(capacity: 16)
        for key in [3, 4, 99, 5 | ActivityLog.targetSide] { _ = log.want(key) }
        if log.beginRecord() {
            put(&area, at: MetadataLayout.logBlockOffset(sequence: log.sequence)) {
                ActivityLogSector.encodeRecord(of: log, generation: 3, Self.pair, into: &$0)
            }
        }
        var dirty = DirtyMap(volumeByteCount: Self.volumeByteCount, granuleByteCount: Self.granule)
        dirty.mark(touching: Extent(offset: 2 * Self.granule, length: Self.granule + 1))
        dirty.mark(touching: Extent(offset: 100 << 20, length: 512))
        var changed = DirtyMap(volumeByteCount: Self.volumeByteCount, granuleByteCount: Self.granule)
        changed.mark(touching: Extent(offset: 0, length: 1))
        put(&area, at: MetadataLayout.pageOffset(0)) { BitmapSector.encodePage(0, of: dirty, Self.pair, into: &$0) }
        put(&area, at: MetadataLayout.pageOffset(1)) { BitmapSector.encodePage(1, of: changed, Self.pair, into: &$0) }
        return area
    }

    /// A file of that many blocks with areas at some of them.
    private func element(_ places: [Int], blockCount: Int = 2000) throws -> String {
        var bytes = [UInt8](repeating: 7, count: blockCount * 4096 + 512)
        for place in places {
            let area = area(record)
            bytes.replaceSubrange(place * 4096..<place * 4096 + area.count, with: area)
        }
        let path = NSTemporaryDirectory() + "repld-scan-" + UUID().uuidString
        try Data(bytes).write(to: URL(filePath: path))
        return path
    }

    @Test(arguments: [1, 1023, 1024, 1900])
    func findsTheOnlyAreaOfAnElement(place: Int) throws {
        let path = try element([place])
        defer { try? FileManager.default.removeItem(atPath: path) }
        let file = try MetadataFile(path: path)
        let offset = try MetadataDump.find(in: file)
        #expect(offset == UInt64(place * 4096))
        #expect(try MetadataDump.read(file, offset: offset).trust == "exact")
    }

    @Test func doesNotChooseBetweenAreas() throws {
        let path = try element([100, 1900])
        defer { try? FileManager.default.removeItem(atPath: path) }
        let file = try MetadataFile(path: path)
        let error = #expect(throws: MetadataFileError.self) { _ = try MetadataDump.find(in: file) }
        #expect(error?.reason == .severalAreas(offsets: [100 * 4096, 1900 * 4096]))
        let none = try element([])
        defer { try? FileManager.default.removeItem(atPath: none) }
        let empty = try MetadataFile(path: none)
        let missing = #expect(throws: MetadataFileError.self) { _ = try MetadataDump.find(in: empty) }
        #expect(missing?.reason == .noArea(scannedByteCount: 2000 * 4096))
    }

    @Test func saysWhatWasWritten() {
        let dump = MetadataDump(area: area(record), offset: 0)
        #expect(dump.blocks.map(\.counts) == [true, false] && dump.blocks.allSatisfy { $0.damage == nil })
        let found = dump.blocks[0].record
        #expect(found?.sequence == 2 && found?.pair == Self.pair.description && found?.copyState == "Suspended")
        #expect(found?.granuleBytes == 65536 && found?.extentBytes == 1 << 20 && found?.logGeneration == 3)
        #expect(dump.trust == "exact" && dump.damagedSectors.isEmpty)
        #expect(dump.log?.activeExtents == 4 && dump.log?.sequence == 1)
        let active = [MetadataDump.Range(offset: 3 << 20, length: 2 << 20), .init(offset: 99 << 20, length: 1 << 20)]
        #expect(dump.log?.source == active)
        #expect(dump.log?.targetHosts == [.init(offset: 5 << 20, length: 1 << 20)])
        #expect(dump.dirty?.dirtyBytes == 2 * Self.granule + 512)
        #expect(dump.dirty?.ranges == [.init(offset: 131072, length: 131072), .init(offset: 100 << 20, length: 512)])
        #expect(dump.targetChanged?.ranges == [.init(offset: 0, length: 65536)])
        for line in ["  dirty 131072+131072", "  active 3145728+2097152", "damaged        0 sectors"] {
            #expect(dump.text.contains(line))
        }
    }

    @Test func damageIsNamed() {
        var bytes = area(record)
        bytes[65536 + 512 + 100] ^= 1
        bytes[8192 + 3] ^= 1
        bytes[4096] ^= 1
        let dump = MetadataDump(area: bytes, offset: 1 << 20)
        #expect(dump.damagedSectors.map(\.offset) == [(1 << 20) + 8192, (1 << 20) + 65536 + 512])
        #expect(dump.damagedSectors.map(\.part) == ["activity log", "bitmap"])
        #expect(dump.trust == "none" && dump.dirty == nil && dump.log == nil)
        #expect(dump.blocks[1].damage == "not a pair record (wrong magic)" && dump.blocks[1].offset == (1 << 20) + 4096)
        #expect(dump.verdict.contains("other block may have had a newer one"))
    }

    @Test func damagedLogIsSaidSo() {
        var bytes = area(record)
        bytes[8192 + 3] ^= 1
        let dump = MetadataDump(area: bytes, offset: 0)
        #expect(dump.trust == "none" && dump.distrust == "the activity log is damaged")
        #expect(dump.text.contains("not to be relied on, everything may differ: the activity log is damaged"))
    }

    /// Whatever bytes are there, the dump has words for them.
    @Test(arguments: [0, 1, 4095, 4096, 8191, 8192, 40960, 65536, 70000])
    func shortAreas(byteCount: Int) {
        let dump = MetadataDump(area: Array(area(record).prefix(byteCount)), offset: 0)
        #expect(dump.trust == "none" && !dump.text.isEmpty)
        let blank = MetadataDump(area: [UInt8](repeating: 0, count: byteCount), offset: 0)
        #expect(blank.dirty == nil && !blank.text.isEmpty)
    }

    @Test func listsAreCut() {
        var bytes = area(record)
        for sector in 0..<64 { bytes[8192 + sector * 512] ^= 1 }
        let dump = MetadataDump(area: bytes, offset: 0)
        #expect(dump.damagedSectors.count == 64 && dump.text.contains("  and 14 more"))
    }

    // MARK: - The file

    private func withFile(_ bytes: [UInt8], _ body: (String) throws -> Void) throws {
        let path = FileManager.default.temporaryDirectory.path + "/repld-dump-\(UUID().uuidString)"
        try Data(bytes).write(to: URL(filePath: path))
        defer { try? FileManager.default.removeItem(atPath: path) }
        try body(path)
    }

    @Test func areaAtTheEndOfAnElement() throws {
        try withFile([UInt8](repeating: 0x77, count: 1 << 20) + area(record)) { path in
            let dump = try MetadataDump.read(try MetadataFile(path: path), offset: 1 << 20)
            #expect(dump.trust == "exact" && dump.offset == 1 << 20)
            let wrong = try MetadataDump.read(try MetadataFile(path: path), offset: 0)
            #expect(wrong.verdict.hasPrefix("no record can be used"))
            #expect(throws: MetadataFileError.self) {
                _ = try MetadataDump.read(try MetadataFile(path: path), offset: 1 << 40)
            }
        }
    }

    /// Two that hold one file are refused as a tool beside the daemon is.
    @Test func heldFileIsRefused() throws {
        try withFile(area(record)) { path in
            let holder = try MetadataFile(path: path)
            do {
                _ = try MetadataFile(path: path)
                Issue.record("a file that somebody holds is not read")
            } catch let error as MetadataFileError {
                #expect(error.reason == .inUse && error.description.contains("--force"))
            }
            let forced = try MetadataDump.read(try MetadataFile(path: path, isForced: true), offset: 0)
            let held = try MetadataDump.read(holder, offset: 0)
            #expect(forced.trust == "exact" && held.trust == "exact")
        }
    }

    @Test(arguments: ["/tmp", "/dev/null", "/nonexistent/meta"])
    func whatHasNoMetadata(path: String) {
        #expect(throws: MetadataFileError.self) { _ = try MetadataFile(path: path) }
    }
}
