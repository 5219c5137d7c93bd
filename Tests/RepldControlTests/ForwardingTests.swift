import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldPair
import Synchronization
import Testing

/// Operations that are asked of the host that has the replica.
@Suite struct ForwardingTests {
    @Test func areCarriedOutByTheSource() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.north.plane.become(.synchronized)
            let principal = Principal(.user("olga"), role: .operator)
            let suspended = try await Principal.$current.withValue(principal) {
                try await hosts.south.set(.name("Suspend"))
            }
            #expect(suspended.returnCode == Enumerated(ReturnCode.success))
            #expect(try await hosts.north.pair().copyState == Enumerated(CopyState.suspended))
            let resumed = try await Principal.$current.withValue(principal) { try await hosts.south.set(.number(16)) }
            #expect(resumed.returnCode == Enumerated(ReturnCode.jobStarted))
            let job = try await hosts.north.service.job(id: try #require(resumed.job))
            #expect(job.startedBy == "user olga at peer south")
        }
    }

    @Test func refusalsOfTheSourceComeBack() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let error = await refusal { try await hosts.south.set(.name("Prepare")) }
            #expect(error?.code == .notInThisState)
            #expect(error?.message.hasPrefix("peer 'north': Prepare") == true)
            #expect(error?.status.acceptedFrom?.isEmpty == false)
            let moved = await refusal { try await hosts.south.set(.name("Failover"), force: true) }
            #expect(moved?.code == .targetNotUsable)
            let forced = await refusal { try await hosts.south.set(.name("Detach")) }
            #expect(forced?.code == .needsForce && forced?.status.bytesAtStake == 1 << 20)
            let stale = await refusal { try await hosts.south.set(.name("Resume"), revision: 1) }
            #expect(stale?.code == .revisionOutOfDate)
        }
    }

    @Test func aPlanIsMadeByTheSource() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let request = SetReplicationRelationshipRequest(operation: .name("Suspend"), plan: true)
            let reply = try await hosts.south.service.setReplicationRelationship(pair: "m1", request)
            #expect(reply.plan?.operation == Enumerated(ReplicationOperation.suspend))
            #expect(try await hosts.north.pair().copyState == Enumerated(CopyState.unsynchronized))
        }
    }

    /// The source is asked again as long as it takes.
    @Test func aWaitEndsWhenTheSourceIsThere() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            _ = try await hosts.north.set(.name("Suspend"))
            let (north, link) = (hosts.north, hosts.link)
            let follower = Task { await north.service.followDataPlane() }
            let plane = north.plane
            let finished = Task { () -> Void in
                while !link.sent.contains(where: { if case .await = $0 { true } else { false } }) {
                    await Task.yield()
                }
                plane.finish()
            }
            let reply = try await hosts.south.set(.name("Resume"), wait: .name("Synchronized"), timeout: 3600)
            await finished.value
            #expect(reply.returnCode == Enumerated(ReturnCode.success) && reply.job == "m1.2")
            await hosts.north.service.stop()
            await follower.value
        }
    }

    @Test func aWaitHasItsEnd() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            _ = try await hosts.north.set(.name("Suspend"))
            let error = await refusal {
                try await hosts.south.set(.name("Resume"), wait: .name("Synchronized"), timeout: 0)
            }
            #expect(error?.code == .timeout)
            #expect(error?.job == "m1.2")
        }
    }

    @Test func detachIsCarriedOutByTheSourceToo() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.north.plane.become(.synchronized)
            _ = try await hosts.south.set(.name("Detach"))
            #expect(try await hosts.north.service.pairList().isEmpty)
            #expect(try await hosts.south.service.pairList().isEmpty)
            #expect(hosts.south.plane.isExported("copy"))
        }
    }

    @Test(arguments: ["Suspend", "Failback", "Dissolve"])
    func nothingIsDoneWhileTheSourceIsAway(operation: String) async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.south.plane.hearRecord(.synchronized)
            hosts.link.cut()
            let error = await refusal { try await hosts.south.set(.name(operation), force: true) }
            #expect(error?.code == .peerNotConnected)
            #expect(error?.message.contains("the cable is out") == true)
            #expect(error?.status.copyState == Enumerated(CopyState.synchronized))
            #expect(try await hosts.south.pair().reason?.contains("this is what it told last") == true)
            hosts.link.mend()
            _ = try await hosts.south.set(.name("Suspend"))
        }
    }

    /// A host that only the address of the source's is known of asks who is there.
    @Test func theSourceIsFoundAgain() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            _ = try await hosts.south.set(.name("Suspend"))
            let forgotten = await refusal { try await hosts.south.service.removePeer(named: "north") }
            #expect(forgotten?.code == .peerInUse)
        }
    }

    /// Only the host that a pair is shared with may ask anything of it.
    @Test func anotherHostIsToldNothing() async throws {
        try await TwoHosts.run { hosts in
            let pair = try await hosts.pair()
            let stranger = PairID(high: 7, low: 7)
            let operate = OperateMessage(
                pair: pair.id,
                by: "user eve",
                SetReplicationRelationshipRequest(operation: .name("Detach"), force: true)
            )
            let found = try await hosts.north.plane.hear(PeerMessages.encode(operate), from: stranger).get()
            #expect(try PeerAnswer.decode(found, of: "north").refusal?.extendedStatus?.code == "pair-not-found")
            let id = try #require(PairID(pair.id))
            _ = try await hosts.answer(to: PeerMessages.encode(DissociateMessage(pair: id)), from: stranger)
            #expect(try await hosts.south.service.pairList().count == 1)
            #expect(try await hosts.north.service.pairList().count == 1)
        }
    }
}
