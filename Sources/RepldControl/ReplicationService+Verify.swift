internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// Verify: both elements of a Synchronized pair compared online, and what differs marked.
extension ReplicationService {
    /// Starts a verify; its job ends when everything was compared, and what was found is durable.
    package func verify(
        pair name: String,
        _ request: VerifyRequest,
        for caller: Caller = .current
    ) async throws(ControlError) -> MethodReply {
        let entry = try pairEntry(named: name)
        let subject = "pair \(name)"
        try begin("Verify", on: subject)
        defer { end(on: subject) }
        let now = try await situation(of: entry)
        guard now.isAttached else {
            throw ControlError(
                .notInThisState,
                "pair '\(name)' cannot be verified: it is not attached\(pairs[entry.id]?.failure.map { " (\($0))" } ?? "")",
                suggestion: "mend that, then bring it to Synchronized"
            )
        }
        // Asked before the job is made, so that a refusal leaves none; the data plane decides in the end.
        guard now.facts.copyState == .synchronized else { throw refusal(.state(now.facts.copyState), name) }
        guard jobs.running(of: entry.id).allSatisfy({ $0.kind != .verify }) else {
            throw refusal(.alreadyRunning, name)
        }
        let extent = try Self.extent(of: request, volumeByteCount: now.words.byteCount, now.blockByteCount ?? 512)
        let job = try makeJob(.verify, on: entry, nil, to: nil, caller)
        do {
            try await plane.verify(entry.id, extent)
        } catch {
            let refusal = Self.verifyError(error, name)
            end(job, .exception, code: refusal.code.returnCode, refusal.description)
            throw refusal
        }
        noteRunning(job.number)
        noteChange("Verify accepted", of: entry)
        return MethodReply(returnCode: .jobStarted, job: job.id)
    }

    /// Gives the verify of a pair up.
    package func cancelVerify(pair name: String) async throws(ControlError) -> MethodReply {
        let entry = try pairEntry(named: name)
        guard let job = jobs.running(of: entry.id).first(where: { $0.kind == .verify }) else {
            throw ControlError(.cannotCancel, "pair '\(name)' is not being verified")
        }
        try await cancelVerify(job)
        return MethodReply(returnCode: .success, job: job.id)
    }

    func cancelVerify(_ job: JobEntry) async throws(ControlError) {
        do {
            try await plane.cancelVerify(job.pair)
        } catch {
            throw Self.controlError(error, "cannot cancel job \(job.id)")
        }
        record("job-cancelled", volume: job.volumeName, pair: job.pairName, message: "job \(job.id)", level: .notice)
        jobs.update(job.number) { $0.state = .shuttingDown }
    }

    /// A verify has ended: so has its job.
    func endVerifyJob(of pair: PairID, _ report: VerifyReport, _ failure: VerifyFailure?) {
        guard let job = jobs.running(of: pair).first(where: { $0.kind == .verify }) else { return }
        var verify = VerifyReply(report.counts)
        verify.ranges = report.ranges.map { VerifyReply.Range(offset: $0.offset, length: $0.length) }
        jobs.update(job.number) { entry in
            entry.verify = verify
            entry.percentComplete = Self.percentDone(report.counts)
        }
        guard let failure else { return end(job, .completed) }
        let state: JobState =
            switch failure {
            case .cancelled, .detached: .terminated
            case .leftSynchronized, .closing, .sourceReadFailed, .targetReadFailed, .recordFailed: .exception
            }
        end(job, state, code: .failed, failure.words)
    }

    /// Below 100 until its end is told.
    static func percentDone(_ counts: VerifyCounts) -> Int {
        guard counts.extent.length > 0 else { return 0 }
        return min(99, percentSynced(dirty: counts.extent.length - counts.doneByteCount, of: counts.extent.length))
    }

    /// As long as it takes at the rate that it has had so far; `nil` in the first second.
    static func secondsLeft(_ counts: VerifyCounts, since start: Date) -> UInt64? {
        let elapsed = Date().timeIntervalSince(start)
        guard elapsed >= 1, counts.doneByteCount > 0 else { return nil }
        let rate = Double(counts.doneByteCount) / elapsed
        return UInt64((Double(counts.extent.length - counts.doneByteCount) / rate).rounded(.up))
    }

    // MARK: - Words

