import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Testing

@testable import RepldSimulation

/// A volume whose replica is on another host grows, in two real engines: the replica first, then the source.
@Suite("A growth of a pair between two hosts") struct HostGrowthTests {
    private static let former = PairedHosts.byteCount
    private static let wanted = 2 * PairedHosts.byteCount
    /// A sector that differs without anybody knowing of it: whoever looks at the former range finds and mends it.
    private static let secret = 20

    /// Two hosts whose disks have grown, and whose volumes have not; the new range of the two differs in every sector.
    private func enlarged(keepsUndo: Bool = false) throws -> PairedHosts {
        let scene = try PairedHosts(keepsUndo: keepsUndo, diskByteCount: Self.wanted)
        scene.member.disk.overwrite([UInt8](repeating: 0x5a, count: Self.wanted - Self.former), at: Self.former)
        scene.member.copy.overwrite([UInt8](repeating: 0xee, count: 512), at: Self.secret * 512)
        return scene
    }

    /// As its registry says so from then on, the replica's host lets its volume grow.
    private func growCopy(_ scene: PairedHosts) throws {
        let volume = scene.member.volume
        scene.copyByteCount = Self.wanted
        try scene.accept(scene.target) { .grow(volume, UInt64(Self.wanted), answer: $0) }
    }

    private func growSource(_ scene: PairedHosts) throws {
        let volume = scene.member.volume
        scene.sourceByteCount = Self.wanted
        try scene.accept(scene.source) { .grow(volume, UInt64(Self.wanted), answer: $0) }
    }

    /// Lets the source grow, and does not wait for it.
    private func beginGrowth(_ scene: PairedHosts) {
        scene.sourceByteCount = Self.wanted
        let command = EngineCommand<SimulatedPlatform>.grow(scene.member.volume, UInt64(Self.wanted)) { _ in }
        #expect(scene.source.mailbox.send(command))
    }

    /// Both elements are equal in the new range, and nobody has looked at the former one.
    private func expectOnlyNewRangeMoved(_ scene: PairedHosts, _ moment: String = "") {
        let differing = scene.member.disk.sectors(differingFrom: scene.member.copy)
        #expect(differing == [Self.secret], "\(moment)")
        #expect(scene.comparisons.isEmpty, "\(moment)")
        #expect(scene.member.metadata.pairRecord?.volumeByteCount == UInt64(Self.wanted), "\(moment)")
        #expect(scene.member.record.pairRecord?.volumeByteCount == UInt64(Self.wanted), "\(moment)")
    }

    @Test("moves the new range and nothing else, while hosts write")
    func onlyNewRangeMoves() throws {
        let scene = try enlarged()
        try growCopy(scene)
        try scene.write(3, 64..<72)
        #expect(scene.facts?.copyState == .synchronized, "a replica may be larger than its source")
        try growSource(scene)
        let told = try #require(scene.member.record.pairRecord)
        #expect(told.volumeByteCount == UInt64(Self.wanted), "hosts see the size when the replica has heard of it")
        try scene.write(4, 200..<208)
        try scene.write(5, 72..<80)
        try scene.waitFor(.synchronized)
        let written = try #require(scene.facts).copyWrittenByteCount
        #expect(written <= UInt64(Self.wanted - Self.former) && written > 0)
        expectOnlyNewRangeMoved(scene)
    }

