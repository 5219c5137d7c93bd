import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

/// `replctl volume`: elements that are served to hosts.
struct VolumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume",
        abstract: "Elements that are served to hosts.",
        subcommands: [Add.self, List.self, Show.self, Grow.self, Remove.self, Retry.self, Serve.self]
    )

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Serve a file or block device as a volume.")

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the volume: letters, digits, '.', '-' and '_'.") var name: String
        @Option(help: "The file or block device that holds the data.", completion: .file()) var element: String
        @Option(help: "Make the element: a sparse file of this size, such as 10GiB.") var create: String?
        @Flag(help: "Refuse writes of hosts.") var readOnly = false
        @Option(help: "Take only so much of the element, such as 10GiB: a multiple of 4KiB.") var size: String?
        @Flag(help: "Leave room behind the volume for the metadata of a pair, for 'pair create --metadata internal'.")
        var reserveMetadata = false

        func validate() throws {
            if size != nil, reserveMetadata {
                throw ValidationError("--size, --reserve-metadata: the volume's size is one or the other")
            }
        }

        func run() async throws {
            let request = VolumeAddRequest(
                name: name,
                elementPath: Arguments.absolute(element),
                createByteCount: try create.map { try Arguments.size($0, "--create") },
                isReadOnly: readOnly,
                byteCount: try size.map { try Arguments.size($0, "--size") },
                reservesMetadata: reserveMetadata ? true : nil
            )
            let reply: VolumeReply = try await common.client.call(.post, "/v1/volumes", body: request)
            try common.show(reply, Text.volume)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(commandName: "ls", abstract: "List the volumes.")

        @OptionGroup var common: CommonOptions

        func run() async throws {
            let reply: VolumeListReply = try await common.client.call(.get, "/v1/volumes")
            try common.show(reply, Text.volumes)
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show a volume, and why it is not served.")

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the volume.", completion: NameCompletion.volumes) var name: String

        func run() async throws {
            let path = "/v1/volumes/\(Arguments.escaped(name))"
            let reply: VolumeReply = try await common.client.call(.get, path)
            try common.show(reply, Text.volume)
        }
    }

    struct Grow: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Give a volume the size that its elements have been given.",
            discussion: """
                Enlarge the elements of the volume and of all its pairs first: files and block devices, while they are in use. \
                Hosts go on meanwhile, and the pairs copy the new space. Clients that connect afterwards see the new size; \
                those that are connected keep the size that they have seen, because NBD cannot tell them, and have to \
                connect again. A volume does not shrink, and it does not grow while the metadata of a pair lies behind it. What was \
                kept free for metadata is taken as well, unless --size says otherwise.
                """
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the volume.", completion: NameCompletion.volumes) var name: String
        @Option(help: "The new size, such as 20GiB; by default that of the smallest of the elements.") var size: String?

        func run() async throws {
            let path = "/v1/volumes/\(Arguments.escaped(name))/Grow"
            let request = VolumeGrowRequest(byteCount: try size.map { try Arguments.size($0, "--size") })
            let reply: VolumeGrowReply = try await common.client.call(.post, path, body: request)
            try common.show(reply, Text.grown)
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "rm",
            abstract: "Stop serving a volume; its element stays as it is."
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the volume.", completion: NameCompletion.volumes) var name: String
        @Flag(help: "Disconnect clients.") var force = false

        func run() async throws {
            let path = "/v1/volumes/\(Arguments.escaped(name))?force=\(force)"
            let reply: MethodReply = try await common.client.call(.delete, path)
            try common.show(reply) { _ in "volume \(name) is no longer served" }
        }
    }

    struct Retry: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Try again to open a volume that is not served.")

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the volume.", completion: NameCompletion.volumes) var name: String

        func run() async throws {
            let path = "/v1/volumes/\(Arguments.escaped(name))/Retry"
            let reply: VolumeReply = try await common.client.call(.post, path)
            try common.show(reply, Text.volume)
        }
    }
}

extension VolumeCommand {
    struct Serve: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Let hosts use a volume that is withheld because a peer may serve it.",
            discussion: """
                After a start hosts are kept away from a volume with a pair between two hosts until the other host has said that \
                it has not taken the pair over. Where that host is lost for good, or certainly does not serve the volume, --force \
                lets them come. If it does serve it, both elements are written, and one of the two histories is lost in the end.
                """
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the volume.", completion: NameCompletion.volumes) var name: String
        @Flag(help: "Do it although a peer may serve the volume.") var force = false

        func run() async throws {
            let path = "/v1/volumes/\(Arguments.escaped(name))/Serve"
            let request = VolumeServeRequest(force: force ? true : nil)
            let reply: VolumeReply = try await common.client.call(.post, path, body: request)
            try common.show(reply, Text.volume)
        }
    }
}

/// What was typed, as the daemon takes it.
enum Arguments {
    static func absolute(_ path: String) -> String { URL(filePath: path).path(percentEncoded: false) }

    static func size(_ text: String, _ option: String) throws -> UInt64 {
        do {
            return try ByteCount.parse(text)
        } catch {
            throw ValidationError("\(option): \(error)")
        }
    }

    /// Bytes in a second: a size, with or without `/s`.
    static func rate(_ text: String, _ option: String) throws -> UInt64 {
        try size(text.hasSuffix("/s") ? String(text.dropLast(2)) : text, option)
    }

    static func seconds(_ text: String, _ option: String) throws -> Double {
        do {
            return try DurationText.parse(text) / .seconds(1)
        } catch {
            throw ValidationError("\(option): \(error)")
        }
    }

    /// How old what a target lacks may become, in seconds; 0 for no limit.
    static func recoveryPoint(_ text: String) throws -> Double { text == "none" ? 0 : try seconds(text, "--rpo") }

    /// A name as a part of a path; one that is no name is refused by the daemon, in its words.
    static func escaped(_ name: String) -> String {
        name.addingPercentEncoding(withAllowedCharacters: .alphanumerics.union(.init(charactersIn: "._-"))) ?? name
    }
}
