/// One row of the operations table: where an operation is accepted, and where it leads.
package struct OperationEdge: Hashable, Sendable {
    package var from: CopyStateSet
    /// The copy state that the pair has in the end; `nil` where it keeps the one it has, or is gone.
    package var to: CopyState?
    /// What has to be true besides the state.
    package var condition: OperationCondition

    init(from: CopyStateSet, to: CopyState?, _ condition: OperationCondition = .none) {
        self.from = from
        self.to = to
        self.condition = condition
    }
}

/// What an edge asks for besides the copy state: either it is refused for good, or accepted only with force.
package enum OperationCondition: UInt8, Hashable, Sendable, CaseIterable {
    case none
    /// Force, always: the edge starts everything over.
    case force
    /// Force, always: the two histories cannot be reconciled, and one of them is overwritten.
    case forceForHistory
    /// Force where the target is left as no usable image.
    case forceIfTargetInconsistent
    /// The target has to be a usable image (force does not help); force where it lacks acknowledged writes.
    case usableTargetAndForceIfItLacksWrites
    /// The target has to be a usable image; force does not help.
    case usableTarget
    /// Force where the other element has changes that are lost.
    case forceIfSourceIsAhead
    /// Force where the element that becomes the source lacks acknowledged writes.
    case forceIfTargetLacksWrites
    /// Only where a verify has found differences; elsewhere the result holds.
    case ifVerifyFoundDifferences
    /// Force where a verify has found the target different from the source.
    case forceIfVerifyFoundDifferences
    /// No client may hold either export, because what it reads would change under it.
    case noClients
}

/// Why an operation is not available to a mirror at all.
package enum OperationSupport: UInt8, Hashable, Sendable, BitwiseCopyable {
    case mirror, groupsOnly, snapshotsOnly, notYet

    /// Words for a refusal.
    package var words: String {
        switch self {
        case .mirror: "it is supported"
        case .groupsOnly: "it is an operation of groups, and this is a single pair"
        case .snapshotsOnly: "it is an operation of snapshots, and this is a mirror"
        case .notYet: "this version does not have it"
        }
    }
}

/// Everything that is fixed about one operation of SetReplicationRelationship.
package struct OperationRule: Hashable, Sendable {
    package var operation: ReplicationOperation
    package var support: OperationSupport
    package var edges: [OperationEdge]
    /// States in which the result already holds: the operation answers 0 and does nothing, which makes retries safe.
    package var holdsIn: CopyStateSet
    /// ProgressStatus while the operation runs.
    package var progress: ProgressStatus
    /// It copies data or waits: it answers 4096 with a job.
    package var startsJob: Bool
    /// The pair's path changes: source and target are other elements afterwards.
    package var changesPath: Bool
    /// One line for help and documentation.
    package var summary: String

    init(
        _ operation: ReplicationOperation,
        _ summary: String,
        _ edges: [OperationEdge] = [],
        holdsIn: CopyStateSet = [],
        progress: ProgressStatus = .notApplicable,
        startsJob: Bool = false,
        changesPath: Bool = false,
        support: OperationSupport = .mirror
    ) {
        self.operation = operation
        self.summary = summary
        self.edges = edges
        self.holdsIn = holdsIn
        self.progress = progress
        self.startsJob = startsJob
        self.changesPath = changesPath
        self.support = support
    }

    /// The states in which the operation is accepted, with or without force.
    package var acceptedFrom: CopyStateSet { edges.reduce(.none) { $0.union($1.from) } }

    /// The edge that leads away from a state.
    package func edge(from state: CopyState) -> OperationEdge? { edges.first { $0.from.contains(state) } }
}

