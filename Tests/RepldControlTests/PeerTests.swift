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

/// Peers as one daemon knows them.
@Suite struct PeerTests {
    private func add(
        _ fixture: ServiceFixture,
        _ name: String,
        at address: String,
        key: String? = "/etc/key",
        plaintext: Bool? = nil
    ) async throws -> PeerReply {
        try await fixture.service.addPeer(
            PeerAddRequest(name: name, address: address, keyFile: key, plaintext: plaintext, compression: .always)
        )
    }

    @Test func isRememberedAndToldToTheDataPlane() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let peer = try await add(fixture, "b", at: "[2001:db8::7]")
        #expect(peer.address == "[2001:db8::7]:7733" && peer.keyFile == "/etc/key" && !peer.plaintext)
        #expect(!peer.isConnected && peer.reason == "connection refused" && peer.compression == .always)
        #expect(peer.roundTripMicroseconds == 250 && peer.compressionRatio == 4 && peer.host == nil)
        _ = try await add(fixture, "c", at: "c.example:1", key: nil, plaintext: true)
        let openings = fixture.plane.state.withLock { $0.peers.values.sorted { $0.name < $1.name } }
        #expect(openings.map(\.security) == [.key(path: "/etc/key"), .plaintext])
        #expect(openings.map(\.settings.compression) == [.always, .always])
        let after = try fixture.afterKill()
        try await after.service.start()
        #expect(try await after.service.peerList().map(\.name) == ["b", "c"])
        #expect(after.plane.calls == [.addPeer("b"), .addPeer("c")])
        try await after.service.removePeer(named: "b")
        #expect(try await after.service.peerList().map(\.name) == ["c"])
        #expect(try await add(after, "d", at: "b").name == "d")
        #expect(after.plane.state.withLock { $0.peers.keys.map(\.rawValue).sorted() } == [2, 3], "numbers stay taken")
    }

    @Test(
        arguments: [
            ("b", "host", nil, nil, "needs a key file"), ("b", "host", "/k", true, "not both"),
            ("b", "host", "k", nil, "expected an absolute path"), ("-", "host", "/k", nil, "name"),
            ("b", "2001:db8::7", "/k", nil, "expected HOST or HOST:PORT"), ("b", "", "/k", nil, "expected HOST"),
            ("b", "host:0", "/k", nil, "expected HOST"), ("b", "host:65536", "/k", nil, "expected HOST"),
            ("b", "ho st", "/k", nil, "expected HOST"), ("b", "[::1", "/k", nil, "expected HOST"),
            ("a", "host", "/k", nil, "there is a peer 'a' already"), ("b", "a.example", "/k", nil, "peer 'a' is at"),
        ] as [(String, String, String?, Bool?, String)]
    )
    func isRefused(name: String, address: String, key: String?, plaintext: Bool?, words: String) async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        _ = try await add(fixture, "a", at: "a.example:7733")
        let error = await refusal { try await add(fixture, name, at: address, key: key, plaintext: plaintext) }
        #expect(error?.description.contains(words) == true, "\(String(describing: error))")
        #expect(try await fixture.service.peerList().map(\.name) == ["a"])
    }

    @Test func compressionIsChangedAtOnceAndForGood() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        _ = try await add(fixture, "b", at: "b")
        let calls = fixture.plane.calls
        _ = try await fixture.service.configurePeer(named: "b", PeerConfigureRequest())
        _ = try await fixture.service.configurePeer(named: "b", PeerConfigureRequest(compression: .always))
        #expect(fixture.plane.calls == calls, "nothing new is not handed on")
        let peer = try await fixture.service.configurePeer(named: "b", PeerConfigureRequest(compression: .off))
        #expect(peer.compression == .off && fixture.plane.calls.last == .configurePeer(.off))
        fixture.plane.breakElement("peer settings")
        let request = PeerConfigureRequest(compression: .auto)
        #expect(await refusal { try await fixture.service.configurePeer(named: "b", request) } != nil)
        #expect(try await fixture.service.peer(named: "b").compression == .off, "what was refused is not kept")
        #expect(
            await refusal { try await fixture.service.configurePeer(named: "x", request) }?.code == .peerNotFound
        )
        // One that the data plane does not have, because its key cannot be read.
        let after = try fixture.afterKill()
        after.plane.breakElement("/etc/key")
        try await after.service.start()
        #expect(try await after.service.configurePeer(named: "b", request).compression == .auto)
        after.plane.mendElement("/etc/key")
        _ = try await after.service.retryPeer(named: "b")
        #expect(after.plane.state.withLock { $0.peers.values.map(\.settings.compression) } == [.automatic])
    }

    /// A key that cannot be read does not keep the daemon from starting.
    @Test func isTriedAgain() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        fixture.plane.breakElement("/etc/key")
        let error = await refusal { try await add(fixture, "b", at: "b") }
        #expect(error?.code == .elementUnavailable)
        fixture.plane.mendElement("/etc/key")
        _ = try await add(fixture, "b", at: "b")
        let after = try fixture.afterKill()
        after.plane.breakElement("/etc/key")
        try await after.service.start()
        let peer = try await after.service.peer(named: "b")
        #expect(peer.reason?.contains("'replctl peer retry b'") == true)
        #expect(await refusal { try await after.service.retryPeer(named: "b") }?.code == .peerNotConnected)
        after.plane.mendElement("/etc/key")
        #expect(try await after.service.retryPeer(named: "b").reason == "connection refused")
        #expect(await refusal { try await after.service.retryPeer(named: "x") }?.code == .peerNotFound)
    }

    @Test func isNotRemovedWhileAPairNeedsIt() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let north = await refusal { try await hosts.north.service.removePeer(named: "south") }
            #expect(north?.code == .peerInUse && north?.message.contains("'m1'") == true)
            #expect(try await hosts.north.service.peer(named: "south").pairs == ["m1"])
            _ = try await hosts.south.set(.name("Suspend"))
            #expect(try await hosts.south.service.peer(named: "north").pairs == ["m1"])
            _ = try await hosts.north.set(.name("Detach"), force: true)
            try await hosts.north.service.removePeer(named: "south")
            try await hosts.south.service.removePeer(named: "north")
        }
    }

    @Test func listensBeforeHostsDoAndAfterReplicas() async throws {
        try await TwoHosts.run { hosts in
            try await hosts.pair()
            let copy = try hosts.south.afterKill()
            let listening = PeerListening(host: "0.0.0.0", port: 7733)
            let nbd = FrontEndAddress.nbdTCP(host: "127.0.0.1", port: 10809)
            let plane = FakeDataPlane()
            let again = try TemporaryDirectory()
            try FileManager.default.copyItem(
                atPath: copy.directory.file("state"),
                toPath: again.file("state")
            )
            let service = try ReplicationService(
                plane: plane,
                state: StateDirectory(path: FilePath(again.file("state"))),
                settings: .init(frontEnds: [nbd], peerListening: listening),
                logger: .silent
            )
            try await service.start()
            #expect(
                plane.calls
                    == [
                        .addPeer("north"), .addVolume("copy"), .addReplica("m1"), .listenToPeers(listening),
                        .listen(nbd),
                    ]
            )
            #expect(try await service.daemon().peerAddress == "0.0.0.0:7733")
        }
    }

    /// Made once, and never silently anew.
    @Test func theHostsNameStays() async throws {
        let fixture = try ServiceFixture()
        let id = try await fixture.service.daemon().host
        #expect(PairID(try #require(id)) != nil)
        let after = try fixture.afterKill()
        #expect(try await after.service.daemon().host == id)
        #expect(try await ServiceFixture().service.daemon().host != id)
        try Data("000102".utf8).write(to: URL(filePath: after.directory.file("state/host-id")))
        let error = #expect(throws: ControlError.self) { _ = try after.afterKill() }
        #expect(error?.message.contains("is damaged") == true)
    }
}
