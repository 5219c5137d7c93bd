import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldFormat
import RepldPair
import SystemPackage
import Testing

/// What Dissolve leaves, and what a later pair makes of it.
@Suite struct AspectTests {
    private func dissolved() async throws -> ServiceFixture {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        #expect(try await fixture.set(.name("Dissolve")) == MethodReply(returnCode: .success))
        return fixture
    }

    private func pairAgain(_ fixture: ServiceFixture, activates: Bool = true) async throws {
        let target = fixture.directory.file("target")
        _ = try await fixture.service.createPair(
            PairCreateRequest(sourceVolume: "db1", targetPath: target, name: "m2", activates: activates)
        )
    }

    @Test func isKeptWithWhatThePairWas() async throws {
        let fixture = try await dissolved()
        #expect(fixture.plane.calls.last == .detachPair)
        #expect(try await fixture.service.pairList().isEmpty)
        let aspect = try #require(await fixture.service.aspectList().first)
        #expect(aspect.name == "m1" && aspect.isTargetConsistent && aspect.byteCount == 1 << 20)
        #expect(aspect.copyState == Enumerated(CopyState.synchronized))
        #expect(aspect.sourcePath == fixture.directory.file("source"))
        #expect(aspect.targetPath == fixture.directory.file("target"))
        let after = try fixture.afterKill()
        #expect(await after.service.aspectList().map(\.pair) == [aspect.pair])
    }

    @Test func aLaterPairComparesAndUsesItUp() async throws {
        let fixture = try await dissolved()
        try await pairAgain(fixture)
        #expect(fixture.plane.calls.suffix(2) == [.addPair("m2", isNew: false), .operate(.activate)])
        #expect(await fixture.service.aspectList().isEmpty)
        let event = await fixture.service.events(after: 0).first { $0.kind == "aspect-found" }
        #expect(event?.message.contains("were pair 'm1' until") == true)
        #expect(event?.message.contains("compared") == true)
    }

    /// The record that the data plane finds: not clean, so that nothing counts as equal, and not new, so that it compares.
    @Test func theNewPairsRecordSaysNothingIsKnown() async throws {
        let fixture = try await dissolved()
        let seen = LockedList()
        let state = fixture.directory.file("state")
        fixture.plane.beforeEachCall { call in
            guard case .addPair = call, let copy = try? TemporaryDirectory() else { return }
            try? FileManager.default.copyItem(atPath: state, toPath: copy.file("state"))
            seen.append((copy, "addPair"))
        }
        try await pairAgain(fixture, activates: false)
        let (directory, _) = try #require(seen.takeAll().first)
        let name = try #require(
            try FileManager.default.contentsOfDirectory(atPath: directory.file("state/pairs")).first
        )
        guard
            case .found(let record) = try PairMetadata.read(MetadataPlace(file: directory.file("state/pairs/\(name)")))
        else {
            Issue.record("no record")
            return
        }
        #expect(record.copyState == CopyState.inactive.rawValue && !record.isClosedCleanly)
        #expect(record.volumeByteCount == 1 << 20 && record.volumeBlockByteCount == 4096)
        #expect(!record.isSecondPrimary && !record.isSecondSource)
        #expect(fixture.plane.calls.last == .addPair("m2", isNew: false))
        #expect(try await fixture.pair("m2").copyState == Enumerated(CopyState.inactive))
    }

    @Test func theOtherWayRoundItIsFoundAsWell() async throws {
        let fixture = try await dissolved()
        try await fixture.service.removeVolume(named: "db1", isForced: false)
        let request = VolumeAddRequest(name: "db2", elementPath: fixture.directory.file("target"))
        _ = try await fixture.service.addVolume(request)
        _ = try await fixture.service.createPair(
            PairCreateRequest(sourceVolume: "db2", targetPath: fixture.directory.file("source"), name: "m2")
        )
        #expect(fixture.plane.calls.contains(.addPair("m2", isNew: false)))
    }

    @Test func anotherElementIsCopiedBlindly() async throws {
        let fixture = try await dissolved()
        let other = try fixture.directory.element("other")
        _ = try await fixture.service.createPair(PairCreateRequest(sourceVolume: "db1", targetPath: other, name: "m2"))
        #expect(fixture.plane.calls.contains(.addPair("m2", isNew: true)))
        #expect(await fixture.service.aspectList().count == 1)
    }

    @Test func theOldestGo() {
        var content = RegistryContent()
        for number in 0..<UInt64(RegistryContent.aspectLimit + 3) {
            content.keep(
                SynchronizationAspect(
                    pair: PairID(high: 0, low: number),
                    name: "m\(number)",
                    sourcePath: "/a",
                    targetPath: "/b",
                    dissolvedAt: Date(timeIntervalSince1970: 0),
                    copyState: .split,
                    isTargetConsistent: true,
                    byteCount: 4096
                )
            )
        }
        #expect(content.aspects.count == RegistryContent.aspectLimit)
        #expect(content.aspects.first?.name == "m3")
    }

    /// A kill at each step of a Dissolve: the pair, or its aspect, and never both or neither.
    @Test func aDissolveIsOneStep() async throws {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        let killed = Killed()
        let state = fixture.directory.file("state")
        await fixture.service.observeRegistryWrites { step in killed.snapshot(state, "registry \(step)") }
        _ = try await fixture.set(.name("Dissolve"))
        let moments = killed.take()
        #expect(moments.count >= DurableFile.Step.allCases.count)
        for (directory, moment) in moments {
            let after = try ServiceFixture(in: directory)
            try await after.service.start()
            let pairs = try await after.service.pairList().count
            #expect(pairs + (await after.service.aspectList().count) == 1, "\(moment)")
        }
    }
}

