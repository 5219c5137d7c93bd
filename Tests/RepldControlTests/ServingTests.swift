import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldFormat
import RepldPair
import SystemPackage
import Testing

/// The decision by records alone.
@Suite struct ServingElementTests {
    private func entry(_ number: UInt64) -> PairEntry {
        PairEntry(
            id: PairID(high: 0, low: number),
            name: "m\(number)",
            volumeNumber: 1,
            targetPath: "/dev/t\(number)",
            settings: PairSettings(),
            createdAt: Date(timeIntervalSince1970: 0),
            revisionLimit: 1
        )
    }

    private func record(_ number: UInt64, isSecondPrimary: Bool, block: UInt32 = 4096) -> PairRecord {
        var record = PairRecord(
            sequence: 7,
            pair: PairID(high: 0, low: number),
            volumeByteCount: 1 << 20,
            copyState: CopyState.failedover.rawValue,
            isClosedCleanly: true
        )
        record.isSecondPrimary = isSecondPrimary
        record.volumeBlockByteCount = block
        return record
    }

    private func decide(_ recoveries: PairRecordRecovery...) -> ServingElement {
        ServingElement.decide(
            recoveries.enumerated().map { index, recovery in
                (entry: entry(UInt64(index + 1)), recovery: recovery, metadata: MetadataPlace(file: "/m\(index + 1)"))
            }
        )
    }

    @Test func theFirstServesWhereNobodySaysOtherwise() {
        #expect(decide() == .first)
        #expect(decide(.found(record(1, isSecondPrimary: false)), .found(record(2, isSecondPrimary: false))) == .first)
        #expect(decide(.older(record(1, isSecondPrimary: false), damage: .wrongMagic)) == .first)
    }

    @Test func oneClaimDecides() {
        let second = ServingElement.second(
            pair: PairID(high: 0, low: 2),
            path: "/dev/t2",
            byteCount: 1 << 20,
            blockByteCount: 4096
        )
        let claim = record(2, isSecondPrimary: true)
        #expect(decide(.found(record(1, isSecondPrimary: false)), .found(claim)) == second)
        #expect(decide(.found(record(1, isSecondPrimary: false)), .older(claim, damage: .wrongMagic)) == second)
        let old = decide(.found(record(1, isSecondPrimary: true, block: 0)))
        #expect(
            old == .second(pair: PairID(high: 0, low: 1), path: "/dev/t1", byteCount: 1 << 20, blockByteCount: nil)
        )
    }

    @Test func aDoubtLetsNobodyServe() {
        let claims = decide(.found(record(1, isSecondPrimary: true)), .found(record(2, isSecondPrimary: true)))
        let lost = decide(.lost(.wrongMagic, .truncated(byteCount: 0)), .found(record(2, isSecondPrimary: true)))
        let blank = decide(.blank, .found(record(2, isSecondPrimary: true)))
        let foreign = decide(.found(record(5, isSecondPrimary: false)))
        for (decision, words) in [
            (claims, "/dev/t1 (pair 'm1') and /dev/t2 (pair 'm2') both claim"),
            (lost, "neither record in /m1 of pair 'm1' can be read"),
            (blank, "/m1 of pair 'm1' is all zeroes"), (foreign, "belongs to pair"),
        ] {
            guard case .nobody(let reason) = decision else {
                Issue.record("\(decision)")
                continue
            }
            #expect(reason.contains(words), "\(reason)")
        }
    }
}

/// Which element is opened after a start, and how a volume comes back that must not be served.
@Suite struct ServingTests {
    /// A pair that has failed over: its second element serves `db1`.
    private func failedOver() async throws -> ServiceFixture {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        _ = try await fixture.set(.name("Failover"))
        fixture.plane.finish()
        return fixture
    }

    private func source(_ fixture: ServiceFixture) -> String { fixture.directory.file("source") }
    private func target(_ fixture: ServiceFixture) -> String { fixture.directory.file("target") }

    private func metadata(_ fixture: ServiceFixture) throws -> String {
        let directory = fixture.directory.file("state/pairs")
        let name = try #require(try FileManager.default.contentsOfDirectory(atPath: directory).first)
        return directory + "/" + name
    }

