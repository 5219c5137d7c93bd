internal import Foundation
internal import RepldCore

/// What a stretch of host I/O came to.
struct DemoTally: Sendable {
    var requestCount = 0
    var failedCount = 0
    var byteCount: UInt64 = 0
    var seconds = 0.0

    var perSecond: Double { seconds > 0 ? Double(requestCount) / seconds : 0 }
    var bytesPerSecond: Double { seconds > 0 ? Double(byteCount) / seconds : 0 }
}

/// The host of the demo: writes numbered blocks, and remembers what it was told is there.
///
/// Never two writes to one block in flight, so that what an acknowledged write left is known.
/// Runs on one thread at a time: the caller's.
final class DemoWorkload: @unchecked Sendable {
    static let blockByteCount = 4096

    private let client: DemoClient
    private var random = RandomSource(seed: 20_260_101)
    /// The number last acknowledged for each block; 0 where nothing was written.
    private(set) var acknowledged: [UInt64]
    /// Blocks whose write failed: either content is allowed.
    private(set) var doubtful: Set<Int> = []
    private var nextNumber: UInt64 = 1

    init(_ client: DemoClient) {
        self.client = client
        acknowledged = Array(repeating: 0, count: Int(client.byteCount) / Self.blockByteCount)
    }

    /// The bytes of a block that carries `number`.
    static func block(_ number: UInt64, at index: Int) -> [UInt8] {
        var words = [UInt64](repeating: number, count: blockByteCount / 8)
        words[0] = UInt64(index)
        return unsafe words.withUnsafeBytes { unsafe Array($0) }
    }

    /// Writes `length` bytes from the start of the volume, 1 MiB at a time, four in flight.
    func fill(_ length: UInt64) throws -> DemoTally {
        let chunkBlocks = (1 << 20) / Self.blockByteCount
        var next = 0
        return try drive(depth: 4) {
            guard UInt64(next) * UInt64(Self.blockByteCount) < length else { return nil }
            defer { next += chunkBlocks }
            return next..<next + chunkBlocks
        }
    }

    /// Blocks that random writes go to: an eighth of the volume, so that most of it stays as it is.
    private var busyBlockCount: Int { max(1, acknowledged.count / 8) }

    /// Writes random blocks of 4 KiB, 32 in flight, until `isOver` says so.
    func writeRandomly(until isOver: () -> Bool) throws -> DemoTally {
        var inFlight: Set<Int> = []
        return try drive(
            depth: 32,
            ended: { inFlight.remove($0.lowerBound) },
            next: { [self] in
                guard !isOver() else { return nil }
                var block = Int(random.below(UInt64(busyBlockCount)))
                while !inFlight.insert(block).inserted { block = (block + 1) % busyBlockCount }
                return block..<block + 1
            }
        )
    }

    /// Makes everything acknowledged so far durable on every copy.
    func flush() throws {
        try client.start(.flush, cookie: 0)
        let reply = try client.nextReply()
        guard reply.error == 0 else { throw DemoError("a flush failed with error \(reply.error)") }
    }

    private struct Write {
        var blocks: Range<Int>
        var number: UInt64
    }

    private func drive(
        depth: Int,
        ended: (Range<Int>) -> Void = { _ in },
        next: () -> Range<Int>?
    ) throws -> DemoTally {
        var tally = DemoTally()
        var inFlight: [UInt64: Write] = [:]
        let start = ContinuousClock.now
        while true {
            while inFlight.count < depth, let blocks = next() {
                let number = nextNumber
                nextNumber += 1
                inFlight[number] = Write(blocks: blocks, number: number)
                let data = blocks.flatMap { Self.block(number, at: $0) }
                let offset = UInt64(blocks.lowerBound * Self.blockByteCount)
                try client.start(.write, cookie: number, offset: offset, length: UInt32(data.count), data: data)
            }
            if inFlight.isEmpty { break }
            let reply = try client.nextReply()
            guard let write = inFlight.removeValue(forKey: reply.cookie) else {
                throw DemoError("the daemon answered a request that was never made")
            }
            settle(write, reply.error, &tally)
            ended(write.blocks)
        }
        tally.seconds = (ContinuousClock.now - start) / .seconds(1)
        return tally
    }

    private func settle(_ write: Write, _ error: UInt32, _ tally: inout DemoTally) {
        tally.requestCount += 1
        if error == 0 {
            tally.byteCount += UInt64(write.blocks.count * Self.blockByteCount)
            for block in write.blocks { acknowledged[block] = write.number }
        } else {
            tally.failedCount += 1
            doubtful.formUnion(write.blocks)
        }
    }
}
