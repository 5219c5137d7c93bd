internal import Logging
package import RepldControlAPI
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// SetReplicationRelationship
extension ReplicationService {
    /// The method of the standard: an operation on a pair, by number or name.
    ///
    /// Answers 0 when the result holds, 4096 with a job when work was started. Everything else is thrown.
    package func setReplicationRelationship(
        pair name: String,
        _ request: SetReplicationRelationshipRequest,
        for caller: Caller = .current
    ) async throws(ControlError) -> MethodReply {
        let operation = try Self.operation(request.operation)
        try Self.checkGoes(request.recoveryPointSeconds, with: operation)
        if let replica = registry.content.replica(named: name) {
            return try await forward(request, of: replica, for: caller)
        }
        let entry = try pairEntry(named: name)
        let wanted = try request.waitForCopyState.map { text throws(ControlError) in
            try Self.copyState(text, field: "waitForCopyState")
        }
        let deadline = try Self.deadline(request.timeoutSeconds)
        let reply: MethodReply
        do {
            reply = try await carryOut(operation, on: entry, request, caller)
        } catch {
            logger.info(
                "\(operation.name) is refused or failed",
                metadata: ["pair": "\(name)", "code": "\(error.code.word)", "reason": "\(error.message)"]
            )
            throw error
        }
        // Whoever says what becomes of a pair that rests means it.
        if reply.plan == nil, operation != .resetToSync, operation != .resetToAsync { setResting([entry.id], false) }
        guard let wanted, registry.content.pair(entry.id) != nil, reply.plan == nil else { return reply }
        try await wait(for: wanted, of: entry, until: deadline, job: reply.job)
        return MethodReply(returnCode: .success, job: reply.job, extendedStatus: reply.extendedStatus)
    }

    /// What one pair accepts now, and why the rest is refused.
    package func operations(ofPair name: String) async throws(ControlError) -> PairOperationsReply {
        let entry = try pairEntry(named: name)
        let now = try await situation(of: entry)
        let items = OperationTable.rules.filter { $0.support == .mirror }.map { rule in
            let plan = OperationPlan.plan(rule.operation, now.facts, now.words, keepsUndo: now.hasUndoArea)
            return PairOperationsReply.Item(
                operation: plan.operation,
                summary: rule.summary,
                verdict: plan.verdict,
                to: plan.resultingCopyState,
                reason: plan.reason
            )
        }
        return PairOperationsReply(pair: name, copyState: Enumerated(now.facts.copyState), operations: items)
    }

    /// Everything but the wait: checks, the operation, the job.
    private func carryOut(
        _ operation: ReplicationOperation,
        on entry: PairEntry,
        _ request: SetReplicationRelationshipRequest,
        _ caller: Caller
    ) async throws(ControlError) -> MethodReply {
        let isForced = request.force ?? false
        let recoveryPoint = try recoveryPoint(request.recoveryPointSeconds, of: entry)
        if request.plan ?? false {
            let now = try await situation(of: entry)
            try check(request.expectedRevision, of: entry, now)
            let keepsUndo = now.hasUndoArea && request.keepsUndo ?? true
            let plan = OperationPlan.plan(operation, now.facts, now.words, keepsUndo: keepsUndo)
            return MethodReply(returnCode: .success, plan: plan)
        }
        let subject = "pair \(entry.name)"
        try begin(operation.name, on: subject)
        defer { end(on: subject) }
        guard !moves.contains(entry.id) else {
            throw ControlError(
                .operationInProgress,
                "\(operation.name) of pair '\(entry.name)' has to wait: the pair moves to its peer",
                suggestion: "try again when that is done"
            )
        }
        guard let volume = registry.content.volume(entry.volumeNumber) else {
            throw ControlError(.internalFailure, "pair '\(entry.name)' has no volume")
        }
        var before = try await situation(of: entry)
        // Its volume must not grow over an area that is about to be blanked.
        let endsArea = entry.internalMetadata != nil && (operation == .detach || operation == .dissolve)
        let volumeSubject = before.isAttached && !endsArea ? nil : "volume \(volume.name)"
        if let volumeSubject {
            // Its volume may just be opening, and attaching it.
            try begin("\(operation.name) of pair '\(entry.name)'", on: volumeSubject)
        }
        defer { if let volumeSubject { end(on: volumeSubject) } }
        if volumeSubject != nil { before = try await situation(of: entry) }
        try check(request.expectedRevision, of: entry, before)
        let consent = Consent(isForced: isForced, keepsUndo: request.keepsUndo, recoveryPoint: recoveryPoint)
        return try await carryOut(operation, on: entry, of: volume, before, consent, caller)
    }

