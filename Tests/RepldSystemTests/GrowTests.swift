import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// `replctl volume grow`: elements that an administrator has enlarged while hosts used them.
    @Suite(
        "A growth",
        .requires(
            .root,
            .loopDevices,
            .product("repld"),
            .product("replctl"),
            .tool("fio"),
            .tool("qemu-io"),
            .tool("nbdinfo")
        )
    )
    struct GrowTests {
        private static let former = 64 * mebibyte
        private static let wanted = 96 * mebibyte

        @Test("of a file and a loop device under load gives new clients the space, and both copies are equal")
        func underLoad() throws {
            try withTestBed { bed in
                let source = try bed.file("source", byteCount: Self.former)
                let target = try bed.loopDevice("target", byteCount: Self.former)
                try bed.fill(source, mebibytes: 64)
                let mirror = try bed.mirror(source: source, target: target.path)
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 32 * mebibyte, writesPerSecond: 1500)
                try mirror.waitForWrites(500)

                // Random, so that a copy which left the new range out would be seen.
                try bed.fill(source, mebibytes: 32, at: 64)
                let early = try mirror.daemon.control(["volume", "grow", Mirror.volume, "--size", "96MiB"])
                #expect(!early.isSuccess && early.errors.contains(target.path), "\(early)")
                #expect(early.errors.contains("\(Self.former)") && early.errors.contains("\(Self.wanted)"))
                try bed.enlarge(target, to: Self.wanted)
                let words = try mirror.daemon.controls("volume", "grow", Mirror.volume)
                #expect(words.contains("has grown from 64MiB to 96MiB"), "\(words)")
                #expect(fio.isRunning, "all of that happened under load")
                let size = try bed.runs("nbdinfo", ["--size", mirror.uri])
                #expect(size.trimmingCharacters(in: .whitespacesAndNewlines) == "\(Self.wanted)")
                try mirror.write(0x5a, mirror.uri, at: 95)
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                #expect(try mirror.holds(0x5a, mirror.uri, at: 95))
                try mirror.expectNoError(fio, byteCount: 32 * mebibyte)

                let again = try mirror.daemon.controls("volume", "grow", Mirror.volume, "--size", "96MiB")
                #expect(again.contains("holds 96MiB"), "\(again)")
                let shrink = try mirror.daemon.control(["volume", "grow", Mirror.volume, "--size", "64MiB"])
                #expect(!shrink.isSuccess && shrink.errors.contains("cannot shrink"), "\(shrink)")
                #expect(shrink.errors.contains("\(Self.former)") && shrink.errors.contains("\(Self.wanted)"))
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.expectEqual("both elements are equal, the new range included")
                try mirror.daemon.start()
                #expect(
                    try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized",
                    "cleanly, and of one size"
                )
            }
        }

        @Test("that is followed by a kill at once is there after the start, with all that was written, on both copies")
        func killed() throws {
            try withTestBed { bed in
                let source = try bed.loopDevice("source", byteCount: Self.former)
                let target = try bed.loopDevice("target", byteCount: Self.former)
                try bed.fill(source.path, mebibytes: 64)
                let mirror = try bed.mirror(source: source.path, target: target.path)
                try mirror.create()
                for device in [source, target] { try bed.enlarge(device, to: 2 * Self.former) }
                try mirror.daemon.controls("volume", "grow", Mirror.volume, "--size", "96MiB")
                try mirror.write(0x33, mirror.uri, at: 90)
                try mirror.daemon.kill()
                try mirror.daemon.start()
                let size = try bed.runs("nbdinfo", ["--size", mirror.uri])
                #expect(
                    size.trimmingCharacters(in: .whitespacesAndNewlines) == "\(Self.wanted)",
                    "not the devices' size"
                )
                #expect(try mirror.holds(0x33, mirror.uri, at: 90))
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                #expect(try mirror.daemon.stop() == .exited(0))
                let equal = try bed.run("cmp", ["-n", "\(Self.wanted)", source.path, target.path])
                #expect(equal.isSuccess, "\(equal)")
            }
        }
    }
}

extension TestBed {
    /// Enlarges the file behind a loop device, and lets the device know.
    fileprivate func enlarge(_ device: LoopDevice, to byteCount: UInt64) throws {
        try runs("truncate", ["--size", "\(byteCount)", device.backingPath])
        try runs("losetup", ["--set-capacity", device.path])
    }
}
