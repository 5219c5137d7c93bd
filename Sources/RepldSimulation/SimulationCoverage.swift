internal import RepldCore
internal import RepldFormat
internal import RepldPair

/// What a run did, for the table of what was covered.
package struct SimulationCoverage: Sendable, Hashable {
    /// What is counted by its name alone, in the order of the table.
    package enum Count: String, Sendable, CaseIterable {
        case writes = "host writes"
        case reads = "host reads"
        case flushes = "host flushes"
        case zeroings = "host discards and write-zeroes"
        case targetRequests = "requests on targets' own exports"
        case failedRequests = "host requests that failed"
        case crashes = "crashes with loss of power"
        case crashesInGate = "crashes while an operation was under way"
        case movesTakenBack = "crashes that took a move of the primary back"
        case damagedBlocks = "metadata blocks damaged between lives"
        case exactRecoveries = "restarts of a pair with exact maps"
        case unionRecoveries = "restarts of a pair with maps that cover both sides together"
        case blindRecoveries = "restarts of a pair of which nothing was known"
        case activeExtents = "extents that were active at a crash"
        case damagedSectors = "damaged bitmap sectors found"
        case cleanRestarts = "clean restarts"
        case pairsBroken = "pairs broken"
        case synchronizations = "pairs that became Synchronized"
        case readsServedByTarget = "reads served by a target"
        case primaryMoves = "moves of the primary"
        case stuckFailovers = "failovers from a source that hangs"
        case copySettings = "changes of what movers may do"
        case refusals = "operations refused, as the table says"
        case verifies = "verifies that looked at everything they were asked to"
        case verifiesEndedEarly = "verifies that something ended"
        case verifyRechecks = "chunks written during a verify and looked at again"
        case verifyLocks = "chunks of a verify compared under a lock"
        case rottenSectors = "rotten sectors that a verify found and ResyncReplica repaired"
        case undos = "copies that keep what they overwrite"
        case undosResumed = "restarts in the middle of such a copy"
        case undosLost = "restarts at which what was kept could not be relied on"
        case rollbacks = "copies taken back, with the target as it was before"
        case examinations = "examinations away from the loop"
        case comparisonsAtRest = "comparisons of all copies at rest"
        case sourceHostCrashes = "crashes of the host with the source"
        case targetHostCrashes = "crashes of the host with the target"
        case linkRestores = "restores between hosts that began"
        case linkRestoresDone = "of those, done"
        case linkRestoresStopped = "restores between hosts that the link or a crash interrupted"
        case linkRestoresLost = "of those, such that nothing can be relied on"
        case linkRestoresGivenUp = "restores between hosts that were given up"
        case imagesChecked = "Synchronized targets found to be an image of the past"
        case plannedMoves = "moves to the other host's daemon"
        case unplannedMoves = "moves without asking the other host's daemon"
        case takenBack = "of those, after a copy was taken back"
        case forks = "of those, while the other host served"
        case meetings = "former sources that told what they have"
        case restedPairs = "other pairs that rested while their volume was a replica"
        case keptImagesChecked = "targets being copied to, whose image before that was found to be kept"
        case diskFailures = "disks of hosts that failed for a while"
        case diskHangs = "disks of hosts that hung or were slow for a while"
        case badSectors = "sectors of hosts' disks that went bad"
        case metadataFailures = "metadata areas of hosts that failed for a while"
        case hostPairsBroken = "pairs between hosts that were Broken"
        case olderHosts = "hosts that came back as they were on an older day"
        case olderMetadata = "hosts that came back with metadata of an older day"
        case olderSources = "of those, sources"
        case olderNoticed = "of those, noticed"
        case unnoticedBackups = "backups not put back, because no record was told since"
        case clockLeaps = "clocks of hosts that leapt forward"
        case clockSkews = "clocks of hosts that changed their rate"
        case pauses = "hosts that got no core for a while"
        case formerImagesChecked = "targets out of reach or Skewed found to be an image of the past"
    }

    private var counts: [String: Int] = [:]

    package init() {}

    package subscript(_ count: Count) -> Int {
        get { counts[count.rawValue] ?? 0 }
        set { counts[count.rawValue] = newValue }
    }

    mutating func accepted(_ operation: ReplicationOperation, from state: CopyState) {
        counts[Self.acceptedName(operation, state), default: 0] += 1
    }

    mutating func recovered(_ maps: RecoveredMaps, _ record: PairRecord) {
        switch maps.trust {
        case .exact: self[.exactRecoveries] += 1
        case .union: self[.unionRecoveries] += 1
        case .none: self[.blindRecoveries] += 1
        }
        self[.activeExtents] += maps.active.count
        self[.damagedSectors] += maps.damagedSectorCount
    }

    mutating func ended(_ failure: OperationFailure?) {
        counts[Self.endedName(failure), default: 0] += 1
    }

    mutating func decided(_ hosts: [ReplicationHost]) {
        for host in hosts {
            for (name, count) in zip(HandshakeCounts.rowNames, host.handshakeCounts) {
                counts[Self.handshakeName(name), default: 0] += count
            }
        }
    }

    private static func handshakeName(_ row: String) -> String { "handshake: \(row)" }

    /// Every row of the handshake that was hit, and how many were not; nothing for runs that have none.
    private var handshakeLines: [(name: String, count: Int)] {
        let rows = HandshakeCounts.rowNames.map {
            (name: Self.handshakeName($0), count: counts[Self.handshakeName($0)])
        }
        guard rows.contains(where: { $0.count != nil }) else { return [] }
        let missed = rows.filter { ($0.count ?? 0) == 0 }.count
        return rows.map { ($0.name, $0.count ?? 0) } + [("handshake rows never hit, of \(rows.count)", missed)]
    }

    private static func acceptedName(_ operation: ReplicationOperation, _ state: CopyState) -> String {
        "accepted \(operation.name) from \(state.name)"
    }

    private static func endedName(_ failure: OperationFailure?) -> String {
        switch failure {
        case nil: "operations ended: done"
        case .pairBroken: "operations ended: the pair broke"
        case .superseded: "operations ended: superseded"
        case .cancelled: "operations ended: cancelled"
        case .sourceIsReplica: "operations ended: the source became a replica"
        case .drainTimedOut: "operations ended: the drain took too long"
        case .flushFailed: "operations ended: a flush failed"
        case .recordFailed: "operations ended: no durable record"
        case .undoFailed: "operations ended: nothing could be saved"
        case .rollbackFailed: "operations ended: the copy could not be taken back"
        }
    }

    private static var endedNames: [String] {
        [
            nil, .pairBroken, .superseded(by: .detach), .cancelled, .drainTimedOut, .flushFailed(.gone),
            .recordFailed(.gone),
        ].map(endedName)
    }

    /// Everything that was counted, in a fixed order.
    package var rows: [(name: String, count: Int)] {
        counts.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    package mutating func add(_ count: Int, to name: String) { counts[name, default: 0] += count }

    package mutating func add(_ other: SimulationCoverage) {
        for row in other.rows { add(row.count, to: row.name) }
    }

    /// The tables for people: the counts, the ends of operations, and the operations by the copy states in which they
    /// were accepted (a dot where the table has no edge).
    package var table: [String] {
        func padded(_ text: String, _ width: Int) -> String {
            String(repeating: " ", count: max(0, width - text.count)) + text
        }
        var lines: [String] = []
        for name in Count.allCases.map(\.rawValue) + Self.endedNames {
            lines.append(padded(String(counts[name] ?? 0), 12) + "  " + name)
        }
        for line in handshakeLines { lines.append(padded(String(line.count), 12) + "  " + line.name) }
        let states = CopyState.allCases.filter { state in
            state != .mixed && OperationTable.rules.contains { counts[Self.acceptedName($0.operation, state)] != nil }
        }
        lines.append("")
        lines.append(padded("accepted from", 19) + states.map { padded(String($0.name.prefix(8)), 9) }.joined())
        for rule in OperationTable.rules where rule.support == .mirror {
            let cells = states.map { state in
                let count = counts[Self.acceptedName(rule.operation, state)] ?? 0
                return padded(rule.acceptedFrom.contains(state) || count > 0 ? String(count) : ".", 9)
            }
            lines.append(padded(rule.operation.name, 19) + cells.joined())
        }
        return lines
    }
}
