import RepldCore
import Testing

@testable import RepldFrontends

/// The table of the negotiation: what a client sends, what it is answered.
@Suite struct NBDHandshakeTests {
    static let exportFlags = TestDirectory.everything.union(.hasFlags)

    static func exportInfo(_ flags: NBDTransmissionFlags = exportFlags, blocks: UInt64 = 1 << 20) -> [UInt8] {
        var data: [UInt8] = [0, 0]
        data.append(big: blocks * 512)
        data.append(big: flags.rawValue)
        return data
    }

    static let blockSizeInfo: [UInt8] = [0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0]

    static func contextReply(_ option: NBDOption, id: UInt32) -> OptionReply {
        var data: [UInt8] = []
        data.append(big: id)
        return OptionReply(option, .metaContext, data + Array("base:allocation".utf8))
    }

    @Test func greetsBeforeTheClientSpeaks() {
        let run = HandshakeRun(ClientBytes())
        let golden: [UInt8] =
            Array("NBDMAGIC".utf8) + Array("IHAVEOPT".utf8) + [0, 3]
        #expect(run.sent == golden)
        #expect(run.outcome == .needsInput)
    }

    @Test(arguments: [0, 1, 2, 3] as [UInt32])
    func takesKnownClientFlags(flags: UInt32) {
        #expect(HandshakeRun(.flags(flags)).outcome == .needsInput)
    }

    @Test(arguments: [4, 7, 0x8000_0000, .max] as [UInt32])
    func refusesUnknownClientFlags(flags: UInt32) {
        #expect(HandshakeRun(.flags(flags)).outcome == .close(.unknownClientFlags))
    }

    @Test(arguments: [true, false])
    func exportNameEntersTransmission(hasPadding: Bool) {
        let run = HandshakeRun(.flags(hasPadding ? 1 : 3).option(.exportName, Array("db1".utf8)))
        var golden: [UInt8] = []
        golden.append(big: UInt64(512 << 20))
        golden.append(big: Self.exportFlags.rawValue)
        if hasPadding { golden += [UInt8](repeating: 0, count: 124) }
        #expect(Array(run.sent.dropFirst(18)) == golden)
        let session = NBDSession(export: TestDirectory.volume(7), hasStructuredReplies: false, contexts: [])
        #expect(run.outcome == .transmission(session))
    }

    @Test func exportNameWorksWithoutFixedNewstyle() {
        let run = HandshakeRun(.flags(0).option(.exportName, Array("db1".utf8)))
        #expect(run.sent.count == 18 + 10 + 124)
    }

    @Test(arguments: NBDOption.allCases.filter { $0 != .exportName })
    func otherOptionsNeedFixedNewstyle(option: NBDOption) {
        #expect(HandshakeRun(.flags(2).option(option)).outcome == .close(.optionNeedsFixedNewstyle))
    }

    @Test func exportNameOfNoExportEndsTheConnection() {
        let run = HandshakeRun(.flags().option(.exportName, Array("db2".utf8)))
        #expect(run.outcome == .close(.unknownExport))
        #expect(run.sent.count == HandshakeRun.greetingByteCount)
    }

    @Test(arguments: [(4096, NBDCloseReason.unknownExport), (4097, .exportNameTooLong)])
    func exportNameHasALimit(length: Int, reason: NBDCloseReason) {
        let run = HandshakeRun(.flags().option(.exportName, [UInt8](repeating: 65, count: length)))
        #expect(run.outcome == .close(reason))
    }

    @Test(arguments: [[], [1, 2, 3]] as [[UInt8]])
    func abortIsAcknowledgedWhateverItCarries(data: [UInt8]) {
        let run = HandshakeRun(.flags().option(.abort, data))
        #expect(run.replies == [OptionReply(.abort, .acknowledge)])
        #expect(run.outcome == .close(.requestedByClient))
    }

