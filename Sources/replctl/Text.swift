import Foundation
import RepldControlAPI

/// Replies in words and tables for people.
enum Text {
    static func volumes(_ reply: VolumeListReply) -> String {
        guard !reply.volumes.isEmpty else { return "no volumes; 'replctl volume add' makes one" }
        let rows = reply.volumes.map { volume in
            [
                volume.name, volume.byteCount.map(ByteCount.format) ?? "-",
                volume.isWithheld == true ? "withheld" : volume.status.name,
                volume.activity.map { String($0.connectionCount) } ?? "-",
                volume.replicaOf.map { "replica of \($0)" }
                    ?? (volume.pairs.isEmpty ? "-" : volume.pairs.joined(separator: ",")), volume.elementPath,
            ]
        }
        return table(["NAME", "SIZE", "STATUS", "CLIENTS", "PAIRS", "ELEMENT"], rows)
    }

    static func volume(_ volume: VolumeReply) -> String {
        var rows = [
            ("Volume", volume.name),
            ("Status", volume.status.name + (volume.reason.map { ": \($0)" } ?? "")),
            ("Element", volume.elementPath + (volume.isReadOnly ? " (read-only)" : "")),
        ]
        if let path = volume.servingPath { rows.append(("Served from", "\(path), the second element of a pair")) }
        if volume.isWithheld == true {
            rows.append(
                ("Then", "wait for the peer; 'replctl volume serve \(volume.name)' says what it risks not to")
            )
        } else if volume.reason != nil {
            rows.append(("Then", "mend that, and 'replctl volume retry \(volume.name)'"))
        }
        if let count = volume.byteCount {
            let block = volume.blockByteCount.map { ", blocks of \($0) bytes" } ?? ""
            rows.append(("Size", "\(ByteCount.format(count)) (\(count) bytes)\(block)"))
        }
        if let count = volume.reservedByteCount {
            rows.append(
                (
                    "Reserve",
                    "\(ByteCount.format(count)) (\(count) bytes) of the element behind the volume, for metadata"
                )
            )
        }
        rows.append(("Pairs", volume.pairs.isEmpty ? "none" : volume.pairs.joined(separator: ", ")))
        if let pair = volume.replicaOf {
            rows.append(("Replica", "of pair \(pair); only the peer writes it, and hosts cannot use it"))
        }
        if let activity = volume.activity {
            rows += [
                ("Clients", "\(activity.connectionCount) connected, \(activity.requestsInFlight) requests in flight"),
                ("Read", "\(ByteCount.format(activity.readByteCount)) in \(activity.readCount) requests"),
                ("Written", "\(ByteCount.format(activity.writeByteCount)) in \(activity.writeCount) requests"),
                ("Flushes", String(activity.flushCount)),
                ("Failed", "\(activity.failedRequestCount) requests"),
                ("From target", "\(activity.readsServedByTarget) reads that the source could not serve"),
            ]
        }
        return fields(rows)
    }

    static func grown(_ reply: VolumeGrowReply) -> String {
        let size = "\(ByteCount.format(reply.byteCount)) (\(reply.byteCount) bytes)"
        if reply.byteCount == reply.formerByteCount { return "volume \(reply.name) holds \(size) already" }
        return "volume \(reply.name) has grown from \(ByteCount.format(reply.formerByteCount)) to \(size)"
    }

    static func pairs(_ reply: PairListReply) -> String {
        guard !reply.pairs.isEmpty else { return "no pairs; 'replctl pair create' makes one" }
        let rows = reply.pairs.map { pair in
            [
                pair.name, pair.sourceVolume, pair.copyState.name, pair.percentSynced.map { "\($0)%" } ?? "-",
                pair.dirtyByteCount.map(ByteCount.format) ?? "-", exposure(pair), pair.targetPath,
            ]
        }
        let header = ["NAME", "SOURCE", "STATE", "SYNCED", "DIFFERS", "EXPOSURE", "TARGET"]
        guard reply.pairs.contains(where: { $0.role != nil }) else { return table(header, rows) }
        // Only where there is another host.
        let hosts = reply.pairs.map { pair in
            [
                pair.role?.rawValue ?? "both", pair.peer?.name ?? "-",
                pair.peer.map { $0.isConnected ? "connected" : "away" } ?? "-",
            ]
        }
        return table(
            [header[0]] + ["ROLE", "PEER", "LINK"] + header.dropFirst(),
            zip(rows, hosts).map { row, host in [row[0]] + host + row.dropFirst() }
        )
    }

