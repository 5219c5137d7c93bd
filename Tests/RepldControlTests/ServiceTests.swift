import Foundation
import RepldControl
import RepldControlAPI
import RepldPair
import Testing

@Suite struct VolumeTests {
    @Test func isAddedShownAndRemoved() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let element = try fixture.directory.element("source")
        let added = try await fixture.service.addVolume(VolumeAddRequest(name: "db1", elementPath: element))
        #expect(added.status == Enumerated(OperationalStatus.okay))
        #expect(added.byteCount == 1 << 20)
        #expect(try await fixture.service.volumeList() == [added])
        try await fixture.service.removeVolume(named: "db1", isForced: false)
        #expect(try await fixture.service.volumeList().isEmpty)
        #expect(FileManager.default.fileExists(atPath: element))
    }

    @Test func makesItsElement() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let path = fixture.directory.file("new")
        let request = VolumeAddRequest(name: "db1", elementPath: path, createByteCount: 8192)
        #expect(try await fixture.service.addVolume(request).byteCount == 8192)
        let again = VolumeAddRequest(name: "db2", elementPath: path + "2", createByteCount: 100)
        #expect(await refusal { try await fixture.service.addVolume(again) }?.code == .invalidSettings)
    }

    @Test func aMadeElementGoesAwayWithTheRefusal() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let path = fixture.directory.file("new")
        fixture.plane.breakElement(path)
        let request = VolumeAddRequest(name: "db1", elementPath: path, createByteCount: 8192)
        #expect(await refusal { try await fixture.service.addVolume(request) }?.code == .elementUnavailable)
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test(arguments: ["", ".hidden", "-dash", "a b", "a/b", "é", String(repeating: "a", count: 65)])
    func refusesTheName(name: String) async throws {
        let fixture = try ServiceFixture()
        let request = VolumeAddRequest(name: name, elementPath: "/nowhere")
        #expect(await refusal { try await fixture.service.addVolume(request) }?.code == .invalidName)
    }

    @Test func refusesWhatIsTaken() async throws {
        let fixture = try await ServiceFixture.paired()
        let service = fixture.service
        let other = try fixture.directory.element("other")
        let link = fixture.directory.file("link")
        try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: fixture.directory.file("source"))
        let sameName = VolumeAddRequest(name: "db1", elementPath: other)
        #expect(await refusal { try await service.addVolume(sameName) }?.code == .nameInUse)
        let sameElement = VolumeAddRequest(name: "db2", elementPath: link)
        #expect(await refusal { try await service.addVolume(sameElement) }?.code == .elementInUse)
        let target = VolumeAddRequest(name: "db2", elementPath: fixture.directory.file("target"))
        #expect(await refusal { try await service.addVolume(target) }?.code == .elementInUse)
        let relative = VolumeAddRequest(name: "db2", elementPath: "other")
        #expect(await refusal { try await service.addVolume(relative) }?.code == .invalidRequest)
    }

    @Test func isNotRemovedFromUnderPairsOrClients() async throws {
        let fixture = try await ServiceFixture.paired(activates: false)
        let service = fixture.service
        let hasPairs = await refusal { try await service.removeVolume(named: "db1", isForced: true) }
        #expect(hasPairs?.code == .volumeHasPairs)
        _ = try await fixture.set(.name("Detach"))
        fixture.plane.connectClients(2, to: "db1")
        let inUse = await refusal { try await service.removeVolume(named: "db1", isForced: false) }
        #expect(inUse?.code == .volumeInUse)
        #expect(inUse?.message.contains("2 clients") == true)
        try await service.removeVolume(named: "db1", isForced: true)
        let gone = await refusal { try await service.volume(named: "db1") }
        #expect(gone?.code.returnCode == .objectNotFound)
    }
}

