import RepldCore
import Testing

@testable import RepldWire

@Suite struct PayloadTests {
    /// Whatever is decoded encodes to the bytes that it came from: no byte is ignored, none is made up.
    private func check<Payload: FramePayload>(_ payload: Payload, seed: UInt64) throws {
        let good = bytes(of: payload)
        #expect(try Payload.decode(good.span.bytes) == payload)
        for count in [0, Payload.byteCount - 1, Payload.byteCount + 1] {
            let other = [UInt8](repeating: 0, count: count)
            #expect(throws: PayloadError.size(found: count, expected: Payload.byteCount)) {
                try Payload.decode(other.span.bytes)
            }
        }
        var random = RandomSource(seed: seed)
        var accepted = 0
        for _ in 0..<5000 {
            var changed = good
            for _ in 0...random.below(4) {
                changed[Int(random.below(UInt64(changed.count)))] ^= 1 << UInt8(random.below(8))
            }
            guard let decoded = try? Payload.decode(changed.span.bytes) else { continue }
            accepted += 1
            #expect(bytes(of: decoded) == changed)
        }
        #expect(accepted > 0)
    }

    static func record() -> SideRecord {
        var record = SideRecord(pair: PairID(high: 3, low: 4), volumeByteCount: 1 << 40, hasPair: true)
        record.term = 0x0102_0304
        record.sequence = 9
        record.lineage.generation = Generation(0xA1)
        record.lineage.confirmedSequence = 7
        record.lineage.takenOverAt = HistoryPoint(Generation(0xA3), 4)
        for age in (0..<UInt64(GenerationHistory.capacity)).reversed() {
            record.lineage.history.push(HistoryPoint(Generation(0xB0 + age), 8 - age))
        }
        return record
    }

    static var opening: PairOpening {
        PairOpening(record: record(), copyState: 4, mode: 3, blockByteCount: 4096, granuleShift: 16)
    }

    @Test func allPayloads() throws {
        try check(NegotiationTests.hello(host: 7, 1...3, 0x21, required: 1), seed: 1)
        try check(Ping(askedClock: 1, answeredClock: 2, oldestUnsentAge: 3), seed: 2)
        try check(Self.opening, seed: 4)
        #expect(Array(bytes(of: Self.opening)[24..<29]) == [4, 3, 2, 1, 1])
        var answer = Self.opening
        (answer.keepsUndo, answer.isUndoLost, answer.isImage, answer.record.hasPair) = (true, true, true, false)
        try check(answer, seed: 5)
        #expect(bytes(of: answer)[28] == 14)
    }

    @Test func openingsThatAreImpossible() {
        let good = bytes(of: Self.opening)
        let changes: [(place: Int, value: UInt8)] = [
            (23, 0x80), (28, 16), (30, 4), (31, 11), (31, 21), (33, 0x18), (36, 1), (39, 1),
        ]
        for change in changes {
            var bad = good
            bad[change.place] = change.value
            #expect(throws: PayloadError.self) { try PairOpening.decode(bad.span.bytes) }
        }
    }

    @Test func reasonsOfLaterVersions() {
        #expect(Goodbye(detail: 3) == .badFrame)
        #expect(Goodbye(detail: 4_000_000_000) == .internalError)
    }
}
