internal import HTTPTypes
internal import Hummingbird
internal import RepldControlAPI
internal import RepldPair
internal import ServiceLifecycle

/// Jobs, and what can be asked of the operations table
extension ControlRoutes {
    func addJobs(to router: Router<BasicRequestContext>) {
        router.get("v1/jobs") { _, _ in try Self.json(JobListReply(jobs: await service.jobList())) }
        router.get("v1/jobs/:id") { request, context in
            let id = try context.parameters.require("id")
            let seconds = try Self.seconds("timeout", of: request)
            guard try Self.flag("wait", of: request) else { return try Self.json(await service.job(id: id)) }
            // As with an operation's: a wait does not hold up the end of the daemon.
            let job = try await cancelWhenGracefulShutdown { try await service.job(id: id, waitingSeconds: seconds) }
            return try Self.json(job)
        }
        router.post("v1/jobs/:id/Cancel") { _, context in
            try Self.json(await service.cancelJob(id: context.parameters.require("id")))
        }
    }

    func addVerify(to router: Router<BasicRequestContext>) {
        router.post("v1/pairs/:name/Verify") { request, context in
            let body = try await Self.body(VerifyRequest.self, of: request)
            let reply = try await service.verify(pair: context.parameters.require("name"), body)
            return try Self.json(reply, status: .accepted)
        }
        router.post("v1/pairs/:name/CancelVerify") { _, context in
            try Self.json(await service.cancelVerify(pair: context.parameters.require("name")))
        }
    }

    func addCapabilities(to router: Router<BasicRequestContext>) {
        router.get("v1/capabilities") { _, _ in try Self.json(CapabilitiesReply()) }
        router.get("v1/capabilities/GetSupportedOperations") { request, _ in
            let text = try Self.required("copyState", of: request)
            let state = try ReplicationService.copyState(.name(text), field: "copyState")
            return try Self.json(SupportedOperationsReply(state))
        }
        router.get("v1/capabilities/GetSupportedCopyStates") { request, _ in
            let text = try Self.required("operation", of: request)
            return try Self.json(SupportedCopyStatesReply(try ReplicationService.operation(.name(text))))
        }
    }

    private static func required(_ name: Substring, of request: Request) throws(ControlError) -> String {
        guard let found = request.uri.queryParameters[name] else {
            throw ControlError(.invalidRequest, "\(name): missing; it is a number or a name")
        }
        return String(found)
    }

    private static func seconds(_ name: Substring, of request: Request) throws(ControlError) -> Double? {
        guard let found = request.uri.queryParameters[name] else { return nil }
        guard let number = Double(found), number >= 0 else {
            throw ControlError(.invalidRequest, "\(name): found '\(found)', expected a number of seconds")
        }
        return number
    }
}