    private static func extent(
        of request: VerifyRequest,
        volumeByteCount: UInt64,
        _ blockByteCount: UInt32
    ) throws(ControlError) -> Extent {
        let offset = request.offset ?? 0
        guard offset < volumeByteCount else {
            throw ControlError(
                .invalidRequest,
                "offset: found \(offset), expected less than the volume's size of \(volumeByteCount) bytes"
            )
        }
        let length = request.length ?? (volumeByteCount - offset)
        guard length > 0, length <= volumeByteCount - offset else {
            throw ControlError(
                .invalidRequest,
                "length: found \(length), expected 1 to \(volumeByteCount - offset), up to the volume's end"
            )
        }
        let extent = Extent(offset: offset, length: length)
        guard extent.isAligned(to: UInt64(blockByteCount)) else {
            throw ControlError(
                .invalidRequest,
                "offset \(offset), length \(length): expected multiples of the volume's block size of \(blockByteCount) bytes"
            )
        }
        return extent
    }

    private func refusal(_ refusal: VerifyRefusal, _ name: String) -> ControlError { Self.verifyError(refusal, name) }

    private static func verifyError(_ error: DataPlaneError, _ name: String) -> ControlError {
        if case .verifyRefused(let refusal) = error.refusal { return verifyError(refusal, name) }
        return controlError(error, "pair '\(name)' cannot be verified")
    }

    private static func verifyError(_ refusal: VerifyRefusal, _ name: String) -> ControlError {
        switch refusal {
        case .state(let state):
            var error = ControlError(
                .notInThisState,
                "pair '\(name)' is \(state.name): it is verified only while it is Synchronized",
                suggestion: "in other states what may differ is known: 'replctl pair show \(name)'"
            )
            error.status.copyState = Enumerated(state)
            error.status.acceptedFrom = [Enumerated(CopyState.synchronized)]
            return error
        case .alreadyRunning:
            return ControlError(
                .operationUnderWay,
                "pair '\(name)' is being verified already",
                suggestion: "wait for its job, or 'replctl verify \(name) --cancel'"
            )
        case .ending:
            return ControlError(
                .notInThisState,
                "pair '\(name)' cannot be verified: it is about to be detached or closed"
            )
        case .outsideVolume(let byteCount, let blockByteCount):
            return ControlError(
                .invalidRequest,
                "the range is not inside the volume of \(byteCount) bytes, or not in its blocks of \(blockByteCount) bytes"
            )
        }
    }

    /// The words of an event of a verify, and how loud they are.
    static func describeVerify(_ kind: EngineEvent.Kind, in reply: inout EventReply) -> Logger.Level {
        switch kind {
        case .verifyFound(let extent):
            reply.kind = "verify-found"
            reply.message = "source and target differ in \(words(extent))"
            return .warning
        case .verifyEnded(let report, let failure):
            reply.kind = "verify-ended"
            reply.message = words(report, failure)
            return report.counts.differentByteCount > 0 || failure != nil ? .warning : .notice
        default:
            return .notice
        }
    }

    /// What a verify that has ended found, for the event; its job has the whole list.
    static func words(_ report: VerifyReport, _ failure: VerifyFailure?) -> String {
        let counts = report.counts
        let compared = "\(counts.doneByteCount) of \(counts.extent.length) bytes compared by \(BlockDigest.name)"
        let end = failure.map { "; it did not come to its end: \($0.words)" } ?? ""
        guard counts.differentByteCount > 0 else { return "\(compared), no difference found\(end)" }
        let shown = report.ranges.prefix(16).map { "\($0.offset)+\($0.length)" }.joined(separator: " ")
        let left = UInt64(max(0, report.ranges.count - 16)) + counts.unlistedRangeCount
        let more = left > 0 ? " and \(left) more ranges" : ""
        return "\(compared), \(counts.differentByteCount) bytes differ: \(shown)\(more)\(end)"
    }
}

extension VerifyReply {
    init(_ counts: VerifyCounts) {
        self.init(digest: BlockDigest.name, offset: counts.extent.offset, length: counts.extent.length)
        comparedByteCount = counts.doneByteCount
        differentByteCount = counts.differentByteCount
        unlistedRangeCount = counts.unlistedRangeCount
        skippedCount = counts.skippedCount
        skippedByteCount = counts.skippedByteCount
        recheckCount = counts.recheckCount
        lockedCount = counts.lockedCount
    }
}
