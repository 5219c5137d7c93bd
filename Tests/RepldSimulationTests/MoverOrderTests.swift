import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import RepldSimulation
import Testing

/// The order among movers of several volumes on one engine.
@Suite struct MoverOrderTests {
    /// Two volumes with a pair each, on simulated disks.
    private final class TwoVolumes {
        static var byteCount: Int { 1 << 20 }
        static var names: [String] { ["a", "b"] }

        let world = SimulatedWorld(seed: 1)
        let mailbox = Mailbox<SimulatedPlatform>()
        var engine: Engine<SimulatedPlatform>

        init(orders: [UInt16]) {
            engine = Engine(
                platform: SimulatedPlatform(host: world.addHost("host")),
                mailbox: mailbox,
                bufferClasses: [
                    BufferPool.SizeClass(byteCount: 4096, count: 64), BufferPool.SizeClass(byteCount: 65536, count: 48),
                ]
            ) { _ in }
            for (index, order) in orders.enumerated() { add(index, order) }
            turn(20)
        }

        static func pair(_ index: Int) -> PairID { PairID(high: 7, low: UInt64(index)) }

        private func element(_ name: String, _ byteCount: Int) -> ElementSpec<SimulatedPlatform> {
            let disk = SimulatedDisk(name: name, byteCount: byteCount)
            return ElementSpec(handle: SimulatedElement(disk), geometry: disk.geometry, name: name)
        }

        private func add(_ index: Int, _ order: UInt16) {
            let id = VolumeID(rawValue: UInt64(index))
            let source = element("source", Self.byteCount)
            _ = mailbox.send(
                .addVolume(VolumeSpec(id: id, name: Self.names[index], isReadOnly: false, source: source)) { _ in }
            )
            let spec = PairSpec<SimulatedPlatform>(
                volume: id,
                pair: Self.pair(index),
                name: Self.names[index],
                target: .local(element("target", Self.byteCount)),
                metadata: element("metadata", Int(Self.layout.areaByteCount)),
                record: PairRecord(
                    sequence: 0,
                    pair: Self.pair(index),
                    volumeByteCount: UInt64(Self.byteCount),
                    copyState: CopyState.initialized.rawValue,
                    isClosedCleanly: false
                ),
                maps: .unknown(because: nil),
                isNew: true,
                settings: PairSettings(granuleByteCount: 65536, copyChunkByteCount: 65536, copy: .init(order: order))
            )
            _ = mailbox.send(.addPair(spec) { _ in })
        }

        static var layout: MetadataLayout {
            MetadataLayout(volumeByteCount: UInt64(byteCount), granuleByteCount: 65536)
        }

        func activate(_ index: Int) {
            _ = mailbox.send(.operate(Self.pair(index), .activate, isForced: true) { _ in })
        }

        func configure(_ index: Int, _ settings: CopySettings) {
            _ = mailbox.send(.configureCopy(Self.pair(index), settings) { _ in })
        }

        func turn(_ count: Int) { for _ in 0..<count { _ = engine.turn() } }

        func state(_ index: Int) -> CopyState? { engine.copyState(of: Self.pair(index)) }

        func isUntouched(_ index: Int) -> Bool {
            engine.facts(of: Self.pair(index))?.differingByteCount == UInt64(Self.byteCount)
        }

        /// Turns until a pair is Synchronized; false when that takes too long.
        func synchronizes(_ index: Int, while holds: () -> Bool = { true }) -> Bool {
            for _ in 0..<5000 {
                if state(index) == .synchronized { return true }
                guard holds() else { return false }
                turn(1)
            }
            return false
        }
    }

    @Test func theSmallerNumberComesFirstWhoeverAskedFirst() {
        let world = TwoVolumes(orders: [2, 1])
        world.activate(0)
        world.activate(1)
        #expect(world.synchronizes(1) { world.isUntouched(0) })
        #expect(world.synchronizes(0), "and then the other")
    }

    @Test func onePausedHoldsNobodyUp() {
        let world = TwoVolumes(orders: [2, 1])
        world.configure(1, CopySettings(isPaused: true, order: 1))
        world.activate(1)
        world.activate(0)
        #expect(world.synchronizes(0) { world.isUntouched(1) })
        world.configure(1, CopySettings(order: 1))
        #expect(world.synchronizes(1))
    }

    @Test func equalNumbersRunSideBySide() {
        let world = TwoVolumes(orders: [4, 4])
        world.activate(0)
        world.activate(1)
        world.turn(60)
        #expect(!world.isUntouched(0) || world.state(0) == .unsynchronized)
        #expect(world.synchronizes(0) && world.synchronizes(1))
    }
}
