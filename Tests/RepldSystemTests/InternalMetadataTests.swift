import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// Pairs whose metadata lies behind the volume, in the source's element.
    @Suite(
        "Internal metadata",
        .requires(
            .root,
            .loopDevices,
            .product("repld"),
            .product("replctl"),
            .pythonModule("nbd"),
            .tool("qemu-io"),
            .tool("nbdinfo"),
            .tool("fio"),
            .tool("cmp")
        )
    )
    struct InternalMetadataTests {
        private struct Dump: Decodable {
            struct Block: Decodable {
                struct Record: Decodable {
                    var copyState: String
                    var volumeBytes: UInt64
                }
                var counts: Bool
                var record: Record?
            }
            var offset: UInt64
            var blocks: [Block]
        }

        /// A daemon with a volume full of numbered blocks, which leaves room for metadata, and its size.
        private func volume(
            _ bed: TestBed,
            source: String,
            byteCount: UInt64,
            target: String
        ) throws -> (mirror: Mirror, writes: NumberedWrites, byteCount: UInt64) {
            let daemon = try Daemon(bed: bed)
            try daemon.start()
            try daemon.controls("volume", "add", Mirror.volume, "--element", source, "--reserve-metadata")
            let size = try #require(try daemon.volume(Mirror.volume).byteCount)
            #expect(size < byteCount && byteCount - size < mebibyte)
            try daemon.controls("volume", "rm", Mirror.volume)
            let model = try NumberedWrites.fill(source, byteCount: size, bed)
            try daemon.controls("volume", "add", Mirror.volume, "--element", source, "--reserve-metadata")
            let mirror = Mirror(bed: bed, daemon: daemon, source: source, target: target)
            return (mirror, NumberedWrites(mirror: mirror, export: Mirror.volume, model: model), size)
        }

        private func create(_ mirror: Mirror) throws {
            try mirror.daemon.controls(
                "pair",
                "create",
                "--source",
                Mirror.volume,
                "--target",
                mirror.target,
                "--name",
                Mirror.pair,
                "--metadata",
                "internal",
                "--wait"
            )
            #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized")
        }

        private func areEqual(_ mirror: Mirror, _ byteCount: UInt64) throws -> Bool {
            try mirror.bed.run("cmp", ["--bytes=\(byteCount)", mirror.source, mirror.target]).isSuccess
        }

        private func element(_ name: String, _ byteCount: UInt64, _ bed: TestBed, isDevice: Bool) throws -> String {
            isDevice ? try bed.loopDevice(name, byteCount: byteCount).path : try bed.file(name, byteCount: byteCount)
        }

        @Test("survives kills under load, and a clean stop, on devices and in files", arguments: [true, false])
        func kills(isDevice: Bool) throws {
            try Torture.run("kill with internal metadata") { bed, torture in
                let byteCount = 64 * mebibyte
                let source = try element("source", byteCount, bed, isDevice: isDevice)
                let target = try element("target", byteCount, bed, isDevice: isDevice)
                let (mirror, writes, size) = try volume(bed, source: source, byteCount: byteCount, target: target)
                try create(mirror)
                for round in 1...Torture.roundCount {
                    let hot = torture.number(1...7) * 8 * mebibyte
                    // A clean stop leaves bitmaps that say nothing of an earlier copy.
                    let isFresh = round % 2 == 1
                    if isFresh {
                        #expect(try mirror.daemon.stop() == .exited(0))
                        try mirror.daemon.start()
                    }
                    let count = torture.number(1...4000)
                    let writer = try writes.start(count, within: hot, seed: torture.nextSeed(), kills: true)
                    try writes.finish(writer)
                    try mirror.startAfterKill(&torture)
                    try writes.check("round \(round), right after the start")
                    try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                    if isFresh { try CopyBound.expectHeld(mirror, hotByteCount: hot, "round \(round)") }
                    try writes.check("round \(round), synchronized again")
                    #expect(try areEqual(mirror, size), "round \(round)")
                }
                let names = try FileManager.default.contentsOfDirectory(atPath: mirror.daemon.stateDirectory + "/pairs")
                #expect(!names.contains { $0.hasSuffix(".meta") }, "nothing of it is in the state directory")
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.daemon.start()
                #expect(try mirror.daemon.volume(Mirror.volume).byteCount == size)
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized")
                #expect(try mirror.daemon.copiedByteCounts(Mirror.pair).examined == 0, "closed cleanly")
            }
        }

        @Test("names what was active: a kill under load in a small part costs a look at that part")
        func hotPart() throws {
            try withTestBed { bed in
                let byteCount = 96 * mebibyte
                let source = try bed.loopDevice("source", byteCount: byteCount).path
                let target = try bed.loopDevice("target", byteCount: byteCount).path
                let (mirror, _, size) = try volume(bed, source: source, byteCount: byteCount, target: target)
                try create(mirror)
                // What a copy has cleared is written once a second, or at a stop.
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.daemon.start()
                let hot = 8 * mebibyte
                let fio = try mirror.startFio(byteCount: hot, writesPerSecond: 1000)
                try mirror.waitForWrites(300)
                try mirror.daemon.kill()
                fio.end(with: SIGKILL)
                _ = try fio.wait(atMost: .hang)
                try mirror.daemon.start()
                let words = try mirror.daemon.process.errors()
                #expect(!words.contains("cannot be relied on") && !words.contains("sectors are damaged"), "\(words)")
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                let copied = try mirror.daemon.copiedByteCounts(Mirror.pair)
                #expect(copied.examined > 0, "what was in flight may differ")
                try CopyBound.expectHeld(mirror, hotByteCount: hot, "a kill under load")
                #expect(try areEqual(mirror, size))
            }
        }

        @Test("stays where it is when roles are reversed, and over a restart")
        func rolesReversed() throws {
            try Torture.run("internal metadata with reversed roles") { bed, torture in
                let byteCount = 64 * mebibyte
                let source = try bed.loopDevice("source", byteCount: byteCount).path
                let target = try bed.loopDevice("target", byteCount: byteCount).path
                let (mirror, writes, size) = try volume(bed, source: source, byteCount: byteCount, target: target)
                try create(mirror)
                try mirror.set("ReverseRoles")
                #expect(try mirror.daemon.pair(Mirror.pair).sourcePath == target)
                let writer = try writes.start(torture.number(1...2000), seed: torture.nextSeed(), kills: true)
                try writes.finish(writer)
                try mirror.startAfterKill(&torture)
                try writes.check("right after the start")
                #expect(try mirror.daemon.pair(Mirror.pair).sourcePath == target)
                try mirror.settle()
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                try writes.check("synchronized again")
                #expect(try areEqual(mirror, size))
                // The second element becomes the volume's own: the area is blanked where it was.
                try mirror.set("Detach")
                #expect(try mirror.daemon.volume(Mirror.volume).byteCount == size)
                let dump = try bed.run(try Product.path("replctl"), ["metadata", "dump", source, "--internal"])
                #expect(!dump.isSuccess && dump.errors.contains("has no pair's record"), "\(dump)")
                try writes.check("detached")
            }
        }

        @Test("is out of reach of hosts, and can be looked at when the daemon is gone")
        func outOfReach() throws {
            try withTestBed { bed in
                let byteCount = 64 * mebibyte
                let source = try bed.loopDevice("source", byteCount: byteCount).path
                let target = try bed.loopDevice("target", byteCount: byteCount).path
                let (mirror, _, size) = try volume(bed, source: source, byteCount: byteCount, target: target)
                try create(mirror)
                let seen = try bed.runs("nbdinfo", ["--size", mirror.uri])
                #expect(seen.trimmingCharacters(in: .whitespacesAndNewlines) == "\(size)")
                let arguments = ["-f", "raw", "-r", "-c", "read \(size) 4096", mirror.uri]
                let behind = try bed.run("qemu-io", arguments)
                #expect(!behind.isSuccess || behind.output.contains("failed"), "\(behind)")
                let grow = try mirror.daemon.control(["volume", "grow", Mirror.volume])
                #expect(!grow.isSuccess && grow.errors.contains("is in the way"), "\(grow)")
                try mirror.set("Suspend", "Suspended")
                let replctl = try Product.path("replctl")
                let refused = try bed.run(replctl, ["metadata", "dump", source, "--internal"])
                #expect(!refused.isSuccess && refused.errors.contains("\(source) is in use"), "\(refused)")
                #expect(try mirror.daemon.stop() == .exited(0))
                let reply = try bed.runs(replctl, ["metadata", "dump", source, "--internal", "--json"])
                let dump = try Reply.decode(Dump.self, reply)
                let record = dump.blocks.first(where: \.counts)?.record
                #expect(dump.offset >= size && dump.offset < byteCount)
                #expect(record?.copyState == "Suspended" && record?.volumeBytes == size)
                let place = try bed.runs(replctl, ["metadata", "dump", source, "--offset", "\(dump.offset)", "--json"])
                #expect(place == reply)
            }
        }

        @Test("takes the room that an element is given while it is open; the volume keeps its size")
        func enlargedElement() throws {
            try withTestBed { bed in
                let size = 32 * mebibyte
                let source = try bed.file("source", byteCount: size)
                let mirror = try bed.mirror(source: source, target: bed.file("target", byteCount: size))
                let arguments = ["--source", Mirror.volume, "--target", mirror.target, "--metadata", "internal"]
                let refused = try mirror.daemon.control(["pair", "create"] + arguments)
                #expect(!refused.isSuccess && refused.errors.contains("needs 72KiB"), "\(refused)")
                try bed.runs("truncate", ["--size=\(size + mebibyte)", source])
                try create(mirror)
                try mirror.write(5, mirror.uri, at: 31)
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.daemon.start()
                #expect(try mirror.daemon.volume(Mirror.volume).byteCount == size)
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized")
                #expect(try areEqual(mirror, size))
            }
        }

        @Test(
            "is lost with the source: a failover is not durable and says so, a Detach after it is, and nothing is lost",
            .requires(.fuse, .tool("nbdkit"), .tool("nbdfuse"))
        )
        func deadSource() throws {
            try Torture.run("source with internal metadata dies") { bed, torture in
                let byteCount = 32 * mebibyte
                let faulty = try bed.faultyDevice("source", byteCount: byteCount)
                let target = try bed.loopDevice("target", byteCount: byteCount).path
                let source = faulty.device.path
                let (mirror, writes, size) = try volume(bed, source: source, byteCount: byteCount, target: target)
                try create(mirror)
                try writes.write(500, seed: torture.nextSeed())
                try faulty.loseMedium()
                try mirror.daemon.controls("set", Mirror.pair, "Failover")
                try mirror.daemon.wait(for: "the failover has failed") {
                    try mirror.daemon.controls("job", "ls").contains("the pair's metadata could not be written")
                }
                let refused = try bed.run("qemu-io", ["-f", "raw", "-c", "write 8M 4096", mirror.uri])
                #expect(!refused.isSuccess || refused.output.contains("failed"), "writes wait for what is durable")
                try writes.check("read from the target")
                try mirror.set("Detach")
                try writes.write(500, seed: torture.nextSeed())
                #expect(try mirror.daemon.volume(Mirror.volume).byteCount == size)
                try mirror.daemon.kill()
                try mirror.daemon.start()
                try writes.check("on the target alone, after a kill")
            }
        }
    }
}
