import Foundation
import RepldControl
import RepldControlAPI
import RepldDataPlane
import RepldFormat
import RepldPair
import SystemPackage
import Testing

/// What is there after a stop, a kill, and a start in worse circumstances.
@Suite struct RestartTests {
    @Test func bringsBackVolumesAndPairs() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        let before = try await fixture.pair()
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(after.plane.calls == [.addVolume("db1"), .addPair("m1", isNew: false)])
        let pair = try await after.pair()
        #expect(pair.copyState == Enumerated(CopyState.synchronized))
        #expect(pair.id == before.id)
        #expect(pair.revision > before.revision)
    }

    @Test func letsHostsInLast() async throws {
        let fixture = try await ServiceFixture.paired()
        let copy = try TemporaryDirectory()
        try FileManager.default.copyItem(atPath: fixture.directory.file("state"), toPath: copy.file("state"))
        let plane = FakeDataPlane()
        let address = FrontEndAddress.nbdTCP(host: "127.0.0.1", port: 10809)
        let service = try ReplicationService(
            plane: plane,
            state: StateDirectory(path: FilePath(copy.file("state"))),
            settings: .init(frontEnds: [address]),
            logger: .silent
        )
        try await service.start()
        #expect(plane.calls.last == .listen(address))
        #expect(try await service.daemon().frontEnds == ["nbd://127.0.0.1:10809"])
    }

    @Test func aCopyThatWasRunningGoesOn() async throws {
        let fixture = try await ServiceFixture.paired()
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(after.plane.calls.last == .addPair("m1", isNew: false))
        #expect(try await after.pair().requestedCopyState == Enumerated(CopyState.synchronized))
    }

    @Test func aMissingElementIsShownAndRetried() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        let source = fixture.directory.file("source")
        let after = try fixture.afterKill()
        after.plane.breakElement(source)
        try await after.service.start()
        let volume = try await after.service.volume(named: "db1")
        #expect(volume.status == Enumerated(OperationalStatus.error))
        #expect(volume.reason?.hasPrefix("cannot open \(source): it is on fire; mend that") == true)
        #expect(try await after.pair().reason?.contains("is on fire") == true)
        let still = await refusal { try await after.service.retryVolume(named: "db1") }
        #expect(still?.code == .elementUnavailable)
        after.plane.mendElement(source)
        #expect(try await after.service.retryVolume(named: "db1").status == Enumerated(OperationalStatus.okay))
        // A host could have written between the opening of the volume and that of the pair.
        #expect(try await after.pair().copyState == Enumerated(CopyState.unsynchronized))
        #expect(try !after.record().isTargetConsistent)
    }

    /// Starts a pair that was Synchronized, with a target that cannot be opened.
    ///
    /// Its files are `fixture`'s, and gone with it.
    private func startedWithoutTarget(
        _ fixture: ServiceFixture
    ) async throws -> (after: ServiceFixture, target: String) {
        fixture.plane.become(.synchronized)
        let target = fixture.directory.file("target")
        let after = try fixture.afterKill()
        after.plane.breakElement(target)
        try await after.service.start()
        return (after, target)
    }

    @Test func aVolumeServedWithoutItsPairMakesThatPairDoubtful() async throws {
        let fixture = try await ServiceFixture.paired()
        let (after, target) = try await startedWithoutTarget(fixture)
        #expect(try await after.service.volume(named: "db1").status == Enumerated(OperationalStatus.degraded))
        let pair = try await after.pair()
        #expect(pair.copyState == Enumerated(CopyState.broken))
        #expect(pair.reason?.contains("it is on fire") == true)
        let record = try after.record()
        #expect(record.copyState == CopyState.suspended.rawValue && record.isTargetConsistent)
        #expect(!record.isClosedCleanly && record.mapTrust == .none)
        after.plane.mendElement(target)
        let reply = try await after.set(.name("ResyncReplica"))
        #expect(reply.returnCode == Enumerated(ReturnCode.jobStarted))
        #expect(try await after.service.job(id: #require(reply.job)).operation == Enumerated(.resume))
        #expect(try await after.pair().copyState == Enumerated(CopyState.unsynchronized))
        #expect(try !after.record().isTargetConsistent, "half copied, it is no image that could be used")
    }

    /// Until it is copied to again, the target is what it was: an older image, which can be had by force.
    @Test func aTargetThatWasLeftBehindIsAUsableImage() async throws {
        let fixture = try await ServiceFixture.paired()
        let (after, target) = try await startedWithoutTarget(fixture)
        after.plane.mendElement(target)
        #expect(await refusal { try await after.set(.name("Failover")) }?.code == .needsForce)
        let reply = try await after.set(.name("Failover"), force: true)
        #expect(reply.returnCode == Enumerated(ReturnCode.jobStarted))
        #expect(after.plane.calls.suffix(2) == [.addPair("m1", isNew: false), .operate(.failover)])
    }

    @Test func aTargetThatWasLeftBehindCatchesUpByItselfAtTheNextStart() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        let without = try fixture.afterKill()
        without.plane.breakElement(fixture.directory.file("target"))
        try await without.service.start()
        let after = try without.afterKill()
        try await after.service.start()
        #expect(after.plane.calls.suffix(2) == [.addPair("m1", isNew: false), .operate(.resume)])
        #expect(try await after.pair().copyState == Enumerated(CopyState.unsynchronized))
        #expect(try !after.record().isTargetConsistent)
    }

    /// What was half copied when its volume was served without it has no image; the copy that goes on has a job.
    @Test(arguments: [ReplicationOperation.activate, nil])
    func aHalfCopiedTargetIsCopiedToAgain(under operation: ReplicationOperation?) async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.setFacts { $0.operation = operation }
        let target = fixture.directory.file("target")
        let after = try fixture.afterKill()
        after.plane.breakElement(target)
        try await after.service.start()
        #expect(try after.record().copyState == CopyState.unsynchronized.rawValue && !after.record().isTargetConsistent)
        after.plane.mendElement(target)
        let reply = try await after.set(.name("ResyncReplica"))
        #expect(reply.returnCode == Enumerated(ReturnCode.jobStarted))
        let job = try await after.service.job(id: #require(reply.job))
        #expect(job.operation == Enumerated(operation ?? .resyncReplica))
    }

    /// A record that cannot be changed goes on saying "clean": then no host may write.
    @Test func aVolumeIsNotServedWithoutAPairWhoseRecordCannotBeRead() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        let after = try fixture.afterKill()
        let path = try after.metadataPath()
        after.plane.breakElement(fixture.directory.file("target"))
        after.plane.beforeEachCall { call in
            guard case .addPair = call else { return }
            // A directory can be opened, and reading it fails.
            try? FileManager.default.moveItem(atPath: path, toPath: path + ".kept")
            try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
        }
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == nil)
        #expect(try await after.service.volume(named: "db1").reason?.contains("cannot read the pair metadata") == true)
        let still = await refusal { try await after.service.retryVolume(named: "db1") }
        #expect(still?.description.contains("cannot read the pair metadata") == true)
        let again = try after.afterKill()
        try await again.service.start()
        #expect(again.plane.calls.isEmpty)
        let error = await refusal { try await again.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        _ = try await again.set(.name("Detach"), force: true)
        #expect(again.plane.servingPath("db1") == fixture.directory.file("source"))
    }

    @Test func onlyAMissingOrShortRecordIsLost() throws {
        let directory = try TemporaryDirectory()
        #expect(throws: PairMetadata.ReadError.self) { try PairMetadata.read(MetadataPlace(file: directory.path)) }
        let nothing = PairRecordRecovery.lost(.truncated(byteCount: 0), .truncated(byteCount: 0))
        #expect(try PairMetadata.read(MetadataPlace(file: directory.file("missing"))) == nothing)
    }

    /// A kill before each step of the creation: the pair is there as a whole, or not at all.
    @Test func aPairIsNeverHalfMade() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let source = try fixture.directory.element("source")
        let target = try fixture.directory.element("target")
        _ = try await fixture.service.addVolume(VolumeAddRequest(name: "db1", elementPath: source))
        let killed = Killed()
        let state = fixture.directory.file("state")
        fixture.plane.beforeEachCall { call in killed.snapshot(state, "before \(call)") }
        await fixture.service.observeRegistryWrites { step in killed.snapshot(state, "registry \(step)") }
        _ = try await fixture.service.createPair(PairCreateRequest(sourceVolume: "db1", targetPath: target, name: "m1"))
        let create = killed.take()
        #expect(create.count >= 9)
        var counts: [Int] = []
        for (directory, moment) in create {
            let after = try ServiceFixture(in: directory)
            try await after.service.start()
            let pairs = try await after.service.pairList()
            counts.append(pairs.count)
            for pair in pairs { #expect(pair.reason == nil, "\(moment)") }
            #expect(try await after.service.volume(named: "db1").reason == nil, "\(moment)")
        }
        #expect(counts == counts.sorted() && counts.first == 0 && counts.last == 1)
        _ = try await fixture.set(.name("Detach"), force: true)
        var detached: [Int] = []
        for (directory, _) in killed.take() {
            let after = try ServiceFixture(in: directory)
            try await after.service.start()
            detached.append(try await after.service.pairList().count)
        }
        #expect(detached == detached.sorted(by: >) && detached.first == 1 && detached.last == 0)
    }

    @Test func aRegistryThatCannotBeWrittenChangesNothing() async throws {
        let fixture = try await ServiceFixture.paired()
        let other = try fixture.directory.element("other")
        await fixture.service.observeRegistryWrites { _ in throw Errno.noSpace }
        let request = PairCreateRequest(sourceVolume: "db1", targetPath: other, name: "m2")
        let error = await refusal { try await fixture.service.createPair(request) }
        #expect(error?.code == .stateDirectory)
        #expect(try await fixture.service.pairList().map(\.name) == ["m1"])
        #expect(fixture.plane.calls.last == .detachPair)
        #expect(await refusal { try await fixture.set(.name("Detach"), force: true) } != nil)
        #expect(try await fixture.pair().reason == nil)
    }
}
