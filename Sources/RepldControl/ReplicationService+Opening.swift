internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair
internal import SystemPackage

/// Opening and attaching
extension ReplicationService {
    /// Opens a volume on the element that has its data, attaches its pairs, and notes what failed.
    ///
    /// Only before hosts can connect, or after its pairs no longer count as cleanly closed: between the two steps a host could
    /// write what a pair never hears of.
    ///
    /// Throws when a volume that must not be served cannot be taken away again.
    func open(_ entry: VolumeEntry) async throws(ControlError) {
        switch servingElement(of: entry) {
        case .nobody(let reason):
            fail(entry, reason)
        case .first:
            let known = knownByteCount(of: entry)
            let path = entry.elementPath
            if let reason = objection(toServing: path, entry.mark, known ?? entry.mark?.byteCount, of: entry) {
                return failReplaced(entry, reason)
            }
            var opening = opening(of: entry)
            // An element that has grown does not make the volume grow.
            opening.byteCount = known
            let replica = registry.content.replica(of: entry)
            opening.awaitedPeerCount = awaitedPeerCount(of: entry)
            // Of a replica no host may see anything, and nothing of it may be copied, not even for a moment.
            opening.isReplica = replica != nil
            guard await serve(opening) else { return failWithoutOwnElement(entry) }
            // Before the peer writes what a pair that comes later has missed.
            try await attachPairs(of: entry, on: nil)
            if let replica, volumes[entry.number]?.failure == nil {
                guard try await attach(replica, to: entry) else { return }
            }
            noteElements(of: entry.number)
        case .second(let id, _, _, _) where registry.content.replica(of: entry) != nil:
            let name = registry.content.pair(id)?.name ?? ""
            fail(entry, "it is a peer's replica, and hosts were served by the target of pair '\(name)'")
        case .second(let id, let path, let byteCount, let blockByteCount):
            var opening = opening(of: entry)
            opening.path = path
            // A pair's record may not have heard yet that the volume has grown.
            opening.byteCount = entry.byteCount ?? byteCount
            opening.blockByteCount = blockByteCount
            opening.awaitedPeerCount = awaitedPeerCount(of: entry)
            if let reason = objection(toServing: path, registry.content.pair(id)?.mark, byteCount, of: entry) {
                return failReplaced(entry, reason)
            }
            if await serve(opening) {
                try await attachPairs(of: entry, on: id)
                return noteElements(of: entry.number)
            }
            let name = registry.content.pair(id)?.name ?? ""
            let reason = volumes[entry.number]?.failure ?? ""
            fail(
                entry,
                """
                hosts were served by \(path) of pair '\(name)' last: \(reason); mend that, or give it up: 'replctl set \
                \(name) Detach' says what is lost
                """
            )
            volumes[entry.number]?.isServingElementLost = true
        }
    }

    /// Reads the records of a volume's pairs, and decides by them which element serves.
    private func servingElement(of entry: VolumeEntry) -> ServingElement {
        var found: [(entry: PairEntry, recovery: PairRecordRecovery, metadata: MetadataPlace)] = []
        for pair in registry.content.pairs(of: entry) {
            let place = state.metadataPlace(of: pair)
            do {
                found.append((pair, try PairMetadata.read(place), place))
            } catch {
                return .unreadable(pair, place, because: error)
            }
        }
        for pair in found { pairs[pair.entry.id]?.recovery = pair.recovery }
        return ServingElement.decide(found)
    }

    /// Lets the data plane open and serve; false when it cannot, with the reason in the volume's failure.
    private func serve(_ opening: VolumeOpening) async -> Bool {
        do {
            let geometry = try await plane.addVolume(opening)
            volumes[opening.id.rawValue] = VolumeRuntime(geometry: geometry)
            return true
        } catch {
            volumes[opening.id.rawValue] = VolumeRuntime(failure: "\(error)")
            return false
        }
    }

