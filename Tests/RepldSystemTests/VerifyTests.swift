import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// Online verify of real devices, one of which somebody changes behind the daemon's back.
    @Suite(
        "Verify",
        .requires(.root, .loopDevices, .product("repld"), .product("replctl"), .tool("fio"), .tool("cmp"))
    )
    struct VerifyTests {
        @Test("finds exactly what changed on the target, under load, and ResyncReplica repairs it")
        func findsAndRepairs() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try bed.fill(mirror.source, mebibytes: 64)
                try mirror.create()
                let clean = try mirror.verify()
                #expect(clean.ending == .exited(0), "\(clean)")
                let fio = try mirror.startFio(byteCount: 16 * mebibyte, offset: 32 * mebibyte, writesPerSecond: 1000)
                try mirror.waitForWrites(500)
                let damage: [Reply.Job.Range] = [
                    .init(offset: 0, length: 512), .init(offset: 5 * 4096 + 512, length: 1536),
                    .init(offset: 256 << 10 - 512, length: 1024), .init(offset: 20 * mebibyte, length: 300 << 10),
                    .init(offset: 64 * mebibyte - 512, length: 512),
                ]
                for range in damage { try bed.overwrite(mirror.target, range) }
                let found = try mirror.verify()
                #expect(found.ending == .exited(2), "\(found)")
                let job = try Reply.decode(Reply.Job.self, found.output)
                #expect(job.operation.name == "Verify" && job.state.name == "Completed")
                #expect(job.verify?.ranges == damage)
                #expect(job.verify?.comparedByteCount == 64 * mebibyte)
                #expect(job.verify?.differentByteCount == damage.reduce(0) { $0 + $1.length })
                #expect(fio.isRunning, "all of that happened under load")
                let words = try mirror.refuses("Failover")
                #expect(words.contains("verify has found"), "\(words)")
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized", "nothing was repaired")
                try mirror.set("ResyncReplica", "Synchronized")
                try mirror.expectNoError(fio, byteCount: 16 * mebibyte)
                let repaired = try mirror.verify()
                #expect(repaired.ending == .exited(0), "\(repaired)")
                #expect(try mirror.daemon.pair(Mirror.pair).dirtyByteCount == 0)
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.expectEqual("both elements are equal again")
            }
        }

        @Test("of a range looks at that alone, and only while the pair is Synchronized")
        func range() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try bed.fill(mirror.source, mebibytes: 64)
                try mirror.create()
                try bed.overwrite(mirror.target, .init(offset: 2 * mebibyte, length: 512))
                #expect(try mirror.verify(["--from", "4MiB"]).ending == .exited(0))
                #expect(try mirror.verify(["--length", "2MiB"]).ending == .exited(0))
                #expect(try mirror.verify(["--from", "1MiB", "--length", "2MiB"]).ending == .exited(2))
                let refused = try mirror.daemon.control(["verify", Mirror.pair, "--from", "65MiB"])
                #expect(refused.ending == .exited(1) && refused.errors.contains("the volume's size"), "\(refused)")
                try mirror.set("Suspend", "Suspended")
                let suspended = try mirror.daemon.control(["verify", Mirror.pair])
                #expect(suspended.errors.contains("only while it is Synchronized"), "\(suspended)")
                try mirror.set("Resume", "Synchronized")
                #expect(try mirror.verify().ending == .exited(0), "what was marked is copied with the rest")
            }
        }

        /// The verify of so large a volume takes longer than the kill; where it does not, it is begun anew.
        @Test("that is killed ends its job, and not the daemon's data")
        func kill() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 1024 * mebibyte)
                try bed.fill(mirror.source, mebibytes: 64)
                try mirror.create()
                var ends: [String] = []
                while ends.count < 5, ends.last != "Exception" {
                    try mirror.daemon.controls("verify", Mirror.pair)
                    try mirror.daemon.kill()
                    try mirror.daemon.start()
                    let jobs = try mirror.daemon.controls("job", "ls", "--json")
                    let newest = try #require(try Reply.decode(Reply.Jobs.self, jobs).jobs.first)
                    #expect(newest.operation.name == "Verify")
                    ends.append(newest.state.name)
                    try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                }
                #expect(ends.last == "Exception", "the kill came while it ran, and it did not go on: \(ends)")
                try mirror.expectEqual("both elements are equal")
            }
        }
    }
}

extension Mirror {
    /// Verifies the pair and waits for the end.
    func verify(_ arguments: [String] = []) throws -> Outcome {
        try daemon.control(["verify", Self.pair, "--wait", "--json"] + arguments)
    }
}

extension TestBed {
    /// Overwrites a part of a device with random bytes, past whoever else has it open.
    func overwrite(_ path: String, _ range: Reply.Job.Range) throws {
        let arguments = [
            "if=/dev/urandom", "of=\(path)", "bs=512", "count=\(range.length / 512)", "seek=\(range.offset / 512)",
        ]
        try runs("dd", arguments + ["iflag=fullblock", "oflag=direct", "conv=notrunc"])
    }
}

extension Reply {
    struct Jobs: Decodable { var jobs: [Job] }

    /// A job, as far as the tests look at it.
    struct Job: Decodable {
        struct Range: Decodable, Equatable {
            var offset: UInt64
            var length: UInt64
        }
        struct Verify: Decodable {
            var comparedByteCount: UInt64
            var differentByteCount: UInt64
            var ranges: [Range]?
        }
        var operation: Enumerated
        var state: Enumerated
        var verify: Verify?
    }
}
