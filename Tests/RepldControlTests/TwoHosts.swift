import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import RepldPair
import Synchronization
import Testing

/// Two services, each the other's peer: `north` has volume `db1`, `south` has volume `copy`.
final class TwoHosts {
    private(set) var north: ServiceFixture
    private(set) var south: ServiceFixture
    let link: FakeLink
    private var former: [ServiceFixture] = []
    private var followers: [Task<Void, Never>] = []
    /// The services take note of what their data planes tell, also after a start.
    private var isFollowing = false

    /// Runs `body` with two hosts, and stops them.
    static func run(copyByteCount: UInt64 = 1 << 20, _ body: (TwoHosts) async throws -> Void) async throws {
        let hosts = try TwoHosts()
        do {
            try await hosts.start(copyByteCount)
            try await body(hosts)
        } catch {
            await hosts.stop()
            throw error
        }
        await hosts.stop()
    }

    /// Runs `body` with a pair that is Synchronized on both hosts, while both services follow their data planes.
    static func moving(copyByteCount: UInt64 = 1 << 20, _ body: (TwoHosts) async throws -> Void) async throws {
        try await run(copyByteCount: copyByteCount) { hosts in
            try await hosts.pair()
            hosts.north.plane.become(.synchronized)
            hosts.south.plane.hearRecord(.synchronized)
            hosts.follow(hosts.north)
            hosts.follow(hosts.south)
            hosts.isFollowing = true
            try await body(hosts)
        }
    }

    private init() throws {
        north = try ServiceFixture()
        south = try ServiceFixture()
        link = FakeLink(north.plane, south.plane)
    }

    private func start(_ copyByteCount: UInt64) async throws {
        try await start(north)
        try await start(south)
        let source = try north.directory.element("source")
        let copy = try south.directory.element("copy", byteCount: copyByteCount)
        _ = try await north.service.addVolume(VolumeAddRequest(name: "db1", elementPath: source))
        _ = try await south.service.addVolume(VolumeAddRequest(name: "copy", elementPath: copy))
        _ = try await north.service.addPeer(.init(name: "south", address: "192.0.2.2", keyFile: "/etc/repld/key"))
        _ = try await south.service.addPeer(.init(name: "north", address: "north.example:9", keyFile: "/etc/repld/key"))
    }

    private func start(_ fixture: ServiceFixture) async throws {
        let host = try await #require(PairID(fixture.service.daemon().host ?? ""))
        fixture.plane.state.withLock { $0.host = host }
        followers.append(Task { await fixture.service.followMessages() })
        try await fixture.service.start()
        if isFollowing { follow(fixture) }
    }

    private func follow(_ fixture: ServiceFixture) {
        followers.append(Task { await fixture.service.followDataPlane() })
    }

    private func stop() async {
        for fixture in former + [north, south] { await fixture.service.stop() }
        for follower in followers { await follower.value }
        for fixture in former + [north, south] {
            // What is called before each step holds those whose step it is.
            fixture.plane.beforeEachCall { _ in }
            await fixture.service.observeRegistryWrites { _ in }
            fixture.directory.remove()
        }
    }

    func restartNorth() async throws { north = try await restarted(north, as: north.afterKill()) }
    func restartSouth() async throws { south = try await restarted(south, as: south.afterKill()) }

    /// Starts what was killed, with what was durable then.
    func restart(after kill: Kill) async throws {
        if let directory = kill.directory(of: .north) { north = try await restarted(north, as: .init(in: directory)) }
        if let directory = kill.directory(of: .south) { south = try await restarted(south, as: .init(in: directory)) }
    }

    private func restarted(_ fixture: ServiceFixture, as after: ServiceFixture) async throws -> ServiceFixture {
        await fixture.service.stop()
        former.append(fixture)
        link.replace(fixture.plane, by: after.plane)
        try await start(after)
        return after
    }

    /// Makes pair `m1` of `db1` and `copy`.
    @discardableResult
    func pair(target: String = "repl://south/copy", activates: Bool = true) async throws -> PairReply {
        let request = PairCreateRequest(sourceVolume: "db1", targetPath: target, name: "m1", activates: activates)
        return try await north.service.createPair(request)
    }

    /// What `north` would ask `south`.
    func message(_ pair: PairID, name: String = "m9", volume: String = "copy") -> AssociateMessage {
        AssociateMessage(
            pair: pair,
            name: name,
            host: north.plane.state.withLock { $0.host },
            sourceVolume: "db1",
            byteCount: 4096,
            blockByteCount: 4096,
            granuleByteCount: 65536,
            volume: volume
        )
    }

    /// What `south` answers to a message of `north`, of whatever bytes.
    func answer(to bytes: [UInt8], from host: PairID? = nil) async throws -> PeerAnswer {
        let known = north.plane.state.withLock { $0.host }
        let found = try await south.plane.hear(bytes, from: host ?? known).get()
        return try PeerAnswer.decode(found, of: "south")
    }
}

extension ServiceFixture {
    /// A job, when it has ended.
    func ended(_ job: String?) async throws -> JobReply {
        try await service.job(id: try #require(job), waitingSeconds: nil)
    }
}

extension ReplicationService {
    /// Waits until a pair has moved away.
    func waitForReplica(_ name: String) async throws {
        try await wait { try await pair(named: name).role == .replica }
    }

    /// Waits until something holds that changes with what the service tells.
    func wait(until holds: () async throws -> Bool) async throws {
        let wakeups = subscribe()
        defer { wakeups.finish() }
        if try await holds() { return }
        for await _ in wakeups.stream where try await holds() { return }
    }
}
