package import RepldControlAPI

/// A refusal or failure of the control plane: what was wrong, where, and what would be right.
package struct ControlError: Error, Sendable, CustomStringConvertible {
    /// What kind of error it is; more kinds may come.
    package struct Code: Hashable, Sendable {
        fileprivate enum Value: String {
            case invalidName = "invalid-name"
            case invalidRequest = "invalid-request"
            case invalidSettings = "invalid-settings"
            case unknownOperation = "unknown-operation"
            case unknownCopyState = "unknown-copy-state"
            case notSupported = "not-supported"
            case volumeNotFound = "volume-not-found"
            case pairNotFound = "pair-not-found"
            case pathNotFound = "path-not-found"
            case nameInUse = "name-in-use"
            case elementInUse = "element-in-use"
            case elementExists = "element-exists"
            case elementUnavailable = "element-unavailable"
            case volumeHasPairs = "volume-has-pairs"
            case volumeInUse = "volume-in-use"
            case volumeNotServed = "volume-not-served"
            case operationInProgress = "operation-in-progress"
            case notInThisState = "not-in-this-state"
            case needsForce = "needs-force"
            case operationUnderWay = "operation-under-way"
            case targetNotUsable = "target-not-usable"
            case otherPairFlows = "other-pair-flows"
            case operationFailed = "operation-failed"
            case cannotCancel = "cannot-cancel"
            case jobNotFound = "job-not-found"
            case copyStateNotReached = "copy-state-not-reached"
            case timeout = "timeout"
            case revisionOutOfDate = "revision-out-of-date"
            case notEnoughResources = "not-enough-resources"
            case refused = "refused"
            case stopping = "stopping"
            case stateDirectory = "state-directory"
            case registryDamaged = "registry-damaged"
            case configuration = "configuration"
            case socket = "socket"
            case accessDenied = "access-denied"
            case notAuthenticated = "not-authenticated"
            case userNotFound = "user-not-found"
            case usersDamaged = "users-damaged"
            case volumeIsReplica = "volume-is-replica"
            case peerNotFound = "peer-not-found"
            case peerInUse = "peer-in-use"
            case peerNotConnected = "peer-not-connected"
            case noAnswer = "no-answer"
            case internalFailure = "internal-failure"
        }

        fileprivate let value: Value

        package static var invalidName: Code { Code(value: .invalidName) }
        package static var invalidRequest: Code { Code(value: .invalidRequest) }
        package static var invalidSettings: Code { Code(value: .invalidSettings) }
        package static var unknownOperation: Code { Code(value: .unknownOperation) }
        package static var unknownCopyState: Code { Code(value: .unknownCopyState) }
        package static var notSupported: Code { Code(value: .notSupported) }
        package static var volumeNotFound: Code { Code(value: .volumeNotFound) }
        package static var pairNotFound: Code { Code(value: .pairNotFound) }
        package static var pathNotFound: Code { Code(value: .pathNotFound) }
        package static var nameInUse: Code { Code(value: .nameInUse) }
        package static var elementInUse: Code { Code(value: .elementInUse) }
        package static var elementExists: Code { Code(value: .elementExists) }
        package static var elementUnavailable: Code { Code(value: .elementUnavailable) }
        package static var volumeHasPairs: Code { Code(value: .volumeHasPairs) }
        package static var volumeInUse: Code { Code(value: .volumeInUse) }
        package static var volumeNotServed: Code { Code(value: .volumeNotServed) }
        package static var operationInProgress: Code { Code(value: .operationInProgress) }
        package static var notInThisState: Code { Code(value: .notInThisState) }
        package static var needsForce: Code { Code(value: .needsForce) }
        package static var operationUnderWay: Code { Code(value: .operationUnderWay) }
        package static var targetNotUsable: Code { Code(value: .targetNotUsable) }
        package static var otherPairFlows: Code { Code(value: .otherPairFlows) }
        package static var operationFailed: Code { Code(value: .operationFailed) }
        package static var cannotCancel: Code { Code(value: .cannotCancel) }
        package static var jobNotFound: Code { Code(value: .jobNotFound) }
        package static var copyStateNotReached: Code { Code(value: .copyStateNotReached) }
        package static var timeout: Code { Code(value: .timeout) }
        package static var revisionOutOfDate: Code { Code(value: .revisionOutOfDate) }
        package static var notEnoughResources: Code { Code(value: .notEnoughResources) }
        package static var refused: Code { Code(value: .refused) }
        package static var stopping: Code { Code(value: .stopping) }
        package static var stateDirectory: Code { Code(value: .stateDirectory) }
        package static var registryDamaged: Code { Code(value: .registryDamaged) }
        package static var configuration: Code { Code(value: .configuration) }
        package static var socket: Code { Code(value: .socket) }
        package static var accessDenied: Code { Code(value: .accessDenied) }
        package static var notAuthenticated: Code { Code(value: .notAuthenticated) }
        package static var userNotFound: Code { Code(value: .userNotFound) }
        package static var usersDamaged: Code { Code(value: .usersDamaged) }
        package static var volumeIsReplica: Code { Code(value: .volumeIsReplica) }
        package static var peerNotFound: Code { Code(value: .peerNotFound) }
        package static var peerInUse: Code { Code(value: .peerInUse) }
        package static var peerNotConnected: Code { Code(value: .peerNotConnected) }
        package static var noAnswer: Code { Code(value: .noAnswer) }
        package static var internalFailure: Code { Code(value: .internalFailure) }

        /// The word that travels: `volume-not-found`.
        package var word: String { value.rawValue }

        private init(value: Value) { self.value = value }

        /// The code of a word that came from another daemon; `nil` for one that this daemon does not know.
        package init?(word: String) {
            guard let value = Value(rawValue: word) else { return nil }
            self.value = value
        }

        /// The standard's return code for it.
        package var returnCode: ReturnCode {
            switch value {
            case .invalidName, .invalidRequest, .invalidSettings: .invalidParameter
            case .unknownOperation, .unknownCopyState: .invalidParameter
            case .notSupported: .notSupported
            case .volumeNotFound, .pairNotFound, .pathNotFound, .jobNotFound: .objectNotFound
            case .nameInUse, .elementInUse, .elementExists, .elementUnavailable, .volumeHasPairs, .volumeInUse: .failed
            case .volumeNotServed, .operationInProgress, .notInThisState, .needsForce, .copyStateNotReached: .failed
            case .operationUnderWay, .targetNotUsable, .otherPairFlows, .operationFailed, .cannotCancel: .failed
            case .refused, .stopping, .volumeIsReplica, .peerInUse, .peerNotConnected, .noAnswer: .failed
            case .timeout: .timeout
            case .revisionOutOfDate: .cacheOutOfDate
            case .notEnoughResources: .notEnoughResources
            case .accessDenied, .notAuthenticated: .accessDenied
            case .userNotFound, .peerNotFound: .objectNotFound
            case .usersDamaged: .unspecifiedError
            case .stateDirectory, .registryDamaged, .configuration, .socket, .internalFailure: .unspecifiedError
            }
        }
    }

    package let code: Code
    /// What travels to whoever asked.
    package var status: ExtendedStatus
    /// The job that goes on, when only the wait for it has ended.
    package var job: String?
    package let underlying: (any Error)?

    package init(
        _ code: Code,
        _ message: String,
        suggestion: String? = nil,
        underlying: (any Error)? = nil
    ) {
        self.code = code
        self.status = ExtendedStatus(code: code.word, message: message, suggestion: suggestion)
        self.underlying = underlying
    }

    /// What another daemon refused with; `who` is said first.
    package init(_ reply: MethodReply, of who: String) {
        var status = reply.extendedStatus ?? ExtendedStatus(code: "refused", message: reply.returnCode.name)
        code = Code(word: status.code) ?? .refused
        status.message = "\(who): \(status.message)"
        self.status = status
        job = reply.job
        underlying = nil
    }

    package var message: String { status.message }
    package var suggestion: String? { status.suggestion }

    /// The message, what caused it and what to do, on one line.
    package var description: String {
        let cause = underlying.map { ": \($0)" } ?? ""
        let hint = suggestion.map { " (\($0))" } ?? ""
        return message + cause + hint
    }

    /// The body of the refusal.
    package var reply: MethodReply {
        var status = status
        if let underlying { status.message += ": \(underlying)" }
        return MethodReply(returnCode: code.returnCode, job: job, extendedStatus: status)
    }
}
