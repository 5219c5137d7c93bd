import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization
import SystemPackage
import Testing

/// The other pairs of a volume of which one moves to its peer: here `m2`, whose target is on `north` as well.
@Suite("Pairs of a volume that moves") struct RestingTests {
    /// Two hosts with `m1` between them, and `m2` of the same volume, both in sync.
    private func run(_ body: (TwoHosts) async throws -> Void) async throws {
        try await TwoHosts.moving { hosts in
            try await hosts.north.addOtherPair()
            hosts.north.plane.become(.synchronized)
            try await body(hosts)
        }
    }

    private func isResting(_ fixture: ServiceFixture) throws -> Bool {
        let registry = try Registry(path: .init(fixture.directory.file("state/registry.json")))
        return try #require(registry.content.pair(named: "m2")).isResting
    }

    /// The note goes with what the data plane tells.
    private func waitUntilGoneOn(_ fixture: ServiceFixture) async throws {
        try await fixture.service.wait { try !isResting(fixture) }
    }

    private func move(_ fixture: ServiceFixture, _ operation: String) async throws {
        let job = try await fixture.ended(fixture.set(.name(operation)).job)
        #expect(job.state == Enumerated(JobState.completed), "\(job)")
    }

    private func failBack(_ hosts: TwoHosts) async throws {
        let started = try await hosts.south.set(.name("Failback"))
        hosts.south.plane.setFacts { $0.differingByteCount = 0 }
        hosts.south.plane.tell(.caughtUp)
        let job = try await hosts.south.ended(started.job)
        #expect(job.state == Enumerated(JobState.completed), "\(job)")
    }

    @Test(
        "they rest while the volume is a replica, over a start as well, and go on by themselves when it is a source again"
    )
    func restAndGoOn() async throws {
        try await run { hosts in
            try await move(hosts.north, "Failover")
            #expect(hosts.south.plane.isExported("copy") && !hosts.north.plane.isExported("db1"))
            #expect(try await hosts.north.pair("m2").copyState == Enumerated(CopyState.suspended))
            #expect(try isResting(hosts.north))
            let refused = await refusal { try await hosts.north.set(.name("Resume"), pair: "m2", force: true) }
            #expect(refused?.code == .volumeIsReplica, "\(String(describing: refused))")
            try await hosts.restartNorth()
            #expect(!hosts.north.plane.isExported("db1") && hosts.north.plane.isReplica("db1"))
            #expect(try isResting(hosts.north) && !hosts.north.plane.calls.contains(.operate(.resume)))
            let calls = hosts.north.plane.calls
            let attached = try #require(calls.firstIndex(of: .addPair("m2", isNew: false)))
            #expect(try attached < #require(calls.firstIndex(of: .addReplica("m1"))), "before the peer can write")
            try await failBack(hosts)
            #expect(hosts.north.plane.isExported("db1"))
            try await waitUntilGoneOn(hosts.north)
            #expect(hosts.north.plane.calls.contains(.operate(.resume)))
        }
    }

