import RepldPair
import Testing

/// The operations table, written down a second time by hand and compared in every state, with and without force.
@Suite struct OperationTableTests {
    /// One operation as the decision document has it.
    struct Row: Sendable {
        var number: UInt8
        var name: String
        var progress: ProgressStatus = .notApplicable
        var isJob = false
        var holds: Set<CopyState> = []
        /// From which state to which; `nil` for "keeps its state, or is gone".
        var edges: [CopyState: CopyState?] = [:]
        var support = OperationSupport.mirror
    }

    private static func from(_ states: Set<CopyState>, _ to: CopyState?) -> [CopyState: CopyState?] {
        Dictionary(uniqueKeysWithValues: states.map { ($0, to) })
    }

    static let states = CopyState.allCases.filter { $0 != .mixed }
    private static let everywhere = from(Set(states), nil)
    private static let prepareEdges = from(
        [.initialized, .inactive, .aborted, .broken, .suspended, .fractured, .split, .synchronized],
        .prepared
    )
    private static let copying: Set<CopyState> = [.unsynchronized, .synchronized]

    static let rows: [Row] = [
        Row(
            number: 2,
            name: "Abort",
            progress: .aborting,
            holds: [.aborted],
            edges: from([.unsynchronized, .skewed, .prepared, .initialized], .aborted)
        ),
        Row(number: 3, name: "ActivateConsistency", support: .groupsOnly),
        Row(
            number: 4,
            name: "Activate",
            progress: .synchronizing,
            isJob: true,
            holds: copying,
            edges: from([.initialized, .prepared, .inactive], .synchronized)
        ),
        Row(number: 5, name: "AddSyncPair", support: .groupsOnly),
        Row(number: 6, name: "DeactivateConsistency", support: .groupsOnly),
        Row(
            number: 7,
            name: "Deactivate",
            holds: [.inactive],
            edges: from(
                [.unsynchronized, .synchronized, .skewed, .prepared, .suspended, .partitioned, .broken],
                .inactive
            )
        ),
        Row(number: 8, name: "Detach", progress: .detaching, edges: everywhere),
        Row(
            number: 9,
            name: "Dissolve",
            progress: .terminating,
            edges: from([.synchronized, .fractured, .split, .inactive, .suspended, .restored], nil)
        ),
        Row(
            number: 10,
            name: "Failover",
            progress: .failingOver,
            isJob: true,
            holds: [.failedover],
            edges: from(
                [
                    .unsynchronized, .synchronized, .split, .partitioned, .broken, .suspended, .inactive, .skewed,
                    .fractured,
                ],
                .failedover
            )
        ),
        Row(
            number: 11,
            name: "Failback",
            progress: .failingBack,
            isJob: true,
            holds: [.synchronized],
            edges: from([.failedover], .synchronized)
        ),
        Row(
            number: 12,
            name: "Fracture",
            progress: .fracturing,
            holds: [.fractured],
            edges: from([.unsynchronized, .synchronized, .suspended, .skewed], .fractured)
        ),
        Row(number: 13, name: "RemoveSyncPair", support: .groupsOnly),
        Row(
            number: 14,
            name: "ResyncReplica",
            progress: .resyncing,
            isJob: true,
            holds: copying,
            edges: from(
                [.fractured, .split, .broken, .aborted, .skewed, .restored, .partitioned, .invalid, .synchronized],
                .synchronized
            )
        ),
        Row(
            number: 15,
            name: "RestoreFromReplica",
            progress: .restoring,
            isJob: true,
            holds: [.restored],
            edges: from([.fractured, .split, .suspended, .inactive, .invalid, .aborted], .restored)
        ),
        Row(
            number: 16,
            name: "Resume",
            progress: .resyncing,
            isJob: true,
            holds: copying,
            edges: from([.suspended, .restored], .synchronized)
        ),
        Row(number: 17, name: "ResetToSync", edges: everywhere),
        Row(number: 18, name: "ResetToAsync", edges: everywhere),
        Row(number: 19, name: "ReturnToResourcePool", support: .snapshotsOnly),
        Row(
            number: 20,
            name: "ReverseRoles",
            progress: .synchronizing,
            isJob: true,
            edges: from([.suspended, .failedover], .suspended).merging(from([.synchronized, .split], nil)) { $1 }
        ),
        Row(
            number: 21,
            name: "Split",
            progress: .splitting,
            isJob: true,
            holds: [.split],
            edges: from([.synchronized, .unsynchronized, .skewed], .split)
        ),
        Row(
            number: 22,
            name: "Suspend",
            progress: .suspending,
            holds: [.suspended],
            edges: from([.unsynchronized, .synchronized, .skewed, .partitioned], .suspended)
        ),
        Row(number: 23, name: "Unprepare", progress: .preparing, holds: [.prepared], edges: prepareEdges),
        Row(number: 24, name: "Prepare", progress: .preparing, holds: [.prepared], edges: prepareEdges),
        Row(number: 25, name: "ResetToAdaptive", support: .notYet),
        Row(number: 26, name: "ResetToActive", support: .notYet),
        Row(number: 27, name: "ResetReplica", support: .snapshotsOnly),
    ]

