package import Foundation
internal import NIOCore
internal import NIOHTTP1
internal import NIOPosix
package import RepldControlAPI

/// Why the daemon's answer could not be had, or what it refused.
package struct ClientError: Error, Sendable, CustomStringConvertible {
    /// What kind of error it is; more kinds may come.
    package struct Code: Hashable, Sendable {
        private enum Value { case unreachable, refused, badReply, noCredentials }
        private let value: Value

        /// Nobody answers on the control socket, or the connection ended early.
        package static var unreachable: Code { Code(value: .unreachable) }
        /// The daemon said no; `reply` says why.
        package static var refused: Code { Code(value: .refused) }
        /// What came back is not what this tool understands.
        package static var badReply: Code { Code(value: .badReply) }
        /// The password to present could not be read; nothing was asked.
        package static var noCredentials: Code { Code(value: .noCredentials) }
    }

    package let code: Code
    package let message: String
    package let reply: MethodReply?
    package let underlying: (any Error)?

    init(_ code: Code, _ message: String, reply: MethodReply? = nil, underlying: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.reply = reply
        self.underlying = underlying
    }

    package var description: String { underlying.map { "\(message): \($0)" } ?? message }
}

/// Talks HTTP and JSON to the daemon on its unix socket or on TCP of this host; one connection for each request.
package struct ControlClient: Sendable {
    /// The method of a request.
    package enum Method: String, Sendable {
        case get = "GET"
        case post = "POST"
        case delete = "DELETE"
    }

    /// The largest answer that is held in memory.
    package static var replyByteLimit: Int { 64 << 20 }

    package let endpoint: ControlEndpoint
    private let credentials: @Sendable () throws -> ClientCredentials?

    /// Asks the daemon on its unix socket as the user that this process runs as.
    package init(socketPath: String) { self.init(.unix(path: socketPath)) }

    /// Asks the daemon at `endpoint` as whoever `credentials` names, which is asked before each request.
    package init(
        _ endpoint: ControlEndpoint,
        credentials: @escaping @Sendable () throws -> ClientCredentials? = { nil }
    ) {
        self.endpoint = endpoint
        self.credentials = credentials
    }

    /// The path of the unix socket, or the URL of the TCP address: what messages call the daemon.
    package var socketPath: String { endpoint.description }

    /// Sends a request and decodes its answer; a refusal is thrown with the daemon's words.
    package func call<Reply: Decodable & Sendable>(
        _ method: Method,
        _ path: String,
        body: (any Encodable & Sendable)? = nil,
        as type: Reply.Type = Reply.self
    ) async throws(ClientError) -> Reply {
        let data = try await bytes(method, path, body: body)
        do {
            return try ControlJSON.decode(type, from: data)
        } catch {
            throw ClientError(.badReply, "cannot read the daemon's answer to \(path)", underlying: error)
        }
    }

    /// Sends a request and gives back its answer as it came; a refusal is thrown with the daemon's words.
    package func bytes(
        _ method: Method,
        _ path: String,
        body: (any Encodable & Sendable)? = nil
    ) async throws(ClientError) -> Data {
        try await bytes(method, path, rawBody: encoded(body))
    }

    /// The same with a body that is sent as it is.
    package func bytes(_ method: Method, _ path: String, rawBody: Data?) async throws(ClientError) -> Data {
        var data = Data()
        let status = try await exchange(method, path, body: rawBody) { chunk, _ in
            guard data.count + chunk.count <= Self.replyByteLimit else {
                throw ClientError(.badReply, "the daemon's answer to \(path) is too large")
            }
            data.append(chunk)
        }
        guard (200..<300).contains(status) else { throw Self.refusal(data, status: status, path) }
        return data
    }

    /// Sends a request and hands on each whole line of the answer as it comes, until the daemon ends it.
    package func lines(_ path: String, _ onLine: (Data) throws -> Void) async throws(ClientError) {
        var rest = Data()
        var refused = Data()
        let status = try await exchange(.get, path, body: nil) { chunk, status in
            guard status == 200 else {
                refused.append(chunk)
                return
            }
            rest.append(chunk)
            while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                try onLine(Data(rest[rest.startIndex..<end]))
                rest.removeSubrange(rest.startIndex...end)
            }
        }
        if status != 200 { throw Self.refusal(refused, status: status, path) }
    }

    private func encoded(_ body: (any Encodable & Sendable)?) throws(ClientError) -> Data? {
        guard let body else { return nil }
        do {
            return try ControlJSON.encode(body)
        } catch {
            throw ClientError(.badReply, "cannot encode the request", underlying: error)
        }
    }

    /// One connection, one request, one answer; gives back its HTTP status.
    private func exchange(
        _ method: Method,
        _ path: String,
        body: Data?,
        _ onChunk: (Data, Int) throws -> Void
    ) async throws(ClientError) -> Int {
        let request = Self.request(method, path, body: body, authorization: try authorization())
        do {
            let channel = try await connect()
            return try await channel.executeThenClose { inbound, outbound in
                // In one piece: to the daemon a request without a body is whole with its head, and it answers and hangs
                // up; the end, written after that, would find a closed channel in place of the answer.
                try await outbound.write(contentsOf: request)
                var status = 0
                for try await part in inbound {
                    switch part {
                    case .head(let head): status = Int(head.status.code)
                    case .body(let buffer): try onChunk(Data(buffer.readableBytesView), status)
                    case .end: return status
                    }
                }
                throw ClientError(.unreachable, "the daemon on \(socketPath) hung up before it had answered")
            }
        } catch let error as ClientError {
            throw error
        } catch {
            throw ClientError(.unreachable, "lost the daemon on \(socketPath)", underlying: error)
        }
    }

    private typealias RequestPart = HTTPPart<HTTPRequestHead, IOData>
    private typealias Connection = NIOAsyncChannel<HTTPClientResponsePart, RequestPart>

    private func connect() async throws(ClientError) -> Connection {
        do {
            let bootstrap = ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup).connectTimeout(.seconds(5))
            return switch endpoint {
            case .unix(let path): try await bootstrap.connect(unixDomainSocketPath: path, channelInitializer: Self.wrap)
            case .tcp(let host, let port):
                try await bootstrap.connect(
                    to: SocketAddress(ipAddress: host, port: port),
                    channelInitializer: Self.wrap
                )
            }
        } catch {
            throw ClientError(.unreachable, "cannot reach the daemon on \(socketPath)", underlying: error)
        }
    }

    @Sendable private static func wrap(_ channel: any Channel) -> EventLoopFuture<Connection> {
        channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHTTPClientHandlers()
            return try Connection(wrappingChannelSynchronously: channel)
        }
    }

    private func authorization() throws(ClientError) -> String? {
        do {
            return try credentials()?.authorization
        } catch {
            throw ClientError(.noCredentials, "no password to present to the daemon", underlying: error)
        }
    }

    private static func request(
        _ method: Method,
        _ path: String,
        body: Data?,
        authorization: String?
    ) -> [RequestPart] {
        var head = head(method, path, body: body)
        if let authorization { head.headers.add(name: "Authorization", value: authorization) }
        var parts: [RequestPart] = [.head(head)]
        if let body { parts.append(.body(.byteBuffer(ByteBuffer(bytes: body)))) }
        return parts + [.end(nil)]
    }

    private static func head(_ method: Method, _ path: String, body: Data?) -> HTTPRequestHead {
        var headers: HTTPHeaders = ["Host": "repld", "Connection": "close"]
        if let body {
            headers.add(name: "Content-Type", value: "application/json")
            headers.add(name: "Content-Length", value: String(body.count))
        }
        return HTTPRequestHead(
            version: .http1_1,
            method: HTTPMethod(rawValue: method.rawValue),
            uri: path,
            headers: headers
        )
    }

    private static func refusal(_ data: Data, status: Int, _ path: String) -> ClientError {
        guard let reply = try? ControlJSON.decode(MethodReply.self, from: data) else {
            let text = String(decoding: data.prefix(200), as: UTF8.self)
            return ClientError(.badReply, "the daemon answered \(path) with HTTP status \(status): \(text)")
        }
        let words = reply.extendedStatus?.message ?? reply.returnCode.name
        return ClientError(.refused, words, reply: reply)
    }
}
