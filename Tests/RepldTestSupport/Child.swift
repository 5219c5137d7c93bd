import Foundation
package import Glibc

/// A process that a test started, and that does not outlive it.
///
/// It has a process group of its own, ended as a whole; its input is empty, and its output goes to files, so that a
/// talkative child never waits for a reader. A thread of its own starts it and waits for it: the kernel ends the child
/// when that thread ends with the test process, however that comes about. `setpriv` asks the kernel for it.
package final class Child: @unchecked Sendable {
    package let name: String
    package let outputPath: String
    package let errorPath: String
    /// Becomes readable (end of file) when the process has ended.
    package let exitDescriptor: Int32

    private let lock = NSLock()
    private var processID: pid_t = 0
    private var ending: Ending?

    /// How a process ended.
    package enum Ending: Hashable, Sendable {
        case exited(Int32)
        case signalled(Int32)
    }

    package struct CannotStart: Error, CustomStringConvertible {
        package let description: String
    }

    package struct TimedOut: Error, CustomStringConvertible {
        package let description: String
        package init(description: String) { self.description = description }
    }

    /// Starts `tool`, found on PATH unless it has a slash; `logPath` gets `.out` and `.err` appended.
    ///
    /// `launcher` is a command that becomes the tool, such as `nsenter --net=FILE`.
    package init(
        _ tool: String,
        _ arguments: [String],
        environment: [String: String] = [:],
        launcher: [String] = [],
        logPath: String
    ) throws {
        name = tool.split(separator: "/").last.map(String.init) ?? tool
        outputPath = logPath + ".out"
        errorPath = logPath + ".err"
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw CannotStart(description: "no pipe: \(String(cString: strerror(errno)))") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        exitDescriptor = ends[0]
        let started = DispatchSemaphore(value: 0)
        let command = ["setpriv", "--pdeathsig", "KILL", "--"] + launcher + [tool] + arguments
        let variables = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        let writeEnd = ends[1]
        let thread = Thread {
            let failure = self.spawn(command, variables)
            started.signal()
            if failure == 0 { self.waitForEnd() } else { self.recordEnd(.exited(127)) }
            close(writeEnd)
        }
        thread.start()
        started.wait()
        if pid == 0 { throw CannotStart(description: "\(name) cannot be started") }
    }

    deinit {
        end(with: SIGKILL)
        close(exitDescriptor)
    }

    package var pid: pid_t { lock.withLock { processID } }
    package var isRunning: Bool { lock.withLock { ending == nil } }

    /// Sends a signal to the process alone; nothing happens when it has ended.
    package func send(_ signal: Int32) {
        lock.withLock { if ending == nil && processID > 0 { kill(processID, signal) } }
    }

    /// Sends a signal to the process and all that it started.
    package func end(with signal: Int32) {
        lock.withLock { if ending == nil && processID > 0 { kill(-processID, signal) } }
    }

    /// Waits until the process has ended.
    package func wait(atMost limit: Duration) throws -> Ending {
        var wanted = [pollfd(fd: exitDescriptor, events: Int16(POLLIN), revents: 0)]
        if try Deadline(after: limit).poll(&wanted) == 0 {
            throw TimedOut(description: "\(name) (pid \(pid)) is still running after \(limit)\n\(tail())")
        }
        guard let ending = lock.withLock({ ending }) else {
            throw CannotStart(description: "\(name) ended without a status")
        }
        return ending
    }

    package func output() -> String { Self.text(of: outputPath) }
    package func errors() -> String { Self.text(of: errorPath) }

    /// The last lines of what it printed, for the report of a failure.
    package func tail(lineCount: Int = 30) -> String {
        let lines = (output() + errors()).split(separator: "\n").suffix(lineCount)
        return "--- \(name) printed:\n" + lines.joined(separator: "\n")
    }

    /// The first 16 MiB of a file: a program that never stops complaining must not take all memory.
    private static func text(of path: String) -> String {
        guard let file = FileHandle(forReadingAtPath: path) else { return "" }
        defer { try? file.close() }
        return (try? file.read(upToCount: 16 << 20)).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

    private func waitForEnd() {
        var information = siginfo_t()
        let pid = pid
        // The process stays a zombie until its group has been ended, so that its number is nobody else's.
        while waitid(P_PID, id_t(pid), &information, WEXITED | WNOWAIT) == -1 && errno == EINTR {}
        kill(-pid, SIGKILL)
        var status: Int32 = 0
        while waitpid(pid, &status, 0) == -1 && errno == EINTR {}
        let signal = status & 0x7F
        recordEnd(signal == 0 ? .exited((status >> 8) & 0xFF) : .signalled(signal))
    }

    private static func openDescriptors() -> [Int32] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")) ?? []
        return names.compactMap { Int32($0) }.filter { $0 > 2 }
    }

    private func recordEnd(_ ending: Ending) { lock.withLock { self.ending = ending } }

    private func spawn(_ command: [String], _ variables: [String: String]) -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, outputPath, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, errorPath, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        // Not all descriptors of the test process are closed on exec; one that stays open in a child keeps pipes alive.
        for descriptor in Self.openDescriptors() { posix_spawn_file_actions_addclose(&actions, descriptor) }

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var signals = sigset_t()
        sigemptyset(&signals)
        posix_spawnattr_setsigmask(&attributes, &signals)
        sigfillset(&signals)
        posix_spawnattr_setsigdefault(&attributes, &signals)
        posix_spawnattr_setpgroup(&attributes, 0)
        let flags = POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF
        posix_spawnattr_setflags(&attributes, Int16(flags))

        var arguments = command.map { strdup($0) } + [nil]
        var environment = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for pointer in arguments + environment { free(pointer) } }
        var pid: pid_t = 0
        let failure = posix_spawnp(&pid, command[0], &actions, &attributes, &arguments, &environment)
        lock.withLock { processID = failure == 0 ? pid : 0 }
        return failure
    }
}
