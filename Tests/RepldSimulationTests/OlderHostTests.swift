import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Testing

@testable import RepldSimulation

/// Two real engines of which one is put back to an older day, metadata and all: nothing is silently different, or lost.
@Suite("A host that is put back to an older day") struct OlderHostTests {
    @Test("as the source is Invalid with what each side has, copies nothing, and goes on by force alone")
    func source() throws {
        let scene = try PairedHosts()
        let older = scene.backup(scene.member.disk, scene.member.metadata)
        try scene.goOn()
        scene.source.crash()
        scene.restore(older, scene.member.disk, scene.member.metadata)
        let held = scene.member.copy.bytes(0..<scene.member.copy.byteCount)
        let told = try #require(scene.member.record.pairRecord)
        try scene.startSource()
        // The peer's record is evidence until what follows from it is durable.
        let isInvalid = scene.world.run(steps: 400_000) {
            let hasToldOfIt = scene.member.record.pairRecord?.sequence != told.sequence
            let isRecorded = scene.member.metadata.pairRecord?.copyState == CopyState.invalid.rawValue
            #expect(!hasToldOfIt || isRecorded, "the peer's record is overwritten before the state is durable")
            return isRecorded
        }
        #expect(isInvalid)
        try scene.waitFor(.invalid)
        let words = scene.facts?.reason ?? ""
        #expect(words.contains("older than what the peer has heard") && words.contains("record \(told.sequence)"))
        #expect(scene.member.copy.bytes(0..<scene.member.copy.byteCount) == held)
        #expect(scene.isWithheld, "an operator has to say first whose data counts")
        #expect(throws: PairedHosts.Refused.self) { try scene.operate(.resyncReplica) }
        try scene.operate(.resyncReplica, isForced: true)
        try scene.waitFor(.synchronized)
        scene.expectEqual()
    }

    @Test("as the source lets hosts in when a restore begins that an operator has asked for, and not only at its end")
    func sourceIsRestored() throws {
        let scene = try PairedHosts()
        let older = scene.backup(scene.member.disk, scene.member.metadata)
        try scene.goOn()
        scene.source.crash()
        scene.restore(older, scene.member.disk, scene.member.metadata)
        try scene.startSource()
        try scene.waitFor(.invalid)
        #expect(scene.isWithheld)
        try scene.operate(.restoreFromReplica, isForced: true)
        let hasLetIn = scene.world.run(steps: 400_000) { scene.source.events.contains { $0.kind == .released } }
        #expect(hasLetIn)
        #expect(scene.member.metadata.pairRecord?.copyState == CopyState.invalid.rawValue)
        try scene.waitFor(.restored)
        #expect(!scene.isWithheld)
        scene.expectEqual()
    }

    /// More starts than runs are remembered, each without contact.
    private func startOften(_ scene: PairedHosts) throws {
        for _ in 0..<10 {
            try scene.startSource()
            try scene.pass(seconds: 1)
            scene.source.crash()
        }
    }

    @Test("as the source is Invalid as well when it was started without contact more often than is remembered")
    func sourceStartedOften() throws {
        let scene = try PairedHosts()
        let older = scene.backup(scene.member.disk, scene.member.metadata)
        try scene.goOn()
        scene.source.crash()
        scene.target.crash()
        scene.restore(older, scene.member.disk, scene.member.metadata)
        let held = scene.member.copy.bytes(0..<scene.member.copy.byteCount)
        try startOften(scene)
        try scene.startTarget()
        try scene.startSource()
        try scene.waitFor(.invalid)
        #expect(scene.facts?.reason.contains("older than what the peer has heard") ?? false)
        #expect(scene.comparisons.isEmpty)
        #expect(scene.member.copy.bytes(0..<scene.member.copy.byteCount) == held)
    }

    @Test("and is not, when its peer was away for more starts than are remembered: the maps have what differs")
    func targetAwayForLong() throws {
        let scene = try PairedHosts()
        try scene.goOn()
        scene.source.crash()
        scene.target.crash()
        try startOften(scene)
        try scene.startTarget()
        try scene.startSource()
        try scene.waitFor(.synchronized)
        #expect(scene.comparisons.isEmpty)
        scene.expectEqual()
    }

    @Test("and is not, when it crashes between the record that says that the run is told and its sending")
    func crashBeforeTelling() throws {
        let scene = try PairedHosts()
        try scene.goOn()
        for _ in 0..<3 {
            scene.source.crash()
            let kept = try #require(scene.member.record.pairRecord)
            try scene.startSource()
            let isTold = scene.world.run(steps: 400_000) {
                scene.member.metadata.pairRecord.map { $0.sequence > kept.sequence && $0.lineage.isTold } ?? false
            }
            #expect(isTold && scene.member.record.pairRecord == kept, "it is durable here first")
        }
        scene.source.crash()
        try scene.startSource()
        try scene.waitFor(.synchronized)
        #expect(scene.comparisons.isEmpty)
        scene.expectEqual()
    }

    @Test("as the target is compared with everything, and comes to hold what the source has")
    func target() throws {
        let scene = try PairedHosts()
        let older = scene.backup(scene.member.copy, scene.member.record)
        try scene.goOn()
        scene.target.crash()
        scene.restore(older, scene.member.copy, scene.member.record)
        #expect(!scene.member.disk.sectors(differingFrom: scene.member.copy).isEmpty)
        try scene.startTarget()
        try scene.waitFor(.synchronized)
        scene.expectEqual()
        #expect(scene.comparisons == [.olderReplica])
    }

    @Test("as the target without its record is compared with everything")
    func targetWithoutRecord() throws {
        let scene = try PairedHosts()
        try scene.goOn()
        scene.target.crash()
        scene.restore([[UInt8](repeating: 0, count: scene.member.record.byteCount)], scene.member.record)
        scene.restore([[UInt8](repeating: 0, count: scene.member.copy.byteCount)], scene.member.copy)
        try scene.startTarget()
        try scene.waitFor(.synchronized)
        scene.expectEqual()
        #expect(scene.comparisons == [.lostRecord])
    }

    @Test("and is not, when a daemon is only killed: nothing but what differs is looked at")
    func killed() throws {
        let scene = try PairedHosts()
        try scene.goOn()
        for _ in 0..<3 {
            scene.source.crash()
            try scene.startSource()
            try scene.waitFor(.synchronized)
            scene.target.crash()
            try scene.startTarget()
            try scene.waitFor(.synchronized)
        }
        let compared = scene.facts?.copyTotalByteCount ?? .max
        #expect(compared < UInt64(PairedHosts.byteCount))
        #expect(scene.comparisons.isEmpty)
        scene.expectEqual()
    }
}
