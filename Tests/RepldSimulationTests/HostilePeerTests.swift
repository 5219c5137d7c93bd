import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Testing

@testable import RepldSimulation
@testable import RepldWire

/// A peer that sends whatever it likes: the engine ends connections, and nothing else.
@Suite("A hostile peer") struct HostilePeerTests {
    private static let pair = PairID(high: 3, low: 4)
    private static let volume = VolumeID(rawValue: 1)
    private static let volumeByteCount = 256 << 10

    /// A real engine with a replica, and a host whose program is the test.
    private final class Scene {
        let world: ReplicationWorld
        let engine: ReplicationHost
        let hostile: ScriptedHost
        var random: RandomSource

        init(seed: UInt64) throws {
            world = ReplicationWorld(seed: seed, hostNames: ["engine", "hostile"])
            engine = world.hosts[0]
            random = RandomSource(seed: seed)
            world.hosts[1].crash()
            hostile = ScriptedHost(world.hosts[1].host) { _ in }
            hostile.restart()
            let disk = engine.makeDisk("disk", byteCount: volumeByteCount)
            let metadata = engine.makeDisk("metadata", byteCount: 1 << 16)
            let spec = ReplicaSpec<SimulatedPlatform>(
                volume: volume,
                pair: pair,
                name: "pair",
                metadata: engine.element(metadata),
                record: nil
            )
            let source = VolumeSpec(id: volume, name: "v", isReadOnly: false, source: engine.element(disk))
            _ = engine.mailbox.send(.addVolume(source) { _ in })
            _ = engine.mailbox.send(.link(.addReplica(spec) { _ in }))
            _ = engine.mailbox.send(.link(.listenToPeers(engine.peerPlace) { _ in }))
            run { false }
        }

        /// Lets both go on until something holds, or for a while.
        func run(steps: Int = 300, until holds: () -> Bool) {
            for _ in 0..<steps where !holds() {
                guard let next = world.world.nextHost() else { return }
                if next.index == 0 { engine.turn() } else { hostile.turn() }
            }
        }

        func connect() throws -> ScriptedSocket {
            let count = hostile.connected.count
            hostile.connect(toPlace: engine.peerPlace)
            run(steps: 2000) { hostile.connected.count > count || !hostile.connectFailures.isEmpty }
            return try #require(hostile.connected.count > count ? hostile.connected[count] : nil)
        }

        /// A session that both sides have greeted on, with the pair opened.
        func session() throws -> (control: ScriptedSocket, data: ScriptedSocket) {
            let id = PairID(high: random.next(), low: random.next())
            let host = PairID(high: 9, low: 9)
            let control = try connect()
            hostile.send(frame(.hello, Hello(lane: .control, session: id, host: host)), on: control)
            run(steps: 2000) { !control.received.isEmpty }
            let data = try connect()
            hostile.send(frame(.hello, Hello(lane: .data, session: id, host: host)), on: data)
            run(steps: 2000) { !data.received.isEmpty }
            var record = SideRecord(pair: pair, volumeByteCount: UInt64(volumeByteCount), hasPair: true)
            record.sequence = 1
            let opening = PairOpening(record: record, copyState: 4, mode: 2, blockByteCount: 512, granuleShift: 16)
            let count = control.received.count
            hostile.send(frame(.pairOpen, opening, stream: 1), on: control)
            run(steps: 2000) { control.received.count > count }
            return (control, data)
        }

        func frame(_ kind: FrameKind, _ payload: some FramePayload, stream: UInt32 = 0) -> [UInt8] {
            var bytes = [UInt8](repeating: 0, count: type(of: payload).byteCount)
            bytes.withUnsafeMutableBytes { buffer in
                var span = MutableRawSpan(_unsafeBytes: buffer)
                payload.encode(into: &span)
            }
            return HostilePeerTests.frame(FrameHeader(kind: kind, stream: stream), bytes)
        }
    }

    private static func frame(_ header: FrameHeader, _ payload: [UInt8]) -> [UInt8] {
        var header = header
        if !payload.isEmpty { header.seal(payload: payload.span.bytes) }
        var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        bytes.withUnsafeMutableBytes { buffer in
            var span = MutableRawSpan(_unsafeBytes: buffer)
            header.encode(into: &span)
        }
        return bytes + payload
    }

