internal import Foundation
internal import Logging
package import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair
internal import SystemPackage

/// The ends of pairs: Detach and Dissolve
extension ReplicationService {
    /// What dissolved pairs have left, the newest first.
    package func aspectList() -> [AspectReply] {
        registry.content.aspects.reversed().map { aspect in
            AspectReply(
                name: aspect.name,
                pair: aspect.pair,
                sourcePath: aspect.sourcePath,
                targetPath: aspect.targetPath,
                whenPointInTime: aspect.dissolvedAt,
                copyState: Enumerated(CopyState(rawValue: aspect.copyState) ?? .invalid),
                isTargetConsistent: aspect.isTargetConsistent,
                byteCount: aspect.byteCount
            )
        }
    }

    /// Ends a pair that the table lets go; the volume stays with the element that serves it.
    ///
    /// The registry is the commit point; the rest is done again by the next start if need be.
    func detach(
        _ entry: PairEntry,
        of volume: VolumeEntry,
        _ before: PairSituation,
        leavesAspect: Bool
    ) async throws(ControlError) {
        let moved = before.isTargetPathPrimary ? moved(volume, to: entry, before) : nil
        var aspect: SynchronizationAspect?
        if leavesAspect {
            aspect = SynchronizationAspect(
                pair: entry.id,
                name: entry.name,
                sourcePath: before.words.sourcePath,
                targetPath: before.words.targetPath,
                dissolvedAt: Date(),
                copyState: before.facts.copyState,
                isTargetConsistent: before.facts.isTargetConsistent,
                byteCount: before.words.byteCount
            )
        }
        endingMetadata.append((entry.name, entry.internalMetadata))
        defer { endingMetadata.removeAll { $0.0 == entry.name } }
        try commitEnd(of: entry, volume: moved, aspect: aspect)
        endJobs(of: entry.id, because: "\(leavesAspect ? "Dissolve" : "Detach") took its place")
        var trouble: ControlError?
        if before.isAttached {
            do {
                try await plane.detachPair(entry.id)
            } catch {
                trouble = Self.controlError(error, "pair '\(entry.name)' is detached, but its target is still open")
            }
        }
        forget(entry, mayBeInUse: trouble != nil)
        let free = before.isTargetPathPrimary ? volume.elementPath : entry.targetPath
        let kept = leavesAspect ? "; a record of the point in time is kept" : ""
        record(
            leavesAspect ? "pair-dissolved" : "pair-detached",
            volume: volume.name,
            pair: entry.name,
            message: "\(free) is independent of volume '\(volume.name)'\(kept)",
            level: .notice
        )
        if let moved { noteMove(of: volume, to: moved.elementPath) }
        if entry.remote != nil { await letHostsCome(afterTheEndOf: entry, volume) }
        if let trouble { throw trouble }
    }

    /// The volume with the pair's second element as its own, as large as hosts know it.
    private func moved(_ volume: VolumeEntry, to entry: PairEntry, _ situation: PairSituation) -> VolumeEntry {
        var moved = volume
        moved.elementPath = entry.targetPath
        moved.mark = entry.mark
        moved.byteCount = situation.words.byteCount
        moved.blockByteCount = situation.blockByteCount
        return moved
    }

    /// The one write that ends a pair; with it the volume gets its new element, where it does.
    private func commitEnd(
        of entry: PairEntry,
        volume: VolumeEntry?,
        aspect: SynchronizationAspect?
    ) throws(ControlError) {
        try registry.commit { content in
            content.pairs.removeAll { $0.id == entry.id }
            if let volume, let index = content.volumes.firstIndex(where: { $0.number == volume.number }) {
                content.volumes[index] = volume
            }
            if let aspect { content.keep(aspect) }
        }
    }

    /// Forgets a pair that the registry does not have any more, and removes its metadata.
    ///
    /// Not from an element where the data plane may still write it.
    private func forget(_ entry: PairEntry, mayBeInUse: Bool = false) {
        pairs[entry.id] = nil
        if mayBeInUse && entry.internalMetadata != nil { return }
        do {
            try state.removeFiles(of: entry)
        } catch {
            logger.warning(
                "metadata of a detached pair is left over",
                metadata: ["file": "\(state.metadataPlace(of: entry))", "reason": "\(error)"]
            )
        }
    }

