internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// Who asks for an operation.
package struct Caller: Hashable, Sendable {
    package var name: String

    package init(name: String) { self.name = name }

    /// Whoever may connect to the control socket: its owner.
    package static var controlSocket: Caller { Caller(name: "control socket") }
}

/// What is asked of jobs
extension ReplicationService {
    /// The jobs that are kept, the newest first.
    package func jobList() async throws(ControlError) -> [JobReply] {
        let status = try await planeStatus()
        return jobs.jobs.reversed().map { reply(for: $0, status, showsRanges: false) }
    }

    package func job(id: String) async throws(ControlError) -> JobReply {
        reply(for: try jobEntry(id: id), try await planeStatus())
    }

    /// The job when it has ended, or when the time is up.
    package func job(id: String, waitingSeconds: Double?) async throws(ControlError) -> JobReply {
        let number = try jobEntry(id: id).number
        try await waitForChanges(until: try Self.deadline(waitingSeconds)) { () async throws(ControlError) in
            self.jobs.job(number)?.state.isEnd ?? true
        }
        return try await job(id: id)
    }

    /// Gives up what a job does; the job ends as soon as the data plane has come to a state of the table.
    package func cancelJob(id: String) async throws(ControlError) -> JobReply {
        let entry = try jobEntry(id: id)
        guard !entry.state.isEnd else {
            throw ControlError(.cannotCancel, "job \(id) is over: it is \(entry.state.name)")
        }
        if entry.kind == .verify {
            try await cancelVerify(entry)
            return try await job(id: id)
        }
        guard !moves.contains(entry.pair) else {
            throw ControlError(.cannotCancel, "job \(id) cannot be cancelled: hosts are being moved to the peer")
        }
        let subject = "pair \(entry.pairName)"
        try begin("cancel job \(id)", on: subject)
        defer { end(on: subject) }
        let facts = try await planeStatus().volumes.lazy.flatMap(\.pairs).first { $0.id == entry.pair }?.facts
        guard facts?.operation == entry.operation else {
            throw ControlError(.cannotCancel, "job \(id) has just come to its end, or another operation took its place")
        }
        if entry.operation == .restoreFromReplica {
            throw ControlError(
                .cannotCancel,
                "job \(id) cannot be cancelled: the source would be left half restored",
                suggestion: "Abort with force does that, and marks the source inconsistent"
            )
        }
        do {
            try await plane.cancelOperation(entry.pair)
        } catch {
            throw Self.controlError(error, "cannot cancel job \(id)")
        }
        record("job-cancelled", volume: entry.volumeName, pair: entry.pairName, message: "job \(id)", level: .notice)
        jobs.update(entry.number) { $0.state = .shuttingDown }
        countRevision(of: entry.pair)
        return try await job(id: id)
    }

    private func jobEntry(id: String) throws(ControlError) -> JobEntry {
        guard let entry = jobs.job(id: id) else {
            throw ControlError(
                .jobNotFound,
                "there is no job '\(id)'",
                suggestion: Suggestion.nearest(to: id, among: jobs.jobs.map(\.id)).map { "did you mean '\($0)'?" }
                    ?? "'replctl job ls' lists them; a job is kept for a week after its end"
            )
        }
        return entry
    }

    /// A job as it is shown.
    ///
    /// The ranges that a verify has found may be many: they are shown where one job is asked for.
    func reply(for entry: JobEntry, _ status: EngineStatus, showsRanges: Bool = true) -> JobReply {
        let pair = status.volumes.lazy.flatMap(\.pairs).first { $0.id == entry.pair }
        let isWorking = !entry.state.isEnd && entry.operation != nil && pair?.facts.operation == entry.operation
        var percent = entry.percentComplete
        var secondsLeft: UInt64?
        if isWorking, let pair {
            percent = Self.percentDone(pair)
            secondsLeft = copyProgress(of: pair)?.secondsLeft
        }
        var verify = entry.verify
        if !entry.state.isEnd, entry.kind == .verify, let counts = pair?.verify {
            verify = VerifyReply(counts)
            percent = Self.percentDone(counts)
            secondsLeft = Self.secondsLeft(counts, since: entry.startedAt)
        }
        if !showsRanges { verify?.ranges = nil }
        return JobReply(
            id: entry.id,
            operation: entry.kind.enumerated,
            state: Enumerated(entry.state),
            pair: entry.pairName,
            volume: entry.volumeName,
            startedBy: entry.startedBy,
            startedAt: entry.startedAt,
            endedAt: entry.endedAt,
            elapsedSeconds: max(0, (entry.endedAt ?? Date()).timeIntervalSince(entry.startedAt)),
            percentComplete: percent,
            secondsLeft: secondsLeft,
            errorCode: entry.errorCode,
            errorDescription: entry.errorDescription,
            verify: verify
        )
    }

    /// Of the copy that runs; below 100 until its end is told.
    private static func percentDone(_ pair: PairStatus) -> Int {
        guard pair.copyTotalByteCount > 0 else { return 0 }
        let done = min(pair.copyDoneByteCount, pair.copyTotalByteCount)
        return min(99, percentSynced(dirty: pair.copyTotalByteCount - done, of: pair.copyTotalByteCount))
    }
}

/// How jobs begin and end
extension ReplicationService {
    /// Makes a job durable, before its operation is handed to the data plane.
    func makeJob(
        _ operation: ReplicationOperation,
        on entry: PairEntry,
        _ before: PairSituation,
        to result: CopyState?,
        _ caller: Caller
    ) throws(ControlError) -> JobEntry {
        let isSecondSourceAfter = operation == .reverseRoles ? !before.isSecondSource : nil
        let job = try makeJob(.operation(operation), on: entry, isSecondSourceAfter, to: result, caller)
        pairs[entry.id]?.rate.reset()
        return job
    }

