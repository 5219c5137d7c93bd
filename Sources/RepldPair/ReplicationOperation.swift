/// The operations of SetReplicationRelationship, with the standard's numbers.
package enum ReplicationOperation: UInt8, Sendable, BitwiseCopyable, CaseIterable {
    case abort = 2
    case activateConsistency = 3
    case activate = 4
    case addSyncPair = 5
    case deactivateConsistency = 6
    case deactivate = 7
    case detach = 8
    case dissolve = 9
    case failover = 10
    case failback = 11
    case fracture = 12
    case removeSyncPair = 13
    case resyncReplica = 14
    case restoreFromReplica = 15
    case resume = 16
    case resetToSync = 17
    case resetToAsync = 18
    case returnToResourcePool = 19
    case reverseRoles = 20
    case split = 21
    case suspend = 22
    case unprepare = 23
    case prepare = 24
    case resetToAdaptive = 25
    case resetToActive = 26
    case resetReplica = 27

    /// The standard's word, without spaces.
    package var name: String {
        switch self {
        case .abort: "Abort"
        case .activateConsistency: "ActivateConsistency"
        case .activate: "Activate"
        case .addSyncPair: "AddSyncPair"
        case .deactivateConsistency: "DeactivateConsistency"
        case .deactivate: "Deactivate"
        case .detach: "Detach"
        case .dissolve: "Dissolve"
        case .failover: "Failover"
        case .failback: "Failback"
        case .fracture: "Fracture"
        case .removeSyncPair: "RemoveSyncPair"
        case .resyncReplica: "ResyncReplica"
        case .restoreFromReplica: "RestoreFromReplica"
        case .resume: "Resume"
        case .resetToSync: "ResetToSync"
        case .resetToAsync: "ResetToAsync"
        case .returnToResourcePool: "ReturnToResourcePool"
        case .reverseRoles: "ReverseRoles"
        case .split: "Split"
        case .suspend: "Suspend"
        case .unprepare: "Unprepare"
        case .prepare: "Prepare"
        case .resetToAdaptive: "ResetToAdaptive"
        case .resetToActive: "ResetToActive"
        case .resetReplica: "ResetReplica"
        }
    }
}

extension ReplicationOperation {
    /// Reads a number or a word: case does not matter, nor do spaces, dashes and underscores between words.
    package init?(text: String) {
        if let number = UInt8(text) {
            self.init(rawValue: number)
            return
        }
        let wanted = Self.folded(text)
        guard let found = Self.allCases.first(where: { Self.folded($0.name) == wanted }) else { return nil }
        self = found
    }

    private static func folded(_ text: String) -> String {
        text.lowercased().filter { $0 != " " && $0 != "-" && $0 != "_" }
    }
}
