import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldEngine
import RepldPair
import Synchronization
import SystemPackage
import Testing

/// How old what a peer's volume lacks may become, and how old it is.
@Suite struct RecoveryPointTests {
    private func creates(
        _ hosts: TwoHosts,
        _ mode: NumberOrName?,
        _ seconds: Double?,
        target: String = "repl://south/copy"
    ) async throws -> PairReply {
        try await hosts.north.service.createPair(
            PairCreateRequest(
                sourceVolume: "db1",
                targetPath: target,
                name: "m1",
                mode: mode,
                recoveryPointSeconds: seconds
            )
        )
    }

    private func set(
        _ fixture: ServiceFixture,
        _ operation: NumberOrName,
        _ seconds: Double?
    ) async throws -> MethodReply {
        try await fixture.service.setReplicationRelationship(
            pair: "m1",
            SetReplicationRelationshipRequest(operation: operation, recoveryPointSeconds: seconds)
        )
    }

    @Test func isTakenWhenThePairIsMadeAndAfterAStart() async throws {
        try await TwoHosts.run { hosts in
            let pair = try await creates(hosts, .name("async"), 2.5)
            #expect(pair.mode == Enumerated(ReplicationMode.asynchronous) && pair.recoveryPointSeconds == 2.5)
            let call = FakeDataPlane.Call.setMode(isAsynchronous: true, recoveryPointNanoseconds: 2_500_000_000)
            let calls = hosts.north.plane.calls
            #expect(calls.count(where: { $0 == call }) == 1)
            #expect(try #require(calls.firstIndex(of: call)) < #require(calls.firstIndex(of: .operate(.activate))))
            try await hosts.restartNorth()
            #expect(hosts.north.plane.calls.contains(call))
            #expect(try await hosts.north.pair().recoveryPointSeconds == 2.5)
        }
    }

    @Test func changesWithTheModeAndStaysWithoutBeingSaid() async throws {
        try await TwoHosts.run { hosts in
            _ = try await creates(hosts, nil, 5)
            #expect(try await hosts.north.pair().recoveryPointSeconds == 5, "kept for asynchronous mode")
            _ = try await hosts.north.set(.name("ResetToAsync"))
            let first = FakeDataPlane.Call.setMode(isAsynchronous: true, recoveryPointNanoseconds: 5_000_000_000)
            #expect(hosts.north.plane.calls.last == first)
            // Asked of the replica's host, in the mode that the pair has.
            _ = try await set(hosts.south, .name("ResetToAsync"), 0.5)
            let second = FakeDataPlane.Call.setMode(isAsynchronous: true, recoveryPointNanoseconds: 500_000_000)
            #expect(hosts.north.plane.calls.last == second)
            hosts.north.plane.breakElement("mode")
            #expect(await refusal { try await set(hosts.north, .name("ResetToSync"), 9) } != nil)
            var pair = try await hosts.north.pair()
            #expect(pair.recoveryPointSeconds == 0.5 && pair.mode == Enumerated(ReplicationMode.asynchronous))
            hosts.north.plane.mendElement("mode")
            _ = try await set(hosts.north, .name("ResetToAsync"), 0)
            #expect(hosts.north.plane.calls.last == .setMode(isAsynchronous: true))
            pair = try await hosts.north.pair()
            #expect(pair.recoveryPointSeconds == nil)
        }
    }