/// The properties of a pair that the standard has.
@Suite struct PairPropertyTests {
    @Test func timesAreKeptWithTheStateAndOverARestart() async throws {
        let fixture = try await ServiceFixture.paired()
        try await fixture.following {
            fixture.plane.become(.synchronized)
            fixture.plane.become(.suspended)
        }
        let pair = try await fixture.pair()
        let activated = try #require(pair.whenActivated)
        let synchronized = try #require(pair.whenSynchronized)
        let suspended = try #require(pair.whenSuspended)
        let synced = try #require(pair.whenSynced)
        #expect(activated <= synchronized && synchronized <= synced && synced <= suspended)
        #expect(pair.whenDeactivated == nil)
        #expect(pair.whenEstablished == pair.createdAt)
        let after = try fixture.afterKill()
        try await after.service.start()
        // The file keeps milliseconds.
        let kept = try #require(try await after.pair().whenSuspended)
        #expect(abs(kept.timeIntervalSince(suspended)) < 0.001)
    }

    @Test func aPointInTimeIsWhereEqualityEnded() {
        let start = Date(timeIntervalSince1970: 1000)
        var times = PairTimes()
        let hasBegun = times.note(from: .initialized, to: .unsynchronized, at: start)
        #expect(hasBegun)
        #expect(times.activated == start && times.synced == nil)
        let isBrokenNoted = times.note(from: .unsynchronized, to: .broken, at: start)
        #expect(!isBrokenNoted)
        _ = times.note(from: .unsynchronized, to: .synchronized, at: start + 1)
        #expect(times.synchronized == start + 1 && times.synced == start + 1)
        _ = times.note(from: .synchronized, to: .split, at: start + 2)
        #expect(times.synchronized == start + 1 && times.synced == start + 2)
        _ = times.note(from: .split, to: .inactive, at: start + 3)
        #expect(times.deactivated == start + 3 && times.synced == start + 2)
    }

    @Test func whatIsUnderWayIsShown() async throws {
        let fixture = try await ServiceFixture.paired()
        var pair = try await fixture.pair()
        #expect(pair.operation == Enumerated(ReplicationOperation.activate))
        #expect(pair.requestedCopyState == Enumerated(CopyState.synchronized))
        #expect(pair.syncState == Enumerated(SyncState.copyInProgress) && pair.syncMaintained)
        fixture.plane.become(.synchronized)
        _ = try await fixture.set(.name("Failover"))
        pair = try await fixture.pair()
        #expect(pair.requestedCopyState == Enumerated(CopyState.failedover))
        #expect(pair.progressStatus == Enumerated(ProgressStatus.failingOver))
        fixture.plane.finish()
        _ = try await fixture.set(.name("Failback"))
        pair = try await fixture.pair()
        #expect(pair.copyState == Enumerated(CopyState.failedover) && !pair.syncMaintained)
        #expect(pair.requestedCopyState == Enumerated(CopyState.synchronized))
        fixture.plane.finish()
        pair = try await fixture.pair()
        #expect(pair.requestedCopyState == .notApplicable && pair.operation == nil)
        #expect([pair.mode, pair.syncType, pair.replicaType].map(\.number) == [2, 6, 2])
        #expect([pair.copyMethodology, pair.copyRecoveryMode].map { $0?.number } == [4, 3])
    }

    @Test(
        arguments: [
            (CopyState.initialized, 2), (.unsynchronized, 5), (.synchronized, 6), (.broken, 12), (.fractured, 13),
            (.split, 13), (.inactive, 14), (.suspended, 9), (.failedover, 12), (.prepared, 4), (.aborted, 12),
            (.skewed, 12), (.partitioned, 12), (.invalid, 12), (.restored, 6),
        ]
    )
    func theOlderSyncState(state: CopyState, number: Int) {
        #expect(SyncState.state(of: state, nil).rawValue == number)
    }

    @Test func theOlderSyncStateSaysWhatIsUnderWay() {
        #expect(SyncState.state(of: .unsynchronized, .activate) == .copyInProgress)
        #expect(SyncState.state(of: .unsynchronized, .resume) == .resyncInProgress)
        #expect(SyncState.state(of: .split, .restoreFromReplica) == .restoreInProgress)
        #expect(SyncState.state(of: .failedover, .failback) == .restoreInProgress)
        #expect(SyncState.state(of: .synchronized, .split) == .fractureInProgress)
    }
}
