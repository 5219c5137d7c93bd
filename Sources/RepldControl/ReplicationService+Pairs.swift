internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair
internal import SystemPackage

/// Pairs: how they are made
extension ReplicationService {
    /// Pairs a served volume with a target, remembers it, and starts the first copy unless told not to.
    package func createPair(
        _ request: PairCreateRequest,
        for caller: Caller = .current
    ) async throws(ControlError) -> PairReply {
        let name = try pairName(for: request)
        let volumeSubject = "volume \(request.sourceVolume)"
        try begin("create pair '\(name)'", on: volumeSubject)
        defer { end(on: volumeSubject) }
        try begin("create", on: "pair \(name)")
        defer { end(on: "pair \(name)") }
        let volume = try volumeEntry(named: request.sourceVolume)
        if let reason = volumes[volume.number]?.failure {
            throw ControlError(
                .volumeNotServed,
                "volume '\(volume.name)' is not served: \(reason)",
                suggestion: "mend that, then 'replctl volume retry \(volume.name)'"
            )
        }
        try await checkOwnElementServes(volume)
        try checkIsNoReplica(volume, "cannot be a source")
        if registry.content.pair(named: name) != nil || registry.content.replica(named: name) != nil {
            throw ControlError(.nameInUse, "there is a pair '\(name)' already", suggestion: "choose another --name")
        }
        if RemoteVolumeText.isMeant(by: request.targetPath) {
            return try await createRemotePair(request, named: name, of: volume, for: caller)
        }
        try Self.checkModeIsLocal(of: request)
        let path = try Self.absolute(request.targetPath, field: "targetPath")
        try checkUnused(path)
        var entry = PairEntry(
            id: Self.newPairID(),
            name: name,
            volumeNumber: volume.number,
            targetPath: path,
            settings: try pairSettings(for: request),
            createdAt: Date(),
            revisionLimit: 1 + Self.revisionBlock
        )
        if request.createsTarget ?? false { try await makeTarget(path, for: volume) }
        entry.mark = ElementMark.find(path)
        do {
            if request.metadata == .internal {
                let overwrites = request.overwritesMetadata ?? false
                entry.internalMetadata = try await internalPlace(for: entry, of: volume, overwrites: overwrites)
            }
            let isKnown = !(request.createsTarget ?? false)
            try await associate(entry, with: volume, isKnown ? aspect(of: volume.elementPath, path) : nil)
        } catch {
            if request.createsTarget ?? false { try? DurableFile.remove(FilePath(path)) }
            throw error
        }
        if request.activates ?? true { try await startFirstCopy(of: entry, caller) }
        return try await pair(named: name)
    }

    func pairEntry(named name: String) throws(ControlError) -> PairEntry {
        guard let entry = registry.content.pair(named: name) else {
            try checkIsSource(name)
            let known = (registry.content.pairs.map(\.name) + registry.content.replicas.map(\.name))
            throw ControlError(
                .pairNotFound,
                "there is no pair '\(name)'",
                suggestion: Suggestion.nearest(to: name, among: known).map { "did you mean '\($0)'?" }
                    ?? "'replctl pair ls' lists them"
            )
        }
        return entry
    }

    /// Metadata, data plane, registry; undone in the opposite order when a later one fails.
    ///
    /// Where an aspect says that the two elements were a pair before, they are compared and not copied blindly: the new pair
    /// begins as one that is Inactive and of which every byte may differ.
    ///
    /// The metadata has a record before the registry has the pair: a blank area of a listed pair has lost its record.
    func associate(
        _ entry: PairEntry,
        with volume: VolumeEntry,
        _ aspect: SynchronizationAspect?
    ) async throws(ControlError) {
        let first = try await firstRecord(of: entry, aspect == nil ? .initialized : .inactive)
        do {
            try state.begin(first, of: entry)
        } catch {
            throw noRoom(for: entry, first.volumeByteCount, error)
        }
        do {
            let opening = try opening(of: entry, isNew: aspect == nil)
            try await plane.addPair(opening)
        } catch {
            try? state.removeFiles(of: entry)
            throw Self.controlError(error, "cannot pair \(entry.targetPath) with volume '\(volume.name)'")
        }
        do {
            try checkPeerStays(of: entry)
            try registry.commit { content in
                content.pairs.append(entry)
                // From here on the volume has a size of its own, whatever becomes of its element.
                if entry.internalMetadata != nil,
                    let index = content.volumes.firstIndex(where: { $0.number == volume.number })
                {
                    content.volumes[index].byteCount = first.volumeByteCount
                }
                // What it knew is in the pair now.
                if let aspect { content.aspects.removeAll { $0 == aspect } }
            }
        } catch {
            try? await plane.detachPair(entry.id)
            try? state.removeFiles(of: entry)
            throw error
        }
        pairs[entry.id] = PairRuntime(revision: 1)
        record(
            "pair-created",
            volume: volume.name,
            pair: entry.name,
            message: "\(entry.targetPath) is paired",
            level: .notice
        )
        guard let aspect else { return }
        record(
            "aspect-found",
            volume: volume.name,
            pair: entry.name,
            message: """
                the two elements were pair '\(aspect.name)' until \(aspect.dissolvedAt.formatted(.iso8601)): they are compared, \
                and what differs is copied
                """,
            level: .notice
        )
    }

