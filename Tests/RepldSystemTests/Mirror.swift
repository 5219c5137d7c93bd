import Foundation
import RepldTestSupport
import Testing

/// A daemon that serves one volume, `v`, mirrored as pair `p` where a test has asked for that.
struct Mirror {
    let bed: TestBed
    let daemon: Daemon
    /// Paths of the elements.
    let source: String
    let target: String

    static let volume = "v"
    static let pair = "p"

    var uri: String { daemon.uri(Self.volume) }
    /// The own export of the target, which is open while hosts may use it.
    var targetURI: String { daemon.uri("\(Self.pair)/target") }

    /// Carries an operation out and waits for the copy state that it leads to.
    func set(_ operation: String, _ state: String? = nil, isForced: Bool = false) throws {
        var arguments = ["set", Self.pair, operation]
        if isForced { arguments.append("--force") }
        if let state { arguments += ["--wait", state] }
        let outcome = try daemon.control(arguments)
        #expect(outcome.isSuccess, "\(outcome)")
    }

    /// Asks for an operation that has to be refused; what the refusal says.
    func refuses(_ operation: String, isForced: Bool = false) throws -> String {
        let outcome = try daemon.control(["set", Self.pair, operation] + (isForced ? ["--force"] : []))
        #expect(!outcome.isSuccess, "\(operation) has to be refused")
        return outcome.errors
    }

    /// Writes a pattern through NBD, and makes it durable.
    func write(_ pattern: UInt8, _ uri: String, at mebibyteOffset: UInt64, mebibytes: UInt64 = 1) throws {
        let command = "write -P \(pattern) \(mebibyteOffset)M \(mebibytes)M"
        try bed.runs("qemu-io", ["-f", "raw", "-c", command, "-c", "flush", uri])
    }

    /// Whether a range holds the pattern, as a host sees it.
    func holds(_ pattern: UInt8, _ uri: String, at mebibyteOffset: UInt64, mebibytes: UInt64 = 1) throws -> Bool {
        let command = "read -P \(pattern) \(mebibyteOffset)M \(mebibytes)M"
        let outcome = try bed.run("qemu-io", ["-f", "raw", "-r", "-c", command, uri])
        return outcome.isSuccess && !outcome.output.contains("verification failed")
    }

    /// Whether hosts can choose the target's own export.
    func isTargetExported() throws -> Bool { try bed.run("nbdinfo", ["--size", targetURI]).isSuccess }

    /// Pairs the two elements and waits until they are equal.
    func create(keepsUndo: Bool = true) throws {
        let names = ["--source", Self.volume, "--target", target, "--name", Self.pair]
        let outcome = try daemon.control(["pair", "create", "--wait"] + names + (keepsUndo ? [] : ["--no-undo"]))
        #expect(outcome.isSuccess, "\(outcome)")
        #expect(try daemon.pair(Self.pair).copyState == Reply.Enumerated(number: 4, name: "Synchronized"))
    }

    /// Random 4 KiB writes, each read back and checked: `fio --verify=crc32c`.
    func startFio(
        byteCount: UInt64,
        offset: UInt64 = 0,
        writesPerSecond: Int? = nil,
        blockByteCount: Int = 4096,
        depth: Int = 16
    ) throws -> Child {
        let rate = writesPerSecond.map { ["--rate_iops=\($0)"] } ?? []
        return try bed.start(
            "fio",
            [
                "--name=verify", "--ioengine=nbd", "--uri=\(uri)", "--rw=randwrite", "--bs=\(blockByteCount)",
                "--iodepth=\(depth)", "--size=\(byteCount)", "--offset=\(offset)", "--verify=crc32c", "--do_verify=1",
                "--verify_fatal=1", "--verify_state_save=0", "--output-format=json", "--randrepeat=1", "--thread",
            ] + rate
        )
    }

    /// Every write succeeded and was read back as written.
    func expectNoError(_ fio: Child, byteCount: UInt64, atMost limit: Duration = .hang) throws {
        let ending = try fio.wait(atMost: limit)
        #expect(ending == .exited(0), "\(fio.tail())")
        let report = try Reply.decode(Reply.Fio.self, fio.output())
        let job = try #require(report.jobs.first)
        #expect(job.error == 0 && job.total_err ?? 0 == 0)
        #expect(job.write.io_bytes == byteCount, "all was written")
        #expect(job.read.io_bytes == byteCount, "all was read back and checked")
    }

    /// Waits until at least this many writes have come in.
    func waitForWrites(_ count: UInt64) throws {
        try daemon.wait(for: "\(count) writes") { try daemon.activity(Self.volume).writeCount >= count }
    }

    func expectEqual(_ words: String) throws {
        #expect(try bed.areEqual(source, target), "\(words)")
    }
}

extension TestBed {
    /// Starts a daemon that serves `source` as volume `v`.
    func mirror(source: String, target: String, configuration: String? = nil) throws -> Mirror {
        let daemon = try Daemon(bed: self)
        if let configuration {
            try daemon.start(["--config", file("repld.yaml", text: configuration)])
        } else {
            try daemon.start()
        }
        try daemon.controls("volume", "add", Mirror.volume, "--element", source)
        return Mirror(bed: self, daemon: daemon, source: source, target: target)
    }

    /// The same, with two new loop devices for elements.
    func mirror(byteCount: UInt64, blockByteCount: Int = 512) throws -> Mirror {
        let source = try loopDevice("source", byteCount: byteCount, blockByteCount: blockByteCount)
        let target = try loopDevice("target", byteCount: byteCount, blockByteCount: blockByteCount)
        return try mirror(source: source.path, target: target.path)
    }

    /// Fills a part of a file or device with random bytes.
    func fill(_ path: String, mebibytes: Int, at start: Int = 0) throws {
        let arguments = ["if=/dev/urandom", "of=\(path)", "bs=1M", "count=\(mebibytes)", "seek=\(start)"]
        try runs("dd", arguments + ["conv=notrunc,fsync"])
    }

    /// Runs one of the scripts beside the tests with the system's python3, which has the NBD library.
    func runClient(_ script: String, _ arguments: [String], file: String = #filePath) throws -> Outcome {
        let folder = URL(filePath: file).deletingLastPathComponent().appending(path: "Clients")
        let path = folder.appending(path: script).path(percentEncoded: false)
        return try run("/usr/bin/python3", ["-B", path] + arguments, atMost: .hang)
    }
}

let mebibyte: UInt64 = 1 << 20
