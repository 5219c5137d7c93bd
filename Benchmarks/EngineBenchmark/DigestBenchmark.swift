import RepldCore
import RepldEngine

/// How fast blocks are compared by their digests, which is what a verify computes.
struct DigestBenchmark: ~Copyable {
    /// As much as a verify compares at once, of each side.
    private static var chunkByteCount: Int { 256 << 10 }
    /// More than the caches near a core hold.
    private static var areaByteCount: Int { 64 << 20 }

    private var left = FixedArray(repeating: UInt64(0), count: areaByteCount / 8)
    private var right = FixedArray(repeating: UInt64(0), count: areaByteCount / 8)

    init() {
        var random = RandomSource(seed: 1)
        for index in 0..<left.count {
            left[index] = random.next()
            right[index] = left[index]
        }
    }

    /// GiB per second of one side that are digested, in blocks as a verify has them.
    mutating func digest(byteCount: Int) -> Double {
        var sum: UInt64 = 0
        let elapsed = elapsedNanoseconds(byteCount) { left, _ in
            var offset = 0
            while offset < left.count {
                let block = offset..<offset + BlockDigest.blockByteCount
                sum &+= unsafe BlockDigest.digest(UnsafeRawBufferPointer(rebasing: left[block]))
                offset = block.upperBound
            }
        }
        invariant(sum != 0, "digests of random blocks do not cancel out")
        return Double(byteCount) / Double(1 << 30) / (elapsed / 1e9)
    }

    /// GiB per second of volume that are compared by the digests of both sides.
    mutating func compare(byteCount: Int) -> Double {
        let elapsed = elapsedNanoseconds(byteCount) { left, right in
            let isEqual = unsafe DataExamination.haveEqualDigests(left, right)
            invariant(isEqual, "the same bytes have the same digests")
        }
        return Double(byteCount) / Double(1 << 30) / (elapsed / 1e9)
    }

    private mutating func elapsedNanoseconds(
        _ byteCount: Int,
        _ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void
    ) -> Double {
        let chunk = Self.chunkByteCount
        let start = processorNanoseconds()
        var offset = 0
        for _ in 0..<byteCount / chunk {
            unsafe withUnsafePointer(to: &left[offset / 8]) { first in
                unsafe withUnsafePointer(to: &right[offset / 8]) { second in
                    unsafe body(
                        UnsafeRawBufferPointer(start: first, count: chunk),
                        UnsafeRawBufferPointer(start: second, count: chunk)
                    )
                }
            }
            offset = (offset + chunk) % Self.areaByteCount
        }
        return Double(processorNanoseconds() - start)
    }
}
