import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Testing

@testable import RepldSimulation

/// Two real engines: a source and a target whose pairs are in step.
final class PairedHosts {
    /// A pair, and the disks that it is on.
    struct Member {
        let volume: VolumeID
        let pair: PairID
        let disk: SimulatedDisk
        let metadata: SimulatedDisk
        let copy: SimulatedDisk
        let record: SimulatedDisk
        /// Where the target keeps what is overwritten.
        let undo: SimulatedDisk

        init(_ number: Int, in world: ReplicationWorld, _ byteCount: Int) {
            let layout = MetadataLayout(volumeByteCount: UInt64(byteCount), granuleByteCount: 4096)
            volume = VolumeID(rawValue: UInt64(number + 1))
            pair = PairID(high: 5, low: UInt64(number + 6))
            disk = world.hosts[0].makeDisk("disk \(number)", byteCount: byteCount)
            metadata = world.hosts[0].makeDisk("metadata \(number)", byteCount: Int(layout.areaByteCount))
            copy = world.hosts[1].makeDisk("copy \(number)", byteCount: byteCount)
            record = world.hosts[1].makeDisk("record \(number)", byteCount: PairRecord.areaByteCount)
            let area = UndoLayout(volumeByteCount: UInt64(byteCount), granuleByteCount: 4096)
            undo = world.hosts[1].makeDisk("undo \(number)", byteCount: Int(area.areaByteCount))
        }
    }

    struct Refused: Error { var answer: String }

    static let byteCount = 64 << 10
    private static let peer = PeerID(rawValue: 1)

    let world = ReplicationWorld(seed: 11, hostNames: ["source", "target"])
    let members: [Member]
    /// The only pair, or the first.
    var member: Member { members[0] }
    var source: ReplicationHost { world.hosts[0] }
    var target: ReplicationHost { world.hosts[1] }

    /// Whether the target keeps what is overwritten.
    let keepsUndo: Bool
    /// The sizes that the volumes are opened with, which may be less than their disks have.
    var sourceByteCount = byteCount
    var copyByteCount = byteCount

    init(pairCount: Int = 1, keepsUndo: Bool = false, diskByteCount: Int = byteCount) throws {
        self.keepsUndo = keepsUndo
        members = (0..<pairCount).map { [world] in Member($0, in: world, diskByteCount) }
        try startTarget()
        try startSource()
        for member in members {
            try operate(.activate, member)
            try waitFor(.synchronized, member)
        }
    }

    // MARK: - Starts

    func startTarget() throws {
        if !target.isUp { target.start() }
        for member in members {
            let isServed = world.addVolume(
                member.volume,
                named: member.copy.name,
                on: member.copy,
                of: target,
                byteCount: copyByteCount
            )
            try #require(isServed)
            var replica = ReplicaSpec<SimulatedPlatform>(
                volume: member.volume,
                pair: member.pair,
                name: "pair",
                metadata: target.element(member.record),
                record: member.record.pairRecord
            )
            if keepsUndo { takeUndo(of: member, into: &replica) }
            try accept(target) { [replica] in .link(.addReplica(replica, answer: $0)) }
        }
        let place = target.peerPlace
        try accept(target) { .link(.listenToPeers(place, answer: $0)) }
    }

    private func takeUndo(of member: Member, into replica: inout ReplicaSpec<SimulatedPlatform>) {
        if let record = member.record.pairRecord { replica.recordBlock = member.record.block(of: record) }
        replica.undo = member.record.pairRecord.flatMap { record in
            let head = member.undo.bytes(0..<Int(UndoLayout.pageOffset(1)))
            return unsafe RecoveredUndo.read(head.span.bytes, record, granuleByteCount: 4096)
        }
        replica.undoArea = target.element(member.undo)
        replica.granuleByteCount = 4096
    }

    /// Keeps hosts away from all that was there before, as a daemon does that starts.
    func startSource() throws {
        if !source.isUp { source.start() }
        let spec = PeerSpec<SimulatedPlatform>(id: Self.peer, name: "target", handle: target.peerPlace)
        try accept(source) { .link(.addPeer(spec, answer: $0)) }
        for member in members { try addSource(of: member) }
    }

