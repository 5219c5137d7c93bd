internal import Foundation
internal import Glibc
internal import HTTPTypes
internal import Hummingbird
internal import HummingbirdCore
package import Logging
internal import NIOCore
internal import RepldControlAPI
internal import ServiceLifecycle
internal import SystemPackage

/// The service over HTTP and JSON on a unix socket, and on TCP of this host where that is wanted.
///
/// Every refusal, whatever its HTTP status, has a `MethodReply` as its body. Who may do what is decided by `Access`.
package struct ControlServer: Service {
    /// The largest body that is read: a request is a few hundred bytes.
    package static var bodyByteLimit: Int { 64 << 10 }
    /// The largest head of a request, all its header fields together.
    package static var headByteLimit: Int { 16 << 10 }
    /// How many connections a TCP listener has at a time; others wait for one to end.
    package static var tcpConnectionMax: Int { 64 }
    /// The same for the socket: more, because each command that waits for a copy state holds one.
    package static var socketConnectionMax: Int { 1024 }
    /// How long a connection may be without a whole request.
    package static var idleSeconds: Int64 { 60 }

    private let service: ReplicationService
    private let access: Access
    private let listening: ControlListening
    private let logger: Logger
    private let whenListening: @Sendable (HostPort) -> Void
    private let whenReady: @Sendable () async -> Void
    private var socketPath: String { listening.socketPath }

    /// Serves what `listening` says once run.
    ///
    /// `whenListening` is told each TCP address with its port, also where the kernel chose that; `whenReady` is called
    /// when clients can connect everywhere.
    package init(
        service: ReplicationService,
        access: Access,
        listening: ControlListening,
        logger: Logger,
        whenListening: @escaping @Sendable (HostPort) -> Void = { _ in },
        whenReady: @escaping @Sendable () async -> Void = {}
    ) {
        self.service = service
        self.access = access
        self.listening = listening
        self.logger = logger
        self.whenListening = whenListening
        self.whenReady = whenReady
    }

    /// Every method and route that is served, as `AccessRule.table` names them.
    package var routes: [String] {
        ControlRoutes(service: service, access: access).router().routes.map { "\($0.method.rawValue) \($0.path)" }
    }

    /// Serves until graceful shutdown or cancellation; removes the socket at the end.
    package func run() async throws {
        for address in listening.tcp { _ = try ControlListening.checked(address) }
        try prepareSocketPath()
        let group = try listening.socketGroup.map { try UnixSocketPath.groupID(named: $0) }
        defer { unsafe unlink(socketPath) }
        let readiness = Readiness(count: 1 + listening.tcp.count, whenReady: whenReady)
        try await withThrowingTaskGroup { tasks in
            tasks.addTask {
                try await serve(
                    .unixDomainSocket(path: socketPath),
                    named: "control socket \(socketPath)",
                    connectionMax: Self.socketConnectionMax
                ) { _ in
                    try open(to: group)
                    await readiness.reached()
                }
            }
            for address in listening.tcp {
                tasks.addTask {
                    let bind = BindAddress.hostname(address.host, port: Int(address.port))
                    try await serve(
                        bind,
                        named: "control address \(address)",
                        connectionMax: Self.tcpConnectionMax
                    ) { channel in
                        let port = channel.localAddress?.port.flatMap { UInt16(exactly: $0) }
                        let bound = HostPort(host: address.host, port: port ?? address.port)
                        logger.info("control address is open", metadata: ["address": "\(bound)"])
                        whenListening(bound)
                        await readiness.reached()
                    }
                }
            }
            // One that ends by an error ends the others: leaving the group by an error cancels them.
            while try await tasks.next() != nil {}
        }
    }

    /// Serves one listener; `whenOpen` is called once it is, and what it throws ends it.
    private func serve(
        _ address: BindAddress,
        named name: String,
        connectionMax: Int,
        whenOpen: @escaping @Sendable (any Channel) async throws -> Void
    ) async throws {
        // The server's own lines would repeat ours, under names that mean nothing to an operator.
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .warning)
        let opening = Opening()
        let router = ControlRoutes(service: service, access: access).router()
        let app = Application(
            responder: PeerResponder(router: router.buildResponder()),
            server: .http1(configuration: Self.limits),
            configuration: ApplicationConfiguration(
                address: address,
                serverName: nil,
                availableConnectionsDelegate: MaximumAvailableConnections(connectionMax, logger: quiet)
            ),
            onServerRunning: { channel in
                do {
                    try await whenOpen(channel)
                } catch {
                    await opening.fail(error)
                    channel.close(promise: nil)
                }
            },
            logger: quiet
        )
        do {
            try await app.run()
        } catch let error where !(error is CancellationError) {
            try await opening.check()
            throw ControlError(.socket, "cannot serve the \(name)", underlying: error)
        }
        try await opening.check()
    }

    private static var limits: HTTP1Channel.Configuration {
        HTTP1Channel.Configuration(
            idleTimeout: .seconds(idleSeconds),
            httpDecoderConfiguration: .init(
                maxHeaderFieldSize: headByteLimit,
                maxHeaderListSize: headByteLimit,
                maxHeaderFieldCount: 64
            )
        )
    }

    /// Lets those connect that may; the umask of the daemon has kept others out until here.
    private func open(to group: UInt32?) throws(ControlError) {
        if let group { try change("group", unsafe chown(socketPath, UInt32.max, group)) }
        try change("mode", unsafe chmod(socketPath, listening.socketMode))
        logger.info("control socket is open", metadata: ["socket": "\(socketPath)"])
    }

    private func change(_ what: String, _ result: Int32) throws(ControlError) {
        guard result != 0 else { return }
        let reason = Errno(rawValue: Glibc.errno)
        throw ControlError(.socket, "cannot set the \(what) of the control socket \(socketPath)", underlying: reason)
    }

    /// Makes the directory where it is missing, and tells a stale socket from one that is served.
    private func prepareSocketPath() throws(ControlError) {
        guard socketPath.utf8.count <= ControlListening.socketPathByteLimit else {
            throw ControlError(
                .socket,
                """
                the control socket's path '\(socketPath)' has \(socketPath.utf8.count) bytes; at most \
                \(ControlListening.socketPathByteLimit) are possible
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

/// Calls back when a number of things have happened.
private actor Readiness {
    private var missing: Int
    private let whenReady: @Sendable () async -> Void

    init(count: Int, whenReady: @escaping @Sendable () async -> Void) {
        missing = count
        self.whenReady = whenReady
    }

    func reached() async {
        missing -= 1
        if missing == 0 { await whenReady() }
    }
}

/// Why a listener that was taken could not be opened to others.
private actor Opening {
    private var failure: (any Error)?

    func fail(_ error: any Error) { failure = error }

    func check() throws { if let failure { throw failure } }
}

/// What is at the path of a unix socket.
enum UnixSocketPath {
    /// The number of a group of this host.
    static func groupID(named name: String) throws(ControlError) -> UInt32 {
        var record = unsafe group()
        var found: UnsafeMutablePointer<group>?
        let byteCount = 64 << 10
        let status = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: byteCount) { buffer in
            unsafe getgrnam_r(name, &record, buffer.baseAddress, byteCount, &found)
        }
        guard let found = unsafe found else {
            throw ControlError(
                .configuration,
                "control.socket-group: there is no group '\(name)'",
                suggestion: "make it with 'groupadd \(name)', or name another",
                underlying: status == 0 ? nil : Errno(rawValue: status)
            )
        }
        return unsafe found.pointee.gr_gid
    }

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
        guard path.utf8.count <= ControlListening.socketPathByteLimit else { return nil }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { buffer in
            unsafe buffer.copyBytes(from: path.utf8)
            if path.hasPrefix("@") { unsafe buffer[0] = 0 }
        }
        return address
    }
}
