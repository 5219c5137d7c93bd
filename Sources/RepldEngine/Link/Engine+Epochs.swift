internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// Epochs at the replica of an asynchronous pair: each is applied when all of the one before is on stable storage, and none behind
/// one that is not all there.
extension Engine where P: ~Copyable {
    /// Whether a mutation makes the replica take up an epoch without ending the one before.
    mutating func skipsEndOfEpoch(_ header: FrameHeader, _ place: Int) -> Bool {
        if Mutation.isOn(.appliesEpochsTogether) { return true }
        guard Mutation.isOn(.skipsEpochFlush), links.replicas[place].writeCount == 0 else { return false }
        links.replicas[place].epoch = header.epoch
        return true
    }

    /// The first write of an epoch has come: it waits until all of the one before is on stable storage.
    ///
    /// True when it has been answered, because that could not be.
    mutating func beginEpoch(_ header: FrameHeader, _ place: Int, _ session: Int) -> Bool {
        if let failure = links.replicas[place].epochFailure {
            acknowledge(header, status(for: failure), session)
            return true
        }
        guard links.replicas[place].writeCount == 0, !links.replicas[place].isEndingEpoch else { return false }
        var request = PeerRequest.blank
        request.kind = .epochMark
        request.replica = place
        request.session = session
        request.sessionNumber = links.sessions[session].number
        request.tag = header.epoch
        guard let serve = links.serves.take(request) else { return false }
        links.replicas[place].requestCount += 1
        links.replicas[place].isEndingEpoch = true
        submitInOrder(serve)
        return false
    }

    /// The flush that ends an epoch has been answered.
    mutating func epochEnded(_ serve: SlotID, _ failure: IOFailure?) {
        let request = links.serves[serve]
        links.replicas[request.replica].isEndingEpoch = false
        let isOfSession =
            links.sessions[request.session].number == request.sessionNumber
            && links.replicas[request.replica].session == request.session
        if isOfSession {
            links.replicas[request.replica].epochFailure = failure
            if failure == nil { links.replicas[request.replica].epoch = request.tag }
        }
        endServe(serve)
    }

    /// What came later than a write that is not there must not become visible: the peer has sent it before it hears of this.
    mutating func noteEpochFailure(of request: PeerRequest, _ failure: IOFailure?) {
        guard let failure, request.isWrite, request.isOrdered else { return }
        guard links.sessions[request.session].number == request.sessionNumber,
            links.replicas[request.replica].session == request.session
        else { return }
        links.replicas[request.replica].epochFailure = links.replicas[request.replica].epochFailure ?? failure
    }

    /// A read behind a write that is not there must not be served: the source would take what is older for what hosts have written, and
    /// may hear of the read before it hears of the write.
    ///
    /// When it has told that the pair does not mirror any more, it has heard.
    mutating func refusesRead(_ header: FrameHeader, _ place: Int, _ session: Int) -> Bool {
        guard header.kind == .read, let failure = links.replicas[place].epochFailure,
            let state = links.replicas[place].record?.copyState,
            state == CopyState.synchronized.rawValue || state == CopyState.unsynchronized.rawValue
        else { return false }
        acknowledge(header, status(for: failure), session)
        return true
    }

    /// A record is durable here: where it says that the peer copies, writes are taken again, in whatever order.
    mutating func forgetEpochFailure(_ record: PairRecord, _ place: Int) {
        let isFlowingBack = record.operation == ReplicationOperation.failback.rawValue
        // One that calls this element a usable image was made before the source heard of the failure.
        let isCopying = record.copyState == CopyState.unsynchronized.rawValue && !record.isTargetConsistent
        guard isCopying || isFlowingBack else { return }
        links.replicas[place].epochFailure = nil
    }
}
