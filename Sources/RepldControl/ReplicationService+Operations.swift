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
        guard let rule = OperationRule.rule(for: operation) else {
            throw ControlError(
                .notSupported,
                "\(operation.name) (\(operation.rawValue)) is not supported for a local mirror by this version",
                suggestion: "supported are \(OperationRule.supported.map(\.name).joined(separator: ", "))"
            )
        }
        if let seconds = request.timeoutSeconds, !(0...31_536_000).contains(seconds) {
            throw ControlError(.invalidRequest, "timeoutSeconds: found \(seconds), expected 0 to 31536000")
        }
        let deadline = request.timeoutSeconds.map { ContinuousClock.now.advanced(by: .seconds($0)) }
        let reply = try await carryOut(operation, rule, on: entry, request)
        guard let wanted, rule.action != .detach else { return reply }
        try await wait(for: wanted, of: entry, until: deadline, job: reply.job)
        return MethodReply(returnCode: .success, job: reply.job, extendedStatus: reply.extendedStatus)
    }

    /// Everything but the wait: checks, the operation, the job.
    private func carryOut(
        _ operation: ReplicationOperation,
        _ rule: OperationRule,
        on entry: PairEntry,
        _ request: SetReplicationRelationshipRequest
    ) async throws(ControlError) -> MethodReply {
        let subject = "pair \(entry.name)"
        try begin(operation.name, on: subject)
        defer { end(on: subject) }
        guard let volume = registry.content.volume(entry.volumeNumber) else {
            throw ControlError(.internalFailure, "pair '\(entry.name)' has no volume")
        }
        let before = try await reply(for: entry)
        try check(request.expectedRevision, against: before)
        let state = CopyState(text: before.copyState.name) ?? .broken
        let isStalled = state == .unsynchronized && before.requestedCopyState == .notApplicable
        if rule.holdsIn.contains(state), !isStalled { return MethodReply(returnCode: .success) }
        if !isStalled {
            try check(operation, rule, from: state, isForced: request.force ?? false, pair: before)
        }
        switch rule.action {
        case .startCopy:
            try await startCopy(entry, of: volume)
            return MethodReply(returnCode: .jobStarted, job: noteJob(operation, on: entry))
        case .suspend:
            do {
                try await plane.suspend(entry.id)
            } catch {
                throw Self.controlError(error, "cannot suspend pair '\(entry.name)'")
            }
            noteChange("\(operation.name) accepted", of: entry)
        case .detach:
            try await detach(entry, of: volume)
        }
        return MethodReply(returnCode: .success)
    }

    /// Starts the copy; a pair that could not be attached before is attached now.
    private func startCopy(_ entry: PairEntry, of volume: VolumeEntry) async throws(ControlError) {
        if let reason = volumes[volume.number]?.failure {
            throw ControlError(
                .volumeNotServed,
                "volume '\(volume.name)' is not served: \(reason)",
                suggestion: "mend that, then 'replctl volume retry \(volume.name)'"
            )
        }
        if pairs[entry.id]?.failure != nil { try await attach(entry) }
        do {
            try await plane.startCopy(entry.id)
        } catch {
            throw Self.controlError(error, "cannot start the copy of pair '\(entry.name)'")
        }
    }

    private func check(_ expected: UInt64?, against pair: PairReply) throws(ControlError) {
        guard let expected, expected != pair.revision else { return }
        var error = ControlError(
            .revisionOutOfDate,
            "pair '\(pair.name)' has changed: its revision is \(pair.revision), not \(expected)",
            suggestion: "read the pair again and decide anew"
        )
        error.status.revision = pair.revision
        error.status.copyState = pair.copyState
        throw error
    }

    /// The table: accepted, accepted with force, or refused with what would be right.
    private func check(
        _ operation: ReplicationOperation,
        _ rule: OperationRule,
        from state: CopyState,
        isForced: Bool,
        pair: PairReply
    ) throws(ControlError) {
        if rule.acceptedFrom.contains(state) { return }
        let needsForce = rule.acceptedWithForceFrom.contains(state)
        if needsForce, isForced { return }
        let accepted = rule.acceptedFrom.union(rule.acceptedWithForceFrom).sorted { $0.rawValue < $1.rawValue }
        let stake = pair.dirtyByteCount ?? 0
        var error: ControlError
        if needsForce {
            error = ControlError(
                .needsForce,
                """
                \(operation.name) of pair '\(pair.name)' in state \(state.name) needs force: the target is left \
                inconsistent, \(ByteCount.format(stake)) of it are not known to be equal
                """,
                suggestion: "wait until it is Synchronized, or say --force"
            )
            error.status.bytesAtStake = stake
        } else {
            let words = accepted.map(\.name).joined(separator: ", ")
            let other = OperationRule.operationThatStartsCopy(from: state)
            let isCopy = rule.action == .startCopy
            error = ControlError(
                .notInThisState,
                "\(operation.name) is not accepted in state \(state.name) of pair '\(pair.name)'; it is from \(words)",
                suggestion: isCopy ? other.map { "use \($0.name)" } : nil
            )
            error.status.suggestedOperation = isCopy ? other.map { Enumerated($0) } : nil
        }
        error.status.copyState = pair.copyState
        error.status.revision = pair.revision
        error.status.acceptedFrom = accepted.map { Enumerated($0) }
        throw error
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
            suggestion: OperationRule.operationThatStartsCopy(from: state).map { "then use \($0.name)" }
        )
        error.job = job
        error.status.copyState = now.copyState
        error.status.revision = now.revision
        throw error
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
