import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldPair
import Synchronization
import Testing

/// Pairs between two daemons, each the other's peer.
@Suite struct RemotePairTests {
    @Test func isMadeOnBothHosts() async throws {
        try await TwoHosts.run { hosts in
            let pair = try await hosts.pair()
            #expect(pair.role == .source && pair.targetPath == "repl://south/copy")
            #expect(pair.peer == PairPeerReply(name: "south", volume: "copy", isConnected: true, reason: nil))
            #expect(pair.copyState == Enumerated(CopyState.unsynchronized) && pair.job?.id == "m1.1")
            #expect(pair.settings.keepsUndo)
            let replica = try await hosts.south.pair()
            #expect(replica.role == .replica && replica.id == pair.id)
            #expect(replica.sourcePath == "repl://north/db1" && replica.sourceVolume == "db1")
            #expect(replica.targetPath == hosts.south.directory.file("copy"))
            #expect(replica.copyState == Enumerated(CopyState.initialized))
            #expect(replica.reason == "the source has told nothing yet")
            hosts.south.plane.hearRecord(.unsynchronized, .activate)
            let told = try await hosts.south.pair()
            #expect(told.copyState == Enumerated(CopyState.unsynchronized) && told.reason == nil)
            #expect(told.operation == Enumerated(ReplicationOperation.activate))
            #expect(told.requestedCopyState == Enumerated(CopyState.synchronized))
            hosts.south.plane.hearRecord(.synchronized)
            let synchronized = try await hosts.south.pair()
            #expect(synchronized.copyState == Enumerated(CopyState.synchronized))
            #expect(synchronized.requestedCopyState == .notApplicable)
            #expect(try await hosts.south.service.volume(named: "copy").replicaOf == "m1")
            #expect(!hosts.south.plane.isExported("copy"))
        }
    }

    /// The geometry is what the peer told, and the size that of its volume.
    @Test func theDataPlaneIsToldThePeersGeometry() async throws {
        try await TwoHosts.run(copyByteCount: 2 << 20) { hosts in
            try await hosts.pair()
            let opening = hosts.north.plane.state.withLock { $0.pairs.values.first?.opening }
            guard case .remote(let peer, let geometry) = opening?.target else {
                Issue.record("the target is no peer's")
                return
            }
            #expect(peer == PeerID(rawValue: 1))
            #expect(geometry.byteCount == 2 << 20 && geometry.logicalBlockByteCount == 4096 && geometry.canDiscard)
        }
    }

    @Test(arguments: [
        "repl://south/copy", "repl://south:7733/copy", "repl://192.0.2.2/copy", "repl://192.0.2.2:7733/copy",
    ])
    func aPeerIsMeantByNameOrAddress(target: String) async throws {
        try await TwoHosts.run { hosts in
            let pair = try await hosts.pair(target: target)
            #expect(pair.targetPath == "repl://south/copy")
        }
    }

    @Test(
        arguments: [
            ("repl://sooth/copy", "did you mean 'south'?"),
            ("repl://192.0.2.2:7734/copy", "'replctl peer add NAME --address 192.0.2.2:7734 --key-file FILE'"),
            ("repl://south", "expected repl://PEER/VOLUME"),
            ("repl://south/copy/x", "expected repl://PEER/VOLUME"),
            ("repl:///copy", "expected repl://PEER/VOLUME"),
            ("repl://south/no such", "the name"),
            ("repl://south/none", "peer 'south': there is no volume 'none'"),
        ]
    )
    func aTargetThatIsNoneIsRefused(target: String, words: String) async throws {
        try await TwoHosts.run { hosts in
            let error = await refusal { try await hosts.pair(target: target) }
            #expect(error?.description.contains(words) == true, "\(String(describing: error))")
            let left = try await hosts.north.service.pairList() + hosts.south.service.pairList()
            #expect(left.isEmpty)
        }
    }

    @Test func whatOnlyALocalTargetCanHaveIsRefused() async throws {
        try await TwoHosts.run { hosts in
            let request = PairCreateRequest(sourceVolume: "db1", targetPath: "repl://south/copy", createsTarget: true)
            let made = await refusal { try await hosts.north.service.createPair(request) }
            #expect(made?.suggestion?.contains("volume add copy") == true)
            #expect(hosts.link.sent.isEmpty)
        }
    }

    /// One answer that is lost is asked for again, with the same pair.
    @Test func aLostAnswerIsAskedForAgain() async throws {
        try await TwoHosts.run { hosts in
            hosts.link.lose(.answer)
            let pair = try await hosts.pair()
            let asked = hosts.link.sent.compactMap { request -> String? in
                if case .associate(let message) = request { message.pair } else { nil }
            }
            #expect(asked == [pair.id, pair.id])
            #expect(hosts.south.plane.calls.count { $0 == .addReplica("m1") } == 1)
            #expect(try await hosts.south.service.pairList().map(\.id) == [pair.id])
        }
    }

