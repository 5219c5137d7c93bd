internal import HTTPTypes
internal import Hummingbird
internal import RepldControlAPI

/// The routes of users.
struct UserRoutes {
    let access: Access

    private var users: UserDirectory { access.users }

    func add(to router: Router<BasicRequestContext>) {
        router.get("v1/users") { _, _ in try ControlRoutes.json(await users.list()) }
        router.post("v1/users") { request, _ in
            let body = try await ControlRoutes.body(UserAddRequest.self, of: request)
            let reply = try await users.add(body)
            access.noteChange("user added", of: reply.name, role: reply.role)
            return try ControlRoutes.json(reply, status: .created)
        }
        router.delete("v1/users/:name") { _, context in
            let name = try context.parameters.require("name")
            try await users.remove(named: name)
            access.noteChange("user removed", of: name)
            return try ControlRoutes.json(MethodReply(returnCode: .success))
        }
        router.post("v1/users/:name/Password") { request, context in
            let body = try await ControlRoutes.body(UserPasswordRequest.self, of: request)
            let reply = try await users.setPassword(body, of: context.parameters.require("name"))
            access.noteChange("password changed", of: reply.name)
            return try ControlRoutes.json(reply)
        }
        router.post("v1/users/:name/Role") { request, context in
            let body = try await ControlRoutes.body(UserRoleRequest.self, of: request)
            let reply = try await users.setRole(body, of: context.parameters.require("name"))
            access.noteChange("role changed", of: reply.name, role: reply.role)
            return try ControlRoutes.json(reply)
        }
    }
}
