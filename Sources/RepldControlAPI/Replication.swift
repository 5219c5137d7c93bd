/// Asks for an operation on a pair: `POST /v1/pairs/{name}/SetReplicationRelationship`.
package struct SetReplicationRelationshipRequest: StrictRequest, Hashable {
    /// Number or word of the operation.
    package var operation: NumberOrName
    /// Accepts what could be lost; a refusal without it says what that is.
    package var force: Bool?
    /// Answers only when the pair has this copy state, cannot reach it any more, or the time is up.
    package var waitForCopyState: NumberOrName?
    /// How long to wait at most; without it, as long as it takes.
    package var timeoutSeconds: Double?
    /// Refuses with 40003 when the pair has changed since this revision was read.
    package var expectedRevision: UInt64?
    /// Says what the operation would do, and does nothing.
    package var plan: Bool?
    /// Whether a copy keeps what it overwrites on a usable target; without it, as the pair is set up.
    package var keepsUndo: Bool?
    /// With ResetToAsync and ResetToSync: how old what a peer's volume lacks may become in Asynchronous mode before the pair is
    /// Skewed, 0 for no limit; without it, what was set before stays.
    package var recoveryPointSeconds: Double?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case operation, force, waitForCopyState, timeoutSeconds, expectedRevision, plan, keepsUndo
        case recoveryPointSeconds
    }

    package init(
        operation: NumberOrName,
        force: Bool? = nil,
        waitForCopyState: NumberOrName? = nil,
        timeoutSeconds: Double? = nil,
        expectedRevision: UInt64? = nil,
        plan: Bool? = nil,
        keepsUndo: Bool? = nil,
        recoveryPointSeconds: Double? = nil
    ) {
        self.operation = operation
        self.force = force
        self.waitForCopyState = waitForCopyState
        self.timeoutSeconds = timeoutSeconds
        self.expectedRevision = expectedRevision
        self.plan = plan
        self.keepsUndo = keepsUndo
        self.recoveryPointSeconds = recoveryPointSeconds
    }
}

/// What a method answers, and the body of every refusal of the service whatever its HTTP status.
package struct MethodReply: Codable, Hashable, Sendable {
    package var returnCode: Enumerated
    /// The job that was started, for 4096 and for a wait that ran out.
    package var job: String?
    package var extendedStatus: ExtendedStatus?
    /// What would be done, where only that was asked.
    package var plan: PlanReply?

    package init(
        returnCode: ReturnCode,
        job: String? = nil,
        extendedStatus: ExtendedStatus? = nil,
        plan: PlanReply? = nil
    ) {
        self.returnCode = Enumerated(returnCode)
        self.job = job
        self.extendedStatus = extendedStatus
        self.plan = plan
    }
}

/// What a return code alone cannot say.
package struct ExtendedStatus: Codable, Hashable, Sendable {
    /// A word for programs, stable between versions: `volume-not-found`.
    package var code: String
    /// What was wrong, where, and what would be right, in plain words.
    package var message: String
    /// What to do about it, when that is one thing.
    package var suggestion: String?
    package var copyState: Enumerated?
    package var revision: UInt64?
    /// The copy states in which the operation is accepted.
    package var acceptedFrom: [Enumerated]?
    /// How many bytes `force` would give up.
    package var bytesAtStake: UInt64?
    /// The operation that would get there.
    package var suggestedOperation: Enumerated?

    package init(
        code: String,
        message: String,
        suggestion: String? = nil,
        copyState: Enumerated? = nil,
        revision: UInt64? = nil,
        acceptedFrom: [Enumerated]? = nil,
        bytesAtStake: UInt64? = nil,
        suggestedOperation: Enumerated? = nil
    ) {
        self.code = code
        self.message = message
        self.suggestion = suggestion
        self.copyState = copyState
        self.revision = revision
        self.acceptedFrom = acceptedFrom
        self.bytesAtStake = bytesAtStake
        self.suggestedOperation = suggestedOperation
    }
}
