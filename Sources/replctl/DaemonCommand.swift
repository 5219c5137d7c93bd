import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

/// `replctl daemon`: the daemon itself.
struct DaemonCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "daemon", abstract: "Show the daemon itself.")

    @OptionGroup var common: CommonOptions

    func run() async throws {
        let reply: DaemonReply = try await common.client.call(.get, "/v1/daemon")
        try common.show(reply, Text.daemon)
    }
}

/// `replctl events`: what has happened.
struct EventsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "events",
        abstract: "List what has happened since the daemon started."
    )

    @OptionGroup var common: CommonOptions
    @Flag(name: .shortAndLong, help: "Go on with what happens, until interrupted.") var follow = false
    @Option(help: "Only events after this number.") var since: UInt64 = 0

    func run() async throws {
        try await common.client.lines("/v1/events?since=\(since)&follow=\(follow)") { line in
            let event = try ControlJSON.decode(EventReply.self, from: line)
            let text = common.json ? String(decoding: line, as: UTF8.self) : Text.event(event)
            FileHandle.standardOutput.write(Data((text + "\n").utf8))
        }
    }
}
