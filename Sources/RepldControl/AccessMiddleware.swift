internal import Foundation
internal import HTTPTypes
internal import Hummingbird
internal import NIOCore
internal import RepldControlAPI

/// Lets a request through to its route when whoever sends it may do that, and tells the route who it is.
struct AccessMiddleware: RouterMiddleware {
    let access: Access

    @concurrent func handle(
        _ request: Request,
        context: BasicRequestContext,
        next: @concurrent (Request, BasicRequestContext) async throws -> Response
    ) async throws -> Response {
        var request = request
        let principal: Principal
        do {
            principal = try await admit(&request, route: context.endpointPath)
        } catch let error as ControlError where error.code == .notAuthenticated {
            return try Self.challenge(error)
        }
        let allowed = request
        return try await Principal.$current.withValue(principal) { try await next(allowed, context) }
    }

    /// Who sends the request, when it may be carried out; takes credentials out of its body.
    private func admit(_ request: inout Request, route: String?) async throws -> Principal {
        let peer = ControlPeer.current
        let method = request.method.rawValue
        let rule = AccessRule.rule(method: method, route: route)
        let body = rule == .operatorUnlessPlan ? try await Self.examineBody(of: &request) : nil
        let credentials: LoginCredentials?
        do {
            let header = try request.headers[.authorization].map { try LoginCredentials(authorization: $0) }
            credentials = try LoginCredentials.agreed(header: header, body: body?.credentials)
        } catch let error as ControlError {
            access.noteMalformed(error, peer)
            throw error
        }
        let principal = try await access.principal(of: peer, presenting: credentials)
        guard rule.allows(principal.role, isPlan: body?.isPlan ?? false) else {
            throw access.denied(principal, peer, "\(method) \(route ?? "")")
        }
        return principal
    }

    private static func examineBody(of request: inout Request) async throws -> SetRelationshipAccess? {
        let bytes = try await ControlRoutes.collectedBody(of: &request)
        guard let examined = try SetRelationshipAccess(bytes) else { return nil }
        request.body = RequestBody(buffer: ByteBuffer(bytes: examined.body))
        return examined
    }

    /// 401 with what a client has to send instead.
    private static func challenge(_ error: ControlError) throws -> Response {
        var response = try ControlRoutes.json(error.reply, status: .unauthorized)
        response.headers[.wwwAuthenticate] = #"Basic realm="repld", charset="UTF-8""#
        return response
    }
}
