import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// `replctl pair resync` on files: what an operator does to copies, and what is left of it after a restart.
    @Suite("A resync", .requires(.product("repld"), .product("replctl"), .tool("qemu-io")))
    struct ResyncTests {
        @Test("is capped, paused and ordered by the operator, over restarts, and mirrors hosts while it rests")
        func operated() throws {
            try withTestBed { bed in
                let byteCount = 64 * mebibyte
                let source = try bed.file("source", byteCount: byteCount)
                let target = try bed.file("target", byteCount: byteCount)
                try bed.fill(source, mebibytes: 64)
                let mirror = try bed.mirror(source: source, target: target)
                try mirror.daemon.controls(
                    "pair",
                    "create",
                    "--source",
                    Mirror.volume,
                    "--target",
                    target,
                    "--name",
                    Mirror.pair,
                    "--cap",
                    "1M",
                    "--order",
                    "3"
                )
                let capped = try mirror.daemon.pair(Mirror.pair)
                #expect(
                    capped.copyState.name == "Unsynchronized" && capped.settings.resync.capBytesPerSecond == 1 << 20
                )
                let words = try mirror.daemon.controls("pair", "resync", Mirror.pair, "--pause", "--cap", "50MiB/s")
                #expect(words.contains("paused; cap 50MiB/s") && words.contains("order 3"))
                try mirror.write(0x5a, mirror.uri, at: 60)
                let paused = try mirror.daemon.pair(Mirror.pair)
                #expect(paused.resync?.limit == "paused" && paused.reason == "paused")
                #expect(paused.progressStatus.name == "Pending")
                #expect((paused.dirtyByteCount ?? 0) > 32 * mebibyte, "a megabyte per second is not far")
                let handle = try #require(FileHandle(forReadingAtPath: target))
                try handle.seek(toOffset: 60 * mebibyte)
                #expect(try handle.read(upToCount: 4096) == Data(repeating: 0x5a, count: 4096), "hosts are mirrored")
                try mirror.daemon.kill()
                try mirror.daemon.start()
                let again = try mirror.daemon.pair(Mirror.pair)
                #expect(again.settings.resync.paused && again.settings.resync.order == 3)
                #expect(again.copyState.name == "Unsynchronized")
                try mirror.daemon.controls("pair", "resync", Mirror.pair, "--resume", "--cap", "none")
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                #expect(try bed.areEqual(source, target))
                let bad = try mirror.daemon.control(["pair", "resync", Mirror.pair, "--cap", "10"])
                #expect(!bad.isSuccess && bad.errors.contains("expected none, or 64KiB to 1TiB"))
            }
        }
    }
}