    private func addSource(of member: Member) throws {
        let found = member.metadata.pairRecord
        let isServed = world.addVolume(
            member.volume,
            named: member.disk.name,
            on: member.disk,
            of: source,
            byteCount: sourceByteCount,
            awaitedPeerCount: found == nil ? 0 : 1
        )
        try #require(isServed)
        let first = PairRecord(
            sequence: 0,
            pair: member.pair,
            volumeByteCount: UInt64(sourceByteCount),
            copyState: CopyState.initialized.rawValue,
            isClosedCleanly: false
        )
        let area = member.metadata.bytes(0..<member.metadata.byteCount)
        let maps =
            found.map { record in
                unsafe RecoveredMaps.read(
                    area.span.bytes,
                    record,
                    granuleByteCount: 4096,
                    grownByteCount: UInt64(sourceByteCount)
                )
            } ?? .unknown(because: nil)
        var pair = PairSpec<SimulatedPlatform>(
            volume: member.volume,
            pair: member.pair,
            name: "pair",
            target: .remote(Self.peer, member.copy.geometry),
            metadata: source.element(member.metadata),
            record: found ?? first,
            maps: maps,
            isNew: found == nil,
            settings: PairSettings(
                granuleByteCount: 4096,
                // Slow enough to be found in the middle of it.
                copyDepth: keepsUndo ? 1 : 8,
                copyChunkByteCount: keepsUndo ? 4096 : 16384,
                logExtentByteCount: 16384,
                logExtentCount: 16,
                keepsUndo: keepsUndo
            )
        )
        pair.generation = world.nextGeneration()
        pair.awaitsPeer = found != nil
        try accept(source) { [pair] in .addPair(pair, answer: $0) }
    }

    func accept(
        _ host: ReplicationHost,
        _ command: (@escaping @Sendable (Result<Void, EngineRefusal>) -> Void) -> EngineCommand<SimulatedPlatform>
    ) throws {
        let answer = world.ask(host, command)
        guard case .success? = answer else { throw Refused(answer: "\(String(describing: answer))") }
    }

    // MARK: - What happens

    func operate(
        _ operation: ReplicationOperation,
        isForced: Bool = false,
        keepsUndo: Bool = true,
        _ member: Member? = nil
    ) throws {
        let pair = (member ?? self.member).pair
        let answer: Result<OperationStart, EngineRefusal>? = world.ask(source) {
            .operate(pair, operation, isForced: isForced, keepsUndo: keepsUndo, answer: $0)
        }
        guard case .success = answer else { throw Refused(answer: "\(String(describing: answer))") }
    }

    func write(_ value: UInt64, _ sectors: Range<Int>, _ member: Member? = nil) throws {
        let volume = (member ?? self.member).volume
        let number = try #require(source.submit(.write, sectors, value: value, isDurable: true, to: volume))
        try #require(world.run { source.requests[number].isAnswered })
        #expect(source.requests[number].failure == nil)
    }

    /// Several records further, with writes that both have.
    func goOn() throws {
        try operate(.suspend)
        try waitFor(.suspended)
        try write(7, 8..<16)
        try operate(.resume)
        try waitFor(.synchronized)
        try write(8, 32..<40)
    }

    /// Steps until the pair has the state, nothing is under way, and the peer has its record.
    func waitFor(_ state: CopyState, _ member: Member? = nil) throws {
        let member = member ?? self.member
        let isThere = world.run(steps: 400_000) {
            member.metadata.pairRecord?.copyState == state.rawValue && member.metadata.pairRecord?.operation == 0
                && member.record.pairRecord?.sequence == member.metadata.pairRecord?.sequence
        }
        try #require(isThere, "\(String(describing: facts?.copyState)) instead of \(state)")
        // Whoever waits for an operation is answered when both have all of it.
        try pass(seconds: 3)
    }

    func pass(seconds: UInt64, _ check: () -> Void = {}) throws {
        let end = world.world.now + seconds * 1_000_000_000
        let hasPassed = world.run(steps: 400_000) {
            check()
            return world.world.now > end
        }
        try #require(hasPassed)
    }

    // MARK: - Backups

    /// What both disks of a host hold.
    func backup(_ disks: SimulatedDisk...) -> [[UInt8]] { disks.map { $0.bytes(0..<$0.byteCount) } }

    func restore(_ backup: [[UInt8]], _ disks: SimulatedDisk...) {
        for (disk, bytes) in zip(disks, backup) { disk.overwrite(bytes, at: 0) }
    }

    /// The target loses power, and what it keeps of a pair.
    func loseTargetsRecord(of member: Member? = nil) {
        let record = (member ?? self.member).record
        target.crash()
        record.overwrite([UInt8](repeating: 0, count: record.byteCount), at: 0)
    }

    // MARK: - What can be seen

    var status: EngineStatus? { world.ask(source) { .status(answer: $0) } }
    var facts: PairStatus? { status?.volumes.first?.pairs.first }
    /// Hosts are kept away from the first volume.
    var isWithheld: Bool { status?.volumes.first?.isWithheld ?? false }

    /// Why everything was compared, each time.
    var comparisons: [HandshakeRule] {
        source.events.compactMap { event in
            guard case .historyCompared(let rule) = event.kind else { return nil }
            return rule
        }
    }

    func expectEqual(_ member: Member? = nil) {
        let member = member ?? self.member
        #expect(member.disk.sectors(differingFrom: member.copy).isEmpty)
    }
}
