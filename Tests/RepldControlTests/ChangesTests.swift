import RepldControl
import RepldControlAPI
import RepldControlClient
import RepldCore
import RepldEngine
import RepldPair
import Synchronization
import Testing

/// Where pairs differ, asked over HTTP.
extension ServerTests {
    private static let granule: UInt64 = 64 << 10

    /// What a listing handed on.
    private static func listing(
        _ client: ControlClient,
        side: String = "both",
        limit: UInt64? = nil
    ) async throws -> (head: PairChangesReply?, runs: [ChangedRun], summary: ChangedRuns.Summary) {
        var head: PairChangesReply?
        var runs: [ChangedRun] = []
        let summary = try await ChangedRuns(client, pairPath: "/v1/pairs/m1", side: side, limit: limit).forEach {
            head = $0
        } _: {
            runs.append($0)
        }
        return (head, runs, summary)
    }

    @Test func tellsWhereAPairDiffers() async throws {
        let fixture = try await ServiceFixture.paired()
        _ = try await fixture.set(.name("Suspend"))
        fixture.plane.setChanges([Extent(offset: 0, length: Self.granule), Extent(offset: 131_072, length: 512)])
        fixture.plane.setChanges([Extent(offset: 131_072, length: 512)], by: .target)
        try await withServer(fixture) { client in
            let reply: PairChangesReply = try await client.call(.get, "/v1/pairs/m1/changes")
            #expect(
                reply
                    == PairChangesReply(
                        name: "m1",
                        side: "both",
                        copyState: Enumerated(CopyState.suspended),
                        byteCount: 1 << 20,
                        granuleByteCount: Self.granule,
                        runs: [ChangedRun(offset: 0, length: 65536), ChangedRun(offset: 131_072, length: 512)],
                        nextOffset: nil
                    )
            )
            #expect(reply.changedByteCount == 66048)
            let path = "/v1/pairs/m1/changes?side=target&from=512&limit=7"
            let target: PairChangesReply = try await client.call(.get, path)
            #expect(target.side == "target" && target.changedByteCount == 512)
            let last = try #require(fixture.plane.calls.last)
            #expect(last == .changes(ChangesQuery(side: .target, offset: 512, runLimit: 7)))
            let source: PairChangesReply = try await client.call(.get, "/v1/pairs/m1/changes?side=source")
            #expect(source.runs.isEmpty && source.changedByteCount == 0)
        }
    }

    @Test(
        arguments: [
            ("side=", "side: found '', expected source, target or both"),
            ("side=Source", "side: found 'Source'"),
            ("from=-1", "from: found '-1', expected a whole number"),
            ("limit=0", "limit: found '0', expected 1 to 1000 runs"),
            ("limit=1001", "limit: found '1001'"),
            ("limit=18446744073709551615", "limit: found '18446744073709551615'"),
            ("limit=all", "limit: found 'all', expected a whole number"),
        ]
    )
    func refusesAQuestionAboutChanges(query: String, words: String) async throws {
        let fixture = try await ServiceFixture.paired()
        try await withServer(fixture) { client in
            let error = await #expect(throws: ClientError.self) {
                _ = try await client.bytes(.get, "/v1/pairs/m1/changes?\(query)")
            }
            #expect(error?.reply?.returnCode == Enumerated(ReturnCode.invalidParameter))
            #expect(error?.message.contains(words) == true, "\(String(describing: error))")
        }
    }

    @Test func listsAnswerByAnswerAndJoinsWhatALimitHasCut() async throws {
        let fixture = try await ServiceFixture.paired()
        // Of 1500 runs, the 1000th and the one after it are one.
        let extents = (0..<1500).map { index -> Extent in
            index == 999 ? Extent(offset: 999_000, length: 1000) : Extent(offset: UInt64(index) * 1000, length: 400)
        }
        fixture.plane.setChanges(extents)
        try await withServer(fixture) { client in
            let all = try await Self.listing(client)
            #expect(all.head?.runs.count == 1000 && all.head?.nextOffset == 1_000_000)
            #expect(all.runs.count == 1499)
            #expect(all.runs[998] == ChangedRun(offset: 998_000, length: 400))
            #expect(all.runs[999] == ChangedRun(offset: 999_000, length: 1400))
            #expect(all.runs[1000] == ChangedRun(offset: 1_001_000, length: 400))
            #expect(all.summary.runCount == 1499 && !all.summary.hasMore)
            #expect(all.summary.byteCount == 1499 * 400 + 1000)
            let asked = fixture.plane.calls.filter { if case .changes = $0 { true } else { false } }
            #expect(asked.count == 2)
            for (limit, count, hasMore) in [(1, 1, true), (1000, 1000, true), (1499, 1499, false), (2000, 1499, false)]
            {
                let some = try await Self.listing(client, limit: UInt64(limit))
                #expect(some.runs == Array(all.runs.prefix(count)), "at most \(limit)")
                #expect(some.summary.runCount == UInt64(count) && some.summary.hasMore == hasMore)
            }
            let none = try await Self.listing(client, side: "source")
            #expect(none.head != nil && none.runs.isEmpty && none.summary.runCount == 0)
        }
    }

    @Test func aPairThatIsNotAttachedSaysWhy() async throws {
        let fixture = try await ServiceFixture.paired()
        let after = try fixture.afterKill()
        after.plane.breakElement(fixture.directory.file("target"))
        try await after.service.start()
        let told = await refusal { try await after.service.changes(ofPair: "m1") }
        #expect(told?.code == .elementUnavailable)
        #expect(told?.message.contains("it is on fire") == true, "\(String(describing: told))")
        let unknown = await refusal { try await after.service.changes(ofPair: "m2") }
        #expect(unknown?.code == .pairNotFound)
    }
}
