internal import RepldControlAPI
internal import RepldPair

/// Waiting for what others do, without asking again and again
extension ReplicationService {
    /// Returns when the pair has the state; throws when the time is up, or the pair went where the state cannot follow.
    func wait(
        for wanted: CopyState,
        of entry: PairEntry,
        until deadline: ContinuousClock.Instant?,
        job: String?
    ) async throws(ControlError) {
        let isReached = try await waitForChanges(until: deadline) { () async throws(ControlError) in
            try await self.hasReached(wanted, entry, job)
        }
        if isReached, let moved = registry.content.replica(entry.id) {
            return try await waitForSource(wanted, of: moved, until: deadline, job: job)
        }
        if isReached { return }
        var error = ControlError(
            .timeout,
            "pair '\(entry.name)' has not become \(wanted.name) in time; the work goes on",
            suggestion: "'replctl pair watch \(entry.name)' shows it"
        )
        error.job = job
        error.status.copyState = try await reply(for: entry).copyState
        throw error
    }

    /// True when the pair has the state; throws where it cannot come to it by itself any more.
    private func hasReached(
        _ wanted: CopyState,
        _ entry: PairEntry,
        _ job: String?
    ) async throws(ControlError) -> Bool {
        // Where it is now it is asked there.
        if registry.content.replica(entry.id) != nil { return true }
        guard registry.content.pair(entry.id) != nil else {
            throw ControlError(.copyStateNotReached, "pair '\(entry.name)' was detached before it was \(wanted.name)")
        }
        // It has its state from before, and may have it again on the other host.
        if moves.contains(entry.id) { return false }
        let now = try await reply(for: entry)
        if now.copyState.number == Int(wanted.rawValue) { return true }
        let facts = try await situation(of: entry).facts
        let state = facts.copyState
        // It may have come there between the two looks.
        if state == wanted { return true }
        guard facts.operation == nil, state != .unsynchronized, state != .skewed else { return false }
        // The link is there, and the two are about to meet.
        if state == .partitioned, now.peer?.isConnected == true { return false }
        var error = ControlError(
            .copyStateNotReached,
            "pair '\(entry.name)' is \(state.name) and does not become \(wanted.name) by itself"
                + (now.reason.map { ": \($0)" } ?? ""),
            suggestion: Self.operationThatCopies(facts).map { "then use \($0.name)" }
        )
        error.job = job
        error.status.copyState = now.copyState
        error.status.revision = now.revision
        throw error
    }

    /// The operation that starts the copy from where a pair is.
    private static func operationThatCopies(_ facts: PairFacts) -> ReplicationOperation? {
        let copies: [ReplicationOperation] = [.activate, .resume, .resyncReplica]
        return copies.first { OperationTable.verdict($0, facts, isForced: false) == .accepted(to: .synchronized) }
    }

    /// Looks after each change whether it is over: true when it is, false when the time is up.
    @discardableResult
    func waitForChanges(
        until deadline: ContinuousClock.Instant?,
        _ isOver: () async throws(ControlError) -> Bool
    ) async throws(ControlError) -> Bool {
        let wakeups = log.subscribe()
        let timer = deadline.map { deadline in
            Task {
                try? await Task.sleep(until: deadline, clock: .continuous)
                wakeups.finish()
            }
        }
        defer {
            timer?.cancel()
            wakeups.finish()
        }
        if try await isOver() { return true }
        for await _ in wakeups.stream where try await isOver() { return true }
        return try await isOver()
    }

    /// When a wait of so many seconds is up; `nil` for one without an end.
    static func deadline(_ seconds: Double?) throws(ControlError) -> ContinuousClock.Instant? {
        guard let seconds else { return nil }
        guard (0...31_536_000).contains(seconds) else {
            throw ControlError(.invalidRequest, "timeoutSeconds: found \(seconds), expected 0 to 31536000")
        }
        return ContinuousClock.now.advanced(by: .seconds(seconds))
    }
}