    @Test("of an asynchronous pair leaves what is on its way as it is")
    func asynchronous() throws {
        let scene = try enlarged()
        let pair = scene.member.pair
        try scene.accept(scene.source) {
            .link(.setMode(pair, isAsynchronous: true, recoveryPointNanoseconds: 0, answer: $0))
        }
        try growCopy(scene)
        var numbers: [Int] = []
        for value in 0..<6 {
            let sectors = 64 + 8 * value..<72 + 8 * value
            let number = scene.source.submit(.write, sectors, value: UInt64(value + 9), to: scene.member.volume)
            numbers.append(try #require(number))
        }
        try growSource(scene)
        try scene.write(4, 200..<208)
        try #require(scene.world.run { numbers.allSatisfy { scene.source.requests[$0].isAnswered } })
        try scene.waitFor(.synchronized)
        expectOnlyNewRangeMoved(scene)
    }

    /// Not when there is something to take back: the area is laid out for the size of the volume.
    @Test("is refused where the replica keeps what a copy has overwritten, and goes on when it keeps nothing")
    func undo() throws {
        let scene = try PairedHosts(keepsUndo: true, diskByteCount: Self.wanted)
        try scene.operate(.suspend)
        try scene.waitFor(.suspended)
        try scene.write(7, 0..<96)
        try scene.operate(.resume)
        try #require(scene.world.run(steps: 400_000) { scene.member.record.pairRecord?.hasUndo ?? false })
        let volume = scene.member.volume
        for host in [scene.target, scene.source] {
            let answer: Result<VolumeGrowth, EngineRefusal>? = scene.world.ask(host) {
                .checkGrowth(volume, UInt64(Self.wanted), answer: $0)
            }
            #expect(answer == .failure(.growthRefused(.pair(scene.member.pair, .undoKept))))
        }
        try scene.waitFor(.synchronized)
        try growCopy(scene)
        try growSource(scene)
        try scene.waitFor(.synchronized)
        try scene.operate(.suspend)
        try scene.waitFor(.suspended)
        let before = scene.member.copy.bytes(0..<scene.member.copy.byteCount)
        try scene.write(8, 240..<248)
        try scene.write(9, 0..<8)
        try scene.operate(.resume)
        try #require(scene.world.run(steps: 400_000) { scene.member.record.pairRecord?.hasUndo ?? false })
        scene.source.crash()
        try scene.pass(seconds: 30)
        let pair = scene.member.pair
        let claimed: Result<PairRecord, EngineRefusal>? = scene.world.ask(scene.target) {
            .link(.handover(.claimReplica(pair, sequence: nil, answer: $0)))
        }
        guard case .success? = claimed else {
            Issue.record("\(String(describing: claimed))")
            return
        }
        let takenBack: Result<PairRecord, EngineRefusal>? = scene.world.ask(scene.target) {
            .link(.handover(.takeBack(pair, answer: $0)))
        }
        guard case .success? = takenBack else {
            Issue.record("\(String(describing: takenBack))")
            return
        }
        #expect(scene.member.copy.bytes(0..<scene.member.copy.byteCount) == before, "also in the new range")
    }

    @Test("that the replica's host has taken and the source's has not is completed later, after a start of both")
    func halfWay() throws {
        let scene = try enlarged()
        try growCopy(scene)
        scene.source.crash()
        scene.target.crash()
        try scene.startTarget()
        try scene.startSource()
        try scene.waitFor(.synchronized)
        #expect(scene.member.record.pairRecord?.volumeByteCount == UInt64(Self.former))
        try growCopy(scene)
        try growSource(scene)
        try scene.waitFor(.synchronized)
        expectOnlyNewRangeMoved(scene)
    }

    // MARK: - What ends in the middle

    enum Blow: CaseIterable { case sourceDies, targetDies, linkIsLost, both }

    /// How many steps a growth takes until everything is told and copied.
    private func stepCount() throws -> Int {
        let scene = try enlarged()
        try growCopy(scene)
        beginGrowth(scene)
        let start = scene.world.stepCount
        try #require(
            scene.world.run(steps: 400_000) {
                scene.member.record.pairRecord?.volumeByteCount == UInt64(Self.wanted)
                    && scene.member.record.pairRecord?.copyState == CopyState.synchronized.rawValue
            }
        )
        return scene.world.stepCount - start
    }

    @Test(
        "comes back by itself from an end at any step, with what was known of the former range",
        arguments: Blow.allCases
    )
    func anyMoment(blow: Blow) throws {
        let total = try stepCount()
        for step in stride(from: 0, through: total, by: max(total / 40, 1)) {
            let scene = try enlarged()
            try growCopy(scene)
            beginGrowth(scene)
            for _ in 0..<step { _ = scene.world.step() }
            try strike(blow, scene)
            try scene.waitFor(.synchronized)
            expectOnlyNewRangeMoved(scene, "\(blow) at step \(step) of \(total)")
        }
    }

    /// Writes of which the replica has heard nothing are known after a start, and nothing else is.
    @Test("keeps the difference of a suspended pair over an end of the source at any step")
    func suspended() throws {
        for step in stride(from: 0, through: 120, by: 3) {
            let scene = try enlarged()
            try scene.operate(.suspend)
            try scene.waitFor(.suspended)
            try scene.write(7, 96..<104)
            try scene.pass(seconds: 3)
            try growCopy(scene)
            beginGrowth(scene)
            for _ in 0..<step { _ = scene.world.step() }
            try strike(.sourceDies, scene)
            try scene.waitFor(.suspended)
            try scene.operate(.resume)
            try scene.waitFor(.synchronized)
            expectOnlyNewRangeMoved(scene, "step \(step)")
        }
    }

    private func strike(_ blow: Blow, _ scene: PairedHosts) throws {
        if blow == .sourceDies || blow == .both { scene.source.crash() }
        if blow == .targetDies || blow == .both { scene.target.crash() }
        let ends = (scene.source.host, scene.target.host)
        if blow == .linkIsLost {
            scene.world.network.partition(ends.0, ends.1)
            try scene.pass(seconds: 20)
            scene.world.network.heal(ends.0, ends.1)
        }
        if blow == .targetDies || blow == .both { try scene.startTarget() }
        if blow == .sourceDies || blow == .both { try scene.startSource() }
    }
}
