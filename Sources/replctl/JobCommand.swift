import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

/// `replctl job`: work that operations have started.
struct JobCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "job",
        abstract: "Work that operations have started.",
        subcommands: [List.self, Show.self, Wait.self, Cancel.self]
    )

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(commandName: "ls", abstract: "List the jobs, the newest first.")

        @OptionGroup var common: CommonOptions

        func run() async throws {
            let reply: JobListReply = try await common.client.call(.get, "/v1/jobs")
            try common.show(reply, Text.jobs)
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show a job.")

        @OptionGroup var common: CommonOptions
        @Argument(help: "The job, as 'replctl set' and 'replctl job ls' name it.") var id: String

        func run() async throws {
            let reply: JobReply = try await common.client.call(.get, "/v1/jobs/\(Arguments.escaped(id))")
            try common.show(reply, Text.job)
        }
    }

    struct Wait: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Wait until a job has ended.",
            discussion: """
                Ends with 0 when the job is Completed, with 1 when it ended with an error (Exception), with 3 when it was given \
                up (Terminated, Killed), and with 75 when the time was up before its end.
                """
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "The job, as 'replctl set' and 'replctl job ls' name it.") var id: String
        @Option(help: "Wait at most this long, such as 10m.") var timeout: String?

        func run() async throws {
            let seconds = try timeout.map { try Arguments.seconds($0, "--timeout") }
            let job = try await JobCommand.wait(for: id, seconds, common)
            try common.show(job, Text.job)
            try JobCommand.exit(with: job)
        }
    }

    struct Cancel: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Give up what a job does.",
            discussion: """
                A copy that is given up leaves the pair Suspended, a failback Failedover, with nothing forgotten; a Split that \
                waits leaves the copy running. A restore cannot be cancelled.
                """
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "The job, as 'replctl set' and 'replctl job ls' name it.") var id: String

        func run() async throws {
            let reply: JobReply = try await common.client.call(.post, "/v1/jobs/\(Arguments.escaped(id))/Cancel")
            try common.show(reply, Text.job)
        }
    }

    /// The job at its end, or when the time is up; the daemon waits, this does not ask again.
    static func wait(for id: String, _ seconds: Double?, _ common: CommonOptions) async throws -> JobReply {
        let timeout = seconds.map { "&timeout=\($0)" } ?? ""
        return try await common.client.call(.get, "/v1/jobs/\(Arguments.escaped(id))?wait=true\(timeout)")
    }

    /// Ends with the code that tells how a job has ended; returns when it is Completed.
    static func exit(with job: JobReply) throws {
        guard let state = JobState(rawValue: job.state.number), state.isEnd else {
            Failure.tell("job \(job.id) is still \(job.state.name) and the time is up; the work goes on")
            throw ExitCode(Failure.timeout)
        }
        guard state != .completed else { return }
        let reason = job.errorDescription.map { ": \($0)" } ?? ""
        Failure.tell("job \(job.id) (\(job.operation.name)) is \(state.name)\(reason)")
        throw ExitCode(state == .exception ? Failure.refused : Failure.givenUp)
    }
}