    /// What is left when everything that could change meanwhile is claimed.
    private func carryOut(
        _ operation: ReplicationOperation,
        on entry: PairEntry,
        of volume: VolumeEntry,
        _ before: PairSituation,
        _ consent: Consent,
        _ caller: Caller
    ) async throws(ControlError) -> MethodReply {
        let isForced = consent.isForced
        if operation == .detach, !before.isAttached, let doubt = doubt(about: entry) {
            let reply = try await detachDoubtful(entry, of: volume, doubt, isForced: isForced)
            return await release(entry, reply)
        }
        if try holds(operation, entry, before, isForced: isForced) { return MethodReply(returnCode: .success) }
        switch operation {
        case .detach, .dissolve:
            try await checkPeerListens(entry, operation, isForced: isForced)
            try await checkHostsMayCome(entry, operation, isForced: isForced)
            try await detachHeldStill(entry, of: volume, before, leavesAspect: operation == .dissolve)
            return await release(entry)
        case .resetToSync:
            return try await setMode(.synchronous, consent.recoveryPoint, of: entry, before)
        case .resetToAsync:
            return try await setMode(.asynchronous, consent.recoveryPoint, of: entry, before)
        default:
            if !before.isAttached { return try await attach(entry, of: volume, before: operation, consent, caller) }
            return try await hand(operation, to: entry, before, consent, caller)
        }
    }

    /// Detaches a pair whose elements keep their places meanwhile, because a Detach writes down which one serves.
    private func detachHeldStill(
        _ entry: PairEntry,
        of volume: VolumeEntry,
        _ before: PairSituation,
        leavesAspect: Bool
    ) async throws(ControlError) {
        guard before.isAttached else {
            return try await detach(entry, of: volume, before, leavesAspect: leavesAspect)
        }
        do {
            _ = try await plane.holdPlace(entry.id, isHeld: true)
        } catch {
            throw Self.controlError(error, "cannot detach pair '\(entry.name)'")
        }
        do {
            try await detach(entry, of: volume, try await situation(of: entry), leavesAspect: leavesAspect)
        } catch {
            // Where the pair is gone all the same, nothing is held any more.
            _ = try? await plane.holdPlace(entry.id, isHeld: false)
            throw error
        }
    }

    /// Attaches a pair that could not be attached before, and carries the operation out on what it turns out to be.
    private func attach(
        _ entry: PairEntry,
        of volume: VolumeEntry,
        before operation: ReplicationOperation,
        _ consent: Consent,
        _ caller: Caller
    ) async throws(ControlError) -> MethodReply {
        let wasLeftBehind = try await attachLate(entry, of: volume)
        if !consent.isForced, pairs[entry.id]?.replacement != nil, let words = replacementWords(of: entry) {
            throw ControlError(.needsForce, "\(operation.name) of pair '\(entry.name)' needs force: \(words)")
        }
        let now = try await situation(of: entry)
        // The pair was shown as Broken, from where that is the way to be copied to again.
        let operation = wasLeftBehind && operation == .resyncReplica ? .resume : operation
        guard try holds(operation, entry, now, isForced: consent.isForced) else {
            return try await hand(operation, to: entry, now, consent, caller)
        }
        // To attach it has let a copy go on that was due; that is what was asked for.
        guard let copy = now.facts.operation else { return MethodReply(returnCode: .success) }
        let job = try makeJob(copy, on: entry, now, to: .synchronized, caller)
        noteRunning(job.number)
        noteChange("\(operation.name) accepted", of: entry)
        return MethodReply(returnCode: .jobStarted, job: job.id)
    }

