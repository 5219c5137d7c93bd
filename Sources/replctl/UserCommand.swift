import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

/// `replctl user`: who may use the daemon besides its owner.
struct UserCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "user",
        abstract: "Who may use the daemon besides its owner.",
        discussion: """
            The user that the daemon runs as and root need no password on the control socket. Everybody else is a user \
            made here: an 'operator' may do everything, 'read-only' may look.
            """,
        subcommands: [Add.self, List.self, Remove.self, Password.self, Role.self]
    )

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Make a user; its password is asked for.")

        @OptionGroup var common: CommonOptions
        @OptionGroup var newPassword: NewPasswordOptions
        @Argument(help: "Name of the user: letters, digits, '.', '-' and '_'.") var name: String
        @Option(help: "What the user may do: operator or read-only.", completion: UserCommand.roles) var role: String

        func run() async throws {
            let request = UserAddRequest(name: name, role: role, password: try newPassword.read(of: name))
            let reply: UserReply = try await common.client.call(.post, "/v1/users", body: request)
            try common.show(reply, UserText.user)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(commandName: "ls", abstract: "List the users.")

        @OptionGroup var common: CommonOptions

        func run() async throws {
            let reply: UserListReply = try await common.client.call(.get, "/v1/users")
            try common.show(reply, UserText.users)
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(commandName: "rm", abstract: "Take a user away.")

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the user.") var name: String

        func run() async throws {
            let reply: MethodReply = try await common.client.call(.delete, UserCommand.path(name))
            try common.show(reply) { _ in "user \(name) is gone" }
        }
    }

    struct Password: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "passwd",
            abstract: "Give a user another password, which is asked for."
        )

        @OptionGroup var common: CommonOptions
        @OptionGroup var newPassword: NewPasswordOptions
        @Argument(help: "Name of the user.") var name: String

        func run() async throws {
            let request = UserPasswordRequest(password: try newPassword.read(of: name))
            let path = UserCommand.path(name) + "/Password"
            let reply: UserReply = try await common.client.call(.post, path, body: request)
            try common.show(reply) { _ in "user \(name) has another password" }
        }
    }

    struct Role: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Change what a user may do.")

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the user.") var name: String
        @Argument(help: "What the user may do: operator or read-only.", completion: UserCommand.roles) var role: String

        func run() async throws {
            let path = UserCommand.path(name) + "/Role"
            let reply: UserReply = try await common.client.call(.post, path, body: UserRoleRequest(role: role))
            try common.show(reply, UserText.user)
        }
    }

    static var roles: CompletionKind { .list(UserRole.allCases.map(\.rawValue)) }

    static func path(_ name: String) -> String { "/v1/users/\(Arguments.escaped(name))" }
}

/// Where a new password comes from: never from the command line, which everybody on the host can read.
struct NewPasswordOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "File whose first line is the new password; '-' is standard input.",
            discussion: "Without it, the terminal is asked, twice.",
            valueName: "file"
        ),
        completion: .file()
    )
    var newPasswordFile: String?

    func read(of user: String) throws -> String {
        guard let newPasswordFile else { return try PasswordSource.newFromTerminal(of: user) }
        return try PasswordSource.file(newPasswordFile)
    }
}

/// How users are shown to people.
enum UserText {
    static func user(_ user: UserReply) -> String { "\(user.name)  \(user.role)" }

    static func users(_ reply: UserListReply) -> String {
        guard !reply.users.isEmpty else { return "no users: only the daemon's own user and root may use it" }
        let width = reply.users.map(\.name.count).max() ?? 0
        return reply.users.map { user in
            "\(user.name.padding(toLength: width, withPad: " ", startingAt: 0))  \(user.role)"
        }.joined(separator: "\n")
    }
}