    private func noteMove(of volume: VolumeEntry, to path: String) {
        record(
            "volume-moved",
            volume: volume.name,
            message: "volume '\(volume.name)' has \(path) as its own element now, in place of \(volume.elementPath)",
            level: .notice
        )
    }
}

/// Why nobody can be sure which element of a pair that is not attached has the newer data.
enum ServingDoubt: Hashable, Sendable {
    /// The record says that the second element serves hosts.
    case secondServes(PairRecord)
    /// The record cannot be read, or is another pair's.
    case unreadable(String)
    /// The volume's own element is not what it was.
    case replaced(String)
    /// The volume's own element cannot be opened, and the target is all there is.
    case missing(PairRecord)
    /// The volume is not served for a reason that is not this pair's, and its target may be the last good copy.
    case unserved(String)
}

/// The way out for a volume that is not served because of a pair
extension ReplicationService {
    /// What stands against forgetting a pair that is not attached; `nil` when nothing does.
    func doubt(about entry: PairEntry) -> ServingDoubt? {
        let recovery: PairRecordRecovery
        do {
            recovery = try state.readMetadata(of: entry)
        } catch {
            return .unreadable("\(error)")
        }
        switch recovery {
        case .blank:
            return .unreadable("its metadata is all zeroes, and once had a record")
        case .lost(let first, let second):
            return .unreadable("neither of its records can be read (\(first.words); \(second.words))")
        case .found(let record), .older(let record, _):
            guard record.pair == entry.id else { return .unreadable("its record is that of pair \(record.pair)") }
            if record.isSecondPrimary, entry.remote == nil { return .secondServes(record) }
            let volume = volumes[entry.volumeNumber]
            if volume?.isOwnElementLost ?? false { return .missing(record) }
            if let replacement = volume?.replacement { return .replaced(replacement) }
            return volume?.failure.map { .unserved($0) }
        }
    }

    /// Detach of a pair that keeps its volume from being served: only with force.
    ///
    /// The volume goes on with the element that the record says serves it. It goes on with the other one, an older copy, only
    /// where the first could not be opened, and the operator was told so before.
    func detachDoubtful(
        _ entry: PairEntry,
        of volume: VolumeEntry,
        _ doubt: ServingDoubt,
        isForced: Bool
    ) async throws(ControlError) -> MethodReply {
        guard isForced else { throw refusal(of: entry, volume, doubt) }
        // Its peer would take whatever element comes in its place for the one that it knows.
        try checkIsNoReplica(volume, "cannot go on with another element")
        // What serves from here on may not be what the other targets are copies of, and hosts may connect before those are
        // attached.
        for pair in unattached(of: volume, besides: entry) { try state.leaveToOperator(pair) }
        if case .secondServes = doubt { try state.forgetCleanClose(of: entry) }
        let isOnlyClaim = otherClaim(besides: entry, of: volume) == nil
        if case .secondServes(let record) = doubt, isOnlyClaim {
            return try await detachServing(entry, of: volume, record)
        }
        if case .missing(let record) = doubt {
            if let fault = faultOfTarget(of: entry, record) {
                try commitEnd(of: entry, volume: nil, aspect: nil)
                return try await goOn(
                    without: entry,
                    volume,
                    "\(entry.name) was given up: \(entry.targetPath) \(fault)"
                )
            }
            let moved = moved(volume, to: entry, record)
            // First, so that no start takes the element that is gone for the newer one when it is back.
            try commitEnd(of: entry, volume: moved, aspect: nil)
            noteMove(of: volume, to: moved.elementPath)
            return try await goOn(without: entry, moved, "\(volume.elementPath), which is missing, was given up")
        }
        var accepted = volume
        if case .replaced = doubt { accepted.mark = ElementMark.find(volume.elementPath) }
        try commitEnd(of: entry, volume: accepted, aspect: nil)
        return try await goOn(without: entry, accepted, "'\(entry.name)' was given up, and with it \(entry.targetPath)")
    }

