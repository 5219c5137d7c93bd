internal import Foundation
package import RepldControlAPI
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// SetReplicationRelationship
extension ReplicationService {
    /// The method of the standard: an operation on a pair, by number or name.
    ///
    /// Answers 0 when the result holds, 4096 with a job when a copy was started. Everything else is thrown.
    package func setReplicationRelationship(
        pair name: String,
        _ request: SetReplicationRelationshipRequest
    ) async throws(ControlError) -> MethodReply {
        let entry = try pairEntry(named: name)
        let operation = try Self.operation(request.operation)
        let wanted = try request.waitForCopyState.map { text throws(ControlError) in try Self.copyState(text) }
        if let seconds = request.timeoutSeconds, !(0...31_536_000).contains(seconds) {
            throw ControlError(.invalidRequest, "timeoutSeconds: found \(seconds), expected 0 to 31536000")
        }
        let deadline = request.timeoutSeconds.map { ContinuousClock.now.advanced(by: .seconds($0)) }
        let reply = try await carryOut(operation, on: entry, request)
        guard let wanted, registry.content.pair(entry.id) != nil else { return reply }
        try await wait(for: wanted, of: entry, until: deadline, job: reply.job)
        return MethodReply(returnCode: .success, job: reply.job, extendedStatus: reply.extendedStatus)
    }

    /// Everything but the wait: checks, the operation, the job.
    private func carryOut(
        _ operation: ReplicationOperation,
        on entry: PairEntry,
        _ request: SetReplicationRelationshipRequest
    ) async throws(ControlError) -> MethodReply {
        let subject = "pair \(entry.name)"
        try begin(operation.name, on: subject)
        defer { end(on: subject) }
        guard let volume = registry.content.volume(entry.volumeNumber) else {
            throw ControlError(.internalFailure, "pair '\(entry.name)' has no volume")
        }
        let isForced = request.force ?? false
        let before = try await situation(of: entry)
        try check(request.expectedRevision, of: entry, before)
        if try holds(operation, entry, before, isForced: isForced) { return MethodReply(returnCode: .success) }
        switch operation {
        case .detach:
            try await detach(entry, of: volume)
            return MethodReply(returnCode: .success)
        case .dissolve, .resetToSync, .resetToAsync:
            throw ControlError(.notSupported, "\(operation.name) is not supported by this version")
        default:
            return try await hand(operation, to: entry, of: volume, before, isForced: isForced)
        }
    }

    /// Lets the data plane carry an operation out; a pair that could not be attached before is attached now.
    private func hand(
        _ operation: ReplicationOperation,
        to entry: PairEntry,
        of volume: VolumeEntry,
        _ before: PairSituation,
        isForced: Bool
    ) async throws(ControlError) -> MethodReply {
        if !before.isAttached {
            try await attachLate(entry, of: volume)
            let now = try await situation(of: entry)
            if try holds(operation, entry, now, isForced: isForced) {
                // To attach it has started a copy that was due.
                guard let copy = now.facts.operation else { return MethodReply(returnCode: .success) }
                return MethodReply(returnCode: .jobStarted, job: noteJob(copy, on: entry))
            }
        }
        let start: OperationStart
        do {
            start = try await plane.operate(entry.id, operation, isForced: isForced)
        } catch {
            throw refusal(error, operation, entry, before.words)
        }
        switch start {
        case .held:
            return MethodReply(returnCode: .success)
        case .done:
            noteChange("\(operation.name) accepted", of: entry)
            return MethodReply(returnCode: .success)
        case .started:
            return MethodReply(returnCode: .jobStarted, job: noteJob(operation, on: entry))
        }
    }

    /// Attaches a pair that could not be attached when its volume was opened.
    private func attachLate(_ entry: PairEntry, of volume: VolumeEntry) async throws(ControlError) {
        if let reason = volumes[volume.number]?.failure {
            throw ControlError(
                .volumeNotServed,
                "volume '\(volume.name)' is not served: \(reason)",
                suggestion: "mend that, then 'replctl volume retry \(volume.name)'"
            )
        }
        try await attach(entry)
    }

    private func check(
        _ expected: UInt64?,
        of entry: PairEntry,
        _ situation: PairSituation
    ) throws(ControlError) {
        let revision = pairs[entry.id]?.revision ?? 0
        guard let expected, expected != revision else { return }
        var error = ControlError(
            .revisionOutOfDate,
            "pair '\(entry.name)' has changed: its revision is \(revision), not \(expected)",
            suggestion: "read the pair again and decide anew"
        )
        error.status.revision = revision
        error.status.copyState = Enumerated(situation.facts.copyState)
        throw error
    }

