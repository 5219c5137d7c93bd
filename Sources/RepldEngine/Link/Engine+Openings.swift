internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// Opening pairs at the peer that has their targets: what both sides have of a pair is compared before anything is told or moved.
///
///     opened ── compared ── what follows is recorded, and that this run is told ── the record is sent
///
/// The second of these writes is one for both; in a run that is told already, and where nothing follows, there is none.
extension Engine where P: ~Copyable {
    /// Opens whatever is not open of the pairs with a peer.
    mutating func openTargets(of peer: Int) {
        let session = links.peers[peer].session
        guard links.sessions[session].stage == .up, let control = links.sessions[session].control else { return }
        for target in 0..<Links.targetLimit where links.targets[target].isInUse && links.targets[target].peer == peer {
            guard links.targets[target].stage == .closed, let record = links.targets[target].record else { continue }
            // Of what the peer says, nothing would be recorded any more.
            guard volumes[links.targets[target].volume].machine.takesRecords(links.targets[target].index) else {
                continue
            }
            links.targets[target].stage = .opening
            let opening = PairOpening(
                record: record.side(hasPair: true),
                copyState: record.copyState,
                mode: 2,
                blockByteCount: volumes[links.targets[target].volume].geometry.logicalBlockByteCount,
                granuleShift: record.granuleShift
            )
            links.targets[target].openTag = links.nextMessageTag
            links.nextMessageTag += 1
            let tag = links.targets[target].openTag
            send(.pairOpen, opening, on: control, stream: links.targets[target].stream, tag: tag)
        }
    }

    /// The peer has answered whether it opens a pair.
    mutating func targetOpened(_ opening: PairOpening, _ header: FrameHeader, _ session: Int) {
        guard let target = target(ofStream: header.stream, session), links.targets[target].stage == .opening,
            links.targets[target].openTag == header.tag
        else { return }
        switch OpenStatus(rawValue: header.detail) {
        case .opened, .conflict:
            links.targets[target].isTakenOver = false
            volumes[links.targets[target].volume].machine.peerTellsUndo(
                pair: links.targets[target].index,
                canKeep: opening.keepsUndo,
                isLost: opening.isUndoLost
            )
            meetHistory(of: opening.record, isImage: opening.isImage, target)
        case .unknownPair:
            // Asked again with the next tick.
            refuseOpening(target, "the peer knows nothing of this pair: detach it here, and create it anew")
        case .alreadyOpen: refuseOpening(target, "the peer is still busy with what came over an earlier connection")
        case .takenOver: giveWay(target)
        case .damaged: refuseOpening(target, "the peer cannot read or write what it keeps of this pair")
        case .noResources, nil: refuseOpening(target, "the peer has no room for this pair")
        }
    }

    /// Compares what the peer has of a pair with what there is here; the peer is told a record when what follows from that is durable.
    ///
    /// Where the two have parted, what the peer holds (`isImage`) may be all that there is of its history.
    private mutating func meetHistory(of peer: SideRecord, isImage: Bool, _ target: Int) {
        guard let own = links.targets[target].record?.side(hasPair: true) else {
            return refuseOpening(target, "the record of this pair is not written yet")
        }
        let volume = links.targets[target].volume
        let index = links.targets[target].index
        guard volumes[volume].machine.takesRecords(index) else {
            return refuseOpening(target, "the pair is being closed")
        }
        var isDecided = false
        let decision = HandshakeDecision.decide(own, peer)
        links.handshakes.count(decision)
        switch decision {
        case .giveWay: return giveWay(target)
        case .awaitPeer:
            return refuseOpening(target, "the peer has not given up the pair yet that was taken over from it")
        case .follow: break
        case .compareAll(let rule):
            let isCompared = volumes[volume].machine.forgetTarget(
                pair: index,
                because: nil,
                isImage: isImage && rule == .longAway
            )
            if isCompared, rule != .firstCopy { announce(rule, target) }
            isDecided = true
        case .stop(let conflict):
            let stop = HandshakeStop(conflict, own: own, peer: peer)
            // What is known already is not recorded with each attempt.
            if volumes[volume].machine.conflict(of: index) != conflict {
                volumes[volume].machine.forgetTarget(pair: index, because: stop, isImage: isImage)
            }
            isDecided = true
            guard !peer.hasPair, conflict != .otherPair, conflict != .otherSize else {
                refuseOpening(target, stop.words)
                return carryOut(volume)
            }
        }
        if !own.lineage.isTold {
            volumes[volume].machine.beginTelling(pair: index)
            isDecided = true
        }
        links.targets[target].stage = .recording
        links.targets[target].reason = ""
        links.targets[target].recordSentAt = platform.now
        links.targets[target].isRecordHeldBack = isDecided && volumes[volume].machine.isRecordPending(index)
        carryOut(volume)
        if !links.targets[target].isRecordHeldBack { sendRecord(target) }
    }

    /// A copy that looks at everything takes long, and an operator wants to know why.
    private func announce(_ rule: HandshakeRule, _ target: Int) {
        let volume = volumes[links.targets[target].volume].id
        eventSink(EngineEvent(volume: volume, pair: links.targets[target].pair, kind: .historyCompared(rule)))
    }

    private mutating func giveWay(_ target: Int) {
        refuseOpening(target, "the peer has taken the pair over")
        links.targets[target].isTakenOver = true
        peerHasTakenOver(target)
    }

    private mutating func refuseOpening(_ target: Int, _ words: String) {
        links.targets[target].stage = .closed
        links.targets[target].reason = words
    }

    func target(ofStream stream: UInt32, _ session: Int) -> Int? {
        let target = Int(stream) - 1
        guard target >= 0, target < Links.targetLimit, links.targets[target].isInUse else { return nil }
        guard let peer = links.sessions[session].peer, links.targets[target].peer == peer else { return nil }
        return target
    }
}
