import RepldCore

@testable import RepldFrontends

extension [UInt8] {
    mutating func append<Value: FixedWidthInteger>(big value: Value) {
        Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
    }

    func big<Value: FixedWidthInteger>(at offset: Int, as type: Value.Type) -> Value {
        self[offset..<offset + MemoryLayout<Value>.size].reduce(0) { $0 << 8 | Value(truncatingIfNeeded: $1) }
    }
}

/// What a client sends, built up message by message.
struct ClientBytes {
    var bytes: [UInt8] = []

    static func flags(_ flags: UInt32 = 3) -> ClientBytes {
        var client = ClientBytes()
        client.bytes.append(big: flags)
        return client
    }

    func option(_ number: UInt32, _ data: [UInt8] = [], announced: UInt32? = nil) -> ClientBytes {
        var next = self
        next.bytes.append(big: NBDMagic.option)
        next.bytes.append(big: number)
        next.bytes.append(big: announced ?? UInt32(data.count))
        next.bytes += data
        return next
    }

    func option(_ option: NBDOption, _ data: [UInt8] = [], announced: UInt32? = nil) -> ClientBytes {
        self.option(option.rawValue, data, announced: announced)
    }

    func go(_ name: String, _ infos: [UInt16] = []) -> ClientBytes { option(.go, Self.infoData(name, infos)) }

    static func infoData(_ name: String, _ infos: [UInt16]) -> [UInt8] {
        var data: [UInt8] = []
        data.append(big: UInt32(name.utf8.count))
        data += Array(name.utf8)
        data.append(big: UInt16(infos.count))
        for info in infos { data.append(big: info) }
        return data
    }

    static func metaData(_ name: String, _ queries: [String]) -> [UInt8] {
        var data: [UInt8] = []
        data.append(big: UInt32(name.utf8.count))
        data += Array(name.utf8)
        data.append(big: UInt32(queries.count))
        for query in queries {
            data.append(big: UInt32(query.utf8.count))
            data += Array(query.utf8)
        }
        return data
    }
}

/// One message of the server during the negotiation.
struct OptionReply: Equatable, CustomStringConvertible {
    var option: UInt32
    var kind: UInt32
    var data: [UInt8]

    init(_ option: NBDOption, _ kind: NBDReplyKind, _ data: [UInt8] = []) {
        self.init(option: option.rawValue, kind: kind.rawValue, data: data)
    }

    init(option: UInt32, kind: UInt32, data: [UInt8]) {
        self.option = option
        self.kind = kind
        // The words of an error are for people: tests look at the kind.
        self.data = kind >> 31 == 1 ? [] : data
    }

    var description: String { "option \(option) kind \(String(kind, radix: 16)) data \(data)" }

    /// Splits what the server sent behind its greeting; `nil` when it is not a sequence of replies.
    static func all(in bytes: [UInt8]) -> [OptionReply]? {
        var replies: [OptionReply] = []
        var offset = 0
        while offset < bytes.count {
            guard offset + 20 <= bytes.count, bytes.big(at: offset, as: UInt64.self) == NBDMagic.optionReply else {
                return nil
            }
            let count = Int(bytes.big(at: offset + 16, as: UInt32.self))
            guard offset + 20 + count <= bytes.count else { return nil }
            replies.append(
                OptionReply(
                    option: bytes.big(at: offset + 8, as: UInt32.self),
                    kind: bytes.big(at: offset + 12, as: UInt32.self),
                    data: Array(bytes[offset + 20..<offset + 20 + count])
                )
            )
            offset += 20 + count
        }
        return replies
    }
}

struct TestDirectory: NBDExportDirectory {
    var exports: [(name: String, description: String, export: NBDExport)]
    /// The pairs of every export, by place.
    var pairNames: [String?] = []

    var exportCount: Int { exports.count }
    func export(at index: Int) -> NBDExport { exports[index].export }
    func exportName(at index: Int) -> String { exports[index].name }
    func exportDescription(at index: Int) -> String { exports[index].description }

    func pairs(ofExport index: Int) -> NBDPairSet {
        var pairs = NBDPairSet()
        for (place, name) in pairNames.enumerated() where name != nil { pairs[place] = UInt32(100 + place) }
        return pairs
    }

    func pairName(ofExport index: Int, place: Int) -> String { pairNames[place] ?? "" }

    static let everything: NBDTransmissionFlags = [
        .sendFlush, .sendFUA, .sendTrim, .sendWriteZeroes, .sendFastZero, .sendCache, .canMultiConnect,
    ]

    static func volume(
        _ identity: UInt64,
        blocks: UInt64 = 1 << 20,
        flags: NBDTransmissionFlags = everything
    ) -> NBDExport {
        NBDExport(
            identity: identity,
            byteCount: blocks * 512,
            minimumBlockByteCount: 512,
            preferredBlockByteCount: 4096,
            flags: flags
        )
    }

    static let one = TestDirectory(exports: [("db1", "orders", volume(7))])
    static let two = TestDirectory(exports: [("db1", "orders", volume(7)), ("größe", "", volume(8))])
    static let none = TestDirectory(exports: [])
}

/// What a handshake did with a client's bytes, cut in pieces in some way.
struct HandshakeRun: Equatable {
    var sent: [UInt8] = []
    var outcome = NBDHandshakeOutcome.needsInput
    /// Bytes that the handshake left for what comes after it.
    var leftover: [UInt8] = []

    static let greetingByteCount = 18

    init(
        _ client: ClientBytes,
        exports: TestDirectory = .one,
        pieces: Int = .max,
        outputCapacity: Int = 64 << 10
    ) {
        var handshake = NBDHandshake()
        var pending: [UInt8] = []
        var unsent = client.bytes[...]
        while true {
            let progress = advance(&handshake, pending, exports, outputCapacity)
            pending.removeFirst(progress.consumedByteCount)
            outcome = progress.outcome
            switch progress.outcome {
            case .needsOutputSpace:
                continue
            case .needsInput:
                if unsent.isEmpty { return }
                let piece = unsent.prefix(pieces)
                unsent = unsent.dropFirst(piece.count)
                pending += piece
            case .transmission, .close:
                leftover = pending + unsent
                return
            }
        }
    }

    private mutating func advance(
        _ handshake: inout NBDHandshake,
        _ input: [UInt8],
        _ exports: TestDirectory,
        _ outputCapacity: Int
    ) -> NBDHandshakeProgress {
        var memory = [UInt8](repeating: 0xEE, count: outputCapacity)
        let (progress, count) = memory.withUnsafeMutableBytes { buffer in
            var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
            let progress = handshake.advance(input.span.bytes, exports: exports, output: &output)
            return (progress, output.finalize(for: buffer))
        }
        sent += memory[..<count]
        return progress
    }

    /// The replies to options, behind the greeting.
    var replies: [OptionReply]? { OptionReply.all(in: Array(sent.dropFirst(Self.greetingByteCount))) }
}

/// The request whose header `bytes` begin with.
func parsed(_ bytes: [UInt8]) -> NBDRequest? { NBDRequest(parsing: bytes.span.bytes) }

/// Runs a producer of messages over fresh memory and returns what it appended.
func produced(capacity: Int = 4096, _ body: (inout OutputRawSpan) -> Void) -> [UInt8] {
    var memory = [UInt8](repeating: 0xEE, count: capacity)
    let count = memory.withUnsafeMutableBytes { buffer in
        var output = OutputRawSpan(buffer: buffer, initializedCount: 0)
        body(&output)
        return output.finalize(for: buffer)
    }
    return Array(memory[..<count])
}
