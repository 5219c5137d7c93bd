import RepldCore
import Testing

@testable import RepldWire

@Suite struct FrameTests {
    /// Every value of every kind that is sent is read back, and nothing else.
    @Test(arguments: FrameKind.allCases)
    func roundTrip(kind: FrameKind) throws {
        var source = FrameSource(seed: UInt64(kind.rawValue))
        for _ in 0..<300 {
            let (header, payload) = source.frame(kind)
            let sent = frame(header, payload)
            #expect(sent.count == header.frameByteCount)
            #expect(try read(sent + source.bytes(3), lane: kind.someLane) == .frame(header))
        }
    }

    @Test(arguments: FrameKind.allCases)
    func singleBitFlipsAreRefused(kind: FrameKind) {
        var source = FrameSource(seed: 1000 + UInt64(kind.rawValue))
        let (header, payload) = source.frame(kind)
        var sent = frame(header, Array(payload))
        var accepted = 0
        for bit in 0..<min(sent.count, 1024) * 8 {
            sent[bit / 8] ^= 1 << UInt8(bit % 8)
            if refusal(sent, lane: kind.someLane) == nil { accepted += 1 }
            sent[bit / 8] ^= 1 << UInt8(bit % 8)
        }
        #expect(accepted == 0)
        #expect(refusal(sent, lane: kind.someLane) == nil)
    }

    @Test(arguments: FrameKind.allCases)
    func truncationsAskForMore(kind: FrameKind) throws {
        var source = FrameSource(seed: 2000 + UInt64(kind.rawValue))
        let (header, payload) = source.frame(kind)
        let sent = frame(header, payload)
        for count in 0..<sent.count {
            let whole = count < FrameHeader.byteCount ? FrameHeader.byteCount : sent.count
            #expect(try read(Array(sent[..<count]), lane: kind.someLane) == .needs(whole - count))
        }
    }

    /// A stream that arrives in pieces of any size gives the frames that were sent, in their order.
    @Test(arguments: [1, 7, 63, 64, 65, 1000, 100_000])
    func pieces(size: Int) throws {
        var source = FrameSource(seed: UInt64(size))
        var sent: [UInt8] = []
        var expected: [FrameHeader] = []
        for kind in FrameKind.allCases where kind.rule.lane != .control {
            let (header, payload) = source.frame(kind)
            sent += frame(header, payload)
            expected.append(header)
        }
        var reader = FrameReader(context: WireContext(lane: .data, terms: .all))
        var received: [UInt8] = []
        var found: [FrameHeader] = []
        while !sent.isEmpty {
            received += sent.prefix(size)
            sent.removeFirst(min(size, sent.count))
            while case .frame(let header) = try reader.advance(received.span.bytes) {
                found.append(header)
                received.removeFirst(header.frameByteCount)
            }
        }
        #expect(found == expected)
        #expect(received.isEmpty)
    }

    @Test func headersAreRefusedBeforeTheirPayloadIsThere() {
        var header = FrameHeader(kind: .write, stream: 1, length: 4096)
        header.payloadByteCount = 4096
        let small = WireTerms(version: 1, features: .known, limits: WireLimits(pieceByteCount: 4096))
        #expect(refusal(frame(header), lane: .data, terms: small) == nil)
        header.length = 4097
        header.payloadByteCount = 4097
        #expect(refusal(frame(header), lane: .data, terms: small) == .payloadTooLong(.write, 4097, 4096))
        #expect(refusal(frame(header), lane: .data) == nil)
    }

