import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldPair
import SystemPackage
import Synchronization
import Testing

/// Either daemon is killed and started again.
@Suite struct RemoteRestartTests {
    @Test func theSourceGoesOnWithoutItsPeer() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.link.cut()
            try await hosts.restartNorth()
            let pair = try await hosts.north.pair()
            #expect(pair.role == .source && pair.peer?.isConnected == false && pair.targetPath == "repl://south/copy")
            #expect(pair.reason == nil && pair.byteCount == 1 << 20)
            let opening = hosts.north.plane.state.withLock { $0.pairs.values.first?.opening }
            guard case .remote(_, let geometry) = opening?.target else {
                Issue.record("the target is no peer's")
                return
            }
            #expect(geometry.byteCount == 1 << 20)
            hosts.link.mend()
            _ = try await hosts.south.set(.name("Suspend"))
            #expect(try await hosts.north.pair().copyState == Enumerated(CopyState.suspended))
            _ = try await hosts.north.set(.name("Detach"), force: true)
            #expect(try await hosts.south.service.pairList().isEmpty)
        }
    }

    @Test func theReplicaIsNoHostsBeforeItsPeerIsBack() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.south.plane.hearRecord(.synchronized)
            hosts.link.cut()
            try await hosts.restartSouth()
            #expect(!hosts.south.plane.isExported("copy"))
            let replica = try await hosts.south.pair()
            #expect(replica.copyState == Enumerated(CopyState.synchronized) && replica.role == .replica)
            #expect(replica.peer?.name == "north")
            hosts.link.mend()
            _ = try await hosts.north.set(.name("Detach"), force: true)
            #expect(hosts.south.plane.isExported("copy"))
        }
    }

    /// A replica that cannot be given to the peer is nobody's.
    @Test func aReplicaThatCannotBeAttachedIsNotServed() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let after = try hosts.south.afterKill()
            after.plane.breakElement("replica")
            try await after.service.start()
            #expect(after.plane.servingPath("copy") == nil)
            let volume = try await after.service.volume(named: "copy")
            #expect(volume.reason?.contains("it is the replica of pair 'm1'") == true && volume.replicaOf == "m1")
            after.plane.mendElement("replica")
            _ = try await after.service.retryVolume(named: "copy")
            #expect(after.plane.servingPath("copy") != nil && !after.plane.isExported("copy"))
        }
    }

    /// Every moment at which the replica's daemon may die while the pair is made: either it knows the replica, or the volume is
    /// the host's own and nothing is left.
    @Test(arguments: DurableFile.Step.allCases)
    func aKillWhileAReplicaIsMade(step: DurableFile.Step) async throws {
        try await TwoHosts.run { hosts in
            let killed = Killed()
            let path = hosts.south.directory.file("state")
            await hosts.south.service.observeRegistryWrites { if $0 == step { killed.snapshot(path, "\($0)") } }
            try await hosts.pair()
            let (copy, _) = try #require(killed.take().first)
            let after = try ServiceFixture(in: copy)
            try await after.service.start()
            let known = try await after.service.pairList()
            #expect(after.plane.isExported("copy") == known.isEmpty)
            let files = try FileManager.default.contentsOfDirectory(atPath: copy.file("state/pairs"))
            #expect(files.count == known.count)
        }
    }

    @Test func aVolumeWhosePeerServesIsNotServedHere() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.north.plane.become(.synchronized)
            hosts.link.cut()
            try await hosts.restartNorth()
            #expect(hosts.north.plane.servingPath("db1") != nil && !hosts.north.plane.isExported("db1"))
            let shown = try await hosts.north.service.volume(named: "db1")
            #expect(shown.isWithheld == true)
            #expect(shown.reason == "withheld: waiting for peer 'south' (the cable is out)")
            let refused = await refusal { try await hosts.north.service.serveVolume(named: "db1", .init()) }
            #expect(refused?.code == .needsForce)
            let detach = await refusal { try await hosts.north.set(.name("Detach")) }
            #expect(detach?.code == .needsForce)
            hosts.link.mend()
            hosts.north.plane.askPeers()
            #expect(hosts.north.plane.isExported("db1"))
        }
    }

    /// Whoever reads that the peer has not answered would wait for it.
    @Test func hostsStayAwayFromAnInvalidPairUntilSomebodyDecides() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.north.plane.become(.invalid)
            try await hosts.restartNorth()
            #expect(!hosts.north.plane.isExported("db1"))
            let reason = try await hosts.north.service.volume(named: "db1").reason ?? ""
            #expect(reason.hasPrefix("withheld: pair 'm1' is Invalid, and nobody has said whose data counts; "))
            let ways = [
                "replctl set m1 ResyncReplica --force", "replctl set m1 RestoreFromReplica --force",
                "replctl volume serve db1 --force",
            ]
            for way in ways { #expect(reason.contains("'\(way)'")) }
            let refused = await refusal { try await hosts.north.service.serveVolume(named: "db1", .init()) }
            #expect(refused?.code == .needsForce && refused?.message.contains("second history") == true)
            for way in ways { #expect(refused?.suggestion?.contains("'\(way)'") == true) }
            _ = try await hosts.north.set(.name("RestoreFromReplica"), force: true)
            hosts.north.plane.askPeers()
            #expect(hosts.north.plane.isExported("db1"))
        }
    }

    @Test func hostsComeByForceToAnInvalidPair() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.north.plane.become(.invalid)
            try await hosts.restartNorth()
            let served = try await hosts.north.service.serveVolume(named: "db1", .init(force: true))
            #expect(served.isWithheld == nil && hosts.north.plane.isExported("db1"))
            let event = await hosts.north.service.events(after: 0).last { $0.kind == "volume-released" }
            #expect(event?.message.contains("pair 'm1' is Invalid") == true)
        }
    }

    @Test func hostsComeByForceWithoutThePeer() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            hosts.link.cut()
            try await hosts.restartNorth()
            let served = try await hosts.north.service.serveVolume(named: "db1", .init(force: true))
            #expect(served.isWithheld == nil && hosts.north.plane.isExported("db1"))
        }
    }

    /// What was never activated has nothing that a peer could have taken over.
    @Test func aPairThatWasNeverActivatedKeepsNobodyAway() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair(activates: false)
            hosts.link.cut()
            try await hosts.restartNorth()
            #expect(hosts.north.plane.isExported("db1"))
        }
    }
}

