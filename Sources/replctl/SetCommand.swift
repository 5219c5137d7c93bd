import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient
import RepldPair

/// `replctl set PAIR OPERATION`: an operation on a pair.
struct SetCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set",
        abstract: "Carry out an operation on a pair (SetReplicationRelationship).",
        discussion: """
            OPERATION is a name or number of the standard, for instance ResyncReplica or 14:

            \(table)

            'replctl operations --pair PAIR' says which of them a pair accepts now.
            """
    )

    @OptionGroup var common: CommonOptions
    @Argument(help: "Name of the pair.", completion: NameCompletion.pairs) var pair: String
    @Argument(help: "Name or number of the operation.", completion: .list(ReplicationOperation.allCases.map(\.name)))
    var operation: String
    @Flag(help: "Accept what could be lost; the refusal without it says what.") var force = false
    @Flag(help: "Say what would happen, and do nothing.") var plan = false
    @Flag(
        help:
            "Let the copy overwrite the target without keeping what it holds: faster, and no way back until it has ended."
    )
    var noUndo = false
    @Option(
        help: """
            With ResetToAsync: how old what a peer's volume lacks may become before the pair is Skewed, such as 5s; 'none' for no \
            limit.
            """
    )
    var rpo: String?
    @Option(help: "Wait until the pair has this copy state.", completion: .list(Self.states))
    var wait: String?
    @Option(help: "Wait at most this long, such as 10m.") var timeout: String?
    @Option(help: "Refuse when the pair has changed since it had this revision.") var revision: UInt64?

    private static var states: [String] { CopyStateSet.all.states.map(\.name) }

    /// The operations that a pair can have, from the one table.
    private static var table: String {
        OperationTable.rules.filter { $0.support == .mirror }.map { rule in
            let number = String(rule.operation.rawValue)
            let pad = String(repeating: " ", count: 20 - rule.operation.name.count)
            return "\(number.count < 2 ? " " : "")\(number) \(rule.operation.name)\(pad)\(rule.summary)"
        }.joined(separator: "\n")
    }

    func validate() throws {
        if let wait, CopyState(text: wait) == nil {
            throw ValidationError("--wait: found '\(wait)', expected one of \(Self.states.joined(separator: ", "))")
        }
        let modes: [ReplicationOperation?] = [.resetToAsync, .resetToSync]
        if rpo != nil, !modes.contains(ReplicationOperation(text: operation)) {
            throw ValidationError("--rpo: only with ResetToAsync and ResetToSync")
        }
        _ = try rpo.map { try Arguments.recoveryPoint($0) }
        if timeout != nil, wait == nil {
            throw ValidationError("--timeout: without --wait there is nothing to wait for")
        }
    }

    func run() async throws {
        var request = SetReplicationRelationshipRequest(
            operation: Int(operation).map { .number($0) } ?? .name(operation),
            force: force
        )
        request.plan = plan ? true : nil
        request.keepsUndo = noUndo ? false : nil
        request.recoveryPointSeconds = try rpo.map { try Arguments.recoveryPoint($0) }
        request.expectedRevision = revision
        request.waitForCopyState = wait.map { .name($0) }
        request.timeoutSeconds = try timeout.map { try Arguments.seconds($0, "--timeout") }
        let sent = request
        let path = "/v1/pairs/\(Arguments.escaped(pair))/SetReplicationRelationship"
        let call = { () async throws -> MethodReply in try await common.client.call(.post, path, body: sent) }
        if let plan = plan ? try await call().plan : nil {
            try common.show(plan, Text.plan)
            if plan.verdict == .refused { throw ExitCode(Failure.refused) }
            return
        }
        let ends: [ReplicationOperation?] = [.detach, .dissolve]
        if wait != nil, !ends.contains(ReplicationOperation(text: operation)) {
            _ = try await PairWatch(common: common, name: pair).showing(call)
            return
        }
        try common.show(try await call()) { reply in
            let job = reply.job.map { " \($0)" } ?? ""
            let note = reply.extendedStatus.map { "\n\($0.message)" } ?? ""
            return "\(pair): \(reply.returnCode.name)\(job)\(note)"
        }
    }
}
