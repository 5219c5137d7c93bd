import Foundation
import RepldControl
import RepldControlAPI
import RepldCore
import Synchronization
import Testing

/// Two services, each the other's peer: `north` has volume `db1`, `south` has volume `copy`.
final class TwoHosts {
    private(set) var north: ServiceFixture
    private(set) var south: ServiceFixture
    let link: FakeLink
    private var former: [ServiceFixture] = []
    private var followers: [Task<Void, Never>] = []

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
    }

    private func stop() async {
        for fixture in former + [north, south] { await fixture.service.stop() }
        for follower in followers { await follower.value }
    }

    func restartNorth() async throws { north = try await restarted(north) }
    func restartSouth() async throws { south = try await restarted(south) }

    private func restarted(_ fixture: ServiceFixture) async throws -> ServiceFixture {
        let after = try fixture.afterKill()
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
