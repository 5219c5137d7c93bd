internal import Glibc
internal import Hummingbird
internal import Logging
internal import NIOCore

/// The other end of a connection to the control plane.
package enum ControlPeer: Hashable, Sendable, CustomStringConvertible {
    /// A process of this host on the unix socket; `userID` is the kernel's word, `nil` when it could not be had.
    case unix(userID: UInt32?)
    /// Somebody on TCP, by address without port.
    case tcp(address: String)
    /// The connection is gone, or nothing is known of it.
    case unknown

    /// The other end of the connection on which the current request came.
    @TaskLocal static var current = ControlPeer.unknown

    package var description: String {
        switch self {
        case .unix(let userID): userID.map { "uid \($0)" } ?? "unknown uid"
        case .tcp(let address): address
        case .unknown: "unknown"
        }
    }

    /// `ucred` of unix(7), which Swift's Glibc lacks.
    private struct Credentials: Sendable {
        var processID: Int32 = 0
        var userID: UInt32 = 0
        var groupID: UInt32 = 0
    }

    /// Asks the kernel who is at the other end of `channel`.
    static func of(_ channel: any Channel) async -> ControlPeer {
        guard let address = channel.localAddress else { return .unknown }
        guard case .unixDomainSocket = address else {
            return channel.remoteAddress?.ipAddress.map { .tcp(address: $0) } ?? .unknown
        }
        guard let provider = channel as? any SocketOptionProvider else { return .unix(userID: nil) }
        let option: EventLoopFuture<Credentials> = provider.unsafeGetSocketOption(
            level: NIOBSDSocket.OptionLevel(rawValue: SOL_SOCKET),
            name: NIOBSDSocket.Option(rawValue: SO_PEERCRED)
        )
        let credentials = try? await option.get()
        return .unix(userID: credentials?.userID)
    }
}

/// Answers each request with the router, and lets it know on whose connection the request came.
struct PeerResponder: HTTPResponder {
    /// What is known of a request before it has a route.
    struct Context: InitializableFromSource {
        let channel: any Channel
        let logger: Logger

        init(source: ApplicationRequestContextSource) { (channel, logger) = (source.channel, source.logger) }
    }

    let router: RouterResponder<BasicRequestContext>

    func respond(to request: Request, context: Context) async throws -> Response {
        let peer = await ControlPeer.of(context.channel)
        let source = ApplicationRequestContextSource(channel: context.channel, logger: context.logger)
        return try await ControlPeer.$current.withValue(peer) {
            try await router.respond(to: request, context: BasicRequestContext(source: source))
        }
    }
}