    @Test func abortWithDataThatIsSkippedIsAcknowledged() {
        let run = HandshakeRun(.flags().option(.abort, [UInt8](repeating: 0, count: 20000)))
        #expect(run.replies == [OptionReply(.abort, .acknowledge)])
        #expect(run.outcome == .close(.requestedByClient))
    }

    @Test func listNamesEveryExport() {
        let run = HandshakeRun(.flags().option(.list), exports: .two)
        #expect(
            run.replies == [
                OptionReply(.list, .server, [0, 0, 0, 3] + Array("db1".utf8)),
                OptionReply(.list, .server, [0, 0, 0, 7] + Array("größe".utf8)),
                OptionReply(.list, .acknowledge),
            ]
        )
        #expect(run.outcome == .needsInput)
        #expect(HandshakeRun(.flags().option(.list), exports: .none).replies == [OptionReply(.list, .acknowledge)])
    }

    @Test func listThatIsLongerThanTheOutputComesInParts() {
        let names = (0..<40).map { String(repeating: "n", count: 1000 + $0) }
        let many = TestDirectory(exports: names.map { ($0, "", TestDirectory.volume(1)) })
        let client = ClientBytes.flags().option(.list).option(.abort)
        let tight = HandshakeRun(client, exports: many, outputCapacity: NBDHandshake.replyByteCountMaximum)
        #expect(tight == HandshakeRun(client, exports: many, outputCapacity: 1 << 20))
        #expect(tight.replies?.count == 42)
        #expect(tight.outcome == .close(.requestedByClient))
    }

    @Test(arguments: [NBDOption.info, .go], [true, false])
    func infoTellsTheExportAndItsBlocks(option: NBDOption, isDefault: Bool) {
        let data = ClientBytes.infoData(isDefault ? "" : "db1", [])
        let run = HandshakeRun(.flags().option(option, data))
        #expect(
            run.replies == [
                OptionReply(option, .info, Self.exportInfo()),
                OptionReply(option, .info, Self.blockSizeInfo),
                OptionReply(option, .acknowledge),
            ]
        )
        let session = NBDSession(export: TestDirectory.volume(7), hasStructuredReplies: false, contexts: [])
        #expect(run.outcome == (option == .go ? .transmission(session) : .needsInput))
    }

    @Test func infoTellsWhatIsAskedForOnce() {
        let data = ClientBytes.infoData("db1", [0, 1, 2, 3, 1, 2, 99, 0xFFFF])
        let run = HandshakeRun(.flags().option(.info, data))
        #expect(
            run.replies == [
                OptionReply(.info, .info, Self.exportInfo()),
                OptionReply(.info, .info, [0, 1] + Array("db1".utf8)),
                OptionReply(.info, .info, [0, 2] + Array("orders".utf8)),
                OptionReply(.info, .info, Self.blockSizeInfo),
                OptionReply(.info, .acknowledge),
            ]
        )
    }

    @Test func infoOmitsAnEmptyDescription() {
        let data = ClientBytes.infoData("größe", [2])
        let run = HandshakeRun(.flags().option(.info, data), exports: .two)
        #expect(run.replies?.count == 3)
    }

    @Test(arguments: [TestDirectory.two, .none])
    func theDefaultExportExistsWhereThereIsExactlyOne(exports: TestDirectory) {
        let run = HandshakeRun(.flags().go(""), exports: exports)
        #expect(run.replies == [OptionReply(.go, .errorUnknown)])
        #expect(run.outcome == .needsInput)
    }

    @Test(arguments: ["db", "db11", "DB1", "db1\0"])
    func aNameMustMatchWhole(name: String) {
        #expect(HandshakeRun(.flags().go(name)).replies == [OptionReply(.go, .errorUnknown)])
    }

    @Test func aFailedGoCanBeTriedAgain() {
        let run = HandshakeRun(.flags().go("db2").go("db1"))
        #expect(run.replies?.first == OptionReply(.go, .errorUnknown))
        guard case .transmission = run.outcome else {
            Issue.record("the second GO names an export")
            return
        }
    }

    @Test func structuredRepliesOfferDoNotFragment() {
        let run = HandshakeRun(.flags().option(.structuredReply).go("db1"))
        #expect(
            run.replies == [
                OptionReply(.structuredReply, .acknowledge),
                OptionReply(.go, .info, Self.exportInfo(Self.exportFlags.union(.sendDoNotFragment))),
                OptionReply(.go, .info, Self.blockSizeInfo),
                OptionReply(.go, .acknowledge),
            ]
        )
        let session = NBDSession(export: TestDirectory.volume(7), hasStructuredReplies: true, contexts: [])
        #expect(run.outcome == .transmission(session))
    }

    @Test func bytesBehindTheChoiceAreLeftForTheRequests() {
        var client = ClientBytes.flags().go("db1")
        client.bytes += [1, 2, 3]
        #expect(HandshakeRun(client).leftover == [1, 2, 3])
    }

    @Test(
        arguments: [
            (NBDOption.startTLS.rawValue, NBDReplyKind.errorUnsupported),
            (NBDOption.extendedHeaders.rawValue, .errorUnsupported),
            (4, .errorUnsupported), (0, .errorUnsupported), (12, .errorUnsupported), (.max, .errorUnsupported),
        ] as [(UInt32, NBDReplyKind)],
        [0, 1, NBDLimit.optionDataByteCount, NBDLimit.optionDataByteCount + 1, NBDLimit.skippedOptionByteCount]
    )
    func unofferedOptionsAreRefusedAndSkipped(option: (number: UInt32, kind: NBDReplyKind), byteCount: Int) {
        let client = ClientBytes.flags().option(option.number, [UInt8](repeating: 7, count: byteCount)).option(.abort)
        let run = HandshakeRun(client, pieces: NBDHandshake.inputByteCountMinimum)
        #expect(
            run.replies == [
                OptionReply(option: option.number, kind: option.kind.rawValue, data: []),
                OptionReply(.abort, .acknowledge),
            ]
        )
    }

    @Test(arguments: [NBDOption.list, .structuredReply])
    func optionsWithoutDataRefuseData(option: NBDOption) {
        let run = HandshakeRun(.flags().option(option, [0]).option(.abort))
        #expect(run.replies == [OptionReply(option, .errorInvalid), OptionReply(.abort, .acknowledge)])
    }

    @Test func theNumberOfOptionsIsBounded() {
        var client = ClientBytes.flags()
        for _ in 0..<NBDLimit.optionCount { client = client.option(.list) }
        #expect(HandshakeRun(client).outcome == .needsInput)
        let run = HandshakeRun(client.option(.list))
        #expect(run.outcome == .close(.tooManyOptions))
        #expect(run.replies?.count == 2 * NBDLimit.optionCount)
    }
}

