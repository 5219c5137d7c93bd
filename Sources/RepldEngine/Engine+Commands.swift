internal import RepldCore
internal import RepldFormat
internal import RepldFrontends
internal import RepldPair

/// What the control plane asks for.
extension Engine where P: ~Copyable {
    mutating func carryOut(_ command: EngineCommand<P>) {
        guard stage == .running else {
            if case .stop(let answer) = command {
                stopAnswers.append(answer)
            } else {
                refuse(command, .stopping)
            }
            return
        }
        isOrderStale = true
        switch command {
        case .addVolume(let spec, let answer): answer(addVolume(spec))
        case .removeVolume(let id, let isForced, let answer): removeVolume(id, isForced: isForced, answer)
        case .addPair(let spec, let answer): answer(addPair(spec))
        case .detachPair(let id, let answer): detachPair(id, answer)
        case .operate(let id, let operation, let isForced, let keepsUndo, let answer):
            operate(id, operation, isForced: isForced, keepsUndo: keepsUndo, answer)
        case .cancelOperation(let id, let answer): answer(cancelOperation(id))
        case .configureCopy(let id, let settings, let answer): answer(configureCopy(id, settings))
        case .holdPlace(let id, let isHeld, let answer): answer(holdPlace(id, isHeld))
        case .verify(let id, let extent, let answer): answer(beginVerify(id, extent))
        case .cancelVerify(let id, let answer): answer(cancelVerify(id))
        case .checkGrowth(let id, let wanted, let answer): answer(checkGrowth(id, wanted))
        case .grow(let id, let wanted, let answer): grow(id, to: wanted, answer)
        case .listen(let handle, let answer):
            answer(startListening(handle) ? .success(()) : .failure(.tableFull("listeners")))
        case .changes(let id, let query, let answer): answer(changes(id, query))
        case .link(let command): carryOut(command)
        case .status(let answer): answer(status())
        case .stop(let answer):
            stopAnswers.append(answer)
            stage = .stoppingFrontends
            beginFrontendStop()
            beginLinkStop()
        }
    }

    func refuse(_ command: EngineCommand<P>, _ refusal: EngineRefusal) {
        switch command {
        case .addVolume(_, let answer), .removeVolume(_, _, let answer), .addPair(_, let answer),
            .detachPair(_, let answer), .cancelOperation(_, let answer), .configureCopy(_, _, let answer),
            .verify(_, _, let answer), .cancelVerify(_, let answer), .grow(_, _, let answer), .listen(_, let answer):
            answer(.failure(refusal))
        case .checkGrowth(_, _, let answer): answer(.failure(refusal))
        case .operate(_, _, _, _, let answer): answer(.failure(refusal))
        case .holdPlace(_, _, let answer): answer(.failure(refusal))
        case .changes(_, _, let answer): answer(.failure(refusal))
        case .link(let command): refuse(command, refusal)
        case .status(let answer): answer(EngineStatus(volumes: [], connectionCount: 0, buffersTaken: 0))
        case .stop(let answer): answer()
        }
    }

    // MARK: - Volumes

    /// The place of a volume that is served.
    package func volumeIndex(_ id: VolumeID) -> Int? {
        (0..<volumes.count).first { volumes[$0].isInUse && volumes[$0].id == id }
    }

    private mutating func addVolume(_ spec: VolumeSpec<P>) -> Result<Void, EngineRefusal> {
        for index in 0..<volumes.count where volumes[index].isInUse {
            if volumes[index].name == spec.name || volumes[index].id == spec.id { return .failure(.nameInUse) }
        }
        guard let index = (0..<volumes.count).first(where: { !volumes[$0].isInUse }) else {
            return .failure(.tableFull("volumes"))
        }
        guard let element = platform.attach(spec.source.handle) else { return .failure(.tableFull("elements")) }
        volumes[index] = HostedVolume(geometry: spec.source.geometry, hostSlotLimit: Self.hostSlotLimit)
        volumes[index].isInUse = true
        findVolumeEnd()
        volumes[index].id = spec.id
        volumes[index].name = spec.name
        volumes[index].isReadOnly = spec.isReadOnly || spec.source.geometry.isReadOnly
        volumes[index].setElement(element, leg: 0)
        volumes[index].machine.advance(to: platform.now, stalled: stalledNanoseconds)
        volumes[index].expectedPeerCount = spec.awaitedPeerCount
        if spec.awaitedPeerCount > 0 { withhold(index) }
        if spec.isReplica { follow(index) }
        return .success(())
    }