/// The operations of a mirror: the one table that the machine, the service, its answers about capabilities, the help and the
/// documentation are made from.
///
/// Words and numbers are the standard's (DMTF CIM schema, `CIM_ReplicationService.ModifyReplicaSynchronization`); which
/// edges exist is for each implementation to publish, and this is what repld publishes.
package enum OperationTable {
    /// Every operation of the standard, in the order of the numbers.
    package static let rules: [OperationRule] = [
        OperationRule(
            .abort,
            "give the copy up; only ResyncReplica starts it again",
            [OperationEdge(from: [.unsynchronized, .skewed, .prepared, .initialized], to: .aborted)],
            holdsIn: [.aborted],
            progress: .aborting
        ),
        OperationRule(.activateConsistency, "one write order over a group's members", support: .groupsOnly),
        OperationRule(
            .activate,
            "start the first copy, and mirror what is written",
            [OperationEdge(from: [.initialized, .prepared, .inactive], to: .synchronized)],
            holdsIn: [.unsynchronized, .synchronized],
            progress: .synchronizing,
            startsJob: true
        ),
        OperationRule(.addSyncPair, "add a pair to a group", support: .groupsOnly),
        OperationRule(.deactivateConsistency, "end the one write order of a group", support: .groupsOnly),
        OperationRule(
            .deactivate,
            "stop mirroring; changes are remembered",
            [
                OperationEdge(
                    from: [.unsynchronized, .synchronized, .skewed, .prepared, .suspended, .partitioned, .broken],
                    to: .inactive
                )
            ],
            holdsIn: [.inactive]
        ),
        OperationRule(
            .detach,
            "end the association; both elements stay as they are",
            [OperationEdge(from: .all, to: nil, .forceIfTargetInconsistent)],
            progress: .detaching
        ),
        OperationRule(
            .dissolve,
            "end the association, and keep a record of the point in time",
            [
                OperationEdge(from: [.synchronized], to: nil, .forceIfVerifyFoundDifferences),
                OperationEdge(from: [.fractured, .split, .inactive, .suspended, .restored], to: nil),
            ],
            progress: .terminating
        ),
        OperationRule(
            .failover,
            "let the target serve the hosts",
            [
                OperationEdge(from: [.synchronized], to: .failedover, .forceIfVerifyFoundDifferences),
                // Unsynchronized after an error of the source, or a crash: the target may have all that was acknowledged.
                OperationEdge(
                    from: [
                        .unsynchronized, .partitioned, .broken, .suspended, .inactive, .skewed, .fractured, .split,
                    ],
                    to: .failedover,
                    .usableTargetAndForceIfItLacksWrites
                ),
            ],
            holdsIn: [.failedover],
            progress: .failingOver,
            startsJob: true
        ),
        OperationRule(
            .failback,
            "copy back what changed on the target, and let the source serve the hosts again",
            [OperationEdge(from: [.failedover], to: .synchronized, .forceIfSourceIsAhead)],
            holdsIn: [.synchronized],
            progress: .failingBack,
            startsJob: true
        ),
        OperationRule(
            .fracture,
            "stop mirroring at once, and let hosts use both elements",
            [OperationEdge(from: [.unsynchronized, .synchronized, .suspended, .skewed], to: .fractured)],
            holdsIn: [.fractured],
            progress: .fracturing
        ),
        OperationRule(.removeSyncPair, "take a pair out of a group", support: .groupsOnly),
        OperationRule(
            .resyncReplica,
            "overwrite the target with the source, wherever the two may differ",
            [
                OperationEdge(
                    from: [.fractured, .split, .broken, .aborted, .skewed, .restored, .partitioned],
                    to: .synchronized
                ),
                OperationEdge(from: [.synchronized], to: .synchronized, .ifVerifyFoundDifferences),
                OperationEdge(from: [.invalid], to: .synchronized, .forceForHistory),
            ],
            holdsIn: [.unsynchronized, .synchronized],
            progress: .resyncing,
            startsJob: true
        ),
        OperationRule(
            .restoreFromReplica,
            "overwrite the source with the target, wherever the two may differ",
            [
                // Aborted: a restore was given up in the middle; any other aborted copy has left no usable target.
                OperationEdge(
                    from: [.fractured, .split, .suspended, .inactive, .aborted],
                    to: .restored,
                    .usableTarget
                ),
                OperationEdge(from: [.invalid], to: .restored, .forceForHistory),
            ],
            holdsIn: [.restored],
            progress: .restoring,
            startsJob: true
        ),
        OperationRule(
            .resume,
            "mirror again, and copy what was written meanwhile",
            [OperationEdge(from: [.suspended, .restored], to: .synchronized)],
            holdsIn: [.unsynchronized, .synchronized],
            progress: .resyncing,
            startsJob: true
        ),
        OperationRule(
            .resetToSync,
            "acknowledge a write when both elements have it",
            [OperationEdge(from: .all, to: nil)]
        ),
        OperationRule(
            .resetToAsync,
            "acknowledge a write when the source has it",
            [OperationEdge(from: .all, to: nil)]
        ),
        OperationRule(.returnToResourcePool, "delete a snapshot", support: .snapshotsOnly),
        OperationRule(
            .reverseRoles,
            "make the target the source, and the source the target",
            [
                OperationEdge(from: [.synchronized], to: nil, .forceIfVerifyFoundDifferences),
                OperationEdge(from: [.split], to: nil, .noClients),
                OperationEdge(from: [.suspended], to: .suspended, .forceIfTargetLacksWrites),
                OperationEdge(from: [.failedover], to: .suspended, .forceIfSourceIsAhead),
            ],
            progress: .synchronizing,
            startsJob: true,
            changesPath: true
        ),
        OperationRule(
            .split,
            "stop mirroring at a write boundary; the target is a consistent point in time that hosts can use",
            [
                OperationEdge(from: [.synchronized], to: .split, .forceIfVerifyFoundDifferences),
                OperationEdge(from: [.unsynchronized, .skewed], to: .split),
            ],
            holdsIn: [.split],
            progress: .splitting,
            startsJob: true
        ),
        OperationRule(
            .suspend,
            "stop mirroring; host I/O goes on, and changes are remembered",
            [OperationEdge(from: [.unsynchronized, .synchronized, .skewed, .partitioned], to: .suspended)],
            holdsIn: [.suspended],
            progress: .suspending
        ),
        prepare(.unprepare, "the same as Prepare, under its older name"),
        prepare(.prepare, "check both elements, and start over: everything counts as out of sync"),
        OperationRule(.resetToAdaptive, "choose the mode by the link", support: .notYet),
        OperationRule(.resetToActive, "make both ends writable", support: .notYet),
        OperationRule(.resetReplica, "make a snapshot anew", support: .snapshotsOnly),
    ]

    private static func prepare(_ operation: ReplicationOperation, _ summary: String) -> OperationRule {
        OperationRule(
            operation,
            summary,
            [
                OperationEdge(
                    from: [.initialized, .inactive, .aborted, .broken, .suspended, .fractured, .split],
                    to: .prepared
                ),
                OperationEdge(from: [.synchronized], to: .prepared, .force),
            ],
            holdsIn: [.prepared],
            progress: .preparing
        )
    }

    package static func rule(of operation: ReplicationOperation) -> OperationRule {
        rules[Int(operation.rawValue) - Int(ReplicationOperation.abort.rawValue)]
    }

    /// The operations that a mirror accepts in a copy state: what GetSupportedOperations answers.
    package static func operations(in state: CopyState) -> [OperationRule] {
        rules.filter { $0.acceptedFrom.contains(state) }
    }
}
