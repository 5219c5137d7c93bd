internal import RepldControlAPI

/// The bounds of how old what a target lacks may become.
enum RecoveryPointRule {
    /// From what a busy link takes anyway to what nobody would call a copy.
    private static var seconds: ClosedRange<Double> { 0.1...604_800 }

    /// What is wrong with the limit of a pair; `nil` when nothing is.
    static func fault(of pair: PairEntry) -> String? {
        guard let nanoseconds = pair.recoveryPointNanoseconds else { return nil }
        if pair.remote == nil { return "it has a recovery point, and its target is local" }
        return fault(ofNanoseconds: nanoseconds)
    }

    /// What is wrong with a limit, whoever sets it; `nil` when nothing is.
    static func fault(ofNanoseconds nanoseconds: UInt64) -> String? { fault(ofSeconds: Double(nanoseconds) / 1e9) }

    /// What a request means by a number of seconds.
    static func change(seconds: Double) throws(ControlError) -> RecoveryPointChange {
        if seconds == 0 { return RecoveryPointChange(nanoseconds: nil) }
        if let fault = fault(ofSeconds: seconds) { throw ControlError(.invalidSettings, fault) }
        return RecoveryPointChange(nanoseconds: UInt64(seconds * 1e9))
    }

    private static func fault(ofSeconds found: Double) -> String? {
        if seconds.contains(found) { return nil }
        return "the recovery point is \(found) seconds; expected 0 for none, or 100ms to a week"
    }
}

/// What the limit of a pair is to become.
struct RecoveryPointChange: Hashable, Sendable {
    /// `nil` for no limit.
    var nanoseconds: UInt64?
}
