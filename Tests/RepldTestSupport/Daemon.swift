import Foundation
import Glibc

/// A `repld` of a test, with a state directory and sockets of its own.
package final class Daemon {
    package let stateDirectory: String
    package let controlSocket: String
    package let nbdSocket: String
    private let bed: TestBed
    private let notifySocketPath: String
    private let launcher: [String]
    private var child: Child?

    /// The state directory lies in the bed's own, unless another is given; with a `host`, the daemon runs on that one's network.
    package init(
        bed: TestBed,
        name: String = "a",
        stateDirectory: String? = nil,
        host: TestNetwork.Host? = nil
    ) throws {
        self.bed = bed
        launcher = host?.launcher ?? []
        self.stateDirectory = stateDirectory ?? bed.path("state-\(name)")
        controlSocket = bed.path("control-\(name).sock")
        nbdSocket = bed.path("nbd-\(name).sock")
        notifySocketPath = bed.path("notify-\(name).sock")
    }

    package var arguments: [String] {
        ["--state-dir", stateDirectory, "--control", controlSocket, "--nbd-socket", nbdSocket]
    }

    package var process: Child {
        get throws {
            guard let child else { throw Outcome.Failed(description: "the daemon was not started") }
            return child
        }
    }

    /// Starts it and waits until it says that it is ready, as it says to systemd.
    package func start(_ more: [String] = [], atMost limit: Duration = .hang) throws {
        let listener = try bindNotifySocket()
        defer {
            close(listener)
            unlink(notifySocketPath)
        }
        let environment = ["NOTIFY_SOCKET": notifySocketPath]
        let child = try bed.start(
            try Product.path("repld"),
            arguments + more,
            environment: environment,
            launcher: launcher
        )
        self.child = child
        try waitUntilReady(child, listener, Deadline(after: limit))
    }

    /// Starts it with arguments or surroundings that it has to refuse, and returns how it ended.
    package func refuses(_ more: [String] = []) throws -> Outcome {
        try bed.run(try Product.path("repld"), arguments + more, atMost: .hang)
    }

    /// Asks it to stop and waits for the end.
    package func stop(atMost limit: Duration = .hang) throws -> Child.Ending {
        try process.send(SIGTERM)
        return try process.wait(atMost: limit)
    }

    /// Ends it at whatever instruction it is.
    package func kill() throws {
        try process.send(SIGKILL)
        _ = try process.wait(atMost: .hang)
    }

    /// Runs `replctl` against it.
    package func control(_ arguments: [String], atMost limit: Duration = .hang) throws -> Outcome {
        try bed.run(try Product.path("replctl"), arguments + ["--control", controlSocket], atMost: limit)
    }

    /// Runs `replctl`, which has to succeed.
    @discardableResult
    package func controls(_ arguments: String..., atMost limit: Duration = .hang) throws -> String {
        try control(arguments, atMost: limit).successfulOutput()
    }

    /// The URI of a volume for NBD clients.
    package func uri(_ volume: String) -> String { "nbd+unix:///\(volume)?socket=\(nbdSocket)" }

    private func bindNotifySocket() throws -> Int32 {
        let listener = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard listener >= 0 else { throw SystemCallFailed("socket") }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let path = Array(notifySocketPath.utf8)
        guard path.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw Outcome.Failed(description: "\(notifySocketPath) is too long for a socket")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path) }
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard bound == 0 else {
            close(listener)
            throw SystemCallFailed("bind \(notifySocketPath)")
        }
        return listener
    }

    private func waitUntilReady(_ child: Child, _ listener: Int32, _ deadline: Deadline) throws {
        while true {
            var wanted = [
                pollfd(fd: listener, events: Int16(POLLIN), revents: 0),
                pollfd(fd: child.exitDescriptor, events: Int16(POLLIN), revents: 0),
            ]
            if try deadline.poll(&wanted) == 0 {
                throw Child.TimedOut(description: "repld has not said READY=1 in time\n\(child.tail())")
            }
            if wanted[0].revents != 0 {
                var message = [UInt8](repeating: 0, count: 4096)
                let count = recv(listener, &message, message.count, 0)
                let lines = String(decoding: message.prefix(max(count, 0)), as: UTF8.self).split(separator: "\n")
                if lines.contains("READY=1") { return }
            } else if wanted[1].revents != 0 {
                throw Child.CannotStart(description: "repld ended before it was ready\n\(child.tail())")
            }
        }
    }
}
