import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Testing

@testable import RepldSimulation

/// What a copy to another host overwrites, kept there and taken back: real engines, and every disk at hand.
@Suite("What a copy overwrites on another host") struct ReplicaUndoTests {
    /// Everything on the source differs from what the target holds, and the pair is Suspended.
    private static func suspended() throws -> (PairedHosts, held: [UInt8]) {
        let hosts = try PairedHosts(keepsUndo: true)
        try hosts.write(1, 0..<hosts.member.disk.sectorCount)
        try hosts.operate(.suspend)
        try hosts.waitFor(.suspended)
        try hosts.write(2, 0..<100)
        return (hosts, hosts.contents)
    }

    /// The source has died when the target was half overwritten.
    private static func halfCopied() throws -> (PairedHosts, held: [UInt8]) {
        let (hosts, held) = try suspended()
        try hosts.operate(.resume)
        try #require(hosts.world.run { hosts.contents != held })
        hosts.source.crash()
        try hosts.pass(seconds: 10)
        #expect(hosts.contents != held && hosts.member.record.pairRecord?.hasUndo == true)
        return (hosts, held)
    }

    @Test("is taken back when the source has died in the middle of it")
    func takenBack() throws {
        let (hosts, held) = try Self.halfCopied()
        let record = try hosts.takeBack().get()
        #expect(record.isTargetConsistent && !record.hasUndo && !record.isTakenBack)
        #expect(hosts.contents == held)
    }

    @Test("is taken back after the target's host has lost power as well, at any moment")
    func powerFailures() throws {
        var checkedCount = 0
        for turns in [0, 3, 7, 12, 20, 40] {
            let (hosts, held) = try Self.suspended()
            try hosts.operate(.resume)
            try #require(hosts.world.run { hosts.contents != held })
            for _ in 0..<turns { _ = hosts.world.step() }
            hosts.source.crash()
            hosts.target.crash()
            try hosts.startTarget()
            guard hosts.member.record.pairRecord?.isTargetConsistent == false else { continue }
            _ = try hosts.takeBack().get()
            #expect(hosts.contents == held, "after \(turns) turns")
            checkedCount += 1
        }
        #expect(checkedCount > 2, "in the middle of the copy")
    }

    @Test("may be taken back again where that was interrupted")
    func interrupted() throws {
        let (hosts, held) = try Self.halfCopied()
        try hosts.claim()
        _ = hosts.target.mailbox.send(.link(.handover(.takeBack(hosts.member.pair) { _ in })))
        try #require(hosts.world.run { hosts.member.record.pairRecord?.isTakenBack == true })
        hosts.target.crash()
        try hosts.startTarget()
        _ = try hosts.takeBack().get()
        #expect(hosts.contents == held)
    }

