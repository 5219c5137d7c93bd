import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// A daemon that is stopped or killed and started again goes on where it was.
    @Suite(
        "A restart",
        .requires(
            .root,
            .loopDevices,
            .product("repld"),
            .product("replctl"),
            .tool("fio"),
            .pythonModule("nbd")
        )
    )
    struct RestartTests {
        @Test("after a clean stop finds the pair Synchronized, without a copy")
        func clean() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 16 * mebibyte)
                try mirror.expectNoError(fio, byteCount: 16 * mebibyte)
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.expectEqual("a stopped daemon leaves equal elements")
                try mirror.daemon.start()
                let pair = try mirror.daemon.pair(Mirror.pair)
                #expect(pair.copyState.name == "Synchronized" && pair.dirtyByteCount == 0)
                #expect(pair.copy?.totalByteCount ?? 0 == 0, "nothing was looked at")
                let again = try mirror.startFio(byteCount: 4 * mebibyte)
                try mirror.expectNoError(again, byteCount: 4 * mebibyte)
                try mirror.expectEqual("the pair mirrors as before")
            }
        }

        @Test("after a kill under load looks at what was active and nothing else, and both elements are equal")
        func killed() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 1024 * mebibyte)
                try bed.fill(mirror.source, mebibytes: 64, at: 512)
                try mirror.create()
                // What a copy has cleared gets to the disk a moment after its end, or at a stop.
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.daemon.start()
                let fio = try mirror.startFio(byteCount: 16 * mebibyte, writesPerSecond: 3000)
                try mirror.waitForWrites(1000)
                try mirror.daemon.kill()
                // It does not always notice that its server is gone.
                fio.end(with: SIGKILL)
                _ = try fio.wait(atMost: .hang)
                try mirror.daemon.start()
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                try CopyBound.expectHeld(mirror, hotByteCount: 16 * mebibyte, "a kill does not cause a full copy")
                try mirror.expectEqual("both elements are equal again")
            }
        }

        @Test("after a kill has every write that was acknowledged, on both elements", arguments: [200, 1500])
        func acknowledgedWrites(count: UInt64) throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                let journal = bed.path("journal")
                let arguments = [mirror.daemon.nbdSocket, Mirror.volume, journal, "16384"]
                let folder = URL(filePath: #filePath).deletingLastPathComponent().path(percentEncoded: false)
                let script = folder + "/Clients/acknowledged.py"
                let writer = try bed.start("/usr/bin/python3", ["-B", script, "write"] + arguments)
                try mirror.waitForWrites(count)
                try mirror.daemon.kill()
                #expect(try writer.wait(atMost: .hang) == .exited(0), "\(writer.tail())")
                try mirror.daemon.start()
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                let verified = try bed.runClient("acknowledged.py", ["check"] + arguments)
                #expect(verified.isSuccess, "\(verified)")
                try mirror.expectEqual("both elements are equal again")
            }
        }

        @Test("during the initial copy, again and again, ends with equal elements")
        func killedWhileCopying() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 256 * mebibyte)
                try bed.fill(mirror.source, mebibytes: 256)
                try mirror.daemon.controls(
                    "pair",
                    "create",
                    "--source",
                    Mirror.volume,
                    "--target",
                    mirror.target,
                    "--name",
                    Mirror.pair
                )
                for _ in 0..<3 {
                    try mirror.daemon.kill()
                    try mirror.daemon.start()
                }
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair, atMost: .hang)
                try mirror.expectEqual("the copy was taken up and finished")
            }
        }
    }
}
