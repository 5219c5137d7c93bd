import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// What other people wrote to speak NBD, against a volume that is mirrored.
    @Suite(
        "NBD clients",
        .requires(
            .root,
            .loopDevices,
            .product("repld"),
            .product("replctl"),
            .tool("nbdinfo"),
            .tool("nbdcopy"),
            .tool("qemu-io"),
            .tool("qemu-img"),
            .pythonModule("nbd")
        )
    )
    struct NbdClientTests {
        @Test("nbdinfo sees all that the server offers", arguments: [512, 4096])
        func info(blockByteCount: Int) throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte, blockByteCount: blockByteCount)
                try mirror.create()
                let info = try Reply.decode(Reply.NbdInfo.self, bed.runs("nbdinfo", ["--json", mirror.uri]))
                #expect(info.protocol == "newstyle-fixed" && info.structured)
                let export = try #require(info.exports.first)
                #expect(export.byteCount == 64 * mebibyte)
                #expect(export.contexts == ["base:allocation", "repld:dirty", "repld:dirty:p"])
                #expect(export.is_read_only == false)
                #expect(export.can_flush == true && export.can_fua == true && export.can_cache == true)
                #expect(export.can_trim == true && export.can_zero == true && export.can_fast_zero == true)
                #expect(export.can_df == true && export.can_multi_conn == true)
                #expect(export.block_size_minimum == UInt64(blockByteCount))
                let preferred = try #require(export.block_size_preferred)
                let maximum = try #require(export.block_size_maximum)
                #expect(preferred >= 4096 && preferred.nonzeroBitCount == 1)
                #expect(maximum >= mebibyte && maximum % preferred == 0)
            }
        }

        @Test("nbdinfo lists the volumes by name")
        func list() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 16 * mebibyte)
                let second = try bed.file("second", byteCount: 8 * mebibyte)
                try mirror.daemon.controls("volume", "add", "w", "--element", second)
                let uri = "nbd+unix://?socket=\(mirror.daemon.nbdSocket)"
                let listed = try Reply.decode(Reply.NbdInfo.self, bed.runs("nbdinfo", ["--list", "--json", uri]))
                #expect(Set(listed.exports.map(\.name)) == ["v", "w"])
                try mirror.daemon.controls("volume", "rm", "w")
                let left = try Reply.decode(Reply.NbdInfo.self, bed.runs("nbdinfo", ["--list", "--json", uri]))
                #expect(left.exports.map(\.name) == ["v"])
                #expect(try !bed.run("nbdinfo", [mirror.daemon.uri("w")]).isSuccess, "a removed volume is refused")
            }
        }

        @Test("nbdinfo --map tells data from holes, and covers the whole volume")
        func map() throws {
            try withTestBed { bed in
                let source = try bed.file("source.img", byteCount: 64 * mebibyte)
                try bed.fill(source, mebibytes: 2, at: 8)
                let mirror = try bed.mirror(
                    source: source,
                    target: try bed.file("target.img", byteCount: 64 * mebibyte)
                )
                let runs = try Reply.decode([Reply.MapRun].self, bed.runs("nbdinfo", ["--map", "--json", mirror.uri]))
                var end: UInt64 = 0
                for run in runs {
                    #expect(run.offset == end, "runs follow each other")
                    end = run.offset + run.length
                }
                #expect(end == 64 * mebibyte)
                func type(at offset: UInt64) -> Int? {
                    runs.first { $0.offset <= offset && offset < $0.offset + $0.length }?.type
                }
                #expect(type(at: 8 * mebibyte) == 0 && type(at: 10 * mebibyte - 4096) == 0, "what was written is data")
                #expect(
                    type(at: 0) == 3 && type(at: 32 * mebibyte) == 3,
                    "what never was is a hole that reads as zeroes"
                )
            }
        }

        @Test("nbdcopy brings an image in and out again, over many connections")
        func copy() throws {
            try withTestBed { bed in
                let image = try bed.file("image", byteCount: 64 * mebibyte)
                try bed.fill(image, mebibytes: 20, at: 3)
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                try bed.runs("nbdcopy", ["--connections=4", "--flush", image, mirror.uri])
                let back = try bed.file("back", byteCount: 64 * mebibyte)
                try bed.runs("nbdcopy", ["--connections=4", mirror.uri, back])
                #expect(try bed.areEqual(image, back))
                #expect(try bed.areEqual(image, mirror.source))
                try mirror.expectEqual("both copies have the image")
            }
        }

        @Test("libnbd tries every command, every flag and every refusal", arguments: ["on", "off"], [512, 4096])
        func commands(structured: String, blockByteCount: Int) throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte, blockByteCount: blockByteCount)
                try mirror.create()
                let arguments = [mirror.daemon.nbdSocket, "v", "\(64 * mebibyte)", "\(blockByteCount)", structured]
                let outcome = try bed.runClient("commands.py", arguments)
                #expect(outcome.isSuccess, "\(outcome)")
                try mirror.expectEqual("both copies are equal afterwards")
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized")
            }
        }

        @Test("many clients, and clients that break the protocol or go in the middle of a write, harm nobody")
        func connections() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                let arguments = [mirror.daemon.nbdSocket, "v", "\(64 * mebibyte)", "512"]
                let outcome = try bed.runClient("connections.py", arguments)
                #expect(outcome.isSuccess, "\(outcome)")
                try mirror.daemon.wait(for: "no connection is left") {
                    try mirror.daemon.activity(Mirror.volume).connectionCount == 0
                }
                try mirror.expectEqual("both copies are equal afterwards")
            }
        }

        @Test("qemu-io writes, zeroes, discards, flushes and verifies")
        func qemuIo() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                let commands = [
                    "write -P 0x11 0 4M", "write -f -P 0x22 1M 64k", "write -z 2M 1M", "write -z -u 3M 512k",
                    "discard 16M 4M", "flush", "read -P 0x11 0 1M", "read -P 0x22 1M 64k", "read -P 0x11 1088k 960k",
                    "read -P 0 2M 1536k", "read -P 0x11 3584k 512k", "aio_write -P 0x33 8M 1M", "aio_flush",
                    "read -P 0x33 8M 1M",
                ]
                let printed = try bed.runs(
                    "qemu-io",
                    ["-f", "raw", "-t", "none"] + commands.flatMap { ["-c", $0] } + [mirror.uri]
                )
                #expect(!printed.contains("verification failed") && !printed.contains("error"), "\(printed)")
                try mirror.expectEqual("both copies are equal afterwards")
            }
        }

        @Test("qemu-img converts, compares, maps and measures")
        func qemuImg() throws {
            try withTestBed { bed in
                let image = try bed.file("image.raw", byteCount: 64 * mebibyte)
                try bed.fill(image, mebibytes: 8, at: 5)
                let packed = bed.path("image.qcow2")
                try bed.runs("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", image, packed])
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                try bed.runs("qemu-img", ["convert", "-n", "-f", "qcow2", "-O", "raw", packed, mirror.uri])
                let compared = try bed.runs("qemu-img", ["compare", "-F", "raw", packed, mirror.uri])
                #expect(compared.contains("Images are identical"))
                let mapped = try bed.runs("qemu-img", ["map", "--output=json", "-f", "raw", mirror.uri])
                #expect(mapped.contains("\"data\": true"))
                let bench = [
                    "bench", "-f", "raw", "-t", "none", "-w", "-c", "500", "-d", "16", "-s", "4096", mirror.uri,
                ]
                #expect(try bed.runs("qemu-img", bench).contains("Run completed in"))
                try mirror.expectEqual("both copies are equal afterwards")
            }
        }

        @Test(
            "a file system on nbdfuse and a loop device survives, and each copy alone has it",
            .requires(.fuse, .tool("mkfs.ext4"))
        )
        func fileSystem() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 128 * mebibyte)
                try mirror.create()
                let file = try bed.nbdFile("disk", socket: mirror.daemon.nbdSocket, exportName: Mirror.volume)
                let device = try bed.loopDevice(backing: file)
                try bed.runs("mkfs.ext4", ["-q", device.path])
                let tree = bed.path("tree")
                let script = """
                    mkdir -p \(tree)/a/b && dd if=/dev/urandom of=\(tree)/a/big bs=1M count=24 2>&1
                    for n in $(seq 200); do echo "file $n" > \(tree)/a/b/$n; done
                    """
                try bed.runs("sh", ["-ec", script])
                try bed.withMount(device.path, "mounted") { mountPoint in
                    try bed.runs("cp", ["-a", tree, mountPoint])
                    try bed.runs("sync", ["-f", mountPoint])
                    try bed.runs("diff", ["-r", tree, "\(mountPoint)/tree"])
                }
                try bed.runs("e2fsck", ["-fn", device.path])
                try bed.runs("blockdev", ["--flushbufs", device.path])
                try mirror.expectEqual("both copies are equal after the file system was unmounted")
                for (name, element) in [("source", mirror.source), ("target", mirror.target)] {
                    try bed.runs("e2fsck", ["-fn", element])
                    try bed.withMount(element, "\(name)-mounted", options: "ro,noload") { mountPoint in
                        try bed.runs("diff", ["-r", tree, "\(mountPoint)/tree"])
                    }
                }
            }
        }
    }
}

extension TestBed {
    /// Mounts a device for as long as `body` takes; through a loop device of its own, because the device may be held.
    func withMount(_ device: String, _ name: String, options: String = "rw", _ body: (String) throws -> Void) throws {
        let mountPoint = path(name)
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: false)
        let isReadOnly = options.hasPrefix("ro")
        let mounted = isReadOnly ? try loopDevice(backing: device, isDirect: false, isReadOnly: true).path : device
        try runs("mount", ["-t", "ext4", "-o", options, mounted, mountPoint])
        var isMounted = true
        onCleanup("unmount \(mountPoint)") { [unowned self] in if isMounted { try runs("umount", [mountPoint]) } }
        try body(mountPoint)
        try runs("umount", [mountPoint])
        isMounted = false
    }
}