    @Test(arguments: [(-1, "100ms"), (0.09, "100ms"), (604_801, "a week"), (.infinity, "a week")])
    func boundsAreTold(seconds: Double, words: String) async throws {
        try await TwoHosts.run { hosts in
            let made = await refusal { try await creates(hosts, nil, seconds) }
            #expect(
                made?.code == .invalidSettings && made?.message.contains(words) == true,
                "\(String(describing: made))"
            )
            #expect(try await hosts.south.service.pairList().isEmpty, "the peer was not asked")
            try await hosts.pair()
            let error = await refusal { try await set(hosts.north, .name("ResetToAsync"), seconds) }
            #expect(error?.code == .invalidSettings && error?.message.contains(words) == true)
        }
    }

    @Test func goesWithTheModeOnly() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let error = await refusal { try await set(hosts.south, .name("Suspend"), 5) }
            #expect(error?.message.contains("not with Suspend") == true)
            #expect(!hosts.north.plane.calls.contains(.operate(.suspend)))
            let mode = await refusal { try await creates(hosts, .name("sometimes"), nil) }
            #expect(mode?.code == .nameInUse)
        }
    }

    @Test func aLocalTargetHasNone() async throws {
        try await TwoHosts.run { hosts in
            let target = try hosts.north.directory.element("target")
            for (mode, seconds) in [(NumberOrName?.none, Double?.some(5)), (.number(3), nil)] {
                let error = await refusal { try await creates(hosts, mode, seconds, target: target) }
                #expect(error?.code == .invalidSettings && error?.message.contains("a target at a peer") == true)
            }
            _ = try await creates(hosts, .number(2), nil, target: target)
            let error = await refusal { try await set(hosts.north, .name("ResetToAsync"), 5) }
            #expect(error?.code == .invalidSettings)
        }
    }

    @Test func exposureIsShownInSecondsAndNothingWhereNobodyKnows() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            #expect(try await hosts.north.pair().exposureSeconds == nil)
            hosts.north.plane.state.withLock { state in
                for id in state.pairs.keys { state.pairs[id]?.status.exposureNanoseconds = 2_100_000_000 }
            }
            let pair = try await hosts.north.pair()
            #expect(pair.exposureSeconds == 2.1)
            var limited = pair
            (limited.name, limited.exposureSeconds, limited.recoveryPointSeconds) = ("m2", nil, 5)
            let metrics = MetricsText.render(volumes: [], pairs: [pair, limited])
            #expect(metrics.contains("\nrepld_pair_exposure_seconds{pair=\"m1\",volume=\"db1\"} 2.1\n"))
            #expect(!metrics.contains("repld_pair_exposure_seconds{pair=\"m2\""))
            #expect(metrics.contains("\nrepld_pair_recovery_point_seconds{pair=\"m2\",volume=\"db1\"} 5.0\n"))
            #expect(try await hosts.south.pair().exposureSeconds == nil, "what the source has is not known there")
        }
    }

    @Test(
        arguments: [
            (0, "0 s"), (0.01, "0.1 s"), (2.1, "2.1 s"), (59.9, "59.9 s"), (60, "1m 0s"), (7325, "2h 2m"),
        ] as [(Double, String)]
    )
    func agesAreReadable(seconds: Double, text: String) {
        #expect(SecondsText.format(seconds) == text)
    }

    /// A registry of a daemon that knew of no limit has none, and one that has it keeps it.
    @Test func theRegistryKeepsIt() async throws {
        try await TwoHosts.run { hosts in
            _ = try await creates(hosts, .name("Asynchronous"), 7)
            let path = hosts.north.directory.file("state/registry.json")
            let registry = try Registry(path: FilePath(path))
            let entry = try #require(registry.content.pair(named: "m1"))
            #expect(entry.recoveryPointNanoseconds == 7_000_000_000)
            let bytes = try ControlJSON.encode(entry)
            #expect(try ControlJSON.decode(PairEntry.self, from: bytes) == entry)
            let text = String(decoding: bytes, as: UTF8.self)
            let older = text.replacing(#""recoveryPointNanoseconds":7000000000,"#, with: "")
            #expect(older != text)
            var expected = entry
            expected.recoveryPointNanoseconds = nil
            #expect(try ControlJSON.decode(PairEntry.self, from: Data(older.utf8)) == expected)
            var local = registry.content
            local.pairs[0].remote = nil
            local.pairs[0].targetPath = "/dev/t"
            #expect(local.fault?.contains("its target is local") == true)
        }
    }
}
