import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization
import SystemPackage
import Testing

/// What becomes of a pair whose link was lost and is back (CopyRecoveryMode).
@Suite struct RecoveryModeTests {
    private func creates(
        _ hosts: TwoHosts,
        _ mode: NumberOrName?,
        target: String = "repl://south/copy"
    ) async throws -> PairReply {
        try await hosts.north.service.createPair(
            PairCreateRequest(sourceVolume: "db1", targetPath: target, name: "m1", copyRecoveryMode: mode)
        )
    }

    private func configures(_ fixture: ServiceFixture, _ mode: NumberOrName) async throws -> PairReply {
        try await fixture.service.configureRecovery(ofPair: "m1", RecoveryRequest(copyRecoveryMode: mode))
    }

    /// What the data plane goes by when the link is back.
    private func recovers(_ fixture: ServiceFixture) -> Bool? {
        fixture.plane.state.withLock { $0.pairs.values.first?.opening.settings.recoversByItself }
    }

    @Test func isAutomaticUnlessSaidOtherwise() async throws {
        try await TwoHosts.run { hosts in
            let pair = try await creates(hosts, nil)
            #expect(pair.copyRecoveryMode == Enumerated(number: 2, name: "Automatic"))
            #expect(recovers(hosts.north) == true)
            #expect(try await hosts.south.pair().copyRecoveryMode == nil, "what the source does is its own business")
        }
    }

    @Test(arguments: [.name("manual"), .name("Manual"), .number(3)] as [NumberOrName])
    func isTakenWhenThePairIsMadeAndAfterAStart(mode: NumberOrName) async throws {
        try await TwoHosts.run { hosts in
            let pair = try await creates(hosts, mode)
            #expect(pair.copyRecoveryMode == Enumerated(CopyRecoveryMode.manual))
            #expect(recovers(hosts.north) == false)
            try await hosts.restartNorth()
            #expect(recovers(hosts.north) == false)
            #expect(try await hosts.north.pair().copyRecoveryMode == Enumerated(CopyRecoveryMode.manual))
        }
    }

    @Test func changesAtAnyTimeOrNotAtAll() async throws {
        try await TwoHosts.run { hosts in
            _ = try await creates(hosts, nil)
            let manual = try await configures(hosts.north, .name("Manual"))
            #expect(manual.copyRecoveryMode == Enumerated(CopyRecoveryMode.manual) && recovers(hosts.north) == false)
            let count = hosts.north.plane.calls.count
            _ = try await configures(hosts.north, .number(3))
            #expect(hosts.north.plane.calls.count == count, "it is that already")
            hosts.north.plane.breakElement("recovery")
            #expect(await refusal { try await configures(hosts.north, .number(2)) } != nil)
            #expect(try await hosts.north.pair().copyRecoveryMode == manual.copyRecoveryMode)
            hosts.north.plane.mendElement("recovery")
            try await hosts.restartNorth()
            #expect(recovers(hosts.north) == false)
            let automatic = try await configures(hosts.north, .number(2))
            #expect(automatic.copyRecoveryMode == Enumerated(CopyRecoveryMode.automatic))
            #expect(recovers(hosts.north) == true)
        }
    }

    @Test func whatIsNoModeIsRefused() async throws {
        try await TwoHosts.run { hosts in
            let made = await refusal { try await creates(hosts, .number(4)) }
            #expect(made?.message == "copyRecoveryMode: found '4', expected Automatic or Manual")
            _ = try await creates(hosts, nil)
            let changed = await refusal { try await configures(hosts.north, .name("soon")) }
            #expect(changed?.code == .invalidRequest)
            let elsewhere = await refusal { try await configures(hosts.south, .number(3)) }
            #expect(elsewhere?.message.contains("north") == true, "it is said where the source is")
        }
    }

    @Test func elementsOfOneHostHaveNoLink() async throws {
        try await TwoHosts.run { hosts in
            let target = try hosts.north.directory.element("target")
            let error = await refusal { try await creates(hosts, .number(2), target: target) }
            #expect(error?.code == .invalidSettings && error?.message.contains("a target at a peer") == true)
            let pair = try await creates(hosts, .number(3), target: target)
            #expect(pair.copyRecoveryMode == Enumerated(CopyRecoveryMode.manual))
            #expect(await refusal { try await configures(hosts.north, .number(2)) }?.code == .invalidSettings)
            _ = try await configures(hosts.north, .number(3))
            #expect(!hosts.north.plane.calls.contains(.setRecovery(isAutomatic: false)))
        }
    }