    /// The source counts what it has copied as equal: after this it must not.
    @Test("is copied again, and compared, when the source comes back after it was taken back")
    func sourceComesBack() throws {
        let (hosts, _) = try Self.halfCopied()
        _ = try hosts.takeBack().get()
        try hosts.unclaim()
        try hosts.startSource()
        try hosts.waitFor(.synchronized)
        hosts.expectEqual()
        #expect(
            hosts.member.record.pairRecord?.hasUndo == false && hosts.member.record.pairRecord?.isTakenBack == false
        )
    }

    @Test("goes on being kept when the source comes back and the copy goes on")
    func goesOn() throws {
        let (hosts, held) = try Self.halfCopied()
        try hosts.startSource()
        let before = hosts.contents
        try #require(hosts.world.run { hosts.contents != before })
        hosts.source.crash()
        try hosts.pass(seconds: 10)
        try #require(hosts.member.record.pairRecord?.isTargetConsistent == false, "the copy is still under way")
        _ = try hosts.takeBack().get()
        #expect(hosts.contents == held)
        try hosts.unclaim()
        try hosts.startSource()
        try hosts.waitFor(.synchronized)
        hosts.expectEqual()
    }

    /// The source is one of an older day, and an operator has said that its data counts.
    @Test("of a history that an operator has given up can be had back as long as the copy is under way")
    func loserOfTwoHistories() throws {
        let hosts = try PairedHosts(keepsUndo: true)
        let older = hosts.backup(hosts.member.disk, hosts.member.metadata)
        try hosts.write(1, 0..<hosts.member.disk.sectorCount)
        try hosts.goOn()
        hosts.source.crash()
        hosts.restore(older, hosts.member.disk, hosts.member.metadata)
        let held = hosts.contents
        try hosts.startSource()
        try hosts.waitFor(.invalid)
        #expect(hosts.member.record.pairRecord?.isTargetConsistent == true, "it is an image of its own")
        try hosts.operate(.resyncReplica, isForced: true)
        try #require(hosts.world.run { hosts.contents != held })
        hosts.source.crash()
        try hosts.pass(seconds: 10)
        #expect(hosts.contents != held && hosts.member.record.pairRecord?.isTargetConsistent == false)
        let record = try hosts.takeBack().get()
        #expect(record.isTargetConsistent && hosts.contents == held)
    }

    @Test("is not kept any more when the copy has come to its end")
    func ended() throws {
        let (hosts, _) = try Self.suspended()
        try hosts.operate(.resume)
        try hosts.waitFor(.synchronized)
        hosts.expectEqual()
        #expect(hosts.member.undo.words.allSatisfy { $0 == 0 }, "the room is given back")
        let answer = hosts.takeBackWhileAway()
        #expect(answer == .nothingKept)
    }

    @Test("what hosts write meanwhile is kept from the image as well")
    func hostsWrite() throws {
        let (hosts, held) = try Self.suspended()
        try hosts.operate(.resume)
        try #require(hosts.world.run { hosts.contents != held })
        for sector in stride(from: 110, to: 126, by: 4) { try hosts.write(UInt64(sector), sector..<sector + 3) }
        try #require(hosts.member.record.pairRecord?.hasUndo == true, "the copy is still under way")
        hosts.source.crash()
        try hosts.pass(seconds: 10)
        _ = try hosts.takeBack().get()
        #expect(hosts.contents == held)
    }

    @Test("that cannot be kept is not overwritten: the pair breaks, and goes on without an undo when that is asked for")
    func areaFails() throws {
        let (hosts, held) = try Self.suspended()
        hosts.member.undo.faults.failure = .noSpace
        try hosts.operate(.resume)
        try hosts.waitFor(.broken)
        #expect(hosts.contents == held)
        #expect(hosts.member.record.pairRecord?.isTargetConsistent == true, "it is what it was")
        #expect(hosts.facts?.reason.contains("--no-undo") == true, "\(hosts.facts?.reason ?? "")")
        try hosts.operate(.resyncReplica, keepsUndo: false)
        try hosts.waitFor(.synchronized)
        hosts.expectEqual()
    }

    @Test("that cannot be kept in the middle breaks the pair, and what was kept can be taken back")
    func areaFailsInTheMiddle() throws {
        let (hosts, held) = try Self.suspended()
        try hosts.operate(.resume)
        try #require(hosts.world.run { hosts.contents != held })
        hosts.member.undo.faults.failure = .noSpace
        let isBroken = hosts.world.run {
            hosts.member.metadata.pairRecord?.copyState == CopyState.broken.rawValue
                && hosts.member.record.pairRecord?.sequence == hosts.member.metadata.pairRecord?.sequence
        }
        #expect(isBroken)
        hosts.member.undo.faults.failure = nil
        hosts.source.crash()
        try hosts.pass(seconds: 10)
        _ = try hosts.takeBack().get()
        #expect(hosts.contents == held)
    }

    @Test("that cannot be kept breaks the pair also where the link was lost before that was known")
    func refusedAfterALoss() throws {
        let (hosts, held) = try Self.suspended()
        hosts.member.undo.faults.isStuck = true
        try hosts.operate(.resume)
        try #require(hosts.world.run { hosts.member.metadata.pairRecord?.hasUndo == true })
        hosts.world.network.cut(hosts.source.host, hosts.target.host)
        try hosts.pass(seconds: 1)
        hosts.member.undo.faults.failure = .noSpace
        hosts.member.undo.faults.isStuck = false
        try hosts.waitFor(.broken)
        #expect(hosts.contents == held)
        #expect(hosts.member.record.pairRecord?.isTargetConsistent == true, "it is what it was")
    }

    @Test("is kept where the record that says so is in one of its blocks alone at first")
    func recordFailsOnce() throws {
        let (hosts, _) = try Self.suspended()
        try hosts.operate(.resume)
        try #require(hosts.world.run { hosts.member.record.pairRecord?.hasUndo == true })
        hosts.member.record.faults.failure = .inputOutput
        try hosts.pass(seconds: 1)
        hosts.member.record.faults.failure = nil
        try hosts.waitFor(.synchronized)
        hosts.expectEqual()
        let wasLost = hosts.source.events.contains { if case .undoLost = $0.kind { true } else { false } }
        #expect(!wasLost)
    }

    @Test("that the target has lost is told to the source, which copies on")
    func areaLost() throws {
        let (hosts, _) = try Self.halfCopied()
        hosts.target.crash()
        hosts.member.undo.overwrite([UInt8](repeating: 0, count: hosts.member.undo.byteCount), at: 0)
        try hosts.startTarget()
        #expect(hosts.takeBackWhileAway() == .nothingKept)
        try hosts.unclaim()
        try hosts.startSource()
        try hosts.waitFor(.synchronized)
        hosts.expectEqual()
        let wasTold = hosts.source.events.contains { if case .undoLost = $0.kind { true } else { false } }
        #expect(wasTold)
    }
}

extension PairedHosts {
    /// What the target holds.
    fileprivate var contents: [UInt8] { member.copy.bytes(0..<member.copy.byteCount) }

    fileprivate func claim() throws {
        let pair = member.pair
        var answer: Result<PairRecord, EngineRefusal>?
        // What the source has sent last may still be being written.
        for _ in 0..<100 {
            answer = world.ask(target) { .link(.handover(.claimReplica(pair, sequence: nil, answer: $0))) }
            if case .success = answer { return }
            try pass(seconds: 1)
        }
        throw Refused(answer: "\(String(describing: answer))")
    }

    fileprivate func unclaim() throws {
        let pair = member.pair
        let answer: Result<Void, EngineRefusal>? = world.ask(target) {
            .link(.handover(.unclaimReplica(pair, answer: $0)))
        }
        _ = answer
    }

    fileprivate func takeBack() throws -> Result<PairRecord, EngineRefusal> {
        try claim()
        let pair = member.pair
        let answer: Result<PairRecord, EngineRefusal>? = world.ask(target) {
            .link(.handover(.takeBack(pair, answer: $0)))
        }
        return try #require(answer)
    }

    /// Why nothing can be taken back; the source is killed first.
    fileprivate func takeBackWhileAway() -> EngineRefusal? {
        if source.isUp { source.crash() }
        guard (try? pass(seconds: 10)) != nil, case .failure(let refusal)? = try? takeBack() else { return nil }
        return refusal
    }
}
