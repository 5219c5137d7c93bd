import Foundation
import Logging
import RepldControl
import RepldControlAPI
import RepldControlClient
import RepldPair
import ServiceLifecycle
import Testing

/// The service behind its real server on a real unix socket, asked by the real client.
@Suite struct ServerTests {
    /// Runs `body` against a server, and stops that gracefully afterwards.
    func withServer(
        _ fixture: ServiceFixture,
        _ body: (ControlClient) async throws -> Void
    ) async throws {
        let path = fixture.directory.file("control.sock")
        let (ready, continuation) = AsyncStream.makeStream(of: Void.self)
        let logger = Logger.silent
        let server = try fixture.server(whenReady: { continuation.finish() })
        let group = ServiceGroup(configuration: .init(services: [.init(service: server)], logger: logger))
        async let running: Void = group.run()
        for await _ in ready {}
        do {
            try await body(ControlClient(socketPath: path))
        } catch {
            await group.triggerGracefulShutdown()
            throw error
        }
        await group.triggerGracefulShutdown()
        try await running
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    private func refusal(_ client: ControlClient, _ path: String, _ body: String) async -> MethodReply? {
        let error = await #expect(throws: ClientError.self) {
            _ = try await client.bytes(.post, path, rawBody: Data(body.utf8))
        }
        return error?.reply
    }

    @Test func servesVolumesAndPairs() async throws {
        let fixture = try ServiceFixture()
        try await fixture.service.start()
        let source = try fixture.directory.element("source")
        let target = try fixture.directory.element("target")
        try await withServer(fixture) { client in
            let added: VolumeReply = try await client.call(
                .post,
                "/v1/volumes",
                body: VolumeAddRequest(name: "db1", elementPath: source)
            )
            #expect(added.name == "db1")
            let request = PairCreateRequest(sourceVolume: "db1", targetPath: target, name: "m1")
            let pair: PairReply = try await client.call(.post, "/v1/pairs", body: request)
            #expect(pair.copyState == Enumerated(CopyState.unsynchronized))
            let list: PairListReply = try await client.call(.get, "/v1/pairs")
            #expect(list.pairs.map(\.name) == ["m1"])
            let suspended: MethodReply = try await client.call(
                .post,
                "/v1/pairs/m1/SetReplicationRelationship",
                body: SetReplicationRelationshipRequest(operation: .name("suspend"))
            )
            #expect(suspended.returnCode == Enumerated(ReturnCode.success))
            let resumed: MethodReply = try await client.call(
                .post,
                "/v1/pairs/m1/SetReplicationRelationship",
                body: SetReplicationRelationshipRequest(operation: .number(16))
            )
            #expect(resumed.returnCode == Enumerated(ReturnCode.jobStarted))
            let metrics = String(decoding: try await client.bytes(.get, "/metrics"), as: UTF8.self)
            #expect(metrics.contains("\nrepld_volume_size_bytes{volume=\"db1\"} 1048576\n"))
            #expect(metrics.contains("repld_pair_copy_state{pair=\"m1\",state=\"Unsynchronized\",volume=\"db1\"} 3\n"))
            let daemon: DaemonReply = try await client.call(.get, "/v1/daemon")
            #expect(daemon.volumeCount == 1 && daemon.pairCount == 1)
        }
    }

