internal import Foundation
internal import Glibc

/// The service manager that started the daemon, told by datagrams on NOTIFY_SOCKET: sd_notify(3) without libsystemd.
package struct ServiceManager: Sendable {
    private let socketPath: String?
    /// How often the manager wants to hear that the daemon is alive; `nil` when it does not.
    package let watchdogInterval: Duration?

    package init(environment: [String: String] = ProcessInfo.processInfo.environment) {
        socketPath = environment["NOTIFY_SOCKET"]
        let isForUs = environment["WATCHDOG_PID"].map { $0 == String(getpid()) } ?? true
        // Twice in the interval, as sd_watchdog_enabled(3) recommends.
        watchdogInterval =
            isForUs ? environment["WATCHDOG_USEC"].flatMap { Int64($0) }.map { .microseconds($0 / 2) } : nil
    }

    /// Sends assignments such as `READY=1`; does nothing, and fails silently, without a manager.
    package func tell(_ assignments: String...) {
        guard let socketPath, var address = UnixSocketPath.address(socketPath) else { return }
        let descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let message = Array(assignments.joined(separator: "\n").utf8)
        let length = socklen_t(MemoryLayout<sa_family_t>.size + socketPath.utf8.count)
        unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                _ = unsafe sendto(descriptor, message, message.count, Int32(MSG_NOSIGNAL), pointer, length)
            }
        }
    }
}