    @Test func aFailedOverVolumeIsServedFromTheSecondElement() async throws {
        let fixture = try await failedOver()
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == target(fixture))
        #expect(after.plane.opening("db1")?.byteCount == 1 << 20)
        #expect(after.plane.opening("db1")?.blockByteCount == 4096)
        #expect(after.plane.targetPath("m1") == source(fixture))
        let pair = try await after.pair()
        #expect(pair.copyState == Enumerated(CopyState.failedover))
        #expect(pair.servingPath == target(fixture))
        #expect(pair.sourcePath == source(fixture))
        #expect(try await after.service.volume(named: "db1").servingPath == target(fixture))
    }

    @Test func rolesFollowTheRecord() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        _ = try await fixture.set(.name("ReverseRoles"))
        try await fixture.following { fixture.plane.finish() }
        let pair = try await fixture.pair()
        #expect(pair.sourcePath == target(fixture) && pair.targetPath == source(fixture))
        #expect(pair.servingPath == target(fixture))
        let events = await fixture.service.events(after: 0)
        let reversed = events.first { $0.kind == "roles-reversed" }
        #expect(reversed?.message.contains("the source is \(target(fixture)) now") == true)
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == target(fixture))
    }

    @Test(arguments: [true, false])
    func anOlderCopyIsNeverServedSilently(isServerBroken: Bool) async throws {
        let fixture = try await failedOver()
        let after = try fixture.afterKill()
        let broken = isServerBroken ? target(fixture) : source(fixture)
        after.plane.breakElement(broken)
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == nil)
        let volume = try await after.service.volume(named: "db1")
        #expect(volume.status == Enumerated(OperationalStatus.error))
        #expect(volume.reason?.contains("hosts were served by \(target(fixture))") == true)
        #expect(volume.reason?.contains(broken) == true)
        #expect(volume.reason?.contains("'replctl set m1 Detach' says what is lost") == true)
        after.plane.mendElement(broken)
        _ = try await after.service.retryVolume(named: "db1")
        #expect(after.plane.servingPath("db1") == target(fixture))
        #expect(try await after.pair().reason == nil)
    }

    @Test func forceGivesUpTheElementThatDoesNotServe() async throws {
        let fixture = try await failedOver()
        let after = try fixture.afterKill()
        after.plane.breakElement(source(fixture))
        try await after.service.start()
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        #expect(error?.message.contains("\(source(fixture)) would be given up") == true)
        let reply = try await after.set(.name("Detach"), force: true)
        #expect(reply.extendedStatus?.message.contains("goes on with \(target(fixture))") == true)
        #expect(after.plane.servingPath("db1") == target(fixture))
        let volume = try await after.service.volume(named: "db1")
        #expect(volume.elementPath == target(fixture) && volume.reason == nil && volume.pairs.isEmpty)
        let again = try after.afterKill()
        try await again.service.start()
        #expect(again.plane.servingPath("db1") == target(fixture))
        #expect(again.plane.opening("db1")?.byteCount == 1 << 20)
    }

    @Test func theOlderCopyIsServedOnlyByForceAndWhenThatWasTold() async throws {
        let fixture = try await failedOver()
        let after = try fixture.afterKill()
        after.plane.breakElement(target(fixture))
        try await after.service.start()
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.message.contains("an older copy that lacks what hosts have written") == true)
        #expect(error?.status.bytesAtStake == 1 << 20)
        let reply = try await after.set(.name("Detach"), force: true)
        #expect(reply.extendedStatus?.message.contains("\(source(fixture)) is an older copy") == true)
        #expect(after.plane.servingPath("db1") == source(fixture))
        #expect(await after.service.events(after: 0).contains { $0.kind == "pair-given-up" })
    }

    /// The first element was missing when the operator was told; then the second goes as well.
    @Test func forceForOneThingIsNotForceForAnother() async throws {
        let fixture = try await failedOver()
        let after = try fixture.afterKill()
        after.plane.breakElement(source(fixture))
        try await after.service.start()
        after.plane.breakElement(target(fixture))
        after.plane.mendElement(source(fixture))
        let error = await refusal { try await after.set(.name("Detach"), force: true) }
        #expect(error?.code == .elementUnavailable)
        #expect(error?.suggestion?.contains("an older copy") == true)
        #expect(after.plane.servingPath("db1") == nil)
        _ = try await after.set(.name("Detach"), force: true)
        #expect(after.plane.servingPath("db1") == source(fixture))
    }

    @Test(arguments: [0, 100, 8192])
    func lostRecordsLetNobodyServe(byteCount: Int) async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        let after = try fixture.afterKill()
        try Data(repeating: 0xA5, count: byteCount).write(to: URL(filePath: metadata(after)))
        try await after.service.start()
        #expect(after.plane.calls.isEmpty)
        let volume = try await after.service.volume(named: "db1")
        #expect(volume.reason?.contains("nobody can say which element has the newer data") == true)
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        #expect(error?.message.contains("the volume would go on with \(source(fixture))") == true)
        _ = try await after.set(.name("Detach"), force: true)
        #expect(after.plane.servingPath("db1") == source(fixture))
        #expect(try await after.service.volume(named: "db1").reason == nil)
    }

    /// A new file is all zeroes, too; but a pair has a record before the registry has the pair.
    @Test func blankMetadataIsLostMetadata() async throws {
        let fixture = try await failedOver()
        let after = try fixture.afterKill()
        let file = try metadata(after)
        let whole = try Data(contentsOf: URL(filePath: file))
        try Data(count: whole.count).write(to: URL(filePath: file))
        try await after.service.start()
        #expect(after.plane.calls.isEmpty)
        let reason = try await after.service.volume(named: "db1").reason
        #expect(reason?.contains("\(file) of pair 'm1' is all zeroes") == true)
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        try whole.write(to: URL(filePath: file))
        _ = try await after.service.retryVolume(named: "db1")
        #expect(after.plane.servingPath("db1") == target(fixture))
    }

    @Test func missingMetadataIsNoReasonToServeTheFirst() async throws {
        let fixture = try await failedOver()
        let after = try fixture.afterKill()
        try FileManager.default.removeItem(atPath: metadata(after))
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == nil)
    }

    /// Two records that claim the volume: the operator says which one is not to be believed.
    @Test func oneOfTwoClaimsIsGivenUp() async throws {
        let fixture = try await failedOver()
        let other = try fixture.directory.element("other")
        let copy = try TemporaryDirectory()
        try FileManager.default.copyItem(atPath: fixture.directory.file("state"), toPath: copy.file("state"))
        var registry = try Registry(path: FilePath(copy.file("state/registry.json")))
        var second = try #require(registry.content.pairs.first)
        var record = try #require(
            try PairMetadata.read(MetadataPlace(file: copy.file("state/pairs/\(second.id).meta"))).record
        )
        second.id = PairID(high: 9, low: 9)
        (second.name, second.targetPath, second.mark) = ("m2", other, ElementMark.find(other))
        record.pair = second.id
        try registry.commit { $0.pairs.append(second) }
        try PairMetadata.write(record, to: MetadataPlace(file: copy.file("state/pairs/\(second.id).meta")))
        let service = try ServiceFixture(in: copy)
        try await service.service.start()
        #expect(service.plane.calls.isEmpty)
        let reason = try await service.service.volume(named: "db1").reason
        #expect(reason?.contains("both claim to serve it") == true)
        let refused = await refusal { try await service.set(.name("Detach")) }
        #expect(refused?.message.contains("the volume would go on with \(other) of pair 'm2'") == true)
        _ = try await service.set(.name("Detach"), force: true)
        #expect(service.plane.servingPath("db1") == other)
        #expect(try await service.service.pairList().map(\.name) == ["m2"])
    }

    /// What could still move the service is given up before it is written down which element serves.
    @Test func aDetachGivesAFailbackUpFirst() async throws {
        let fixture = try await failedOver()
        _ = try await fixture.set(.name("Failback"))
        let error = await refusal { try await fixture.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        _ = try await fixture.set(.name("Detach"), force: true)
        #expect(fixture.plane.calls.suffix(2) == [.holdPlace(true), .detachPair])
        #expect(try await fixture.service.volume(named: "db1").elementPath == target(fixture))
    }

    @Test func strayMetadataIsRemovedAndTold() async throws {
        let fixture = try await ServiceFixture.paired()
        let after = try fixture.afterKill()
        let stray = after.directory.file("state/pairs/0000000000000000000000000000000f.meta")
        try Data(count: 8192).write(to: URL(filePath: stray))
        try await after.service.start()
        #expect(!FileManager.default.fileExists(atPath: stray))
        #expect(await after.service.events(after: 0).contains { $0.kind == "metadata-removed" })
        #expect(try await after.pair().reason == nil)
    }

    @Test func noNewPairWhileTheSecondElementServes() async throws {
        let fixture = try await failedOver()
        let other = try fixture.directory.element("other")
        let request = PairCreateRequest(sourceVolume: "db1", targetPath: other)
        let error = await refusal { try await fixture.service.createPair(request) }
        #expect(error?.message.contains("is served by the second element of pair 'm1'") == true)
    }

    /// A kill at each step: the second element serves before and after, and no start takes the first.
    @Test func aDetachAfterFailoverIsOneStep() async throws {
        let fixture = try await failedOver()
        let killed = Killed()
        let state = fixture.directory.file("state")
        fixture.plane.beforeEachCall { call in killed.snapshot(state, "before \(call)") }
        await fixture.service.observeRegistryWrites { step in killed.snapshot(state, "registry \(step)") }
        _ = try await fixture.set(.name("Detach"))
        var counts: [Int] = []
        for (directory, moment) in killed.take() {
            let after = try ServiceFixture(in: directory)
            try await after.service.start()
            #expect(after.plane.servingPath("db1") == target(fixture), "\(moment)")
            #expect(after.plane.opening("db1")?.byteCount == 1 << 20, "\(moment)")
            counts.append(try await after.service.pairList().count)
        }
        #expect(counts == counts.sorted(by: >) && counts.first == 1 && counts.last == 0)
    }

    @Test func aRegistryThatCannotBeWrittenKeepsThePairAndItsVolume() async throws {
        let fixture = try await failedOver()
        let after = try fixture.afterKill()
        after.plane.breakElement(source(fixture))
        try await after.service.start()
        await after.service.observeRegistryWrites { _ in throw Errno.noSpace }
        let error = await refusal { try await after.set(.name("Detach"), force: true) }
        #expect(error?.code == .stateDirectory)
        #expect(after.plane.servingPath("db1") == nil)
        #expect(try await after.service.pairList().map(\.name) == ["m1"])
    }
}
