import ArgumentParser
import RepldControlAPI
import RepldControlClient

/// What becomes of a pair whose link was lost, as `pair create` and `pair recovery` take it.
enum RecoveryArgument: String, CaseIterable, ExpressibleByArgument {
    case automatic, manual

    var request: NumberOrName { .name(mode.name) }

    private var mode: CopyRecoveryMode { self == .automatic ? .automatic : .manual }
}

extension PairCommand {
    struct Recovery: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say whether a pair with a peer mirrors again by itself after a lost link.",
            discussion: """
                With 'automatic', as by default, what differs is copied as soon as the peer is back. With 'manual' the pair is then \
                Suspended, and the replica keeps the image that it has, until 'replctl set PAIR Resume'. It holds from the next time \
                on, over restarts and moves. A pair that an error has stopped waits for somebody in either mode. Without a mode, \
                shows the pair.
                """
        )

        @OptionGroup var common: CommonOptions
        @Argument(help: "Name of the pair.", completion: NameCompletion.pairs) var name: String
        @Argument(help: "'automatic' or 'manual'.") var mode: RecoveryArgument?

        func run() async throws {
            let path = "/v1/pairs/\(Arguments.escaped(name))"
            let pair: PairReply
            if let mode {
                let request = RecoveryRequest(copyRecoveryMode: mode.request)
                pair = try await common.client.call(.post, path + "/ConfigureRecovery", body: request)
            } else {
                pair = try await common.client.call(.get, path)
            }
            try common.show(pair, Text.pair)
        }
    }
}