    /// Detaches the pair whose second element serves, and gives that to the volume, or the first one where that is all
    /// there is.
    private func detachServing(
        _ entry: PairEntry,
        of volume: VolumeEntry,
        _ record: PairRecord
    ) async throws(ControlError) -> MethodReply {
        let moved = moved(volume, to: entry, record)
        let geometry: ElementGeometry
        do {
            geometry = try await plane.addVolume(opening(of: moved))
        } catch {
            guard volumes[volume.number]?.isServingElementLost ?? false else {
                volumes[volume.number]?.isServingElementLost = true
                throw ControlError(
                    .elementUnavailable,
                    "\(entry.targetPath), which served the hosts of volume '\(volume.name)' last, cannot be opened",
                    suggestion: """
                        mend it; or say Detach with force once more, and the volume goes on with \(volume.elementPath), \
                        an older copy that lacks what hosts have written since
                        """,
                    underlying: error
                )
            }
            try commitEnd(of: entry, volume: nil, aspect: nil)
            return try await goOn(
                without: entry,
                volume,
                """
                \(entry.targetPath) was given up, and what hosts wrote to it last is lost: it cannot be opened (\(error)); \
                \(volume.elementPath) is an older copy
                """
            )
        }
        do {
            try commitEnd(of: entry, volume: moved, aspect: nil)
        } catch {
            try await takeAway(volume, because: "the registry cannot be written")
            throw error
        }
        volumes[volume.number] = VolumeRuntime(geometry: geometry)
        endJobs(of: entry.id, because: "Detach took its place")
        forget(entry)
        try await attachPairs(of: moved, on: nil)
        noteMove(of: volume, to: moved.elementPath)
        return served(moved, "\(volume.elementPath) was given up; the volume goes on with \(moved.elementPath)")
    }

    private func moved(_ volume: VolumeEntry, to entry: PairEntry, _ record: PairRecord) -> VolumeEntry {
        var moved = volume
        moved.elementPath = entry.targetPath
        moved.mark = ElementMark.find(entry.targetPath)
        moved.byteCount = volume.byteCount ?? record.volumeByteCount
        moved.blockByteCount = record.volumeBlockByteCount == 0 ? nil : record.volumeBlockByteCount
        return moved
    }

    /// Why the target of a pair that is not attached cannot take the place of the volume's element; `nil` when it can.
    private func faultOfTarget(of entry: PairEntry, _ record: PairRecord) -> String? {
        if let remote = entry.remote { return "is at peer '\(remote.peer)', and not an element of this host" }
        let isUsable = record.isTargetConsistent || record.copyState == CopyState.synchronized.rawValue
        guard isUsable, !record.isSecondSource else { return "is no usable image" }
        guard let now = ElementMark.find(entry.targetPath) else { return "is missing as well" }
        if let mark = entry.mark, !mark.isSame(as: now) { return "is not what it was: it was \(mark.words)" }
        return now.byteCount < record.volumeByteCount ? "is too small" : nil
    }

    /// Opens a volume again that a pair kept from being served, with the element that is left.
    private func goOn(
        without entry: PairEntry,
        _ volume: VolumeEntry,
        _ words: String
    ) async throws(ControlError) -> MethodReply {
        endJobs(of: entry.id, because: "Detach took its place")
        forget(entry)
        record("pair-given-up", volume: volume.name, pair: entry.name, message: words, level: .error)
        if volumes[volume.number]?.failure != nil { try await open(volume) }
        return served(volume, words)
    }

    private func served(_ volume: VolumeEntry, _ words: String) -> MethodReply {
        let outcome = volumes[volume.number]?.failure.map { "; it is still not served: \($0)" } ?? ""
        let status = ExtendedStatus(code: "pair-given-up", message: words + outcome)
        return MethodReply(returnCode: .success, extendedStatus: status)
    }

    /// The other pairs of a volume that the data plane does not have: only their records may be changed here.
    private func unattached(of volume: VolumeEntry, besides entry: PairEntry) -> [PairEntry] {
        registry.content.pairs(of: volume).filter { $0.id != entry.id && pairs[$0.id]?.failure != nil }
    }

