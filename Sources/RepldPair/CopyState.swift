/// Where a pair's copy stands: `CIM_StorageSynchronized.CopyState`, with the standard's numbers (DMTF CIM schema 2.29).
package enum CopyState: UInt8, Sendable, BitwiseCopyable, CaseIterable {
    case initialized = 2
    case unsynchronized = 3
    case synchronized = 4
    case broken = 5
    case fractured = 6
    case split = 7
    case inactive = 8
    case suspended = 9
    case failedover = 10
    case prepared = 11
    case aborted = 12
    case skewed = 13
    case mixed = 14
    case partitioned = 16
    case invalid = 17
    case restored = 18

    /// The standard's word.
    package var name: String {
        switch self {
        case .initialized: "Initialized"
        case .unsynchronized: "Unsynchronized"
        case .synchronized: "Synchronized"
        case .broken: "Broken"
        case .fractured: "Fractured"
        case .split: "Split"
        case .inactive: "Inactive"
        case .suspended: "Suspended"
        case .failedover: "Failedover"
        case .prepared: "Prepared"
        case .aborted: "Aborted"
        case .skewed: "Skewed"
        case .mixed: "Mixed"
        case .partitioned: "Partitioned"
        case .invalid: "Invalid"
        case .restored: "Restored"
        }
    }
}

/// What is under way on a pair: `CIM_StorageSynchronized.ProgressStatus`, with the standard's numbers.
package enum ProgressStatus: UInt8, Sendable, BitwiseCopyable, CaseIterable {
    case completed = 2
    case dormant = 3
    case initializing = 4
    case preparing = 5
    case synchronizing = 6
    case resyncing = 7
    case restoring = 8
    case fracturing = 9
    case splitting = 10
    case failingOver = 11
    case failingBack = 12
    case aborting = 13
    case mixed = 14
    case notApplicable = 15
    case suspending = 16
    case requiresFracture = 17
    case requiresResync = 18
    case requiresActivate = 19
    case pending = 20
    case detaching = 21
    case requiresDetach = 22
    case terminating = 23
    case requiresSplit = 24
    case requiresResume = 25

    /// The standard's words.
    package var name: String {
        switch self {
        case .completed: "Completed"
        case .dormant: "Dormant"
        case .initializing: "Initializing"
        case .preparing: "Preparing"
        case .synchronizing: "Synchronizing"
        case .resyncing: "Resyncing"
        case .restoring: "Restoring"
        case .fracturing: "Fracturing"
        case .splitting: "Splitting"
        case .failingOver: "Failing over"
        case .failingBack: "Failing back"
        case .aborting: "Aborting"
        case .mixed: "Mixed"
        case .notApplicable: "Not Applicable"
        case .suspending: "Suspending"
        case .requiresFracture: "Requires fracture"
        case .requiresResync: "Requires resync"
        case .requiresActivate: "Requires activate"
        case .pending: "Pending"
        case .detaching: "Detaching"
        case .requiresDetach: "Requires detach"
        case .terminating: "Terminating"
        case .requiresSplit: "Requires split"
        case .requiresResume: "Requires resume"
        }
    }
}
