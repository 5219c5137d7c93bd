import RepldCore
import RepldFormat
import Testing

@testable import RepldWire

@Suite struct GoldenFrameTests {
    private func check(
        _ golden: [UInt8],
        _ header: FrameHeader,
        _ payload: [UInt8] = [],
        _ location: SourceLocation = #_sourceLocation
    ) throws {
        #expect(frame(header, payload) == golden, sourceLocation: location)
        var sealed = header
        if !payload.isEmpty { sealed.seal(payload: payload.span.bytes) }
        #expect(try read(golden, lane: header.kind.someLane) == .frame(sealed), sourceLocation: location)
    }

    @Test func dataFrames() throws {
        var write = FrameHeader(kind: .write, flags: .durable, stream: 7, epoch: 0x1122_3344_5566_7788, sequence: 9)
        (write.offset, write.tag, write.length) = (1 << 33, 0xAABB_CCDD_0011_2233, 8)
        try check(GoldenFrames.write, write, Array(0..<8))
        let zero = FrameHeader(
            kind: .zero,
            flags: [.durable, .noHole],
            stream: 7,
            epoch: 2,
            sequence: 11,
            offset: 8192,
            tag: 2,
            length: 1 << 30
        )
        try check(GoldenFrames.zero, zero)
        try check(
            GoldenFrames.epochMark,
            FrameHeader(kind: .epochMark, stream: 7, epoch: 2, sequence: 11, tag: 3, detail: 2)
        )
        let status = AckStatus.noSpace.rawValue
        try check(
            GoldenFrames.ack,
            FrameHeader(kind: .ack, flags: .durable, stream: 7, epoch: 2, sequence: 11, tag: 3, detail: status)
        )
    }

    /// A block that another program compressed expands here.
    @Test func compressedFrame() throws {
        let plain = [[UInt8]](repeating: Array("repld ".utf8), count: 100).flatMap { $0 }
        let block = Array(GoldenFrames.writeCompressed[FrameHeader.byteCount...])
        let header = FrameHeader(
            kind: .write,
            flags: [.compressed, .copy],
            stream: 7,
            sequence: 10,
            offset: 4096,
            tag: 1,
            length: 600
        )
        try check(GoldenFrames.writeCompressed, header, block)
        let expanded = written(header.plainByteCount) { bytes in
            let isWhole = Compression.expand(block.span.bytes, into: &bytes)
            #expect(isWhole)
        }
        #expect(expanded == plain)
    }

    @Test func controlFrames() throws {
        var hello = Hello(
            lowestVersion: 1,
            highestVersion: 3,
            lane: .data,
            requiredFeatures: .lz4,
            session: PairID(high: 0x0123_4567_89AB_CDEF, low: 2),
            host: PairID(high: 3, low: 4)
        )
        hello.features = WireFeatures(rawValue: 31)
        try check(GoldenFrames.hello, FrameHeader(kind: .hello), bytes(of: hello))
        let opening = FrameHeader(kind: .pairOpen, stream: 7, tag: 4)
        try check(GoldenFrames.pairOpen, opening, bytes(of: PayloadTests.opening))
        let goodbye = FrameHeader(kind: .goodbye, version: 9, detail: Goodbye.badFrame.rawValue)
        try check(GoldenFrames.goodbye, goodbye, Array("no".utf8))
    }

    /// What a replica keeps of its pair travels as it is on disk.
    @Test func record() throws {
        var record = PairRecord(
            sequence: 0x1122_3344_5566_7788,
            pair: PairID(high: 3, low: 4),
            volumeByteCount: 1 << 40,
            copyState: 4,
            isClosedCleanly: true
        )
        record.isTargetConsistent = true
        record.operation = 15
        record.mapTrust = .exact
        record.volumeBlockByteCount = 4096
        record.logGeneration = 7
        record.servingEpoch = 9
        record.lineage.generation = Generation(0x21)
        record.lineage.confirmedSequence = 6
        record.lineage.takenOverAt = HistoryPoint(Generation(0x22), 5)
        record.lineage.history.push(HistoryPoint(Generation(0x23), 4))
        record.lineage.history.push(HistoryPoint(Generation(0x22), 5))
        let block = written(PairRecord.blockByteCount) { record.encode(into: &$0) }
        try check(GoldenFrames.record, FrameHeader(kind: .record, stream: 7, tag: 1 << 63 | 6), block)
        let kept = Array(GoldenFrames.record[FrameHeader.byteCount...])
        let decoded = try PairRecord.decode(kept.span.bytes)
        #expect(decoded == record)
    }

    /// The engine does not look at what the control planes say to each other.
    @Test func messages() throws {
        let question = Array(#"{"kind":"identify","version":1}"#.utf8)
        try check(GoldenFrames.message, FrameHeader(kind: .message, tag: 8), question)
        try check(GoldenFrames.messageReply, FrameHeader(kind: .messageReply, tag: 8), Array("{}".utf8))
    }

    /// The numbers that are on the wire: a change of one is a change of the protocol.
    @Test func numbers() {
        let kinds = FrameKind.allCases.map(\.rawValue)
        #expect(kinds == Array(1...5) + Array(16...18) + [21, 24, 25] + Array(32...37) + Array(48...51))
        #expect(AckStatus.allCases.map(\.rawValue) == Array(0...8))
        #expect(Goodbye.allCases.map(\.rawValue) == Array(0...8))
        #expect(OpenStatus.allCases.map(\.rawValue) == Array(0...6))
        #expect(FrameHeader.byteCount == 64 && WireLimits.pieceByteCountCeiling == 131_072)
    }
}
