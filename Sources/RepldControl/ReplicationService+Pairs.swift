internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair
internal import SystemPackage

/// Pairs: create and detach
extension ReplicationService {
    /// Pairs a served volume with a target, remembers it, and starts the first copy unless told not to.
    package func createPair(_ request: PairCreateRequest) async throws(ControlError) -> PairReply {
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
        if registry.content.pair(named: name) != nil {
            throw ControlError(.nameInUse, "there is a pair '\(name)' already", suggestion: "choose another --name")
        }
        let path = try Self.absolute(request.targetPath, field: "targetPath")
        try checkUnused(path)
        let entry = PairEntry(
            id: Self.newPairID(),
            name: name,
            volumeNumber: volume.number,
            targetPath: path,
            settings: try pairSettings(for: request),
            createdAt: Date(),
            revisionLimit: 1 + Self.revisionBlock
        )
        if request.createsTarget ?? false { try await makeTarget(path, for: volume) }
        do {
            try await associate(entry, with: volume)
        } catch {
            if request.createsTarget ?? false { try? DurableFile.remove(FilePath(path)) }
            throw error
        }
        record("pair-created", volume: volume.name, pair: name, message: "\(path) is paired", level: .notice)
        if request.activates ?? true { try await startFirstCopy(of: entry) }
        return try await pair(named: name)
    }

    /// The order of a detach; the registry is the commit point, the rest is done again by the next start if need be.
    func detach(_ entry: PairEntry, of volume: VolumeEntry) async throws(ControlError) {
        let isAttached = pairs[entry.id]?.failure == nil
        try registry.commit { $0.pairs.removeAll { $0.id == entry.id } }
        var trouble: ControlError?
        if isAttached {
            do {
                try await plane.detachPair(entry.id)
            } catch {
                trouble = Self.controlError(error, "pair '\(entry.name)' is detached, but its target is still open")
            }
        }
        pairs[entry.id] = nil
        do {
            try DurableFile.remove(state.metadataPath(of: entry.id))
        } catch {
            logger.warning(
                "metadata of a detached pair is left over",
                metadata: ["file": "\(state.metadataPath(of: entry.id))", "reason": "\(error)"]
            )
        }
        let message = "\(entry.targetPath) is independent of volume '\(volume.name)'"
        record("pair-detached", volume: volume.name, pair: entry.name, message: message, level: .notice)
        if let trouble { throw trouble }
    }

    func pairEntry(named name: String) throws(ControlError) -> PairEntry {
        guard let entry = registry.content.pair(named: name) else {
            let known = registry.content.pairs.map(\.name)
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
    private func associate(_ entry: PairEntry, with volume: VolumeEntry) async throws(ControlError) {
        try state.makeMetadata(of: entry.id)
        do {
            try await plane.addPair(opening(of: entry, isNew: true))
        } catch {
            try? DurableFile.remove(state.metadataPath(of: entry.id))
            throw Self.controlError(error, "cannot pair \(entry.targetPath) with volume '\(volume.name)'")
        }
        do {
            try registry.commit { $0.pairs.append(entry) }
        } catch {
            try? await plane.detachPair(entry.id)
            try? DurableFile.remove(state.metadataPath(of: entry.id))
            throw error
        }
        pairs[entry.id] = PairRuntime(revision: 1)
    }

    private func startFirstCopy(of entry: PairEntry) async throws(ControlError) {
        do {
            _ = try await plane.operate(entry.id, .activate, isForced: false)
        } catch {
            throw Self.controlError(error, "pair '\(entry.name)' was made, but its first copy did not start")
        }
        noteJob(.activate, on: entry)
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
        while registry.content.pair(named: name) != nil {
            name = "\(base)-\(number)"
            number += 1
        }
        return name
    }

    private func pairSettings(for request: PairCreateRequest) throws(ControlError) -> PairSettings {
        var wanted = settings.pairDefaults
        if let granule = request.granuleByteCount { wanted.granuleByteCount = granule }
        if let depth = request.copyDepth { wanted.copyDepth = depth }
        if let seconds = request.targetTimeoutSeconds {
            guard (1...3600).contains(seconds) else {
                throw ControlError(.invalidSettings, "targetTimeoutSeconds: found \(seconds), expected 1 to 3600")
            }
            wanted.targetTimeoutNanoseconds = UInt64(seconds * 1_000_000_000)
        }
        if let fault = PairSettingsRule.fault(of: wanted) { throw ControlError(.invalidSettings, fault) }
        return wanted
    }

    private static func newPairID() -> PairID {
        var random = SystemRandomNumberGenerator()
        return PairID(high: random.next(), low: random.next())
    }
}
