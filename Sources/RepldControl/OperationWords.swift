internal import RepldControlAPI
package import RepldPair

/// What words about a pair need besides its facts: what it is called, and where its data is.
package struct PairWords: Hashable, Sendable {
    package var name: String
    /// The element that is the source now, and the one that is the target.
    package var sourcePath: String
    package var targetPath: String
    /// Size of the volume in bytes.
    package var byteCount: UInt64
    /// The element that has the pair's metadata; `nil` where that is in the state directory.
    package var metadataElementPath: String?

    package init(name: String, sourcePath: String, targetPath: String, byteCount: UInt64) {
        self.name = name
        self.sourcePath = sourcePath
        self.targetPath = targetPath
        self.byteCount = byteCount
    }
}

/// The verdicts of the operations table, in words for whoever asked.
package enum OperationWords {
    /// The refusal that a verdict stands for; `nil` where the operation may begin or its result holds.
    package static func refusal(
        of operation: ReplicationOperation,
        _ verdict: OperationVerdict,
        _ facts: PairFacts,
        _ pair: PairWords
    ) -> ControlError? {
        var error: ControlError
        switch verdict {
        case .accepted, .holds:
            return nil
        case .needsForce(let reason):
            let stake = stake(of: reason, operation, facts, pair)
            error = ControlError(
                .needsForce,
                "\(operation.name) of pair '\(pair.name)' in state \(facts.copyState.name) needs force: \(stake.words)",
                suggestion: remedy(for: reason, facts).map { "\($0), or say --force" } ?? "say --force if that may be"
            )
            error.status.bytesAtStake = stake.byteCount
        case .refused(let refusal):
            error = self.refusal(of: operation, refusal, facts, pair)
        }
        let rule = OperationTable.rule(of: operation)
        error.status.copyState = Enumerated(facts.copyState)
        if !rule.acceptedFrom.isEmpty { error.status.acceptedFrom = rule.acceptedFrom.states.map { Enumerated($0) } }
        return error
    }

    private static func refusal(
        of operation: ReplicationOperation,
        _ refusal: OperationRefusal,
        _ facts: PairFacts,
        _ pair: PairWords
    ) -> ControlError {
        let other = suggestion(for: operation, facts)
        let use = other.map { "use \($0.name)" }
        let what = "\(operation.name) of pair '\(pair.name)'"
        var error: ControlError
        switch refusal {
        case .state:
            let from = OperationTable.rule(of: operation).acceptedFrom.states.map(\.name).joined(separator: ", ")
            error = ControlError(
                .notInThisState,
                "\(operation.name) is not accepted in state \(facts.copyState.name) of pair '\(pair.name)'; it is from \(from)",
                suggestion: use
            )
            error.status.suggestedOperation = other.map { Enumerated($0) }
        case .underWay(let current):
            error = ControlError(
                .operationUnderWay,
                "\(what) has to wait: \(current.name) is under way, and has to end first",
                suggestion: "wait for its job, or cancel that"
            )
        case .targetNotUsable:
            error = ControlError(
                .targetNotUsable,
                """
                \(what) is refused, with force as well: the target \(pair.targetPath) is no usable image, up to \
                \(bytes(facts.differingByteCount)) of it are neither what the source is nor what it was
                """,
                suggestion: use ?? "a copy has to come to its end first"
            )
            error.status.suggestedOperation = other.map { Enumerated($0) }
        case .otherPairFlows:
            error = ControlError(
                .otherPairFlows,
                "\(what) is refused: another pair of the volume copies, mirrors or serves, and would copy from the wrong element",
                suggestion: "Suspend or Detach the other pair first"
            )
        case .sourceIsReplica: error = sourceIsReplica(what)
        case .elementBusy, .metadataStuck:
            error = refusal == .metadataStuck ? metadataStuck(what, pair) : unanswered(what)
        case .notSupported where facts.isRemote:
            error = ControlError(
                .notSupported,
                "\(what) is not supported: its target \(pair.targetPath) is another host's",
                suggestion: "'replctl operations --pair \(pair.name)' lists what is"
            )
        case .notSupported(let support):
            error = ControlError(
                .notSupported,
                "\(operation.name) (\(operation.rawValue)) is not supported: \(support.words)",
                suggestion: "'replctl operations' lists what is"
            )
        }
        return error
    }

    private static func sourceIsReplica(_ what: String) -> ControlError {
        ControlError(
            .volumeIsReplica,
            """
            \(what) is refused: its volume is the replica of another pair now, which a peer writes; the pair remembers what \
            changes
            """,
            suggestion: "make the volume a source again first: Failback or ReverseRoles of that pair"
        )
    }

    private static func metadataStuck(_ what: String, _ pair: PairWords) -> ControlError {
        guard let path = pair.metadataElementPath else {
            return ControlError(
                .elementUnavailable,
                "\(what) is refused: the pair's metadata file does not answer, and nothing could be made durable",
                suggestion: "mend the file system of the state directory"
            )
        }
        return ControlError(
            .elementUnavailable,
            "\(what) is refused: the pair's metadata on \(path) does not answer, and nothing could be made durable",
            suggestion: "mend \(path); \(withoutMetadata(pair))"
        )
    }

    /// What is left to do with a target when the pair's metadata is gone with the element that had it.
    private static func withoutMetadata(_ pair: PairWords) -> String {
        "where it is lost, Detach '\(pair.name)' with force, remove the volume, and add \(pair.targetPath) as one"
    }

    /// What an operation depends on that its verdict does not know.
    static func remark(on operation: ReplicationOperation, _ pair: PairWords) -> String? {
        guard operation == .failover, let path = pair.metadataElementPath, path == pair.sourcePath else { return nil }
        return """
            the pair's metadata is on its source \(path): with that dead, the failover cannot be made durable, its job fails, and \
            hosts may only read; a Detach then lets the volume go on with \(pair.targetPath), without the pair
            """
    }

    private static func unanswered(_ what: String) -> ControlError {
        ControlError(
            .elementUnavailable,
            "\(what) is refused: the element that is to serve does not answer, operations on it are still in flight",
            suggestion: "try again when the device has given them back"
        )
    }

    // MARK: - What force gives up

    /// What could be lost, in bytes where they are known.
    struct Stake: Hashable, Sendable {
        var words: String
        var byteCount: UInt64?
    }

    /// What force would give up: how many bytes, on which side.
    static func stake(
        of reason: ForceReason,
        _ operation: ReplicationOperation,
        _ facts: PairFacts,
        _ pair: PairWords
    ) -> Stake {
        switch reason {
        case .targetLeftInconsistent:
            let count = facts.differingByteCount
            return Stake(
                words: """
                    the target \(pair.targetPath) is left as a mixture of old and new data, up to \(bytes(count)) of it \
                    differ from the source
                    """,
                byteCount: count
            )
        case .sourceLeftInconsistent:
            let count = facts.differingByteCount
            let words =
                "the source \(pair.sourcePath) is left half overwritten, up to \(bytes(count)) of it are to come"
            return Stake(words: words, byteCount: count)
        case .targetLacksWrites(let count):
            return Stake(
                words: """
                    the target \(pair.targetPath) lacks up to \(bytes(count)) that hosts were told are written; they stay \
                    on the source \(pair.sourcePath) alone, and are lost when it is overwritten\(takenBack(facts))
                    """,
                byteCount: count
            )
        case .sourceChangesLost(let count):
            return Stake(
                words: """
                    the source \(pair.sourcePath) has up to \(bytes(count)) of changes that the target never had, and they \
                    are overwritten
                    """,
                byteCount: count
            )
        case .sourceInconsistent:
            return Stake(words: halfRestored(pair), byteCount: facts.differingByteCount)
        case .syncLost:
            return Stake(
                words: "the pair is in sync, and all \(bytes(pair.byteCount)) of it would count as out of sync",
                byteCount: pair.byteCount
            )
        case .historiesDiffer(let count):
            let loser = operation == .restoreFromReplica ? "source \(pair.sourcePath)" : "target \(pair.targetPath)"
            return Stake(
                words:
                    "both elements were written since they parted; up to \(bytes(count)) on the \(loser) are overwritten",
                byteCount: count
            )
        case .targetFoundDifferent(let count): return foundDifferent(count, pair)
        case .clientsConnected(let count):
            let subject = count == 1 ? "1 client is" : "\(count) clients are"
            return Stake(
                words: "\(subject) connected, and would be disconnected and find other data afterwards",
                byteCount: nil
            )
        }
    }

    private static func takenBack(_ facts: PairFacts) -> String {
        guard facts.hasUndo else { return "" }
        return "; the copy that was interrupted is taken back first, to the image that the target held before it"
    }

    private static func foundDifferent(_ count: UInt64, _ pair: PairWords) -> Stake {
        Stake(
            words: """
                a verify has found the target \(pair.targetPath) different from the source \(pair.sourcePath) in up to \
                \(bytes(count)), which nobody has repaired
                """,
            byteCount: count
        )
    }

    private static func halfRestored(_ pair: PairWords) -> String {
        """
        the source \(pair.sourcePath) is half restored, a mixture of two points in time, and would overwrite the target \
        \(pair.targetPath), which is whole
        """
    }

    /// What to do instead of force.
    private static func remedy(for reason: ForceReason, _ facts: PairFacts) -> String? {
        switch reason {
        case .targetLeftInconsistent, .targetLacksWrites:
            facts.operation == nil ? nil : "wait until it is Synchronized"
        case .sourceLeftInconsistent: "wait until it has come to its end"
        case .targetFoundDifferent: "use ResyncReplica, which overwrites those ranges with the source"
        case .clientsConnected: "disconnect them"
        case .sourceInconsistent: "use RestoreFromReplica"
        case .sourceChangesLost, .syncLost, .historiesDiffer: nil
        }
    }

    static func bytes(_ count: UInt64) -> String {
        count < 1024 ? "\(count) bytes" : "\(ByteCount.format(count)) (\(count) bytes)"
    }

    // MARK: - What would get there

    /// An operation that is accepted now and brings the pair where the wanted one is accepted, or what it wants.
    ///
    /// One that has the same result comes first: where a copy is wanted, that is the one that starts it. Operations that
    /// give something up are never suggested.
    package static func suggestion(for wanted: ReplicationOperation, _ facts: PairFacts) -> ReplicationOperation? {
        let rule = OperationTable.rule(of: wanted)
        guard rule.support == .mirror else { return nil }
        let ranked = ReplicationOperation.allCases.compactMap {
            other -> (operation: ReplicationOperation, rank: Int)? in
            guard other != wanted, !givesUp.contains(other) else { return nil }
            guard case .accepted(let result?) = OperationTable.verdict(other, facts, isForced: false) else {
                return nil
            }
            return rank(of: result, for: rule, facts).map { (other, $0) }
        }
        return ranked.min { $0.rank < $1.rank }?.operation
    }

    private static var givesUp: Set<ReplicationOperation> { [.abort, .prepare, .unprepare, .detach, .dissolve] }

    /// How well a copy state serves an operation; less is better, `nil` when not at all.
    private static func rank(of state: CopyState, for rule: OperationRule, _ facts: PairFacts) -> Int? {
        if rule.edges.contains(where: { $0.to == state }) { return 0 }
        guard let edge = rule.edge(from: state) else { return nil }
        switch edge.condition {
        case .none, .ifVerifyFoundDifferences:
            return 1
        case .usableTarget, .usableTargetAndForceIfItLacksWrites, .forceIfTargetLacksWrites, .forceIfTargetInconsistent:
            if state == .split { return 2 }
            return facts.isTargetConsistent ? 3 : nil
        case .forceIfVerifyFoundDifferences:
            return 1
        case .forceIfSourceIsAhead:
            return facts.isSourceAhead ? nil : 3
        case .noClients:
            return 3
        case .force, .forceForHistory:
            return nil
        }
    }
}
