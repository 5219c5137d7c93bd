internal import Foundation
internal import Glibc
package import Logging
package import RepldCore
package import RepldDataPlane
internal import ServiceLifecycle
internal import SystemPackage
internal import UnixSignals

/// The daemon: state directory, service, control socket, and an orderly start and end.
///
/// It starts in the order state directory, volumes and pairs, front ends, control socket, READY. On SIGTERM or SIGINT it
/// ends the other way round: control requests are finished, then the data plane drains and closes every pair cleanly.
package struct Daemon: Sendable {
    private let configuration: Configuration
    private let version: String
    private let logger: Logger

    package init(configuration: Configuration, version: String, logger: Logger) {
        self.configuration = configuration
        self.version = version
        self.logger = logger
    }

    /// Runs until told to stop; throws when it cannot start, or something that it needs has ended.
    ///
    /// `startPlane` is called when the state directory is this daemon's, with what the daemon calls itself to peers.
    package func run(startPlane: (PairID) async throws -> any DataPlane) async throws {
        // What the daemon makes is its own; a socket that others may use gets its mode afterwards.
        umask(0o077)
        signal(SIGPIPE, SIG_IGN)
        let manager = ServiceManager()
        let state = try takeStateDirectory()
        let users = try UserDirectory(path: state.usersPath)
        let hostID = try state.hostID()
        let service = try makeService(plane: try await startPlane(hostID), state: state)
        do {
            try await service.start()
        } catch {
            await service.stop()
            throw error
        }
        let server = ControlServer(
            service: service,
            access: Access(users: users, logger: logger),
            listening: configuration.control,
            logger: logger,
            whenReady: { manager.tell("READY=1", "STATUS=Serving") }
        )
        var quiet = logger
        quiet.logLevel = max(logger.logLevel, .warning)
        var group = ServiceGroupConfiguration(
            services: [
                .init(service: DataPlaneService(service: service)),
                .init(service: server),
                .init(service: ManagerService(manager: manager, service: service, logger: logger)),
            ],
            gracefulShutdownSignals: [.sigterm, .sigint],
            logger: quiet
        )
        // Below the 90 seconds after which systemd kills.
        group.maximumGracefulShutdownDuration = .seconds(80)
        do {
            try await ServiceGroup(configuration: group).run()
        } catch {
            await service.stop()
            throw error
        }
        logger.notice("stopped cleanly")
    }

    private func takeStateDirectory() throws(ControlError) -> StateDirectory {
        let state = try StateDirectory(path: FilePath(configuration.stateDirectory))
        logger.notice(
            "starting",
            metadata: ["version": "\(version)", "state-dir": "\(state.path)", "pid": "\(getpid())"]
        )
        return state
    }

    private func makeService(
        plane: any DataPlane,
        state: consuming StateDirectory
    ) throws(ControlError) -> ReplicationService {
        try ReplicationService(
            plane: plane,
            state: state,
            settings: ReplicationService.Settings(
                pairDefaults: configuration.pairDefaults,
                frontEnds: configuration.frontEnds,
                controlSocket: configuration.control.socketPath,
                version: version,
                peerListening: configuration.peerListening
            ),
            logger: logger
        )
    }
}

/// Hears what the data plane tells, and stops it last.
private struct DataPlaneService: Service {
    let service: ReplicationService

    func run() async throws {
        async let messages: Void = service.followMessages()
        await withGracefulShutdownHandler {
            await service.followDataPlane()
        } onGracefulShutdown: {
            Task { await service.stop() }
        }
        await service.stop()
        await messages
        guard Task.isShuttingDownGracefully || Task.isCancelled else {
            throw ControlError(.internalFailure, "the data plane has ended by itself")
        }
    }
}

/// Tells the service manager that the daemon is alive: only while the data plane answers.
private struct ManagerService: Service {
    let manager: ServiceManager
    let service: ReplicationService
    let logger: Logger

    func run() async throws {
        await withGracefulShutdownHandler {
            try? await cancelWhenGracefulShutdown {
                while let interval = manager.watchdogInterval {
                    try await Task.sleep(for: interval)
                    do {
                        _ = try await service.daemon()
                        manager.tell("WATCHDOG=1")
                    } catch {
                        logger.error("not alive", metadata: ["reason": "\(error)"])
                    }
                }
                try await gracefulShutdown()
            }
        } onGracefulShutdown: {
            logger.notice("stopping")
            manager.tell("STOPPING=1", "STATUS=Draining")
        }
    }
}

/// Exit codes after sysexits.h.
package enum ExitStatus {
    package static var dataError: Int32 { 65 }
    package static var unavailable: Int32 { 69 }
    package static var software: Int32 { 70 }
    package static var systemError: Int32 { 71 }
    package static var noPermission: Int32 { 77 }
    package static var configuration: Int32 { 78 }

    /// The code with which the daemon ends because of an error.
    package static func code(for error: any Error) -> Int32 {
        if error is ConfigurationError { return configuration }
        guard let error = error as? ControlError else { return software }
        if isPermission(error.underlying) { return noPermission }
        switch error.code {
        case .registryDamaged, .usersDamaged: return dataError
        case .configuration: return configuration
        case .stateDirectory: return error.underlying == nil ? unavailable : systemError
        case .socket: return unavailable
        default: return software
        }
    }

    private static func isPermission(_ error: (any Error)?) -> Bool {
        if let errno = error as? Errno { return errno == .permissionDenied || errno == .notPermitted }
        if let error = error as? CocoaError { return error.code == .fileWriteNoPermission }
        if let error = error as? DataPlaneError { return isPermission(error.underlying) }
        return false
    }
}
