import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import SystemPackage
import Testing

/// What the control plane does about undo areas: who keeps one, what is refused, and what is said.
@Suite struct UndoServiceTests {
    /// Pair `m1`, Suspended, whose target lacks 64 KiB.
    private func suspended() async throws -> ServiceFixture {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.suspended)
        fixture.plane.setFacts { facts in
            (facts.operation, facts.isTargetConsistent) = (nil, true)
            (facts.changedByteCount, facts.differingByteCount) = (65536, 65536)
        }
        return fixture
    }

    private func set(
        _ operation: String,
        keepsUndo: Bool?,
        plan: Bool? = nil,
        _ fixture: ServiceFixture
    ) async throws -> MethodReply {
        let request = SetReplicationRelationshipRequest(operation: .name(operation), plan: plan, keepsUndo: keepsUndo)
        return try await fixture.service.setReplicationRelationship(pair: "m1", request)
    }

    @Test func isKeptUnlessSomebodySaysOtherwise() async throws {
        let fixture = try await suspended()
        #expect(try await fixture.pair().settings.keepsUndo)
        _ = try await set("Resume", keepsUndo: nil, fixture)
        #expect(fixture.plane.calls.last == .operate(.resume))
        let other = try await suspended()
        _ = try await set("Resume", keepsUndo: false, other)
        #expect(other.plane.calls.last == .operateWithoutUndo(.resume))
        let accepted = await other.service.events(after: 0).last { $0.kind == "operation-accepted" }
        #expect(accepted?.message == "Resume accepted, without an undo")
    }

    @Test func pairMadeWithoutOneStaysWithoutOneAfterAStart() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let source = try fixture.directory.element("source")
        let target = try fixture.directory.element("target")
        _ = try await fixture.service.addVolume(VolumeAddRequest(name: "db1", elementPath: source))
        let request = PairCreateRequest(sourceVolume: "db1", targetPath: target, name: "m1", keepsUndo: false)
        #expect(try await !fixture.service.createPair(request).settings.keepsUndo)
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(try await !after.pair().settings.keepsUndo)
        after.plane.become(.suspended)
        let error = await refusal { try await set("Resume", keepsUndo: true, after) }
        #expect(error?.code == .invalidSettings)
    }

    /// Daemons before this one had no undo areas, and wrote nothing about them.
    @Test func pairOfAnOlderRegistryKeepsOne() throws {
        let text = """
            {"id": "000102030405060708090a0b0c0d0e0f", "name": "m1", "volumeNumber": 1, "targetPath": "/t", "createdAt": 0,
            "revisionLimit": 9, "granuleByteCount": 65536, "targetTimeoutNanoseconds": 30000000000, "copyDepth": 4,
            "copyChunkByteCount": 1048576}
            """
        #expect(try JSONDecoder().decode(PairEntry.self, from: Data(text.utf8)).settings.keepsUndo)
    }

    @Test func copyThatCannotKeepWhatItOverwritesIsRefused() async throws {
        let fixture = try await suspended()
        fixture.plane.loseUndoArea()
        let before = fixture.plane.calls
        let error = await refusal { try await set("Resume", keepsUndo: nil, fixture) }
        #expect(error?.code == .notEnoughResources)
        #expect(error?.description.contains("--no-undo") == true)
        #expect(fixture.plane.calls == before)
        #expect(try await fixture.pair().hasUndoArea == false)
        _ = try await set("Resume", keepsUndo: false, fixture)
        #expect(fixture.plane.calls.last == .operateWithoutUndo(.resume))
    }

    @Test func copyThatNeedsMoreRoomThanThereIsIsRefused() async throws {
        let fixture = try await suspended()
        fixture.plane.setFacts { $0.differingByteCount = 1 << 60 }
        let error = await refusal { try await set("Resume", keepsUndo: nil, fixture) }
        #expect(error?.code == .notEnoughResources)
        for word in ["1EiB", "are free", ".undo", "--no-undo"] {
            #expect(error?.description.contains(word) == true, "\(word): \(error.map { "\($0)" } ?? "")")
        }
        // What is no usable image is not worth keeping.
        fixture.plane.setFacts { $0.isTargetConsistent = false }
        _ = try await set("Resume", keepsUndo: nil, fixture)
    }

    @Test func planSaysHowMuchIsKept() async throws {
        let fixture = try await suspended()
        #expect(try await set("Resume", keepsUndo: nil, plan: true, fixture).plan?.undoByteCount == 65536)
        #expect(try await set("Resume", keepsUndo: false, plan: true, fixture).plan?.undoByteCount == nil)
        #expect(try await set("Failover", keepsUndo: nil, plan: true, fixture).plan?.undoByteCount == nil)
        fixture.plane.setFacts { $0.isTargetConsistent = false }
        #expect(try await set("Resume", keepsUndo: nil, plan: true, fixture).plan?.undoByteCount == nil)
    }

    @Test func interruptedCopyIsShownAndItsFailoverPlanned() async throws {
        let fixture = try await suspended()
        fixture.plane.setFacts { facts in
            (facts.copyState, facts.isTargetConsistent) = (.broken, false)
            (facts.hasUndo, facts.undoByteCount) = (true, 4096)
        }
        #expect(try await fixture.pair().undoByteCount == 4096)
        let plan = try #require(try await set("Failover", keepsUndo: nil, plan: true, fixture).plan)
        #expect(plan.takenBackByteCount == 4096)
        #expect(plan.verdict == .needsForce && plan.bytesAtStake == 65536 + 4096)
        #expect(plan.reason?.contains("taken back") == true, "\(plan.reason ?? "")")
        fixture.plane.setFacts { ($0.hasUndo, $0.undoByteCount) = (false, 0) }
        #expect(try await set("Failover", keepsUndo: nil, plan: true, fixture).plan?.verdict == .refused)
    }

    /// What is kept is what another target held.
    @Test func replacedTargetHasNothingToTakeBack() throws {
        let directory = try TemporaryDirectory()
        let place = MetadataPlace(file: directory.file("record"))
        var record = PairRecord(
            sequence: 1,
            pair: PairID(high: 1, low: 2),
            volumeByteCount: 1 << 20,
            copyState: CopyState.broken.rawValue,
            isClosedCleanly: true
        )
        record.hasUndo = true
        try PairMetadata.write(record, to: place)
        try PairMetadata.forgetTarget(of: record.pair, at: place)
        #expect(try PairMetadata.read(place).record?.hasUndo == false)
    }

    @Test func areaGoesWithItsPair() async throws {
        let fixture = try await ServiceFixture.paired()
        let folder = fixture.directory.file("state/pairs")
        let id = try await fixture.pair().id
        let stray = "00000000000000000000000000000000.undo"
        for name in ["\(id).undo", stray] { try Data([1]).write(to: URL(filePath: "\(folder)/\(name)")) }
        let after = try fixture.afterKill()
        try await after.service.start()
        let names = try FileManager.default.contentsOfDirectory(atPath: after.directory.file("state/pairs"))
        #expect(names.sorted() == ["\(id).meta", "\(id).undo"])
        _ = try await fixture.set(.name("Detach"), force: true)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == [stray])
    }
}
