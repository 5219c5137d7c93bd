import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient
import RepldInspection

/// The tool's command line.
@main
struct Replctl: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "replctl",
        abstract: "Makes, shows and switches the volumes and pairs of a repld daemon.",
        discussion: """
            Exit codes: 0 done, 1 the daemon refused or a job failed, 2 a verify found differences, 3 a job was given up, 64 wrong usage, 69 the daemon \
            cannot be reached, 75 the time was up.
            """,
        version: "replctl \(Version.text)",
        subcommands: [
            VolumeCommand.self, PairCommand.self, PeerCommand.self, SetCommand.self, VerifyCommand.self,
            JobCommand.self,
            OperationsCommand.self, EventsCommand.self, DaemonCommand.self, UserCommand.self, MetadataCommand.self,
        ]
    )

    /// Parses, runs, and turns each kind of failure into its exit code.
    static func main() async {
        do {
            var command = try await asyncParseAsRoot(
                CommonOptions.movedBehindSubcommand(CommandLine.arguments.dropFirst())
            )
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
        } catch let error as ClientError {
            Failure.print(error)
            Foundation.exit(Failure.exitCode(for: error))
        } catch let error as MetadataFileError {
            Failure.tell("\(error)")
            Foundation.exit(Failure.refused)
        } catch let error as PeerKeyFile.MakeError {
            Failure.tell("\(error)")
            Foundation.exit(Failure.refused)
        } catch let error as PasswordSource.Refusal {
            Failure.tell("\(error)")
            Foundation.exit(Failure.usage)
        } catch {
            exit(withError: error)
        }
    }
}

/// What every command takes.
struct CommonOptions: ParsableArguments {
    static var defaultSocket: String {
        ProcessInfo.processInfo.environment["REPLD_CONTROL"] ?? "/run/repld/control.sock"
    }

    @Option(
        help: ArgumentHelp(
            "Control socket of the daemon, or http://127.0.0.1:PORT.",
            discussion: "By default the one that REPLD_CONTROL names, or /run/repld/control.sock.",
            valueName: "socket"
        ),
        completion: .file()
    )
    var control: String?

    @Option(
        help: ArgumentHelp(
            "User of the daemon to ask as; by default the one that REPLD_USER names, or none.",
            valueName: "name"
        )
    )
    var user: String?

    @Option(
        help: ArgumentHelp(
            "File whose first line is that user's password; '-' is standard input.",
            discussion: "By default the one that REPLD_PASSWORD_FILE names; without any, the terminal is asked.",
            valueName: "file"
        ),
        completion: .file()
    )
    var passwordFile: String?

    @Flag(help: "Print JSON for programs.")
    var json = false

    /// The arguments with options that every command takes moved to the end, when they stand before the subcommand.
    static func movedBehindSubcommand(_ arguments: ArraySlice<String>) -> [String] {
        var rest = arguments
        var moved: [String] = []
        while let first = rest.first {
            let takesValue = ["--control", "--user", "--password-file"]
            if first == "--json" || takesValue.contains(where: { first.hasPrefix("\($0)=") }) {
                moved.append(rest.removeFirst())
            } else if takesValue.contains(first), rest.count > 1 {
                moved += rest.prefix(2)
                rest = rest.dropFirst(2)
            } else {
                break
            }
        }
        return rest + moved
    }

    func validate() throws {
        do {
            _ = try ControlEndpoint.parse(control ?? Self.defaultSocket)
        } catch {
            throw ValidationError("\(control == nil ? "REPLD_CONTROL" : "--control"): \(error)")
        }
        if passwordFile != nil, Login.userName(user) == nil {
            throw ValidationError("--password-file goes with --user")
        }
    }

    var client: ControlClient {
        let text = control ?? Self.defaultSocket
        let login = Login(user: user, passwordFile: passwordFile)
        // It was read before, by `validate`; what the daemon is not asked over is told as a path that is not there.
        return ControlClient((try? ControlEndpoint.parse(text)) ?? .unix(path: text)) { try login.credentials() }
    }

    /// Prints a reply as JSON, or as `text` makes it for people.
    func show<Reply: Encodable>(_ reply: Reply, _ text: (Reply) -> String) throws {
        if json {
            print(String(decoding: try ControlJSON.encode(reply, isPretty: true), as: UTF8.self))
        } else {
            let text = text(reply)
            if !text.isEmpty { print(text) }
        }
    }
}

/// How failures are told, and what the tool exits with.
enum Failure {
    static var refused: Int32 { 1 }
    static var givenUp: Int32 { 3 }
    static var usage: Int32 { 64 }
    static var unreachable: Int32 { 69 }
    static var software: Int32 { 70 }
    static var timeout: Int32 { 75 }

    static func exitCode(for error: ClientError) -> Int32 {
        switch error.code {
        case .refused: error.reply?.returnCode.number == ReturnCode.timeout.rawValue ? timeout : refused
        case .unreachable: unreachable
        case .noCredentials: usage
        default: software
        }
    }

    static func print(_ error: ClientError) {
        tell(error.description)
        if let status = error.reply?.extendedStatus {
            if let suggestion = status.suggestion { note(suggestion) }
        } else if error.code == .unreachable {
            note(
                """
                is repld running ('systemctl status repld'), is this its socket (--control, REPLD_CONTROL), \
                and may you use it (by default it is its owner's alone)?
                """
            )
        }
    }

    static func tell(_ words: String) { FileHandle.standardError.write(Data("replctl: \(words)\n".utf8)) }

    private static func note(_ words: String) { FileHandle.standardError.write(Data("  \(words)\n".utf8)) }
}

/// Names of volumes, pairs and peers for the shell, from the daemon; nothing when that cannot be reached.
enum NameCompletion {
    static var volumes: CompletionKind {
        .custom { _, _, _ in
            let list: VolumeListReply? = try? await client.call(.get, "/v1/volumes")
            return list?.volumes.map(\.name) ?? []
        }
    }

    static var pairs: CompletionKind {
        .custom { _, _, _ in
            let list: PairListReply? = try? await client.call(.get, "/v1/pairs")
            return list?.pairs.map(\.name) ?? []
        }
    }

    static var peers: CompletionKind {
        .custom { _, _, _ in
            let list: PeerListReply? = try? await client.call(.get, "/v1/peers")
            return list?.peers.map(\.name) ?? []
        }
    }

    private static var client: ControlClient { ControlClient(socketPath: CommonOptions.defaultSocket) }
}
