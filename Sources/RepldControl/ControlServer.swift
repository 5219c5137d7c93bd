internal import Foundation
internal import Glibc
internal import HTTPTypes
internal import Hummingbird
package import Logging
internal import RepldControlAPI
internal import ServiceLifecycle
internal import SystemPackage

/// The service over HTTP and JSON on a unix socket that only its owner may connect to.
///
/// Every refusal, whatever its HTTP status, has a `MethodReply` as its body.
package struct ControlServer: Service {
    /// The largest body that is read: a request is a few hundred bytes.
    package static var bodyByteLimit: Int { 64 << 10 }
    /// What fits into `sockaddr_un.sun_path` with its end mark.
    package static var socketPathByteLimit: Int { 107 }

    private let service: ReplicationService
    private let socketPath: String
    private let logger: Logger
    private let whenReady: @Sendable () async -> Void

    /// Serves on `socketPath` once run; `whenReady` is called when clients can connect.
    package init(
        service: ReplicationService,
        socketPath: String,
        logger: Logger,
        whenReady: @escaping @Sendable () async -> Void = {}
    ) {
        self.service = service
        self.socketPath = socketPath
        self.logger = logger
        self.whenReady = whenReady
    }

    /// Serves until graceful shutdown or cancellation; removes the socket at the end.
    package func run() async throws {
        try prepareSocketPath()
        // The server's own lines would repeat ours, under names that mean nothing to an operator.
        var quiet = logger
        quiet.logLevel = .warning
        let app = Application(
            router: ControlRoutes(service: service).router(),
            configuration: ApplicationConfiguration(address: .unixDomainSocket(path: socketPath), serverName: nil),
            onServerRunning: { [socketPath, logger, whenReady] _ in
                // The umask of the daemon has kept others out until here.
                unsafe chmod(socketPath, 0o600)
                logger.info("control socket is open", metadata: ["socket": "\(socketPath)"])
                await whenReady()
            },
            logger: quiet
        )
        defer { unsafe unlink(socketPath) }
        do {
            try await app.run()
        } catch let error where !(error is CancellationError) {
            throw ControlError(.socket, "cannot serve the control socket \(socketPath)", underlying: error)
        }
    }

    /// Makes the directory where it is missing, and tells a stale socket from one that is served.
    private func prepareSocketPath() throws(ControlError) {
        guard socketPath.utf8.count <= Self.socketPathByteLimit else {
            throw ControlError(
                .socket,
                """
                the control socket's path '\(socketPath)' has \(socketPath.utf8.count) bytes; at most \
                \(Self.socketPathByteLimit) are possible
                """,
                suggestion: "choose a shorter one with --control"
            )
        }
        let directory = FilePath(socketPath).removingLastComponent().string
        do {
            try FileManager.default.createDirectory(
                atPath: directory,
                withIntermediateDirectories: true,
                attributes: [.posixPermissions: 0o755]
            )
        } catch {
            throw ControlError(
                .socket,
                "cannot make the control socket's directory \(directory)",
                suggestion: "choose another with --control, or make it and let the daemon's user write to it",
                underlying: error
            )
        }
        try UnixSocketPath.checkFree(socketPath)
    }
}

/// What is at the path of a unix socket.
enum UnixSocketPath {
    /// Refuses a path at which somebody listens, or which is no socket; a stale socket is removed.
    static func checkFree(_ path: String) throws(ControlError) {
        var record = stat()
        guard unsafe lstat(path, &record) == 0 else { return }
        guard record.st_mode & S_IFMT == S_IFSOCK else {
            throw ControlError(.socket, "\(path) exists and is no socket", suggestion: "move it away or name another")
        }
        guard !isListening(path) else {
            throw ControlError(
                .socket,
                "another process listens on \(path)",
                suggestion: "stop that daemon, or name another socket with --control"
            )
        }
        guard unsafe unlink(path) == 0 else {
            let reason = Errno(rawValue: Glibc.errno)
            throw ControlError(.socket, "cannot remove the stale socket \(path)", underlying: reason)
        }
    }

    private static func isListening(_ path: String) -> Bool {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        guard var address = address(path) else { return false }
        let size = socklen_t(MemoryLayout<sockaddr_un>.size)
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe connect(descriptor, $0, size) }
        } == 0
    }

    /// The address of a path; `nil` when it is too long.
    ///
    /// A leading `@` means the abstract namespace.
    static func address(_ path: String) -> sockaddr_un? {
        guard path.utf8.count <= ControlServer.socketPathByteLimit else { return nil }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { buffer in
            unsafe buffer.copyBytes(from: path.utf8)
            if path.hasPrefix("@") { unsafe buffer[0] = 0 }
        }
        return address
    }
}
