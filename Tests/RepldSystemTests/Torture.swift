import Foundation
import Glibc
import RepldCore
import RepldTestSupport
import Testing

/// The choices of one torture test: made by a seed that is said, and that can be given.
///
/// `REPLD_TORTURE_SEED` gives the seed, `REPLD_TORTURE_ROUNDS` how often each thing is tried. The moment of a kill still
/// depends on the machine: the same seed makes the same choices, and comes close to the same moments.
struct Torture {
    let seed: UInt64
    var random: RandomSource

    /// Few, for every change; many by hand.
    static let roundCount = environmentNumber("REPLD_TORTURE_ROUNDS").flatMap { Int(exactly: $0) } ?? 2

    init(_ words: String) {
        let given = Self.environmentNumber("REPLD_TORTURE_SEED")
        seed = given ?? UInt64.random(in: 1...999_999)
        random = RandomSource(seed: seed)
        say("\(words): REPLD_TORTURE_SEED=\(seed)")
    }

    /// Tells whoever watches the tests.
    func say(_ words: String) { FileHandle.standardError.write(Data("torture: \(words)\n".utf8)) }

    /// Runs what is tried, and names the seed when it fails.
    static func run(_ words: String, _ body: (TestBed, inout Torture) throws -> Void) throws {
        var torture = Torture(words)
        do {
            try withTestBed { try body($0, &torture) }
        } catch {
            throw Outcome.Failed(description: "\(words), REPLD_TORTURE_SEED=\(torture.seed): \(error)")
        }
    }

    mutating func number(_ range: ClosedRange<UInt64>) -> UInt64 {
        range.lowerBound + random.below(range.upperBound - range.lowerBound + 1)
    }

    /// A seed for somebody else's choices.
    mutating func nextSeed() -> UInt64 { random.next() >> 1 }

    /// True once in so many times.
    mutating func isChosen(oneIn count: UInt64) -> Bool { random.chance(oneIn: count) }

    mutating func choice<Value>(_ values: [Value]) -> Value { values[Int(random.below(UInt64(values.count)))] }

    private static func environmentNumber(_ name: String) -> UInt64? {
        ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
    }
}

/// What the numbered writes of `Clients/numbered.py` have left on one export, and may have left.
struct NumberedWrites {
    let mirror: Mirror
    /// The name of the export.
    let export: String
    /// The file that remembers.
    let model: String

    private static var script: String {
        URL(filePath: #filePath).deletingLastPathComponent().path(percentEncoded: false) + "/Clients/numbered.py"
    }

    /// Starts to write: `count` writes or until the daemon goes; with `kills` the writer itself kills it after the last.
    ///
    /// With `hotByteCount` only so many bytes at the beginning are written to.
    func start(_ count: UInt64, within hotByteCount: UInt64? = nil, seed: UInt64, kills: Bool = false) throws -> Child {
        let victim = kills ? Int(try mirror.daemon.process.pid) : 0
        let numbers = [String(seed), String(count), String(victim), String((hotByteCount ?? 0) / 4096)]
        let arguments = [mirror.daemon.nbdSocket, export, model] + numbers
        return try mirror.bed.start("/usr/bin/python3", ["-B", Self.script, "write"] + arguments)
    }

    /// Writes, and expects that every write is acknowledged.
    func write(_ count: UInt64, seed: UInt64) throws {
        let writer = try start(count, seed: seed)
        try finish(writer)
        #expect(writer.output().contains("the server answers"))
    }

    /// Waits for a writer, whom no request may have failed but by the daemon's death.
    func finish(_ writer: Child) throws {
        #expect(try writer.wait(atMost: .hang) == .exited(0), "\(writer.tail())")
    }

    /// Every block holds the last write that was acknowledged, or one that was under way at a kill.
    func check(_ words: String) throws {
        let arguments = ["check", mirror.daemon.nbdSocket, export, model]
        let outcome = try mirror.bed.runClient("numbered.py", arguments)
        guard outcome.isSuccess else { throw Outcome.Failed(description: "\(words): \(outcome)") }
    }

    /// The same memory for another export, which now has the same data.
    func copied(to export: String, as name: String) throws -> NumberedWrites {
        let path = mirror.bed.path(name)
        try? FileManager.default.removeItem(atPath: path)
        try FileManager.default.copyItem(atPath: model, toPath: path)
        return NumberedWrites(mirror: mirror, export: export, model: path)
    }

    /// Fills an element, which no daemon has yet, with numbered blocks, and returns the path of the memory of them.
    static func fill(_ path: String, byteCount: UInt64, _ bed: TestBed) throws -> String {
        let model = bed.path("numbered.json")
        let arguments = ["-B", script, "fill", path, model, String(byteCount / 4096)]
        try bed.runs("/usr/bin/python3", arguments)
        return model
    }
}

extension Mirror {
    /// A daemon with a volume that is full of numbered blocks, on two new loop devices; not paired yet.
    ///
    /// The copy goes one chunk at a time, so that a kill falls into it.
    static func numbered(
        _ bed: TestBed,
        byteCount: UInt64 = 64 * mebibyte
    ) throws -> (mirror: Mirror, writes: NumberedWrites) {
        let source = try bed.loopDevice("source", byteCount: byteCount)
        let target = try bed.loopDevice("target", byteCount: byteCount)
        return try numbered(bed, source: source.path, target: target.path, byteCount: byteCount)
    }

