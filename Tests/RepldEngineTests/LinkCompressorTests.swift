import RepldCore
import RepldPair
import RepldWire
import Testing

@testable import RepldEngine

@Suite("The compressing side of a session")
struct LinkCompressorTests {
    private static let pieceByteCount = WireLimits.pieceByteCountCeiling
    private static let start = Instant(nanoseconds: 1_000_000_000)

    @Test("has a place for each piece that a mover has under way")
    func hasRoomForCopy() {
        let settings = PairSettings()
        let pieceCount = Int(settings.copyDepth) * Int(settings.copyChunkByteCount) / Self.pieceByteCount
        var compressor = LinkCompressor(isInUse: true)
        let placed = (0..<pieceCount).filter { _ in
            compressor.begin(.copy, plainByteCount: Self.pieceByteCount, at: Self.start) != nil
        }
        #expect(placed.count == pieceCount)
    }

    @Test("takes the speed of the other thread from its work, however many payloads wait for it", arguments: [1, 32])
    func measuresWork(payloadCount: Int) {
        var compressor = LinkCompressor(isInUse: true)
        var now = Self.start
        // A piece in 100 us: 1.3 GB/s. The link carries 200 MB/s, so that halves are worth it.
        for _ in 0..<20 {
            let places = (0..<payloadCount).compactMap { _ in
                compressor.begin(.copy, plainByteCount: Self.pieceByteCount, at: now)
            }
            for place in places {
                now = now.advanced(byNanoseconds: 100_000)
                compressor.ended(place, byteCount: Self.pieceByteCount / 2, at: now)
            }
            for place in places { compressor.release(place) }
        }
        var policy = compressor.policy
        policy.carried(byteCount: 200_000_000, nanoseconds: 1_000_000_000, wasFull: true)
        #expect(policy.isOn(.copy))
        // Where the link carries as much as the thread compresses, it is not.
        policy = compressor.policy
        policy.carried(byteCount: 1_300_000_000, nanoseconds: 1_000_000_000, wasFull: true)
        #expect(!policy.isOn(.copy))
    }

    @Test("does not count a pause as work")
    func ignoresPauses() throws {
        var compressor = LinkCompressor(isInUse: true)
        var now = Self.start
        for _ in 0..<20 {
            let found = compressor.begin(.copy, plainByteCount: Self.pieceByteCount, at: now)
            let place = try #require(found)
            compressor.ended(place, byteCount: Self.pieceByteCount / 2, at: now.advanced(byNanoseconds: 100_000))
            compressor.release(place)
            now = now.advanced(byNanoseconds: 1_000_000_000)
        }
        var policy = compressor.policy
        policy.carried(byteCount: 200_000_000, nanoseconds: 1_000_000_000, wasFull: true)
        #expect(policy.isOn(.copy))
    }
}