    private mutating func removeVolume(
        _ id: VolumeID,
        isForced: Bool,
        _ answer: @escaping @Sendable (Result<Void, EngineRefusal>) -> Void
    ) {
        guard let index = volumeIndex(id) else { return answer(.failure(.noSuchVolume)) }
        guard !volumes[index].isRemoving else { return answer(.failure(.noSuchVolume)) }
        for pair in 0..<VolumeMachine.pairLimit where volumes[index].metadata[pair] != nil {
            return answer(.failure(.volumeHasPairs))
        }
        guard !hasReplica(index) else { return answer(.failure(.volumeHasPairs)) }
        let connectionCount = volumes[index].connectionCount
        guard connectionCount == 0 || isForced else {
            return answer(.failure(.volumeInUse(connectionCount: connectionCount)))
        }
        volumes[index].isRemoving = true
        removeAnswers[id] = answer
        disconnectClients(of: index)
        volumes[index].machine.close()
        carryOut(index)
    }

    /// The volume's machine has drained, flushed and recorded everything.
    ///
    /// Its elements are closed when nothing is in flight to them any more, stuck operations included.
    mutating func volumeClosed(_ index: Int) {
        volumes[index].isClosed = true
        finishVolumeIfIdle(index)
    }

    mutating func finishVolumeIfIdle(_ index: Int) {
        guard volumes[index].isClosed, volumes[index].machine.isIdle, !volumes[index].machine.hasRecordInFlight else {
            return
        }
        guard !volumes[index].hasQueriesInFlight, !hasBacklog(ofVolume: index) else { return }
        for place in 0..<HostedVolume.legLimit {
            if let element = volumes[index].takeElement(atPlace: UInt8(place)) { detachElement(element) }
        }
        for pair in 0..<VolumeMachine.pairLimit {
            if let element = volumes[index].metadata[pair] { platform.detach(element) }
        }
        let id = volumes[index].id
        volumes[index] = HostedVolume()
        findVolumeEnd()
        // Another volume may take the place: nothing of this one may be left in the queue.
        for _ in 0..<bufferWaiters.count {
            if let waiter = bufferWaiters.popFirst(), waiter.volume != index { bufferWaiters.append(waiter) }
        }
        growAnswers.removeValue(forKey: id)?(.failure(.stopping))
        if let answer = removeAnswers.removeValue(forKey: id) { answer(.success(())) }
    }

    // MARK: - Pairs

    mutating func addPair(_ spec: PairSpec<P>) -> Result<Void, EngineRefusal> {
        guard let volume = volumeIndex(spec.volume), !volumes[volume].isRemoving else { return .failure(.noSuchVolume) }
        guard findPair(spec.pair) == nil else { return .failure(.nameInUse) }
        // One that the volume had before it became a replica may come late.
        if volumes[volume].isReplica, spec.isNew || !canTakeIn(spec, volume) { return .failure(.volumeHasPairs) }
        if let refusal = refusal(of: spec.target.geometry, forVolume: volume) { return .failure(refusal) }
        let mapByteCount = Pair.mapByteCount(
            volumeByteCount: volumes[volume].geometry.byteCount,
            granuleByteCount: UInt64(spec.settings.granuleByteCount)
        )
        guard mapByteCount <= Self.mapByteLimit else {
            return .failure(.dirtyMapTooLarge(byteCount: mapByteCount, limit: Self.mapByteLimit))
        }
        let layout = MetadataLayout(
            volumeByteCount: volumes[volume].geometry.byteCount,
            granuleByteCount: UInt64(spec.settings.granuleByteCount)
        )
        let metadataByteCount =
            spec.metadata.geometry.byteCount - min(spec.metadataOffset, spec.metadata.geometry.byteCount)
        guard metadataByteCount >= layout.areaByteCount else {
            return .failure(.metadataTooSmall(byteCount: metadataByteCount, needed: layout.areaByteCount))
        }
        if let refusal = refusal(ofUndoArea: spec.undoArea?.geometry, spec, forVolume: volume) {
            return .failure(refusal)
        }
        if isClosingElements(ofVolume: volume) { return .failure(.tableFull("pairs that are being detached")) }
        guard let elements = attachElements(of: spec, volume: volume) else { return .failure(.tableFull("elements")) }
        var settings = spec.settings
        if elements.target.remoteTarget == nil { settings.keepsUndo = elements.undo != nil && settings.keepsUndo }
        let place = volumes[volume].machine.addPair(
            spec.record,
            spec.maps,
            isNew: spec.isNew,
            settings: settings,
            undo: elements.undo == nil ? nil : spec.undo,
            isRemote: elements.target.remoteTarget != nil,
            generation: spec.generation
        )
        guard let place else {
            detach(elements)
            return .failure(.tableFull("pairs of one volume"))
        }
        if let undo = elements.undo {
            volumes[volume].setElement(undo, leg: HostedVolume.undoPlace(ofPair: place))
            setUndoHead(ofPair: place, volume: volume)
        }
        volumes[volume].setElement(elements.target, leg: UInt8(place + 1))
        if let target = elements.target.remoteTarget {
            links.targets[target].index = place
            links.targets[target].isAwaited = spec.awaitsPeer
            if spec.awaitsPeer, volumes[volume].expectedPeerCount > 0 { volumes[volume].expectedPeerCount -= 1 }
        }
        volumes[volume].metadata[place] = elements.metadata
        volumes[volume].metadataOffsets[place] = spec.metadataOffset
        volumes[volume].pairNames[place] = spec.name
        volumes[volume].lastPairNumber += 1
        volumes[volume].pairNumbers[place] = volumes[volume].lastPairNumber
        carryOut(volume)
        return .success(())
    }