    /// Attaches the pairs of a volume that is served; `server` is the pair whose second element serves it.
    ///
    /// That one has to attach. The volume goes on without another one, if that is made safe.
    func attachPairs(of entry: VolumeEntry, on server: PairID?) async throws(ControlError) {
        let members = registry.content.pairs(of: entry)
        for pair in members.filter({ $0.id == server }) + members.filter({ $0.id != server }) {
            do {
                if try await attach(pair) { await resume(pair) }
            } catch {
                if pair.id == server {
                    let reason = """
                        hosts were served by \(pair.targetPath) of pair '\(pair.name)' last, and the pair cannot be attached, so \
                        that what they write would be unknown to it: \(error); mend \(entry.elementPath), or give it up: \
                        'replctl set \(pair.name) Detach' says what is lost
                        """
                    try await takeAway(entry, because: reason)
                    fail(entry, reason)
                    return
                }
                guard try await serveWithout(pair, of: entry, because: "\(error)") else { return }
            }
        }
    }

    /// Attaches a pair whose volume is served; a copy that was running goes on by itself.
    ///
    /// Answers whether its volume was served without it, or was a replica, so that it waits for Resume.
    func attach(_ entry: PairEntry) async throws(ControlError) -> Bool {
        let forgotten = try forgetReplacedTarget(of: entry)
        let record = try state.readMetadata(of: entry).record
        let opening = try opening(of: entry, isNew: false)
        do {
            try await plane.addPair(opening)
        } catch {
            if let forgotten { try rememberTarget(forgotten, of: entry) }
            throw Self.controlError(error, "cannot attach pair '\(entry.name)' to \(entry.targetPath)")
        }
        pairs[entry.id]?.failure = nil
        await resumeMode(of: entry)
        let isLeftBehind = record.map { PairMetadata.isLeftBehind($0) } ?? false
        if isInReplica(entry) {
            if isLeftBehind { setResting([entry.id], true) }
            return false
        }
        return isLeftBehind || registry.content.pair(entry.id)?.isResting ?? false
    }

    /// Lets the data plane know of a mode that it does not begin with.
    func resumeMode(of entry: PairEntry) async {
        // What is set may have changed while the pair was attached.
        let entry = registry.content.pair(entry.id) ?? entry
        guard entry.remote != nil, entry.mode == .asynchronous else { return }
        do {
            try await handMode(of: entry)
        } catch {
            let words =
                "hosts wait for the peer until 'replctl set \(entry.name) ResetToSync' and ResetToAsync: \(error)"
            record("mode-not-set", pair: entry.name, message: words, level: .error)
        }
    }

    /// Lets a pair that is Suspended catch up.
    func resume(_ entry: PairEntry) async {
        do {
            _ = try await plane.operate(entry.id, .resume, isForced: false)
        } catch {
            record(
                "pair-not-resumed",
                volume: registry.content.volume(entry.volumeNumber)?.name,
                pair: entry.name,
                message: "it stays Suspended until 'replctl set \(entry.name) Resume': \(error)",
                level: .error
            )
        }
    }

    /// The volume on its own element, with the size that hosts know.
    func opening(of entry: VolumeEntry) -> VolumeOpening {
        VolumeOpening(
            id: entry.id,
            name: entry.name,
            path: entry.elementPath,
            isReadOnly: entry.isReadOnly,
            byteCount: entry.byteCount,
            blockByteCount: entry.blockByteCount
        )
    }

    /// The pair on the element of the two that does not serve.
    func opening(of entry: PairEntry, isNew: Bool) throws(ControlError) -> PairOpening {
        let record = isNew ? nil : try state.readMetadata(of: entry).record
        let isSecondPrimary = record?.isSecondPrimary ?? false
        let first = registry.content.volume(entry.volumeNumber)?.elementPath
        var opening = PairOpening(
            id: entry.id,
            name: entry.name,
            volume: VolumeID(rawValue: entry.volumeNumber),
            target: try target(of: entry, instead: isSecondPrimary ? first : nil),
            metadata: state.metadataPlace(of: entry),
            undoPath: state.undoPath(of: entry.id).string,
            settings: entry.settings,
            isNew: isNew
        )
        opening.awaitsPeer = !isNew && asksPeer(entry, record)
        return opening
    }

    /// Whether the peer of a pair may have taken it over while this daemon was away, and so has to be asked.
    ///
    /// Not where there never was anything to take over, and not while the peer it was taken over from has not been met.
    func asksPeer(_ entry: PairEntry, _ record: PairRecord?) -> Bool {
        entry.remote != nil && entry.isPeerMet && record?.copyState != CopyState.initialized.rawValue
    }

