internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// Pairs that move to the other daemon, and hosts that are kept away meanwhile.
extension Engine where P: ~Copyable {
    mutating func carryOut(_ command: HandoverCommand<P>) {
        switch command {
        case .withhold(let id, let answer): withhold(id, answer)
        case .release(let id, let answer): answer(release(id))
        case .keepAway(let id, let answer): answer(keepAway(id))
        case .settle(let pair, let answer): settle(pair, answer)
        case .askAgain(let pair, let answer): answer(askAgain(pair))
        case .claimReplica(let pair, let sequence, let answer): answer(claimReplica(pair, sequence))
        case .unclaimReplica(let pair, let answer): answer(unclaimReplica(pair))
        case .takeBack(let pair, let answer): takeBack(pair, answer)
        case .takeOver(let spec, let answer): answer(takeOver(spec))
        case .meet(let pair, let former, let extents, let isAhead, let isFirst, let answer):
            meet(pair, extents, by: former, isAhead: isAhead, isFirst: isFirst, answer)
        }
    }

    func refuse(_ command: HandoverCommand<P>, _ refusal: EngineRefusal) {
        switch command {
        case .withhold(_, let answer), .release(_, let answer), .unclaimReplica(_, let answer),
            .askAgain(_, let answer), .keepAway(_, let answer),
            .takeOver(_, let answer):
            answer(.failure(refusal))
        case .settle(_, let answer), .claimReplica(_, _, let answer), .takeBack(_, let answer),
            .meet(_, _, _, _, _, let answer):
            answer(.failure(refusal))
        }
    }

    // MARK: - Keeping hosts away

    private mutating func withhold(_ id: VolumeID, _ answer: @escaping @Sendable (Result<Void, EngineRefusal>) -> Void)
    {
        guard let volume = volumeIndex(id), !volumes[volume].isRemoving else { return answer(.failure(.noSuchVolume)) }
        guard !volumes[volume].isReplica else { return answer(.failure(.volumeHasPairs)) }
        // Whoever gives up what he withholds hosts for would let them come before the peer has been asked.
        guard !volumes[volume].isTakenOver else { return answer(.failure(.takenOver)) }
        guard awaitedPeerCount(of: volume) == 0 else { return answer(.failure(.notSettled)) }
        withholdAnswers.append(WithholdAnswer(volume: id, answer: answer))
        withhold(volume)
        answerWithheld()
    }

    /// Keeps hosts away, from the moment on in which it is called.
    mutating func withhold(_ volume: Int) {
        guard !volumes[volume].isWithheld else { return }
        volumes[volume].isWithheld = true
        volumes[volume].machine.setWithheld(true)
        disconnectClients(of: volume, because: .servedByOtherElement)
    }

    /// How many peers have to say that they have not taken a pair over before hosts may use a volume.
    func awaitedPeerCount(of volume: Int) -> Int {
        let count = (0..<Links.targetLimit).count { target in
            links.targets[target].isInUse && links.targets[target].volume == volume && links.targets[target].isAwaited
        }
        return count + volumes[volume].expectedPeerCount
    }

    private func isTakenOver(_ volume: Int) -> Bool {
        (0..<Links.targetLimit).contains { target in
            links.targets[target].isInUse && links.targets[target].volume == volume && links.targets[target].isTakenOver
        }
    }

    private mutating func keepAway(_ id: VolumeID) -> Result<Void, EngineRefusal> {
        guard let volume = volumeIndex(id) else { return .failure(.noSuchVolume) }
        volumes[volume].isSealed = true
        if !volumes[volume].isReplica { withhold(volume) }
        carryOut(volume)
        return .success(())
    }

    /// Answers whoever waits for the last host to be gone.
    mutating func answerWithheld() {
        guard !withholdAnswers.isEmpty else { return }
        var left: [WithholdAnswer] = []
        for waiting in withholdAnswers {
            guard let volume = volumeIndex(waiting.volume), volumes[volume].isWithheld else {
                waiting.answer(.failure(.noSuchVolume))
                continue
            }
            if isFreeOfHosts(volume) {
                waiting.answer(.success(()))
            } else {
                left.append(waiting)
            }
        }
        withholdAnswers = left
    }

