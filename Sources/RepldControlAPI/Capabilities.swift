package import RepldPair

/// One operation as `GET /v1/capabilities` shows it: a row of the operations table.
package struct OperationReply: Codable, Hashable, Sendable {
    package var operation: Enumerated
    /// One line for people.
    package var summary: String
    package var isSupported: Bool
    /// Why a pair cannot have it; absent when it can.
    package var reason: String?
    package var edges: [OperationEdgeReply]
    /// States in which the result already holds: the operation answers 0 and does nothing.
    package var holdsIn: [Enumerated]
    /// ProgressStatus while it runs.
    package var progressStatus: Enumerated
    /// It answers 4096 with a job.
    package var startsJob: Bool
    /// Source and target are other elements afterwards.
    package var updatesSynchronizedPath: Bool

    package init(_ rule: OperationRule) {
        operation = Enumerated(rule.operation)
        summary = rule.summary
        isSupported = rule.support == .mirror
        reason = isSupported ? nil : rule.support.words
        edges = rule.edges.map { OperationEdgeReply($0) }
        holdsIn = rule.holdsIn.states.map { Enumerated($0) }
        progressStatus = Enumerated(rule.progress)
        startsJob = rule.startsJob
        updatesSynchronizedPath = rule.changesPath
    }
}

/// Where an operation is accepted, and where it leads.
package struct OperationEdgeReply: Codable, Hashable, Sendable {
    package var from: [Enumerated]
    /// Absent where the pair keeps its copy state, or is gone.
    package var to: Enumerated?
    /// What has to be true besides the state; absent when nothing has.
    package var condition: String?
    /// Force is always needed.
    package var requiresForce: Bool

    package init(_ edge: OperationEdge) {
        from = edge.from.states.map { Enumerated($0) }
        to = edge.to.map { Enumerated($0) }
        condition = edge.condition.words
        requiresForce = edge.condition.isForceAlways
    }
}

extension OperationCondition {
    /// Words for people; `nil` where there is no condition.
    package var words: String? {
        switch self {
        case .none: nil
        case .force: "needs force: everything starts over"
        case .forceForHistory: "needs force: one of two written histories is overwritten"
        case .forceIfTargetInconsistent: "needs force where the target is left as no usable image"
        case .usableTargetAndForceIfItLacksWrites:
            "the target has to be a usable image; needs force where it lacks acknowledged writes"
        case .usableTarget: "the target has to be a usable image"
        case .forceIfSourceIsAhead: "needs force where the source has changes that the target never had"
        case .forceIfTargetLacksWrites:
            "the target has to be a usable image; needs force where it lacks acknowledged writes"
        case .ifVerifyFoundDifferences: "repairs what a verify has found; where there is nothing, the result holds"
        case .forceIfVerifyFoundDifferences: "needs force where a verify has found the target different"
        case .noClients: "needs force where clients are connected"
        }
    }

    /// Whether force is needed whatever else is true.
    package var isForceAlways: Bool { self == .force || self == .forceForHistory }
}

/// The whole operations table: `GET /v1/capabilities`.
package struct CapabilitiesReply: Codable, Hashable, Sendable {
    package var operations: [OperationReply]
    package var copyStates: [Enumerated]
    package var modes: [Enumerated]
    package var syncTypes: [Enumerated]

    package init() {
        operations = OperationTable.rules.map { OperationReply($0) }
        copyStates = CopyStateSet.all.states.map { Enumerated($0) }
        modes = ReplicationMode.allCases.map { Enumerated($0) }
        syncTypes = [.mirrorSyncType]
    }
}

/// What GetSupportedOperations answers for a copy state.
package struct SupportedOperationsReply: Codable, Hashable, Sendable {
    package struct Item: Codable, Hashable, Sendable {
        package var operation: Enumerated
        package var summary: String
        package var to: Enumerated?
        package var condition: String?
        package var requiresForce: Bool
        package var updatesSynchronizedPath: Bool
    }

    package var copyState: Enumerated
    package var operations: [Item]

    package init(_ state: CopyState) {
        copyState = Enumerated(state)
        operations = OperationTable.operations(in: state).map { rule in
            let edge = rule.edge(from: state)
            return Item(
                operation: Enumerated(rule.operation),
                summary: rule.summary,
                to: edge?.to.map { Enumerated($0) },
                condition: edge?.condition.words,
                requiresForce: edge?.condition.isForceAlways ?? false,
                updatesSynchronizedPath: rule.changesPath
            )
        }
    }
}

/// What GetSupportedCopyStates answers for an operation.
package struct SupportedCopyStatesReply: Codable, Hashable, Sendable {
    package struct Item: Codable, Hashable, Sendable {
        package var copyState: Enumerated
        /// Hosts may use the target in this state.
        package var hostAccessible: Bool
        package var to: Enumerated?
        package var condition: String?
        package var requiresForce: Bool
    }

    package var operation: OperationReply
    package var copyStates: [Item]

    package init(_ operation: ReplicationOperation) {
        let rule = OperationTable.rule(of: operation)
        self.operation = OperationReply(rule)
        copyStates = rule.acceptedFrom.states.map { state in
            let edge = rule.edge(from: state)
            return Item(
                copyState: Enumerated(state),
                hostAccessible: state.isTargetHostAccessible,
                to: edge?.to.map { Enumerated($0) },
                condition: edge?.condition.words,
                requiresForce: edge?.condition.isForceAlways ?? false
            )
        }
    }
}

extension CopyState {
    /// Hosts may use the target in this state.
    package var isTargetHostAccessible: Bool { self == .fractured || self == .split || self == .failedover }
}

/// What one pair accepts now: what GetSupportedOperationsForSynchronization answers, and why the rest is refused.
package struct PairOperationsReply: Codable, Hashable, Sendable {
    package struct Item: Codable, Hashable, Sendable {
        package var operation: Enumerated
        package var summary: String
        package var verdict: PlanVerdict
        package var to: Enumerated?
        /// What force would give up, or why it is refused.
        package var reason: String?

        package init(
            operation: Enumerated,
            summary: String,
            verdict: PlanVerdict,
            to: Enumerated?,
            reason: String?
        ) {
            self.operation = operation
            self.summary = summary
            self.verdict = verdict
            self.to = to
            self.reason = reason
        }
    }

    package var pair: String
    package var copyState: Enumerated
    package var operations: [Item]

    package init(pair: String, copyState: Enumerated, operations: [Item]) {
        self.pair = pair
        self.copyState = copyState
        self.operations = operations
    }
}
