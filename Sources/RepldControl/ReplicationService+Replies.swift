internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
package import RepldPair
internal import SystemPackage

/// What the service shows
extension ReplicationService {
    /// All volumes, by name.
    package func volumeList() async throws(ControlError) -> [VolumeReply] {
        let status = try await planeStatus()
        return registry.content.volumes.sorted { $0.name < $1.name }.map { reply(for: $0, status) }
    }

    package func volume(named name: String) async throws(ControlError) -> VolumeReply {
        let entry = try volumeEntry(named: name)
        return reply(for: entry, try await planeStatus())
    }

    /// All pairs, by name.
    package func pairList() async throws(ControlError) -> [PairReply] {
        let status = try await planeStatus()
        let pairs = registry.content.pairs.map { reply(for: $0, status) }
        let replicas = registry.content.replicas.map { reply(for: $0, status) }
        return (pairs + replicas).sorted { $0.name < $1.name }
    }

    package func pair(named name: String) async throws(ControlError) -> PairReply {
        if let replica = registry.content.replica(named: name) { return reply(for: replica, try await planeStatus()) }
        return try await reply(for: pairEntry(named: name))
    }

    package func daemon() async throws(ControlError) -> DaemonReply {
        let status = try await planeStatus()
        var reply = DaemonReply(
            version: settings.version,
            pid: ProcessInfo.processInfo.processIdentifier,
            startedAt: startedAt,
            stateDirectory: state.path.string,
            controlSocket: settings.controlSocket,
            frontEnds: frontEnds.map(\.description),
            volumeCount: registry.content.volumes.count,
            pairCount: registry.content.pairs.count,
            connectionCount: status.connectionCount,
            newestEvent: log.newest
        )
        reply.host = hostID.description
        reply.peerAddress = peerListening.map { PeerAddressText.text(host: $0.host, port: $0.port) }
        return reply
    }

    /// The events after a sequence number that are still kept.
    package func events(after sequence: UInt64) -> [EventReply] { log.events(after: sequence) }

    /// Wakes who wants to look again whenever something has changed.
    package func subscribe() -> Wakeups { log.subscribe() }

    func reply(for entry: PairEntry) async throws(ControlError) -> PairReply {
        reply(for: entry, try await planeStatus())
    }

    func planeStatus() async throws(ControlError) -> EngineStatus {
        do {
            return try await plane.status()
        } catch {
            throw Self.controlError(error, "the data plane does not answer")
        }
    }

    /// What the operations table is asked about a pair, and what words about it need.
    func situation(of entry: PairEntry) async throws(ControlError) -> PairSituation {
        situation(of: entry, try await planeStatus())
    }

    func situation(of entry: PairEntry, _ status: EngineStatus) -> PairSituation {
        let served = status.volumes.first { $0.id.rawValue == entry.volumeNumber }
        let found = served?.pairs.first { $0.id == entry.id }
        let record = pairs[entry.id]?.recovery?.record
        let byteCount = served?.byteCount ?? record?.volumeByteCount ?? 0
        var words = roles(of: entry, isSecondSource: found?.isSecondSource ?? record?.isSecondSource ?? false)
        words.byteCount = byteCount
        // What is known of a pair that is not attached is what its record says; nothing of its target counts as equal.
        var unattached = PairFacts(
            copyState: .broken,
            isTargetConsistent: record?.isTargetConsistent ?? false,
            isSourceAhead: record?.isSourceAhead ?? false,
            isSourceInconsistent: record?.isSourceInconsistent ?? false,
            changedByteCount: byteCount,
            differingByteCount: byteCount
        )
        unattached.isRemote = entry.remote != nil
        return PairSituation(
            facts: found?.facts ?? unattached,
            words: words,
            blockByteCount: served?.blockByteCount,
            isAttached: found != nil,
            hasUndoArea: found?.keepsUndo ?? false,
            isSecondSource: found?.isSecondSource ?? record?.isSecondSource ?? false,
            isTargetPathPrimary: entry.remote == nil
                && (found?.isSecondPrimary ?? record?.isSecondPrimary ?? false)
        )
    }

    /// Which element is source and which is target; the size is not filled in.
    func roles(of entry: PairEntry, isSecondSource: Bool) -> PairWords {
        let own = registry.content.volume(entry.volumeNumber)?.elementPath ?? ""
        let isOwnSource = isSecondSource == entry.isSecondHere
        var words = PairWords(
            name: entry.name,
            sourcePath: isOwnSource ? own : entry.targetPath,
            targetPath: isOwnSource ? entry.targetPath : own,
            byteCount: 0
        )
        words.metadataElementPath = entry.internalMetadata?.elementPath
        return words
    }

