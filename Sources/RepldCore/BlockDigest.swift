/// XXH64 with seed 0: the digest by which two copies of a block are compared without moving one to the other.
///
/// Source: "XXH64 algorithm description" of the xxHash fast digest specification (github.com/Cyan4973/xxHash,
/// `doc/xxhash_spec.md`). It is no cryptographic hash: it finds what disks, cables and software do to data, not what somebody
/// constructs to pass. Two blocks that differ by chance have the same digest with a probability of 2^-64 (5·10^-20): a
/// verify of 1 PiB in which *every* block of 4 KiB differs would overlook one of them with a probability of 1.5·10^-8.
package enum BlockDigest {
    /// What people and programs call it.
    package static var name: String { "XXH64 per 4 KiB" }
    /// The bytes that one digest stands for; the last block of a volume may be shorter.
    package static var blockByteCount: Int { 4096 }

    private static var prime1: UInt64 { 0x9E37_79B1_85EB_CA87 }
    private static var prime2: UInt64 { 0xC2B2_AE3D_27D4_EB4F }
    private static var prime3: UInt64 { 0x1656_67B1_9E37_79F9 }
    private static var prime4: UInt64 { 0x85EB_CA77_C2B2_AE63 }
    private static var prime5: UInt64 { 0x27D4_EB2F_1656_67C5 }

    /// The digest of some bytes.
    package static func digest(_ bytes: UnsafeRawBufferPointer) -> UInt64 {
        var offset = 0
        var hash = prime5
        if bytes.count >= 32 {
            unsafe hash = stripes(bytes, &offset)
        }
        hash &+= UInt64(bytes.count)
        while offset + 8 <= bytes.count {
            hash ^= unsafe round(0, word(bytes, offset))
            hash = rotated(hash, 27) &* prime1 &+ prime4
            offset += 8
        }
        if offset + 4 <= bytes.count {
            let half = unsafe UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
            hash ^= UInt64(half) &* prime1
            hash = rotated(hash, 23) &* prime2 &+ prime3
            offset += 4
        }
        while offset < bytes.count {
            hash ^= unsafe UInt64(bytes[offset]) &* prime5
            hash = rotated(hash, 11) &* prime1
            offset += 1
        }
        return avalanche(hash)
    }

    /// All whole stripes of 32 bytes: four accumulators that do not wait for each other.
    @inline(__always)
    private static func stripes(_ bytes: UnsafeRawBufferPointer, _ offset: inout Int) -> UInt64 {
        var first = prime1 &+ prime2
        var second = prime2
        var third: UInt64 = 0
        var fourth = 0 &- prime1
        while offset + 32 <= bytes.count {
            first = unsafe round(first, word(bytes, offset))
            second = unsafe round(second, word(bytes, offset + 8))
            third = unsafe round(third, word(bytes, offset + 16))
            fourth = unsafe round(fourth, word(bytes, offset + 24))
            offset += 32
        }
        var hash = rotated(first, 1) &+ rotated(second, 7) &+ rotated(third, 12) &+ rotated(fourth, 18)
        hash = merged(hash, first)
        hash = merged(hash, second)
        hash = merged(hash, third)
        return merged(hash, fourth)
    }

    @inline(__always)
    private static func word(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> UInt64 {
        unsafe UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }

    @inline(__always)
    private static func rotated(_ value: UInt64, _ count: UInt64) -> UInt64 {
        value << count | value >> (64 - count)
    }

    @inline(__always)
    private static func round(_ accumulator: UInt64, _ lane: UInt64) -> UInt64 {
        rotated(accumulator &+ lane &* prime2, 31) &* prime1
    }

    @inline(__always)
    private static func merged(_ hash: UInt64, _ accumulator: UInt64) -> UInt64 {
        (hash ^ round(0, accumulator)) &* prime1 &+ prime4
    }

    private static func avalanche(_ value: UInt64) -> UInt64 {
        var hash = value
        hash = (hash ^ hash >> 33) &* prime2
        hash = (hash ^ hash >> 29) &* prime3
        return hash ^ hash >> 32
    }
}
