import Foundation
import Logging
import RepldControl
import RepldControlAPI
import RepldControlClient
import ServiceLifecycle
import Synchronization
import SystemPackage
import Testing

/// The cheapest hash, so that tests are quick.
let cheapCost = 1

/// A clock that stands still until it is turned, and notes every wait, which it ends at once.
final class TurnedClock: Sendable {
    private struct State {
        var now = Duration.zero
        var waits: [Duration] = []
    }

    private let state = Mutex(State())

    var waits: [Duration] { state.withLock { $0.waits } }

    func advance(by duration: Duration) { state.withLock { $0.now += duration } }

    var timekeeper: Timekeeper {
        Timekeeper(
            now: { self.state.withLock { $0.now } },
            wait: { duration in self.state.withLock { $0.waits.append(duration) } }
        )
    }
}

/// Keeps what is logged, as text.
final class LogLines: Sendable {
    private let lines = Mutex<[String]>([])

    var all: [String] { lines.withLock { $0 } }

    var logger: Logger {
        Logger(label: "test") { _ in
            DaemonLogHandler(level: .trace, format: .text, isJournal: false) { line in
                self.lines.withLock { $0.append(line) }
            }
        }
    }
}

extension ServiceFixture {
    /// The users of this fixture's daemon.
    func users() throws -> UserDirectory {
        try UserDirectory(path: FilePath(directory.file("state/users.json")), cost: cheapCost)
    }

    /// Serves this fixture on `control.sock`, and where else `tcp` says.
    func server(
        access: Access? = nil,
        tcp: [HostPort] = [],
        logger: Logger = .silent,
        whenListening: @escaping @Sendable (HostPort) -> Void = { _ in },
        whenReady: @escaping @Sendable () async -> Void = {}
    ) throws -> ControlServer {
        ControlServer(
            service: service,
            access: try access ?? Access(users: users(), logger: logger),
            listening: ControlListening(socketPath: directory.file("control.sock"), tcp: tcp),
            logger: logger,
            whenListening: whenListening,
            whenReady: whenReady
        )
    }
}

/// A server with the users `olga`, an operator, and `rita`, who may only look; each has the password `NAME's password`.
struct AccessBed {
    let fixture: ServiceFixture
    let users: UserDirectory
    let clock = TurnedClock()
    let log = LogLines()
    let socketPath: String
    /// A user id that is neither root nor the daemon's: then the socket asks this process for a password.
    static let someUserID: UInt32 = 4_000_000_000

    init(fixture: ServiceFixture? = nil) async throws {
        let made = if let fixture { fixture } else { try await ServiceFixture.paired() }
        self.fixture = made
        users = try made.users()
        socketPath = made.directory.file("control.sock")
        _ = try await users.add(UserAddRequest(name: "olga", role: "operator", password: Self.password(of: "olga")))
        _ = try await users.add(UserAddRequest(name: "rita", role: "read-only", password: Self.password(of: "rita")))
    }

    static func password(of user: String) -> String { "\(user)'s password" }

    static func credentials(of user: String) -> ClientCredentials {
        ClientCredentials(user: user, password: password(of: user))
    }

    /// Runs `body` with the TCP endpoint of a server, and stops that afterwards.
    func serve(_ body: (ControlEndpoint) async throws -> Void) async throws {
        let (addresses, found) = AsyncStream.makeStream(of: HostPort.self)
        let (ready, isReady) = AsyncStream.makeStream(of: Void.self)
        let server = try fixture.server(
            access: Access(users: users, time: clock.timekeeper, logger: log.logger),
            tcp: [HostPort(host: "127.0.0.1", port: 0)],
            whenListening: { found.yield($0) },
            whenReady: { isReady.finish() }
        )
        let group = ServiceGroup(configuration: .init(services: [.init(service: server)], logger: .silent))
        async let running: Void = group.run()
        for await _ in ready {}
        var iterator = addresses.makeAsyncIterator()
        let address = try #require(await iterator.next())
        do {
            try await body(.tcp(host: address.host, port: Int(address.port)))
        } catch {
            await group.triggerGracefulShutdown()
            throw error
        }
        await group.triggerGracefulShutdown()
        try await running
    }
}
