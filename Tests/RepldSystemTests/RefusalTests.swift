import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// What the daemon does not do, and how it says so: what was wrong, and where.
    @Suite(
        "A refusal",
        .requires(.root, .loopDevices, .product("repld"), .product("replctl"), .tool("mkfs.ext4"))
    )
    struct RefusalTests {
        /// Expects a refusal whose words have all of these in them.
        private func expectRefused(_ outcome: Outcome, _ words: String...) {
            #expect(!outcome.isSuccess, "\(outcome)")
            for word in words {
                let isSaid = (outcome.errors + outcome.output).localizedCaseInsensitiveContains(word)
                #expect(isSaid, "the refusal says \(word): \(outcome)")
            }
        }

        @Test("of a mounted element names it and where it is mounted")
        func mounted() throws {
            try withTestBed { bed in
                let device = try bed.loopDevice("disk", byteCount: 32 * mebibyte)
                try bed.runs("mkfs.ext4", ["-q", device.path])
                let daemon = try Daemon(bed: bed)
                try daemon.start()
                try bed.withMount(device.path, "mounted") { mountPoint in
                    let outcome = try daemon.control(["volume", "add", "v", "--element", device.path])
                    expectRefused(outcome, device.path, mountPoint)
                }
                try daemon.controls("volume", "add", "v", "--element", device.path)
            }
        }

        @Test("of an element that another repld holds names both", arguments: [true, false])
        func heldByAnother(isDevice: Bool) throws {
            try withTestBed { bed in
                let element =
                    isDevice
                    ? try bed.loopDevice("disk", byteCount: 16 * mebibyte).path
                    : try bed.file("disk.img", byteCount: 16 * mebibyte)
                let first = try Daemon(bed: bed, name: "a")
                try first.start()
                try first.controls("volume", "add", "v", "--element", element)
                let second = try Daemon(bed: bed, name: "b")
                try second.start()
                let outcome = try second.control(["volume", "add", "w", "--element", element])
                expectRefused(outcome, element, "repld", "\(try first.process.pid)")
                #expect(try first.stop() == .exited(0))
                try second.controls("volume", "add", "w", "--element", element)
            }
        }

        @Test("of an element that the same repld uses already says for what")
        func usedTwice() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 16 * mebibyte)
                let again = try mirror.daemon.control(["volume", "add", "w", "--element", mirror.source])
                expectRefused(again, mirror.source, "v")
                let itself = try mirror.daemon.control(
                    ["pair", "create", "--source", "v", "--target", mirror.source, "--name", "p"])
                expectRefused(itself, mirror.source)
            }
        }

        @Test("of a target that is too small says how small and how large it has to be", arguments: [1, 4096])
        func tooSmall(missingByteCount: UInt64) throws {
            try withTestBed { bed in
                let source = try bed.file("source.img", byteCount: 16 * mebibyte)
                let target = try bed.file("target.img", byteCount: 16 * mebibyte - missingByteCount)
                let mirror = try bed.mirror(source: source, target: target)
                let outcome = try mirror.daemon.control(
                    ["pair", "create", "--source", "v", "--target", target, "--name", "p", "--wait"])
                expectRefused(outcome, target)
                #expect(try mirror.daemon.controls("pair", "ls", "--json").contains("\"p\"") == false)
                #expect(try bed.run("nbdinfo", [mirror.uri]).isSuccess, "the volume is served all the same")
            }
        }

        @Test("of a bad configuration names the file and the line, with the exit code for that")
        func configuration() throws {
            try withTestBed { bed in
                let file = try bed.file("repld.conf", text: "# one\n# two\nno-such-setting: 1\n")
                let daemon = try Daemon(bed: bed)
                let outcome = try daemon.refuses(["--config", file])
                #expect(outcome.ending == .exited(78), "EX_CONFIG")
                expectRefused(outcome, "\(file):3", "no-such-setting")
            }
        }

        @Test(
            "of a recovery point that makes no sense needs no daemon",
            arguments: [
                (["pair", "create", "--source", "v", "--target", "/dev/t", "--rpo", "5s"], "repl://PEER/VOLUME"),
                (["pair", "create", "--source", "v", "--target", "/dev/t", "--mode", "async"], "repl://PEER/VOLUME"),
                (["pair", "create", "--source", "v", "--target", "repl://s/v", "--rpo", "5"], "500ms"),
                (["pair", "create", "--source", "v", "--target", "repl://s/v", "--mode", "maybe"], "async"),
                (["set", "p", "Suspend", "--rpo", "5s"], "ResetToAsync"),
                (["set", "p", "ResetToAsync", "--rpo", "soon"], "500ms"),
                (
                    ["pair", "create", "--source", "v", "--target", "/dev/t", "--recovery", "automatic"],
                    "repl://PEER/VOLUME"
                ),
                (["pair", "recovery", "p", "soon"], "manual"),
                (["peer", "set", "s"], "--compress"),
                (["peer", "set", "s", "--compress", "more"], "always"),
            ]
        )
        func recoveryPoint(arguments: [String], words: String) throws {
            try withTestBed { bed in
                let outcome = try Daemon(bed: bed).control(arguments)
                #expect(outcome.ending == .exited(64), "EX_USAGE")
                expectRefused(outcome, words)
            }
        }

        @Test("of a second daemon on one state directory names the directory")
        func secondDaemon() throws {
            try withTestBed { bed in
                let daemon = try Daemon(bed: bed)
                try daemon.start()
                let outcome = try daemon.refuses()
                expectRefused(outcome, daemon.stateDirectory)
                #expect(try daemon.process.isRunning)
                try daemon.controls("volume", "ls")
            }
        }

        @Test("of a control socket is made to everybody but its owner")
        func controlSocketMode() throws {
            try withTestBed { bed in
                let daemon = try Daemon(bed: bed)
                try daemon.start()
                let mode = try bed.runs("stat", ["--format=%a %F", daemon.controlSocket])
                #expect(mode == "600 socket\n")
                #expect(try daemon.stop() == .exited(0))
                #expect(access(daemon.controlSocket, F_OK) == -1, "a stopped daemon takes its socket with it")
            }
        }
    }
}