    /// The same on elements that are there.
    static func numbered(
        _ bed: TestBed,
        source: String,
        target: String,
        byteCount: UInt64 = 64 * mebibyte,
        settings: String = "copy-depth: 1"
    ) throws -> (mirror: Mirror, writes: NumberedWrites) {
        let model = try NumberedWrites.fill(source, byteCount: byteCount, bed)
        let mirror = try bed.mirror(source: source, target: target, configuration: "pair-defaults:\n  \(settings)\n")
        return (mirror, NumberedWrites(mirror: mirror, export: volume, model: model))
    }

    /// Starts the pair's first copy and does not wait for it.
    func beginCreate() throws {
        let arguments = ["--source", Self.volume, "--target", target, "--name", Self.pair]
        let outcome = try daemon.control(["pair", "create"] + arguments)
        #expect(outcome.isSuccess, "\(outcome)")
    }

    /// Kills the daemon after at most that long, at a moment of the seed's choice, and starts it again.
    ///
    /// The writers notice, and end. Whether a copy was under way is said, for whoever judges what was tried.
    func killAndStart(_ torture: inout Torture, withinMicroseconds limit: UInt64) throws {
        var nothing: [pollfd] = []
        let microseconds = Int64(torture.number(0...limit))
        _ = try Deadline(after: .microseconds(microseconds)).poll(&nothing)
        try startAfterKill(&torture)
    }

    /// Starts the daemon again after a kill; now and then it is killed while it starts, too.
    func startAfterKill(_ torture: inout Torture) throws {
        try daemon.kill()
        let changes = try daemon.process.errors().split(separator: "\n").filter { $0.contains("copy-state-changed") }
        let change = changes.last?.split(separator: " ").prefix(5).dropFirst(2).joined(separator: " ") ?? "none"
        torture.say("killed after the change of state: \(change)")
        if torture.isChosen(oneIn: 3) {
            let milliseconds = Int64(torture.number(1...400))
            do { try daemon.start(configured, atMost: .milliseconds(milliseconds)) } catch is Child.TimedOut {}
            try daemon.kill()
        }
        try daemon.start(configured)
    }

    /// The arguments that the daemon was first started with.
    var configured: [String] {
        let path = bed.path("repld.yaml")
        return FileManager.default.fileExists(atPath: path) ? ["--config", path] : []
    }

    /// Nothing is under way, both elements are equal to the last byte, and so is what hosts see.
    func expectWhole(_ writes: NumberedWrites, _ words: String) throws {
        try writes.check(words)
        try expectEqual(words)
    }
}
