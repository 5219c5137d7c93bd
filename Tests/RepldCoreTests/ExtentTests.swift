import RepldCore
import Testing

@Suite("An extent")
struct ExtentTests {
    @Test("overlaps and contains what shares its bytes, for every pair of small extents")
    func agreesWithSetsOfBytes() {
        let all = (UInt64(0)...5).flatMap { offset in
            (UInt64(0)...5).map { Extent(offset: offset, length: $0) }
        }
        for left in all {
            for right in all {
                let bytes = (Set(left.offset..<left.end), Set(right.offset..<right.end))
                #expect(left.overlaps(right) == !bytes.0.isDisjoint(with: bytes.1), "\(left) and \(right)")
                if !right.isEmpty {
                    #expect(left.contains(right) == bytes.0.isSuperset(of: bytes.1), "\(left) and \(right)")
                }
            }
        }
    }

    @Test(
        "is aligned when both its ends are",
        arguments: [
            (UInt64(0), UInt64(0), true), (0, 512, true), (512, 1024, true), (1, 512, false), (512, 511, false),
            (512, 513, false), (256, 256, false), (511, 1, false),
        ]
    )
    func alignment(offset: UInt64, length: UInt64, isAligned: Bool) {
        #expect(Extent(offset: offset, length: length).isAligned(to: 512) == isAligned)
    }

    @Test("reads as its first byte and its length")
    func words() {
        #expect(Extent(offset: 4096, length: 512).description == "[4096, +512)")
    }

    @Test("may end at the last 64-bit address, and one byte further stops the process")
    func end() async {
        let last = Extent(offset: .max - 1, length: 1)
        #expect(last.end == .max)
        #expect(last.overlaps(Extent(offset: 0, length: .max)))
        await #expect(processExitsWith: .failure) { _ = Extent(offset: .max, length: 1) }
    }
}
