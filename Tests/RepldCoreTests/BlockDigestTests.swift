import RepldCore
import Testing

/// Against vectors that the algorithm's author and other implementations publish, and a second way of computing it.
@Suite struct BlockDigestTests {
    private func digest(_ bytes: [UInt8]) -> UInt64 {
        bytes.withUnsafeBytes { unsafe BlockDigest.digest($0) }
    }

    @Test(
        arguments: [
            ("", 0xEF46_DB37_51D8_E999), ("\0", 0xE934_A84A_DB05_2768), ("abc", 0x44BC_2CF5_AD77_0999),
            ("abcd", 0xDE03_27B0_D25D_92CC), ("abcdefgh", 0x3AD3_5177_5B46_34B7), ("xxhash", 0x32DD_3895_2C4B_C720),
            ("Call me Ishmael. Some years ago--never mind how long precisely-", 0x02A2_E854_70D6_FD96),
        ] as [(String, UInt64)]
    )
    func isAsPublished(text: String, wanted: UInt64) {
        #expect(digest(Array(text.utf8)) == wanted)
    }

    /// A block as a disk has it: the digest that `xxhsum -H64` (0.8.1) prints for 4096 bytes `i * 7 + i / 256`.
    @Test func ofABlockIsWhatTheAuthorsToolSays() {
        let block = (0..<4096).map { UInt8(truncatingIfNeeded: $0 * 7 + $0 / 256) }
        #expect(digest(block) == 0x2F20_95DB_B4B7_8856)
    }

    @Test func everyBitCounts() {
        var block = [UInt8](repeating: 0, count: 4096)
        let clean = digest(block)
        var seen: Set<UInt64> = [clean]
        for bit in 0..<4096 * 8 {
            block[bit / 8] ^= 1 << UInt8(bit % 8)
            seen.insert(digest(block))
            block[bit / 8] ^= 1 << UInt8(bit % 8)
        }
        #expect(seen.count == 4096 * 8 + 1)
        #expect(digest(block) == clean)
    }

    @Test func doesNotDependOnWhereTheBytesLie() {
        let bytes = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        for count in [1, 7, 31, 32, 33, 63, 64, 4095, 4096] {
            let wanted = digest(Array(bytes[3..<3 + count]))
            let found = bytes.withUnsafeBytes {
                unsafe BlockDigest.digest(UnsafeRawBufferPointer(rebasing: $0[3..<3 + count]))
            }
            #expect(found == wanted)
        }
    }
}
