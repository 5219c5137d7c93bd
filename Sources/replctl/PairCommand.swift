import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient
import RepldPair

/// `replctl pair`: volumes and their copies.
struct PairCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pair",
        abstract: "Volumes and their copies.",
        subcommands: [Create.self, List.self, Show.self, Watch.self]
    )

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Pair a volume with a target and copy it there, while hosts go on."
        )

        @OptionGroup var common: CommonOptions
        @Option(help: "The volume to copy.", completion: NameCompletion.volumes) var source: String
        @Option(help: "The file or block device that becomes the copy; what it holds is lost.", completion: .file())
        var target: String
        @Option(help: "Name of the pair; by default the volume's with '-mirror'.") var name: String?
        @Flag(help: "Make the target: a sparse file as large as the volume.") var create = false
        @Option(help: "Granule in which differences are remembered: 4KiB to 1MiB.") var granule: String?
        @Flag(inversion: .prefixedNo, help: "Start the first copy at once.") var activate = true
        @Flag(help: "Wait, and show progress, until the pair is Synchronized.") var wait = false
        @Option(help: "Wait at most this long, such as 10m.") var timeout: String?

        func run() async throws {
            var request = PairCreateRequest(sourceVolume: source, targetPath: Arguments.absolute(target), name: name)
            request.createsTarget = create
            request.activates = activate
            if let granule {
                let count = try Arguments.size(granule, "--granule")
                guard let count = UInt32(exactly: count) else {
                    throw ValidationError("--granule: found '\(granule)', expected 4KiB to 1MiB")
                }
                request.granuleByteCount = count
            }
            let seconds = try timeout.map { try Arguments.seconds($0, "--timeout") }
            let pair: PairReply = try await common.client.call(.post, "/v1/pairs", body: request)
            guard wait else {
                try common.show(pair, Text.pair)
                return
            }
            try await PairWatch(common: common, name: pair.name).follow(until: .synchronized, timeout: seconds)
        }

        func validate() throws {
            if wait, !activate { throw ValidationError("--wait: without --activate there is nothing to wait for") }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(commandName: "ls", abstract: "List the pairs.")

        @OptionGroup var common: CommonOptions

        func run() async throws {
            let reply: PairListReply = try await common.client.call(.get, "/v1/pairs")
            try common.show(reply, Text.pairs)
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show a pair.")

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the pair.", completion: NameCompletion.pairs) var name: String

        func run() async throws {
            let reply: PairReply = try await common.client.call(.get, "/v1/pairs/\(Arguments.escaped(name))")
            try common.show(reply, Text.pair)
        }
    }

    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show a pair's progress until it rests.",
            discussion: "Ends with 0 when nothing is under way any more, and with 1 when the pair is Broken or Invalid."
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the pair.", completion: NameCompletion.pairs) var name: String

        func run() async throws { try await PairWatch(common: common, name: name).follow(until: nil, timeout: nil) }
    }
}

/// `replctl set PAIR OPERATION`: an operation on a pair.
struct SetCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set",
        abstract: "Carry out an operation on a pair (SetReplicationRelationship).",
        discussion: """
            OPERATION is a name or number of the standard, for instance ResyncReplica or 14. This version carries out \
            Activate (4), Detach (8), ResyncReplica (14), Resume (16) and Suspend (22).
            """
    )

    @OptionGroup var common: CommonOptions
    @Argument(help: "Name of the pair.", completion: NameCompletion.pairs) var pair: String
    @Argument(help: "Name or number of the operation.", completion: .list(ReplicationOperation.allCases.map(\.name)))
    var operation: String
    @Flag(help: "Accept what could be lost; the refusal without it says what.") var force = false
    @Option(help: "Wait, and show progress, until the pair has this copy state.", completion: .list(Self.states))
    var wait: String?
    @Option(help: "Wait at most this long, such as 10m.") var timeout: String?

    private static var states: [String] { CopyState.allCases.map(\.name) }

    func run() async throws {
        let seconds = try timeout.map { try Arguments.seconds($0, "--timeout") }
        let wanted = try wait.map { text in
            guard let state = CopyState(text: text) else {
                throw ValidationError("--wait: found '\(text)', expected one of \(Self.states.joined(separator: ", "))")
            }
            return state
        }
        let request = SetReplicationRelationshipRequest(
            operation: Int(operation).map { .number($0) } ?? .name(operation),
            force: force
        )
        let path = "/v1/pairs/\(Arguments.escaped(pair))/SetReplicationRelationship"
        let reply: MethodReply = try await common.client.call(.post, path, body: request)
        let isDetached = ReplicationOperation(text: operation) == .detach
        if let wanted, !isDetached {
            try await PairWatch(common: common, name: pair).follow(until: wanted, timeout: seconds)
        } else {
            try common.show(reply) { reply in
                let job = reply.job.map { " \($0)" } ?? ""
                return "\(pair): \(reply.returnCode.name)\(job)"
            }
        }
    }
}