@Suite struct NBDMetadataContextTests {
    static func run(_ option: NBDOption, _ queries: [String], exports: TestDirectory = .one) -> HandshakeRun {
        HandshakeRun(
            .flags().option(.structuredReply).option(option, ClientBytes.metaData("db1", queries)),
            exports: exports
        )
    }

    @Test(
        arguments: [
            ([], true), (["base:"], true), (["base:allocation"], true), (["base:allocation", "base:"], true),
            (["qemu:dirty-bitmap:x"], false), (["base:allocations"], false), (["base:x"], false),
            (["other:", "base:allocation"], true),
        ] as [([String], Bool)]
    )
    func listKnowsWildcards(queries: [String], isFound: Bool) {
        var golden = [OptionReply(.structuredReply, .acknowledge)]
        if isFound { golden.append(NBDHandshakeTests.contextReply(.listMetaContext, id: 0)) }
        golden.append(OptionReply(.listMetaContext, .acknowledge))
        #expect(Self.run(.listMetaContext, queries).replies == golden)
    }

    @Test(
        arguments: [
            ([], false), (["base:"], false), (["base:allocation"], true),
            (["base:allocation", "base:allocation"], true),
            (["qemu:dirty-bitmap:x"], false), (["base:allocations"], false), (["other:", "base:allocation"], true),
        ] as [([String], Bool)]
    )
    func setSelectsByWholeName(queries: [String], isFound: Bool) {
        var golden = [OptionReply(.structuredReply, .acknowledge)]
        if isFound { golden.append(NBDHandshakeTests.contextReply(.setMetaContext, id: 1)) }
        golden.append(OptionReply(.setMetaContext, .acknowledge))
        #expect(Self.run(.setMetaContext, queries).replies == golden)
    }

