internal import Foundation
internal import HTTPTypes
internal import Hummingbird
internal import NIOCore
internal import RepldControlAPI
internal import ServiceLifecycle

/// Which request leads to which method of the service.
struct ControlRoutes {
    let service: ReplicationService
    let access: Access

    func router() -> Router<BasicRequestContext> {
        let router = Router()
        router.add(middleware: RefusalMiddleware())
        router.add(middleware: AccessMiddleware(access: access))
        UserRoutes(access: access).add(to: router)
        router.get("v1/daemon") { _, _ in try Self.json(await service.daemon()) }
        addVolumes(to: router)
        addPairs(to: router)
        addPeers(to: router)
        addChanges(to: router)
        addJobs(to: router)
        addVerify(to: router)
        addCapabilities(to: router)
        router.get("v1/events") { request, _ in try await events(request) }
        router.get("metrics") { _, _ in
            let text = MetricsText.render(
                volumes: try await service.volumeList(),
                pairs: try await service.pairList(),
                jobs: try await service.jobList(),
                peers: try await service.peerList()
            )
            return Response(
                status: .ok,
                headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8"],
                body: ResponseBody(byteBuffer: ByteBuffer(string: text))
            )
        }
        return router
    }

    private func addVolumes(to router: Router<BasicRequestContext>) {
        router.get("v1/volumes") { _, _ in
            try Self.json(VolumeListReply(volumes: await service.volumeList()))
        }
        router.post("v1/volumes") { request, _ in
            let body = try await Self.body(VolumeAddRequest.self, of: request)
            return try Self.json(await service.addVolume(body), status: .created)
        }
        router.get("v1/volumes/:name") { _, context in
            try Self.json(await service.volume(named: context.parameters.require("name")))
        }
        router.delete("v1/volumes/:name") { request, context in
            let isForced = try Self.flag("force", of: request)
            try await service.removeVolume(named: context.parameters.require("name"), isForced: isForced)
            return try Self.json(MethodReply(returnCode: .success))
        }
        router.post("v1/volumes/:name/Retry") { _, context in
            try Self.json(await service.retryVolume(named: context.parameters.require("name")))
        }
        router.post("v1/volumes/:name/Grow") { request, context in
            let body = try await Self.body(VolumeGrowRequest.self, of: request)
            return try Self.json(await service.growVolume(named: context.parameters.require("name"), body))
        }
        router.post("v1/volumes/:name/Serve") { request, context in
            let body = try await Self.body(VolumeServeRequest.self, of: request)
            return try Self.json(await service.serveVolume(named: context.parameters.require("name"), body))
        }
    }

    private func addPairs(to router: Router<BasicRequestContext>) {
        router.get("v1/pairs") { _, _ in
            try Self.json(PairListReply(pairs: await service.pairList()))
        }
        router.post("v1/pairs") { request, _ in
            let body = try await Self.body(PairCreateRequest.self, of: request)
            return try Self.json(await service.createPair(body), status: .created)
        }
        router.get("v1/pairs/:name") { _, context in
            try Self.json(await service.pair(named: context.parameters.require("name")))
        }
        router.get("v1/pairs/:name/GetSupportedOperations") { _, context in
            try Self.json(await service.operations(ofPair: context.parameters.require("name")))
        }
        router.post("v1/pairs/:name/ConfigureResync") { request, context in
            let body = try await Self.body(ResyncRequest.self, of: request)
            return try Self.json(await service.configureResync(ofPair: context.parameters.require("name"), body))
        }
        router.post("v1/pairs/:name/ConfigureRecovery") { request, context in
            let body = try await Self.body(RecoveryRequest.self, of: request)
            return try Self.json(await service.configureRecovery(ofPair: context.parameters.require("name"), body))
        }
        router.get("v1/aspects") { _, _ in try Self.json(AspectListReply(aspects: await service.aspectList())) }
        router.post("v1/pairs/:name/SetReplicationRelationship") { request, context in
            let body = try await Self.body(SetReplicationRelationshipRequest.self, of: request)
            let name = try context.parameters.require("name")
            // A wait does not hold up the end of the daemon: it ends as if its time were up.
            let reply = try await cancelWhenGracefulShutdown {
                try await service.setReplicationRelationship(pair: name, body)
            }
            let isJob = reply.returnCode == Enumerated(ReturnCode.jobStarted)
            return try Self.json(reply, status: isJob ? .accepted : .ok)
        }
    }