    /// What nobody answers leaves nothing, as far as the peer can be told.
    @Test func answersThatStayLostLeaveNothing() async throws {
        try await TwoHosts.run { hosts in
            hosts.link.lose(.answer, .answer)
            let error = await refusal { try await hosts.pair() }
            #expect(error?.code == .noAnswer)
            #expect(try await hosts.south.service.pairList().isEmpty)
            #expect(hosts.south.plane.isExported("copy"))
            try await hosts.pair()
        }
    }

    @Test func aStepThatFailsHereEndsTheReplicaThere() async throws {
        try await TwoHosts.run { hosts in
            hosts.north.plane.breakElement("peer")
            let error = await refusal { try await hosts.pair() }
            #expect(error?.code == .elementUnavailable)
            #expect(try await hosts.north.service.pairList().isEmpty)
            #expect(try await hosts.south.service.pairList().isEmpty)
            #expect(hosts.south.plane.calls.last == .removeReplica)
            hosts.north.plane.mendElement("peer")
            try await hosts.pair()
        }
    }

    /// A peer that is removed while a pair with it is made leaves no pair without a peer.
    @Test func aPeerThatGoesMeanwhile() async throws {
        try await TwoHosts.run { hosts in
            let (plane, service) = (hosts.north.plane, hosts.north.service)
            plane.hold()
            let request = PairCreateRequest(sourceVolume: "db1", targetPath: "repl://south/copy", name: "m1")
            let creation = Task { await refusal { try await service.createPair(request) } }
            while !plane.isHeld { await Task.yield() }
            try await service.removePeer(named: "south")
            plane.release()
            #expect(await creation.value?.code == .peerNotFound)
            #expect(try await service.pairList().isEmpty)
            #expect(plane.calls.last == .detachPair)
        }
    }

    /// A replica whose source could not tell its end stands in nobody's way for ever.
    @Test func aReplicaThatIsLeftIsEndedByForce() async throws {
        try await TwoHosts.run { hosts in
            hosts.north.plane.breakElement("peer")
            hosts.link.lose(.answer, .answer, .message)
            let error = await refusal { try await hosts.pair() }
            #expect(error?.message.contains("'replctl set m1 Detach --force'") == true, "\(String(describing: error))")
            let left = try await hosts.south.service.pairList()
            #expect(left.map(\.name) == ["m1"])
            hosts.north.plane.mendElement("peer")
            let again = await refusal { try await hosts.pair() }
            #expect(again?.code == .volumeIsReplica)
            let asked = await refusal { try await hosts.south.set(.name("Detach")) }
            #expect(asked?.code == .needsForce)
            let other = await refusal { try await hosts.south.set(.name("Suspend"), force: true) }
            #expect(other?.code == .pairNotFound)
            #expect(other?.suggestion?.contains("Detach --force") == true)
            let ended = try await hosts.south.set(.name("Detach"), force: true)
            #expect(ended.returnCode == Enumerated(ReturnCode.success))
            #expect(hosts.south.plane.isExported("copy"))
            try await hosts.pair()
        }
    }

    @Test func detachEndsBothSides() async throws {
        try await TwoHosts.run { hosts in
            let id = try await hosts.pair().id
            hosts.north.plane.become(.synchronized)
            let reply = try await hosts.north.set(.name("Detach"))
            #expect(reply.extendedStatus == nil)
            #expect(try await hosts.north.service.pairList().isEmpty)
            #expect(try await hosts.south.service.pairList().isEmpty)
            #expect(hosts.south.plane.isExported("copy"))
            for host in [hosts.north, hosts.south] {
                #expect(!FileManager.default.fileExists(atPath: host.directory.file("state/pairs/\(id).meta")))
            }
            #expect(try await hosts.pair().id != id)
        }
    }

