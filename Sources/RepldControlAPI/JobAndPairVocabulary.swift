package import RepldPair

/// How a job is doing: `CIM_ConcreteJob.JobState`, with the standard's numbers.
package enum JobState: Int, Codable, Sendable, CaseIterable {
    case new = 2
    case starting = 3
    case running = 4
    case suspended = 5
    case shuttingDown = 6
    case completed = 7
    case terminated = 8
    case killed = 9
    case exception = 10
    case service = 11

    /// The standard's words.
    package var name: String {
        switch self {
        case .new: "New"
        case .starting: "Starting"
        case .running: "Running"
        case .suspended: "Suspended"
        case .shuttingDown: "Shutting Down"
        case .completed: "Completed"
        case .terminated: "Terminated"
        case .killed: "Killed"
        case .exception: "Exception"
        case .service: "Service"
        }
    }

    /// Whether the job is over.
    package var isEnd: Bool {
        switch self {
        case .completed, .terminated, .killed, .exception: true
        case .new, .starting, .running, .suspended, .shuttingDown, .service: false
        }
    }
}

/// What a job does: an operation of the standard, or a verify, which the standard does not have.
package enum JobKind: Hashable, Sendable {
    case operation(ReplicationOperation)
    case verify

    package init?(number: Int) {
        if number == Enumerated.verify.number {
            self = .verify
        } else if let operation = UInt8(exactly: number).flatMap({ ReplicationOperation(rawValue: $0) }) {
            self = .operation(operation)
        } else {
            return nil
        }
    }

    package var enumerated: Enumerated {
        switch self {
        case .operation(let operation): Enumerated(operation)
        case .verify: .verify
        }
    }

    package var operation: ReplicationOperation? {
        if case .operation(let operation) = self { operation } else { nil }
    }
}

/// When hosts are told that a write is done: `CIM_Synchronized.Mode`, with the standard's numbers.
package enum ReplicationMode: Int, Codable, Sendable, CaseIterable {
    case synchronous = 2
    case asynchronous = 3

    /// The standard's word.
    package var name: String {
        switch self {
        case .synchronous: "Synchronous"
        case .asynchronous: "Asynchronous"
        }
    }

    /// The mode of whoever asks: number or word, case does not matter; `sync` and `async` will do.
    package init?(text: String) {
        if let number = Int(text) {
            self.init(rawValue: number)
            return
        }
        switch text.lowercased() {
        case "sync", "synchronous": self = .synchronous
        case "async", "asynchronous": self = .asynchronous
        default: return nil
        }
    }
}

/// What becomes of a pair whose link was lost and is back: `CIM_StorageSynchronized.CopyRecoveryMode`, with the standard's numbers.
package enum CopyRecoveryMode: Int, Sendable, CaseIterable {
    /// It mirrors again by itself.
    case automatic = 2
    /// It is Suspended until somebody resumes it.
    case manual = 3

    /// The standard's word.
    package var name: String {
        switch self {
        case .automatic: "Automatic"
        case .manual: "Manual"
        }
    }

    /// The recovery mode of whoever asks: number or word, case does not matter.
    package init?(text: String) {
        let found = Self.allCases.first { String($0.rawValue) == text || $0.name.lowercased() == text.lowercased() }
        guard let found else { return nil }
        self = found
    }
}

/// What pairs showed before there was CopyState: `CIM_StorageSynchronized.SyncState`, with the standard's numbers.
package enum SyncState: Int, Sendable, CaseIterable {
    case unknown = 0
    case initialized = 2
    case prepareInProgress = 3
    case prepared = 4
    case resyncInProgress = 5
    case synchronized = 6
    case fractureInProgress = 7
    case quiesceInProgress = 8
    case quiesced = 9
    case restoreInProgress = 10
    case idle = 11
    case broken = 12
    case fractured = 13
    case frozen = 14
    case copyInProgress = 15

    /// The standard's word.
    package var name: String {
        switch self {
        case .unknown: "Unknown"
        case .initialized: "Initialized"
        case .prepareInProgress: "PrepareInProgress"
        case .prepared: "Prepared"
        case .resyncInProgress: "ResyncInProgress"
        case .synchronized: "Synchronized"
        case .fractureInProgress: "Fracture In Progress"
        case .quiesceInProgress: "QuiesceInProgress"
        case .quiesced: "Quiesced"
        case .restoreInProgress: "Restore In Progress"
        case .idle: "Idle"
        case .broken: "Broken"
        case .fractured: "Fractured"
        case .frozen: "Frozen"
        case .copyInProgress: "Copy In Progress"
        }
    }

    /// The older word for a copy state and what is under way.
    ///
    /// The standard gives no table. What is under way is said first, as its definitions do ("the resync operation is in
    /// progress"). Failedover is Broken and Inactive is Frozen, because clients that read only SyncState take them so: the
    /// published tables of array providers show a failed-over pair as Broken (12) and a stopped one as Frozen (14). Split is
    /// Fractured, which is all that SyncState knows of it; Suspended is Quiesced.
    package static func state(of copyState: CopyState, _ operation: ReplicationOperation?) -> SyncState {
        switch operation {
        case .restoreFromReplica, .failback: return .restoreInProgress
        case .split where copyState == .synchronized: return .fractureInProgress
        default: break
        }
        return switch copyState {
        case .initialized: .initialized
        case .unsynchronized: operation == .activate ? .copyInProgress : .resyncInProgress
        case .synchronized, .restored: .synchronized
        case .broken, .partitioned, .invalid, .failedover, .aborted, .skewed: .broken
        case .fractured, .split: .fractured
        case .inactive: .frozen
        case .suspended: .quiesced
        case .prepared: .prepared
        case .mixed: .unknown
        }
    }
}

extension ChangedSide {
    /// The word for it in requests and replies.
    package var name: String {
        switch self {
        case .source: "source"
        case .target: "target"
        case .both: "both"
        }
    }

    package init?(name: String) {
        guard let found = Self.allCases.first(where: { $0.name == name }) else { return nil }
        self = found
    }
}
