import Glibc
import RepldCore
import RepldEngine
import RepldUring
import Testing

/// Zeroing, discarding, and asking where the data is.
@Suite struct ElementZeroTests {
    @Test("On a file: discard gives space back, keepAllocated keeps it, both read as zeroes", arguments: [true, false])
    func file(isDurable: Bool) throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        try check(path, allocatedIn: path, isDurable: isDurable, keepWorks: true)
    }

    @Test("On tmpfs: keepAllocated is not supported and changes nothing", .enabled(if: isRoot))
    func tmpfs() throws {
        let place = try TemporaryDirectory(tmpfs: "4m")
        let path = try place.sparseFile("element", 1 << 20)
        try check(path, allocatedIn: path, isDurable: true, keepWorks: false)
    }

    @Test("On a loop device: down to its file", .enabled(if: isRoot), arguments: [512, 4096])
    func loopDevice(blockByteCount: Int) throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        let device = try LoopDevice(on: path, blockByteCount: blockByteCount)
        try check(device.path, allocatedIn: path, isDurable: true, keepWorks: true)
    }

    /// Three ranges of 64 KiB of data, each zeroed in its own way, and one that stays.
    private func check(_ path: String, allocatedIn backing: String, isDurable: Bool, keepWorks: Bool) throws {
        let data = Memory(262_144, seed: 5)
        let back = Memory(262_144)
        var desk = try Desk()
        let element = try desk.attach(path)
        let written = desk.write(element, 0, data.bytes)
        #expect(written?.failure == nil)
        _ = desk.flush(element)
        let before = allocatedUnits(backing)

        let discarded = desk.zero(element, Extent(offset: 0, length: 65536), .discard, isDurable: isDurable)
        #expect(discarded?.succeeded(65536) == true)
        let freed = desk.zero(element, Extent(offset: 65536, length: 65536), .mayDeallocate, isDurable: isDurable)
        #expect(freed?.succeeded(65536) == true)
        let after = allocatedUnits(backing)
        #expect(after <= before - 256, "128 KiB were given back")
        let kept = desk.zero(element, Extent(offset: 131_072, length: 65536), .keepAllocated, isDurable: isDurable)
        #expect(kept?.failure == (keepWorks ? nil : .notSupported))

        let read = desk.read(element, 0, back.bytes)
        #expect(read?.failure == nil)
        #expect(back.isZero(0, 131_072))
        #expect(
            keepWorks
                ? back.isZero(131_072, 65536) : back.slice(131_072, 65536).elementsEqual(data.slice(131_072, 65536))
        )
        #expect(back.slice(196_608, 65536).elementsEqual(data.slice(196_608, 65536)))
        desk.platform.detach(element)
    }

    @Test("A durable zero waits for the flush behind it, and fails with it")
    func durableZero() throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        var desk = try Desk()
        let element = try desk.attach(path)
        desk.platform.replaceNextResult(of: .zeroFlush, with: -EIO)
        let failed = desk.zero(element, Extent(offset: 0, length: 4096), .discard, isDurable: true)
        #expect(failed?.failure == .inputOutput)
        desk.platform.replaceNextResult(of: .zero, with: -EOPNOTSUPP)
        let refused = desk.zero(element, Extent(offset: 0, length: 4096), .discard, isDurable: true)
        #expect(refused?.failure == .notSupported)
        desk.platform.detach(element)
    }

    @Test("A sparse file tells its holes, cut to what was asked", .enabled(if: isRoot))
    func sparseFile() throws {
        let place = try TemporaryDirectory(tmpfs: "4m")
        let path = try place.sparseFile("element", 1 << 20)
        let data = Memory(65536, seed: 5)
        var desk = try Desk()
        let element = try desk.attach(path)
        _ = desk.write(element, 131_072, data.bytes)
        _ = desk.write(element, 524_288, data.bytes)
        func ends(_ runs: [AllocationRun]) -> [UInt64] { runs.map(\.end) }

        let all = desk.runs(element, Extent(offset: 0, length: 1 << 20), room: 16)
        #expect(ends(all) == [131_072, 196_608, 524_288, 589_824, 1 << 20])
        #expect(all.map(\.isHole) == [true, false, true, false, true])
        let part = desk.runs(element, Extent(offset: 135_168, length: 65536), room: 16)
        #expect(ends(part) == [196_608, 200_704])
        let cut = desk.runs(element, Extent(offset: 0, length: 1 << 20), room: 2)
        #expect(ends(cut) == [131_072, 196_608])
        desk.platform.detach(element)
    }

    @Test("A block device is one run of data", .enabled(if: isRoot))
    func deviceRuns() throws {
        let place = try TemporaryDirectory()
        let device = try LoopDevice(on: try place.sparseFile("element", 1 << 20))
        var desk = try Desk()
        let element = try desk.attach(device.path)
        let runs = desk.runs(element, Extent(offset: 4096, length: 8192), room: 4)
        #expect(runs.map(\.end) == [12288])
        #expect(runs.map(\.isHole) == [false])
        desk.platform.detach(element)
    }

    @Test("Many queries at once are answered one after the other, among reads")
    func manyQueries() throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        let memory = Memory(4096)
        let runs = UnsafeMutableBufferPointer<AllocationRun>.allocate(capacity: 200)
        defer { runs.deallocate() }
        var desk = try Desk()
        let element = try desk.attach(path)
        for index in 0..<200 {
            desk.platform.queryAllocation(
                element,
                Extent(offset: 0, length: 1 << 20),
                into: UnsafeMutableBufferPointer(rebasing: runs[index...index]),
                token: Token(rawValue: UInt64(100 + index))
            )
        }
        desk.platform.read(element, at: 0, into: memory.bytes, token: Token(rawValue: 1))
        var seen = Set<UInt64>()
        while seen.count < 201, let completion = desk.next() {
            #expect(completion.failure == nil)
            #expect(seen.insert(completion.token.rawValue).inserted)
        }
        #expect(seen.count == 201)
        desk.platform.detach(element)
    }
}

extension Desk {
    mutating func runs(_ element: ElementID, _ extent: Extent, room: Int) -> [AllocationRun] {
        let memory = UnsafeMutableBufferPointer<AllocationRun>.allocate(capacity: room)
        defer { memory.deallocate() }
        platform.queryAllocation(element, extent, into: memory, token: Token(rawValue: 5))
        guard let completion = next(), completion.failure == nil else { return [] }
        return (0..<Int(completion.count)).map { memory[$0] }
    }
}