    /// Another pair of the volume whose record says that its second element serves.
    private func otherClaim(besides entry: PairEntry, of volume: VolumeEntry) -> PairEntry? {
        registry.content.pairs(of: volume).first { other in
            guard other.id != entry.id, case .secondServes = doubt(about: other) else { return false }
            return true
        }
    }

    private func outcome(ofGivingUp first: String, for entry: PairEntry, _ record: PairRecord) -> String {
        if let fault = faultOfTarget(of: entry, record) {
            return "\(entry.targetPath) \(fault), and the volume would be left with \(first), which cannot be opened"
        }
        let isInSync = record.copyState == CopyState.synchronized.rawValue
        let image = isInSync ? "which was in sync" : "a usable image that may lack what hosts have written since"
        return """
            the volume would go on with \(entry.targetPath), \(image), and \(first), which cannot be opened, would be given up
            """
    }

    private func refusal(
        of entry: PairEntry,
        _ volume: VolumeEntry,
        toGiveUpServing record: PairRecord,
        _ what: String
    ) -> ControlError {
        let first = volume.elementPath
        let second = entry.targetPath
        let isLost = volumes[volume.number]?.isServingElementLost ?? false
        let other = otherClaim(besides: entry, of: volume)
        let outcome =
            if let other {
                """
                \(second) would be given up, with what hosts may have written to it, and the volume would go on with \
                \(other.targetPath) of pair '\(other.name)', which claims to serve as well
                """
            } else if isLost {
                """
                if \(second) still cannot be opened, the volume would go on with \(first), an older copy that lacks what \
                hosts have written to \(second) since, up to \(OperationWords.bytes(record.volumeByteCount))
                """
            } else {
                "the volume would go on with \(second), which served its hosts last, and \(first) would be given up"
            }
        let retry = "mend \(isLost ? second : first) and 'replctl volume retry \(volume.name)'"
        var error = ControlError(
            .needsForce,
            "\(what): \(outcome)\(volumes[volume.number]?.replacement.map { "; but \($0)" } ?? "")",
            suggestion: other == nil ? "\(retry), or say --force" : "say --force if that may be"
        )
        error.status.bytesAtStake = record.volumeByteCount
        return error
    }

    private func refusal(of entry: PairEntry, _ volume: VolumeEntry, _ doubt: ServingDoubt) -> ControlError {
        let first = volume.elementPath
        let second = entry.targetPath
        let what = "Detach of pair '\(entry.name)', which is not attached, needs force"
        var error: ControlError
        switch doubt {
        case .unreadable(let words):
            error = ControlError(
                .needsForce,
                """
                \(what): \(words), so that nobody can say whether \(first) or \(second) has the newer data; the volume \
                would go on with \(first)
                """,
                suggestion: "put back the pair's metadata and 'replctl volume retry \(volume.name)', or say --force"
            )
        case .replaced(let words):
            error = ControlError(
                .needsForce,
                """
                \(what): the volume would go on with \(first) as it is, and \(second), which may be the last good copy, would \
                be given up: \(words)
                """,
                suggestion: "put back what was there and 'replctl volume retry \(volume.name)', or say --force"
            )
        case .missing(let record):
            error = ControlError(
                .needsForce,
                "\(what): \(outcome(ofGivingUp: first, for: entry, record))",
                suggestion: "mend \(first) and 'replctl volume retry \(volume.name)', or say --force"
            )
            error.status.bytesAtStake = record.volumeByteCount
        case .unserved(let words):
            error = ControlError(
                .needsForce,
                """
                \(what): volume '\(volume.name)' is not served (\(words)), and \(second), which may be the last good copy, would be \
                given up
                """,
                suggestion: "mend that and 'replctl volume retry \(volume.name)', or say --force"
            )
        case .secondServes(let record):
            error = refusal(of: entry, volume, toGiveUpServing: record, what)
        }
        for other in unattached(of: volume, besides: entry) {
            error.status.message += """
                ; pair '\(other.name)' stays Suspended until Resume, which overwrites \(other.targetPath) with what serves then
                """
        }
        error.status.copyState = Enumerated(CopyState.broken)
        error.status.revision = pairs[entry.id]?.revision
        return error
    }
}
