internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair
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
        return registry.content.pairs.sorted { $0.name < $1.name }.map { reply(for: $0, status) }
    }

    package func pair(named name: String) async throws(ControlError) -> PairReply {
        try await reply(for: pairEntry(named: name))
    }

    package func daemon() async throws(ControlError) -> DaemonReply {
        let status = try await planeStatus()
        return DaemonReply(
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

    func pairStatus(_ id: PairID) async throws(DataPlaneError) -> PairStatus? {
        try await plane.status().volumes.lazy.flatMap(\.pairs).first { $0.id == id }
    }

    static func isCopying(_ progress: ProgressStatus) -> Bool {
        progress == .synchronizing || progress == .resyncing
    }

    private func reply(for entry: VolumeEntry, _ status: EngineStatus) -> VolumeReply {
        let found = status.volumes.first { $0.id == entry.id }
        let failure = volumes[entry.number]?.failure ?? (found == nil ? "the data plane does not have it" : nil)
        let members = registry.content.pairs(of: entry).sorted { $0.name < $1.name }
        let hasBrokenPair = members.contains { member in
            let state = found?.pairs.first { $0.id == member.id }?.copyState
            return state == nil || state == .broken || state == .invalid || state == .partitioned
        }
        let health: OperationalStatus = failure != nil ? .error : hasBrokenPair ? .degraded : .okay
        return VolumeReply(
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
        let served = status.volumes.first { $0.id.rawValue == entry.volumeNumber }
        var reply = PairReply(
            name: entry.name,
            id: entry.id.description,
            sourceVolume: volume?.name ?? "",
            sourcePath: volume?.elementPath ?? "",
            targetPath: entry.targetPath,
            copyState: Enumerated(CopyState.broken),
            progressStatus: Enumerated(ProgressStatus.requiresResync),
            reason: pairs[entry.id]?.failure,
            revision: pairs[entry.id]?.revision ?? 0,
            byteCount: served?.byteCount,
            job: pairs[entry.id]?.job,
            settings: PairSettingsReply(
                granuleByteCount: entry.settings.granuleByteCount,
                targetTimeoutSeconds: Double(entry.settings.targetTimeoutNanoseconds) / 1e9,
                copyDepth: entry.settings.copyDepth
            ),
            createdAt: entry.createdAt
        )
        if let served, let pair = served.pairs.first(where: { $0.id == entry.id }) {
            fill(&reply, from: pair, volumeByteCount: served.byteCount)
        } else if reply.reason == nil {
            reply.reason = "the data plane does not have it"
        }
        return reply
    }

    private func fill(_ reply: inout PairReply, from pair: PairStatus, volumeByteCount: UInt64) {
        let isCopying = Self.isCopying(pair.progress)
        reply.copyState = Enumerated(pair.copyState)
        reply.progressStatus = Enumerated(pair.progress)
        reply.requestedCopyState = isCopying ? Enumerated(CopyState.synchronized) : .notApplicable
        reply.reason = pair.reason.isEmpty ? nil : pair.reason
        reply.dirtyByteCount = min(pair.dirtyByteCount, volumeByteCount)
        reply.percentSynced = Self.percentSynced(dirty: pair.dirtyByteCount, of: volumeByteCount)
        var copy = CopyProgress(
            totalByteCount: pair.copyTotalByteCount,
            doneByteCount: pair.copyDoneByteCount,
            writtenByteCount: pair.copyWrittenByteCount,
            zeroByteCount: pair.copyZeroByteCount,
            equalByteCount: pair.copyEqualByteCount
        )
        if isCopying {
            pairs[pair.id]?.rate.note(doneByteCount: pair.copyDoneByteCount, at: .now)
            if let rate = pairs[pair.id]?.rate.bytesPerSecond {
                copy.bytesPerSecond = rate
                let left = copy.totalByteCount - min(copy.totalByteCount, copy.doneByteCount)
                if rate > 0 { copy.secondsLeft = (left + rate - 1) / rate }
            }
        } else {
            pairs[pair.id]?.rate.reset()
        }
        if pair.copyTotalByteCount > 0 { reply.copy = copy }
    }

    /// Rounded down, so that 100 means that nothing differs.
    package static func percentSynced(dirty: UInt64, of total: UInt64) -> Int {
        guard total > 0, dirty < total else { return dirty == 0 ? 100 : 0 }
        let equal = (total - dirty).multipliedFullWidth(by: 100)
        return Int(total.dividingFullWidth(equal).quotient)
    }
}