    /// Makes the job of a verify or an operation.
    func makeJob(
        _ kind: JobKind,
        on entry: PairEntry,
        _ isSecondSourceAfter: Bool?,
        to result: CopyState?,
        _ caller: Caller
    ) throws(ControlError) -> JobEntry {
        let volume = registry.content.volume(entry.volumeNumber)?.name ?? ""
        return try jobs.add { number in
            JobEntry(
                number: number,
                kind: kind,
                pair: entry.id,
                pairName: entry.name,
                volumeName: volume,
                result: result,
                isSecondSourceAfter: isSecondSourceAfter,
                startedBy: caller.name,
                startedAt: Date()
            )
        }
    }

    /// The data plane has begun: unless the end was told already, the job runs.
    func noteRunning(_ number: UInt64) {
        jobs.update(number) { job in
            if job.state == .new { job.state = .running }
        }
    }

    /// An operation has come to its end: so has the oldest job of the pair that does it.
    ///
    /// The oldest, because ends are told in the order in which operations began.
    func endJob(of pair: PairID, _ operation: ReplicationOperation, _ failure: OperationFailure?) {
        guard let job = jobs.running(of: pair).first(where: { $0.operation == operation }) else { return }
        guard let failure else { return end(job, .completed) }
        let state: JobState =
            switch failure {
            case .superseded, .cancelled, .sourceIsReplica: .terminated
            case .pairBroken, .drainTimedOut, .flushFailed, .recordFailed, .undoFailed, .rollbackFailed: .exception
            }
        end(job, state, code: failure == .drainTimedOut ? .timeout : .failed, failure.words)
    }

    /// Ends all jobs of a pair that is no more.
    func endJobs(of pair: PairID, because words: String) {
        for job in jobs.running(of: pair) { end(job, .terminated, code: .failed, words) }
    }

    /// Compares jobs that have not ended with what the data plane does: after a start, or when events were lost.
    func reviewJobs(because words: String) async throws(ControlError) {
        try await review(jobs.jobs.filter { !$0.state.isEnd }, because: words)
    }

    /// The same for the jobs of a volume that a start has left undecided: its peers have been asked since.
    ///
    /// Jobs of this run are told their ends, and may not have been handed to the data plane yet.
    func reviewOldJobs(ofVolume number: UInt64) async throws(ControlError) {
        let old = jobs.jobs.filter { job in
            !job.state.isEnd && job.number < firstJobNumber
                && registry.content.pair(job.pair)?.volumeNumber == number
        }
        try await review(old, because: Self.interruptedWords)
    }

    /// Why a job of an earlier run has not come to its end.
    static var interruptedWords: String { "the daemon was stopped or killed while it ran" }

    private func review(_ running: [JobEntry], because words: String) async throws(ControlError) {
        guard !running.isEmpty else { return }
        let status = try await planeStatus()
        for job in running where !moves.contains(job.pair) {
            if isMoveUndecided(job, status) { continue }
            guard let pair = status.volumes.lazy.flatMap(\.pairs).first(where: { $0.id == job.pair }) else {
                let reason = pairs[job.pair]?.failure ?? "the pair is no more"
                end(job, .exception, code: .failed, "\(words); \(reason)")
                continue
            }
            if job.kind == .verify {
                // One that was interrupted does not go on; what it has marked by then stays.
                if pair.verify == nil { end(job, .exception, code: .failed, words) }
            } else if pair.facts.operation == job.operation {
                noteRunning(job.number)
            } else if pair.facts.operation == nil, job.isResult(pair) {
                end(job, .completed)
            } else {
                end(job, .exception, code: .failed, "\(words); the pair is \(pair.copyState.name)")
            }
        }
    }

    /// Whether a job moves a pair between two hosts, and the other has not said yet what became of it; one that has moved is ended.
    private func isMoveUndecided(_ job: JobEntry, _ status: EngineStatus) -> Bool {
        guard let operation = job.operation, Self.moving.contains(operation) else { return false }
        if registry.content.replica(job.pair) != nil {
            end(job, .completed)
            return true
        }
        guard let entry = registry.content.pair(job.pair), entry.remote != nil else { return false }
        guard status.volumes.first(where: { $0.id.rawValue == entry.volumeNumber })?.isWithheld ?? false else {
            return false
        }
        noteRunning(job.number)
        return true
    }

    /// Ends a job, durably, and tells it.
    func end(_ job: JobEntry, _ state: JobState, code: ReturnCode = .success, _ words: String? = nil) {
        guard jobs.job(job.number)?.state.isEnd == false else { return }
        do {
            try jobs.end(job.number, at: Date()) { job in
                job.state = state
                if state == .completed { job.percentComplete = 100 }
                job.errorCode = code.rawValue
                job.errorDescription = words
            }
        } catch {
            logger.error("the end of a job is not durable", metadata: ["job": "\(job.id)", "reason": "\(error)"])
        }
        let reason = words.map { ": \($0)" } ?? ""
        record(
            "job-ended",
            volume: job.volumeName,
            pair: job.pairName,
            message: "job \(job.id) (\(job.kind.enumerated.name)) is \(state.name)\(reason)",
            level: state == .exception ? .error : .notice
        )
    }
}

extension JobEntry {
    /// Whether a pair is as this job was to make it.
    fileprivate func isResult(_ pair: PairStatus) -> Bool {
        if let isSecondSourceAfter, pair.isSecondSource != isSecondSourceAfter { return false }
        return result == nil || result == pair.copyState
    }
}