    /// A registry of a daemon that knew no other mode means Automatic, and one that has it keeps it.
    @Test func theRegistryKeepsIt() async throws {
        try await TwoHosts.run { hosts in
            _ = try await creates(hosts, .name("Manual"))
            let registry = try Registry(path: FilePath(hosts.north.directory.file("state/registry.json")))
            let entry = try #require(registry.content.pair(named: "m1"))
            #expect(registry.content.version == 6 && !entry.settings.recoversByItself)
            let bytes = try ControlJSON.encode(entry)
            #expect(try ControlJSON.decode(PairEntry.self, from: bytes) == entry)
            let text = String(decoding: bytes, as: UTF8.self)
            let older = text.replacing(#","recoversByItself":false"#, with: "")
            #expect(older != text)
            #expect(try ControlJSON.decode(PairEntry.self, from: Data(older.utf8)).settings.recoversByItself)
        }
    }

    @Test func goesWithAPairThatMoves() async throws {
        try await TwoHosts.moving { hosts in
            _ = try await configures(hosts.north, .name("Manual"))
            let limit = SetReplicationRelationshipRequest(operation: .name("ResetToAsync"), recoveryPointSeconds: 5)
            _ = try await hosts.north.service.setReplicationRelationship(pair: "m1", limit)
            let job = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(job.state == Enumerated(JobState.completed), "\(job)")
            let pair = try await hosts.south.pair()
            #expect(pair.role == .source && pair.copyRecoveryMode == Enumerated(CopyRecoveryMode.manual))
            #expect(pair.recoveryPointSeconds == 5 && recovers(hosts.south) == false)
            let call = FakeDataPlane.Call.setMode(isAsynchronous: true, recoveryPointNanoseconds: 5_000_000_000)
            #expect(hosts.south.plane.calls.contains(call))
        }
    }

    /// A host that takes a pair over without asking hears of it when the source is back.
    @Test func isToldWhenTheFormerSourceIsMet() async throws {
        try await TwoHosts.moving { hosts in
            _ = try await configures(hosts.north, .name("Manual"))
            let limit = SetReplicationRelationshipRequest(operation: .name("ResetToSync"), recoveryPointSeconds: 5)
            _ = try await hosts.north.service.setReplicationRelationship(pair: "m1", limit)
            hosts.link.cut()
            _ = try await hosts.south.set(.name("Failover"))
            #expect(try await hosts.south.pair().recoveryPointSeconds == nil)
            hosts.link.mend()
            hosts.north.plane.tell(.takenOver)
            try await hosts.north.service.waitForReplica("m1")
            let pair = try await hosts.south.pair()
            #expect(pair.recoveryPointSeconds == 5)
            #expect(pair.copyRecoveryMode == Enumerated(CopyRecoveryMode.manual) && recovers(hosts.south) == false)
        }
    }

    /// The registry would not take it.
    @Test func aPeerCannotSetWhatNobodyCan() throws {
        var entry = PairEntry(
            id: PairID(high: 1, low: 2),
            name: "m1",
            volumeNumber: 1,
            targetPath: "repl://south/copy",
            settings: PairSettings(),
            createdAt: Date(timeIntervalSince1970: 0),
            revisionLimit: 1
        )
        entry.recoveryPointNanoseconds = 1
        let geometry = RemoteGeometry(
            ElementGeometry(
                byteCount: 1 << 20,
                logicalBlockByteCount: 512,
                physicalBlockByteCount: 4096,
                isReadOnly: false,
                canDiscard: true,
                canZeroFast: true,
                isDirect: true
            )
        )
        let over = TakeOverMessage(
            pair: entry.id,
            attempt: 1,
            operation: .failover,
            sequence: 1,
            isEqual: true,
            isAhead: false,
            moving: MovingPair(entry, volume: "db1", geometry: geometry)
        )
        let record = PairRecord(
            sequence: 1,
            pair: entry.id,
            volumeByteCount: 1 << 20,
            copyState: 10,
            isClosedCleanly: false
        )
        var meet = MeetMessage(record: record, isAhead: false, telling: 1, differingUnitCount: 0, geometry: geometry)
        #expect(throws: Never.self) { try PeerMessages.decode(PeerMessages.encode(meet)) }
        meet.recoveryPointNanoseconds = 1
        for bytes in [try PeerMessages.encode(over), try PeerMessages.encode(meet)] {
            let error = #expect(throws: ControlError.self) { try PeerMessages.decode(bytes) }
            #expect(error?.message.contains("the recovery point") == true, "\(String(describing: error))")
        }
    }
}
