/// What the operations table says to an operation, as a word for programs.
package enum PlanVerdict: String, Codable, Hashable, Sendable, CaseIterable {
    case accepted
    case alreadyHolds = "already-holds"
    case needsForce = "needs-force"
    case refused
}

/// What an operation would do: the answer to `plan`, which does nothing.
package struct PlanReply: Codable, Hashable, Sendable {
    package var operation: Enumerated
    /// The copy state now, and the one in the end; absent where the pair is gone then, or nothing would be done.
    package var copyState: Enumerated
    package var resultingCopyState: Enumerated?
    package var verdict: PlanVerdict
    /// Why force is needed, or why it is refused.
    package var reason: String?
    /// How many bytes force would give up.
    package var bytesAtStake: UInt64?
    package var suggestedOperation: Enumerated?
    /// It would answer 4096 with a job.
    package var startsJob: Bool
    /// At most so many bytes would be read and compared or copied.
    package var byteCountToCopy: UInt64
    /// What would be overwritten, and where; empty when nothing is.
    package var overwritten: [Overwritten]
    /// At most so many bytes of what the target holds would be kept, and what hosts overwrite meanwhile; absent where nothing is.
    package var undoByteCount: UInt64?
    /// So many bytes of the target would first be brought back to what they were before the copy that was interrupted.
    package var takenBackByteCount: UInt64?
    package var clientsDisconnected: Int
    /// Source and target would be other elements.
    package var updatesSynchronizedPath: Bool
    /// What it depends on that its verdict does not know.
    package var remark: String?

    /// Bytes of one element that would be written over.
    package struct Overwritten: Codable, Hashable, Sendable {
        /// `source` or `target`, by the roles now.
        package var role: String
        package var path: String
        /// At most so many, in whole granules.
        package var byteCount: UInt64

        package init(role: String, path: String, byteCount: UInt64) {
            self.role = role
            self.path = path
            self.byteCount = byteCount
        }
    }

    package init(operation: Enumerated, copyState: Enumerated, verdict: PlanVerdict) {
        self.operation = operation
        self.copyState = copyState
        self.verdict = verdict
        self.startsJob = false
        self.byteCountToCopy = 0
        self.overwritten = []
        self.clientsDisconnected = 0
        self.updatesSynchronizedPath = false
    }
}
