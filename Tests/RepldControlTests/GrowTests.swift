import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldPair
import SystemPackage
import Testing

/// A volume grows: what the registry says at each moment, and what is refused.
@Suite struct GrowTests {
    private static let former: UInt64 = 1 << 20

    private func enlarge(_ fixture: ServiceFixture, _ name: String, to byteCount: UInt64) throws {
        let handle = try #require(FileHandle(forWritingAtPath: fixture.directory.file(name)))
        try handle.truncate(atOffset: byteCount)
        try handle.close()
    }

    private func enlarged(to byteCount: UInt64 = 3 << 20) async throws -> ServiceFixture {
        let fixture = try await ServiceFixture.paired()
        fixture.plane.become(.synchronized)
        try enlarge(fixture, "source", to: byteCount)
        try enlarge(fixture, "target", to: byteCount)
        return fixture
    }

    private func grow(_ fixture: ServiceFixture, to byteCount: UInt64? = nil) async throws -> VolumeGrowReply {
        try await fixture.service.growVolume(named: "db1", VolumeGrowRequest(byteCount: byteCount))
    }

    @Test func takesTheSizeOfTheSmallestElement() async throws {
        let fixture = try await enlarged()
        try enlarge(fixture, "target", to: 2 << 20)
        let reply = try await grow(fixture)
        #expect(reply == VolumeGrowReply(name: "db1", formerByteCount: Self.former, byteCount: 2 << 20))
        #expect(try await fixture.service.volume(named: "db1").byteCount == 2 << 20)
        let again = try await grow(fixture)
        #expect(again == VolumeGrowReply(name: "db1", formerByteCount: 2 << 20, byteCount: 2 << 20), "it holds")
        #expect(fixture.plane.calls.filter { $0 == .grow(2 << 20) }.count == 1)
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(after.plane.opening("db1")?.byteCount == 2 << 20, "and not that of the larger element")
    }

    @Test func refusesWhatDoesNotFitWithBothNumbers() async throws {
        let fixture = try await enlarged()
        let target = fixture.directory.file("target")
        try enlarge(fixture, "target", to: Self.former)
        let small = await refusal { try await grow(fixture, to: 2 << 20) }
        #expect(small?.code == .elementUnavailable)
        #expect(small?.description.contains("\(target) has 1048576 bytes, and 2097152 are needed") == true)
        let shrink = await refusal { try await grow(fixture, to: 4096) }
        #expect(shrink?.description.contains("has 1048576 bytes, and cannot shrink to 4096") == true)
        #expect(!fixture.plane.calls.contains { if case .grow = $0 { true } else { false } })
        #expect(try await fixture.service.volume(named: "db1").byteCount == Self.former)
    }

    @Test func refusesAPairThatIsNotAttached() async throws {
        let fixture = try await enlarged()
        let target = fixture.directory.file("target")
        let after = try fixture.afterKill()
        after.plane.breakElement(target)
        try await after.service.start()
        let error = await refusal { try await grow(after) }
        #expect(error?.code == .notInThisState)
        #expect(error?.description.contains("pair 'm1' is not attached") == true)
    }

    @Test func takesTheSizeBackWhereTheDataPlaneRefuses() async throws {
        let fixture = try await enlarged()
        let id = try #require(PairID(try await fixture.pair().id))
        fixture.plane.refuseNext(.growthRefused(.pair(id, .draining)))
        let error = await refusal { try await grow(fixture) }
        #expect(error?.description.contains("pair 'm1': an operation has closed the volume's gate") == true)
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(after.plane.opening("db1")?.byteCount == Self.former, "the size that hosts know")
        fixture.plane.refuseNext(.stopping)
        _ = await refusal { try await grow(fixture) }
        let stopped = try fixture.afterKill()
        try await stopped.service.start()
        #expect(stopped.plane.opening("db1")?.byteCount == 3 << 20, "one that stops may have taken it")
    }

    @Test func aRegistryThatCannotBeWrittenChangesNothing() async throws {
        let fixture = try await enlarged()
        await fixture.service.observeRegistryWrites { _ in throw Errno.noSpace }
        _ = await refusal { try await grow(fixture) }
        #expect(!fixture.plane.calls.contains(.grow(3 << 20)))
        #expect(try await fixture.service.volume(named: "db1").byteCount == Self.former)
    }

    /// A kill at each step: the volume is opened with the new size from the moment that its pairs may have it, and
    /// never with less than hosts have seen.
    @Test(arguments: [false, true])
    func aKillAtEachStep(isReversed: Bool) async throws {
        let fixture = try await enlarged()
        if isReversed {
            _ = try await fixture.set(.name("ReverseRoles"))
            fixture.plane.finish()
        }
        let killed = Killed()
        let state = fixture.directory.file("state")
        fixture.plane.beforeEachCall { call in killed.snapshot(state, "before \(call)") }
        await fixture.service.observeRegistryWrites { step in killed.snapshot(state, "registry \(step)") }
        _ = try await grow(fixture)
        killed.snapshot(state, "after it")
        var sizes: [UInt64] = []
        var isTold = false
        for (directory, moment) in killed.take() {
            if moment.contains("before grow") { isTold = true }
            let after = try ServiceFixture(in: directory)
            try await after.service.start()
            #expect(try await after.service.volume(named: "db1").reason == nil, "\(moment)")
            #expect(try await after.pair().reason == nil, "\(moment)")
            let size = try #require(after.plane.opening("db1")?.byteCount ?? Self.former)
            if isTold { #expect(size == 3 << 20, "\(moment)") }
            sizes.append(size)
        }
        #expect(isTold && sizes.first == Self.former && sizes.last == 3 << 20)
        #expect(sizes == sizes.sorted(), "once new, it stays new")
    }
}
