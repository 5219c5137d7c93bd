import RepldCore
import Testing

@Suite("A pair's name")
struct PairIDTests {
    @Test(
        "is read back from what it prints",
        arguments: [
            (UInt64(0), UInt64(0)), (1, 0), (0, 1), (.max, .max), (0x0123_4567_89AB_CDEF, 0xF), (1 << 63, 1 << 63),
        ]
    )
    func roundTrip(high: UInt64, low: UInt64) {
        let id = PairID(high: high, low: low)
        #expect(id.description.utf8.count == 32)
        #expect(PairID(id.description) == id)
    }

    @Test("prints 32 lower-case digits, the high half first")
    func words() {
        let id = PairID(high: 0x0123_4567_89AB_CDEF, low: 0xF)
        #expect(id.description == "0123456789abcdef000000000000000f")
    }

    @Test(
        "is not read from anything else",
        arguments: [
            "", "0123456789abcdef", "0123456789abcdef000000000000000", "0123456789abcdef000000000000000f0",
            "0123456789ABCDEF000000000000000f", "0123456789abcdef00000000000000 f", "+123456789abcdef000000000000000f",
            "-123456789abcdef000000000000000f", "0123456789abcdeg000000000000000f", "0x23456789abcdef000000000000000f",
            "0123456789abcde-f00000000000000f", "０123456789abcdef0000000000000",
        ]
    )
    func refuses(text: String) {
        #expect(PairID(text) == nil)
    }
}
