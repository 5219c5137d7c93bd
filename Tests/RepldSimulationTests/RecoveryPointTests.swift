import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Testing

@testable import RepldSimulation

/// The age of what an asynchronous target lacks, in two real engines and simulated time.
@Suite("The recovery point of an asynchronous pair") struct RecoveryPointTests {
    private static let pair = PairID(high: 5, low: 6)
    private static let volume = VolumeID(rawValue: 1)
    private static let peer = PeerID(rawValue: 1)
    private static let byteCount = 64 << 10
    private static let millisecond: UInt64 = 1_000_000

    /// A source and a target that are in step.
    private final class Scene {
        let world = ReplicationWorld(seed: 7, hostNames: ["source", "target"])
        var source: ReplicationHost { world.hosts[0] }
        var target: ReplicationHost { world.hosts[1] }

        init() throws {
            let copy = target.makeDisk("copy", byteCount: byteCount)
            try #require(world.addVolume(volume, named: "copy", on: copy, of: target))
            let replica = ReplicaSpec<SimulatedPlatform>(
                volume: volume,
                pair: pair,
                name: "pair",
                metadata: target.element(target.makeDisk("record", byteCount: PairRecord.areaByteCount)),
                record: nil
            )
            let place = target.peerPlace
            try accept(target) { .link(.addReplica(replica, answer: $0)) }
            try accept(target) { .link(.listenToPeers(place, answer: $0)) }
            let disk = source.makeDisk("disk", byteCount: byteCount)
            try #require(world.addVolume(volume, named: "volume", on: disk, of: source))
            let spec = PeerSpec<SimulatedPlatform>(id: peer, name: "target", handle: place)
            try accept(source) { .link(.addPeer(spec, answer: $0)) }
            try addPair(copy.geometry)
            _ = source.mailbox.send(.operate(pair, .activate, isForced: false) { _ in })
            try #require(world.run { self.has(.synchronized) })
            // What is recorded of that has reached the peer.
            let settled = now + 3000 * millisecond
            try #require(world.run { self.now > settled })
        }

        private func addPair(_ geometry: ElementGeometry) throws {
            let settings = PairSettings(
                granuleByteCount: 4096,
                copyChunkByteCount: 16384,
                logExtentByteCount: 16384,
                logExtentCount: 16
            )
            let layout = MetadataLayout(volumeByteCount: UInt64(byteCount), granuleByteCount: 4096)
            let record = PairRecord(
                sequence: 0,
                pair: pair,
                volumeByteCount: UInt64(byteCount),
                copyState: CopyState.initialized.rawValue,
                isClosedCleanly: false
            )
            let spec = PairSpec<SimulatedPlatform>(
                volume: volume,
                pair: pair,
                name: "pair",
                target: .remote(peer, geometry),
                metadata: source.element(source.makeDisk("metadata", byteCount: Int(layout.areaByteCount))),
                record: record,
                maps: .unknown(because: nil),
                isNew: true,
                settings: settings
            )
            try accept(source) { .addPair(spec, answer: $0) }
        }

        func accept(
            _ host: ReplicationHost,
            _ command: (@escaping @Sendable (Result<Void, EngineRefusal>) -> Void) -> EngineCommand<SimulatedPlatform>
        ) throws {
            guard case .success? = world.ask(host, command) else {
                throw Refused()
            }
        }

        struct Refused: Error {}

        func setMode(isAsynchronous: Bool, limit nanoseconds: UInt64 = 0) throws {
            try accept(source) {
                .link(.setMode(pair, isAsynchronous: isAsynchronous, recoveryPointNanoseconds: nanoseconds, answer: $0))
            }
        }

        var status: PairStatus? {
            let found: EngineStatus? = world.ask(source) { .status(answer: $0) }
            return found?.volumes.first?.pairs.first
        }

        var state: CopyState? { status?.copyState }

        /// Whether the pair has come to a state in this run.
        func has(_ state: CopyState) -> Bool {
            source.events.contains { event in
                if case .copyStateChanged(_, state) = event.kind { true } else { false }
            }
        }

        var now: UInt64 { world.world.now }

        /// Lets a host write, and waits until it is answered.
        func write(_ value: UInt64) throws {
            let number = try #require(source.submit(.write, 0..<8, value: value, to: volume))
            try #require(world.run { self.source.requests[number].isAnswered })
        }

        /// What is sent does not arrive; nobody has noticed yet.
        func mute() { world.network.mute(from: source.host, to: target.host) }

        func stop() { for host in world.hosts { _ = world.stop(host) } }
    }

    @Test("a target that becomes too old is Skewed at that moment, and not with the next tick")
    func skewed() throws {
        let scene = try Scene()
        let limit = 300 * Self.millisecond
        try scene.setMode(isAsynchronous: true, limit: limit)
        #expect(scene.status?.exposureNanoseconds == 0)
        scene.mute()
        let written = scene.now
        try scene.write(1)
        #expect(scene.state == .synchronized)
        let wasSkewed = scene.world.run { scene.has(.skewed) }
        let age = scene.now - written
        #expect(wasSkewed && age >= limit && age < limit + 50 * Self.millisecond, "\(age) ns")
        let exposure = try #require(scene.status?.exposureNanoseconds)
        #expect(exposure >= limit && exposure <= scene.now - written)
        scene.stop()
    }

    @Test("without a limit a pair is in step until its link is lost, and is exposed since its oldest write")
    func unlimited() throws {
        let scene = try Scene()
        try scene.setMode(isAsynchronous: true)
        scene.mute()
        let written = scene.now
        try scene.write(1)
        let answered = scene.now
        let wasLost = scene.world.run { scene.has(.partitioned) }
        let exposure = try #require(scene.status?.exposureNanoseconds)
        #expect(wasLost && !scene.has(.skewed))
        #expect(exposure >= scene.now - answered && exposure <= scene.now - written)
        #expect(exposure > 1000 * Self.millisecond, "hosts were answered before the link was known to be lost")
        scene.stop()
    }

    @Test("hosts of a synchronous pair lose nothing before its link is known to be lost")
    func synchronous() throws {
        let scene = try Scene()
        try scene.setMode(isAsynchronous: false, limit: Self.millisecond)
        scene.mute()
        let written = scene.now
        try scene.write(1)
        let exposure = try #require(scene.status?.exposureNanoseconds)
        #expect(scene.now - written > 5000 * Self.millisecond, "the host has waited for the target")
        #expect(scene.state == .partitioned && exposure < 2000 * Self.millisecond, "\(exposure) ns")
        #expect(!scene.has(.skewed))
        scene.stop()
    }
}