    /// How many peers have to be asked before hosts may use a volume, also for pairs that turn out not to attach.
    private func awaitedPeerCount(of entry: VolumeEntry) -> Int {
        registry.content.pairs(of: entry).count { asksPeer($0, pairs[$0.id]?.recovery?.record) }
    }

    /// The element that does not serve: a peer's, or of two of this host `path`, where that is the first one.
    private func target(of entry: PairEntry, instead path: String?) throws(ControlError) -> TargetOpening {
        guard let remote = entry.remote else { return .local(path: path ?? entry.targetPath) }
        guard let peer = registry.content.peer(named: remote.peer) else {
            throw ControlError(.peerNotFound, "pair '\(entry.name)': there is no peer '\(remote.peer)'")
        }
        return .remote(peer.id, remote.geometry.element)
    }

    /// Keeps a volume served whose pair could not be attached, and answers true; when that cannot be made safe, takes the
    /// volume and the pairs that were attached already away again.
    ///
    /// Not for a pair whose second element serves.
    private func serveWithout(
        _ pair: PairEntry,
        of entry: VolumeEntry,
        because reason: String
    ) async throws(ControlError) -> Bool {
        do {
            try state.forgetCleanClose(of: pair)
            pairs[pair.id]?.recovery = try state.readMetadata(of: pair)
            pairs[pair.id]?.failure = reason
            record("pair-not-attached", volume: entry.name, pair: pair.name, message: reason, level: .error)
            return true
        } catch {
            let reason = "\(error); without that, writes would be unknown to pair '\(pair.name)'"
            try await takeAway(entry, because: reason)
            fail(entry, reason)
            return false
        }
    }

    /// Takes a volume away that must not be served; it has to go, or hosts must not be let in at all.
    func takeAway(_ entry: VolumeEntry, because reason: String) async throws(ControlError) {
        do {
            let attached = try await plane.status().volumes.first { $0.id == entry.id }?.pairs ?? []
            for pair in attached { try await plane.detachPair(pair.id) }
            try await plane.removeVolume(entry.id, isForced: true)
        } catch {
            throw Self.controlError(
                error,
                "volume '\(entry.name)' must not be served (\(reason)), and does not go away"
            )
        }
    }

    /// Marks a volume as not served, and its pairs with it.
    func fail(_ entry: VolumeEntry, _ reason: String) {
        volumes[entry.number] = VolumeRuntime(failure: reason)
        for pair in registry.content.pairs(of: entry) {
            pairs[pair.id]?.failure = "volume '\(entry.name)' is not served: \(reason)"
        }
        record("volume-not-served", volume: entry.name, message: reason, level: .error)
    }

    /// The same for one whose own element cannot be opened, which forced Detach gives up.
    private func failWithoutOwnElement(_ entry: VolumeEntry) {
        var reason = volumes[entry.number]?.failure ?? "it cannot be opened"
        if let pair = registry.content.pairs(of: entry).first, registry.content.replica(of: entry) == nil {
            reason += """
                ; mend that, or go on with a target: 'replctl set \(pair.name) Detach' says what is lost
                """
        }
        fail(entry, reason)
        volumes[entry.number]?.isOwnElementLost = true
    }

    /// The same for one whose element is not what it was, which forced Detach accepts.
    private func failReplaced(_ entry: VolumeEntry, _ reason: String) {
        fail(entry, reason)
        volumes[entry.number]?.replacement = reason
    }

    /// Removes metadata that no pair of the registry has: what a kill between the steps of a change has left.
    func sweepMetadata() {
        let pairs = registry.content.pairs.map(\.id)
        for file in state.strayMetadata(besides: pairs, replicas: registry.content.replicas.compactMap(\.id)) {
            do {
                try DurableFile.remove(file)
                record("metadata-removed", message: "\(file) belongs to no pair of the registry", level: .warning)
            } catch {
                logger.warning(
                    "cannot remove metadata of no pair",
                    metadata: ["file": "\(file)", "reason": "\(error)"]
                )
            }
        }
    }
}