    /// A frame that passes every check of the format, with fields that make no sense.
    private static func anyFrame(_ random: inout RandomSource, on lane: Lane) -> [UInt8] {
        let kinds = FrameKind.allCases.filter { $0.rule.lane == nil || $0.rule.lane == lane }
        let kind = kinds[Int(random.below(UInt64(kinds.count)))]
        var header = FrameHeader(kind: kind)
        let fields = kind.rule.fields
        if fields.contains(.stream) { header.stream = UInt32(1 + random.below(2)) }
        if fields.contains(.position) { header.epoch = random.below(3) }
        if fields.contains(.tag) { header.tag = random.chance(oneIn: 2) ? random.below(8) : random.next() }
        if fields.contains(.detail) { header.detail = UInt32(random.below(16)) }
        if fields.contains(.range) {
            let units = [512, 4096, 65536, 131_072, 1 << 20, 1 << 30]
            header.length = UInt32(units[Int(random.below(6))])
            header.offset = random.chance(oneIn: 8) ? random.below(1 << 60) : random.below(512) * 512
        }
        switch kind.rule.payload {
        case .none:
            if kind == .digestRequest { header.detail = 1 << UInt32(9 + random.below(22)) }
            if kind == .read { header.length = min(header.length, 131_072) }
            let asked = UInt64(header.length) / UInt64(max(header.detail, 1)) + 1
            if kind == .digestRequest, asked > 8192 { header.detail = 1 << 30 }
            return frame(header, [])
        case .fixed(let count): return frame(header, bytes(&random, count))
        case .words: return frame(header, bytes(&random, Int(random.below(100))))
        case .message: return frame(header, bytes(&random, Int(random.below(2000))))
        case .data:
            header.length = min(header.length, 131_072)
            if kind.rule.flags.contains(.compressed), random.chance(oneIn: 3) {
                header.flags.insert(.compressed)
                return frame(header, bytes(&random, 1 + Int(random.below(UInt64(header.length) - 1))))
            }
            return frame(header, bytes(&random, Int(header.length)))
        case .digests:
            header.detail = 1 << 30
            return frame(header, bytes(&random, 8))
        }
    }

    private static func bytes(_ random: inout RandomSource, _ count: Int) -> [UInt8] {
        (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    }

    /// The engine serves its own, whatever has come.
    private func checkAlive(_ scene: Scene) {
        #expect(scene.engine.isUp)
        let isStopped = scene.engine.mailbox.send(.stop {})
        #expect(isStopped)
        scene.run(steps: 5000) { !scene.engine.isUp }
        #expect(!scene.engine.isUp, "and stops when it is told to")
    }

    @Test("sends bytes that are no frames", arguments: [1, 2, 3] as [UInt64])
    func garbage(seed: UInt64) throws {
        let scene = try Scene(seed: seed)
        for length in [1, 63, 64, 65, 5000, 500_000] {
            let socket = try scene.connect()
            scene.hostile.send(Self.bytes(&scene.random, length), on: socket)
            scene.run(steps: 400) { socket.hasEnded || socket.isLost }
            #expect(length < 64 || socket.hasEnded || socket.isLost, "\(length) bytes of garbage end the connection")
        }
        checkAlive(scene)
    }

    @Test("sends frames that make no sense", arguments: [1, 2, 3, 4, 5, 6] as [UInt64])
    func senseless(seed: UInt64) throws {
        let scene = try Scene(seed: seed)
        var endedCount = 0
        for _ in 0..<12 {
            let (control, data) = try scene.session()
            for _ in 0..<60 {
                let isControl = scene.random.chance(oneIn: 2)
                let bytes = Self.anyFrame(&scene.random, on: isControl ? .control : .data)
                scene.hostile.send(bytes, on: isControl ? control : data)
                scene.run(steps: 12) { control.hasEnded || control.isLost }
                if control.hasEnded || control.isLost { break }
            }
            if control.hasEnded || control.isLost { endedCount += 1 }
        }
        #expect(endedCount > 0, "some of them end the session")
        checkAlive(scene)
    }

    @Test("calls itself a host that is known, without being it", arguments: [false, true])
    func wrongName(isThatHost: Bool) throws {
        let scene = try Scene(seed: 5)
        let place = isThatHost ? SimulatedPlace(scene.hostile.host) : SimulatedPlace(scene.engine.host, port: 5)
        var spec = PeerSpec<SimulatedPlatform>(id: PeerID(rawValue: 9), name: "known", handle: place)
        spec.host = PairID(high: 9, low: 9)
        _ = scene.engine.mailbox.send(.link(.addPeer(spec) { _ in }))
        scene.run { false }
        let control = try scene.connect()
        let hello = Hello(lane: .control, session: PairID(high: 1, low: 1), host: PairID(high: 9, low: 9))
        scene.hostile.send(scene.frame(.hello, hello), on: control)
        scene.run(steps: 2000) { control.hasEnded || control.isLost || (isThatHost && !control.received.isEmpty) }
        #expect((control.hasEnded || control.isLost) == !isThatHost)
        checkAlive(scene)
    }

    @Test("asks more than it takes answers to")
    func takesNoAnswers() throws {
        let scene = try Scene(seed: 7)
        let (control, data) = try scene.session()
        control.wantsToReceive = false
        data.wantsToReceive = false
        for tag in 0..<4000 {
            let kind: FrameKind = tag % 2 == 0 ? .read : .ping
            var header = FrameHeader(kind: kind, stream: kind == .read ? 1 : 0, tag: UInt64(tag))
            if kind == .read { header.length = 131_072 }
            let payload = kind == .read ? [] : [UInt8](repeating: 0, count: Ping.byteCount)
            scene.hostile.send(Self.frame(header, payload), on: control)
        }
        scene.run(steps: 4000) { false }
        checkAlive(scene)
    }
}
