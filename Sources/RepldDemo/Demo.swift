internal import Foundation
internal import RepldControlAPI
internal import Synchronization

/// The main job, shown on elements that the demo makes itself: mirror a volume under load, lose the target, get it back,
/// compare both copies.
///
/// Everything is real: the daemon is a child process, the I/O goes through its NBD socket, the elements are loop devices
/// where that is allowed. Nothing is left behind. Throws when anything differs from what repld promises.
package struct Demo {
    private let executable: String
    private let byteCount: UInt64
    private let say: @Sendable (String) -> Void

    /// Prepares a demo with elements of `byteCount` bytes; `executable` is the daemon's program, `say` prints a line.
    package init(executable: String, byteCount: UInt64, say: @escaping @Sendable (String) -> Void) {
        self.executable = executable
        self.byteCount = byteCount
        self.say = say
    }

    /// Runs the demo from start to end.
    package func run() async throws {
        let directory = try makeDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let usesLoop = DemoElement.mayUseLoopDevices
        let source = try DemoElement(in: directory, name: "source", byteCount: byteCount, asLoopDevice: usesLoop)
        defer { source.remove() }
        let target = try DemoElement(in: directory, name: "target", byteCount: byteCount, asLoopDevice: usesLoop)
        defer { target.remove() }
        say("1. Made two elements of \(binary(byteCount)): \(source.path) and \(target.path).")
        let daemon = try DemoDaemon(executable: executable, directory: directory)
        defer { daemon.kill() }
        try await daemon.waitUntilReady()
        try await daemon.addVolume("demo", element: source.path)
        let workload = DemoWorkload(try DemoClient(socketPath: daemon.nbdSocket, export: "demo"))
        let filled = try workload.fill(byteCount / 2)
        try require(filled.failedCount == 0, "\(filled.failedCount) writes failed on the volume without a target")
        say("2. Serving volume demo over NBD; wrote \(binary(filled.byteCount)) at \(rate(filled.bytesPerSecond)).")
        try await copyUnderLoad(daemon, workload, target)
        try await mirrorUnderLoad(daemon, workload)
        try await loseTheTarget(daemon, workload, target)
        try await bringTheTargetBack(daemon, workload, target)
        try workload.flush()
        try daemon.stop()
        try compare(source, target, workload)
    }

    // MARK: - The acts

    private func copyUnderLoad(_ daemon: DemoDaemon, _ workload: DemoWorkload, _ target: DemoElement) async throws {
        try await daemon.createPair("demo", source: "demo", target: target.path)
        let start = ContinuousClock.now
        let (pair, tally) = try await during(workload) { try await daemon.wait("demo", until: "Synchronized") }
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        let copied = pair.copy?.writtenByteCount ?? 0
        let zero = pair.copy?.zeroByteCount ?? 0
        say(
            "3. Paired it with \(target.path). The first copy moved \(binary(copied)) and left \(binary(zero)) of zeroes "
                + "sparse in \(decimal(seconds)) s, while the host wrote \(tally.requestCount) blocks. Synchronized."
        )
    }

    private func mirrorUnderLoad(_ daemon: DemoDaemon, _ workload: DemoWorkload) async throws {
        let (_, tally) = try await during(workload) { try await Task.sleep(for: .seconds(2)) }
        say(
            "4. Every write is on both copies when it is acknowledged: \(Int(tally.perSecond)) random 4 KiB writes "
                + "a second, 32 in flight."
        )
    }

    private func loseTheTarget(_ daemon: DemoDaemon, _ workload: DemoWorkload, _ target: DemoElement) async throws {
        let (pair, tally) = try await during(workload) {
            let state: String
            if try target.takeAway() {
                state = "Broken"
            } else {
                try await daemon.set("demo", "Suspend")
                state = "Suspended"
            }
            _ = try await daemon.wait("demo", until: state)
            try await Task.sleep(for: .seconds(1))
            return try await daemon.pair("demo")
        }
        let how = target.device == nil ? "Suspended the pair (files cannot be made to fail)" : "Made the target fail"
        let reason = pair.reason.map { " (\($0))" } ?? ""
        say(
            "5. \(how): the pair is \(pair.copyState.name)\(reason). The host wrote \(tally.requestCount) blocks "
                + "meanwhile, \(tally.failedCount) failed; \(binary(pair.dirtyByteCount ?? 0)) are remembered as different."
        )
    }

    private func bringTheTargetBack(
        _ daemon: DemoDaemon,
        _ workload: DemoWorkload,
        _ target: DemoElement
    ) async throws {
        try target.bringBack()
        let start = ContinuousClock.now
        let (pair, _) = try await during(workload) {
            try await daemon.set("demo", target.device == nil ? "Resume" : "ResyncReplica")
            return try await daemon.wait("demo", until: "Synchronized")
        }
        let seconds = (ContinuousClock.now - start) / .seconds(1)
        let moved = (pair.copy?.writtenByteCount ?? 0) + (pair.copy?.zeroByteCount ?? 0)
        say(
            "6. Brought it back: \(target.device == nil ? "Resume" : "ResyncReplica") moved \(binary(moved)) of "
                + "\(binary(byteCount)) in \(decimal(seconds)) s, under load. Synchronized."
        )
    }

    private func compare(_ source: DemoElement, _ target: DemoElement, _ workload: DemoWorkload) throws {
        let left = try FileHandle(forReadingFrom: URL(filePath: source.path))
        let right = try FileHandle(forReadingFrom: URL(filePath: target.path))
        defer {
            try? left.close()
            try? right.close()
        }
        let block = DemoWorkload.blockByteCount
        let chunk = 1 << 20
        var position = 0
        while position < Int(byteCount) {
            let leftBytes = try left.read(upToCount: chunk) ?? Data()
            let rightBytes = try right.read(upToCount: chunk) ?? Data()
            try require(leftBytes.count == chunk, "the source ends at byte \(position + leftBytes.count)")
            try require(leftBytes == rightBytes, "the copies differ between byte \(position) and \(position + chunk)")
            for index in position / block..<(position + chunk) / block {
                let number = workload.acknowledged[index]
                guard !workload.doubtful.contains(index) else { continue }
                let expected =
                    number == 0 ? [UInt8](repeating: 0, count: block) : DemoWorkload.block(number, at: index)
                let start = leftBytes.startIndex + index * block - position
                try require(
                    leftBytes[start..<start + block] == Data(expected),
                    "block \(index) does not hold write \(number), which was acknowledged"
                )
            }
            position += chunk
        }
        say(
            "7. Stopped the daemon and compared \(binary(byteCount)) byte for byte: both copies are equal, and hold every "
                + "acknowledged write."
        )
    }

    // MARK: - Help

    /// Runs `body` while the host writes; the host stops when it is over, and no write may have failed.
    private func during<Result: Sendable>(
        _ workload: DemoWorkload,
        _ body: @escaping @Sendable () async throws -> Result
    ) async throws -> (Result, DemoTally) {
        try await withThrowingTaskGroup(of: DemoTally.self) { group in
            let flag = DemoFlag()
            group.addTask { try workload.writeRandomly(until: { flag.isRaised }) }
            let result: Result
            do {
                result = try await body()
            } catch {
                flag.raise()
                throw error
            }
            flag.raise()
            guard let tally = try await group.next() else { throw DemoError("the host ended without a word") }
            try require(tally.failedCount == 0, "\(tally.failedCount) of \(tally.requestCount) host writes failed")
            return (result, tally)
        }
    }

    private func require(_ holds: Bool, _ words: String) throws {
        if !holds { throw DemoError(words) }
    }

    private func makeDirectory() throws -> String {
        let base = FileManager.default.temporaryDirectory.path(percentEncoded: false)
        let directory = base + "/repld-demo-\(ProcessInfo.processInfo.processIdentifier)"
        try FileManager.default.createDirectory(
            atPath: directory,
            withIntermediateDirectories: false,
            attributes: [.posixPermissions: 0o700]
        )
        return directory
    }

    private func binary(_ bytes: UInt64) -> String {
        bytes >= 1 << 20 ? "\(decimal(Double(bytes) / 1_048_576)) MiB" : "\(bytes / 1024) KiB"
    }

    private func rate(_ bytesPerSecond: Double) -> String { "\(Int(bytesPerSecond / 1_048_576)) MiB/s" }

    private func decimal(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(tenths % 10)"
    }
}

/// Tells the host's thread to come to an end.
final class DemoFlag: Sendable {
    private let flag = Atomic(false)

    var isRaised: Bool { flag.load(ordering: .relaxed) }

    func raise() { flag.store(true, ordering: .relaxed) }
}