    private func reply(for entry: VolumeEntry, _ status: EngineStatus) -> VolumeReply {
        let found = status.volumes.first { $0.id == entry.id }
        let waysOut = found.flatMap { self.waysOut(of: entry, $0) }
        let withheld = found.flatMap { withheldWords(of: entry, $0, status) }
            .map { words in waysOut.map { "\(words); \($0)" } ?? words }
        let failure =
            volumes[entry.number]?.failure ?? (found == nil ? "the data plane does not have it" : withheld)
        let members = registry.content.pairs(of: entry).sorted { $0.name < $1.name }
        let hasBrokenPair = members.contains { member in
            let state = found?.pairs.first { $0.id == member.id }?.copyState
            return state == nil || state == .broken || state == .invalid || state == .partitioned
        }
        let health: OperationalStatus = failure != nil ? .error : hasBrokenPair ? .degraded : .okay
        let server = members.filter { $0.remote == nil }.first { member in
            found?.pairs.first { $0.id == member.id }?.isSecondPrimary ?? pairs[member.id]?.recovery?.record?
                .isSecondPrimary
                ?? false
        }
        var reply = VolumeReply(
            name: entry.name,
            elementPath: entry.elementPath,
            isReadOnly: found?.isReadOnly ?? entry.isReadOnly,
            status: Enumerated(health),
            reason: failure,
            byteCount: found?.byteCount,
            blockByteCount: found?.blockByteCount,
            pairs: members.map(\.name),
            createdAt: entry.createdAt,
            activity: found.map { Self.activity(of: $0) }
        )
        reply.servingPath = server?.targetPath
        reply.replicaOf = registry.content.replica(of: entry)?.name
        reply.isWithheld = withheld == nil ? nil : true
        if let byteCount = entry.byteCount, let element = entry.mark?.byteCount, element > byteCount {
            reply.reservedByteCount = element - byteCount
        }
        return reply
    }

    private static func activity(of status: VolumeStatus) -> VolumeActivity {
        VolumeActivity(
            connectionCount: status.connectionCount,
            requestsInFlight: status.requestsInFlight,
            readCount: status.readCount,
            readByteCount: status.readByteCount,
            writeCount: status.writeCount,
            writeByteCount: status.writeByteCount,
            flushCount: status.flushCount,
            failedRequestCount: status.failedRequestCount,
            readsServedByTarget: status.readsServedByTarget
        )
    }

    private func reply(for entry: PairEntry, _ status: EngineStatus) -> PairReply {
        let volume = registry.content.volume(entry.volumeNumber)
        let now = situation(of: entry, status)
        var reply = PairReply(
            name: entry.name,
            id: entry.id.description,
            sourceVolume: volume?.name ?? "",
            sourcePath: now.words.sourcePath,
            targetPath: now.words.targetPath,
            copyState: Enumerated(CopyState.broken),
            progressStatus: Enumerated(ProgressStatus.requiresResync),
            reason: pairs[entry.id]?.failure,
            revision: pairs[entry.id]?.revision ?? 0,
            byteCount: now.words.byteCount > 0 ? now.words.byteCount : nil,
            job: jobs.newest(of: entry.id).map { self.reply(for: $0, status, showsRanges: false) },
            settings: PairSettingsReply(
                granuleByteCount: entry.settings.granuleByteCount,
                targetTimeoutSeconds: Double(entry.settings.targetTimeoutNanoseconds) / 1e9,
                copyDepth: entry.settings.copyDepth,
                keepsUndo: entry.settings.keepsUndo,
                resync: Self.reply(for: entry.settings.copy)
            ),
            createdAt: entry.createdAt
        )
        reply.peer = peerReply(of: entry, status)
        reply.role = reply.peer == nil ? nil : .source
        reply.servingPath = now.isTargetPathPrimary ? entry.targetPath : volume?.elementPath
        let place = state.metadataPlace(of: entry)
        reply.metadata = MetadataReply(
            kind: place.isInternal ? .internal : .external,
            path: place.path,
            offset: place.offset
        )
        reply.mode = Enumerated(entry.mode)
        reply.copyRecoveryMode = Enumerated(Self.recoveryMode(of: entry))
        reply.recoveryPointSeconds = entry.recoveryPointNanoseconds.map { Double($0) / 1e9 }
        reply.syncState = Enumerated(SyncState.broken)
        reply.whenSynced = entry.times.synced
        reply.whenSynchronized = entry.times.synchronized
        reply.whenActivated = entry.times.activated
        reply.whenDeactivated = entry.times.deactivated
        reply.whenSuspended = entry.times.suspended
        let served = status.volumes.first { $0.id.rawValue == entry.volumeNumber }
        if let served, let pair = served.pairs.first(where: { $0.id == entry.id }) {
            fill(&reply, from: pair, volumeByteCount: served.byteCount)
            if reply.reason == nil, pair.copyState == .broken { reply.reason = replacementWords(of: entry) }
        } else if reply.reason == nil {
            reply.reason = "the data plane does not have it"
        }
        return reply
    }

