import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient
import RepldInspection

extension PeerCompression: ExpressibleByArgument {}

/// `replctl peer`: the other hosts that pairs may reach to.
struct PeerCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "peer",
        abstract: "The other hosts that pairs may reach to.",
        discussion: """
            Two hosts know each other by a key that both have in a file: 'peer key-new' makes one, which is then copied to the \
            other host over a channel that is safe. Each host is made known to the other with 'peer add', and its daemon has to \
            listen: 'peers: listen: HOST:PORT' in its configuration, or --peer-listen.
            """,
        subcommands: [Add.self, List.self, Show.self, Set.self, Remove.self, Retry.self, KeyNew.self]
    )

    struct Add: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make a host known, and keep a connection to it.",
            discussion: """
                What is sent is encrypted (TLS 1.3) and both sides prove that they have the key. --plaintext does without either, for \
                links that nobody else can reach; the other daemon has to allow it ('peers: allow-plaintext: true').
                """
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the peer here: letters, digits, '.', '-' and '_'.") var name: String
        @Option(
            help: ArgumentHelp(
                "Where its daemon listens; without a port, at \(PeerAddressText.defaultPort).",
                valueName: "host[:port]"
            )
        )
        var address: String
        @Option(help: "The file with the key that both hosts have.", completion: .file()) var keyFile: String?
        @Flag(help: "Without a key: nobody is checked, and nothing encrypted.") var plaintext = false
        @Option(help: "When what is sent there is compressed: 'auto' (the default), 'always' or 'off'.")
        var compress: PeerCompression?

        func validate() throws {
            if (keyFile == nil) != plaintext {
                throw ValidationError("--key-file, --plaintext: a peer needs one of them, and not both")
            }
            guard PeerAddressText(address) != nil else {
                throw ValidationError("--address: found '\(address)', expected \(PeerAddressText.expectation)")
            }
        }

        func run() async throws {
            let request = PeerAddRequest(
                name: name,
                address: address,
                keyFile: keyFile.map { Arguments.absolute($0) },
                plaintext: plaintext ? true : nil,
                compression: compress
            )
            let reply: PeerReply = try await common.client.call(.post, "/v1/peers", body: request)
            try common.show(reply, Text.peer)
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "ls",
            abstract: "List the peers, and whether they are connected."
        )

        @OptionGroup var common: CommonOptions

        func run() async throws {
            let reply: PeerListReply = try await common.client.call(.get, "/v1/peers")
            try common.show(reply, Text.peers)
        }
    }

    struct Show: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Show a peer, and why it is not connected.")

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the peer.", completion: NameCompletion.peers) var name: String

        func run() async throws {
            let reply: PeerReply = try await common.client.call(.get, "/v1/peers/\(Arguments.escaped(name))")
            try common.show(reply, Text.peer)
        }
    }

    struct Set: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Change what is set about a peer, at once and for good."
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the peer.", completion: NameCompletion.peers) var name: String
        @Option(help: "When what is sent there is compressed: 'auto', 'always' or 'off'.")
        var compress: PeerCompression

        func run() async throws {
            let path = "/v1/peers/\(Arguments.escaped(name))/Configure"
            let request = PeerConfigureRequest(compression: compress)
            let reply: PeerReply = try await common.client.call(.post, path, body: request)
            try common.show(reply, Text.peer)
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "rm",
            abstract: "Forget a peer; refused while it has the other element of a pair."
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the peer.", completion: NameCompletion.peers) var name: String

        func run() async throws {
            let path = "/v1/peers/\(Arguments.escaped(name))"
            let reply: MethodReply = try await common.client.call(.delete, path)
            try common.show(reply) { _ in "peer \(name) is forgotten" }
        }
    }

    struct Retry: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Try again to use a peer whose key file could not be read."
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the peer.", completion: NameCompletion.peers) var name: String

        func run() async throws {
            let path = "/v1/peers/\(Arguments.escaped(name))/Retry"
            let reply: PeerReply = try await common.client.call(.post, path)
            try common.show(reply, Text.peer)
        }
    }

    struct KeyNew: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "key-new",
            abstract: "Make a file with a new key, without the daemon.",
            discussion: """
                The file is its owner's alone to read; the daemon's user has to be able to. Whoever has the key can write to the \
                replicas of both hosts: a key for each two hosts, and no copy that is not needed.
                """
        )

        @Argument(help: "The file, which must not exist yet.", completion: .file()) var file: String

        func run() throws {
            try PeerKeyFile.make(at: Arguments.absolute(file))
            print("a new key is in \(file); copy it to the other host, and 'replctl peer add' on both")
        }
    }
}
