import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// The main job: two copies that stay equal whatever happens to one of them.
    @Suite(
        "A mirror",
        .requires(
            .root,
            .loopDevices,
            .fuse,
            .product("repld"),
            .product("replctl"),
            .tool("fio"),
            .tool("nbdkit"),
            .tool("nbdfuse"),
            .tool("nbdcopy")
        )
    )
    struct MirrorTests {
        @Test("keeps both elements equal under fio", arguments: [4096, 65536])
        func fio(blockByteCount: Int) throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 48 * mebibyte, blockByteCount: blockByteCount)
                try mirror.expectNoError(fio, byteCount: 48 * mebibyte)
                try mirror.expectEqual("both elements have every byte that fio wrote")
                let pair = try mirror.daemon.pair(Mirror.pair)
                #expect(pair.copyState.name == "Synchronized" && pair.dirtyByteCount == 0)
                #expect(try mirror.daemon.activity(Mirror.volume).failedRequestCount == 0)
            }
        }

        @Test("copies what was there while fio writes, and leaves the target sparse where the source is zero")
        func initialCopy() throws {
            try withTestBed { bed in
                let source = try bed.loopDevice("source", byteCount: 256 * mebibyte)
                try bed.fill(source.path, mebibytes: 24, at: 100)
                let target = try bed.loopDevice("target", byteCount: 256 * mebibyte)
                // What an earlier life of the target left there has to go.
                try bed.fill(target.path, mebibytes: 8, at: 200)
                let mirror = try bed.mirror(source: source.path, target: target.path)
                let fio = try mirror.startFio(byteCount: 8 * mebibyte, writesPerSecond: 2000)
                try mirror.waitForWrites(100)
                try mirror.create()
                try mirror.expectNoError(fio, byteCount: 8 * mebibyte)
                try mirror.expectEqual("the copy and what was written meanwhile are both there")
                let allocated = try bed.allocatedByteCount(of: target.backingPath)
                #expect(allocated >= 32 * mebibyte, "what is not zero is stored")
                #expect(allocated <= 48 * mebibyte, "zeroes are not stored: \(allocated) bytes are")
            }
        }

        @Test("that loses its target under load fails not one write, is Broken, and catches up when it is back")
        func targetFails() throws {
            try withTestBed { bed in
                let source = try bed.loopDevice("source", byteCount: 64 * mebibyte)
                let target = try bed.faultyDevice("target", byteCount: 64 * mebibyte)
                let mirror = try bed.mirror(source: source.path, target: target.device.path)
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 24 * mebibyte, writesPerSecond: 1000)
                try mirror.waitForWrites(1000)
                try target.setWritesFail(true)
                try mirror.daemon.waitForCopyState("Broken", of: Mirror.pair)
                #expect(fio.isRunning, "the load goes on")
                try mirror.expectNoError(fio, byteCount: 24 * mebibyte)
                let broken = try mirror.daemon.pair(Mirror.pair)
                #expect(broken.copyState.number == 5)
                #expect(broken.reason?.isEmpty == false, "the pair says why")
                #expect((broken.dirtyByteCount ?? 0) > 0, "what the target lacks is remembered")
                #expect(try mirror.daemon.activity(Mirror.volume).failedRequestCount == 0)
                #expect(try !bed.areEqual(source.path, target.device.path), "the target did lack something")
                try target.setWritesFail(false)
                try mirror.daemon.controls("set", Mirror.pair, "ResyncReplica", "--wait", "Synchronized")
                let back = try mirror.daemon.pair(Mirror.pair)
                #expect(back.copyState.name == "Synchronized" && back.dirtyByteCount == 0)
                try mirror.expectEqual("both elements are equal again")
            }
        }

        /// Writes to a frozen file system sit in the kernel's workers, of which a ring has few unless it asks for more.
        @Test("whose target hangs is Broken after its time limit, and the host goes on; it catches up afterwards")
        func targetHangs() throws {
            try withTestBed { bed in
                let source = try bed.loopDevice("source", byteCount: 64 * mebibyte)
                let (folder, target) = try bed.freezableFile("target", byteCount: 64 * mebibyte)
                let mirror = try bed.mirror(
                    source: source.path,
                    target: target,
                    configuration: "pair-defaults:\n  target-timeout: 10s\n"
                )
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 16 * mebibyte, writesPerSecond: 1000, depth: 64)
                try mirror.waitForWrites(500)
                try bed.runs("fsfreeze", ["--freeze", folder])
                try mirror.daemon.waitForCopyState("Broken", of: Mirror.pair)
                try mirror.expectNoError(fio, byteCount: 16 * mebibyte)
                try bed.runs("fsfreeze", ["--unfreeze", folder])
                try mirror.daemon.controls("set", Mirror.pair, "ResyncReplica", "--wait", "Synchronized")
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.expectEqual("both elements are equal again")
            }
        }

        @Test("whose target is gone for good goes on without it")
        func targetGone() throws {
            try withTestBed { bed in
                let source = try bed.loopDevice("source", byteCount: 64 * mebibyte)
                let target = try bed.faultyDevice("target", byteCount: 64 * mebibyte)
                let mirror = try bed.mirror(source: source.path, target: target.device.path)
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 16 * mebibyte, writesPerSecond: 1000)
                try mirror.waitForWrites(1000)
                try target.loseMedium()
                try mirror.daemon.waitForCopyState("Broken", of: Mirror.pair)
                try mirror.expectNoError(fio, byteCount: 16 * mebibyte)
                #expect(try mirror.daemon.stop() == .exited(0))
            }
        }

        @Test("serves from the target what the source cannot read, and says so")
        func sourceReadFails() throws {
            try withTestBed { bed in
                let source = try bed.faultyDevice("source", byteCount: 64 * mebibyte)
                try bed.fill(source.device.path, mebibytes: 16)
                let target = try bed.loopDevice("target", byteCount: 64 * mebibyte)
                let mirror = try bed.mirror(source: source.device.path, target: target.path)
                try mirror.create()
                try source.setReadsFail(true)
                let copy = try bed.file("copy", byteCount: 64 * mebibyte)
                try bed.runs("nbdcopy", [mirror.uri, copy])
                #expect(try bed.areEqual(copy, target.path))
                let activity = try mirror.daemon.activity(Mirror.volume)
                #expect(activity.readsServedByTarget > 0 && activity.failedRequestCount == 0)
                try source.setReadsFail(false)
                try mirror.expectEqual("repairing the source has changed nothing")
            }
        }

        @Test("that is suspended remembers what is written, and copies that and no more")
        func suspended() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 256 * mebibyte)
                try mirror.create()
                try mirror.daemon.controls("set", Mirror.pair, "Suspend", "--wait", "Suspended")
                let fio = try mirror.startFio(byteCount: 4 * mebibyte, offset: 128 * mebibyte)
                try mirror.expectNoError(fio, byteCount: 4 * mebibyte)
                let suspended = try mirror.daemon.pair(Mirror.pair)
                #expect(suspended.dirtyByteCount == 4 * mebibyte)
                #expect(try !bed.areEqual(mirror.source, mirror.target))
                try mirror.daemon.controls("set", Mirror.pair, "Resume", "--wait", "Synchronized")
                let resumed = try mirror.daemon.pair(Mirror.pair)
                #expect(resumed.copy?.totalByteCount == 4 * mebibyte, "only what was written is looked at")
                try mirror.expectEqual("both elements are equal again")
                try mirror.daemon.controls("set", Mirror.pair, "Detach")
                #expect(try !mirror.daemon.control(["pair", "show", Mirror.pair]).isSuccess, "the pair is gone")
            }
        }
    }
}
