import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

/// `replctl verify PAIR`: both elements of a pair compared online.
struct VerifyCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verify",
        abstract: "Compare source and target of a Synchronized pair, while hosts go on.",
        discussion: """
            What differs is marked and listed, with its exact ranges, and not repaired: which of the two elements is right, a \
            comparison cannot know. 'replctl set PAIR ResyncReplica' overwrites the marked ranges of the target with the \
            source. Until then Failover, ReverseRoles, Split, Dissolve and Detach need --force.

            Without --wait it returns at once and 'replctl job show' tells how far it is and what it has found. With --wait it \
            ends with 0 when everything is equal, with 2 when something differs, and otherwise as 'replctl job wait' does.
            """
    )

    /// With `--wait`: everything was compared, and something differs.
    static var differs: Int32 { 2 }

    @OptionGroup var common: CommonOptions
    @Argument(help: "Name of the pair.", completion: NameCompletion.pairs) var pair: String
    @Option(help: "First byte to compare, such as 10GiB; by default that of the volume.") var from: String?
    @Option(help: "How many bytes to compare, such as 1GiB; by default all up to the end.") var length: String?
    @Flag(help: "Wait until it has ended, and show what it found.") var wait = false
    @Option(help: "Wait at most this long, such as 10m.") var timeout: String?
    @Flag(help: "Give up the verify that runs; what it has marked stays.") var cancel = false

    func validate() throws {
        if timeout != nil, !wait { throw ValidationError("--timeout: without --wait there is nothing to wait for") }
        if cancel, from != nil || length != nil { throw ValidationError("--cancel: takes no range") }
    }

    func run() async throws {
        let path = "/v1/pairs/\(Arguments.escaped(pair))"
        let reply: MethodReply
        if cancel {
            reply = try await common.client.call(.post, "\(path)/CancelVerify")
        } else {
            let request = VerifyRequest(
                offset: try from.map { try Arguments.size($0, "--from") },
                length: try length.map { try Arguments.size($0, "--length") }
            )
            reply = try await common.client.call(.post, "\(path)/Verify", body: request)
        }
        guard wait, let id = reply.job else {
            try common.show(reply) { "\(pair): \($0.returnCode.name)\($0.job.map { " \($0)" } ?? "")" }
            return
        }
        let seconds = try timeout.map { try Arguments.seconds($0, "--timeout") }
        let job = try await JobCommand.wait(for: id, seconds, common)
        try common.show(job, Text.job)
        if cancel { return }
        try JobCommand.exit(with: job)
        if let verify = job.verify, verify.differentByteCount > 0 {
            Failure.tell(
                "source and target of pair \(pair) differ in \(verify.differentByteCount) bytes; nothing was repaired"
            )
            throw ExitCode(Self.differs)
        }
    }
}
