import RepldCore
import RepldFormat
import Testing

/// Where things are in the area, byte by byte: what a second implementation has to write and to read.
@Suite struct MetadataLayoutTests {
    private static let pair = PairID(high: 0x0123_4567_89AB_CDEF, low: 42)

    @Test(
        arguments: [
            (1 << 40, 4 << 10, 66_1), (1 << 40, 64 << 10, 4_2), (1 << 40, 1 << 20, 0_3), (16 << 40, 64 << 10, 66_1),
        ] as [(UInt64, UInt64, UInt64)]
    )
    func sizeIsAsStated(volumeByteCount: UInt64, granuleByteCount: UInt64, tenthsOfMiB: UInt64) {
        let layout = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        #expect(layout.areaByteCount.isMultiple(of: 4096))
        #expect((layout.areaByteCount * 10 + (1 << 19)) >> 20 == tenthsOfMiB)
    }

    /// The README's table, in KiB and in MiB as it rounds them.
    @Test(
        arguments: [
            (100 << 30, 4096, "6.5 MiB"),
            (1024 << 30, 4096, "66 MiB"),
            (10240 << 30, 4096, "661 MiB"),
            (102400 << 30, 4096, "6.5 GiB"),
            (100 << 30, 65536, "480 KiB"),
            (1024 << 30, 65536, "4.2 MiB"),
            (10240 << 30, 65536, "41 MiB"),
            (102400 << 30, 65536, "413 MiB"),
            (100 << 30, 1048576, "96 KiB"),
            (1024 << 30, 1048576, "336 KiB"),
            (10240 << 30, 1048576, "2.6 MiB"),
            (102400 << 30, 1048576, "26 MiB"),
        ] as [(UInt64, UInt64, String)]
    )
    func sizesOfTheReadme(volumeByteCount: UInt64, granuleByteCount: UInt64, words: String) throws {
        let layout = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        let parts = words.split(separator: " ")
        let units: [Substring: Double] = ["KiB": 1024, "MiB": 1_048_576, "GiB": 1_073_741_824]
        let stated = try #require(Double(parts[0])) * (try #require(units[parts[1]]))
        #expect(abs(Double(layout.areaByteCount) - stated) / stated < 0.06)
    }

