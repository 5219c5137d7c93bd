import CRepldCRC32C
import RepldCore
import Testing

@Suite("The checksum")
struct ChecksumTests {
    /// RFC 3720 appendix B.4, with the check value of the catalogue of parametrised CRC algorithms in front.
    static let vectors: [(bytes: [UInt8], checksum: UInt32)] = [
        (Array("123456789".utf8), 0xE306_9283),
        (Array(repeating: 0x00, count: 32), 0x8A91_36AA),
        (Array(repeating: 0xFF, count: 32), 0x62A8_AB43),
        (Array(0...31), 0x46DD_794E),
        (Array((0...31).reversed()), 0x113F_DB5C),
        (
            [
                0x01, 0xC0, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x18,
                0x28, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            ], 0xD996_3A56
        ),
    ]

    private static func table(_ bytes: [UInt8], continuing checksum: UInt32 = 0) -> UInt32 {
        bytes.withUnsafeBytes { buffer in
            buffer.baseAddress.map { repld_crc32c_table(checksum, $0, buffer.count) } ?? checksum
        }
    }

    private static func chosen(_ bytes: [UInt8], continuing checksum: UInt32 = 0) -> UInt32 {
        Checksum.crc32c(bytes.span.bytes, continuing: checksum)
    }

    /// One bit at a time, from the polynomial.
    private static func bitwise(_ bytes: [UInt8]) -> UInt32 {
        var remainder = ~UInt32(0)
        for byte in bytes {
            remainder ^= UInt32(byte)
            for _ in 0..<8 { remainder = remainder & 1 == 1 ? remainder >> 1 ^ 0x82F6_3B78 : remainder >> 1 }
        }
        return ~remainder
    }

    @Test("is the standard's for the standard's examples", arguments: vectors.indices)
    func standardVectors(index: Int) {
        let vector = Self.vectors[index]
        #expect(Self.chosen(vector.bytes) == vector.checksum)
        #expect(Self.table(vector.bytes) == vector.checksum)
    }

    @Test("is the same by instruction, by table and bit by bit, at every length and alignment")
    func waysAgree() {
        var random = RandomSource(seed: 3720)
        let bytes = (0..<600).map { _ in UInt8(truncatingIfNeeded: random.next()) }
        for start in 0..<9 {
            for length in 0...(bytes.count - start) where length < 80 || length % 37 == 0 {
                let part = Array(bytes[start..<start + length])
                let expected = Self.bitwise(part)
                #expect(Self.table(part) == expected, "table, \(length) bytes")
                let inPlace = Checksum.crc32c(bytes.span.extracting(start..<start + length).bytes)
                #expect(inPlace == expected, "\(length) bytes from byte \(start)")
            }
        }
    }

    @Test("goes on over pieces as over the whole", arguments: [0, 1, 7, 8, 9, 31, 32])
    func continues(cut: Int) {
        let bytes = Self.vectors[3].bytes
        let first = Array(bytes[..<cut])
        let second = Array(bytes[cut...])
        #expect(Self.chosen(second, continuing: Self.chosen(first)) == Self.vectors[3].checksum)
        #expect(Self.table(second, continuing: Self.table(first)) == Self.vectors[3].checksum)
    }

    @Test("of nothing is what it went on from", arguments: [UInt32(0), 1, .max])
    func empty(checksum: UInt32) {
        #expect(Self.chosen([], continuing: checksum) == checksum)
    }

    @Test("notices any single bit that changed")
    func singleBits() {
        let bytes = Self.vectors[5].bytes
        for bit in 0..<(bytes.count * 8) {
            var changed = bytes
            changed[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(Self.chosen(changed) != Self.vectors[5].checksum, "bit \(bit)")
        }
    }
}