@Suite struct PairTests {
    @Test func isCreatedCopiedAndShown() async throws {
        let fixture = try await ServiceFixture.paired()
        let copying = try await fixture.pair()
        #expect(copying.copyState == Enumerated(CopyState.unsynchronized))
        #expect(copying.requestedCopyState == Enumerated(CopyState.synchronized))
        #expect(copying.percentSynced == 0)
        #expect(copying.job?.operation == Enumerated(ReplicationOperation.activate))
        fixture.plane.become(.synchronized)
        let done = try await fixture.pair()
        #expect(done.copyState == Enumerated(CopyState.synchronized))
        #expect(done.percentSynced == 100)
        #expect(done.requestedCopyState == .notApplicable)
    }

    @Test func hasANameByDefaultAndMakesItsTarget() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let source = try fixture.directory.element("source")
        _ = try await fixture.service.addVolume(VolumeAddRequest(name: "db1", elementPath: source))
        for expected in ["db1-mirror", "db1-mirror-2"] {
            let path = fixture.directory.file(expected)
            let request = PairCreateRequest(sourceVolume: "db1", targetPath: path, createsTarget: true)
            #expect(try await fixture.service.createPair(request).name == expected)
        }
    }

    @Test func aTargetThatIsTooSmallIsRefusedAndLeavesNothing() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let source = try fixture.directory.element("source")
        let target = try fixture.directory.element("target", byteCount: 4096)
        _ = try await fixture.service.addVolume(VolumeAddRequest(name: "db1", elementPath: source))
        let request = PairCreateRequest(sourceVolume: "db1", targetPath: target)
        let error = await refusal { try await fixture.service.createPair(request) }
        #expect(error?.message.contains("the target has 4096 bytes, the volume 1048576") == true)
        #expect(try await fixture.service.pairList().isEmpty)
        #expect(try FileManager.default.contentsOfDirectory(atPath: fixture.directory.file("state/pairs")).isEmpty)
    }

    @Test(arguments: [0, 4095, 2048, 2 << 20, 65537])
    func refusesTheGranule(byteCount: UInt32) async throws {
        let fixture = try await ServiceFixture.paired()
        let other = try fixture.directory.element("other")
        var request = PairCreateRequest(sourceVolume: "db1", targetPath: other)
        request.granuleByteCount = byteCount
        #expect(await refusal { try await fixture.service.createPair(request) }?.code == .invalidSettings)
    }

    @Test func showsPercentRoundedDown() {
        #expect(ReplicationService.percentSynced(dirty: 0, of: 1 << 40) == 100)
        #expect(ReplicationService.percentSynced(dirty: 1, of: 1 << 40) == 99)
        #expect(ReplicationService.percentSynced(dirty: 1 << 40, of: 1 << 40) == 0)
        #expect(ReplicationService.percentSynced(dirty: .max, of: .max) == 0)
    }

    /// A copy that goes on after a start has no operation, and its rate and time left are wanted all the same.
    @Test func measuresWhateverCopies() {
        #expect(ReplicationService.isCopying(PairFacts(copyState: .unsynchronized)))
        #expect(ReplicationService.isCopying(PairFacts(copyState: .failedover, operation: .failback)))
        #expect(!ReplicationService.isCopying(PairFacts(copyState: .failedover)))
        #expect(!ReplicationService.isCopying(PairFacts(copyState: .synchronized)))
    }

    @Test func measuresItsRate() {
        var rate = CopyRate()
        let start = ContinuousClock.now
        rate.note(doneByteCount: 0, at: start)
        #expect(rate.bytesPerSecond == nil)
        rate.note(doneByteCount: 500, at: start.advanced(by: .milliseconds(500)))
        #expect(rate.bytesPerSecond == 1000)
        for second in 1...30 { rate.note(doneByteCount: 500, at: start.advanced(by: .seconds(second))) }
        #expect(rate.bytesPerSecond == 0)
        rate.note(doneByteCount: 1, at: start.advanced(by: .seconds(31)))
        #expect(rate.bytesPerSecond == nil)
    }
}