    /// The last client is gone, and the last of the requests.
    private func isFreeOfHosts(_ volume: Int) -> Bool {
        volumes[volume].connectionCount == 0 && volumes[volume].machine.isFreeOfHosts
    }

    private mutating func release(_ id: VolumeID) -> Result<Void, EngineRefusal> {
        guard let volume = volumeIndex(id) else { return .failure(.noSuchVolume) }
        guard !volumes[volume].isTakenOver, !volumes[volume].isReplica else { return .failure(.takenOver) }
        for target in 0..<Links.targetLimit where links.targets[target].isInUse {
            if links.targets[target].volume == volume { links.targets[target].isAwaited = false }
        }
        volumes[volume].expectedPeerCount = 0
        volumes[volume].isSealed = false
        release(volume)
        return .success(())
    }

    /// Only the peer writes the volume from now on: its own pairs rest, and nothing is withheld for an earlier reason.
    mutating func follow(_ volume: Int) {
        volumes[volume].isReplica = true
        volumes[volume].machine.setFollowing(true)
        volumes[volume].isTakenOver = false
        volumes[volume].isSealed = false
        volumes[volume].isWithheld = false
        volumes[volume].machine.setWithheld(false)
    }

    /// The volume is this host's own again: hosts may come as soon as all peers of its own pairs have said that they have not taken
    /// one over.
    mutating func stopFollowing(_ volume: Int) {
        volumes[volume].isReplica = false
        volumes[volume].machine.setFollowing(false)
        volumes[volume].isTakenOver = isTakenOver(volume)
        let mayComeLater = volumes[volume].isTakenOver || awaitedPeerCount(of: volume) > 0
        if mayComeLater || volumes[volume].isSealed { withhold(volume) }
    }

    private mutating func release(_ volume: Int) {
        guard volumes[volume].isWithheld else { return }
        volumes[volume].isWithheld = false
        volumes[volume].machine.setWithheld(false)
        carryOut(volume)
        hasFreedResources = true
        eventSink(EngineEvent(volume: volumes[volume].id, pair: nil, kind: .released))
    }

    /// A peer has opened a pair, and so has not taken it over; from here on it hears of every record before a host may write.
    mutating func peerWasAsked(_ target: Int) {
        guard links.targets[target].isAwaited, let record = links.targets[target].record else { return }
        let volume = links.targets[target].volume
        // Hosts would read what may be older, and write a second history: an operator has to say first whose data counts.
        // One who has an operation run has said it.
        guard record.copyState != CopyState.invalid.rawValue || record.operation != 0 else { return }
        guard record.sequence > links.targets[target].handedOverSequence else {
            // The peer may still take the pair over by this record: it has to have a later one first.
            volumes[volume].machine.recordAnew(pair: links.targets[target].index)
            return
        }
        links.targets[target].isAwaited = false
        guard volumes[volume].isWithheld, !volumes[volume].isTakenOver, !volumes[volume].isSealed else { return }
        if awaitedPeerCount(of: volume) == 0 { release(volume) }
    }

    /// A peer has taken a pair over: whatever hosts would read here is older than what they wrote there.
    mutating func peerHasTakenOver(_ target: Int) {
        if Mutation.isOn(.servesOnAfterTakeover) { return }
        let volume = links.targets[target].volume
        if volumes[volume].isReplica {
            // No host is here; the peer is asked again before one may come.
            links.targets[target].isAwaited = true
            return eventSink(
                EngineEvent(volume: volumes[volume].id, pair: links.targets[target].pair, kind: .takenOver)
            )
        }
        volumes[volume].isTakenOver = true
        withhold(volume)
        carryOut(volume)
        // What hosts still have under way here may not be marked yet: whoever tells the peer what differs would miss it.
        guard isFreeOfHosts(volume) else { return }
        eventSink(EngineEvent(volume: volumes[volume].id, pair: links.targets[target].pair, kind: .takenOver))
    }

    /// A pair ends, and nobody can be asked for it any more.
    ///
    /// Hosts stay away until the control plane says that they may come.
    mutating func forgetTarget(_ target: Int) {
        let volume = links.targets[target].volume
        meetAnswers.removeValue(forKey: links.targets[target].pair)?(.failure(.noSuchPair))
        links.targets[target] = RemoteTarget()
        volumes[volume].isTakenOver = isTakenOver(volume)
    }