    @Test func refusals() {
        let write = FrameHeader(kind: .write, flags: .zeroes, stream: 1, length: 512)
        #expect(refusal(frame(write), lane: .control) == .wrongLane(.write, .control))
        #expect(refusal(frame(write), lane: .data, terms: nil) == .notYet(.write))
        var newer = write
        newer.version = 2
        #expect(refusal(frame(newer), lane: .data) == .wrongVersion(2, 1))
        #expect(refusal(forged(write, at: 5, 200), lane: .data) == .unknownKind(200))
        #expect(refusal(forged(write, at: 6, 0x12), lane: .data) == .reserved(.write, "flags"))
        #expect(refusal(forged(write, at: 6, 3), lane: .data) == .reserved(.write, "flags"))
        #expect(refusal(forged(write, at: 7, 0x80), lane: .data) == .reserved(.write, "flags"))
        #expect(refusal(forged(write, at: 20, 0), lane: .data) == .reserved(.write, "stream"))
        #expect(refusal(forged(write, at: 57, 0), lane: .data) == .impossible(.write, "length"))
        #expect(refusal(forged(write, at: 47, 0x80), lane: .data) == .impossible(.write, "offset"))
        #expect(refusal(forged(write, at: 60, 1), lane: .data) == .reserved(.write, "detail"))
        #expect(refusal(forged(write, at: 16, 1), lane: .data) == .reserved(.write, "payload checksum"))
        #expect(refusal(forged(write, at: 12, 1), lane: .data) == .payloadTooLong(.write, 1, 0))
        #expect(refusal(forged(write, at: 0, 0), lane: .data) == .wrongMagic(0x574C_5000))
        let plain = WireTerms(version: 1, features: [], limits: WireLimits())
        var compressed = FrameHeader(kind: .write, flags: .compressed, stream: 1, length: 512)
        compressed.payloadByteCount = 100
        #expect(refusal(frame(compressed), lane: .data, terms: plain) == .notNegotiated(.write, .lz4))
        let request = FrameHeader(kind: .digestRequest, stream: 1, length: 512, detail: 512)
        #expect(refusal(frame(request), lane: .control, terms: plain) == .notNegotiated(.digestRequest, .digests))
    }

    @Test(arguments: [511, 768, 0, 1024])
    func granules(granule: UInt32) {
        let request = FrameHeader(kind: .digestRequest, stream: 1, length: 1 << 20, detail: 1024)
        let bytes = forged(request, at: 60, UInt8(granule & 255), UInt8(granule >> 8))
        #expect(refusal(bytes, lane: .control) == (granule == 1024 ? nil : .impossible(.digestRequest, "granule")))
    }

    /// An answer that would not fit into one frame is refused when it is asked for.
    @Test func answersFitIntoOneFrame() {
        let request = FrameHeader(kind: .digestRequest, stream: 1, length: 64 << 20, detail: 4096)
        #expect(refusal(frame(request), lane: .control) == nil)
        #expect(refusal(forged(request, at: 56, 1), lane: .control) == .impossible(.digestRequest, "length"))
        let read = FrameHeader(kind: .read, stream: 1, length: 128 << 10)
        #expect(refusal(frame(read), lane: .control) == nil)
        #expect(refusal(forged(read, at: 56, 1), lane: .control) == .impossible(.read, "length"))
    }

    @Test func errorsStay() {
        var reader = FrameReader(context: WireContext(lane: .data, terms: .all))
        let bad = [UInt8](repeating: 7, count: 64)
        let good = frame(FrameHeader(kind: .write, flags: .zeroes, stream: 1, length: 512))
        for bytes in [bad, good] {
            #expect(throws: FrameError.wrongMagic(0x0707_0707)) { try reader.advance(bytes.span.bytes) }
        }
    }

    /// A payload that does not match its checksum is told from a header that does not.
    @Test func payloadDamage() {
        let header = FrameHeader(kind: .write, stream: 1, length: 4)
        var sent = frame(header, [1, 2, 3, 4])
        sent[66] = 9
        guard case .wrongPayloadChecksum(.write, _, _) = refusal(sent, lane: .data) else {
            Issue.record("a damaged payload was not refused as such")
            return
        }
    }

    @Test func everyErrorHasWords() {
        let errors: [FrameError] = [
            .wrongMagic(1), .wrongHeaderChecksum(stored: 1, computed: 2),
            .wrongPayloadChecksum(.write, stored: 1, computed: 2), .wrongVersion(2, 1), .unknownKind(9),
            .notYet(.write),
            .wrongLane(.write, .control), .notNegotiated(.write, .lz4), .reserved(.write, "flags"),
            .impossible(.write, "length"), .payloadTooLong(.write, 9, 8),
        ]
        #expect(Set(errors.map(\.words)).count == errors.count)
        #expect(FrameError.notNegotiated(.write, .lz4).words == "a write frame needs lz4, which was not agreed on")
    }

    /// A header with bytes changed and its checksum put right again.
    private func forged(_ header: FrameHeader, at place: Int, _ values: UInt8...) -> [UInt8] {
        var bytes = frame(header)
        for (index, value) in values.enumerated() { bytes[place + index] = value }
        for index in 8..<12 { bytes[index] = 0 }
        let checksum = Checksum.crc32c(bytes.span.bytes)
        for index in 0..<4 { bytes[8 + index] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * index)) }
        return bytes
    }
}