    /// The table's answer: true where the result holds already, false where the operation may begin.
    private func holds(
        _ operation: ReplicationOperation,
        _ entry: PairEntry,
        _ situation: PairSituation,
        isForced: Bool
    ) throws(ControlError) -> Bool {
        let verdict = OperationTable.verdict(operation, situation.facts, isForced: isForced)
        if var refusal = OperationWords.refusal(of: operation, verdict, situation.facts, situation.words) {
            refusal.status.revision = pairs[entry.id]?.revision
            throw refusal
        }
        return verdict == .holds
    }

    /// What the data plane says no with, in the table's words where it is the table that says no.
    private func refusal(
        _ error: DataPlaneError,
        _ operation: ReplicationOperation,
        _ entry: PairEntry,
        _ words: PairWords
    ) -> ControlError {
        if case .operationRefused(let verdict, let facts) = error.refusal,
            var refusal = OperationWords.refusal(of: operation, verdict, facts, words)
        {
            refusal.status.revision = pairs[entry.id]?.revision
            return refusal
        }
        return Self.controlError(error, "\(operation.name) of pair '\(entry.name)' failed")
    }

    /// Returns when the pair has the state; throws when the time is up, or the pair went where the state cannot follow.
    private func wait(
        for wanted: CopyState,
        of entry: PairEntry,
        until deadline: ContinuousClock.Instant?,
        job: String?
    ) async throws(ControlError) {
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
        if try await hasReached(wanted, entry, job) { return }
        for await _ in wakeups.stream where try await hasReached(wanted, entry, job) { return }
        if try await hasReached(wanted, entry, job) { return }
        var error = ControlError(
            .timeout,
            "pair '\(entry.name)' has not become \(wanted.name) in time; the work goes on",
            suggestion: "'replctl pair watch \(entry.name)' shows it"
        )
        error.job = job
        error.status.copyState = try await reply(for: entry).copyState
        throw error
    }

    private func hasReached(
        _ wanted: CopyState,
        _ entry: PairEntry,
        _ job: String?
    ) async throws(ControlError) -> Bool {
        guard registry.content.pair(entry.id) != nil else {
            throw ControlError(.copyStateNotReached, "pair '\(entry.name)' was detached before it was \(wanted.name)")
        }
        let now = try await reply(for: entry)
        if now.copyState.number == Int(wanted.rawValue) { return true }
        let resting: [CopyState] = [.broken, .invalid, .aborted, .suspended]
        guard let state = CopyState(text: now.copyState.name), resting.contains(state) else { return false }
        var error = ControlError(
            .copyStateNotReached,
            "pair '\(entry.name)' is \(state.name) and does not become \(wanted.name) by itself"
                + (now.reason.map { ": \($0)" } ?? ""),
            suggestion: (try await suggestionForCopy(of: entry)).map { "then use \($0.name)" }
        )
        error.job = job
        error.status.copyState = now.copyState
        error.status.revision = now.revision
        throw error
    }

    /// The operation that starts the copy from where a pair is.
    private func suggestionForCopy(of entry: PairEntry) async throws(ControlError) -> ReplicationOperation? {
        let facts = try await situation(of: entry).facts
        let copies: [ReplicationOperation] = [.activate, .resume, .resyncReplica]
        return copies.first { OperationTable.verdict($0, facts, isForced: false) == .accepted(to: .synchronized) }
    }

    private static func operation(_ text: NumberOrName) throws(ControlError) -> ReplicationOperation {
        if let operation = ReplicationOperation(text: text.description) { return operation }
        let known = ReplicationOperation.allCases.map(\.name)
        throw ControlError(
            .unknownOperation,
            "'\(text)' is no operation; expected a number from 2 to 27 or one of its names",
            suggestion: Suggestion.nearest(to: text.description, among: known).map { "did you mean \($0)?" }
        )
    }

    private static func copyState(_ text: NumberOrName) throws(ControlError) -> CopyState {
        if let state = CopyState(text: text.description) { return state }
        let known = CopyState.allCases.map(\.name)
        throw ControlError(
            .unknownCopyState,
            "waitForCopyState: '\(text)' is no copy state; expected one of \(known.joined(separator: ", "))",
            suggestion: Suggestion.nearest(to: text.description, among: known).map { "did you mean \($0)?" }
        )
    }
}
