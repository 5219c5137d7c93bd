internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair
internal import SystemPackage

/// Grow: a volume takes the size that its elements have been given, while hosts go on.
///
/// What a kill between the steps leaves, and what a start makes of it:
///
///     metadata enlarged       an area that is larger than it has to be: the volume has its former size
///     replicas have grown     those at peers are larger than their source, which is as good as equal; asking again goes on
///     REGISTRY                the volume is opened with the new size; the records of its pairs have the former one, so that what is
///                             behind that counts as different, and nothing else
///     some of the records     the same for the pairs whose records have the former size
///     all of the records      the volume and its pairs have the new size
///
/// Hosts see the new size last: a start never serves less than they have seen. What peers have to do with it is in
/// `ReplicationService+GrowReplica`.
extension ReplicationService {
    /// Gives a volume and its pairs a larger size.
    package func growVolume(
        named name: String,
        _ request: VolumeGrowRequest
    ) async throws(ControlError) -> VolumeGrowReply {
        let entry = try volumeEntry(named: name)
        let members = registry.content.pairs(of: entry)
        let subjects = ["volume \(name)"] + members.map { "pair \($0.name)" }
        var begun: [String] = []
        defer { for subject in begun { end(on: subject) } }
        for subject in subjects {
            try begin("grow", on: subject)
            begun.append(subject)
        }
        try checkAttached(entry, members)
        let wanted = try await byteCount(for: request, entry, members)
        let growth = try await prepareGrowth(of: entry, to: wanted, areas(of: members))
        if growth.toByteCount > growth.fromByteCount {
            let geometries = try await growReplicas(of: members, entry, to: growth.toByteCount)
            try await grow(entry, growth, geometries)
        }
        return VolumeGrowReply(
            name: name,
            formerByteCount: growth.fromByteCount,
            byteCount: growth.toByteCount
        )
    }

    /// Makes room in the metadata of a volume's pairs, where its elements and pairs allow for the size.
    func prepareGrowth(
        of entry: VolumeEntry,
        to byteCount: UInt64?,
        _ areas: [MetadataArea]
    ) async throws(ControlError) -> VolumeGrowth {
        do {
            return try await plane.prepareGrowth(entry.id, to: byteCount, areas)
        } catch {
            throw await growError(error, entry)
        }
    }

    /// A pair that is not attached would not hear of it, and nobody knows how large its element is.
    private func checkAttached(_ entry: VolumeEntry, _ members: [PairEntry]) throws(ControlError) {
        try checkGrowsByItself(entry)
        if let reason = volumes[entry.number]?.failure {
            throw ControlError(
                .volumeNotServed,
                "volume '\(entry.name)' cannot grow: it is not served (\(reason))",
                suggestion: "mend that, and 'replctl volume retry \(entry.name)'"
            )
        }
        if let pair = members.first(where: { $0.internalMetadata != nil }), let area = pair.internalMetadata {
            throw ControlError(
                .notInThisState,
                """
                volume '\(entry.name)' cannot grow: the metadata of pair '\(pair.name)' is in the way, at offset \(area.offset) of \
                \(area.elementPath)
                """,
                suggestion:
                    "Dissolve the pair ('replctl set \(pair.name) Dissolve'), grow, and make it again: it is compared then"
            )
        }
        for pair in members {
            guard let reason = pairs[pair.id]?.failure else { continue }
            throw ControlError(
                .notInThisState,
                "volume '\(entry.name)' cannot grow: pair '\(pair.name)' is not attached (\(reason))",
                suggestion: "mend that, or detach the pair: 'replctl set \(pair.name) Detach'"
            )
        }
    }

    private func areas(of members: [PairEntry]) -> [MetadataArea] {
        members.map { pair in
            MetadataArea(
                path: state.metadataPlace(of: pair).path,
                undoPath: state.undoPath(of: pair.id).string,
                granuleByteCount: pair.settings.granuleByteCount
            )
        }
    }

