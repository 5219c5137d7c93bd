package import Foundation

/// A job as `GET /v1/jobs/{id}` shows it: `CIM_ConcreteJob` in JSON.
package struct JobReply: Codable, Hashable, Sendable {
    /// The pair's name and the job's number, which is never given twice: `m1.7`.
    package var id: String
    package var operation: Enumerated
    package var state: Enumerated
    package var pair: String
    package var volume: String
    /// Who asked for it.
    package var startedBy: String
    package var startedAt: Date
    package var endedAt: Date?
    package var elapsedSeconds: Double
    package var percentComplete: Int
    /// Estimated; absent when it cannot be said.
    package var secondsLeft: UInt64?
    /// A return code; 0 while there is no error.
    package var errorCode: Int
    package var errorDescription: String?
    /// Of a verify: how far it is, or what it has found.
    package var verify: VerifyReply?

    package init(
        id: String,
        operation: Enumerated,
        state: Enumerated,
        pair: String,
        volume: String,
        startedBy: String,
        startedAt: Date,
        endedAt: Date? = nil,
        elapsedSeconds: Double,
        percentComplete: Int,
        secondsLeft: UInt64? = nil,
        errorCode: Int = 0,
        errorDescription: String? = nil,
        verify: VerifyReply? = nil
    ) {
        self.id = id
        self.operation = operation
        self.state = state
        self.pair = pair
        self.volume = volume
        self.startedBy = startedBy
        self.startedAt = startedAt
        self.endedAt = endedAt
        self.elapsedSeconds = elapsedSeconds
        self.percentComplete = percentComplete
        self.secondsLeft = secondsLeft
        self.errorCode = errorCode
        self.errorDescription = errorDescription
        self.verify = verify
    }
}

/// All jobs that are kept, the newest first.
package struct JobListReply: Codable, Hashable, Sendable {
    package var jobs: [JobReply]
    package init(jobs: [JobReply]) { self.jobs = jobs }
}

/// What a dissolved pair has left: `CIM_SynchronizationAspect` in JSON.
package struct AspectReply: Codable, Hashable, Sendable {
    /// Name and id of the pair that was.
    package var name: String
    package var pair: String
    package var sourcePath: String
    package var targetPath: String
    package var whenPointInTime: Date
    package var copyState: Enumerated
    package var isTargetConsistent: Bool
    package var byteCount: UInt64

    package init(
        name: String,
        pair: String,
        sourcePath: String,
        targetPath: String,
        whenPointInTime: Date,
        copyState: Enumerated,
        isTargetConsistent: Bool,
        byteCount: UInt64
    ) {
        self.name = name
        self.pair = pair
        self.sourcePath = sourcePath
        self.targetPath = targetPath
        self.whenPointInTime = whenPointInTime
        self.copyState = copyState
        self.isTargetConsistent = isTargetConsistent
        self.byteCount = byteCount
    }
}

/// All aspects that are kept, the newest first.
package struct AspectListReply: Codable, Hashable, Sendable {
    package var aspects: [AspectReply]
    package init(aspects: [AspectReply]) { self.aspects = aspects }
}