    /// A later pair of the same two volumes compares them.
    @Test func dissolveLeavesAnAspect() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.north.plane.become(.synchronized)
            _ = try await hosts.north.set(.name("Dissolve"))
            #expect(try await hosts.south.service.pairList().isEmpty)
            #expect(await hosts.north.service.aspectList().map(\.targetPath) == ["repl://south/copy"])
            #expect(try await hosts.pair(activates: false).copyState == Enumerated(CopyState.inactive))
            #expect(await hosts.north.service.aspectList().isEmpty)
        }
    }

    @Test func detachWhileThePeerIsAwayNeedsForceAndSaysWhatIsLeft() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.north.plane.become(.synchronized)
            hosts.link.cut()
            let error = await refusal { try await hosts.north.set(.name("Detach")) }
            #expect(error?.code == .needsForce)
            #expect(error?.message.contains("the cable is out") == true)
            #expect(try await hosts.north.pair().peer?.isConnected == false)
            let reply = try await hosts.north.set(.name("Detach"), force: true)
            #expect(reply.returnCode == Enumerated(ReturnCode.success))
            #expect(reply.extendedStatus?.code == "replica-left")
            #expect(reply.extendedStatus?.message.contains("'replctl set m1 Detach --force'") == true)
            #expect(try await hosts.north.service.pairList().isEmpty)
            #expect(try await hosts.south.service.pairList().map(\.name) == ["m1"])
            let here = await refusal { try await hosts.south.set(.name("Detach")) }
            #expect(here?.code == .needsForce)
            _ = try await hosts.south.set(.name("Detach"), force: true)
            #expect(hosts.south.plane.isExported("copy"))
        }
    }

    @Test func aVolumeThatIsAReplicaIsNothingElse() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let south = hosts.south.service
            let removed = await refusal { try await south.removeVolume(named: "copy", isForced: true) }
            #expect(removed?.code == .volumeIsReplica)
            let grown = await refusal { try await south.growVolume(named: "copy", VolumeGrowRequest()) }
            #expect(grown?.code == .volumeIsReplica)
            let target = try hosts.south.directory.element("other")
            let paired = await refusal {
                try await south.createPair(PairCreateRequest(sourceVolume: "copy", targetPath: target, name: "m2"))
            }
            #expect(paired?.code == .volumeIsReplica)
            let request = PairCreateRequest(sourceVolume: "db1", targetPath: "repl://south/copy", name: "m2")
            let twice = await refusal { try await hosts.north.service.createPair(request) }
            #expect(twice?.code == .elementInUse)
            #expect(hosts.south.plane.state.withLock { $0.replicas.count } == 1)
        }
    }

    @Test func theModeTakesEffectAndStays() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let reply = try await hosts.north.set(.name("ResetToAsync"))
            #expect(reply == MethodReply(returnCode: .success))
            #expect(hosts.north.plane.calls.last == .setMode(isAsynchronous: true))
            try await hosts.restartNorth()
            #expect(hosts.north.plane.calls.contains(.setMode(isAsynchronous: true)))
            hosts.north.plane.breakElement("mode")
            let error = await refusal { try await hosts.north.set(.name("ResetToSync")) }
            #expect(error?.code == .elementUnavailable)
            #expect(try await hosts.north.pair().mode == Enumerated(ReplicationMode.asynchronous))
            hosts.north.plane.mendElement("mode")
            _ = try await hosts.south.set(.name("ResetToSync"))
            #expect(hosts.north.plane.calls.last == .setMode(isAsynchronous: false))
            #expect(try await hosts.north.pair().mode == Enumerated(ReplicationMode.synchronous))
        }
    }

    @Test func whatOnlyTheSourceKnowsIsRefusedOnTheOtherHost() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let south = hosts.south.service
            let refusals = [
                await refusal { try await south.operations(ofPair: "m1") },
                await refusal { try await south.changes(ofPair: "m1") },
                await refusal { try await south.verify(pair: "m1", VerifyRequest()) },
                await refusal { try await south.configureResync(ofPair: "m1", ResyncRequest(paused: true)) },
            ]
            for error in refusals {
                #expect(error?.message == "pair 'm1' has its source at peer 'north'; here is its replica")
            }
        }
    }
}

/// What stands against a volume as a replica, and is said by the daemon that has it.
@Suite struct AssociateTests {
    private func refused(
        _ code: ControlError.Code,
        copyByteCount: UInt64 = 1 << 20,
        _ prepare: (TwoHosts) async throws -> Void
    ) async throws {
        try await TwoHosts.run(copyByteCount: copyByteCount) { hosts in
            try await prepare(hosts)
            let before = try await hosts.south.service.pairList()
            let error = await refusal { try await hosts.pair() }
            #expect(error?.code == code, "\(String(describing: error))")
            #expect(error?.message.hasPrefix("peer 'south': ") == true)
            #expect(try await hosts.south.service.pairList().map(\.name) == before.map(\.name))
            #expect(try await hosts.north.service.pairList().isEmpty)
            let files = try FileManager.default.contentsOfDirectory(atPath: hosts.south.directory.file("state/pairs"))
            #expect(files.count == before.count(where: { $0.role == nil }))
        }
    }

    @Test func aVolumeThatIsTooSmall() async throws {
        try await refused(.invalidSettings, copyByteCount: 1 << 19) { _ in }
    }