    static func pair(_ pair: PairReply) -> String {
        var rows = [
            ("Pair", "\(pair.name) (\(pair.id))"),
            ("Volume", pair.sourceVolume),
        ]
        rows += peer(of: pair)
        rows += [
            ("Source", pair.sourcePath + (pair.servingPath == pair.sourcePath ? " (serves the hosts)" : "")),
            ("Target", pair.targetPath + (pair.servingPath == pair.targetPath ? " (serves the hosts)" : "")),
            ("Mode", "\(pair.mode.name) \(pair.syncType.name.lowercased())"),
            ("State", pair.copyState.name + (pair.reason.map { ": \($0)" } ?? "")),
            ("Progress", pair.progressStatus.name),
        ]
        if pair.requestedCopyState != .notApplicable {
            let operation = pair.operation.map { " (\($0.name))" } ?? ""
            rows.append(("Becomes", pair.requestedCopyState.name + operation))
        }
        if pair.isTargetExported == true {
            rows.append(("Export", "the target has an export of its own, which is open"))
        }
        if let percent = pair.percentSynced, let dirty = pair.dirtyByteCount {
            rows.append(("Synced", "\(percent)%, \(ByteCount.format(dirty)) may differ"))
        }
        if pair.role != .replica { rows.append(("Exposure", exposure(pair) + recoveryPoint(pair))) }
        if let marked = pair.verifyMarkedByteCount {
            rows.append(
                ("Verify", "\(ByteCount.format(marked)) differing bytes found by verify; ResyncReplica repairs them")
            )
        }
        if let kept = undo(pair) { rows.append(("Undo", kept)) }
        if let copy = pair.copy {
            rows.append(
                (
                    "Copy",
                    """
                    \(ByteCount.format(copy.doneByteCount)) of \(ByteCount.format(copy.totalByteCount)): \
                    \(ByteCount.format(copy.writtenByteCount)) written, \(ByteCount.format(copy.zeroByteCount)) zero, \
                    \(ByteCount.format(copy.equalByteCount)) equal
                    """
                )
            )
            if let speed = speed(copy) { rows.append(("Speed", speed)) }
        }
        if let job = pair.job { rows.append(("Job", "\(job.id): \(job.operation.name), \(job.state.name)")) }
        rows += settings(pair) + resync(pair)
        if pair.role == .replica { return fields(rows + [("Established", time(pair.whenEstablished))]) }
        rows.append(("Recovery", recovery(pair)))
        rows.append(("Established", time(pair.whenEstablished)))
        let times = [
            ("Activated", pair.whenActivated), ("Synchronized", pair.whenSynchronized),
            ("Point in time", pair.whenSynced),
            ("Suspended", pair.whenSuspended), ("Deactivated", pair.whenDeactivated),
        ]
        for (name, date) in times { if let date { rows.append((name, time(date))) } }
        rows.append(("Revision", String(pair.revision)))
        return fields(rows)
    }

    private static func recovery(_ pair: PairReply) -> String {
        [pair.copyRecoveryMode, pair.copyMethodology, pair.replicaType].map { $0?.name ?? "-" }.joined(separator: ", ")
    }

    /// How old what the target lacks is.
    private static func exposure(_ pair: PairReply) -> String {
        pair.role == .replica ? "-" : pair.exposureSeconds.map(SecondsText.format) ?? "unknown"
    }

    private static func recoveryPoint(_ pair: PairReply) -> String {
        guard let seconds = pair.recoveryPointSeconds else { return "" }
        let isInForce = pair.mode == Enumerated(ReplicationMode.asynchronous)
        return ", Skewed from \(SecondsText.format(seconds)) on" + (isInForce ? "" : " when asynchronous")
    }

