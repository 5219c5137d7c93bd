import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldFormat
import RepldPair
import SystemPackage
import Testing

/// An element that is not what it was at the last start, and a registry that cannot be written at this one.
@Suite struct ReplacedTests {
    /// What lies in an element's place.
    enum Change: CaseIterable { case none, renamedAndBack, grown, shrunk, copied, overwrittenByRename }

    private func source(_ fixture: ServiceFixture) -> String { fixture.directory.file("source") }
    private func target(_ fixture: ServiceFixture) -> String { fixture.directory.file("target") }

    private func synchronized() async throws -> ServiceFixture {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        return fixture
    }

    private func make(_ change: Change, of path: String) throws {
        let files = FileManager.default
        let size = try #require(try files.attributesOfItem(atPath: path)[.size] as? UInt64)
        switch change {
        case .none: break
        case .renamedAndBack:
            try files.moveItem(atPath: path, toPath: path + ".kept")
            try files.moveItem(atPath: path + ".kept", toPath: path)
        case .grown, .shrunk:
            let file = try FileDescriptor.open(FilePath(path), .readWrite)
            try file.resize(to: Int64(change == .grown ? size * 2 : size / 2))
            try file.close()
        case .copied:
            // The inode of the one that is gone may be used again at once.
            try files.removeItem(atPath: path)
            try DurableFile.createSparse(FilePath(path), byteCount: size)
        case .overwrittenByRename:
            try DurableFile.createSparse(FilePath(path + ".new"), byteCount: size)
            try files.removeItem(atPath: path)
            try files.moveItem(atPath: path + ".new", toPath: path)
        }
    }

    private func record(in state: TemporaryDirectory) throws -> PairRecord {
        let directory = state.file("state/pairs")
        let name = try #require(try FileManager.default.contentsOfDirectory(atPath: directory).first)
        return try #require(try PairMetadata.read(MetadataPlace(file: "\(directory)/\(name)")).record)
    }

    @Test(arguments: Change.allCases)
    func aSourceIsServedOnlyIfItIsWhatItWas(change: Change) async throws {
        let fixture = try await synchronized()
        try make(change, of: source(fixture))
        let after = try fixture.afterKill()
        try await after.service.start()
        let reason = try await after.service.volume(named: "db1").reason
        switch change {
        case .none, .renamedAndBack, .grown:
            #expect(reason == nil && after.plane.servingPath("db1") == source(fixture))
            // What has grown does not make the volume grow: the target has not.
            #expect(try await after.service.volume(named: "db1").byteCount == 1 << 20)
            #expect(try await after.pair().copyState == Enumerated(CopyState.synchronized))
        case .shrunk:
            #expect(reason?.contains("has become too small") == true && after.plane.calls.isEmpty)
        case .copied, .overwrittenByRename:
            #expect(reason?.contains("is not the element that served the volume") == true)
            #expect(reason?.contains("'replctl set m1 Detach' says what is lost") == true && after.plane.calls.isEmpty)
        }
    }

    @Test func forceAcceptsAReplacedSource() async throws {
        let fixture = try await synchronized()
        try make(.overwrittenByRename, of: source(fixture))
        let after = try fixture.afterKill()
        try await after.service.start()
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        #expect(error?.message.contains("\(target(fixture)), which may be the last good copy") == true)
        let still = await refusal { try await after.service.retryVolume(named: "db1") }
        #expect(still?.code == .elementUnavailable)
        _ = try await after.set(.name("Detach"), force: true)
        #expect(after.plane.servingPath("db1") == source(fixture))
        let again = try after.afterKill()
        try await again.service.start()
        #expect(again.plane.servingPath("db1") == source(fixture), "it was accepted for good")
    }

