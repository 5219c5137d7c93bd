import Foundation
import RepldControlAPI

/// Jobs, plans and the operations table in words.
extension Text {
    static func jobs(_ reply: JobListReply) -> String {
        guard !reply.jobs.isEmpty else { return "no jobs" }
        let rows = reply.jobs.map { job in
            [
                job.id, job.operation.name, job.state.name, "\(job.percentComplete)%",
                DurationText.format(seconds: UInt64(job.elapsedSeconds)), time(job.startedAt),
                job.errorDescription ?? "",
            ]
        }
        return table(["JOB", "OPERATION", "STATE", "DONE", "TOOK", "STARTED", ""], rows)
    }

    static func job(_ job: JobReply) -> String {
        let left = job.secondsLeft.map { ", about \(DurationText.format(seconds: $0)) left" } ?? ""
        var rows = [
            ("Job", job.id),
            ("Operation", "\(job.operation.name) (\(job.operation.number)) of pair \(job.pair), volume \(job.volume)"),
            ("State", "\(job.state.name), \(job.percentComplete)%\(left)"),
            ("Started", "\(time(job.startedAt)) by \(job.startedBy)"),
        ]
        if let ended = job.endedAt { rows.append(("Ended", time(ended))) }
        rows.append(("Took", DurationText.format(seconds: UInt64(job.elapsedSeconds))))
        if let verify = job.verify { rows += self.verify(verify) }
        if let words = job.errorDescription { rows.append(("Error", "\(words) (\(job.errorCode))")) }
        return fields(rows)
    }

    private static func verify(_ verify: VerifyReply) -> [(String, String)] {
        var rows = [
            (
                "Compared",
                """
                \(ByteCount.format(verify.comparedByteCount)) of \(ByteCount.format(verify.length)) from byte \
                \(verify.offset), by \(verify.digest)
                """
            ),
            (
                "Written",
                """
                \(verify.skippedCount) chunks (\(ByteCount.format(verify.skippedByteCount))) were written meanwhile and \
                looked at again \(verify.recheckCount) times, \(verify.lockedCount) of them under a lock
                """
            ),
            ("Differs", verify.differentByteCount == 0 ? "nothing" : "\(verify.differentByteCount) bytes"),
        ]
        let ranges = (verify.ranges ?? []).map { "\($0.offset) +\($0.length)" }
        let more = verify.unlistedRangeCount > 0 ? ["and \(verify.unlistedRangeCount) ranges more"] : []
        if !ranges.isEmpty { rows.append(("Ranges", (ranges + more).joined(separator: "\n"))) }
        return rows
    }

    static func plan(_ plan: PlanReply) -> String {
        var rows = [
            ("Operation", "\(plan.operation.name) (\(plan.operation.number))"), ("State now", plan.copyState.name),
        ]
        switch plan.verdict {
        case .accepted: rows.append(("Would be", "accepted" + (plan.startsJob ? ", as a job" : "")))
        case .alreadyHolds: rows.append(("Would be", "accepted, and nothing done: the result holds already"))
        case .needsForce: rows.append(("Would be", "refused without --force"))
        case .refused: rows.append(("Would be", "refused, also with --force"))
        }
        if let reason = plan.reason { rows.append(("Because", reason)) }
        if let other = plan.suggestedOperation { rows.append(("Instead", other.name)) }
        if plan.verdict == .accepted || plan.verdict == .needsForce {
            rows.append(("State then", plan.resultingCopyState?.name ?? "the pair is gone"))
            rows.append(("Copied", "at most \(ByteCount.format(plan.byteCountToCopy))"))
            let overwritten = plan.overwritten.map {
                "at most \(ByteCount.format($0.byteCount)) of the \($0.role) \($0.path)"
            }
            rows.append(("Overwritten", overwritten.isEmpty ? "nothing" : overwritten.joined(separator: "\n")))
            if let count = plan.undoByteCount {
                let words =
                    "at most \(ByteCount.format(count)) of what the target holds are kept until the copy has ended"
                rows.append(("Undo", "\(words), and what hosts overwrite meanwhile"))
            }
            if let count = plan.takenBackByteCount {
                let words = "the copy that was interrupted, \(ByteCount.format(count)) of it"
                rows.append(("Taken back", "\(words): first the target becomes what it was before"))
            }
            rows.append(
                ("Clients", plan.clientsDisconnected == 0 ? "stay" : "\(plan.clientsDisconnected) disconnected")
            )
            if let remark = plan.remark { rows.append(("But", remark)) }
            if plan.updatesSynchronizedPath { rows.append(("Roles", "source and target change places")) }
        }
        return fields(rows)
    }

    static func aspects(_ reply: AspectListReply) -> String {
        guard !reply.aspects.isEmpty else { return "no pair was dissolved" }
        let rows = reply.aspects.map { aspect in
            [
                aspect.name, time(aspect.whenPointInTime), aspect.copyState.name,
                aspect.isTargetConsistent ? "consistent" : "not consistent", aspect.sourcePath, aspect.targetPath,
            ]
        }
        return table(["PAIR", "DISSOLVED", "STATE", "TARGET WAS", "SOURCE", "TARGET"], rows)
    }

    static func capabilities(_ reply: CapabilitiesReply) -> String {
        let rows = reply.operations.flatMap { operation -> [[String]] in
            let number = String(operation.operation.number)
            guard operation.isSupported else {
                return [[number, operation.operation.name, "-", "-", operation.reason ?? ""]]
            }
            return operation.edges.enumerated().map { index, edge in
                let first = index == 0 ? [number, operation.operation.name] : ["", ""]
                return first + [names(edge.from, of: reply), edge.to?.name ?? "-", edge.condition ?? ""]
            }
        }
        return table(["#", "OPERATION", "FROM", "TO", ""], rows)
    }

    static func supportedOperations(_ reply: SupportedOperationsReply) -> String {
        let rows = reply.operations.map { item in
            [
                String(item.operation.number), item.operation.name, item.to?.name ?? "-",
                item.condition ?? item.summary,
            ]
        }
        return table(["#", "OPERATION", "TO", ""], rows)
    }

    static func supportedCopyStates(_ reply: SupportedCopyStatesReply) -> String {
        guard !reply.copyStates.isEmpty else {
            return "\(reply.operation.operation.name) is not supported: \(reply.operation.reason ?? "")"
        }
        let rows = reply.copyStates.map { item in
            [
                item.copyState.name, item.to?.name ?? "-", item.hostAccessible ? "yes" : "no", item.condition ?? "",
            ]
        }
        return table(["FROM", "TO", "HOSTS MAY USE TARGET", ""], rows)
    }

    static func pairOperations(_ reply: PairOperationsReply) -> String {
        let rows = reply.operations.map { item in
            [
                String(item.operation.number), item.operation.name, item.verdict.rawValue, item.to?.name ?? "-",
                item.reason ?? item.summary,
            ]
        }
        return "\(reply.pair) is \(reply.copyState.name)\n" + table(["#", "OPERATION", "NOW", "TO", ""], rows)
    }

    private static func names(_ states: [Enumerated], of reply: CapabilitiesReply) -> String {
        states.count == reply.copyStates.count ? "any state" : states.map(\.name).joined(separator: ", ")
    }
}