    @Test("one that an operator has suspended, or suspends while it rests, stays so")
    func operatorsWord() async throws {
        try await run { hosts in
            _ = try await hosts.north.set(.name("Suspend"), pair: "m2")
            try await move(hosts.north, "ReverseRoles")
            #expect(try !isResting(hosts.north), "it did not flow")
            try await move(hosts.south, "ReverseRoles")
            #expect(!hosts.north.plane.calls.contains(.operate(.resume)))
        }
        try await run { hosts in
            try await move(hosts.north, "Failover")
            #expect(try isResting(hosts.north))
            #expect(
                try await hosts.north.set(.name("Suspend"), pair: "m2").returnCode == Enumerated(ReturnCode.success)
            )
            #expect(try !isResting(hosts.north))
            try await failBack(hosts)
            #expect(!hosts.north.plane.calls.contains(.operate(.resume)))
        }
    }

    @Test("a volume that its peer has taken over without asking becomes the replica, and its other pair rests")
    func takenOverAlone() async throws {
        try await run { hosts in
            hosts.link.cut()
            _ = try await hosts.south.set(.name("Failover"), force: true)
            #expect(hosts.south.plane.isExported("copy"))
            hosts.link.mend()
            try await hosts.restartNorth()
            try await hosts.north.service.waitForReplica("m1")
            #expect(try isResting(hosts.north))
            #expect(try await hosts.north.pair("m2").copyState == Enumerated(CopyState.suspended))
        }
    }

    @Test("what makes the replica the host's own again lets its other pair go on")
    func endOfThePair() async throws {
        try await run { hosts in
            try await move(hosts.north, "Failover")
            _ = try await hosts.south.set(.name("Detach"), force: true)
            #expect(hosts.north.plane.isExported("db1"))
            try await waitUntilGoneOn(hosts.north)
            #expect(hosts.north.plane.calls.contains(.operate(.resume)))
        }
    }

    @Test("a mixture that a copy has left is not copied over what the other pair had: that is for the operator to say")
    func halfCopied() async throws {
        try await run { hosts in
            try await move(hosts.north, "Failover")
            hosts.north.plane.hearRecord(.failedover) { $0.isSourceInconsistent = true }
            _ = try await hosts.north.set(.name("Detach"), force: true)
            #expect(hosts.north.plane.isExported("db1"))
            #expect(try !isResting(hosts.north) && !hosts.north.plane.calls.contains(.operate(.resume)))
            let events = await hosts.north.service.events(after: 0)
            let words = events.last { $0.kind == "pair-not-resumed" && $0.pair == "m2" }?.message
            #expect(words?.contains("RestoreFromReplica") == true, "the operator is told: \(words ?? "nothing")")
            #expect(try await hosts.north.pair("m2").copyState == Enumerated(CopyState.suspended))
        }
    }

    @Test("a resume that is refused is not forgotten: the next start says it again")
    func refusedResume() async throws {
        try await run { hosts in
            try await move(hosts.north, "Failover")
            hosts.north.plane.setFacts { $0.operation = .detach }
            try await failBack(hosts)
            #expect(hosts.north.plane.calls.contains(.operate(.resume)))
            #expect(try isResting(hosts.north))
            try await hosts.restartNorth()
            try await waitUntilGoneOn(hosts.north)
        }
    }

    @Test(
        "a host that cannot serve before another peer is asked takes over only where nobody else can, and says that hosts wait"
    )
    func awaitedPeer() async throws {
        try await run { hosts in
            try await move(hosts.north, "ReverseRoles")
            hosts.north.plane.state.withLock { state in
                for id in state.pairs.keys { state.pairs[id]?.status.isAwaited = true }
            }
            let refused = await refusal { try await hosts.south.set(.name("ReverseRoles")) }
            #expect(refused?.message.contains("has said that it does not serve them") == true)
            #expect(hosts.south.plane.isExported("copy"), "nothing has begun")
            hosts.link.cut()
            let reply = try await hosts.north.set(.name("Failover"), force: true)
            let words = reply.extendedStatus?.message ?? ""
            #expect(words.contains("but it is withheld: waiting for peer"), "\(words)")
            #expect(!hosts.north.plane.isExported("db1"))
        }
    }

    @Test("a replica takes no other element in place of its own")
    func otherElements() async throws {
        try await run { hosts in
            try await move(hosts.north, "Failover")
            try FileManager.default.removeItem(atPath: hosts.north.directory.file("source"))
            try await hosts.restartNorth()
            let refused = await refusal { try await hosts.north.set(.name("Detach"), pair: "m2", force: true) }
            #expect(refused?.code == .volumeIsReplica, "\(String(describing: refused))")
        }
    }

    @Test("a pair does not move while another one of its volume cannot rest, and says which")
    func whoHinders() async throws {
        try await run { hosts in
            hosts.north.plane.setFacts { $0.doesOtherPairMove = true }
            let refused = await refusal { try await hosts.north.set(.name("Failover")) }
            #expect(refused?.code == .otherPairFlows, "\(String(describing: refused))")
            #expect(hosts.north.plane.isExported("db1") && !hosts.north.plane.calls.contains(.withhold))
        }
    }

    @Test("a replica with pairs of its own does not grow, and says why")
    func growth() async throws {
        try await run { hosts in
            try await move(hosts.north, "Failover")
            let source = hosts.north.directory.file("source")
            try FileHandle(forWritingTo: URL(filePath: source)).truncate(atOffset: 2 << 20)
            try FileHandle(forWritingTo: URL(filePath: hosts.south.directory.file("copy"))).truncate(atOffset: 2 << 20)
            let refused = await refusal { try await hosts.south.service.growVolume(named: "copy", VolumeGrowRequest()) }
            #expect(refused?.message.contains("pair 'm2'") == true, "\(String(describing: refused))")
        }
    }

    @Test(
        "a daemon that dies in the middle has the pair rest, or go on, as its volume is a replica or not",
        arguments: moments
    )
    func kills(moment: Kill.Moment) async throws {
        try await run { hosts in
            let kill = await Kill([.north], at: moment, of: .north, hosts)
            let started = try await hosts.north.set(.name("Failover"))
            await kill.happened()
            try await hosts.restart(after: kill)
            let north = hosts.north
            _ = try await north.ended(started.job)
            try await north.service.wait {
                (try await north.pair().role == .source) == north.plane.isExported("db1")
            }
            let isReplica = try await north.pair().role == .replica
            #expect(isReplica == hosts.south.plane.isExported("copy"))
            if isReplica {
                #expect(try isResting(north))
                #expect(try await north.pair("m2").copyState == Enumerated(CopyState.suspended))
                try await failBack(hosts)
            }
            try await waitUntilGoneOn(north)
        }
    }

    static let moments: [Kill.Moment] =
        ["withhold", "settle", "detachPair", "addReplica"].map { .call($0) }
        + [.beforeCreate, .afterRename].map { .registry($0, after: "settle") }
}
