import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient

/// `replctl operations`: the operations table.
struct OperationsCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "operations",
        abstract: "Show what can be done with a pair: the operations table.",
        discussion: "Without an option it is the whole table."
    )

    @OptionGroup var common: CommonOptions
    @Option(help: "Only the operations that are accepted in this copy state.") var state: String?
    @Option(help: "Only the copy states in which this operation is accepted.") var operation: String?
    @Option(help: "What this pair accepts now, and why the rest is refused.", completion: NameCompletion.pairs)
    var pair: String?

    func validate() throws {
        if [state, operation, pair].compactMap({ $0 }).count > 1 {
            throw ValidationError("--state, --operation and --pair are three questions; ask one at a time")
        }
    }

    func run() async throws {
        if let pair {
            let path = "/v1/pairs/\(Arguments.escaped(pair))/GetSupportedOperations"
            let reply: PairOperationsReply = try await common.client.call(.get, path)
            try common.show(reply, Text.pairOperations)
        } else if let state {
            let path = "/v1/capabilities/GetSupportedOperations?copyState=\(Arguments.escaped(state))"
            let reply: SupportedOperationsReply = try await common.client.call(.get, path)
            try common.show(reply, Text.supportedOperations)
        } else if let operation {
            let path = "/v1/capabilities/GetSupportedCopyStates?operation=\(Arguments.escaped(operation))"
            let reply: SupportedCopyStatesReply = try await common.client.call(.get, path)
            try common.show(reply, Text.supportedCopyStates)
        } else {
            let reply: CapabilitiesReply = try await common.client.call(.get, "/v1/capabilities")
            try common.show(reply, Text.capabilities)
        }
    }
}