    private static func settings(_ pair: PairReply) -> [(String, String)] {
        if pair.role == .replica { return [] }
        let timeout = DurationText.format(seconds: UInt64(pair.settings.targetTimeoutSeconds))
        let granule = ByteCount.format(UInt64(pair.settings.granuleByteCount))
        let words =
            "granule \(granule), target timeout \(timeout), copy depth \(pair.settings.copyDepth)"
            + (pair.settings.keepsUndo ? "" : ", no undo")
        guard let place = pair.metadata else { return [("Settings", words)] }
        let offset = place.kind == .internal ? ", internal, at offset \(place.offset)" : ""
        return [("Settings", words), ("Metadata", place.path + offset)]
    }

    /// What can be taken back, or why nothing can.
    private static func undo(_ pair: PairReply) -> String? {
        if let count = pair.undoByteCount {
            return "\(ByteCount.format(count)) kept; Failover takes the copy back, to the image that the target held"
        }
        guard pair.settings.keepsUndo, pair.hasUndoArea == false else { return nil }
        return "the undo area cannot be used, and the log says why; what a copy overwrites cannot be taken back"
    }

    /// One line of `pair watch`; with a bar where it is redrawn.
    static func progressLine(_ pair: PairReply, barWidth: Int?) -> String {
        var parts = [pair.name]
        let isCopying = pair.requestedCopyState != .notApplicable
        if isCopying, let copy = pair.copy, copy.totalByteCount > 0 {
            let share = Double(min(copy.doneByteCount, copy.totalByteCount)) / Double(copy.totalByteCount)
            if let barWidth {
                let filled = Int(share * Double(barWidth))
                let bar = String(repeating: "#", count: filled) + String(repeating: ".", count: barWidth - filled)
                parts.append("[\(bar)]")
            }
            parts.append("\(Int(share * 100))%")
            parts.append("\(ByteCount.format(copy.doneByteCount)) of \(ByteCount.format(copy.totalByteCount))")
            if let speed = speed(copy) { parts.append(speed) }
        }
        parts.append(pair.copyState.name)
        if isCopying { parts.append("(\(pair.progressStatus.name))") }
        if let reason = pair.reason { parts.append("- \(reason)") }
        return parts.joined(separator: "  ")
    }

    static func daemon(_ daemon: DaemonReply) -> String {
        fields([
            ("Version", daemon.version),
            ("Process", String(daemon.pid)),
            ("Since", time(daemon.startedAt)),
            ("State", daemon.stateDirectory),
            ("Control", daemon.controlSocket),
            ("Hosts at", daemon.frontEnds.isEmpty ? "nowhere" : daemon.frontEnds.joined(separator: "\n")),
            ("Peers at", daemon.peerAddress ?? "nowhere"),
            ("Host id", daemon.host ?? "-"),
            ("Volumes", String(daemon.volumeCount)),
            ("Pairs", String(daemon.pairCount)),
            ("Clients", String(daemon.connectionCount)),
        ])
    }

    static func event(_ event: EventReply) -> String {
        let subject = [event.volume, event.pair].compactMap { $0 }.joined(separator: "/")
        let place = subject.isEmpty ? "" : " \(subject):"
        return "\(event.sequence)  \(time(event.time))  \(event.kind)\(place) \(event.message)"
    }

    private static func speed(_ copy: CopyProgress) -> String? {
        guard let rate = copy.bytesPerSecond else { return nil }
        let left = copy.secondsLeft.map { ", \(DurationText.format(seconds: $0)) left" } ?? ""
        return "\(ByteCount.format(rate))/s\(left)"
    }

    static func time(_ date: Date) -> String { date.formatted(Date.ISO8601FormatStyle()) }

    /// Names and values, the values under each other.
    static func fields(_ rows: [(String, String)]) -> String {
        let width = rows.map(\.0.count).max() ?? 0
        let indent = "\n" + String(repeating: " ", count: width + 2)
        return rows.map { row in
            row.0 + String(repeating: " ", count: width + 2 - row.0.count) + row.1.replacing("\n", with: indent)
        }.joined(separator: "\n")
    }

    /// Columns as wide as their widest cell; the last is not padded.
    static func table(_ header: [String], _ rows: [[String]]) -> String {
        let all = [header] + rows
        let widths = header.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
        return all.map { row in
            row.enumerated().map { column, cell in
                let isLast = column == row.count - 1
                return isLast ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
            }.joined(separator: "  ")
        }.joined(separator: "\n")
    }
}