    @Test func servesJobsPlansAndTheTable() async throws {
        let fixture = try await ServiceFixture.paired()
        try await withServer(fixture) { client in
            let jobs: JobListReply = try await client.call(.get, "/v1/jobs")
            #expect(jobs.jobs.map(\.id) == ["m1.1"])
            let waited: JobReply = try await client.call(.get, "/v1/jobs/m1.1?wait=true&timeout=0")
            #expect(waited.state == Enumerated(JobState.running))
            let cancelled: JobReply = try await client.call(.post, "/v1/jobs/m1.1/Cancel")
            #expect(cancelled.state == Enumerated(JobState.shuttingDown))
            let plan: MethodReply = try await client.call(
                .post,
                "/v1/pairs/m1/SetReplicationRelationship",
                body: SetReplicationRelationshipRequest(operation: .number(16), plan: true)
            )
            #expect(plan.plan?.resultingCopyState == Enumerated(CopyState.synchronized))
            let table: CapabilitiesReply = try await client.call(.get, "/v1/capabilities")
            #expect(table == CapabilitiesReply())
            let path = "/v1/capabilities/GetSupportedOperations?copyState="
            let operations: SupportedOperationsReply = try await client.call(.get, path + "suspended")
            #expect(operations == SupportedOperationsReply(.suspended))
            let byNumber: SupportedOperationsReply = try await client.call(.get, path + "9")
            #expect(byNumber == operations)
            let states: SupportedCopyStatesReply = try await client.call(
                .get,
                "/v1/capabilities/GetSupportedCopyStates?operation=resyncreplica"
            )
            #expect(states == SupportedCopyStatesReply(.resyncReplica))
            let live: PairOperationsReply = try await client.call(.get, "/v1/pairs/m1/GetSupportedOperations")
            #expect(live.copyState == Enumerated(CopyState.suspended))
            let aspects: AspectListReply = try await client.call(.get, "/v1/aspects")
            #expect(aspects.aspects.isEmpty)
            let metrics = String(decoding: try await client.bytes(.get, "/metrics"), as: UTF8.self)
            #expect(metrics.contains("\nrepld_jobs{state=\"ShuttingDown\"} 1\n"))
            #expect(metrics.contains("repld_pair_operation{pair=\"m1\",volume=\"db1\"} 0\n"))
        }
    }

    @Test func servesPeers() async throws {
        let fixture = try await ServiceFixture.paired()
        try await withServer(fixture) { client in
            let request = PeerAddRequest(name: "b", address: "b.example", keyFile: "/k", compression: .off)
            let peer: PeerReply = try await client.call(.post, "/v1/peers", body: request)
            #expect(peer.address == "b.example:7733" && peer.compression == .off)
            let shown: PeerReply = try await client.call(.get, "/v1/peers/b")
            let list: PeerListReply = try await client.call(.get, "/v1/peers")
            let again: PeerReply = try await client.call(.post, "/v1/peers/b/Retry")
            #expect(shown == peer && list.peers == [peer] && again == peer)
            let metrics = String(decoding: try await client.bytes(.get, "/metrics"), as: UTF8.self)
            #expect(metrics.contains("\nrepld_peer_up{peer=\"b\"} 0\n"))
            #expect(metrics.contains("\nrepld_peer_sent_bytes_total{peer=\"b\"} 5000\n"))
            let wrong = await refusal(client, "/v1/peers", #"{"name":"c","address":"c","compress":"off"}"#)
            #expect(wrong?.extendedStatus?.message.contains("unknown field 'compress'") == true)
            let gone: MethodReply = try await client.call(.delete, "/v1/peers/b")
            #expect(gone.returnCode == Enumerated(ReturnCode.success))
            let none: PeerListReply = try await client.call(.get, "/v1/peers")
            #expect(none.peers.isEmpty)
        }
    }

    @Test(
        arguments: [
            ("/v1/capabilities/GetSupportedOperations", "copyState: missing"),
            ("/v1/capabilities/GetSupportedOperations?copyState=split2", "copyState: 'split2' is no copy state"),
            ("/v1/capabilities/GetSupportedCopyStates?operation=1", "'1' is no operation"),
            ("/v1/jobs/m1.1?wait=true&timeout=-1", "timeout: found '-1'"),
            ("/v1/jobs/m1.1?wait=yes", "wait: found 'yes'"),
        ]
    )
    func refusesTheQuery(path: String, words: String) async throws {
        let fixture = try await ServiceFixture.paired()
        try await withServer(fixture) { client in
            let error = await #expect(throws: ClientError.self) { _ = try await client.bytes(.get, path) }
            #expect(error?.reply?.returnCode == Enumerated(ReturnCode.invalidParameter))
            #expect(error?.message.contains(words) == true, "\(String(describing: error))")
        }
    }

    @Test func onlyItsOwnerMayConnect() async throws {
        let fixture = try ServiceFixture()
        try await withServer(fixture) { client in
            let attributes = try FileManager.default.attributesOfItem(atPath: client.socketPath)
            #expect(attributes[.posixPermissions] as? Int == 0o600)
        }
    }

    @Test func takesOverAStaleSocketButNotAServedOneOrAFile() async throws {
        let fixture = try ServiceFixture()
        let path = fixture.directory.file("control.sock")
        let other = try fixture.server()
        try Data("precious".utf8).write(to: URL(filePath: path))
        await #expect(throws: ControlError.self) { try await other.run() }
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "precious")
        try FileManager.default.removeItem(atPath: path)
        try makeStaleSocket(at: path)
        try await withServer(fixture) { client in
            let error = await #expect(throws: ControlError.self) { try await other.run() }
            #expect(error?.message == "another process listens on \(path)")
            let _: DaemonReply = try await client.call(.get, "/v1/daemon")
        }
    }

