import Foundation
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldPair
import Testing

@testable import RepldControl

/// A volume with replicas at peers grows: who is asked what, in which order, and what each registry says at each moment.
@Suite struct RemoteGrowTests {
    private static let former: UInt64 = 1 << 20
    private static let wanted: UInt64 = 3 << 20

    private func enlarge(_ fixture: ServiceFixture, _ name: String, to byteCount: UInt64 = wanted) throws {
        let handle = try #require(FileHandle(forWritingAtPath: fixture.directory.file(name)))
        try handle.truncate(atOffset: byteCount)
        try handle.close()
    }

    private func enlargeBoth(_ hosts: TwoHosts) throws {
        try enlarge(hosts.north, "source")
        try enlarge(hosts.south, "copy")
    }

    private func grow(_ hosts: TwoHosts, to byteCount: UInt64? = nil) async throws -> VolumeGrowReply {
        try await hosts.north.service.growVolume(named: "db1", VolumeGrowRequest(byteCount: byteCount))
    }

    private func size(_ fixture: ServiceFixture, _ name: String) async throws -> UInt64? {
        try await fixture.service.volume(named: name).byteCount
    }

    private func messages(_ hosts: TwoHosts) -> [GrowMessage] {
        hosts.link.sent.compactMap { request in
            guard case .grow(let message) = request else { return nil }
            return message
        }
    }

    private func hasGrown(_ fixture: ServiceFixture) -> Bool {
        fixture.plane.calls.contains { if case .grow = $0 { true } else { false } }
    }

    @Test func bothTakeTheSizeOfTheSmallestElement() async throws {
        try await TwoHosts.moving { hosts in
            try enlargeBoth(hosts)
            try enlarge(hosts.south, "copy", to: 2 << 20)
            let reply = try await grow(hosts)
            #expect(reply == VolumeGrowReply(name: "db1", formerByteCount: Self.former, byteCount: 2 << 20))
            #expect(try await size(hosts.north, "db1") == 2 << 20)
            #expect(try await size(hosts.south, "copy") == 2 << 20)
            #expect(messages(hosts).map { $0.isCheck } == [true, false])
            let again = try await grow(hosts, to: 2 << 20)
            #expect(again == VolumeGrowReply(name: "db1", formerByteCount: 2 << 20, byteCount: 2 << 20), "it holds")
            #expect(messages(hosts).count == 2, "and nobody is asked for that")
            try await hosts.restartSouth()
            try await hosts.restartNorth()
            #expect(hosts.north.plane.opening("db1")?.byteCount == 2 << 20)
            #expect(hosts.south.plane.opening("copy")?.byteCount == 2 << 20)
            #expect(try await hosts.north.pair().reason == nil, "the pair is opened with a target of that size")
        }
    }