    @Test func aVolumeWithLargerBlocks() async throws {
        try await refused(.invalidSettings) { hosts in
            hosts.south.plane.state.withLock { state in
                for id in state.volumes.keys { state.volumes[id]?.blockByteCount = 8192 }
            }
        }
    }

    @Test func aVolumeWithClients() async throws {
        try await refused(.volumeInUse) { $0.south.plane.connectClients(1, to: "copy") }
    }

    @Test func aVolumeThatIsReadOnly() async throws {
        try await refused(.invalidSettings) { hosts in
            try await hosts.south.service.removeVolume(named: "copy", isForced: false)
            let path = hosts.south.directory.file("copy")
            let request = VolumeAddRequest(name: "copy", elementPath: path, isReadOnly: true)
            _ = try await hosts.south.service.addVolume(request)
        }
    }

    @Test func aVolumeWithAPair() async throws {
        try await refused(.volumeHasPairs) { hosts in
            let target = try hosts.south.directory.element("target")
            let request = PairCreateRequest(sourceVolume: "copy", targetPath: target, name: "own")
            _ = try await hosts.south.service.createPair(request)
        }
    }

    @Test func aNameThatIsTaken() async throws {
        try await refused(.nameInUse) { hosts in
            let source = try hosts.south.directory.element("source")
            let target = try hosts.south.directory.element("target")
            _ = try await hosts.south.service.addVolume(VolumeAddRequest(name: "own", elementPath: source))
            let request = PairCreateRequest(sourceVolume: "own", targetPath: target, name: "m1")
            _ = try await hosts.south.service.createPair(request)
        }
    }

    @Test func aDataPlaneThatRefuses() async throws {
        try await refused(.elementUnavailable) { $0.south.plane.breakElement("replica") }
    }

    @Test func aRegistryThatCannotBeWritten() async throws {
        struct Full: Error {}
        try await refused(.stateDirectory) { hosts in
            await hosts.south.service.observeRegistryWrites { _ in throw Full() }
        }
    }

    /// An id names files: one that is another pair's already must not be taken from a peer.
    @Test func anIdThatIsAnothersHere() async throws {
        try await TwoHosts.run { hosts in
            let source = try hosts.south.directory.element("source")
            let target = try hosts.south.directory.element("target")
            _ = try await hosts.south.service.addVolume(VolumeAddRequest(name: "own", elementPath: source))
            let request = PairCreateRequest(sourceVolume: "own", targetPath: target, name: "m2")
            let own = try await hosts.south.service.createPair(request)
            let before = try hosts.south.record("m2")
            let answer = try await hosts.answer(to: PeerMessages.encode(hosts.message(try #require(PairID(own.id)))))
            #expect(answer.refusal?.extendedStatus?.code == "element-in-use")
            #expect(try hosts.south.record("m2") == before)
        }
    }

    /// The same pair with two volumes at once becomes one replica.
    @Test func anIdThatIsAskedForTwice() async throws {
        try await TwoHosts.run { hosts in
            let other = try hosts.south.directory.element("other")
            _ = try await hosts.south.service.addVolume(VolumeAddRequest(name: "copy2", elementPath: other))
            let id = PairID(high: 5, low: 6)
            let messages = try [
                PeerMessages.encode(hosts.message(id)),
                PeerMessages.encode(hosts.message(id, name: "m8", volume: "copy2")),
                PeerMessages.encode(hosts.message(id, name: "m7")),
            ]
            let (south, host) = (hosts.south.plane, hosts.north.plane.state.withLock { $0.host })
            let answers = try await withThrowingTaskGroup(of: PeerAnswer.self) { group in
                for message in messages {
                    group.addTask { try PeerAnswer.decode(await south.hear(message, from: host).get(), of: "south") }
                }
                return try await group.reduce(into: []) { $0.append($1) }
            }
            #expect(answers.count(where: { $0.refusal == nil }) == 1)
            #expect(try await hosts.south.service.pairList().count == 1)
        }
    }

    @Test func aDaemonThatIsItsOwnPeer() async throws {
        try await TwoHosts.run { hosts in
            hosts.link.replace(hosts.south.plane, by: hosts.north.plane)
            let host = hosts.north.plane.state.withLock { $0.host }
            hosts.south.plane.state.withLock { $0.host = host }
            let message = hosts.message(PairID(high: 1, low: 2), volume: "db1")
            let found = try await hosts.north.plane.hear(PeerMessages.encode(message), from: host).get()
            let answer = try PeerAnswer.decode(found, of: "north")
            #expect(answer.refusal?.extendedStatus?.code == "invalid-request")
        }
    }
}
