import RepldCore
import RepldEngine
import RepldPair
import Testing

@testable import RepldSimulation

/// Two real engines with an asynchronous pair whose replica fails a write, or the flush that ends an epoch.
@Suite("A replica that fails what is of an epoch") struct FailedEpochTests {
    @Test("shows nothing that came later, though it was sent before the source heard of it")
    func failedWrite() throws {
        let scene = try failingScene()
        try scene.write(71, 8..<16)
        try scene.write(72, 64..<72)
        let hasFailed = scene.world.run { scene.target.events.contains { self.isWriteFailure($0.kind) } }
        #expect(hasFailed)
        scene.member.copy.faults.failure = nil
        try scene.waitFor(.broken)
        #expect(scene.member.copy.word(8) != 71 && scene.member.copy.word(64) != 72)
        try scene.operate(.resyncReplica)
        try scene.waitFor(.synchronized)
        scene.expectEqual()
    }

    /// The read is sent, and served, before the source hears that its write has failed.
    @Test("does not stand in for a source that cannot be read where it lacks what hosts have written")
    func readBehindAFailedWrite() throws {
        let scene = try failingScene()
        try scene.write(71, 0..<8)
        #expect(scene.world.run { scene.target.events.contains { self.isWriteFailure($0.kind) } })
        scene.member.copy.faults.failure = nil
        scene.member.disk.spoil(sector: 3)
        let read = try #require(scene.source.submit(.read, 0..<8, to: scene.member.volume))
        #expect(scene.world.run { scene.source.requests[read].isAnswered })
        #expect(scene.source.requests[read].failure != nil)
        scene.member.disk.heal(sector: 3)
        #expect(scene.member.disk.word(0) == 71, "nor is the source overwritten with what was there before")
        try scene.waitFor(.broken)
        try scene.operate(.resyncReplica)
        try scene.waitFor(.synchronized)
        scene.expectEqual()
    }

    @Test("takes epochs again when the pair is resynchronised over the same connection")
    func failedFlush() throws {
        let scene = try asynchronousScene()
        scene.member.copy.faults.failsNextFlush = true
        try scene.write(71, 8..<16)
        try scene.write(72, 64..<72)
        try scene.waitFor(.broken)
        try scene.operate(.resyncReplica)
        try scene.waitFor(.synchronized)
        try scene.write(73, 8..<16)
        try scene.write(74, 64..<72)
        try scene.pass(seconds: 5)
        try scene.waitFor(.synchronized)
        scene.expectEqual()
    }

    private func isWriteFailure(_ kind: EngineEvent.Kind) -> Bool {
        if case .sourceWriteFailed = kind { true } else { false }
    }

    /// The replica fails what it is to write, and the source hears of that long after.
    private func failingScene() throws -> PairedHosts {
        let scene = try asynchronousScene()
        scene.world.network.link(from: scene.target.host, to: scene.source.host).delayNanoseconds =
            2_000_000_000...2_000_000_000
        scene.member.copy.faults.failure = .inputOutput
        // The flush that ends the epoch before.
        scene.member.copy.faults.sparesFlushes = true
        return scene
    }

    private func asynchronousScene() throws -> PairedHosts {
        let scene = try PairedHosts()
        let answer: Result<Void, EngineRefusal>? = scene.world.ask(scene.source) {
            .link(.setMode(scene.member.pair, isAsynchronous: true, recoveryPointNanoseconds: 0, answer: $0))
        }
        guard case .success = answer else { throw PairedHosts.Refused(answer: "\(String(describing: answer))") }
        try scene.write(70, 0..<8)
        try scene.pass(seconds: 3)
        return scene
    }
}