    private func canTakeIn(_ spec: PairSpec<P>, _ volume: Int) -> Bool {
        if case .remote = spec.target { return volumes[volume].machine.canTakeIn(spec.record, isRemote: true) }
        return volumes[volume].machine.canTakeIn(spec.record, isRemote: false)
    }

    /// An element of an earlier pair may still be about to be closed.
    private func isClosingElements(ofVolume volume: Int) -> Bool {
        for pair in 0..<VolumeMachine.pairLimit where volumes[volume].detachingPairs[pair] != nil {
            if volumes[volume].machine.withPair(pair, { _ in }) == nil { return true }
        }
        return false
    }

    /// Attaches the elements of a pair, all of them or none.
    private mutating func attachElements(of spec: PairSpec<P>, volume: Int) -> PairElements? {
        let attached: ElementID? =
            switch spec.target {
            case .local(let local): platform.attach(local.handle)
            case .remote(let peer, _): attachRemote(peer, spec.pair, volume: volume)
            }
        guard let target = attached else { return nil }
        guard let metadata = platform.attach(spec.metadata.handle) else {
            detachElement(target)
            return nil
        }
        var elements = PairElements(target: target, metadata: metadata)
        // What a copy would overwrite is with the peer.
        guard let area = spec.undoArea, target.remoteTarget == nil else { return elements }
        elements.undo = platform.attach(area.handle)
        if elements.undo != nil { return elements }
        detach(elements)
        return nil
    }

    private mutating func detachElement(_ element: ElementID) {
        if let target = element.remoteTarget { detachRemote(target) } else { platform.detach(element) }
    }

    private mutating func detach(_ elements: PairElements) {
        detachElement(elements.target)
        platform.detach(elements.metadata)
        if let undo = elements.undo { platform.detach(undo) }
    }

    /// Takes down where the volume's first byte is in a pair's undo area.
    mutating func setUndoHead(ofPair pair: Int, volume: Int) {
        volumes[volume].undoHeads[pair] = undoLayout(ofPair: pair, volume: volume).headByteCount
    }

    /// How the undo area of a pair is laid out.
    func undoLayout(ofPair pair: Int, volume: Int) -> UndoLayout {
        guard let granule = volumes[volume].machine.withPair(pair, { $0.settings.granuleByteCount }) else {
            invariantFailed("an undo area belongs to a pair")
        }
        return UndoLayout(volumeByteCount: volumes[volume].machine.byteCount, granuleByteCount: UInt64(granule))
    }

    /// Why an element cannot be the undo area of a pair.
    private func refusal(ofUndoArea area: ElementGeometry?, _ spec: PairSpec<P>, forVolume volume: Int)
        -> EngineRefusal?
    {
        guard let area else { return nil }
        let layout = UndoLayout(
            volumeByteCount: volumes[volume].geometry.byteCount,
            granuleByteCount: UInt64(spec.settings.granuleByteCount)
        )
        let hasBlocks = area.logicalBlockByteCount <= volumes[volume].geometry.logicalBlockByteCount
        if area.byteCount >= layout.areaByteCount, hasBlocks, !area.isReadOnly { return nil }
        return .undoAreaUnusable(byteCount: area.byteCount, needed: layout.areaByteCount)
    }