    private func fill(_ reply: inout PairReply, from pair: PairStatus, volumeByteCount: UInt64) {
        reply.copyState = Enumerated(pair.copyState)
        reply.progressStatus = Enumerated(pair.progress)
        reply.requestedCopyState = Self.requestedCopyState(pair.facts)
        reply.operation = pair.facts.operation.map { Enumerated($0) }
        reply.syncState = Enumerated(SyncState.state(of: pair.copyState, pair.facts.operation))
        reply.exposureSeconds = pair.exposureNanoseconds.map { Double($0) / 1e9 }
        reply.syncMaintained = pair.copyState == .synchronized || pair.copyState == .unsynchronized
        reply.isTargetExported = pair.isTargetExported
        reply.reason = pair.reason.isEmpty ? nil : pair.reason
        reply.dirtyByteCount = min(pair.dirtyByteCount, volumeByteCount)
        let markedByteCount = pair.facts.verifyMarkedByteCount
        reply.verifyMarkedByteCount = markedByteCount > 0 ? markedByteCount : nil
        if pair.facts.hasUndo { reply.undoByteCount = min(pair.facts.undoByteCount, volumeByteCount) }
        reply.hasUndoArea = pair.keepsUndo
        reply.percentSynced = Self.percentSynced(dirty: pair.dirtyByteCount, of: volumeByteCount)
        reply.copy = copyProgress(of: pair)
        reply.resync = pair.copyControl.map { self.reply(for: $0) }
        if reply.reason == nil, pair.progress == .requiresResume { reply.reason = "it waits for Resume" }
        if reply.reason == nil, let resync = reply.resync, pair.progress == .pending {
            reply.reason = resync.limitedBy
        }
    }

    /// How far the copy is that runs or ran last, and how fast; `nil` when there was none.
    func copyProgress(of pair: PairStatus) -> CopyProgress? {
        var copy = CopyProgress(
            totalByteCount: pair.copyTotalByteCount,
            doneByteCount: pair.copyDoneByteCount,
            writtenByteCount: pair.copyWrittenByteCount,
            zeroByteCount: pair.copyZeroByteCount,
            equalByteCount: pair.copyEqualByteCount
        )
        if !Self.isCopying(pair.facts) {
            pairs[pair.id]?.rate.reset()
        } else {
            pairs[pair.id]?.rate.note(doneByteCount: pair.copyDoneByteCount, at: .now)
            if let rate = pairs[pair.id]?.rate.bytesPerSecond {
                copy.bytesPerSecond = rate
                let left = copy.totalByteCount - min(copy.totalByteCount, copy.doneByteCount)
                if rate > 0 { copy.secondsLeft = (left + rate - 1) / rate }
            }
        }
        return pair.copyTotalByteCount > 0 ? copy : nil
    }

    /// Whether data is copied, under an operation or by itself after a start.
    package static func isCopying(_ facts: PairFacts) -> Bool {
        facts.copyState == .unsynchronized || facts.isFlowingBack
    }

    /// Where the operation that is under way leads; Not Applicable when there is none.
    static func requestedCopyState(_ facts: PairFacts) -> Enumerated {
        guard let operation = facts.operation else { return .notApplicable }
        let rule = OperationTable.rule(of: operation)
        // A copy has left the state that it was accepted in.
        let edge = rule.edge(from: facts.copyState) ?? rule.edges.first
        return Enumerated(edge?.to ?? facts.copyState)
    }

    /// Rounded down, so that 100 means that nothing differs.
    package static func percentSynced(dirty: UInt64, of total: UInt64) -> Int {
        guard total > 0, dirty < total else { return dirty == 0 ? 100 : 0 }
        let equal = (total - dirty).multipliedFullWidth(by: 100)
        return Int(total.dividingFullWidth(equal).quotient)
    }
}

/// One pair at one instant.
struct PairSituation: Hashable, Sendable {
    var facts: PairFacts
    var words: PairWords
    var blockByteCount: UInt32?
    var isAttached: Bool
    /// What a copy overwrites on a usable target is kept, unless the operation says otherwise.
    var hasUndoArea: Bool
    var isSecondSource: Bool
    /// Hosts are served by the element that is not the volume's own; a peer's never is.
    var isTargetPathPrimary: Bool
}
