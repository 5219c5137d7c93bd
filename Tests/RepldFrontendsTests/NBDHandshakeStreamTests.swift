import RepldCore
import Testing

@testable import RepldFrontends

/// The negotiation as a stream: cut anywhere, broken anywhere.
@Suite struct NBDHandshakeStreamTests {
    static let longSkip = [UInt8](repeating: 9, count: NBDLimit.optionDataByteCount + 5)

    static let negotiations: [ClientBytes] = [
        .flags(1).option(.exportName, Array("db1".utf8)),
        .flags().option(.list).option(.structuredReply)
            .option(.listMetaContext, ClientBytes.metaData("db1", []))
            .option(.setMetaContext, ClientBytes.metaData("db1", ["base:allocation"]))
            .option(.info, ClientBytes.infoData("db1", [3, 1])).go("db1", [0, 3]),
        .flags().option(77, [1, 2, 3]).option(.startTLS).option(.abort),
        .flags().go("nope").option(.list, [1]).go(""),
    ]

    @Test(arguments: negotiations, [1, 2, 3, 7, 16, 17, 50])
    func piecesMakeNoDifference(client: ClientBytes, pieces: Int) {
        let whole = HandshakeRun(client)
        #expect(HandshakeRun(client, pieces: pieces) == whole)
        #expect(whole.outcome != .needsInput)
    }

    @Test func piecesMakeNoDifferenceWhileSkipping() {
        let client = ClientBytes.flags().option(.list, Self.longSkip).go("db1")
        let whole = HandshakeRun(client)
        #expect(whole.replies?.first == OptionReply(.list, .errorTooBig))
        for pieces in [1, 1000, NBDLimit.optionDataByteCount + 4, NBDLimit.optionDataByteCount + 5] {
            #expect(HandshakeRun(client, pieces: pieces) == whole)
        }
    }

    @Test(arguments: negotiations)
    func everyPrefixWaitsOrSaysWhatTheWholeSays(client: ClientBytes) {
        let whole = HandshakeRun(client)
        for count in 0..<client.bytes.count {
            let prefix = HandshakeRun(ClientBytes(bytes: Array(client.bytes[..<count])), pieces: 1)
            #expect(prefix.outcome == .needsInput)
            #expect(whole.sent.starts(with: prefix.sent))
        }
    }

    /// Nothing but a wrong magic, unknown flags, an absurd length or a limit ends the connection; no byte crashes it.
    @Test(arguments: negotiations)
    func anyDamagedByteIsAnswered(client: ClientBytes) {
        for index in client.bytes.indices {
            for damage in [0x01, 0x80, 0xFF] as [UInt8] {
                var damaged = client
                damaged.bytes[index] ^= damage
                let run = HandshakeRun(damaged, pieces: 5)
                #expect(run.sent.count >= HandshakeRun.greetingByteCount)
                #expect(run == HandshakeRun(damaged))
            }
        }
    }

    @Test func randomBytesAreAnswered() {
        var random = RandomSource(seed: 11)
        for _ in 0..<2000 {
            var client = ClientBytes.flags()
            for _ in 0..<random.below(6) {
                let data = (0..<random.below(40)).map { _ in UInt8(random.below(random.chance(oneIn: 3) ? 256 : 4)) }
                client = client.option(UInt32(random.below(13)), data)
            }
            let whole = HandshakeRun(client, exports: .two)
            #expect(HandshakeRun(client, exports: .two, pieces: 1 + Int(random.below(20))) == whole)
        }
    }

    static func malformed(_ name: [UInt8], _ rest: [UInt8], announced: UInt32? = nil) -> [UInt8] {
        var data: [UInt8] = []
        data.append(big: announced ?? UInt32(name.count))
        return data + name + rest
    }

    @Test(
        arguments: [
            ([], .errorInvalid),
            ([0, 0, 0], .errorInvalid),
            ([0, 0, 0, 0], .errorInvalid),
            ([0, 0, 0, 0, 0], .errorInvalid),
            (malformed(Array("db1".utf8), [0, 0], announced: 4), .errorInvalid),
            (malformed(Array("db1".utf8), [0, 0], announced: 6), .errorInvalid),
            (malformed(Array("db1".utf8), [0, 0], announced: .max), .errorInvalid),
            (malformed(Array("db1".utf8), [0, 1]), .errorInvalid),
            (malformed(Array("db1".utf8), [0, 1, 0]), .errorInvalid),
            (malformed(Array("db1".utf8), [0, 1, 0, 0, 0]), .errorInvalid),
            (malformed(Array("db1".utf8), [0, 0, 0, 0]), .errorInvalid),
            (malformed([UInt8](repeating: 65, count: 4096), [0, 0]), .errorUnknown),
            (malformed([UInt8](repeating: 65, count: 4097), [0, 0]), .errorTooBig),
            (malformed([0xFF, 0xFE], [0, 0]), .errorUnknown),
            (ClientBytes.infoData("db1", [UInt16](repeating: 3, count: 65)), .errorTooBig),
        ] as [([UInt8], NBDReplyKind)],
        [NBDOption.go, .info]
    )
    func malformedInfoIsRefused(given: (data: [UInt8], kind: NBDReplyKind), option: NBDOption) {
        let run = HandshakeRun(.flags().option(option, given.data).option(.abort))
        #expect(run.replies == [OptionReply(option, given.kind), OptionReply(.abort, .acknowledge)])
    }

    @Test func asManyInfoRequestsAsAllowedAreTaken() {
        let data = ClientBytes.infoData("db1", [UInt16](repeating: 3, count: 64))
        #expect(HandshakeRun(.flags().option(.info, data)).replies?.last == OptionReply(.info, .acknowledge))
    }

    @Test(
        arguments: [
            [], [0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0],
            malformed(Array("db1".utf8), [0, 0, 0, 1]),
            malformed(Array("db1".utf8), [0, 0, 0, 1, 0, 0, 0, 1]),
            malformed(Array("db1".utf8), [0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF]),
            malformed(Array("db1".utf8), [0, 0, 0, 0, 0]),
            malformed(Array("db1".utf8), [0, 0, 0, 0], announced: 8),
        ] as [[UInt8]],
        [NBDOption.listMetaContext, .setMetaContext]
    )
    func malformedQueriesAreRefused(data: [UInt8], option: NBDOption) {
        let run = HandshakeRun(.flags().option(.structuredReply).option(option, data))
        #expect(run.replies?.last == OptionReply(option, .errorInvalid))
    }

    @Test func aWrongOptionMagicEndsTheConnection() {
        var client = ClientBytes.flags().option(.list)
        client.bytes[4 + 7] ^= 1
        #expect(HandshakeRun(client).outcome == .close(.badOptionMagic))
    }

    @Test(
        arguments: [NBDOption.list, .go, .info, .listMetaContext, .setMetaContext, .structuredReply],
        [(0, false), (1, true)]
    )
    func tooMuchDataIsSkippedUpToALimit(option: NBDOption, excess: (bytes: Int, isClosed: Bool)) {
        let byteCount = NBDLimit.skippedOptionByteCount + excess.bytes
        let client = ClientBytes.flags().option(option, [UInt8](repeating: 0, count: byteCount)).option(.abort)
        let run = HandshakeRun(client, pieces: 60000)
        if excess.isClosed {
            #expect(run.outcome == .close(.optionDataTooLong))
        } else {
            #expect(run.replies == [OptionReply(option, .errorTooBig), OptionReply(.abort, .acknowledge)])
        }
    }
}
