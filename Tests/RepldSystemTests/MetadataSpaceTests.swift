import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// A state directory without a byte of room: hosts do not notice.
    @Suite(
        "A full state directory",
        .requires(.root, .loopDevices, .fuse, .product("repld"), .product("replctl"), .pythonModule("nbd"))
    )
    struct MetadataSpaceTests {
        /// A pair whose daemon keeps its state on a small file system of its own.
        private func pair(
            _ bed: TestBed,
            target: String? = nil
        ) throws -> (mirror: Mirror, writes: NumberedWrites, space: SmallFileSystem) {
            let space = try bed.smallFileSystem("state", byteCount: 2 * mebibyte)
            let source = try bed.loopDevice("source", byteCount: 32 * mebibyte).path
            let target = try target ?? bed.loopDevice("target", byteCount: 32 * mebibyte).path
            let model = try NumberedWrites.fill(source, byteCount: 32 * mebibyte, bed)
            let daemon = try Daemon(bed: bed, stateDirectory: "\(space.folder)/repld")
            try daemon.start()
            try daemon.controls("volume", "add", Mirror.volume, "--element", source)
            let mirror = Mirror(bed: bed, daemon: daemon, source: source, target: target)
            return (mirror, NumberedWrites(mirror: mirror, export: Mirror.volume, model: model), space)
        }

        @Test("holds up no host, and what happens meanwhile is not forgotten")
        func whileRunning() throws {
            try Torture.run("state directory full while the pair runs") { bed, torture in
                let target = try bed.faultyDevice("target", byteCount: 32 * mebibyte)
                let (mirror, writes, space) = try pair(bed, target: target.device.path)
                try mirror.create(keepsUndo: false)
                let writer = try writes.start(4000, seed: torture.nextSeed())
                try mirror.waitForWrites(100)
                try space.fill()
                // The state changes all the same: its place is there since the pair was made.
                try target.setWritesFail(true)
                try mirror.daemon.waitForCopyState("Broken", of: Mirror.pair)
                try writes.finish(writer)
                #expect(try mirror.daemon.activity(Mirror.volume).failedRequestCount == 0)
                try target.setWritesFail(false)
                try mirror.daemon.kill()
                try space.makeRoom()
                try mirror.daemon.start()
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Broken")
                try mirror.set("ResyncReplica", "Synchronized")
                try mirror.expectWhole(writes, "synchronized again")
            }
        }

        @Test("does not keep the daemon from starting", arguments: [true, false])
        func restart(isKilled: Bool) throws {
            try Torture.run("start with a full state directory") { bed, torture in
                let (mirror, writes, space) = try pair(bed)
                try mirror.create(keepsUndo: false)
                try space.fill()
                try writes.write(500, seed: torture.nextSeed())
                if isKilled {
                    try mirror.daemon.kill()
                } else {
                    #expect(try mirror.daemon.stop() == .exited(0))
                }
                try mirror.daemon.start()
                try writes.check("started again")
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                try mirror.expectWhole(writes, "synchronized again")
                // Its revisions are counted on from what is shown now, once they can be written down.
                let before = try mirror.daemon.pair(Mirror.pair).revision
                try space.makeRoom()
                try mirror.set("Suspend", "Suspended")
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.daemon.start()
                #expect(try mirror.daemon.pair(Mirror.pair).revision > before)
            }
        }

        @Test(
            "refuses an operation that it would have to write down, or carries it out; hosts go on",
            arguments: [
                "Suspend", "Split", "Failover",
            ]
        )
        func operation(name: String) throws {
            try Torture.run("\(name) with a full state directory") { bed, torture in
                let (mirror, writes, space) = try pair(bed)
                try mirror.create(keepsUndo: false)
                let writer = try writes.start(3000, seed: torture.nextSeed())
                try mirror.waitForWrites(100)
                try space.fill()
                let outcome = try mirror.daemon.control(["set", Mirror.pair, name])
                if !outcome.isSuccess {
                    let words = outcome.errors.lowercased()
                    #expect(words.contains("space"), "it says what is missing: \(outcome)")
                }
                try writes.finish(writer)
                #expect(try mirror.daemon.activity(Mirror.volume).failedRequestCount == 0)
                try mirror.daemon.kill()
                try space.makeRoom()
                try mirror.daemon.start()
                try writes.check("started again")
                try mirror.settle()
                try mirror.expectWhole(writes, "synchronized again")
            }
        }

        @Test("refuses a new pair, says how much room it needs, and leaves nothing behind")
        func create() throws {
            try Torture.run("new pair in a full state directory") { bed, torture in
                let (mirror, writes, space) = try pair(bed)
                try space.fill()
                let arguments = ["--source", Mirror.volume, "--target", mirror.target, "--name", Mirror.pair]
                let outcome = try mirror.daemon.control(["pair", "create"] + arguments)
                #expect(!outcome.isSuccess)
                let words = outcome.errors
                #expect(words.lowercased().contains("no space left"), "\(outcome)")
                #expect(words.contains(mirror.daemon.stateDirectory), "\(outcome)")
                #expect(words.contains(/[0-9]+(\.[0-9]+)? ?(KiB|MiB|bytes)/), "it says how much is needed: \(outcome)")
                #expect(try mirror.daemon.controls("pair", "ls", "--json").contains("\"\(Mirror.pair)\"") == false)
                try writes.write(200, seed: torture.nextSeed())
                try space.makeRoom()
                let left = try FileManager.default.contentsOfDirectory(atPath: mirror.daemon.stateDirectory + "/pairs")
                #expect(left == [], "nothing is left behind")
                try mirror.create(keepsUndo: false)
                try mirror.expectWhole(writes, "synchronized")
            }
        }
    }
}
