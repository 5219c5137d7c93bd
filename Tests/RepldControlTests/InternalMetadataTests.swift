import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldFormat
import RepldPair
import SystemPackage
import Testing

/// Where areas lie behind a volume.
@Suite struct MetadataPlacingTests {
    private func area(_ offset: UInt64, _ byteCount: UInt64) -> InternalMetadata {
        InternalMetadata(elementPath: "/dev/a", offset: offset, byteCount: byteCount)
    }

    private func offset(_ byteCount: UInt64, _ element: UInt64, _ volume: UInt64, _ taken: [InternalMetadata])
        -> UInt64?
    {
        MetadataPlacing.offset(
            ofArea: byteCount,
            elementByteCount: element,
            volumeByteCount: volume,
            taken: taken
        )
    }

    @Test func liesAtTheEndBelowTheOthers() {
        #expect(offset(8192, 100_000, 4096, []) == 98304 - 8192, "the end is whole blocks")
        let last = area(90112, 8192)
        #expect(offset(8192, 98304, 4096, [last]) == 81920)
        #expect(offset(4096, 98304, 4096, [area(81920, 4096), last]) == 86016, "in the gap between two")
        #expect(offset(8192, 98304, 4096, [area(81920, 4096), last]) == 73728, "below a gap that is too small")
        #expect(offset(4096, 200_704, 4096, [last]) == 196_608, "above, where the element has grown")
    }

    @Test func neverReachesIntoTheVolume() {
        #expect(offset(8192, 98304, 90112, []) == 90112)
        #expect(offset(8192, 98304, 90113, []) == nil)
        #expect(offset(8192, 98304, 98304, []) == nil)
        #expect(offset(8192, 4096, 0, []) == nil)
        #expect(offset(8192, 98304, 86016, [area(90112, 8192)]) == nil)
    }

    @Test(arguments: [65536, 4096] as [UInt64], [1 << 20, (1 << 30) + 512, 1 << 40] as [UInt64])
    func theReserveIsEnoughForTheVolume(granule: UInt64, element: UInt64) throws {
        let volume = try #require(MetadataPlacing.volumeByteCount(on: element, granuleByteCount: granule))
        #expect(volume % 4096 == 0 && volume < element)
        let layout = MetadataLayout(volumeByteCount: volume, granuleByteCount: granule)
        let place = try #require(offset(layout.areaByteCount, element, volume, []))
        #expect(place >= volume && place + layout.areaByteCount <= element)
        #expect(MetadataPlacing.volumeByteCount(on: 65536, granuleByteCount: granule) == nil)
    }
}

/// Volumes that leave room behind them, and pairs whose metadata is there.
@Suite struct InternalMetadataTests {
    private static let element: UInt64 = 1 << 20
    /// One page of each map.
    private static let area: UInt64 = 72 << 10

    private func fixture(_ request: (inout VolumeAddRequest) -> Void) async throws -> ServiceFixture {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        _ = try fixture.directory.element("target", byteCount: 2 * Self.element)
        var volume = VolumeAddRequest(name: "db1", elementPath: try fixture.directory.element("source"))
        request(&volume)
        _ = try await fixture.service.addVolume(volume)
        return fixture
    }

    private func pair(
        _ fixture: ServiceFixture,
        granule: UInt32? = nil,
        overwrites: Bool? = nil,
        name: String = "m1",
        target: String = "target"
    ) async throws -> PairReply {
        try await fixture.service.createPair(
            PairCreateRequest(
                sourceVolume: "db1",
                targetPath: fixture.directory.file(target),
                name: name,
                activates: false,
                granuleByteCount: granule,
                metadata: .internal,
                overwritesMetadata: overwrites
            )
        )
    }

    private func reserved() async throws -> ServiceFixture { try await fixture { $0.reservesMetadata = true } }

    private func bytes(_ fixture: ServiceFixture, _ range: Range<Int>) throws -> Data {
        try Data(contentsOf: URL(filePath: fixture.directory.file("source")))[range]
    }

    @Test func aVolumeTakesAPartOfItsElement() async throws {
        let fixture = try await fixture { $0.byteCount = 512 << 10 }
        let reply = try await fixture.service.volume(named: "db1")
        #expect(reply.byteCount == 512 << 10 && reply.reservedByteCount == 512 << 10)
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(after.plane.opening("db1")?.byteCount == 512 << 10, "and not all of the element")
        let whole = try await reserved().service.volume(named: "db1")
        #expect(whole.byteCount == Self.element - Self.area)
    }

