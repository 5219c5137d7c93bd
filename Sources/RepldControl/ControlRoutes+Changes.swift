internal import Hummingbird
internal import RepldControlAPI
internal import RepldPair

/// Where the elements of pairs may differ.
extension ControlRoutes {
    func addChanges(to router: Router<BasicRequestContext>) {
        router.get("v1/pairs/:name/changes") { request, context in
            let reply = try await service.changes(
                ofPair: context.parameters.require("name"),
                by: Self.side(of: request),
                from: Self.number("from", of: request) ?? 0,
                limit: Self.limit(of: request)
            )
            return try Self.json(reply)
        }
    }

    private static func side(of request: Request) throws(ControlError) -> ChangedSide {
        guard let found = request.uri.queryParameters["side"] else { return .both }
        guard let side = ChangedSide(name: String(found)) else {
            throw ControlError(.invalidRequest, "side: found '\(found)', expected source, target or both")
        }
        return side
    }

    private static func limit(of request: Request) throws(ControlError) -> Int {
        guard let found = try number("limit", of: request) else { return PairChangesReply.runLimit }
        guard let limit = Int(exactly: found), (1...PairChangesReply.runLimit).contains(limit) else {
            throw ControlError(
                .invalidRequest,
                "limit: found '\(found)', expected 1 to \(PairChangesReply.runLimit) runs"
            )
        }
        return limit
    }
}
