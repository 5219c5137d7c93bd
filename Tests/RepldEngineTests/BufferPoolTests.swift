import RepldCore
import RepldEngine
import RepldPair
import Testing

@Suite("The buffer pool")
struct BufferPoolTests {
    typealias SizeClass = BufferPool.SizeClass

    private static let small = [SizeClass(byteCount: 4096, count: 3), SizeClass(byteCount: 16384, count: 2)]

    /// Takes a buffer that has to be there.
    private static func take(_ byteCount: Int, from pool: inout BufferPool) throws -> BufferID {
        let buffer = pool.take(byteCount: byteCount)
        return try #require(buffer)
    }

    @Test("serves from the smallest class that fits, and from a larger one before it refuses")
    func servesSmallestFirst() {
        var pool = BufferPool(Self.small)
        var sizes: [Int] = []
        while let buffer = pool.take(byteCount: 1) { sizes.append(pool.bytes(of: buffer).count) }
        #expect(sizes == [4096, 4096, 4096, 16384, 16384])
        let taken = pool.takenCount
        #expect(taken == 5)
    }

    @Test(
        "finds the class at its boundary, one byte below and one above",
        arguments: [(0, 4096), (1, 4096), (4095, 4096), (4096, 4096), (4097, 16384), (16383, 16384), (16384, 16384)]
    )
    func boundaries(byteCount: Int, expected: Int) throws {
        var pool = BufferPool(Self.small)
        let buffer = try Self.take(byteCount, from: &pool)
        let size = pool.bytes(of: buffer).count
        #expect(size == expected)
    }

    @Test("a large request does not get a small buffer, even when only small ones are free")
    func largeRequestsWait() throws {
        var pool = BufferPool(Self.small)
        let first = try Self.take(16384, from: &pool)
        let second = try Self.take(5000, from: &pool)
        let third = pool.take(byteCount: 5000)
        #expect(third == nil)
        pool.release(first)
        let again = pool.take(byteCount: 16384)
        #expect(again == first)
        #expect(again != second)
    }

    @Test("buffers never share a byte, lie inside the memory and are aligned")
    func buffersAreApart() {
        var pool = BufferPool(Self.small)
        var ranges: [Range<UInt>] = []
        while let buffer = pool.take(byteCount: 1) {
            let bytes = pool.bytes(of: buffer)
            let start = UInt(bitPattern: bytes.baseAddress)
            #expect(start % UInt(BufferPool.alignment) == 0)
            ranges.append(start..<start + UInt(bytes.count))
        }
        let whole = UInt(bitPattern: pool.memory.baseAddress)
        #expect(ranges.allSatisfy { whole <= $0.lowerBound && $0.upperBound <= whole + UInt(pool.memory.count) })
        let sorted = ranges.sorted { $0.lowerBound < $1.lowerBound }
        #expect(zip(sorted, sorted.dropFirst()).allSatisfy { $0.upperBound <= $1.lowerBound })
        let total = ranges.reduce(0) { $0 + $1.count }
        #expect(total == 3 * 4096 + 2 * 16384)
    }

    @Test("agrees with a list of what is out, and each buffer keeps its bytes", arguments: UInt64(1)...10)
    func agreesWithNaiveModel(seed: UInt64) {
        var random = RandomSource(seed: seed)
        var pool = BufferPool([
            SizeClass(byteCount: 4096, count: 5), SizeClass(byteCount: 8192, count: 1),
            SizeClass(byteCount: 65536, count: 3),
        ])
        var free = [4096: 5, 8192: 1, 65536: 3]
        var out: [(buffer: BufferID, size: Int, mark: UInt8)] = []
        for step in 0..<2000 {
            if random.chance(oneIn: 2) {
                let wanted = 1 + Int(random.below(65536))
                let size = free.keys.sorted().first { $0 >= wanted && free[$0] != 0 }
                let buffer = pool.take(byteCount: wanted)
                #expect((buffer == nil) == (size == nil), "step \(step)")
                if let buffer, let size {
                    let bytes = pool.bytes(of: buffer)
                    #expect(bytes.count == size, "step \(step)")
                    let mark = UInt8(truncatingIfNeeded: random.next())
                    bytes.initializeMemory(as: UInt8.self, repeating: mark)
                    free[size, default: 0] -= 1
                    out.append((buffer, size, mark))
                }
            } else if !out.isEmpty {
                let back = out.remove(at: Int(random.below(UInt64(out.count))))
                let isIntact = pool.bytes(of: back.buffer).allSatisfy { $0 == back.mark }
                #expect(isIntact, "nobody else wrote into a taken buffer")
                pool.release(back.buffer)
                free[back.size, default: 0] += 1
            }
            let taken = pool.takenCount
            #expect(taken == out.count)
        }
    }

    @Test("the standard pool holds what its description says")
    func standardPool() {
        let pool = BufferPool()
        let size = (pool.memory.count, pool.largestByteCount, pool.takenCount)
        #expect(size == ((4 + 16 + 64) << 20, 1 << 20, 0))
    }

    @Test("a buffer given back twice stops the process")
    func doubleRelease() async {
        await #expect(processExitsWith: .failure) {
            var pool = BufferPool([BufferPool.SizeClass(byteCount: 4096, count: 2)])
            guard let buffer = pool.take(byteCount: 1) else { return }
            pool.release(buffer)
            pool.release(buffer)
        }
    }

    @Test("the bytes of a buffer that was given back are out of reach")
    func useAfterRelease() async {
        await #expect(processExitsWith: .failure) {
            var pool = BufferPool([BufferPool.SizeClass(byteCount: 4096, count: 2)])
            guard let buffer = pool.take(byteCount: 1) else { return }
            pool.release(buffer)
            _ = pool.bytes(of: buffer)
        }
    }

    @Test("a request larger than any buffer, and a buffer that is not the pool's, stop the process")
    func limits() async {
        await #expect(processExitsWith: .failure) {
            var pool = BufferPool([BufferPool.SizeClass(byteCount: 4096, count: 2)])
            _ = pool.take(byteCount: 4097)
        }
        await #expect(processExitsWith: .failure) {
            var pool = BufferPool([BufferPool.SizeClass(byteCount: 4096, count: 2)])
            pool.release(.none)
        }
    }

    @Test("size classes that do not ascend, or are not aligned, stop the process")
    func badClasses() async {
        await #expect(processExitsWith: .failure) {
            _ = BufferPool([
                BufferPool.SizeClass(byteCount: 8192, count: 1), BufferPool.SizeClass(byteCount: 4096, count: 1),
            ])
        }
        await #expect(processExitsWith: .failure) {
            _ = BufferPool([BufferPool.SizeClass(byteCount: 4097, count: 1)])
        }
    }
}
