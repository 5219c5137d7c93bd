import Foundation
import Glibc
import RepldTestSupport
import Testing

/// All tests that use devices and daemons, one at a time: they share the machine's loop devices and its two processors.
@Suite("The system", .serialized)
enum SystemTests {}

extension SystemTests {
    /// The surroundings themselves, which every other test here relies on.
    @Suite("The test bed", .requires(.root, .loopDevices, .fuse, .tool("nbdkit"), .tool("nbdfuse")))
    struct TestBedTests {
        @Test("keeps what a tool printed and how it ended")
        func outcomes() throws {
            try withTestBed { bed in
                let outcome = try bed.run("sh", ["-c", "echo out; echo err >&2; exit 3"])
                #expect(outcome.ending == .exited(3))
                #expect(outcome.output == "out\n" && outcome.errors == "err\n")
                #expect(throws: Outcome.Failed.self) { try outcome.successfulOutput() }
                #expect(try bed.run("no-such-tool", []).ending == .exited(127))
            }
        }

        @Test("ends a tool that takes too long, and all that it started")
        func timeLimit() throws {
            var reader: Int32 = -1
            defer { close(reader) }
            try withTestBed { bed in
                let fifo = bed.path("fifo")
                #expect(mkfifo(fifo, 0o600) == 0)
                reader = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
                let script = "(echo up; exec tail -f /dev/null) >\(fifo) & wait"
                let child = try bed.start("sh", ["-c", script])
                #expect(try wait(reader, for: POLLIN), "the grandchild is up")
                #expect(throws: Child.TimedOut.self) { _ = try child.wait(atMost: .milliseconds(20)) }
                var bytes = [UInt8](repeating: 0, count: 16)
                #expect(read(reader, &bytes, bytes.count) == 3)
            }
            #expect(try wait(reader, for: POLLHUP), "nobody holds the fifo's other end any more")
        }

        /// Waits for an event of a descriptor.
        private func wait(_ descriptor: Int32, for event: Int32) throws -> Bool {
            var wanted = [pollfd(fd: descriptor, events: Int16(event), revents: 0)]
            return try Deadline(after: .hang).poll(&wanted) == 1 && wanted[0].revents & Int16(event) != 0
        }

        @Test("takes everything back when the test fails")
        func cleanupAfterFailure() throws {
            struct Planned: Error {}
            var directory = ""
            #expect(throws: Outcome.Failed.self) {
                try withTestBed { bed in
                    directory = bed.directory
                    _ = try bed.faultyDevice("disk", byteCount: 1 << 20)
                    #expect(!LoopDevice.devices(backedUnder: directory).isEmpty)
                    throw Planned()
                }
            }
            #expect(LoopDevice.devices(backedUnder: directory) == [])
            #expect(Leftovers.mountPoints(under: directory) == [])
            #expect(access(directory, F_OK) == -1)
        }

        @Test("makes loop devices of the wanted block size with direct I/O", arguments: [512, 4096])
        func loopDevices(blockByteCount: Int) throws {
            try withTestBed { bed in
                let device = try bed.loopDevice("disk", byteCount: 1 << 20, blockByteCount: blockByteCount)
                let facts = try bed.runs("losetup", ["--noheadings", "--output", "DIO,LOG-SEC", device.path])
                #expect(
                    facts.split(separator: " ").map { $0.trimmingCharacters(in: .newlines) } == [
                        "1", "\(blockByteCount)",
                    ]
                )
                #expect(try bed.runs("blockdev", ["--getsize64", device.path]) == "1048576\n")
            }
        }

        @Test("makes a device fail and work again on command")
        func faults() throws {
            try withTestBed { bed in
                let disk = try bed.faultyDevice("disk", byteCount: 1 << 20)
                func write() throws -> Bool {
                    try bed.run(
                        "dd",
                        ["if=/dev/urandom", "of=\(disk.device.path)", "bs=4k", "count=4", "oflag=direct", "conv=fsync"]
                    ).isSuccess
                }
                func read() throws -> Bool {
                    try bed.run("dd", ["if=\(disk.device.path)", "of=/dev/null", "bs=4k", "iflag=direct"]).isSuccess
                }
                #expect(try write() && read())
                try disk.setWritesFail(true)
                #expect(try !write())
                try disk.setWritesFail(false)
                try disk.setReadsFail(true)
                #expect(try !read())
                try disk.setReadsFail(false)
                #expect(try write() && read())
                try disk.loseMedium()
                #expect(try !write() && !read())
            }
        }

        @Test("tells equal devices from those that differ in one byte")
        func comparison() throws {
            try withTestBed { bed in
                let devices = (
                    try bed.loopDevice("left", byteCount: 1 << 20), try bed.loopDevice("right", byteCount: 1 << 20)
                )
                #expect(try bed.areEqual(devices.0.path, devices.1.path))
                try bed.runs("sh", ["-c", "printf x | dd of=\(devices.1.path) bs=1 seek=1048575 conv=notrunc"])
                #expect(try !bed.areEqual(devices.0.path, devices.1.path))
            }
        }

        @Test("takes only directories of ended test processes for leftovers")
        func leftovers() throws {
            #expect(!Leftovers.isAbandoned("repld-test-\(getpid())-abc"))
            #expect(!Leftovers.isAbandoned("repld-test-x-abc"))
            #expect(!Leftovers.isAbandoned("something-else"))
            // A process that has ended and was waited for: its number is free.
            var pid: pid_t = 0
            try withTestBed { bed in
                let child = try bed.start("true", [])
                _ = try child.wait(atMost: .hang)
                pid = child.pid
            }
            #expect(Leftovers.isAbandoned("repld-test-\(pid)-abc"))
        }
    }

    @Suite("A requirement")
    struct RequirementTests {
        @Test("that is not there fails the test by its name")
        func missing() async throws {
            let trait = RequirementTrait(requirements: [.tool("no-such-tool"), .product("no-such-product")])
            let test = try #require(Test.current)
            do {
                try await trait.prepare(for: test)
                Issue.record("a missing tool was passed over")
            } catch let error as RequirementTrait.Missing {
                #expect(error.description.contains("no-such-tool") && error.description.contains("no-such-product"))
            }
        }

        @Test("that is there lets the test go on")
        func met() async throws {
            let test = try #require(Test.current)
            try await RequirementTrait(requirements: [.tool("sh")]).prepare(for: test)
        }
    }
}