    /// Lets the data plane carry an operation out that the table accepts.
    func hand(
        _ operation: ReplicationOperation,
        to entry: PairEntry,
        _ before: PairSituation,
        _ consent: Consent,
        _ caller: Caller
    ) async throws(ControlError) -> MethodReply {
        try checkUndo(operation, entry, before, consent.keepsUndo)
        try checkPeerIsMet(operation, entry)
        if let volume = registry.content.volume(entry.volumeNumber) { try checkNoOtherMoves(operation, entry, volume) }
        if Self.movesToPeer(operation, entry, before.facts) {
            return try await beginMove(operation, of: entry, before, consent, caller)
        }
        var job: JobEntry?
        if OperationTable.rule(of: operation).startsJob {
            let verdict = OperationTable.verdict(operation, before.facts, isForced: consent.isForced)
            guard case .accepted(let result) = verdict else { return MethodReply(returnCode: .success) }
            job = try makeJob(operation, on: entry, before, to: result, caller)
        }
        let start: OperationStart
        do {
            start = try await plane.operate(
                entry.id,
                operation,
                isForced: consent.isForced,
                keepsUndo: consent.keepsUndo ?? true
            )
        } catch {
            let refusal = refusal(error, operation, entry, before.words)
            if let job { end(job, .exception, code: refusal.code.returnCode, refusal.description) }
            throw refusal
        }
        let isUndoRefused = consent.keepsUndo == false && entry.settings.keepsUndo
        if start != .held {
            noteChange("\(operation.name) accepted\(isUndoRefused ? ", without an undo" : "")", of: entry)
        }
        guard let job else { return MethodReply(returnCode: .success) }
        guard start == .started else {
            end(job, .completed)
            return MethodReply(returnCode: .success, job: job.id)
        }
        noteRunning(job.number)
        return MethodReply(returnCode: .jobStarted, job: job.id)
    }

    /// Attaches a pair that could not be attached when its volume was opened.
    ///
    /// Answers whether it waits for Resume.
    private func attachLate(_ entry: PairEntry, of volume: VolumeEntry) async throws(ControlError) -> Bool {
        if let reason = volumes[volume.number]?.failure {
            throw ControlError(
                .volumeNotServed,
                "volume '\(volume.name)' is not served: \(reason)",
                suggestion: "mend that, then 'replctl volume retry \(volume.name)'"
            )
        }
        let waitsForResume = try await attach(entry)
        noteElements(of: volume.number, only: entry.id)
        return waitsForResume
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
    func holds(
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

    static func operation(_ text: NumberOrName) throws(ControlError) -> ReplicationOperation {
        if let operation = ReplicationOperation(text: text.description) { return operation }
        let known = ReplicationOperation.allCases.map(\.name)
        throw ControlError(
            .unknownOperation,
            "'\(text)' is no operation; expected a number from 2 to 27 or one of its names",
            suggestion: Suggestion.nearest(to: text.description, among: known).map { "did you mean \($0)?" }
        )
    }

    static func copyState(_ text: NumberOrName, field: String) throws(ControlError) -> CopyState {
        if let state = CopyState(text: text.description) { return state }
        let known = CopyState.allCases.map(\.name)
        throw ControlError(
            .unknownCopyState,
            "\(field): '\(text)' is no copy state; expected one of \(known.joined(separator: ", "))",
            suggestion: Suggestion.nearest(to: text.description, among: known).map { "did you mean \($0)?" }
        )
    }
}

/// What whoever asks for an operation accepts, and wants.
struct Consent: Hashable, Sendable {
    /// What could be lost may be.
    var isForced = false
    /// Whether a copy keeps what it overwrites on a usable target; without it, as the pair is set up.
    var keepsUndo: Bool?
    /// What is to be set about the mode of a pair besides the mode.
    var recoveryPoint: RecoveryPointChange?
}
