import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldPair
import Synchronization
import Testing

/// What the operator sets about copies: checked, handed on, kept, shown.
@Suite struct ResyncTests {
    @Test func whatIsGivenChangesAndTheRestStays() async throws {
        let fixture = try await ServiceFixture.paired()
        _ = try await fixture.service.configureResync(
            ofPair: "m1",
            ResyncRequest(
                capBytesPerSecond: 50 << 20,
                floorBytesPerSecond: 1 << 20,
                latencyTargetPercent: 150,
                order: 2
            )
        )
        let pair = try await fixture.service.configureResync(ofPair: "m1", ResyncRequest(paused: true))
        let expected = CopySettings(
            isPaused: true,
            capByteRate: 50 << 20,
            floorByteRate: 1 << 20,
            latencyTargetPercent: 150,
            order: 2
        )
        #expect(fixture.plane.calls.last == .configureCopy(expected))
        let shown = try #require(pair.settings.resync)
        #expect(shown.paused && shown.capBytesPerSecond == 50 << 20 && shown.floorBytesPerSecond == 1 << 20)
        #expect(shown.latencyTargetPercent == 150 && shown.order == 2)
        let back = try await fixture.service.configureResync(
            ofPair: "m1",
            ResyncRequest(paused: false, capBytesPerSecond: 0, floorBytesPerSecond: 0)
        )
        #expect(back.settings.resync?.capBytesPerSecond == nil && back.settings.resync?.floorBytesPerSecond == nil)
        #expect(back.settings.resync?.paused == false && back.settings.resync?.order == 2)
    }

    @Test func nothingNewIsNotHandedOn() async throws {
        let fixture = try await ServiceFixture.paired()
        let calls = fixture.plane.calls
        let before = try await fixture.pair()
        let after = try await fixture.service.configureResync(ofPair: "m1", ResyncRequest(paused: false))
        #expect(fixture.plane.calls == calls && before.revision == after.revision)
    }

    @Test func itOutlivesAKill() async throws {
        let fixture = try await ServiceFixture.paired()
        _ = try await fixture.service.configureResync(
            ofPair: "m1",
            ResyncRequest(paused: true, capBytesPerSecond: 1 << 20, order: 7)
        )
        let next = try fixture.afterKill()
        try await next.service.start()
        let opened = next.plane.state.withLock { $0.pairs.values.first?.opening.settings.copy }
        #expect(opened == CopySettings(isPaused: true, capByteRate: 1 << 20, order: 7))
    }

    @Test func aNewPairBeginsWithWhatIsAsked() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let source = try fixture.directory.element("source")
        let target = try fixture.directory.element("target")
        _ = try await fixture.service.addVolume(VolumeAddRequest(name: "db1", elementPath: source))
        var request = PairCreateRequest(sourceVolume: "db1", targetPath: target, name: "m1")
        request.resync = ResyncRequest(paused: true, order: 1)
        _ = try await fixture.service.createPair(request)
        let opened = fixture.plane.state.withLock { $0.pairs.values.first?.opening.settings.copy }
        #expect(opened == CopySettings(isPaused: true, order: 1))
    }

    @Test(
        arguments: [
            ResyncRequest(capBytesPerSecond: 1000), ResyncRequest(capBytesPerSecond: .max),
            ResyncRequest(floorBytesPerSecond: 65535), ResyncRequest(latencyTargetPercent: 100),
            ResyncRequest(latencyTargetPercent: 10_001),
        ]
    )
    func whatIsOutOfBoundsIsRefused(request: ResyncRequest) async throws {
        let fixture = try await ServiceFixture.paired()
        let before = try await fixture.pair().settings
        let error = await refusal { try await fixture.service.configureResync(ofPair: "m1", request) }
        #expect(error?.code == .invalidSettings)
        #expect(error?.message.contains("expected") == true)
        #expect(try await fixture.pair().settings == before)
    }

    @Test func whatLimitsACopyIsShown() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.limitCopy(
            CopyControlStatus(
                limit: .hostLatency,
                waitsFor: nil,
                allowedByteRate: 20 << 20,
                floorByteRate: 16 << 20,
                undisturbedP99Nanoseconds: 120_000,
                p99Nanoseconds: 140_500
            )
        )
        let shown = try #require(try await fixture.pair().resync)
        #expect(shown.limit == "hostLatency" && shown.limitedBy == "host latency")
        #expect(shown.hostP99UndisturbedMicroseconds == 120 && shown.hostP99Microseconds == 140.5)
    }

    @Test func thePairThatIsWaitedForIsNamed() async throws {
        let fixture = try await ServiceFixture.paired()
        let first = fixture.plane.state.withLock { $0.pairs.keys.first }
        fixture.plane.limitCopy(
            CopyControlStatus(
                limit: .order,
                waitsFor: first,
                allowedByteRate: nil,
                floorByteRate: 16 << 20,
                undisturbedP99Nanoseconds: nil,
                p99Nanoseconds: nil
            )
        )
        let pair = try await fixture.pair()
        #expect(pair.resync?.limitedBy == "waits for pair m1 (order 0)" && pair.resync?.waitsFor == "m1")
    }

    @Test func aMisspeltFieldIsTold() {
        #expect(throws: JSONRefusal.self) {
            try ControlJSON.decodeRequest(ResyncRequest.self, from: .init(#"{"pause": true}"#.utf8))
        }
        let body = #"{"sourceVolume": "v", "targetPath": "/t", "resync": {"pause": true}}"#
        let error = #expect(throws: JSONRefusal.self) {
            try ControlJSON.decodeRequest(PairCreateRequest.self, from: .init(body.utf8))
        }
        #expect(error?.message.contains("unknown field 'pause'") == true)
    }
}