    /// The registry first: from then on a start opens the volume with the new size, whatever the records say.
    ///
    /// `geometries` are those of the volume's replicas at peers, which have grown already.
    func grow(
        _ entry: VolumeEntry,
        _ growth: VolumeGrowth,
        _ geometries: [PairID: RemoteGeometry] = [:]
    ) async throws(ControlError) {
        try commitSize(growth.toByteCount, of: entry, geometries)
        do {
            try await plane.grow(entry.id, to: growth.toByteCount)
        } catch {
            // A data plane that stops may have taken the size.
            let mayHaveGrown = error.code == .stopped || error.refusal == .stopping
            if !mayHaveGrown { takeBackSize(of: entry) }
            throw await growError(error, entry)
        }
        for pair in registry.content.pairs(of: entry) { countRevision(of: pair.id) }
        record(
            "volume-grown",
            volume: entry.name,
            message: "volume '\(entry.name)' has grown from \(growth.fromByteCount) to \(growth.toByteCount) bytes",
            level: .notice
        )
    }

    func commitSize(
        _ byteCount: UInt64?,
        of entry: VolumeEntry,
        _ geometries: [PairID: RemoteGeometry] = [:]
    ) throws(ControlError) {
        try registry.commit { content in
            guard let index = content.volumes.firstIndex(where: { $0.number == entry.number }) else { return }
            content.volumes[index].byteCount = byteCount
            for place in content.pairs.indices {
                guard let geometry = geometries[content.pairs[place].id] else { continue }
                content.pairs[place].remote?.geometry = geometry
            }
        }
    }

    private func takeBackSize(of entry: VolumeEntry) {
        do {
            try commitSize(entry.byteCount, of: entry)
        } catch {
            // Its elements have that size: no harm is done.
            logger.warning(
                "a volume that has not grown has its new size after the next start",
                metadata: ["volume": "\(entry.name)", "reason": "\(error)"]
            )
        }
    }

    // MARK: - Words

    private func growError(_ error: DataPlaneError, _ entry: VolumeEntry) async -> ControlError {
        let what = "volume '\(entry.name)' cannot grow"
        guard case .growthRefused(let refusal) = error.refusal else { return Self.controlError(error, what) }
        switch refusal {
        case .elementTooSmall(let pair, let byteCount, let wanted):
            return ControlError(
                .elementUnavailable,
                "\(what): \(await elementPath(of: pair, entry)) has \(byteCount) bytes, and \(wanted) are needed",
                suggestion: "enlarge it first, or ask for no more with --size"
            )
        case .shrink(let byteCount, let wanted):
            return ControlError(
                .invalidRequest,
                "volume '\(entry.name)' has \(byteCount) bytes, and cannot shrink to \(wanted)",
                suggestion: "a volume only grows"
            )
        case .notWholeBlocks:
            return ControlError(.invalidRequest, "\(what): \(refusal.words)")
        case .pair(let id, let obstacle):
            let name = registry.content.pair(id)?.name ?? "\(id)"
            var error = ControlError(.notInThisState, "\(what): pair '\(name)': \(obstacle.words)")
            if obstacle == .undoKept {
                error.status.suggestion =
                    "wait until it is Synchronized; ResyncReplica lets a copy go on that was interrupted"
            }
            return error
        case .closing:
            return ControlError(.notInThisState, "\(what): \(refusal.words)")
        }
    }

    /// The element of a pair that does not serve hosts, or the one that does (`nil`).
    private func elementPath(of pair: PairID?, _ entry: VolumeEntry) async -> String {
        let status = try? await planeStatus()
        let found = status?.volumes.first { $0.id == entry.id }?.pairs ?? []
        let swapped = found.first { $0.isSecondPrimary }.flatMap { registry.content.pair($0.id) }
        guard let pair, let member = registry.content.pair(pair) else {
            return swapped?.targetPath ?? entry.elementPath
        }
        return swapped?.id == pair ? entry.elementPath : member.targetPath
    }
}
