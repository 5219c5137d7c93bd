internal import HTTPTypes
internal import Hummingbird
internal import RepldControlAPI

/// The routes of users.
struct UserRoutes {
    let users: UserDirectory

    func add(to router: Router<BasicRequestContext>) {
        router.get("v1/users") { _, _ in try ControlRoutes.json(await users.list()) }
        router.post("v1/users") { request, _ in
            let body = try await ControlRoutes.body(UserAddRequest.self, of: request)
            return try ControlRoutes.json(await users.add(body), status: .created)
        }
        router.delete("v1/users/:name") { _, context in
            try await users.remove(named: context.parameters.require("name"))
            return try ControlRoutes.json(MethodReply(returnCode: .success))
        }
        router.post("v1/users/:name/Password") { request, context in
            let body = try await ControlRoutes.body(UserPasswordRequest.self, of: request)
            return try ControlRoutes.json(await users.setPassword(body, of: context.parameters.require("name")))
        }
        router.post("v1/users/:name/Role") { request, context in
            let body = try await ControlRoutes.body(UserRoleRequest.self, of: request)
            return try ControlRoutes.json(await users.setRole(body, of: context.parameters.require("name")))
        }
    }
}