    @Test(
        arguments: [
            ("{", "not valid JSON"),
            ("[]", "the body has the wrong type; expected an object"),
            ("{}", "the field 'name' is missing"),
            (#"{"name":"a","elementPath":7}"#, "the field 'elementPath' has the wrong type; expected a string"),
            (
                #"{"name":"a","elementPath":"/x","readonly":true}"#,
                "unknown field 'readonly'; did you mean 'isReadOnly'?"
            ),
            (#"{"name":"a","elementPath":"/x","createByteCount":-1}"#, "'createByteCount'"),
        ]
    )
    func refusesTheBody(body: String, words: String) async throws {
        let fixture = try ServiceFixture()
        try await withServer(fixture) { client in
            let reply = await refusal(client, "/v1/volumes", body)
            #expect(reply?.returnCode == Enumerated(ReturnCode.invalidParameter))
            #expect(reply?.extendedStatus?.message.contains(words) == true, "\(String(describing: reply))")
        }
    }

    @Test func refusesWhatItDoesNotKnow() async throws {
        let fixture = try ServiceFixture()
        try await withServer(fixture) { client in
            for path in ["/v1/nothing", "/v1/volumes/db1", "/v1/pairs/m1", "/v2/volumes"] {
                let error = await #expect(throws: ClientError.self) { _ = try await client.bytes(.get, path) }
                #expect(error?.reply?.returnCode == Enumerated(ReturnCode.objectNotFound), "\(path)")
            }
            let large = "\"" + String(repeating: "a", count: 100_000) + "\""
            let reply = await refusal(client, "/v1/volumes", large)
            #expect(reply?.extendedStatus?.message.contains("larger than 65536 bytes") == true)
        }
    }

    @Test func followsEvents() async throws {
        let fixture = try await ServiceFixture.paired()
        try await withServer(fixture) { client in
            struct Enough: Error {}
            var kinds: [String] = []
            let error = await #expect(throws: ClientError.self) {
                try await client.lines("/v1/events?since=0&follow=true") { line in
                    let event = try ControlJSON.decode(EventReply.self, from: line)
                    kinds.append(event.kind)
                    // Only once the answer has begun: what comes now was not there when it did.
                    if event.kind == "operation-accepted" {
                        Task { _ = try await fixture.set(.name("Suspend")) }
                    }
                    if kinds.count(where: { $0 == "operation-accepted" }) == 2 { throw Enough() }
                }
            }
            #expect(error?.underlying is Enough)
            #expect(kinds == ["volume-added", "pair-created", "operation-accepted", "operation-accepted"])
        }
    }

    @Test func anUnreachableDaemonIsTold() async throws {
        let directory = try TemporaryDirectory()
        let client = ControlClient(socketPath: directory.file("none.sock"))
        let error = await #expect(throws: ClientError.self) { _ = try await client.bytes(.get, "/v1/daemon") }
        #expect(error?.code == .unreachable)
        #expect(error?.message.contains(client.socketPath) == true)
    }
}