    /// A refusal that says how much space the pair's metadata needs, where it was space that was missing.
    private func noRoom(for entry: PairEntry, _ volumeByteCount: UInt64, _ error: ControlError) -> ControlError {
        guard error.underlying as? Errno == .noSpace else { return error }
        let granule = UInt64(entry.settings.granuleByteCount)
        let needed = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: granule).areaByteCount
        return ControlError(
            .notEnoughResources,
            """
            the metadata of pair '\(entry.name)' needs \(OperationWords.bytes(needed)) in \(state.metadataPlace(of: entry))
            """,
            suggestion: "make room there, or take a larger granule, which needs less",
            underlying: error.underlying
        )
    }

    private func firstRecord(of entry: PairEntry, _ state: CopyState) async throws(ControlError) -> PairRecord {
        let served = try await planeStatus().volumes.first { $0.id.rawValue == entry.volumeNumber }
        var record = PairRecord(
            sequence: 1,
            pair: entry.id,
            volumeByteCount: served?.byteCount ?? 0,
            copyState: state.rawValue,
            isClosedCleanly: false
        )
        record.volumeBlockByteCount = served?.blockByteCount ?? 0
        return record
    }

    /// The newest aspect of two elements, whichever of them was the target.
    func aspect(of first: String, _ second: String) -> SynchronizationAspect? {
        let wanted = [ElementIdentity.key(of: first), ElementIdentity.key(of: second)]
        return registry.content.aspects.last { aspect in
            let found = [ElementIdentity.key(of: aspect.sourcePath), ElementIdentity.key(of: aspect.targetPath)]
            return found == wanted || found == wanted.reversed()
        }
    }

    /// A new pair's first element is the volume's own: while another one serves, the two would never have been equal.
    ///
    /// In a pair that was taken over from a peer it is that pair's second element, and the volume's own all the same.
    private func checkOwnElementServes(_ volume: VolumeEntry) async throws(ControlError) {
        let served = try await planeStatus().volumes.first { $0.id == volume.id }
        guard let pair = served?.pairs.first(where: { $0.isSecondPrimary && !$0.facts.isRemote }) else { return }
        throw ControlError(
            .notInThisState,
            "volume '\(volume.name)' is served by the second element of pair '\(pair.name)', not by \(volume.elementPath)",
            suggestion: "bring the service back (Failback, or ReverseRoles), or Detach '\(pair.name)' first"
        )
    }

    func startFirstCopy(of entry: PairEntry, _ caller: Caller) async throws(ControlError) {
        do {
            let made = try await situation(of: entry)
            if try holds(.activate, entry, made, isForced: false) { return }
            _ = try await hand(.activate, to: entry, made, Consent(), caller)
        } catch {
            var error = error
            error.status.message = "pair '\(entry.name)' was made, but its first copy did not start: \(error.message)"
            throw error
        }
    }

    private func makeTarget(_ path: String, for volume: VolumeEntry) async throws(ControlError) {
        guard let status = try await planeStatus().volumes.first(where: { $0.id == volume.id }) else {
            throw ControlError(.volumeNotServed, "volume '\(volume.name)' is not served")
        }
        let rounded = (status.byteCount + 4095) / 4096 * 4096
        try makeElement(path, byteCount: rounded)
    }

    private func pairName(for request: PairCreateRequest) throws(ControlError) -> String {
        if let name = request.name {
            if let fault = ObjectName.fault(of: name) { throw ControlError(.invalidName, fault) }
            return name
        }
        let base = String(request.sourceVolume.prefix(ObjectName.maximumLength - 10)) + "-mirror"
        var name = base
        var number = 2
        while registry.content.pair(named: name) != nil || registry.content.replica(named: name) != nil {
            name = "\(base)-\(number)"
            number += 1
        }
        return name
    }

    func pairSettings(for request: PairCreateRequest) throws(ControlError) -> PairSettings {
        var wanted = settings.pairDefaults
        if let granule = request.granuleByteCount { wanted.granuleByteCount = granule }
        if let depth = request.copyDepth { wanted.copyDepth = depth }
        if let seconds = request.targetTimeoutSeconds {
            guard (1...3600).contains(seconds) else {
                throw ControlError(.invalidSettings, "targetTimeoutSeconds: found \(seconds), expected 1 to 3600")
            }
            wanted.targetTimeoutNanoseconds = UInt64(seconds * 1_000_000_000)
        }
        if let keepsUndo = request.keepsUndo { wanted.keepsUndo = keepsUndo }
        if let resync = request.resync { wanted.copy = try Self.copySettings(wanted.copy, changedBy: resync) }
        if let fault = PairSettingsRule.fault(of: wanted) { throw ControlError(.invalidSettings, fault) }
        return wanted
    }

    static func newPairID() -> PairID {
        var random = SystemRandomNumberGenerator()
        return PairID(high: random.next(), low: random.next())
    }
}