    @Test func impossibleSizesAreRefused() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let path = try fixture.directory.element("source")
        func add(_ byteCount: UInt64, reserves: Bool? = nil) async -> ControlError? {
            await refusal {
                try await fixture.service.addVolume(
                    VolumeAddRequest(name: "db1", elementPath: path, byteCount: byteCount, reservesMetadata: reserves)
                )
            }
        }
        #expect(await add(5000)?.description.contains("5000 bytes; expected a multiple of 4KiB") == true)
        #expect(await add(0)?.code == .invalidSettings)
        #expect(await add(4096, reserves: true)?.code == .invalidRequest)
        let large = await add(Self.element + 4096)
        #expect(large?.description.contains("1MiB (1048576 bytes), and the volume is to have") == true)
        #expect(try await fixture.service.volumeList().isEmpty)
    }

    @Test func theAreaIsBehindTheVolumeAndStaysThere() async throws {
        let fixture = try await reserved()
        let reply = try await pair(fixture)
        let source = fixture.directory.file("source")
        let place = MetadataReply(kind: .internal, path: source, offset: Self.element - Self.area)
        #expect(reply.metadata == place)
        let state = try FileManager.default.contentsOfDirectory(atPath: fixture.directory.file("state/pairs"))
        #expect(state.isEmpty, "nothing is in the state directory")
        fixture.plane.become(.synchronized)
        let handle = try #require(FileHandle(forWritingAtPath: source))
        try handle.truncate(atOffset: 2 * Self.element)
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(try await after.pair().metadata == place, "also where the element has grown")
        #expect(try await after.pair().copyState.name == "Synchronized", "read back")
        #expect(after.plane.opening("db1")?.byteCount == Self.element - Self.area)
    }

    @Test func severalPairsLieOneBeforeTheOther() async throws {
        let fixture = try await fixture { $0.byteCount = 512 << 10 }
        _ = try fixture.directory.element("other", byteCount: Self.element)
        let first = try await pair(fixture)
        let second = try await pair(fixture, name: "m2", target: "other")
        #expect(first.metadata?.offset == Self.element - Self.area)
        #expect(second.metadata?.offset == Self.element - 2 * Self.area)
    }

    @Test func isRefusedWhereItDoesNotFit() async throws {
        let whole = try await fixture { _ in }
        let error = await refusal { try await pair(whole) }
        #expect(error?.code == .notEnoughResources)
        #expect(error?.description.contains("needs 72KiB (73728 bytes) behind volume 'db1'") == true)
        #expect(error?.suggestion?.contains("--reserve-metadata") == true)
        #expect(error?.suggestion?.contains("state directory") == true)
        #expect(try await whole.service.pairList().isEmpty)
        let reserving = try await reserved()
        _ = try reserving.directory.element("other", byteCount: Self.element)
        _ = try await pair(reserving)
        let second = await refusal { try await pair(reserving, name: "m2", target: "other") }
        #expect(second?.description.contains("in part taken by the metadata of 1 other pair") == true)
        let readOnly = try await fixture { request in
            request.reservesMetadata = true
            request.isReadOnly = true
        }
        #expect(await refusal { try await pair(readOnly) }?.code == .invalidRequest)
    }

    @Test func anotherPairsRecordsAreNotOverwritten() async throws {
        let fixture = try await fixture { $0.byteCount = 512 << 10 }
        let source = fixture.directory.file("source")
        let foreign = PairRecord(
            sequence: 6,
            pair: PairID(high: 1, low: 2),
            volumeByteCount: Self.element - Self.area,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        let offset = Self.element - Self.area
        // In the place itself, inside it, and reaching into it from before.
        for taken in [offset, offset + 8192, offset - 8192] {
            let place = MetadataPlace(element: source, offset: taken)
            try PairMetadata.begin(foreign, in: place)
            let error = await refusal { try await pair(fixture) }
            #expect(error?.code == .elementInUse)
            #expect(error?.description.contains("\(foreign.pair) at offset \(taken)") == true)
            #expect(try PairMetadata.read(place).record?.pair == foreign.pair)
            try PairMetadata.remove(foreign.pair, from: place)
        }
        let before = MetadataPlace(element: source, offset: offset - Self.area)
        try PairMetadata.begin(foreign, in: before)
        #expect(try await pair(fixture).metadata?.offset == offset, "one that ends where it begins is no obstacle")
        #expect(try PairMetadata.read(before).record?.pair == foreign.pair)
    }

    @Test func theOperatorMayOverwriteThem() async throws {
        let fixture = try await reserved()
        let place = MetadataPlace(
            element: fixture.directory.file("source"),
            offset: Self.element - Self.area
        )
        let foreign = PairRecord(
            sequence: 7,
            pair: PairID(high: 1, low: 2),
            volumeByteCount: Self.element,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        try PairMetadata.begin(foreign, in: place)
        #expect(await refusal { try await pair(fixture) }?.code == .elementInUse)
        let made = try await pair(fixture, overwrites: true)
        #expect(try PairMetadata.read(place).record?.pair.description == made.id)
    }

    @Test func nothingButTheAreaIsWritten() async throws {
        let fixture = try await reserved()
        let source = URL(filePath: fixture.directory.file("source"))
        let handle = try FileHandle(forWritingTo: source)
        try handle.write(contentsOf: Data(repeating: 7, count: Int(Self.element)))
        _ = try await pair(fixture)
        #expect(try bytes(fixture, 0..<Int(Self.element - Self.area)).allSatisfy { $0 == 7 })
        fixture.plane.become(.synchronized)
        _ = try await fixture.set(.name("Dissolve"))
        #expect(try bytes(fixture, 0..<Int(Self.element - Self.area)).allSatisfy { $0 == 7 })
        let place = MetadataPlace(element: source.path(percentEncoded: false), offset: Self.element - Self.area)
        #expect(try PairMetadata.read(place) == .blank, "nobody takes it for a pair's")
        #expect(try await pair(fixture).metadata?.offset == place.offset, "and it can be used again")
    }

    @Test func theVolumeDoesNotGrowOverIt() async throws {
        let fixture = try await reserved()
        _ = try await pair(fixture)
        fixture.plane.become(.synchronized)
        let error = await refusal {
            try await fixture.service.growVolume(named: "db1", VolumeGrowRequest(byteCount: Self.element))
        }
        #expect(error?.code == .notInThisState)
        #expect(error?.description.contains("the metadata of pair 'm1' is in the way") == true)
        #expect(!fixture.plane.calls.contains { if case .prepareGrowth = $0 { true } else { false } })
    }

    /// While an area is about to be blanked, a volume must not take its place.
    @Test func theVolumeDoesNotGrowWhileThePairIsDetached() async throws {
        let fixture = try await reserved()
        _ = try await pair(fixture)
        fixture.plane.become(.synchronized)
        fixture.plane.hold()
        let detach = Task { try await fixture.set(.name("Detach"), force: true) }
        while !fixture.plane.isHeld { await Task.yield() }
        #expect(try await fixture.service.pairList().isEmpty, "the registry has it no more")
        let error = await refusal {
            try await fixture.service.growVolume(named: "db1", VolumeGrowRequest(byteCount: Self.element))
        }
        #expect(error?.code == .operationInProgress)
        fixture.plane.release()
        _ = try await detach.value
        let grown = try await fixture.service.growVolume(named: "db1", VolumeGrowRequest(byteCount: Self.element))
        #expect(grown.byteCount == Self.element)
    }

    @Test func anUnreadableAreaIsNotACleanOne() async throws {
        let fixture = try await reserved()
        let id = try #require(PairID(try await pair(fixture).id))
        let source = fixture.directory.file("source")
        let place = MetadataPlace(element: source, offset: Self.element - Self.area)
        try #require(FileHandle(forWritingAtPath: source)).truncate(atOffset: Self.element - Self.area)
        #expect(throws: PairMetadata.ReadError.self) { try PairMetadata.forgetCleanClose(of: id, at: place) }
        try #require(FileHandle(forWritingAtPath: source)).truncate(atOffset: Self.element)
        try PairMetadata.forgetCleanClose(of: id, at: place)
        let other = PairRecord(
            sequence: 3,
            pair: PairID(high: 1, low: 2),
            volumeByteCount: Self.element,
            copyState: 4,
            isClosedCleanly: true
        )
        try PairMetadata.begin(other, in: place)
        #expect(throws: PairMetadata.ForeignRecord.self) { try PairMetadata.forgetCleanClose(of: id, at: place) }
        #expect(try PairMetadata.read(place).record?.pair == other.pair)
    }

    @Test func withoutItsMetadataTheVolumeIsNotServedUntilThePairIsGivenUp() async throws {
        let fixture = try await reserved()
        _ = try await pair(fixture)
        fixture.plane.become(.synchronized)
        let source = fixture.directory.file("source")
        let handle = try #require(FileHandle(forWritingAtPath: source))
        try handle.seek(toOffset: Self.element - Self.area)
        try handle.write(contentsOf: Data(repeating: 9, count: 8192))
        let after = try fixture.afterKill()
        try await after.service.start()
        let reason = try await after.service.volume(named: "db1").reason
        #expect(reason?.contains("\(source) at offset \(Self.element - Self.area)") == true)
        #expect(reason?.contains("bring back \(source) as it was") == true)
        _ = try await after.set(.name("Detach"), force: true)
        #expect(try await after.service.volume(named: "db1").reason == nil)
        #expect(after.plane.opening("db1")?.byteCount == Self.element - Self.area)
    }

    @Test func aMissingTargetIsLeftBehindAndCatchesUp() async throws {
        let fixture = try await reserved()
        _ = try await pair(fixture)
        fixture.plane.become(.synchronized)
        let place = MetadataPlace(element: fixture.directory.file("source"), offset: Self.element - Self.area)
        let without = try fixture.afterKill()
        without.plane.breakElement(fixture.directory.file("target"))
        try await without.service.start()
        #expect(try await without.service.volume(named: "db1").reason == nil)
        let behind = try #require(try PairMetadata.read(place).record)
        #expect(PairMetadata.isLeftBehind(behind) && behind.isTargetConsistent && !behind.isClosedCleanly)
        let after = try without.afterKill()
        try await after.service.start()
        #expect(after.plane.calls.suffix(2) == [.addPair("m1", isNew: false), .operate(.resume)])
        #expect(try PairMetadata.read(place).record?.isTargetConsistent == false, "before anything is overwritten")
    }

    @Test func anotherTargetIsNotOverwrittenUnasked() async throws {
        let fixture = try await reserved()
        _ = try await pair(fixture)
        fixture.plane.become(.synchronized)
        let target = fixture.directory.file("target")
        try DurableFile.createSparse(FilePath(target + ".new"), byteCount: 2 * Self.element)
        try FileManager.default.removeItem(atPath: target)
        try FileManager.default.moveItem(atPath: target + ".new", toPath: target)
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(try await after.pair().copyState == Enumerated(CopyState.broken))
        #expect(try await after.pair().reason?.contains("is not the target that the pair had") == true)
        let again = try after.afterKill()
        try await again.service.start()
        #expect(try await again.pair().copyState == Enumerated(CopyState.broken), "a restart keeps it")
        #expect(!again.plane.calls.contains(.operate(.resume)))
    }

    /// With its element the metadata is gone as well: nobody can say whether the target served last.
    @Test func withoutItsElementTheVolumeIsNotServedUntilThePairIsGivenUp() async throws {
        let fixture = try await reserved()
        _ = try await pair(fixture)
        fixture.plane.become(.synchronized)
        let source = fixture.directory.file("source")
        try FileManager.default.moveItem(atPath: source, toPath: source + ".kept")
        let after = try fixture.afterKill()
        try await after.service.start()
        let reason = try await after.service.volume(named: "db1").reason
        #expect(reason?.contains("cannot read the pair metadata \(source) at offset") == true)
        #expect(
            reason?.contains("bring back \(source) as it was, or give the pair up: 'replctl set m1 Detach'") == true
        )
        #expect(after.plane.calls.isEmpty)
        let error = await refusal { try await after.set(.name("Detach")) }
        #expect(error?.code == .needsForce)
        // It is back: nothing was taken from it by the attempt.
        try FileManager.default.moveItem(atPath: source + ".kept", toPath: source)
        let again = try after.afterKill()
        try await again.service.start()
        #expect(try await again.pair().copyState == Enumerated(CopyState.synchronized))
        try FileManager.default.moveItem(atPath: source, toPath: source + ".kept")
        let gone = try again.afterKill()
        try await gone.service.start()
        _ = try await gone.set(.name("Detach"), force: true)
        #expect(try await gone.service.pairList().isEmpty)
        _ = try await gone.service.removeVolume(named: "db1", isForced: false)
        #expect(try await gone.service.volumeList().isEmpty)
    }

    @Test func aFailoverIsSaidToDependOnTheSource() async throws {
        let fixture = try await reserved()
        _ = try await pair(fixture)
        fixture.plane.become(.synchronized)
        let reply = try await fixture.service.setReplicationRelationship(
            pair: "m1",
            SetReplicationRelationshipRequest(operation: .name("Failover"), plan: true)
        )
        let source = fixture.directory.file("source")
        #expect(reply.plan?.remark?.contains("the pair's metadata is on its source \(source)") == true)
        let external = try await ServiceFixture.paired()
        external.plane.become(.synchronized)
        let other = try await external.service.setReplicationRelationship(
            pair: "m1",
            SetReplicationRelationshipRequest(operation: .name("Failover"), plan: true)
        )
        #expect(other.plan?.verdict == .accepted && other.plan?.remark == nil)
    }

    @Test func aRegistryThatPutsItInsideTheVolumeIsRefused() async throws {
        let fixture = try await reserved()
        _ = try await pair(fixture)
        var content = try Registry(path: FilePath(fixture.directory.file("state/registry.json"))).content
        #expect(content.fault == nil)
        content.volumes[0].byteCount = Self.element
        #expect(content.fault?.contains("inside volume 'db1'") == true)
        content.volumes[0].byteCount = nil
        #expect(content.fault?.contains("inside volume 'db1'") == true)
    }
}
