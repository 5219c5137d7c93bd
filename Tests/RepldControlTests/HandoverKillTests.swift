import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldEngine
import RepldPair
import Testing

/// Daemons that die while a pair moves: at every step, the one that gives the pair away, the one that takes it, and both.
///
/// Each time hosts are served on exactly one side in the end, the job says which, and the same again succeeds.
@Suite struct HandoverKillTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var victims: [Kill.Host]
        var moment: Kill.Moment
        /// Whose moment it is: the daemon's that gives the pair away, or the one's that takes it.
        var isOfGiver: Bool

        var testDescription: String {
            "\(victims.map(\.rawValue).joined(separator: " and ")) at \(moment) of the \(isOfGiver ? "giver" : "taker")"
        }
    }

    static let cases = cases(of: [[.north], [.south], [.north, .south]])
    static let fewCases = cases(of: [[.north, .south]])

    private static func cases(of allVictims: [[Kill.Host]]) -> [Case] {
        let steps: [DurableFile.Step] = [.beforeCreate, .afterRename, .afterDirectorySync]
        let giving =
            ["withhold", "settle", "detachPair", "addReplica"].map { Kill.Moment.call($0) }
            + steps.map { Kill.Moment.registry($0, after: "settle") }
        let taking =
            ["claimReplica", "prepareTakeOver", "takeOver"].map { Kill.Moment.call($0) }
            + steps.map { Kill.Moment.registry($0, after: "claimReplica") }
        return allVictims.flatMap { victims in
            giving.map { Case(victims: victims, moment: $0, isOfGiver: true) }
                + taking.map { Case(victims: victims, moment: $0, isOfGiver: false) }
        }
    }

    /// Waits until it is clear on both hosts what has become of the pair; exactly one of them serves.
    private func settled(_ hosts: TwoHosts) async throws -> Kill.Host {
        let (north, south) = (hosts.north, hosts.south)
        for fixture in [north, south] {
            try await fixture.service.wait {
                let role = try await fixture.pair().role
                let name = fixture.directory === north.directory ? "db1" : "copy"
                return (role == .source) == fixture.plane.isExported(name)
            }
        }
        let (isNorth, isSouth) = (north.plane.isExported("db1"), south.plane.isExported("copy"))
        #expect(isNorth != isSouth, "exactly one side serves")
        return isNorth ? .north : .south
    }

    @Test(arguments: cases) func aFailover(_ test: Case) async throws { try await move(test, "Failover") }

    @Test(arguments: fewCases) func aReversal(_ test: Case) async throws { try await move(test, "ReverseRoles") }

    private func move(_ test: Case, _ operation: String) async throws {
        try await TwoHosts.moving { hosts in
            let kill = await Kill(test.victims, at: test.moment, of: test.isOfGiver ? .north : .south, hosts)
            let started = try await hosts.north.set(.name(operation))
            await kill.happened()
            try await hosts.restart(after: kill)
            let job = try await hosts.north.ended(started.job)
            let server = try await settled(hosts)
            let isDone = job.state == Enumerated(JobState.completed)
            #expect(isDone == (server == .south), "\(job)")
            guard !isDone else { return }
            #expect(job.errorDescription?.isEmpty == false, "it says why")
            // The copies that a start may make are the real data plane's business.
            hosts.north.plane.become(.synchronized)
            let again = try await hosts.north.ended(hosts.north.set(.name(operation)).job)
            #expect(again.state == Enumerated(JobState.completed), "\(again)")
            #expect(try await settled(hosts) == .south)
        }
    }

    @Test(arguments: cases(of: [[.north], [.south]]))
    func theEndOfAFailback(_ test: Case) async throws {
        try await TwoHosts.moving { hosts in
            let moved = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(try await settled(hosts) == .south, "\(moved)")
            let kill = await Kill(test.victims, at: test.moment, of: test.isOfGiver ? .south : .north, hosts)
            let started = try await hosts.south.set(.name("Failback"))
            hosts.south.plane.setFacts { $0.differingByteCount = 0 }
            hosts.south.plane.tell(.caughtUp)
            await kill.happened()
            try await hosts.restart(after: kill)
            // What differs is known to the real data plane, and it says so when nothing does any more.
            hosts.south.plane.setFacts { $0.differingByteCount = 0 }
            hosts.south.plane.tell(.caughtUp)
            let job = try await hosts.south.ended(started.job)
            #expect(job.state == Enumerated(JobState.completed), "\(job)")
            #expect(try await settled(hosts) == .north)
            #expect(try await hosts.north.pair().copyState == Enumerated(CopyState.synchronized))
        }
    }

    /// Accepted, and killed before the data plane knew of it: the start cannot decide before the peer has been asked.
    ///
    /// A job that runs for ever would be all that the operator sees of a Failback that nobody carries out.
    @Test func aFailbackThatWasNeverBegunEndsWhenThePeerIsAsked() async throws {
        try await TwoHosts.moving { hosts in
            let moved = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(try await settled(hosts) == .south, "\(moved)")
            let kill = await Kill(
                [.south],
                at: .call("operate(RepldPair.ReplicationOperation.failback"),
                of: .south,
                hosts
            )
            let started = try await hosts.south.set(.name("Failback"))
            await kill.happened()
            hosts.link.cut()
            try await hosts.restart(after: kill)
            let early = try await hosts.south.service.job(id: try #require(started.job))
            #expect(early.state == Enumerated(JobState.running), "\(early)")
            hosts.link.mend()
            hosts.south.plane.askPeers()
            let job = try await hosts.south.ended(started.job)
            #expect(job.state == Enumerated(JobState.exception), "\(job)")
            #expect(job.errorDescription == "the daemon was stopped or killed while it ran; the pair is Failedover")
            #expect(try await settled(hosts) == .south)
            let again = try await hosts.south.set(.name("Failback"))
            hosts.south.plane.setFacts { $0.differingByteCount = 0 }
            hosts.south.plane.tell(.caughtUp)
            #expect(try await hosts.south.ended(again.job).state == Enumerated(JobState.completed))
        }
    }

    /// Hosts go on where they are while nothing can be settled, and are moved as soon as it can.
    @Test func aFailbackThatCannotBeSettledIsTriedAgain() async throws {
        try await TwoHosts.moving { hosts in
            let moved = try await hosts.north.ended(hosts.north.set(.name("Failover")).job)
            #expect(try await settled(hosts) == .south, "\(moved)")
            hosts.south.plane.breakElement("settle")
            let started = try await hosts.south.set(.name("Failback"))
            hosts.south.plane.setFacts { $0.differingByteCount = 0 }
            let wakeups = await hosts.south.service.subscribe()
            hosts.south.plane.tell(.caughtUp)
            for await _ in wakeups.stream where hosts.south.plane.calls.contains(.release) { break }
            wakeups.finish()
            #expect(hosts.south.plane.isExported("copy") && !hosts.north.plane.isExported("db1"))
            let early = try await hosts.south.service.job(id: try #require(started.job))
            #expect(early.state == Enumerated(JobState.running), "\(early)")
            hosts.south.plane.mendElement("settle")
            let job = try await hosts.south.ended(started.job)
            #expect(job.state == Enumerated(JobState.completed), "\(job)")
            #expect(try await settled(hosts) == .north)
        }
    }
}
