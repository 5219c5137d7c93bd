import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Testing

@testable import RepldSimulation

/// A source whose metadata is slow, or stuck, while its peer is to be told what follows from meeting it.
@Suite("What is not durable yet") struct HeldBackRecordTests {
    /// Answers come while the world is stepped, all on one thread.
    private final class Answer: @unchecked Sendable {
        var result: Result<PairRecord, EngineRefusal>?
    }

    /// The record that says that the link is lost is on its way to the metadata, and does not get there.
    private func loseTarget(_ scene: PairedHosts) throws -> UInt64 {
        let durable = try #require(scene.member.metadata.pairRecord).sequence
        scene.member.metadata.faults.isStuck = true
        scene.loseTargetsRecord()
        try scene.pass(seconds: 2)
        #expect(scene.facts?.copyState == .partitioned)
        #expect(scene.member.metadata.pairRecord?.sequence == durable)
        return durable + 1
    }

    @Test("is not told to the peer, nor is a record that was begun before the peer was met")
    func heldBack() throws {
        let scene = try PairedHosts()
        try scene.goOn()
        let begun = try loseTarget(scene)
        try scene.startTarget()
        try scene.pass(seconds: 3) { #expect(scene.member.record.pairRecord == nil) }
        #expect(scene.comparisons == [.lostRecord], "the peer has been met")
        scene.member.metadata.faults.isStuck = false
        let isTold = scene.world.run(steps: 400_000) { scene.member.record.pairRecord != nil }
        let told = try #require(scene.member.record.pairRecord)
        let durable = try #require(scene.member.metadata.pairRecord)
        #expect(isTold && told.sequence > begun, "the one that was on its way says nothing of the comparison")
        #expect(told.sequence <= durable.sequence)
        try scene.waitFor(.synchronized)
        scene.expectEqual()
    }

    @Test("of one pair does not end the session of the peer's other pairs")
    func othersGoOn() throws {
        let scene = try PairedHosts(pairCount: 2)
        let (held, other) = (scene.members[0], scene.members[1])
        _ = try loseTarget(scene)
        try scene.startTarget()
        try scene.waitFor(.synchronized, other)
        #expect(scene.comparisons == [.lostRecord])
        let eventCount = scene.source.events.count
        // Longer than a peer may be silent, and a record may take.
        for second in 0..<12 {
            try scene.pass(seconds: 1)
            try scene.write(UInt64(second + 20), second..<second + 1, other)
        }
        let changes = scene.source.events[eventCount...].filter { event in
            guard case .copyStateChanged = event.kind else { return false }
            return event.pair == other.pair
        }
        #expect(changes.isEmpty)
        scene.expectEqual(other)
        #expect(held.record.pairRecord == nil)
        held.metadata.faults.isStuck = false
        try scene.waitFor(.synchronized)
        scene.expectEqual()
    }

    @Test("of what a former source has told is not answered")
    func meeting() throws {
        let scene = try PairedHosts()
        try scene.goOn()
        let begun = try loseTarget(scene)
        let former = try #require(scene.member.metadata.pairRecord)
        let answer = Answer()
        let meet = HandoverCommand<SimulatedPlatform>.meet(
            scene.member.pair,
            by: former,
            [Extent(offset: 8192, length: 4096)],
            isAhead: false,
            isFirst: true,
            answer: { answer.result = $0 }
        )
        #expect(scene.source.mailbox.send(.link(.handover(meet))))
        try scene.pass(seconds: 3) { #expect(answer.result == nil) }
        scene.member.metadata.faults.isStuck = false
        #expect(scene.world.run(steps: 400_000) { answer.result != nil })
        let told = try #require(try answer.result?.get())
        let durable = try #require(scene.member.metadata.pairRecord)
        #expect(told.sequence > begun && durable.sequence >= told.sequence)
        let area = scene.member.metadata.bytes(0..<scene.member.metadata.byteCount)
        let maps = unsafe RecoveredMaps.read(area.span.bytes, durable, granuleByteCount: 4096)
        let isTold = maps.trust == .none || maps.dirty.first.map { $0 >> 2 & 1 == 1 } ?? false
        #expect(isTold, "a start takes what was told for different")
    }
}