    @Test(arguments: [NBDOption.listMetaContext, .setMetaContext])
    func contextsNeedStructuredReplies(option: NBDOption) {
        let run = HandshakeRun(.flags().option(option, ClientBytes.metaData("db1", ["base:allocation"])))
        #expect(run.replies == [OptionReply(option, .errorInvalid)])
    }

    @Test(arguments: [NBDOption.listMetaContext, .setMetaContext])
    func refusesAnUnknownExport(option: NBDOption) {
        #expect(Self.run(option, ["base:"], exports: .none).replies?.last == OptionReply(option, .errorUnknown))
    }

    @Test(arguments: [NBDOption.listMetaContext, .setMetaContext])
    func refusesAQueryWithoutNamespace(option: NBDOption) {
        #expect(Self.run(option, ["allocation"]).replies?.last == OptionReply(option, .errorInvalid))
    }

    @Test(arguments: [(64, NBDReplyKind.acknowledge), (65, .errorTooBig)])
    func boundsTheNumberOfQueries(count: Int, kind: NBDReplyKind) {
        let queries = [String](repeating: "base:x", count: count)
        #expect(Self.run(.setMetaContext, queries).replies?.last == OptionReply(.setMetaContext, kind))
    }

    @Test(arguments: [(4096, NBDReplyKind.acknowledge), (4097, .errorTooBig)])
    func boundsTheLengthOfAQuery(count: Int, kind: NBDReplyKind) {
        let query = "base:" + String(repeating: "x", count: count - 5)
        #expect(Self.run(.setMetaContext, [query]).replies?.last == OptionReply(.setMetaContext, kind))
    }

    /// The contexts at the end, after these SET_META_CONTEXT options and a GO for db1.
    static func selected(_ options: [[UInt8]], isStructured: Bool = true) -> NBDMetadataContexts? {
        var client = ClientBytes.flags()
        if isStructured { client = client.option(.structuredReply) }
        for data in options { client = client.option(.setMetaContext, data) }
        guard case .transmission(let session) = HandshakeRun(client.go("db1"), exports: .two).outcome else {
            return nil
        }
        return session.contexts
    }

    @Test func theLastSelectionCounts() {
        let good = ClientBytes.metaData("db1", ["base:allocation"])
        #expect(Self.selected([good]) == .allocation)
        #expect(Self.selected([]) == [])
        #expect(Self.selected([good, ClientBytes.metaData("db1", [])]) == [])
        // A failed selection forgets the one before, whether malformed, of no export, or too long to read.
        #expect(Self.selected([good, [0]]) == [])
        #expect(Self.selected([good, ClientBytes.metaData("nope", ["base:allocation"])]) == [])
        #expect(Self.selected([good, [UInt8](repeating: 0, count: 20000)]) == [])
        #expect(Self.selected([[0], good]) == .allocation)
    }

    @Test func aSelectionHoldsForItsExportOnly() {
        #expect(Self.selected([ClientBytes.metaData("größe", ["base:allocation"])]) == [])
    }

    @Test func aSelectionWithoutStructuredRepliesSelectsNothing() {
        #expect(Self.selected([ClientBytes.metaData("db1", ["base:allocation"])], isStructured: false) == [])
    }
}