    @Test func aReplicaThatHasNotGrownRefusesBeforeAnythingChanges() async throws {
        try await TwoHosts.moving { hosts in
            try enlarge(hosts.north, "source")
            let copy = hosts.south.directory.file("copy")
            let exact = await refusal { try await grow(hosts, to: 2 << 20) }
            #expect(exact?.code == .elementUnavailable)
            #expect(
                exact?.description.contains("volume 'copy' cannot grow: \(copy) has 1048576 bytes, and 2097152") == true
            )
            let any = await refusal { try await grow(hosts) }
            #expect(any?.code == .elementUnavailable)
            #expect(any?.description.contains("repl://south/copy holds 1048576 bytes, and 3145728 are needed") == true)
            #expect(!hasGrown(hosts.north) && !hasGrown(hosts.south))
            #expect(messages(hosts).allSatisfy { $0.isCheck })
            for (fixture, name) in [(hosts.north, "db1"), (hosts.south, "copy")] {
                #expect(try await size(fixture, name) == Self.former)
            }
        }
    }

    @Test func aSourceThatHasNotGrownAsksNobody() async throws {
        try await TwoHosts.moving { hosts in
            try enlarge(hosts.south, "copy")
            let small = await refusal { try await grow(hosts, to: 2 << 20) }
            #expect(small?.description.contains("\(hosts.north.directory.file("source")) has 1048576 bytes") == true)
            let shrink = await refusal { try await grow(hosts, to: 4096) }
            #expect(shrink?.description.contains("cannot shrink to 4096") == true)
            #expect(messages(hosts).isEmpty)
        }
    }

    @Test func aPeerThatCannotBeAskedIsARefusal() async throws {
        try await TwoHosts.moving { hosts in
            try enlargeBoth(hosts)
            hosts.link.cut()
            let error = await refusal { try await grow(hosts) }
            #expect(error?.code == .peerNotConnected)
            let words =
                "volume 'db1' cannot grow without the replica's host: peer 'south' is not connected: the cable is out"
            #expect(error?.message.contains(words) == true)
            #expect(!hasGrown(hosts.north))
            hosts.link.mend()
            #expect(try await grow(hosts).byteCount == Self.wanted)
        }
    }

    @Test func aReplicaSaysWhereToAsk() async throws {
        try await TwoHosts.moving { hosts in
            try enlargeBoth(hosts)
            let error = await refusal {
                try await hosts.south.service.growVolume(named: "copy", VolumeGrowRequest())
            }
            #expect(error?.code == .volumeIsReplica)
            #expect(
                error?.suggestion?.contains("'replctl volume grow db1' on the source's host (peer 'north')") == true
            )
        }
    }

    /// The replica has grown, and the source has not: the same asked again completes it.
    @Test func whatIsHalfDoneIsCompleted() async throws {
        try await TwoHosts.moving { hosts in
            try enlargeBoth(hosts)
            hosts.link.lose(.answer)
            _ = await refusal { try await grow(hosts) }
            #expect(!hasGrown(hosts.south), "that was the check")
            let refused = try await refuseAtSource(hosts)
            #expect(refused?.description.contains("an operation has closed the volume's gate") == true)
            #expect(try await size(hosts.south, "copy") == Self.wanted, "a replica may be larger than its source")
            #expect(try await size(hosts.north, "db1") == Self.former)
            try await hosts.restartNorth()
            try await hosts.restartSouth()
            #expect(try await hosts.north.pair().reason == nil)
            #expect(try await grow(hosts).byteCount == Self.wanted)
            #expect(!hasGrown(hosts.south), "it holds that already")
            #expect(try await size(hosts.north, "db1") == Self.wanted)
        }
    }

    /// The source's data plane refuses when the replica has grown.
    private func refuseAtSource(_ hosts: TwoHosts) async throws -> ControlError? {
        let id = try #require(PairID(try await hosts.north.pair().id))
        let plane = hosts.north.plane
        plane.refuseNext(.growthRefused(.pair(id, .draining)))
        return await refusal { try await grow(hosts) }
    }

    @Test func anotherHostsVolumeIsNotGrown() async throws {
        try await TwoHosts.moving { hosts in
            try enlargeBoth(hosts)
            let id = try #require(PairID(try await hosts.north.pair().id))
            let bytes = try PeerMessages.encode(GrowMessage(pair: id, isCheck: false, byteCount: Self.wanted))
            let answer = try await hosts.answer(to: bytes, from: PairID(high: 9, low: 9))
            #expect(answer.refusal?.extendedStatus?.code == "pair-not-found")
            #expect(!hasGrown(hosts.south))
        }
    }

    @Test func aVolumeWithAReplicaHereAndOneAtAPeerGrows() async throws {
        try await TwoHosts.moving { hosts in
            let mirror = try hosts.north.directory.element("mirror")
            let request = PairCreateRequest(sourceVolume: "db1", targetPath: mirror, name: "m2", activates: false)
            _ = try await hosts.north.service.createPair(request)
            try enlargeBoth(hosts)
            let small = await refusal { try await grow(hosts, to: Self.wanted) }
            #expect(small?.description.contains("\(mirror) has 1048576 bytes") == true)
            #expect(messages(hosts).isEmpty, "what is known here is looked at first")
            try enlarge(hosts.north, "mirror")
            #expect(try await grow(hosts).byteCount == Self.wanted)
            #expect(try await size(hosts.south, "copy") == Self.wanted)
        }
    }

    // MARK: - Kills

    struct Case: Sendable, CustomTestStringConvertible {
        var victims: [Kill.Host]
        var moment: Kill.Moment
        var host: Kill.Host

        var testDescription: String { "\(victims.map(\.rawValue)) at \(moment) of \(host)" }
    }

    static let cases: [Case] = [[.north], [.south], [.north, .south]].flatMap { (victims: [Kill.Host]) in
        Kill.Host.allCases.flatMap { host in
            let moments: [Kill.Moment] = [
                .call("prepareGrowth"), .call("grow"),
                .registry(.beforeCreate, after: "prepareGrowth"), .registry(.afterRename, after: "prepareGrowth"),
                .registry(.afterDirectorySync, after: "prepareGrowth"),
            ]
            return moments.map { Case(victims: victims, moment: $0, host: host) }
        }
    }

    /// Whatever dies when: both volumes are served, the pair is attached, the replica is large enough, and asking again completes it.
    @Test(arguments: cases) func aKillAtEachStep(_ test: Case) async throws {
        try await TwoHosts.moving { hosts in
            try enlargeBoth(hosts)
            let kill = await Kill(test.victims, at: test.moment, of: test.host, hosts)
            _ = try? await grow(hosts)
            #expect(kill.directory(of: test.victims[0]) != nil, "it has happened")
            try await hosts.restart(after: kill)
            #expect(try await hosts.north.service.volume(named: "db1").reason == nil)
            #expect(try await hosts.south.service.volume(named: "copy").reason == nil)
            #expect(try await hosts.north.pair().reason == nil)
            let source = try #require(try await size(hosts.north, "db1"))
            let replica = try #require(try await size(hosts.south, "copy"))
            #expect(replica >= source && source >= Self.former && replica <= Self.wanted)
            #expect(try await grow(hosts, to: Self.wanted).byteCount == Self.wanted)
            #expect(try await size(hosts.south, "copy") == Self.wanted)
            #expect(try await size(hosts.north, "db1") == Self.wanted)
        }
    }
}