    /// What lies in the source's place is not copied over targets that may be good copies before somebody says so.
    @Test func forceForOnePairOverwritesNoOthersTarget() async throws {
        let fixture = try await ServiceFixture.paired()
        try await fixture.addOtherPair()
        fixture.plane.become(.synchronized)
        try make(.overwrittenByRename, of: source(fixture))
        let after = try fixture.afterKill()
        try await after.service.start()
        let error = await refusal { try await after.set(.name("Detach")) }
        let words = "pair 'm2' stays Suspended until Resume, which overwrites \(fixture.directory.file("other"))"
        #expect(error?.message.contains(words) == true)
        _ = try await after.set(.name("Detach"), force: true)
        #expect(after.plane.servingPath("db1") == source(fixture))
        let again = try after.afterKill()
        try await again.service.start()
        for started in [after, again] {
            #expect(try await started.pair("m2").copyState == Enumerated(CopyState.suspended))
            #expect(try started.record("m2").isTargetConsistent, "it is the image that it was")
            #expect(!started.plane.calls.contains(.operate(.resume)))
        }
    }

    @Test func forceGivesUpAMissingSourceForTheTarget() async throws {
        let fixture = try await synchronized()
        try FileManager.default.removeItem(atPath: source(fixture))
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(try await after.service.volume(named: "db1").reason?.contains("'replctl set m1 Detach'") == true)
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        #expect(error?.message.contains("would go on with \(target(fixture)), which was in sync") == true)
        _ = try await after.set(.name("Detach"), force: true)
        #expect(after.plane.servingPath("db1") == target(fixture))
        // It is back, and no longer what counts.
        try DurableFile.createSparse(FilePath(source(fixture)), byteCount: 1 << 20)
        let again = try after.afterKill()
        try await again.service.start()
        #expect(again.plane.servingPath("db1") == target(fixture))
        #expect(again.plane.opening("db1")?.byteCount == 1 << 20 && again.plane.opening("db1")?.blockByteCount == 4096)
    }

    @Test(arguments: [Change.none, .overwrittenByRename, .shrunk])
    func aTargetThatIsNoImageDoesNotTakeTheSourcesPlace(change: Change) async throws {
        let fixture = try await ServiceFixture.paired()
        if change != .none { fixture.plane.become(.synchronized) }
        try make(change, of: target(fixture))
        try FileManager.default.removeItem(atPath: source(fixture))
        let after = try fixture.afterKill()
        try await after.service.start()
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        #expect(error?.message.contains("would be left with \(source(fixture))") == true)
        _ = try await after.set(.name("Detach"), force: true)
        #expect(after.plane.servingPath("db1") == nil)
        #expect(try await after.service.volume(named: "db1").elementPath == source(fixture))
        #expect(try await after.service.pairList().isEmpty)
    }

    /// What keeps the volume from being served is another pair's, and nobody has looked at its own element.
    @Test func aPairOfAVolumeThatIsNotServedIsGivenUpByForceOnly() async throws {
        let fixture = try await ServiceFixture.paired()
        try await fixture.addOtherPair()
        fixture.plane.become(.synchronized)
        try FileManager.default.removeItem(atPath: source(fixture))
        let after = try fixture.afterKill()
        try Data(count: 8192).write(to: URL(filePath: after.metadataPath()))
        try await after.service.start()
        let error = await refusal { try await after.set(.name("Detach"), pair: "m2") }
        #expect(error?.code == .needsForce)
        #expect(error?.message.contains("\(fixture.directory.file("other")), which may be the last good copy") == true)
        // The one in the way first, and then the other one's target is what is left.
        _ = try await after.set(.name("Detach"), force: true)
        _ = try await after.set(.name("Detach"), pair: "m2", force: true)
        #expect(after.plane.servingPath("db1") == fixture.directory.file("other"))
    }

    /// The data plane writes the records of the pairs that it has.
    @Test func forceForOnePairLeavesTheRecordsOfAttachedPairsAlone() async throws {
        let fixture = try await ServiceFixture.paired()
        try await fixture.addOtherPair()
        fixture.plane.become(.synchronized)
        let after = try fixture.afterKill()
        after.plane.breakElement(target(fixture))
        try await after.service.start()
        try Data(count: 8192).write(to: URL(filePath: after.metadataPath()))
        let before = try after.record("m2")
        _ = try await after.set(.name("Detach"), force: true)
        #expect(try after.record("m2") == before && before.copyState == CopyState.synchronized.rawValue)
    }