    @Test func numbersAndNamesAreTheStandards() {
        #expect(ReplicationOperation.allCases.map(\.rawValue) == Array(2...27))
        #expect(Self.rows.map(\.number) == Array(2...27))
        for row in Self.rows {
            let operation = ReplicationOperation(rawValue: row.number)
            #expect(operation?.name == row.name)
            #expect(ReplicationOperation(text: row.name) == operation)
            #expect(ReplicationOperation(text: "\(row.number)") == operation)
        }
        for number in ["0", "1", "28", "255", "256", "-2"] { #expect(ReplicationOperation(text: number) == nil) }
        let stateNumbers: [UInt8] = [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18]
        #expect(CopyState.allCases.map(\.rawValue) == stateNumbers)
        #expect(ProgressStatus.allCases.map(\.rawValue) == Array(2...25))
    }

    @Test(arguments: rows)
    func fixedPartIsAsWritten(row: Row) throws {
        let rule = OperationTable.rule(of: try #require(ReplicationOperation(rawValue: row.number)))
        #expect(rule.operation.rawValue == row.number)
        #expect(rule.support == row.support)
        #expect(rule.progress == row.progress)
        #expect(rule.startsJob == row.isJob)
        #expect(Set(rule.holdsIn.states) == row.holds)
        #expect(Set(rule.acceptedFrom.states) == Set(row.edges.keys))
        #expect(rule.changesPath == (row.number == 20))
        #expect(!rule.summary.isEmpty)
        for state in Self.states where row.edges.keys.contains(state) {
            let isListed = OperationTable.operations(in: state).contains { $0.operation == rule.operation }
            #expect(isListed)
        }
    }

    // MARK: - Verdicts

    /// What a refusal or the need of force says, without its figures.
    enum Answer: Hashable { case accepted(CopyState?), holds, needsForce, refused }

    private static func answer(_ verdict: OperationVerdict) -> Answer {
        switch verdict {
        case .accepted(let state): .accepted(state)
        case .holds: .holds
        case .needsForce: .needsForce
        case .refused: .refused
        }
    }

    /// What the decision document says, with the conditions in the words of the document.
    private static func expected(_ row: Row, _ facts: PairFacts, isForced: Bool) -> Answer {
        guard row.support == .mirror else { return .refused }
        let isReset = row.number == 17 || row.number == 18
        if let current = facts.operation, !isReset {
            let isFlowingBack = current == .restoreFromReplica || current == .failback
            if row.number == current.rawValue, isFlowingBack { return .holds }
            if isFlowingBack {
                let isAbort = row.number == 2 && current == .restoreFromReplica
                guard isAbort || row.number == 8 else { return .refused }
                return isForced ? .accepted(isAbort ? .aborted : nil) : .needsForce
            }
            let isWaitingSplit = current == .split && facts.copyState == .unsynchronized
            if isWaitingSplit, row.number == 21 { return .holds }
            let givesWay = [.activate, .resyncReplica, .resume].contains(current) || isWaitingSplit
            if !givesWay { return .refused }
        }
        let isRepair = row.number == 14 && facts.copyState == .synchronized && facts.verifyMarkedByteCount > 0
        if row.holds.contains(facts.copyState), !isRepair { return .holds }
        guard let to = row.edges[facts.copyState] else { return .refused }
        let moves = [10, 11, 15].contains(row.number) || (row.number == 20 && facts.copyState != .failedover)
        if moves, facts.doesOtherPairFlow { return .refused }
        // A half restored source overwrites a whole target only by force.
        if facts.isSourceInconsistent, [4, 14, 16, 23, 24].contains(row.number), !isForced { return .needsForce }
        switch condition(row.number, facts) {
        case .never: return .refused
        case .force: return isForced ? .accepted(to) : .needsForce
        case .free: return .accepted(to)
        }
    }

    private enum Condition { case free, force, never }

    private static func condition(_ number: UInt8, _ facts: PairFacts) -> Condition {
        let lacksWrites: Condition = facts.changedByteCount == 0 ? .free : .force
        // A target that a verify has found different is given to nobody without force.
        let isMarked = facts.copyState == .synchronized && facts.verifyMarkedByteCount > 0
        if isMarked, [8, 9, 10, 20, 21].contains(number) { return .force }
        switch (number, facts.copyState) {
        case (8, .initialized), (8, .prepared): return .free
        case (8, .unsynchronized), (8, .aborted): return .force
        case (8, _): return facts.isTargetConsistent ? .free : .force
        case (10, .synchronized): return .free
        case (10, _), (20, .suspended): return facts.isTargetConsistent ? lacksWrites : .never
        case (11, _), (20, .failedover): return facts.isSourceAhead ? .force : .free
        case (14, .invalid), (15, .invalid): return .force
        case (15, _): return facts.isTargetConsistent ? .free : .never
        case (20, .split): return facts.volumeClientCount + facts.targetClientCount == 0 ? .free : .force
        case (23, .synchronized), (24, .synchronized): return .force
        default: return .free
        }
    }

    /// Every combination of what a verdict depends on, in one state.
    private static func situations(_ state: CopyState) -> [PairFacts] {
        let underWay: [ReplicationOperation?] = [
            nil, .activate, .resyncReplica, .resume, .split, .failover, .failback, .restoreFromReplica, .reverseRoles,
        ]
        return underWay.flatMap { operation in
            (0..<(state == .synchronized ? 256 : 128)).map { bits in
                var facts = PairFacts(copyState: state, operation: operation)
                facts.isTargetConsistent = bits & 1 != 0
                facts.isSourceAhead = bits & 2 != 0
                facts.changedByteCount = bits & 4 != 0 ? 4096 : 0
                facts.volumeClientCount = bits & 8 != 0 ? 1 : 0
                facts.targetClientCount = bits & 16 != 0 ? 2 : 0
                facts.doesOtherPairFlow = bits & 32 != 0
                facts.isSourceInconsistent = bits & 64 != 0
                facts.verifyMarkedByteCount = bits & 128 != 0 ? 4096 : 0
                return facts
            }
        }
    }

    @Test(arguments: rows)
    func verdictIsAsWrittenInEveryStateWithAndWithoutForce(row: Row) throws {
        let operation = try #require(ReplicationOperation(rawValue: row.number))
        for state in Self.states {
            for facts in Self.situations(state) {
                for isForced in [false, true] {
                    let verdict = OperationTable.verdict(operation, facts, isForced: isForced)
                    let wanted = Self.expected(row, facts, isForced: isForced)
                    guard Self.answer(verdict) != wanted else { continue }
                    Issue.record("\(row.name) in \(facts), force \(isForced): \(verdict), and not \(wanted)")
                }
            }
        }
    }

    @Test func refusalsSayWhatIsAtStake() {
        var facts = PairFacts(copyState: .suspended, isTargetConsistent: true, changedByteCount: 8192)
        #expect(
            OperationTable.verdict(.failover, facts, isForced: false)
                == .needsForce(.targetLacksWrites(byteCount: 8192))
        )
        facts.isTargetConsistent = false
        #expect(OperationTable.verdict(.failover, facts, isForced: true) == .refused(.targetNotUsable))
        #expect(OperationTable.verdict(.activate, facts, isForced: true) == .refused(.state))
        facts.operation = .failover
        #expect(OperationTable.verdict(.suspend, facts, isForced: true) == .refused(.underWay(.failover)))
        facts = PairFacts(copyState: .failedover, isSourceAhead: true, changedByteCount: 4096)
        #expect(
            OperationTable.verdict(.failback, facts, isForced: false)
                == .needsForce(.sourceChangesLost(byteCount: 4096))
        )
        facts = PairFacts(copyState: .split, volumeClientCount: 1, targetClientCount: 2)
        #expect(
            OperationTable.verdict(.reverseRoles, facts, isForced: false) == .needsForce(.clientsConnected(count: 3))
        )
        facts = PairFacts(copyState: .synchronized, isTargetConsistent: true, verifyMarkedByteCount: 65536)
        for operation in [ReplicationOperation.failover, .reverseRoles, .split, .detach, .dissolve] {
            let verdict = OperationTable.verdict(operation, facts, isForced: false)
            #expect(verdict == .needsForce(.targetFoundDifferent(byteCount: 65536)))
        }
        facts = PairFacts(copyState: .invalid, differingByteCount: 12288)
        #expect(
            OperationTable.verdict(.resyncReplica, facts, isForced: false)
                == .needsForce(.historiesDiffer(byteCount: 12288))
        )
    }
}
