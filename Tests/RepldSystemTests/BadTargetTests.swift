import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// A target that fails in every way that a target can: no host sees it, and it catches up when it is well again.
    @Suite(
        "A bad target",
        .requires(
            .root,
            .loopDevices,
            .fuse,
            .product("repld"),
            .product("replctl"),
            .tool("fio"),
            .tool("nbdkit"),
            .tool("nbdfuse"),
            .pythonModule("nbd")
        )
    )
    struct BadTargetTests {
        /// A pair with numbered blocks whose target fails on command.
        private func faulty(
            _ bed: TestBed,
            settings: String = "copy-depth: 4"
        ) throws -> (mirror: Mirror, writes: NumberedWrites, target: FaultyDevice) {
            let source = try bed.loopDevice("source", byteCount: 64 * mebibyte)
            let target = try bed.faultyDevice("target", byteCount: 64 * mebibyte)
            let (mirror, writes) = try Mirror.numbered(
                bed,
                source: source.path,
                target: target.device.path,
                settings: settings
            )
            try mirror.create()
            return (mirror, writes, target)
        }

        /// The pair is Broken, and its reason has all these words.
        private func expectBroken(_ mirror: Mirror, because words: String...) throws {
            try mirror.daemon.waitForCopyState("Broken", of: Mirror.pair)
            let reason = try mirror.daemon.pair(Mirror.pair).reason ?? ""
            for word in words { #expect(reason.contains(word), "the reason says '\(word)': \(reason)") }
            #expect(try mirror.daemon.activity(Mirror.volume).failedRequestCount == 0)
        }

        /// A resync that is tried too early ends without success.
        private func expectResyncFails(_ mirror: Mirror) throws {
            let outcome = try mirror.daemon.control(["set", Mirror.pair, "ResyncReplica", "--wait", "Synchronized"])
            #expect(!outcome.isSuccess, "\(outcome)")
        }

        @Test("that refuses writes now and then is Broken each time, and equal each time that it is well again")
        func comesAndGoes() throws {
            try Torture.run("target that comes and goes") { bed, torture in
                let (mirror, writes, target) = try faulty(bed)
                for round in 1...Torture.roundCount {
                    let writer = try writes.start(6000, seed: torture.nextSeed())
                    try mirror.waitForWrites(try mirror.daemon.activity(Mirror.volume).writeCount + 1)
                    try target.setWritesFail(true)
                    try expectBroken(mirror, because: "target", "failed a write", "input/output error")
                    // Not well yet: the first copy that is tried breaks again, and forgets nothing.
                    let isTriedTooEarly = torture.isChosen(oneIn: 2)
                    if isTriedTooEarly {
                        try expectResyncFails(mirror)
                        try expectBroken(mirror, because: "target", "input/output error")
                    }
                    if torture.isChosen(oneIn: 2) {
                        try mirror.daemon.kill()
                        try writes.finish(writer)
                        try mirror.daemon.start(mirror.configured)
                        #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Broken", "a kill heals nothing")
                    } else {
                        try writes.finish(writer)
                    }
                    try target.setWritesFail(false)
                    try mirror.set("ResyncReplica", "Synchronized")
                    try mirror.expectWhole(writes, "round \(round), synchronized again")
                }
            }
        }

        @Test("that cannot be read while it is compared is Broken, and says so; hosts go on")
        func cannotBeCompared() throws {
            try Torture.run("target that cannot be compared") { bed, torture in
                let (mirror, writes, target) = try faulty(bed)
                let writer = try writes.start(2000, seed: torture.nextSeed(), kills: true)
                try writes.finish(writer)
                try mirror.daemon.kill()
                try target.setReadsFail(true)
                try mirror.daemon.start(mirror.configured)
                try expectBroken(mirror, because: "target", "failed a read", "input/output error")
                try writes.check("broken")
                try writes.write(500, seed: torture.nextSeed())
                try target.setReadsFail(false)
                try mirror.set("ResyncReplica", "Synchronized")
                try mirror.expectWhole(writes, "synchronized again")
            }
        }

        /// The control plane answers within a time that is short for a person, while a device hangs.
        private func expectAnswer(_ mirror: Mirror) throws {
            let outcome = try mirror.daemon.control(["pair", "show", Mirror.pair], atMost: .seconds(15))
            #expect(outcome.isSuccess, "a device that hangs holds up nobody else: \(outcome)")
        }

        @Test("that hangs for less than its time limit holds hosts up, and no more than that")
        func hangsShortly() throws {
            try Torture.run("target that hangs shortly") { bed, torture in
                let (mirror, writes, target) = try faulty(bed, settings: "target-timeout: 60s")
                let writer = try writes.start(4000, seed: torture.nextSeed())
                try mirror.waitForWrites(100)
                defer { target.setHangs(false) }
                target.setHangs(true)
                try expectAnswer(mirror)
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized")
                #expect(writer.isRunning, "a write that the target has not got is not acknowledged")
                target.setHangs(false)
                try writes.finish(writer)
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized")
                try mirror.expectWhole(writes, "it was synchronized all the time")
            }
        }

        @Test("that hangs for longer is Broken, hosts go on, and what it gives back late does no harm")
        func hangsLong() throws {
            try Torture.run("target that hangs") { bed, torture in
                let (mirror, writes, target) = try faulty(bed, settings: "target-timeout: 10s")
                let writer = try writes.start(8000, seed: torture.nextSeed())
                try mirror.waitForWrites(100)
                defer { target.setHangs(false) }
                target.setHangs(true)
                try expectAnswer(mirror)
                try expectBroken(mirror, because: "target", "time limit")
                try writes.finish(writer)
                target.setHangs(false)
                try mirror.set("ResyncReplica", "Synchronized")
                try mirror.expectWhole(writes, "synchronized again")
            }
        }

        /// A write that does not fit altogether is written in part: short, and then refused.
        @Test("whose file system is full writes short and then nothing; the pair is Broken and says so")
        func outOfSpace() throws {
            try Torture.run("target without space") { bed, torture in
                let space = try bed.smallFileSystem("small", byteCount: 40 * mebibyte)
                let target = "\(space.folder)/target"
                try bed.runs("truncate", ["--size=\(64 * mebibyte)", target])
                let source = try bed.loopDevice("source", byteCount: 64 * mebibyte)
                let mirror = try bed.mirror(source: source.path, target: target)
                try mirror.create()
                let fio = try mirror.startFio(
                    byteCount: 48 * mebibyte,
                    blockByteCount: torture.choice([4096, 12288, 65536])
                )
                try expectBroken(mirror, because: "target", "failed a write", "no space left")
                try mirror.expectNoError(fio, byteCount: 48 * mebibyte)
                // Still no room: it breaks again.
                try expectResyncFails(mirror)
                try expectBroken(mirror, because: "target", "no space left")
                try bed.runs("mount", ["-o", "remount,size=\(96 * mebibyte)", space.folder])
                try mirror.set("ResyncReplica", "Synchronized")
                try mirror.expectEqual("synchronized again")
            }
        }

        @Test("and any other device gets a write with FUA on stable storage before the host has its answer")
        func durable() throws {
            try withTestBed { bed in
                let log = bed.path("requests.log")
                let image = try bed.file("source.img", byteCount: 16 * mebibyte)
                let server = try bed.nbdServer("source", ["--filter=log", "file", image, "logfile=\(log)"])
                let source = try bed.loopDevice(backing: bed.nbdFile("source", socket: server.socket))
                let mirror = try bed.mirror(source: source.path, target: "")
                func flushCount(after command: String) throws -> Int {
                    let before = try String(contentsOfFile: log, encoding: .utf8)
                    // Nothing but the command itself: qemu-io flushes when it closes the export.
                    let script = "h.set_export_name(\"v\"); h.connect_unix(\"\(mirror.daemon.nbdSocket)\"); \(command)"
                    try bed.runs("/usr/bin/python3", ["-c", "import nbd; h = nbd.NBD(); " + script])
                    let requests = try String(contentsOfFile: log, encoding: .utf8).dropFirst(before.count)
                    return requests.components(separatedBy: " Flush ").count - 1
                        + requests.components(separatedBy: "fua=1").count - 1
                }
                #expect(try flushCount(after: "h.pwrite(bytes(4096), 0)") == 0, "a plain write asks for nothing")
                #expect(try flushCount(after: "h.pwrite(bytes(4096), 0); h.flush()") > 0, "a flush reaches the device")
                let large = try flushCount(after: "h.pwrite(bytes(131072), 0, nbd.CMD_FLAG_FUA)")
                #expect(large > 0, "a long write with FUA reaches the device as one")
                let small = try flushCount(after: "h.pwrite(bytes(4096), 0, nbd.CMD_FLAG_FUA)")
                #expect(small > 0, "a short write with FUA reaches the device as one")
            }
        }
    }
}
