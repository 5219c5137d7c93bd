package import RepldPair

/// A value of one of the standard's enumerations as it travels: the number for programs, the word for people.
package struct Enumerated: Codable, Hashable, Sendable {
    package var number: Int
    package var name: String

    package init(number: Int, name: String) {
        self.number = number
        self.name = name
    }

    package init(_ state: CopyState) { self.init(number: Int(state.rawValue), name: state.name) }
    package init(_ progress: ProgressStatus) { self.init(number: Int(progress.rawValue), name: progress.name) }
    package init(_ code: ReturnCode) { self.init(number: code.rawValue, name: code.name) }
    package init(_ operation: ReplicationOperation) { self.init(number: Int(operation.rawValue), name: operation.name) }
    package init(_ status: OperationalStatus) { self.init(number: status.rawValue, name: status.name) }
    package init(_ state: JobState) { self.init(number: state.rawValue, name: state.name) }

    package init(_ mode: ReplicationMode) { self.init(number: mode.rawValue, name: mode.name) }
    package init(_ mode: CopyRecoveryMode) { self.init(number: mode.rawValue, name: mode.name) }
    package init(_ state: SyncState) { self.init(number: state.rawValue, name: state.name) }

    /// The work of a job that is no operation of the standard; numbers from 32768 on are each vendor's own.
    package static var verify: Enumerated { Enumerated(number: 32768, name: "Verify") }
    /// RequestedCopyState of a pair that is going nowhere.
    package static var notApplicable: Enumerated { Enumerated(number: 15, name: "Not Applicable") }
    /// SyncType of a pair that is kept equal.
    package static var mirrorSyncType: Enumerated { Enumerated(number: 6, name: "Mirror") }
    /// ReplicaType of a pair whose target has all of the source's data.
    package static var fullCopyReplicaType: Enumerated { Enumerated(number: 2, name: "Full Copy") }
    /// CopyMethodology of a pair that copies what is known to differ.
    package static var incrementalCopyMethodology: Enumerated { Enumerated(number: 4, name: "Incremental-Copy") }
}

/// What a method of the replication service answers, with the standard's numbers.
package enum ReturnCode: Int, Sendable, CaseIterable {
    case success = 0
    case notSupported = 1
    case unspecifiedError = 2
    case timeout = 3
    case failed = 4
    case invalidParameter = 5
    case objectNotFound = 8
    case jobStarted = 4096
    case accessDenied = 40001
    case notEnoughResources = 40002
    case cacheOutOfDate = 40003

    /// The standard's words.
    package var name: String {
        switch self {
        case .success: "Success"
        case .notSupported: "Not Supported"
        case .unspecifiedError: "Unspecified Error"
        case .timeout: "Timeout"
        case .failed: "Failed"
        case .invalidParameter: "Invalid Parameter"
        case .objectNotFound: "Object Not Found"
        case .jobStarted: "Method Parameters Checked - Job Started"
        case .accessDenied: "Access denied"
        case .notEnoughResources: "Not enough resources"
        case .cacheOutOfDate: "Cache out of date"
        }
    }

    /// Whether what was asked was done or is being done.
    package var isAccepted: Bool { self == .success || self == .jobStarted }
}

/// How a volume or a pair is doing: `CIM_ManagedSystemElement.OperationalStatus`, with the standard's numbers.
package enum OperationalStatus: Int, Sendable, CaseIterable {
    case okay = 2
    case degraded = 3
    case error = 6

    /// The standard's word.
    package var name: String {
        switch self {
        case .okay: "OK"
        case .degraded: "Degraded"
        case .error: "Error"
        }
    }
}

/// A copy state in the words of whoever asks: number or word, case does not matter.
extension CopyState {
    package init?(text: String) {
        if let number = UInt8(text) {
            self.init(rawValue: number)
            return
        }
        let wanted = text.lowercased()
        guard let found = Self.allCases.first(where: { $0.name.lowercased() == wanted }) else { return nil }
        self = found
    }
}

/// A value that a request may give as a number or as a word.
package enum NumberOrName: Codable, Hashable, Sendable, CustomStringConvertible {
    case number(Int)
    case name(String)

    package init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if let number = try? container.decode(Int.self) {
            self = .number(number)
        } else if let name = try? container.decode(String.self) {
            self = .name(name)
        } else {
            throw DecodingError.typeMismatch(
                NumberOrName.self,
                .init(codingPath: decoder.codingPath, debugDescription: "expected a whole number or a string")
            )
        }
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .number(let number): try container.encode(number)
        case .name(let name): try container.encode(name)
        }
    }

    package var description: String {
        switch self {
        case .number(let number): String(number)
        case .name(let name): name
        }
    }
}
