import Foundation
import RepldControl
import RepldControlAPI
import RepldControlClient
import RepldPair
import Testing

/// Roles, users and TCP through the real server, asked by the real client.
@Suite struct AccessServerTests {
    private func client(_ endpoint: ControlEndpoint, as user: String?) -> ControlClient {
        ControlClient(endpoint) { user.map(AccessBed.credentials) }
    }

    /// The return code that a request ends with.
    private func code(
        _ client: ControlClient,
        _ method: ControlClient.Method,
        _ path: String,
        _ body: String? = nil
    ) async -> (number: Int, word: String?) {
        do {
            _ = try await client.bytes(method, path, rawBody: body.map { Data($0.utf8) })
            return (0, nil)
        } catch {
            return (error.reply?.returnCode.number ?? -1, error.reply?.extendedStatus?.code)
        }
    }

    @Test func everyRouteHasARuleAndEveryRuleARoute() throws {
        let routes = Set(try ServiceFixture().server().routes)
        #expect(!routes.isEmpty)
        let rules = Set(AccessRule.table.keys)
        #expect(routes.subtracting(rules).sorted() == [], "these routes have no line in AccessRule.table")
        #expect(rules.subtracting(routes).sorted() == [], "these lines of AccessRule.table have no route")
    }

    @Test func whatOnlyLooksIsForEverybodyAndWhatChangesIsNot() {
        for (route, rule) in AccessRule.table {
            let isGet = route.hasPrefix("GET ")
            let isOfUsers = route.contains("/users")
            #expect(rule.allows(.operator, isPlan: false) && rule.allows(.operator, isPlan: true), "\(route)")
            #expect(rule.allows(.readOnly, isPlan: false) == (isGet && !isOfUsers), "\(route)")
            let mayPlan = isGet && !isOfUsers || route.hasSuffix("/SetReplicationRelationship")
            #expect(rule.allows(.readOnly, isPlan: true) == mayPlan, "\(route)")
        }
        #expect(AccessRule.rule(method: "POST", route: "/v1/new") == .operatorOnly)
        #expect(AccessRule.rule(method: "GET", route: "/v1/new") == .operatorOnly)
        #expect(AccessRule.rule(method: "GET", route: nil) == .readOnly)
    }

    /// Every route over TCP: nobody without a password, and nobody beyond the role.
    @Test func everyRouteIsGuarded() async throws {
        let bed = try await AccessBed()
        let routes = try bed.fixture.server().routes
        try await bed.serve { endpoint in
            for route in routes {
                let parts = route.split(separator: " ")
                let method = try #require(ControlClient.Method(rawValue: String(parts[0])))
                let path = String(parts[1]).replacing(/\{[a-z]+\}/, with: "no-such-name")
                let body = method == .post ? "{}" : nil
                let nobody = await code(client(endpoint, as: nil), method, path, body)
                #expect(nobody == (40001, "not-authenticated"), "\(route)")
                let mayRead = AccessRule.table[route] == .readOnly
                let reader = await code(client(endpoint, as: "rita"), method, path, body)
                #expect((reader == (40001, "access-denied")) == !mayRead, "\(route): \(reader)")
                let full = await code(client(endpoint, as: "olga"), method, path, body)
                #expect(full.number != 40001, "\(route): \(full)")
            }
        }
        #expect(bed.clock.waits.isEmpty, "no password was wrong")
    }

    @Test func anOperatorWorksOverTCP() async throws {
        let bed = try await AccessBed()
        try await bed.serve { endpoint in
            let olga = client(endpoint, as: "olga")
            let daemon: DaemonReply = try await olga.call(.get, "/v1/daemon")
            #expect(daemon.pairCount == 1)
            let reply: MethodReply = try await olga.call(
                .post,
                "/v1/pairs/m1/SetReplicationRelationship",
                body: SetReplicationRelationshipRequest(operation: .name("Suspend"))
            )
            #expect(reply.returnCode.number == 0 || reply.returnCode.number == 4096)
            let resumed: MethodReply = try await olga.call(
                .post,
                "/v1/pairs/m1/SetReplicationRelationship",
                body: SetReplicationRelationshipRequest(operation: .name("Resume"))
            )
            let id = try #require(resumed.job)
            let job: JobReply = try await olga.call(.get, "/v1/jobs/\(id)")
            #expect(job.startedBy == "user olga")
            var events: [EventReply] = []
            try await olga.lines("/v1/events?since=0") {
                events.append(try ControlJSON.decode(EventReply.self, from: $0))
            }
            #expect(events.contains { $0.kind == "operation-accepted" && $0.by == "user olga" }, "\(events)")
            #expect(events.contains { $0.kind == "pair-created" && $0.by == nil }, "nobody asked over HTTP")
        }
    }

