package import RepldCore

/// How much of the hosts' time would be lost with the element that serves them.
///
/// A pair is *in step* while it is Synchronized and no verify has found anything; and in the instant in which a restore has ended.
///
/// - In step, it is exposed while writes are on their way, since the oldest of them came.
/// - Out of step, also while a copy catches up, it is exposed since it was last in step; where writes were on their way then,
///   since the oldest of them came. What of them arrived afterwards is not looked at.
/// - Where it has not been in step since it was taken in, or a verify has found differences, nobody knows since when.
///
/// The instant is of a monotonic clock, and not kept over the end of the daemon.
extension Pair {
    /// How old what the other element lacks is, in nanoseconds; `nil` where nobody knows.
    package func exposureNanoseconds(at now: Instant) -> UInt64? {
        guard isInStep else { return inStepAt.map { now.nanoseconds(since: $0) } }
        return backlogSince.map { now.nanoseconds(since: $0) } ?? 0
    }

    /// The pair is about to leave Synchronized.
    mutating func leaveStep(at now: Instant) {
        guard isInStep else { return }
        isInStep = false
        inStepAt = backlogSince ?? now
    }

    /// Nobody knows since when the two elements differ.
    mutating func forgetStep() {
        isInStep = false
        inStepAt = nil
    }
}
