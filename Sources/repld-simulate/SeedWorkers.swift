import ArgumentParser
import Foundation
import RepldSimulation

/// Runs a range of seeds on all cores, one process per core, so that an invariant that ends a process is told as the
/// failure of the seed that was running, and the other seeds go on.
struct SeedWorkers {
    let seeds: SeedRange
    let jobs: Int
    let kind: String

    /// What one process came to.
    struct Outcome: Sendable {
        var seedCount = 0
        var lastSeed: UInt64?
        var failures: [String] = []
        var covered = SimulationCoverage()
    }

    func run() throws {
        let start = ContinuousClock.now
        let executable = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let lanes = min(UInt64(jobs), seeds.last - seeds.first + 1)
        let outcomes = OutcomeList()
        let group = DispatchGroup()
        for lane in 0..<lanes {
            DispatchQueue.global().async(group: group) {
                outcomes.add(Self.work(executable, kind, first: seeds.first + lane, last: seeds.last, stride: lanes))
            }
        }
        group.wait()
        try report(outcomes.all, seconds: (ContinuousClock.now - start) / .seconds(1))
    }

    /// Runs one lane to its end; after the death of a process the next one goes on behind the seed that it died of.
    private static func work(_ executable: String, _ kind: String, first: UInt64, last: UInt64, stride: UInt64)
        -> Outcome
    {
        var outcome = Outcome()
        var next = first
        while next <= last {
            let process = Process()
            process.executableURL = URL(filePath: executable)
            // A stride of 1 would start workers again; two lanes and more never have it.
            process.arguments = ["--seeds", "\(next)..\(last)", "--stride", "\(stride)", "--jobs", "1", "--kind", kind]
            let output = Pipe()
            let errors = Pipe()
            process.standardOutput = output
            process.standardError = errors
            do {
                try process.run()
            } catch {
                outcome.failures.append("cannot run \(executable): \(error)")
                return outcome
            }
            let complaints = ComplaintReader(errors.fileHandleForReading)
            let printed = output.fileHandleForReading.readDataToEndOfFile()
            process.waitUntilExit()
            read(String(decoding: printed, as: UTF8.self), into: &outcome)
            guard process.terminationReason == .uncaughtSignal else { return outcome }
            guard let died = outcome.lastSeed else {
                outcome.failures.append("a worker died before its first seed: \(complaints.text())")
                return outcome
            }
            outcome.failures.append("seed \(died): \(complaints.text())")
            next = died + stride
        }
        return outcome
    }

    private static func read(_ printed: String, into outcome: inout Outcome) {
        for line in printed.split(separator: "\n") {
            let words = line.split(separator: " ", maxSplits: 1).map(String.init)
            guard words.count == 2 else { continue }
            switch words[0] {
            case "seed":
                outcome.seedCount += 1
                outcome.lastSeed = UInt64(words[1])
            case "failed":
                outcome.failures.append(words[1])
            case "covered":
                let parts = words[1].split(separator: " ", maxSplits: 1).map(String.init)
                if parts.count == 2, let count = Int(parts[0]) { outcome.covered.add(count, to: parts[1]) }
            default:
                break
            }
        }
    }

    private func report(_ outcomes: [Outcome], seconds: Double) throws {
        let seedCount = outcomes.reduce(0) { $0 + $1.seedCount }
        let failures = outcomes.flatMap(\.failures)
        print("seeds \(seeds.first)..\(seeds.last): \(seedCount) run, \(Int(Double(seedCount) / seconds)) a second")
        var covered = SimulationCoverage()
        for outcome in outcomes { covered.add(outcome.covered) }
        for line in covered.table { print(line) }
        for failure in failures { print("FAILED \(failure)") }
        guard failures.isEmpty, seedCount > 0 else { throw ExitCode(1) }
    }
}

/// Collects what the lanes came to; each lane is a thread.
private final class OutcomeList: @unchecked Sendable {
    private let lock = NSLock()
    private var outcomes: [SeedWorkers.Outcome] = []

    var all: [SeedWorkers.Outcome] { lock.withLock { outcomes } }

    func add(_ outcome: SeedWorkers.Outcome) { lock.withLock { outcomes.append(outcome) } }
}

/// Reads what a process complains of while its output is read elsewhere, so that neither pipe fills up.
private final class ComplaintReader: @unchecked Sendable {
    private let lock = NSLock()
    private let done = DispatchSemaphore(value: 0)
    private var data = Data()

    init(_ handle: FileHandle) {
        DispatchQueue.global().async { [self] in
            let read = handle.readDataToEndOfFile()
            lock.withLock { data = read }
            done.signal()
        }
    }

    /// The first line that says what broke.
    func text() -> String {
        done.wait()
        let lines = String(decoding: lock.withLock { data }, as: UTF8.self).split(separator: "\n")
        return String(
            lines.first { $0.contains("invariant") || $0.contains("Fatal") } ?? lines.first ?? "died silently"
        )
    }
}