    @Test(arguments: [0, 1, 4096, 31_743 * 4096, 31_744 * 4096, 31_744 * 4096 + 1] as [UInt64])
    func pagesCoverTheVolume(volumeByteCount: UInt64) {
        let layout = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: 4096)
        #expect(layout.pageCount * MetadataLayout.granulesPerPage >= layout.granuleCount)
        #expect(layout.pageCount == 0 || (layout.pageCount - 1) * MetadataLayout.granulesPerPage < layout.granuleCount)
        #expect(layout.areaByteCount == 65536 + 8192 * layout.pageCount)
    }

    /// No volume is too large to be asked about.
    @Test func largestVolume() {
        let layout = MetadataLayout(volumeByteCount: .max, granuleByteCount: 4096)
        #expect(layout.granuleCount == 1 << 52)
        #expect(!MetadataLayout.isValid(extentByteCount: 4 << 20, granuleByteCount: 4096, volumeByteCount: .max))
    }

    /// The last key of the target's side would stand for "no extent".
    @Test func everyExtentHasAKeyOfItsOwn() {
        let extent: UInt64 = 4 << 20
        let limit = (UInt64(ActivityLog.targetSide) - 1) * extent
        for (byteCount, isValid) in [(limit, true), (limit + 1, false), (limit + extent, false), (1, true)] {
            #expect(
                MetadataLayout.isValid(extentByteCount: extent, granuleByteCount: 4096, volumeByteCount: byteCount)
                    == isValid
            )
        }
        for (extent, isValid) in [(4096, true), (4 << 20, true), (8 << 20, false), (2048, false), (12288, false)] {
            #expect(
                MetadataLayout.isValid(
                    extentByteCount: UInt64(extent),
                    granuleByteCount: 4096,
                    volumeByteCount: 1 << 30
                ) == isValid
            )
        }
    }

    // MARK: - Golden bytes, whose checksums a program of another language computed

    private func checksums(_ block: [UInt8]) -> [UInt32] {
        (0..<8).map { sector in
            (0..<4).reduce(0) { $0 | UInt32(block[sector * 512 + $1]) << UInt32(8 * $1) }
        }
    }

    private func block(_ encode: (inout MutableRawSpan) -> Void) -> [UInt8] {
        var area = MapArea(volumeByteCount: 4096)
        area.write(at: 0, encode)
        return Array(area.bytes[0..<4096])
    }

    /// The first record of generation 3: extent 5 into slot 0, extent 7 of the target's side into slot 1.
    @Test func logRecord() {
        var log = ActivityLog(capacity: 2)
        let isBuilt = log.want(5) && log.want(7 | ActivityLog.targetSide) && log.beginRecord()
        #expect(isBuilt && MetadataLayout.logBlockOffset(sequence: 1) == 8192 + 4096)
        var bytes = [UInt8](repeating: 0xFF, count: 4096)
        bytes.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            ActivityLogSector.encodeRecord(of: log, generation: 3, Self.pair, into: &span)
        }
        #expect(Array(bytes[4..<24]) == Array("RLAL".utf8) + [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 80, 0, 0, 0])
        #expect(Array(bytes[24..<36]) == [0, 0, 5, 0, 0, 0, 1, 0, 7, 0, 0, 128])
        #expect(Array(bytes[36..<48]) == Array(bytes[24..<36]))
        #expect(Array(bytes[48..<54]) == [2, 0, 255, 255, 255, 255])
        #expect(bytes[6 * 512 + 20] == 34 && bytes[7 * 512 + 20] == 0 && bytes[7 * 512 + 22] == 7)
        let sums: [UInt32] = [
            0xAD06_285C, 0x3300_3188, 0x5F6F_7D1F, 0xDA3D_A274, 0xB9CA_B5CD, 0xB03D_CACD, 0xD23A_D4A9, 0xDA4B_E2FC,
        ]
        #expect(checksums(bytes) == sums)
        #expect(Checksum.crc32c(bytes.span.bytes) == 0xF82D_0934)
    }

    @Test func blankLog() {
        let bytes = block { ActivityLogSector.encodeBlank(number: 2, Self.pair, into: &$0) }
        #expect(checksums(bytes)[3] == 0x7376_CB90)
        #expect(Array(bytes[8..<24]) == [UInt8](repeating: 0, count: 16))
    }

    /// Granules 0, 65 and 3970, the last but none of its volume, on the target's side.
    @Test func bitmapPage() {
        var map = DirtyMap(volumeByteCount: 3971 * 4096, granuleByteCount: 4096)
        for granule in [0, 65, 3970] as [UInt64] { map.mark(touching: Extent(offset: granule * 4096, length: 1)) }
        var bytes = [UInt8](repeating: 0xFF, count: 4096)
        bytes.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            BitmapSector.encodePage(1, of: map, Self.pair, into: &span)
        }
        #expect(Array(bytes[4..<16]) == Array("RLBM".utf8) + [UInt8](repeating: 0, count: 8))
        #expect(bytes[16] == 1 && bytes[24] == 2 && bytes[512 + 16] == 4)
        let sums: [UInt32] = [
            0x3F05_20B8, 0x2419_9F1D, 0xB4AB_2494, 0xD028_21FC, 0xEA4D_4D15, 0x8ECE_487D, 0x234B_47C5, 0x47C8_42AD,
        ]
        #expect(checksums(bytes) == sums)
        #expect(Checksum.crc32c(bytes.span.bytes) == 0xB9F6_4AD7)
    }

    @Test func pairRecord() {
        var record = PairRecord(
            sequence: 0x0102,
            pair: Self.pair,
            volumeByteCount: 1 << 40,
            copyState: 4,
            isClosedCleanly: false
        )
        record.operation = 15
        record.volumeBlockByteCount = 4096
        record.isTargetConsistent = true
        record.isSourceInconsistent = true
        record.mapTrust = .exact
        record.logGeneration = 7
        record.granuleShift = 12
        let bytes = block { record.encode(into: &$0) }
        let golden: [UInt8] = [
            82, 69, 80, 76, 80, 65, 73, 82, 7, 0, 0, 0, 169, 211, 91, 239, 2, 1, 0, 0, 0, 0, 0, 0, 239, 205, 171, 137,
            103, 69, 35, 1, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4, 40, 15, 2, 0, 16, 0, 0, 7, 0, 0, 0,
            12, 22,
        ]
        #expect(Array(bytes[0..<62]) == golden)
        #expect(bytes[62...].allSatisfy { $0 == 0 })
    }
}