/// What the registry keeps of peers, and what of it is refused.
@Suite struct PeerRegistryTests {
    private let date = Date(timeIntervalSince1970: 0)
    private let host = String(repeating: "b", count: 32)

    private var content: RegistryContent {
        var content = RegistryContent()
        content.nextVolumeNumber = 3
        content.nextPeerNumber = 2
        content.volumes = [
            VolumeEntry(number: 1, name: "a", elementPath: "/a", isReadOnly: false, createdAt: date),
            VolumeEntry(number: 2, name: "b", elementPath: "/b", isReadOnly: false, createdAt: date),
        ]
        var peer = PeerEntry(number: 1, name: "south", host: "192.0.2.2", port: 7733, keyFile: "/k", createdAt: date)
        peer.hostID = host
        content.peers = [peer]
        var pair = PairEntry(
            id: PairID(high: 1, low: 2),
            name: "m1",
            volumeNumber: 1,
            targetPath: "repl://south/copy",
            settings: PairSettings(),
            createdAt: date,
            revisionLimit: 1
        )
        let geometry = ElementGeometry(
            byteCount: 1 << 20,
            logicalBlockByteCount: 512,
            physicalBlockByteCount: 4096,
            isReadOnly: false,
            canDiscard: true,
            canZeroFast: false,
            isDirect: true
        )
        pair.remote = RemoteTarget(peer: "south", volume: "copy", hostID: host, geometry: RemoteGeometry(geometry))
        content.pairs = [pair]
        content.replicas = [
            ReplicaEntry(
                pair: PairID(high: 3, low: 4),
                name: "m2",
                volumeNumber: 2,
                hostID: host,
                sourceVolume: "db1",
                sourceByteCount: 1 << 20,
                granuleByteCount: 65536,
                createdAt: date
            )
        ]
        return content
    }

    @Test func comesBackAsItWas() throws {
        let directory = try TemporaryDirectory()
        var registry = try Registry(path: FilePath(directory.file("registry.json")))
        try registry.commit { $0 = content }
        let after = try Registry(path: FilePath(directory.file("registry.json")))
        #expect(after.content == content)
        #expect(after.content.pairs[0].remote?.geometry.element.logicalBlockByteCount == 512)
        let text = try String(contentsOfFile: directory.file("registry.json"), encoding: .utf8)
        #expect(text.contains("\"version\" : 6") && !text.contains("targetPath"))
    }

    /// A registry of version 2 has none of it, and is read.
    @Test func olderVersionsAreRead() throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("registry.json")
        let text =
            #"{"format":"repld registry","version":2,"nextVolumeNumber":1,"volumes":[],"pairs":[],"aspects":[]}"#
        try Data(text.utf8).write(to: URL(filePath: path))
        let content = try Registry(path: FilePath(path)).content
        #expect(content.peers.isEmpty && content.replicas.isEmpty && content.nextPeerNumber == 1)
    }

    @Test func contradictionsAreTold() {
        func fault(_ change: (inout RegistryContent) -> Void) -> String? {
            var changed = content
            change(&changed)
            return changed.fault
        }
        #expect(content.fault == nil)
        #expect(fault { $0.peers = [] } == "the target of pair 'm1' is at peer 'south', which is not listed")
        #expect(fault { $0.nextPeerNumber = 1 } == "peer 'south' has number 1, expected one below 1")
        #expect(fault { $0.peers.append($0.peers[0]) } == "the peer 'south' is listed twice")
        #expect(fault { $0.peers[0].isPlaintext = true } == "peer 'south' needs a key or plaintext, and not both")
        #expect(fault { $0.peers[0].keyFile = nil } == "peer 'south' needs a key or plaintext, and not both")
        #expect(fault { $0.peers[0].keyFile = "k" } == "the key file of peer 'south' is no absolute path")
        #expect(fault { $0.peers[0].host = "a b" }?.hasPrefix("the address of peer 'south' is none") == true)
        #expect(fault { $0.peers[0].hostID = "b" }?.hasPrefix("the host of peer 'south' is 'b'") == true)
        #expect(fault { $0.replicas[0].name = "m1" } == "the pair 'm1' is listed twice")
        #expect(fault { $0.replicas[0].pair = $0.pairs[0].id.description }?.hasSuffix("is listed twice") == true)
        #expect(fault { $0.replicas[0].pair = "x" }?.hasPrefix("replica 'm2' has the id 'x'") == true)
        #expect(fault { $0.replicas[0].volumeNumber = 1 } == nil, "pairs of a replica rest")
        #expect(fault { $0.replicas[0].volumeNumber = 9 }?.hasSuffix("number 9, which is not listed") == true)
        #expect(fault { $0.pairs[0].remote?.hostID = "b" }?.contains("expected 32 lower-case") == true)
        #expect(fault { $0.pairs[0].remote?.geometry.byteCount = 0 }?.contains("its size is 0 bytes") == true)
        #expect(fault { $0.pairs[0].remote?.geometry.logicalBlockByteCount = 100 }?.contains("its blocks") == true)
        #expect(fault { $0.pairs[0].remote = nil } == "the target of pair 'm1' is no absolute path")
    }
}
