import Foundation
import Glibc
import Testing

/// The surroundings of one test: a directory, processes and devices, all taken back in reverse order at its end.
package final class TestBed {
    package let directory: String
    private var cleanups: [(words: String, undo: () throws -> Void)] = []
    private var children: [Child] = []
    private var logCount = 0

    /// Where the directories are made: on a disk, because a loop device on tmpfs has no direct I/O before Linux 6.6.
    package static var rootDirectory: String {
        ProcessInfo.processInfo.environment["REPLD_TEST_DIR"] ?? "/var/tmp"
    }

    package static let directoryPrefix = "repld-test-"

    fileprivate init() throws {
        _ = Leftovers.sweptOnce
        var template = Array("\(Self.rootDirectory)/\(Self.directoryPrefix)\(getpid())-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw SystemCallFailed("mkdtemp in \(Self.rootDirectory)") }
        directory = String(cString: made)
        let path = directory
        onCleanup("remove \(path)") { try FileManager.default.removeItem(atPath: path) }
    }

    /// A name inside the directory.
    package func path(_ name: String) -> String { "\(directory)/\(name)" }

    /// Registers what has to be undone; the last registered is undone first, also when the test fails.
    package func onCleanup(_ words: String, _ undo: @escaping () throws -> Void) { cleanups.append((words, undo)) }

    /// Makes a sparse file.
    package func file(_ name: String, byteCount: UInt64) throws -> String {
        let descriptor = open(path(name), O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw SystemCallFailed("open \(path(name))") }
        defer { close(descriptor) }
        guard ftruncate(descriptor, off_t(byteCount)) == 0 else { throw SystemCallFailed("ftruncate \(path(name))") }
        return path(name)
    }

    /// Makes a file with this text.
    package func file(_ name: String, text: String) throws -> String {
        try text.write(toFile: path(name), atomically: false, encoding: .utf8)
        return path(name)
    }

    /// Starts a process that is ended with the test.
    package func start(
        _ tool: String,
        _ arguments: [String],
        environment: [String: String] = [:],
        launcher: [String] = []
    ) throws -> Child {
        logCount += 1
        let logName = "\(logCount)-\(tool.split(separator: "/").last ?? "tool")"
        let child = try Child(
            tool,
            arguments,
            environment: environment,
            launcher: launcher,
            logPath: path(logName)
        )
        children.append(child)
        onCleanup("end \(child.name)") {
            child.end(with: SIGKILL)
            _ = try child.wait(atMost: .hang)
        }
        return child
    }

    /// Runs a tool to its end and returns what it printed and how it ended.
    package func run(_ tool: String, _ arguments: [String], atMost limit: Duration = .hang) throws -> Outcome {
        let child = try start(tool, arguments)
        let ending = try child.wait(atMost: limit)
        return Outcome(
            command: ([child.name] + arguments).joined(separator: " "),
            ending: ending,
            output: child.output(),
            errors: child.errors()
        )
    }

    /// Runs a tool that has to end with 0, and returns what it printed.
    @discardableResult
    package func runs(_ tool: String, _ arguments: [String], atMost limit: Duration = .hang) throws -> String {
        try run(tool, arguments, atMost: limit).successfulOutput()
    }

    fileprivate func finish() -> [String] {
        var failures: [String] = []
        while let last = cleanups.popLast() {
            do { try last.undo() } catch { failures.append("\(last.words): \(error)") }
        }
        return failures
    }

    /// Keeps everything that was printed, where the runner was told to (`--attachments-path`).
    fileprivate func attachLogs() {
        for child in children {
            Attachment.record(child.output() + child.errors(), named: "\(child.name)-\(child.pid).log")
        }
    }

    /// The last words of the servers.
    fileprivate func report() -> String {
        children.filter { $0.name == "repld" || $0.name.hasPrefix("nbd") }.map { $0.tail() }.joined(separator: "\n")
    }
}

/// How a tool ended, and what it printed.
package struct Outcome: Sendable, CustomStringConvertible {
    package let command: String
    package let ending: Child.Ending
    package let output: String
    package let errors: String

    package struct Failed: Error, CustomStringConvertible {
        package let description: String
        package init(description: String) { self.description = description }
    }

    package var isSuccess: Bool { ending == .exited(0) }
    package var description: String { "\(command)\nended: \(ending)\n\(output)\(errors)" }

    package func successfulOutput() throws -> String {
        guard isSuccess else { throw Failed(description: description) }
        return output
    }
}

/// Something could not be taken back at the end of a test.
package struct CleanupFailed: Error, CustomStringConvertible {
    package let description: String
}

/// Runs a test in surroundings of its own, and takes them back however it ends.
package func withTestBed(_ body: (TestBed) throws -> Void) throws {
    let bed = try TestBed()
    do {
        try body(bed)
    } catch {
        let report = bed.report()
        bed.attachLogs()
        let failures = bed.finish()
        if !failures.isEmpty { Issue.record("cleaning up failed: \(failures.joined(separator: "; "))") }
        throw Outcome.Failed(description: "\(error)\n\(report)")
    }
    let failures = bed.finish()
    if !failures.isEmpty { throw CleanupFailed(description: failures.joined(separator: "; ")) }
}
