internal import RepldCore
package import RepldPair

/// The engine's data buffers: one aligned region, made once, cut into a few size classes.
///
/// A buffer is free or taken; it is given back exactly once. `take` serves from the smallest class that fits and has a
/// free buffer, so that a small request may use a large buffer but never waits while one is free. Running dry is the
/// back-pressure: front ends stop receiving until `release`.
/// Not thread-safe: owned by the loop.
@safe
package struct BufferPool: ~Copyable {
    /// One size class: `count` buffers of `byteCount` bytes each, a multiple of `alignment`.
    package struct SizeClass: Sendable {
        package var byteCount: Int
        package var count: Int

        package init(byteCount: Int, count: Int) {
            self.byteCount = byteCount
            self.count = count
        }
    }

    /// O_DIRECT wants the logical block size at most; 4096 serves every device.
    package static var alignment: Int { 4096 }

    /// 4 + 16 + 64 MiB: depth 1024 of 4 KiB, 256 of 64 KiB, 64 of 1 MiB.
    package static var standardClasses: [SizeClass] {
        [
            SizeClass(byteCount: 4 << 10, count: 1024),
            SizeClass(byteCount: 64 << 10, count: 256),
            SizeClass(byteCount: 1 << 20, count: 64),
        ]
    }

    struct Class: BitwiseCopyable {
        var byteCount: Int
        var firstBuffer: Int
        var bufferCount: Int
        var byteOffset: Int
        /// Where this class keeps its free list in `freeBuffers`, and how many are on it.
        var freeCount: Int
    }

    package let memory: UnsafeMutableRawBufferPointer
    private var classes: FixedArray<Class>
    private var freeBuffers: FixedArray<UInt32>
    private var isTaken: FixedArray<Bool>

    /// Allocates the region; `sizeClasses` in ascending order of size.
    package init(_ sizeClasses: [SizeClass] = BufferPool.standardClasses) {
        var total = 0
        var bufferCount = 0
        var made: [Class] = []
        for sizeClass in sizeClasses {
            invariant(sizeClass.byteCount % Self.alignment == 0, "a buffer is a multiple of the alignment")
            invariant(sizeClass.byteCount > (made.last?.byteCount ?? 0), "size classes ascend")
            made.append(
                Class(
                    byteCount: sizeClass.byteCount,
                    firstBuffer: bufferCount,
                    bufferCount: sizeClass.count,
                    byteOffset: total,
                    freeCount: sizeClass.count
                )
            )
            total += sizeClass.byteCount * sizeClass.count
            bufferCount += sizeClass.count
        }
        unsafe memory = .allocate(byteCount: total, alignment: Self.alignment)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0)
        classes = FixedArray(count: made.count) { made[$0] }
        isTaken = FixedArray(repeating: false, count: bufferCount)
        // Each class's list is filled so that its first buffer is taken first.
        freeBuffers = FixedArray(count: bufferCount) { index in
            guard let owner = made.first(where: { index < $0.firstBuffer + $0.bufferCount }) else { return 0 }
            return UInt32(owner.firstBuffer + owner.bufferCount - 1 - (index - owner.firstBuffer))
        }
    }

    deinit { unsafe memory.deallocate() }

    /// The largest request that one buffer holds.
    package var largestByteCount: Int { classes[classes.count - 1].byteCount }

    /// How many buffers of the largest size there are.
    package var largestBufferCount: Int { classes[classes.count - 1].bufferCount }

    /// Takes a buffer of at least `byteCount` bytes, leaving `reserve` of the largest for others; `nil` when none is free.
    package mutating func take(byteCount: Int, leaving reserve: Int = 0) -> BufferID? {
        invariant(byteCount <= largestByteCount, "a request is split to the largest buffer before it takes one")
        for index in 0..<classes.count where classes[index].byteCount >= byteCount {
            guard classes[index].freeCount > (index == classes.count - 1 ? reserve : 0) else { continue }
            classes[index].freeCount -= 1
            let buffer = freeBuffers[classes[index].firstBuffer + classes[index].freeCount]
            invariant(!isTaken[Int(buffer)], "a buffer of the free list is free")
            isTaken[Int(buffer)] = true
            return BufferID(rawValue: buffer)
        }
        return nil
    }

    /// The size of the buffer that `take` would give now; `nil` when it would give none.
    package func byteCountOfNext(byteCount: Int, leaving reserve: Int = 0) -> Int? {
        for index in 0..<classes.count where classes[index].byteCount >= byteCount {
            guard classes[index].freeCount > (index == classes.count - 1 ? reserve : 0) else { continue }
            return classes[index].byteCount
        }
        return nil
    }

    package mutating func release(_ buffer: BufferID) {
        let index = classIndex(of: buffer)
        invariant(isTaken[Int(buffer.rawValue)], "a buffer is given back once")
        isTaken[Int(buffer.rawValue)] = false
        freeBuffers[classes[index].firstBuffer + classes[index].freeCount] = buffer.rawValue
        classes[index].freeCount += 1
    }

    /// The memory of a taken buffer, whole.
    package func bytes(of buffer: BufferID) -> UnsafeMutableRawBufferPointer {
        let index = classIndex(of: buffer)
        invariant(isTaken[Int(buffer.rawValue)], "a buffer is used while it is taken")
        let place = Int(buffer.rawValue) - classes[index].firstBuffer
        let start = classes[index].byteOffset + place * classes[index].byteCount
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + classes[index].byteCount])
    }

    /// All buffers, of every class.
    package var bufferCount: Int { isTaken.count }

    /// Buffers taken now, over all classes.
    package var takenCount: Int {
        var count = 0
        for index in 0..<classes.count { count += classes[index].bufferCount - classes[index].freeCount }
        return count
    }

    private func classIndex(of buffer: BufferID) -> Int {
        for index in 0..<classes.count {
            if Int(buffer.rawValue) < classes[index].firstBuffer + classes[index].bufferCount { return index }
        }
        invariantFailed("a buffer number is one of the pool's")
    }
}
