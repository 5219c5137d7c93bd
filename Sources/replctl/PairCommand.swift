import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

extension MetadataKind: ExpressibleByArgument {}

/// When hosts are told that a write is done, as `pair create` takes it.
enum ModeArgument: String, CaseIterable, ExpressibleByArgument {
    case sync, async

    var mode: ReplicationMode { self == .sync ? .synchronous : .asynchronous }
}

/// `replctl pair`: volumes and their copies.
struct PairCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pair",
        abstract: "Volumes and their copies.",
        subcommands: [
            Create.self, List.self, Show.self, Watch.self, Changes.self, Resync.self, Recovery.self,
            Aspects.self,
        ]
    )

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Pair a volume with a target and copy it there, while hosts go on.",
            discussion: """
                The target is a file or block device of this host, or a volume of a peer: repl://PEER/VOLUME. That host is made known \
                with 'replctl peer add', and the volume is added there with 'replctl volume add'; hosts cannot use it while it is a \
                replica. Copies to a peer's volume do not keep what they overwrite there.

                With '--metadata internal' what the pair remembers goes with the source, and is lost with it: a Failover from a \
                source that is dead needs external metadata (with internal one, a Detach has to follow before hosts may write). Such a volume is added with --reserve-metadata or --size.
                """
        )

        @OptionGroup var common: CommonOptions
        @Option(help: "The volume to copy.", completion: NameCompletion.volumes) var source: String
        @Option(
            help: ArgumentHelp(
                "What becomes the copy, and loses what it holds: a path, or repl://PEER/VOLUME.",
                valueName: "target"
            ),
            completion: .file()
        )
        var target: String
        @Option(help: "Name of the pair; by default the volume's with '-mirror'.") var name: String?
        @Flag(help: "Make the target: a sparse file as large as the volume.") var create = false
        @Option(help: "Granule in which differences are remembered: 4KiB to 1MiB.") var granule: String?
        @Option(
            help:
                "Where the metadata is: 'external', in the state directory, or 'internal', at the end of the volume's element."
        )
        var metadata: MetadataKind = .external
        @Flag(help: "Let internal metadata take the place of that of a pair that the daemon does not know.")
        var overwriteMetadata = false
        @Flag(
            inversion: .prefixedNo,
            help: "Keep what a copy overwrites on a target that is a usable image, so that it can be taken back."
        )
        var undo: Bool?
        @Option(
            help:
                "With a peer's volume: 'sync' (the default), or 'async', which answers hosts before it has their writes."
        )
        var mode: ModeArgument?
        @Option(
            help: """
                How old what a peer's volume lacks may become in asynchronous mode before the pair is Skewed, such as 5s; without it, as \
                old as 32 MiB on their way are.
                """
        )
        var rpo: String?
        @Option(
            help: """
                With a peer's volume: whether the pair mirrors again by itself when a link that was lost is back, 'automatic' (the                 default), or is Suspended until it is resumed, 'manual'.
                """
        )
        var recovery: RecoveryArgument?
        @OptionGroup var resync: ResyncOptions
        @Flag(help: "Let the first copy wait until 'replctl pair resync --resume'.") var paused = false
        @Flag(inversion: .prefixedNo, help: "Start the first copy at once.") var activate = true
        @Flag(help: "Wait, and show progress, until the pair is Synchronized.") var wait = false
        @Option(help: "Wait at most this long, such as 10m.") var timeout: String?

        func run() async throws {
            let path = RemoteVolumeText.isMeant(by: target) ? target : Arguments.absolute(target)
            var request = PairCreateRequest(sourceVolume: source, targetPath: path, name: name)
            request.createsTarget = create
            request.activates = activate
            if metadata == .internal { request.metadata = .internal }
            if overwriteMetadata { request.overwritesMetadata = true }
            request.keepsUndo = undo
            request.mode = mode.map { .number($0.mode.rawValue) }
            request.recoveryPointSeconds = try rpo.map { try Arguments.recoveryPoint($0) }
            request.copyRecoveryMode = recovery?.request
            if let granule {
                let count = try Arguments.size(granule, "--granule")
                guard let count = UInt32(exactly: count) else {
                    throw ValidationError("--granule: found '\(granule)', expected 4KiB to 1MiB")
                }
                request.granuleByteCount = count
            }
            var resync = try resync.request()
            if paused { resync.paused = true }
            if !resync.isEmpty { request.resync = resync }
            let seconds = try timeout.map { try Arguments.seconds($0, "--timeout") }
            let pair: PairReply = try await common.client.call(.post, "/v1/pairs", body: request)
            guard wait, let job = pair.job else {
                try common.show(pair, Text.pair)
                return
            }
            let watch = PairWatch(common: common, name: pair.name)
            let ended = try await watch.showing { try await JobCommand.wait(for: job.id, seconds, common) }
            try JobCommand.exit(with: ended)
        }

        func validate() throws {
            _ = try rpo.map { try Arguments.recoveryPoint($0) }
            if !RemoteVolumeText.isMeant(by: target), rpo != nil || mode == .async {
                throw ValidationError("--mode async, --rpo: only with a peer's volume as target, repl://PEER/VOLUME")
            }
            if !RemoteVolumeText.isMeant(by: target), recovery == .automatic {
                throw ValidationError("--recovery automatic: only with a peer's volume as target, repl://PEER/VOLUME")
            }
            if overwriteMetadata, metadata == .external {
                throw ValidationError("--overwrite-metadata: only with '--metadata internal'")
            }
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

    struct Aspects: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "List what dissolved pairs have left.",
            discussion: "A later pair of the same two elements compares them, and copies only what differs."
        )

        @OptionGroup var common: CommonOptions

        func run() async throws {
            let reply: AspectListReply = try await common.client.call(.get, "/v1/aspects")
            try common.show(reply, Text.aspects)
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