    /// Why an element cannot be the target of a volume.
    private func refusal(of target: ElementGeometry, forVolume volume: Int) -> EngineRefusal? {
        let source = volumes[volume].geometry
        if target.byteCount < source.byteCount {
            return .targetTooSmall(sourceByteCount: source.byteCount, targetByteCount: target.byteCount)
        }
        if target.logicalBlockByteCount > source.logicalBlockByteCount {
            return .blockSizeMismatch(source: source.logicalBlockByteCount, target: target.logicalBlockByteCount)
        }
        return target.isReadOnly ? .targetReadOnly : nil
    }

    func findPair(_ id: PairID) -> (volume: Int, pair: Int)? {
        for volume in 0..<volumes.count where volumes[volume].isInUse {
            if let pair = volumes[volume].machine.pairIndex(id) { return (volume, pair) }
        }
        return nil
    }

    private mutating func operate(
        _ id: PairID,
        _ operation: ReplicationOperation,
        isForced: Bool,
        keepsUndo: Bool,
        _ answer: @escaping @Sendable (Result<OperationStart, EngineRefusal>) -> Void
    ) {
        guard let (volume, pair) = findPair(id) else { return answer(.failure(.noSuchPair)) }
        let facts = facts(volume, pair)
        let verdict = volumes[volume].machine.operate(
            pair,
            operation,
            facts,
            isForced: isForced,
            keepsUndo: keepsUndo
        )
        switch verdict {
        case .accepted where OperationTable.rule(of: operation).startsJob: answer(.success(.started))
        case .accepted: operationAnswers[id] = answer
        case .holds: answer(.success(.held))
        case .needsForce, .refused: answer(.failure(.operationRefused(verdict, facts)))
        }
        carryOut(volume)
    }

    private mutating func holdPlace(_ id: PairID, _ isHeld: Bool) -> Result<Bool, EngineRefusal> {
        guard let (volume, pair) = findPair(id) else { return .failure(.noSuchPair) }
        volumes[volume].machine.holdPlace(pair, isHeld)
        carryOut(volume)
        return .success(volumes[volume].machine.withPair(pair) { $0.isSecondPrimary } ?? false)
    }

    private mutating func cancelOperation(_ id: PairID) -> Result<Void, EngineRefusal> {
        guard let (volume, pair) = findPair(id) else { return .failure(.noSuchPair) }
        let operation = volumes[volume].machine.withPair(pair) { $0.operation } ?? nil
        let isCancelled = volumes[volume].machine.cancelOperation(pair)
        carryOut(volume)
        return isCancelled ? .success(()) : .failure(.cannotCancel(operation))
    }

    /// What the operations table is asked about a pair.
    func facts(_ volume: Int, _ pair: Int) -> PairFacts {
        var facts = volumes[volume].machine.facts(of: pair)
        facts.volumeClientCount = UInt32(volumes[volume].connectionCount)
        facts.targetClientCount = UInt32(volumes[volume].targetConnectionCounts[pair])
        return facts
    }

    private mutating func detachPair(
        _ id: PairID,
        _ answer: @escaping @Sendable (Result<Void, EngineRefusal>) -> Void
    ) {
        guard let (volume, pair) = findPair(id), detachAnswers[id] == nil else { return answer(.failure(.noSuchPair)) }
        detachAnswers[id] = answer
        volumes[volume].detachingPairs[pair] = id
        volumes[volume].pairNumbers[pair] = NBDPairSet.noPair
        volumes[volume].machine.detachPair(pair)
        dropBacklog(ofPair: pair, volume: volume)
        carryOut(volume)
    }

    /// The machine has forgotten the pair: its element is closed, once nobody asks it where it has holes.
    mutating func pairDetached(_ pair: Int, volume: Int) {
        let place = volumes[volume].place(ofLeg: UInt8(pair + 1))
        if volumes[volume].queryCounts[Int(place)] > 0 {
            volumes[volume].waitsForQueries[Int(place)] = pair
        } else {
            closeElement(ofPair: pair, atPlace: place, volume: volume)
        }
    }

    /// A query on an element has ended.
    mutating func queryEnded(atPlace place: UInt8, volume: Int) {
        volumes[volume].queryCounts[Int(place)] -= 1
        invariant(volumes[volume].queryCounts[Int(place)] >= 0, "queries are counted")
        guard volumes[volume].queryCounts[Int(place)] == 0 else { return }
        if let pair = volumes[volume].waitsForQueries[Int(place)] {
            volumes[volume].waitsForQueries[Int(place)] = nil
            closeElement(ofPair: pair, atPlace: place, volume: volume)
        }
        if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
    }

