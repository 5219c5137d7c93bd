import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// A daemon that is killed under load at moments that nobody chose loses nothing that it acknowledged.
    @Suite(
        "A kill",
        .requires(.root, .loopDevices, .product("repld"), .product("replctl"), .pythonModule("nbd"))
    )
    struct KillTests {
        @Test("under load leaves every acknowledged write, on both elements")
        func synchronized() throws {
            try Torture.run("kill under load") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed)
                try mirror.create()
                for round in 1...Torture.roundCount {
                    let count = torture.number(1...4000)
                    let hot = torture.number(1...7) * 8 * mebibyte
                    // A clean stop leaves bitmaps that say nothing of an earlier copy.
                    let isFresh = round % 2 == 1
                    if isFresh {
                        #expect(try mirror.daemon.stop() == .exited(0))
                        try mirror.daemon.start(mirror.configured)
                    }
                    let writer = try writes.start(count, within: hot, seed: torture.nextSeed(), kills: true)
                    try writes.finish(writer)
                    try mirror.startAfterKill(&torture)
                    try writes.check("round \(round), right after the start")
                    try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                    if isFresh { try CopyBound.expectHeld(mirror, hotByteCount: hot, "round \(round)") }
                    try mirror.expectWhole(writes, "round \(round), synchronized again")
                }
            }
        }

        @Test("under load in a small part of a volume costs a look at that part, and at nothing else")
        func hotPart() throws {
            try Torture.run("kill under load in a small part") { bed, torture in
                let mirror = try bed.mirror(byteCount: 96 * mebibyte)
                try bed.fill(mirror.source, mebibytes: 96)
                try mirror.create()
                // What a copy has cleared gets to the disk a moment after its end, or at a stop.
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.daemon.start(mirror.configured)
                let hot = 8 * mebibyte
                for round in 1...Torture.roundCount {
                    let fio = try mirror.startFio(byteCount: hot, writesPerSecond: 1000)
                    try mirror.waitForWrites(torture.number(100...600))
                    try mirror.daemon.kill()
                    // It does not notice that its server is gone: it polls a dead connection, and says so without end.
                    fio.end(with: SIGKILL)
                    _ = try fio.wait(atMost: .hang)
                    try mirror.daemon.start(mirror.configured)
                    try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                    let copied = try mirror.daemon.copiedByteCounts(Mirror.pair)
                    #expect(copied.examined > 0, "what was in flight may differ")
                    try CopyBound.expectHeld(mirror, hotByteCount: hot, "round \(round)")
                    try mirror.expectEqual("round \(round)")
                }
            }
        }

        @Test("is not what a clean stop is: Suspended, exactly what was written is looked at afterwards")
        func cleanStopWhileSuspended() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 96 * mebibyte)
                try bed.fill(mirror.source, mebibytes: 96)
                try mirror.create()
                try mirror.set("Suspend", "Suspended")
                try mirror.write(0x31, mirror.uri, at: 3, mebibytes: 2)
                try mirror.write(0x32, mirror.uri, at: 70)
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.daemon.start(mirror.configured)
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Suspended")
                #expect(try mirror.daemon.pair(Mirror.pair).dirtyByteCount == 3 * mebibyte)
                try mirror.set("Resume", "Synchronized")
                let copied = try mirror.daemon.copiedByteCounts(Mirror.pair)
                #expect(copied.examined == 3 * mebibyte, "\(copied)")
                try mirror.expectEqual("resumed")
            }
        }

        @Test("during an initial copy under load leaves every acknowledged write, and the copy goes on")
        func initialCopy() throws {
            try Torture.run("kill during an initial copy") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed)
                for round in 1...Torture.roundCount {
                    let writer = try writes.start(.max >> 1, seed: torture.nextSeed())
                    try mirror.waitForWrites(1)
                    if round == 1 {
                        try mirror.beginCreate()
                    } else {
                        try mirror.set("Prepare", "Prepared", isForced: true)
                        try mirror.set("Activate")
                    }
                    try mirror.killAndStart(&torture, withinMicroseconds: 100_000)
                    try writes.finish(writer)
                    try writes.check("round \(round), right after the start")
                    try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                    try mirror.expectWhole(writes, "round \(round), synchronized")
                }
            }
        }

        @Test("during the resync after a Suspend under load leaves every acknowledged write, and the resync goes on")
        func resync() throws {
            try Torture.run("kill during a resync") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed)
                try mirror.create()
                for round in 1...Torture.roundCount {
                    try mirror.set("Suspend", "Suspended")
                    let isKilledBefore = torture.isChosen(oneIn: 3)
                    try writes.write(torture.number(1...3000), seed: torture.nextSeed())
                    let writer = try writes.start(.max >> 1, seed: torture.nextSeed())
                    try mirror.waitForWrites(1)
                    if !isKilledBefore { try mirror.set("Resume") }
                    try mirror.killAndStart(&torture, withinMicroseconds: 100_000)
                    try writes.finish(writer)
                    try writes.check("round \(round), right after the start")
                    if isKilledBefore { try mirror.set("Resume") }
                    try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                    try mirror.expectWhole(writes, "round \(round), synchronized again")
                }
            }
        }

        @Test("of a Split pair whose elements both have hosts leaves what each of them was given")
        func split() throws {
            try Torture.run("kill while split") { bed, torture in
                let (mirror, volume) = try Mirror.numbered(bed)
                try mirror.create()
                var writes = volume
                for round in 1...Torture.roundCount {
                    try mirror.set("Split", "Split")
                    let target = try writes.copied(to: "\(Mirror.pair)/target", as: "target.json")
                    let writers = (
                        try writes.start(.max >> 1, seed: torture.nextSeed()),
                        try target.start(torture.number(1...2000), seed: torture.nextSeed(), kills: true)
                    )
                    try target.finish(writers.1)
                    try writes.finish(writers.0)
                    try mirror.startAfterKill(&torture)
                    try writes.check("round \(round), the volume")
                    try target.check("round \(round), the target's own export")
                    #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Split")
                    if torture.isChosen(oneIn: 2) {
                        try mirror.set("ResyncReplica", "Synchronized")
                    } else {
                        try mirror.set("RestoreFromReplica", "Restored")
                        writes = try target.copied(to: Mirror.volume, as: "round-\(round).json")
                        try mirror.set("Resume", "Synchronized")
                    }
                    try mirror.expectWhole(writes, "round \(round), synchronized again")
                }
            }
        }

        @Test("during a restore under load leaves what was restored and what was written since")
        func restore() throws {
            try Torture.run("kill during a restore") { bed, torture in
                let (mirror, volume) = try Mirror.numbered(bed)
                try mirror.create()
                var writes = volume
                for round in 1...Torture.roundCount {
                    try mirror.set("Split", "Split")
                    let target = try writes.copied(to: "\(Mirror.pair)/target", as: "target.json")
                    try writes.write(torture.number(1...3000), seed: torture.nextSeed())
                    try target.write(torture.number(1...3000), seed: torture.nextSeed())
                    try mirror.set("RestoreFromReplica")
                    try mirror.daemon.wait(for: "the restore has begun") {
                        let pair = try mirror.daemon.pair(Mirror.pair)
                        return pair.progressStatus.number == 8 || pair.copyState.number == 18
                    }
                    writes = try target.copied(to: Mirror.volume, as: "round-\(round).json")
                    let writer = try writes.start(
                        torture.number(1...1000),
                        seed: torture.nextSeed(),
                        kills: true
                    )
                    try writes.finish(writer)
                    try mirror.startAfterKill(&torture)
                    try writes.check("round \(round), right after the start")
                    try mirror.daemon.waitForCopyState("Restored", of: Mirror.pair)
                    // What hosts write in Restored is remembered and not mirrored: equal is what nothing is dirty of.
                    if try mirror.daemon.pair(Mirror.pair).dirtyByteCount == 0 {
                        try mirror.expectEqual("round \(round), restored")
                    }
                    try mirror.set("Resume", "Synchronized")
                    try mirror.expectWhole(writes, "round \(round), synchronized again")
                }
            }
        }

        @Test("during a failover, and during the failback, under load leaves every acknowledged write")
        func failover() throws {
            try Torture.run("kill during a failover") { bed, torture in
                let (mirror, writes) = try Mirror.numbered(bed)
                try mirror.create()
                for round in 1...Torture.roundCount {
                    let writer = try writes.start(.max >> 1, seed: torture.nextSeed())
                    try mirror.waitForWrites(1)
                    try mirror.set("Failover")
                    try mirror.killAndStart(&torture, withinMicroseconds: 20_000)
                    try writes.finish(writer)
                    try writes.check("round \(round), after the failover")
                    if try mirror.daemon.pair(Mirror.pair).copyState.name == "Failedover" {
                        let again = try writes.start(.max >> 1, seed: torture.nextSeed())
                        try mirror.waitForWrites(1)
                        try mirror.set("Failback")
                        try mirror.killAndStart(&torture, withinMicroseconds: 100_000)
                        try writes.finish(again)
                        try writes.check("round \(round), after the failback")
                    }
                    try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                    try mirror.expectWhole(writes, "round \(round), synchronized again")
                }
            }
        }
    }
}