    @Test func aReplacedSecondElementThatServedIsNotServed() async throws {
        let fixture = try await synchronized()
        _ = try await fixture.set(.name("Failover"))
        try await fixture.following { fixture.plane.finish() }
        try make(.copied, of: target(fixture))
        let after = try fixture.afterKill()
        try await after.service.start()
        let reason = try await after.service.volume(named: "db1").reason
        #expect(reason?.contains("\(target(fixture)) is not the element that served") == true)
        #expect(after.plane.calls.isEmpty)
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.message.contains("is not the element that served") == true)
    }

    @Test(arguments: Change.allCases)
    func nothingIsKnownOfAReplacedTarget(change: Change) async throws {
        let fixture = try await synchronized()
        try make(change, of: target(fixture))
        let after = try fixture.afterKill()
        let killed = Killed()
        let state = after.directory.file("state")
        after.plane.beforeEachCall { call in
            if case .addPair = call { killed.snapshot(state, "addPair") }
        }
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == source(fixture))
        let pair = try await after.pair()
        let isTold = await after.service.events(after: 0).contains { $0.kind == "target-replaced" }
        switch change {
        case .none, .renamedAndBack, .grown:
            #expect(pair.copyState == Enumerated(CopyState.synchronized) && !isTold)
        case .shrunk:
            #expect(pair.copyState == Enumerated(CopyState.broken) && pair.reason?.contains(target(fixture)) == true)
        case .copied, .overwrittenByRename:
            #expect(pair.copyState == Enumerated(CopyState.broken) && isTold)
            #expect(pair.reason?.contains("is not the target that the pair had") == true)
            let attached = try #require(killed.take().last { $0.1 == "addPair" })
            let record = try record(in: attached.0)
            #expect(!record.isClosedCleanly && record.mapTrust == .none && !record.isTargetConsistent)
            let again = try after.afterKill()
            try await again.service.start()
            #expect(await again.service.events(after: 0).contains { $0.kind == "target-replaced" } == false)
            #expect(try await again.pair().copyState == Enumerated(CopyState.broken), "it was not overwritten")
            #expect(try await again.pair().reason?.contains("is not the target that the pair had") == true)
            try await again.following {
                _ = try await again.set(.name("ResyncReplica"))
                again.plane.finish()
            }
            let accepted = try Registry(path: FilePath(again.directory.file("state/registry.json"))).content
            #expect(try await again.pair().reason == nil && accepted.pairs[0].replacement == nil)
        }
    }

    /// A target that was missing: what lies there when it is asked for may be somebody else's.
    @Test func aLateTargetThatIsAnotherOneIsOverwrittenByForceOnly() async throws {
        let fixture = try await synchronized()
        try FileManager.default.moveItem(atPath: target(fixture), toPath: target(fixture) + ".kept")
        let after = try fixture.afterKill()
        try await after.service.start()
        try DurableFile.createSparse(FilePath(target(fixture)), byteCount: 1 << 20)
        let error = await refusal { try await after.set(.name("ResyncReplica")) }
        #expect(error?.code == .needsForce && error?.message.contains("is not the target that the pair had") == true)
        #expect(try await after.pair().copyState == Enumerated(CopyState.broken))
        #expect(try await after.set(.name("ResyncReplica"), force: true).job != nil)
    }

    /// Nothing came of another target that does not fit: the right one is still a usable image.
    @Test func aTargetThatDoesNotFitIsNotTakenForThePairs() async throws {
        let fixture = try await synchronized()
        let path = target(fixture)
        try FileManager.default.moveItem(atPath: path, toPath: path + ".kept")
        try DurableFile.createSparse(FilePath(path), byteCount: 1 << 19)
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(try await after.pair().reason?.contains("the target has 524288 bytes") == true)
        #expect(try after.record().isTargetConsistent && after.record().copyState == CopyState.suspended.rawValue)
        try FileManager.default.removeItem(atPath: path)
        try FileManager.default.moveItem(atPath: path + ".kept", toPath: path)
        let again = try after.afterKill()
        try await again.service.start()
        #expect(again.plane.calls.last == .operate(.resume))
    }

    /// After a failover the target serves: it is no worse when the other one was replaced.
    @Test func aReplacedFirstElementTakesNothingFromTheServingOne() async throws {
        let fixture = try await synchronized()
        _ = try await fixture.set(.name("Failover"))
        try await fixture.following { fixture.plane.finish() }
        try make(.overwrittenByRename, of: source(fixture))
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == target(fixture))
        #expect(await after.service.events(after: 0).contains { $0.kind == "target-replaced" })
        #expect(try await after.pair().copyState == Enumerated(CopyState.failedover))
        #expect(try after.record().isTargetConsistent && after.record().mapTrust == .none)
    }

    /// A registry of an older daemon: what is there now is what the elements are.
    @Test func whatIsNotKnownIsNotedAtTheFirstStart() async throws {
        let fixture = try await synchronized()
        let copy = try fixture.afterKill()
        var registry = try Registry(path: FilePath(copy.directory.file("state/registry.json")))
        try registry.commit { content in
            content.volumes[0].mark = nil
            content.pairs[0].mark = nil
        }
        try make(.overwrittenByRename, of: source(fixture))
        let after = try copy.afterKill()
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == source(fixture))
        let noted = try Registry(path: FilePath(after.directory.file("state/registry.json"))).content
        #expect(noted.volumes[0].mark != nil && noted.volumes[0].mark == ElementMark.find(source(fixture)))
        #expect(noted.pairs[0].mark != nil && noted.pairs[0].mark == ElementMark.find(target(fixture)))
    }

    /// Where nothing can be written down, everything is served all the same, and no revision is shown twice.
    @Test func aFullStateDirectoryKeepsNobodyFromStarting() async throws {
        let fixture = try await synchronized()
        let before = try await fixture.pair().revision
        let after = try fixture.afterKill()
        await after.service.observeRegistryWrites { _ in throw Errno.noSpace }
        try await after.service.start()
        #expect(after.plane.servingPath("db1") == source(fixture))
        let shown = try await after.pair().revision
        #expect(shown > before + 1_000_000, "no run that could reserve comes there")
        #expect(await after.service.events(after: 0).contains { $0.kind == "registry-not-written" })
        await after.service.observeRegistryWrites { _ in }
        _ = try await after.set(.name("Suspend"))
        let again = try after.afterKill()
        try await again.service.start()
        #expect(try await again.pair().revision > shown)
    }

    @Test func aRecordIsReplacedInItsPlace() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("area.meta")
        var record = PairRecord(
            sequence: 1,
            pair: .init(high: 1, low: 2),
            volumeByteCount: 1 << 20,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        record.mapTrust = .exact
        try PairMetadata.write(record, to: MetadataPlace(file: path))
        let file = try FileDescriptor.open(FilePath(path), .readWrite)
        try file.writeAll(toAbsoluteOffset: 8192, Array(repeating: UInt8(7), count: 8192))
        try file.close()
        let before = ElementMark.find(path)
        try PairMetadata.forgetCleanClose(of: record.pair, at: MetadataPlace(file: path))
        #expect(ElementMark.find(path) == before, "it is the same file")
        let now = try #require(try PairMetadata.read(MetadataPlace(file: path)).record)
        #expect(now.sequence == 3 && !now.isClosedCleanly && now.mapTrust == .none)
        let bytes = try Data(contentsOf: URL(filePath: path))
        #expect(bytes.count == 16384 && bytes[8192...].allSatisfy { $0 == 7 })
    }
}