    /// Events as JSON objects, one to a line; with `follow=true` the answer goes on until either side ends it.
    private func events(_ request: Request) async throws -> Response {
        let isFollowing = try Self.flag("follow", of: request)
        let since = try Self.number("since", of: request) ?? 0
        let service = service
        let body = ResponseBody { writer in
            let wakeups = await service.subscribe()
            defer { wakeups.finish() }
            var last = since
            if let lines = try await Self.lines(after: &last, of: service) { try await writer.write(lines) }
            if isFollowing {
                for await _ in wakeups.stream.cancelOnGracefulShutdown() {
                    if let lines = try await Self.lines(after: &last, of: service) { try await writer.write(lines) }
                }
            }
            try await writer.finish(nil)
        }
        return Response(status: .ok, headers: [.contentType: "application/x-ndjson"], body: body)
    }

    /// The events after `last` as lines, and `last` moved on; `nil` when there are none.
    private static func lines(after last: inout UInt64, of service: ReplicationService) async throws -> ByteBuffer? {
        let new = await service.events(after: last)
        guard let newest = new.last else { return nil }
        var lines = ByteBuffer()
        for event in new {
            lines.writeBytes(try ControlJSON.encode(event))
            lines.writeInteger(UInt8(ascii: "\n"))
        }
        last = newest.sequence
        return lines
    }

    static func json(_ value: some Encodable, status: HTTPResponse.Status = .ok) throws -> Response {
        var buffer = ByteBuffer(bytes: try ControlJSON.encode(value))
        buffer.writeInteger(UInt8(ascii: "\n"))
        return Response(
            status: status,
            headers: [.contentType: "application/json"],
            body: ResponseBody(byteBuffer: buffer)
        )
    }

    /// The whole body, which can be read again afterwards.
    static func collectedBody(of request: inout Request) async throws -> Data {
        do {
            return Data(try await request.collectBody(upTo: ControlServer.bodyByteLimit).readableBytesView)
        } catch is NIOTooManyBytesError {
            throw HTTPError(.contentTooLarge, message: "the body is larger than \(ControlServer.bodyByteLimit) bytes")
        }
    }

    static func body<Body: StrictRequest>(_ type: Body.Type, of request: Request) async throws -> Body {
        var request = request
        let bytes = try await collectedBody(of: &request)
        do {
            return try ControlJSON.decodeRequest(type, from: bytes)
        } catch {
            throw ControlError(.invalidRequest, error.message)
        }
    }

    static func flag(_ name: Substring, of request: Request) throws(ControlError) -> Bool {
        switch request.uri.queryParameters[name] {
        case nil, "false": return false
        case "true": return true
        case .some(let found):
            throw ControlError(.invalidRequest, "\(name): found '\(found)', expected true or false")
        }
    }

    static func number(_ name: Substring, of request: Request) throws(ControlError) -> UInt64? {
        guard let found = request.uri.queryParameters[name] else { return nil }
        guard let number = UInt64(found) else {
            throw ControlError(.invalidRequest, "\(name): found '\(found)', expected a whole number")
        }
        return number
    }
}

/// Turns whatever was thrown into the body that every refusal has.
struct RefusalMiddleware: RouterMiddleware {
    @concurrent func handle(
        _ request: Request,
        context: BasicRequestContext,
        next: @concurrent (Request, BasicRequestContext) async throws -> Response
    ) async throws -> Response {
        do {
            return try await next(request, context)
        } catch let error as ControlError {
            return try ControlRoutes.json(error.reply, status: Self.status(of: error))
        } catch let error as HTTPError {
            return try refusal(of: error, request)
        }
    }

    private func refusal(of error: HTTPError, _ request: Request) throws -> Response {
        let isUnknown = error.status == .notFound
        let words = isUnknown ? "there is no \(request.method) \(request.uri.path)" : error.body ?? "\(error.status)"
        let refusal = ControlError(isUnknown ? .pathNotFound : .invalidRequest, words)
        return try ControlRoutes.json(refusal.reply, status: error.status)
    }

    private static func status(of error: ControlError) -> HTTPResponse.Status {
        if error.code == .operationInProgress || error.code == .stopping { return .serviceUnavailable }
        return switch error.code.returnCode {
        case .success: .ok
        case .jobStarted: .accepted
        case .notSupported: .notImplemented
        case .unspecifiedError: .internalServerError
        case .timeout: .gatewayTimeout
        case .failed: .conflict
        case .invalidParameter: .badRequest
        case .objectNotFound: .notFound
        case .accessDenied: .forbidden
        case .notEnoughResources: .serviceUnavailable
        case .cacheOutOfDate: .preconditionFailed
        }
    }
}