    /// A plan changes nothing, so that who may only look may ask for it; what the method then says of it is its own.
    @Test func whoMayOnlyLookMayPlan() async throws {
        let bed = try await AccessBed()
        let path = "/v1/pairs/m1/SetReplicationRelationship"
        try await bed.serve { endpoint in
            let rita = client(endpoint, as: "rita")
            let plan = await code(rita, .post, path, #"{"operation":"Suspend","plan":true}"#)
            #expect(plan.number == 0, "\(plan)")
            for body in [#"{"operation":"Suspend","plan":false}"#, #"{"operation":"Suspend","plan":1}"#, "{}", "["] {
                #expect(await code(rita, .post, path, body) == (40001, "access-denied"), "\(body)")
            }
            let pair = try await bed.fixture.pair()
            #expect(pair.copyState != Enumerated(CopyState.suspended))
        }
    }

    /// What a client may send before it is known, and how many of them there may be.
    @Test func aHeadThatIsTooLargeIsRefused() async throws {
        let bed = try await AccessBed()
        try await bed.serve { endpoint in
            let long = String(repeating: "x", count: ControlServer.headByteLimit)
            let flood = ControlClient(endpoint) { ClientCredentials(user: long, password: long) }
            await #expect(throws: ClientError.self) { _ = try await flood.bytes(.get, "/v1/daemon") }
            let _: DaemonReply = try await client(endpoint, as: "rita").call(.get, "/v1/daemon")
        }
        #expect(bed.clock.waits.isEmpty)
    }

    @Test func theBodysNameAndPasswordCountToo() async throws {
        let bed = try await AccessBed()
        let path = "/v1/pairs/m1/SetReplicationRelationship"
        func body(_ user: String, _ password: String) -> String {
            #"{"operation":"Suspend","username":"\#(user)","password":"\#(password)"}"#
        }
        try await bed.serve { endpoint in
            let nobody = client(endpoint, as: nil)
            let wrong = await code(nobody, .post, path, body("olga", "wrong password"))
            #expect(wrong == (40001, "not-authenticated"))
            #expect(bed.clock.waits == [FailureDelays.first])
            let reader = await code(nobody, .post, path, body("rita", AccessBed.password(of: "rita")))
            #expect(reader == (40001, "access-denied"))
            let other = await code(
                client(endpoint, as: "rita"),
                .post,
                path,
                body("olga", AccessBed.password(of: "olga"))
            )
            #expect(other == (40001, "not-authenticated"))
            let right = await code(nobody, .post, path, body("olga", AccessBed.password(of: "olga")))
            #expect(right.number == 0)
            // The credentials are gone before the method looks at its fields.
            let half = await code(nobody, .post, path, #"{"operation":"Suspend","username":"olga"}"#)
            #expect(half == (5, "invalid-request"))
            let elsewhere = await code(nobody, .post, "/v1/volumes", body("olga", AccessBed.password(of: "olga")))
            #expect(elsewhere == (40001, "not-authenticated"), "only that method has them in its signature")
        }
    }

    @Test func theSocketsOwnerNeedsNoPasswordButGivenOnesCount() async throws {
        let bed = try await AccessBed()
        try await bed.serve { _ in
            let socket = ControlEndpoint.unix(path: bed.socketPath)
            let owner = client(socket, as: nil)
            let list: UserListReply = try await owner.call(.get, "/v1/users")
            #expect(list.users.map(\.name) == ["olga", "rita"])
            #expect(await code(client(socket, as: "rita"), .get, "/v1/users") == (40001, "access-denied"))
            let wrong = ControlClient(socket) { ClientCredentials(user: "olga", password: "wrong password") }
            #expect(await code(wrong, .get, "/v1/daemon") == (40001, "not-authenticated"))
        }
    }

    @Test func usersAreManagedOverHTTP() async throws {
        let bed = try await AccessBed()
        try await bed.serve { endpoint in
            let olga = client(endpoint, as: "olga")
            let request = UserAddRequest(name: "anna", role: "read-only", password: AccessBed.password(of: "anna"))
            let anna: UserReply = try await olga.call(.post, "/v1/users", body: request)
            #expect(anna.role == "read-only")
            #expect(await code(client(endpoint, as: "anna"), .delete, "/v1/users/anna") == (40001, "access-denied"))
            let raised: UserReply = try await olga.call(
                .post,
                "/v1/users/anna/Role",
                body: UserRoleRequest(role: "operator")
            )
            #expect(raised.role == "operator")
            let password = UserPasswordRequest(password: "anna's other one")
            let _: UserReply = try await olga.call(.post, "/v1/users/anna/Password", body: password)
            #expect(await code(client(endpoint, as: "anna"), .get, "/v1/daemon") == (40001, "not-authenticated"))
            let text = String(decoding: try await olga.bytes(.get, "/v1/users"), as: UTF8.self)
            #expect(!text.contains("$y$"), "hashes do not travel")
            let gone: MethodReply = try await olga.call(.delete, "/v1/users/anna")
            #expect(gone.returnCode == Enumerated(ReturnCode.success))
            #expect(await code(olga, .delete, "/v1/users/anna") == (8, "user-not-found"))
        }
        #expect(bed.log.all.allSatisfy { !$0.contains("anna's") })
        for words in ["user added", "role changed", "password changed", "user removed"] {
            let isTold = bed.log.all.contains { line in
                [words, "by=\"user olga\"", "user=anna"].allSatisfy { line.contains($0) }
            }
            #expect(isTold, "\(words): \(bed.log.all)")
        }
    }

    @Test func anUnknownPathIsToldToUsersOnly() async throws {
        let bed = try await AccessBed()
        try await bed.serve { endpoint in
            #expect(await code(client(endpoint, as: nil), .get, "/v1/nothing").number == 40001)
            #expect(await code(client(endpoint, as: "rita"), .get, "/v1/nothing") == (8, "path-not-found"))
        }
    }

    @Test(arguments: ["0.0.0.0", "192.0.2.1", "::", "localhost", "127.1", "::ffff:127.0.0.1", "fe80::1", "example.com"])
    func onlyLoopbackIsListenedOn(host: String) async throws {
        let server = try ServiceFixture().server(tcp: [HostPort(host: host, port: 7700)])
        let error = await refusal { try await server.run() }
        #expect(error?.code == .configuration)
        #expect(error?.message.contains("clear text") == true && error?.message.contains("ssh -L") == true)
    }

    @Test func anAddressInUseEndsTheServerAndIsTold() async throws {
        let bed = try await AccessBed()
        try await bed.serve { endpoint in
            guard case .tcp(let host, let port) = endpoint else { return }
            let fixture = try ServiceFixture()
            let server = try fixture.server(tcp: [HostPort(host: host, port: UInt16(port))])
            let error = await refusal { try await server.run() }
            #expect(error?.code == .socket)
            #expect(error?.message == "cannot serve the control address 127.0.0.1:\(port)")
            #expect(!FileManager.default.fileExists(atPath: fixture.directory.file("control.sock")))
        }
    }

    @Test(arguments: ["127.0.0.1", "127.8.9.10", "::1"])
    func loopbackMayBeListenedOn(host: String) {
        #expect(ControlListening.fault(of: HostPort(host: host, port: 7700)) == nil)
    }

    @Test func aSocketCanBeGivenToOthers() async throws {
        let fixture = try ServiceFixture()
        var listening = ControlListening(socketPath: fixture.directory.file("control.sock"))
        listening.socketMode = 0o660
        listening.socketGroup = "root"
        let path = listening.socketPath
        let (ready, isReady) = AsyncStream.makeStream(of: Void.self)
        let server = ControlServer(
            service: fixture.service,
            access: Access(users: try fixture.users(), logger: .silent),
            listening: listening,
            logger: .silent,
            whenReady: { isReady.finish() }
        )
        let running = Task { try await server.run() }
        for await _ in ready {}
        let attributes = try FileManager.default.attributesOfItem(atPath: path)
        #expect(attributes[.posixPermissions] as? Int == 0o660)
        #expect(attributes[.groupOwnerAccountName] as? String == "root")
        running.cancel()
        _ = await running.result
        listening.socketGroup = "no-such-group"
        let other = ControlServer(
            service: fixture.service,
            access: Access(users: try fixture.users(), logger: .silent),
            listening: listening,
            logger: .silent
        )
        let error = await refusal { try await other.run() }
        #expect(error?.message == "control.socket-group: there is no group 'no-such-group'")
    }
}