    private mutating func closeElement(ofPair pair: Int, atPlace place: UInt8, volume: Int) {
        if let element = volumes[volume].takeElement(atPlace: place) { detachElement(element) }
        if let element = volumes[volume].metadata[pair] { platform.detach(element) }
        volumes[volume].metadata[pair] = nil
        let undoPlace = HostedVolume.undoPlace(ofPair: pair)
        if let element = volumes[volume].takeElement(atPlace: undoPlace) { platform.detach(element) }
        volumes[volume].pairNames[pair] = ""
        guard let id = volumes[volume].detachingPairs[pair] else { return }
        volumes[volume].detachingPairs[pair] = nil
        if let answer = detachAnswers.removeValue(forKey: id) { answer(.success(())) }
    }

    // MARK: - Status

    private func status() -> EngineStatus {
        var found: [VolumeStatus] = []
        for index in 0..<volumes.count where volumes[index].isInUse { found.append(status(of: index)) }
        var status = EngineStatus(
            volumes: found,
            connectionCount: found.reduce(0) { $0 + $1.connectionCount },
            buffersTaken: pool.takenCount
        )
        status.peers = peerStatuses
        status.replicas = replicaStatuses
        return status
    }

    private func status(of index: Int) -> VolumeStatus {
        var status = VolumeStatus(
            id: volumes[index].id,
            name: volumes[index].name,
            byteCount: volumes[index].geometry.byteCount,
            blockByteCount: volumes[index].geometry.logicalBlockByteCount,
            isReadOnly: volumes[index].isReadOnly,
            connectionCount: volumes[index].connectionCount,
            requestsInFlight: volumes[index].machine.hostRequestCount
        )
        let counters = volumes[index].counters
        status.readCount = counters.readCount
        status.readByteCount = counters.readByteCount
        status.writeCount = counters.writeCount
        status.writeByteCount = counters.writeByteCount
        status.flushCount = counters.flushCount
        status.failedRequestCount = counters.failedRequestCount
        status.readsServedByTarget = volumes[index].machine.readsServedByTarget
        status.isWithheld = volumes[index].isWithheld
        status.awaitedPeerCount = awaitedPeerCount(of: index)
        status.isTakenOver = volumes[index].isTakenOver
        status.servingEpoch = volumes[index].machine.servingEpoch
        for pair in 0..<VolumeMachine.pairLimit {
            if let found = pairStatus(of: pair, index) { status.pairs.append(found) }
        }
        return status
    }

    private func pairStatus(of pair: Int, _ volume: Int) -> PairStatus? {
        let name = volumes[volume].pairNames[pair]
        guard !name.isEmpty else { return nil }
        let facts = facts(volume, pair)
        let isExported = isTargetExported(pair, of: volume)
        let found = volumes[volume].machine.withPair(pair) { pair in
            var status = PairStatus(
                id: pair.id,
                name: name,
                copyState: pair.copyState,
                progress: pair.progress,
                facts: facts,
                isSecondSource: pair.isSecondSource,
                isSecondPrimary: pair.isSecondPrimary,
                isTargetExported: isExported,
                reason: pair.reasonWords,
                dirtyByteCount: facts.differingByteCount,
                copyTotalByteCount: pair.copyTotalByteCount,
                copyDoneByteCount: pair.copyDoneByteCount,
                copyWrittenByteCount: pair.copyWrittenByteCount,
                copyZeroByteCount: pair.copyZeroByteCount,
                copyEqualByteCount: pair.copyEqualByteCount
            )
            status.keepsUndo = pair.keepsUndo
            return status
        }
        guard var status = found else { return nil }
        if facts.isSourceReplica, status.reason.isEmpty {
            status.reason = "it rests: the volume is the replica of a peer's pair"
        }
        status.exposureNanoseconds = exposureNanoseconds(volume, pair)
        status.copyControl = volumes[volume].machine.copyStatus(pair)
        status.verify = volumes[volume].machine.runningVerifyCounts(pair)
        guard let target = remoteTarget(ofPair: pair, volume: volume) else { return status }
        status.peer = links.peers[links.targets[target].peer].id
        status.isTakenOver = links.targets[target].isTakenOver
        status.isAwaited = links.targets[target].isAwaited
        if status.copyState == .partitioned { status.reason = links.targets[target].reason }
        return status
    }
}

/// The elements of a pair that is about to be added.
private struct PairElements: BitwiseCopyable {
    var target: ElementID
    var metadata: ElementID
    var undo: ElementID?
}