    // MARK: - Handing over

    private mutating func settle(
        _ id: PairID,
        _ answer: @escaping @Sendable (Result<PairRecord, EngineRefusal>) -> Void
    ) {
        guard let (volume, pair) = findPair(id), let target = remoteTarget(ofPair: pair, volume: volume) else {
            return answer(.failure(.noSuchPair))
        }
        guard volumes[volume].isWithheld, isFreeOfHosts(volume), links.targets[target].stage == .up,
            settleAnswers[id] == nil
        else {
            return answer(.failure(.notSettled))
        }
        guard volumes[volume].machine.flows(pair) else { return answer(recordOfBoth(pair, target, volume)) }
        settleAnswers[id] = answer
        if !volumes[volume].machine.settle(pair), let answer = settleAnswers.removeValue(forKey: id) {
            answer(.failure(.notSettled))
        }
        carryOut(volume)
    }

    /// The record that this side and the peer have, if it says how the pair is now.
    private mutating func recordOfBoth(_ pair: Int, _ target: Int, _ volume: Int) -> Result<PairRecord, EngineRefusal> {
        let isPending = volumes[volume].machine.isRecordPending(pair) || links.targets[target].isRecordAwaited
        guard !isPending, links.targets[target].stage == .up, let record = links.targets[target].record else {
            return .failure(.notSettled)
        }
        links.targets[target].handedOverSequence = record.sequence
        handOver(target, volume)
        return .success(record)
    }

    /// From here on it is the peer that says who has the pair.
    private mutating func handOver(_ target: Int, _ volume: Int) {
        links.targets[target].isAwaited = true
    }

    mutating func pairSettled(_ pair: Int, _ failure: OperationFailure?, volume: Int) {
        guard let target = remoteTarget(ofPair: pair, volume: volume) else { return }
        guard let answer = settleAnswers.removeValue(forKey: links.targets[target].pair) else { return }
        if let failure { return answer(.failure(.operationFailed(failure))) }
        answer(recordOfBoth(pair, target, volume))
    }

    private mutating func askAgain(_ id: PairID) -> Result<Void, EngineRefusal> {
        guard let (volume, pair) = findPair(id), let target = remoteTarget(ofPair: pair, volume: volume) else {
            return .failure(.noSuchPair)
        }
        let session = links.peers[links.targets[target].peer].session
        endSession(session, LinkEnd(.replaced, "the peer has to be asked who has a pair"))
        return .success(())
    }

    // MARK: - Taking over

    private mutating func claimReplica(_ pair: PairID, _ sequence: UInt64?) -> Result<PairRecord, EngineRefusal> {
        guard let place = replicaIndex(pair), links.replicas[place].removal == nil else {
            return .failure(.noSuchPair)
        }
        if sequence == nil, links.replicas[place].session != nil { return .failure(.sourceConnected) }
        guard links.replicas[place].isIdle else { return .failure(.replicaBusy) }
        guard let record = links.replicas[place].record else { return .failure(.recordMismatch) }
        let isMeant = sequence == nil || sequence == record.sequence || Mutation.isOn(.claimsAnyRecord)
        guard isMeant else { return .failure(.recordMismatch) }
        links.replicas[place].isClaimed = true
        links.replicas[place].session = nil
        return .success(record)
    }

    private mutating func unclaimReplica(_ pair: PairID) -> Result<Void, EngineRefusal> {
        guard let place = replicaIndex(pair), links.replicas[place].isClaimed else { return .failure(.noSuchPair) }
        links.replicas[place].isClaimed = false
        return .success(())
    }

    private mutating func takeOver(_ spec: PairSpec<P>) -> Result<Void, EngineRefusal> {
        guard let place = replicaIndex(spec.pair), links.replicas[place].isClaimed, links.replicas[place].isIdle,
            let volume = volumeIndex(spec.volume), links.replicas[place].volume == volume
        else { return .failure(.noSuchPair) }
        let replica = links.replicas[place].pair
        // The pair is looked for among the replicas first.
        links.replicas[place].pair = PairID(high: 0, low: 0)
        volumes[volume].machine.forgetWriting()
        stopFollowing(volume)
        let result = addPair(spec)
        guard case .success = result else {
            links.replicas[place].pair = replica
            follow(volume)
            return result
        }
        if let (_, pair) = findPair(spec.pair) {
            volumes[volume].machine.awaitMeeting(pair)
            if links.replicas[place].record?.isTakenBack ?? false { rememberTakenBack(place, pair, volume) }
        }
        endReplica(place)
        return result
    }

