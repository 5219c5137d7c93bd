internal import Logging
internal import RepldControlAPI
internal import RepldDataPlane
internal import RepldPair

/// When hosts are answered, and how old what a target lacks may become
extension ReplicationService {
    /// ResetToSync and ResetToAsync: durable first, so that a start takes the same up again.
    func setMode(
        _ mode: ReplicationMode,
        _ recoveryPoint: RecoveryPointChange?,
        of entry: PairEntry,
        _ before: PairSituation
    ) async throws(ControlError) -> MethodReply {
        let former = registry.content.pair(entry.id) ?? entry
        var wanted = former
        wanted.mode = mode
        if let recoveryPoint { wanted.recoveryPointNanoseconds = recoveryPoint.nanoseconds }
        if wanted != former {
            if wanted.mode != former.mode { try await tellMode(mode, of: entry) }
            try keepMode(of: wanted)
            do {
                if entry.remote != nil, before.isAttached { try await handMode(of: wanted) }
            } catch {
                try? keepMode(of: former)
                throw Self.controlError(error, "the mode of pair '\(entry.name)' cannot become \(mode.name)")
            }
            noteChange("the mode is \(Self.words(ofModeOf: wanted)) now", of: entry)
        }
        guard entry.remote == nil else { return MethodReply(returnCode: .success) }
        let status = ExtendedStatus(
            code: "local-target",
            message: """
                the mode is \(mode.name); the target is local, and its writes are acknowledged when both elements have them, in \
                either mode: asynchronous mode takes effect with remote targets
                """
        )
        return MethodReply(returnCode: .success, extendedStatus: status)
    }

    /// Lets the data plane know of the mode of a pair, and of its limit.
    func handMode(of entry: PairEntry) async throws(DataPlaneError) {
        try await plane.setMode(
            entry.id,
            isAsynchronous: entry.mode == .asynchronous,
            recoveryPointNanoseconds: entry.recoveryPointNanoseconds ?? 0
        )
    }

    private func keepMode(of wanted: PairEntry) throws(ControlError) {
        try registry.commit { content in
            guard let index = content.pairs.firstIndex(where: { $0.id == wanted.id }) else { return }
            content.pairs[index].mode = wanted.mode
            content.pairs[index].recoveryPointNanoseconds = wanted.recoveryPointNanoseconds
        }
    }

    private static func words(ofModeOf entry: PairEntry) -> String {
        guard let nanoseconds = entry.recoveryPointNanoseconds else { return entry.mode.name }
        return "\(entry.mode.name), the recovery point \(SecondsText.format(Double(nanoseconds) / 1e9))"
    }

    // MARK: - Requests

    /// Takes up what a request for a pair with a peer says of its mode.
    static func takeMode(of request: PairCreateRequest, into entry: inout PairEntry) throws(ControlError) {
        if let text = request.mode { entry.mode = try mode(text) }
        guard let seconds = request.recoveryPointSeconds else { return }
        entry.recoveryPointNanoseconds = try RecoveryPointRule.change(seconds: seconds).nanoseconds
    }

    /// Refuses what only a pair with a peer has.
    static func checkModeIsLocal(of request: PairCreateRequest) throws(ControlError) {
        if request.recoveryPointSeconds != nil {
            throw localTarget("a recovery point", "leave out --rpo")
        }
        if let text = request.mode, try mode(text) == .asynchronous {
            throw localTarget("asynchronous mode", "leave out --mode")
        }
        if let text = request.copyRecoveryMode { try checkRecoversLocally(recoveryMode(text)) }
    }

    /// A limit goes with the operations that set the mode.
    static func checkGoes(_ seconds: Double?, with operation: ReplicationOperation) throws(ControlError) {
        guard seconds != nil, operation != .resetToAsync, operation != .resetToSync else { return }
        throw ControlError(
            .invalidRequest,
            "recoveryPointSeconds goes with ResetToAsync and ResetToSync, not with \(operation.name)"
        )
    }

    /// The limit that a request asks for; `nil` where it asks for none.
    func recoveryPoint(_ seconds: Double?, of entry: PairEntry) throws(ControlError) -> RecoveryPointChange? {
        guard let seconds else { return nil }
        if entry.remote == nil { throw Self.localTarget("a recovery point", "leave out --rpo") }
        return try RecoveryPointRule.change(seconds: seconds)
    }

    private static func localTarget(_ what: String, _ suggestion: String) -> ControlError {
        ControlError(
            .invalidSettings,
            "\(what) is for a target at a peer: a local one has every write before its host is answered",
            suggestion: suggestion
        )
    }

    private static func mode(_ text: NumberOrName) throws(ControlError) -> ReplicationMode {
        if let mode = ReplicationMode(text: text.description) { return mode }
        throw ControlError(.invalidRequest, "mode: found '\(text)', expected Synchronous or Asynchronous")
    }
}
