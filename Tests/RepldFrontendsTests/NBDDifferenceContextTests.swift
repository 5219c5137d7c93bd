import RepldCore
import Testing

@testable import RepldFrontends

/// The contexts of exports whose volumes have pairs.
@Suite struct NBDDifferenceContextTests {
    static func directory(_ pairNames: [String?]) -> TestDirectory {
        var directory = TestDirectory.one
        directory.pairNames = pairNames
        return directory
    }

    static let pairs = directory(["near", nil, "fär"])

    /// The names and numbers that an option is answered with; `nil` when the answer is none.
    static func answer(
        _ option: NBDOption,
        _ queries: [String],
        exports: TestDirectory = pairs
    ) -> [(name: String, id: UInt32)]? {
        let run = NBDMetadataContextTests.run(option, queries, exports: exports)
        guard var replies = run.replies, replies.popLast() == OptionReply(option, .acknowledge) else { return nil }
        return replies.dropFirst().map {
            (String(decoding: $0.data.dropFirst(4), as: UTF8.self), $0.data.big(at: 0, as: UInt32.self))
        }
    }

    @Test(
        arguments: [
            ([], ["base:allocation", "repld:dirty", "repld:dirty:near", "repld:dirty:fär"]),
            (["repld:"], ["repld:dirty", "repld:dirty:near", "repld:dirty:fär"]),
            (["repld:dirty"], ["repld:dirty"]),
            (["repld:dirty:"], ["repld:dirty:near", "repld:dirty:fär"]),
            (["repld:dirty:fär", "base:", "repld:dirty:fär"], ["base:allocation", "repld:dirty:fär"]),
            (["repld:dirt"], []), (["repld:dirty:nea"], []), (["repld:dirty:nearer"], []), (["qemu:dirty"], []),
        ] as [([String], [String])]
    )
    func listTellsWhatMatches(queries: [String], names: [String]) {
        let listed = Self.answer(.listMetaContext, queries)
        #expect(listed?.map(\.name) == names)
        #expect(listed?.allSatisfy { $0.id == 0 } == true, "a number means nothing in a list")
    }

    @Test(
        arguments: [
            ([], []), (["repld:"], []), (["repld:dirty:"], []), (["repld:x"], []), (["repld:dirty:x"], []),
            (["repld:dirty"], ["repld:dirty 2"]),
            (["repld:dirty:fär"], ["repld:dirty:fär 5"]),
            (
                ["repld:dirty:near", "nope:", "repld:dirty", "base:allocation", "repld:dirty:near"],
                ["base:allocation 1", "repld:dirty 2", "repld:dirty:near 3"]
            ),
        ] as [([String], [String])]
    )
    func setSelectsWholeNames(queries: [String], selected: [String]) {
        #expect(Self.answer(.setMetaContext, queries)?.map { "\($0.name) \($0.id)" } == selected)
    }

    @Test func withoutPairsThereIsNothingToTell() {
        let none = Self.directory([nil, nil])
        #expect(Self.answer(.listMetaContext, [], exports: none)?.map(\.name) == ["base:allocation"])
        #expect(Self.answer(.setMetaContext, ["repld:dirty"], exports: none)?.isEmpty == true)
    }

    @Test(arguments: [(1024, true), (1025, false), (0, false)])
    func aPairWhoseNameIsTooLongHasNoContextOfItsOwn(count: Int, isOffered: Bool) {
        let name = String(repeating: "x", count: count)
        let exports = Self.directory([name, name, name, name])
        let listed = Self.answer(.listMetaContext, ["repld:"], exports: exports)
        #expect(listed?.count == (isOffered ? 5 : 1))
    }

    @Test func theLongestListFitsIntoOneAnswer() {
        let name = String(repeating: "x", count: NBDLimit.pairNameByteCount)
        let exports = Self.directory([name, name, name, name])
        let client = ClientBytes.flags().option(.structuredReply)
            .option(.listMetaContext, ClientBytes.metaData("db1", []))
        let run = HandshakeRun(client, exports: exports, outputCapacity: NBDHandshake.replyByteCountMaximum)
        #expect(run.replies?.last == OptionReply(.listMetaContext, .acknowledge))
        #expect(run.replies?.count == 8)
    }

    static func session(_ exports: TestDirectory, _ queries: [String]) -> NBDSession? {
        let client = ClientBytes.flags().option(.structuredReply)
            .option(.setMetaContext, ClientBytes.metaData("db1", queries)).go("db1")
        guard case .transmission(let session) = HandshakeRun(client, exports: exports).outcome else { return nil }
        return session
    }

    @Test func theSessionKnowsWhichPairsWereMeant() {
        let session = Self.session(Self.pairs, ["repld:dirty", "repld:dirty:fär"])
        #expect(session?.contexts == [.difference, .difference(ofPair: 2)])
        #expect((0..<NBDPairSet.limit).map { session?.pairs[$0] } == [100, 0, 102, 0])
        #expect(Self.session(Self.pairs, [])?.contexts == [])
    }

    @Test func contextsHaveNumbersAndPlaces() {
        let all = (0..<NBDMetadataContexts.limit).map { NBDMetadataContexts.context(at: $0) }
        #expect(all.map(\.id) == [1, 2, 3, 4, 5, 6])
        #expect(all.map(\.place) == [nil, nil, 0, 1, 2, 3])
        let both: NBDMetadataContexts = [.difference(ofPair: 0), .difference(ofPair: 1)]
        #expect(both.place == nil && both.count == 2)
    }

    @Test func aSetOfPairsIsPartOfAnotherWithTheSameNumbersAtTheSamePlaces() {
        var now = NBDPairSet()
        #expect(now.isEmpty && now.isSubset(of: now))
        now[1] = 7
        var selected = now
        #expect(!now.isEmpty && selected.isSubset(of: now))
        now[0] = 9
        #expect(selected.isSubset(of: now), "a pair that came later takes nothing away")
        now[1] = 8
        #expect(!selected.isSubset(of: now), "another pair in its place is not the same")
        selected[1] = 0
        selected[2] = 7
        #expect(!selected.isSubset(of: now))
    }
}