    /// What a replica has taken back differs from what its source has, which does not know of it.
    private mutating func rememberTakenBack(_ place: Int, _ pair: Int, _ volume: Int) {
        var cursor: UInt64 = 0
        while let run = links.replicas[place].undo.pages.saved.nextDirtyRun(from: cursor, limit: 1 << 20) {
            cursor = run.upperBound
            let extent = links.replicas[place].undo.pages.saved.extent(of: run)
            volumes[volume].machine.rememberTakenBack(pair: pair, extent)
        }
        carryOut(volume)
    }

    /// What this side answers a peer that wants to open a pair which this side has as well.
    mutating func statusBesidePair(_ opening: PairOpening) -> OpenStatus? {
        guard findPair(opening.record.pair) != nil else { return nil }
        guard opening.record.hasPair else { return .damaged }
        let decision = HandshakeDecision.decide(opening.record, ownSide(of: opening.record))
        links.handshakes.count(decision)
        return switch decision {
        case .giveWay: Mutation.isOn(.ignoresTerm) ? .alreadyOpen : .takenOver
        case .stop: .conflict
        // This side has it wrongly, and is about to find out.
        case .follow, .compareAll, .awaitPeer: .alreadyOpen
        }
    }

    private mutating func meet(
        _ id: PairID,
        _ extents: [Extent],
        by former: PairRecord,
        isAhead: Bool,
        isFirst: Bool,
        _ answer: @escaping @Sendable (Result<PairRecord, EngineRefusal>) -> Void
    ) {
        guard let (volume, pair) = findPair(id), let target = remoteTarget(ofPair: pair, volume: volume) else {
            return answer(.failure(.noSuchPair))
        }
        guard links.targets[target].stage != .up, let record = links.targets[target].record,
            volumes[volume].machine.takesRecords(pair)
        else { return answer(.failure(.notSettled)) }
        let byteCount = volumes[volume].geometry.byteCount
        // A record of before the parting has forgotten what its maps had named: whatever is dirty stays so.
        let isBelieved = HandshakeDecision.isBelievable(
            former: former.side(hasPair: true),
            by: record.side(hasPair: true)
        )
        links.handshakes.count(isBelieved: isBelieved)
        let told = isBelieved ? extents : [Extent(offset: 0, length: byteCount)]
        let inside = told.compactMap { extent -> Extent? in
            guard extent.offset < byteCount, extent.length > 0 else { return nil }
            return Extent(offset: extent.offset, length: min(extent.length, byteCount - extent.offset))
        }
        // Whoever asks once more does not wait for the first answer.
        meetAnswers.updateValue(answer, forKey: id)?(.failure(.notSettled))
        volumes[volume].machine.meet(pair, inside, isAhead: isAhead || !isBelieved, isFirst: isFirst)
        carryOut(volume)
        answerMeeting(pair, volume)
    }

    /// The former source forgets what it has told when it is answered: not before all of it is durable here.
    mutating func answerMeeting(_ pair: Int, _ volume: Int) {
        guard !meetAnswers.isEmpty, let target = remoteTarget(ofPair: pair, volume: volume) else { return }
        let hasFailed = volumes[volume].machine.hasRecordFailed(pair)
        guard hasFailed || !volumes[volume].machine.isRecordPending(pair) else { return }
        guard let answer = meetAnswers.removeValue(forKey: links.targets[target].pair) else { return }
        guard !hasFailed, let record = links.targets[target].record else { return answer(.failure(.notSettled)) }
        invariant(record.lineage.isTold, "a record that is answered says that its run is told")
        answer(.success(record))
    }
}

/// Who waits until hosts are gone.
struct WithholdAnswer: Sendable {
    var volume: VolumeID
    var answer: @Sendable (Result<Void, EngineRefusal>) -> Void
}
