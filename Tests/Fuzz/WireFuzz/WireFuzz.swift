import RepldCore
import RepldFormat
import RepldWire

/// This side's greeting and record, which whatever comes is compared with.
let ownHello = Hello(lane: .data, session: PairID(high: 1, low: 2), host: PairID(high: 1, low: 1))
let ownRecord: SideRecord = {
    var record = SideRecord(pair: PairID(high: 3, low: 4), volumeByteCount: 1 << 40, hasPair: true)
    record.term = 1
    record.sequence = 9
    record.lineage.generation = Generation(3)
    record.lineage.confirmedSequence = 6
    record.lineage.takenOverAt = HistoryPoint(Generation(1), 4)
    record.lineage.history.push(HistoryPoint(Generation(1), 4))
    record.lineage.history.push(HistoryPoint(Generation(2), 7))
    return record
}()

/// Room for one piece, used again for each input.
nonisolated(unsafe) let room = UnsafeMutableRawBufferPointer.allocate(
    byteCount: WireLimits.pieceByteCountCeiling,
    alignment: 16
)

/// A connection that receives the input in pieces.
struct FuzzConnection {
    var reader: FrameReader
    let context: WireContext
    var received: [UInt8] = []
    var isClosed = false

    init(context: WireContext) {
        self.context = context
        reader = FrameReader(context: context)
    }

    mutating func receive(_ bytes: ArraySlice<UInt8>) {
        received += bytes
        while !isClosed {
            let bytes = received
            do throws(FrameError) {
                guard case .frame(let header) = try reader.advance(bytes.span.bytes) else { return }
                use(header)
                received.removeFirst(header.frameByteCount)
            } catch {
                invariant(!error.words.isEmpty, "a refusal has words")
                isClosed = true
                do throws(FrameError) {
                    _ = try reader.advance(bytes.span.bytes)
                    invariant(false, "a refusal stays")
                } catch let again {
                    invariant(again == error, "a refusal stays the same")
                }
            }
        }
    }

    /// What was accepted is as its kind says, encodes to what it came from, and its payload can be looked at.
    private func use(_ header: FrameHeader) {
        var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        bytes.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            header.encode(into: &span)
        }
        invariant(bytes == Array(received[..<FrameHeader.byteCount]), "a header that was accepted has no other bytes")
        let piece = Int(context.terms?.limits.pieceByteCount ?? 4096)
        invariant(
            Int(header.payloadByteCount) <= piece && header.plainByteCount <= max(piece, 4096),
            "sizes are bounded"
        )
        let payload = Array(received[FrameHeader.byteCount..<header.frameByteCount])
        if header.flags.contains(.compressed) {
            var plain = MutableRawSpan(
                _unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: room[..<header.plainByteCount])
            )
            _ = Compression.expand(payload.span.bytes, into: &plain)
            return
        }
        switch header.kind {
        case .hello, .helloReply: greet(payload)
        case .pairOpen, .pairOpenReply: open(payload)
        case .ping, .pong: check(Ping.self, payload)
        case .goodbye: _ = Goodbye(detail: header.detail)
        default: break
        }
    }

    /// A payload that was accepted encodes to the bytes that it came from.
    @discardableResult
    private func check<Payload: FramePayload>(_ type: Payload.Type, _ payload: [UInt8]) -> Payload? {
        guard let value = try? Payload.decode(payload.span.bytes) else { return nil }
        var bytes = [UInt8](repeating: 0, count: Payload.byteCount)
        bytes.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            value.encode(into: &span)
        }
        invariant(bytes == payload, "no byte of a payload is ignored")
        return value
    }

    private func greet(_ payload: [UInt8]) {
        guard let hello = check(Hello.self, payload) else { return }
        do throws(NegotiationFailure) {
            let terms = try WireTerms.negotiate(ours: ownHello, theirs: hello)
            let back = try WireTerms.negotiate(ours: hello, theirs: ownHello)
            invariant(terms == back, "both sides agree on the same")
        } catch {
            invariant(!error.words.isEmpty, "a refusal has words")
        }
    }

    private func open(_ payload: [UInt8]) {
        guard let opening = check(PairOpening.self, payload) else { return }
        let decision = HandshakeDecision.decide(ownRecord, opening.record)
        if case .stop(let conflict) = decision { invariant(!conflict.words.isEmpty, "a conflict has words") }
        guard opening.record.hasPair else { return }
        let back = HandshakeDecision.decide(opening.record, ownRecord)
        invariant((decision == .giveWay) == (back == .awaitPeer), "one of two gives way to the other")
        invariant((decision == .awaitPeer) == (back == .giveWay), "one of two gives way to the other")
        _ = HandshakeDecision.isBelievable(former: opening.record, by: ownRecord)
    }
}

func put(_ number: UInt32, at place: Int, of bytes: inout [UInt8]) {
    for index in 0..<4 { bytes[place + index] = UInt8(truncatingIfNeeded: number >> UInt32(8 * index)) }
}

/// Puts magic and checksums right, frame by frame, so that what is behind them is reached.
func sealed(_ input: [UInt8]) -> [UInt8] {
    var bytes = input
    var start = 0
    while bytes.count - start >= FrameHeader.byteCount {
        let count = (0..<4).reduce(0) { $0 | Int(bytes[start + 12 + $1]) << (8 * $1) }
        let end = start + FrameHeader.byteCount + count
        if count > 0 && end <= bytes.count {
            let payload = Array(bytes[start + FrameHeader.byteCount..<end])
            put(Checksum.crc32c(payload.span.bytes), at: start + 16, of: &bytes)
        }
        put(0x574C_5052, at: start, of: &bytes)
        put(0, at: start + 8, of: &bytes)
        let header = Array(bytes[start..<start + FrameHeader.byteCount])
        put(Checksum.crc32c(header.span.bytes), at: start + 8, of: &bytes)
        start = end
    }
    return bytes
}

/// Feeds a connection with the input: the first byte says on which lane, under which terms, in pieces of which size, and whether
/// checksums are put right.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ input: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    guard let input, count > 1 else { return 0 }
    let bytes = Array(UnsafeBufferPointer(start: input, count: count))
    let options = bytes[0]
    let limits = WireLimits(pieceByteCount: options & 2 == 0 ? 128 << 10 : 4096)
    let terms = WireTerms(version: 1, features: options & 4 == 0 ? .known : .digests, limits: limits)
    let context = WireContext(lane: options & 1 == 0 ? .data : .control, terms: options & 8 == 0 ? terms : nil)
    var connection = FuzzConnection(context: context)
    let stream = options & 16 == 0 ? sealed(Array(bytes[1...])) : Array(bytes[1...])
    let size = options & 32 == 0 ? stream.count : 61
    var start = 0
    while start < stream.count && !connection.isClosed {
        connection.receive(stream[start..<min(start + size, stream.count)])
        start += size
    }
    return 0
}
