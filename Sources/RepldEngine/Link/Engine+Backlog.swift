internal import RepldCore
internal import RepldPair

/// Asynchronous pairs: what hosts write goes to the backlog, and from there to the peer, epoch by epoch.
extension Engine where P: ~Copyable {
    mutating func setMode(
        _ id: PairID,
        isAsynchronous: Bool,
        recoveryPointNanoseconds: UInt64
    ) -> Result<Void, EngineRefusal> {
        guard let (volume, pair) = findPair(id) else { return .failure(.noSuchPair) }
        guard let target = remoteTarget(ofPair: pair, volume: volume) else {
            return isAsynchronous ? .failure(.notRemote) : .success(())
        }
        if isAsynchronous, links.targets[target].backlog.entries.count == 0 {
            links.targets[target].backlog = Backlog(byteCount: Backlog.byteLimit)
        }
        links.targets[target].isAsynchronous = isAsynchronous
        links.targets[target].recoveryPointNanoseconds = recoveryPointNanoseconds
        watchAge(target)
        volumes[volume].machine.setAsynchronous(pair: pair, isAsynchronous)
        carryOut(volume)
        return .success(())
    }

    func goesToBacklog(_ request: RemoteRequest, _ target: Int) -> Bool {
        switch request.kind {
        case .write, .zero, .keptZero, .discard:
            volumes[links.targets[target].volume].machine.isHostWrite(request.slot)
        case .read, .digest, .flush: false
        }
    }

    /// Takes a host's write into the backlog: to the machine it is over, or the pair is Skewed.
    mutating func keep(_ request: RemoteRequest, _ target: Int) {
        let slot = Int(request.slot.index)
        links.targets[target].requests[slot] = request
        links.targets[target].activeCount += 1
        guard links.targets[target].stage == .up else { return endKeeping(target, slot, .gone) }
        var entry = request
        entry.acceptedAt = platform.now
        // Nobody waits for its durability; the epoch's is the peer's business.
        entry.isDurable = false
        let volume = links.targets[target].volume
        entry.epoch = volumes[volume].epoch
        let data =
            request.kind == .write
            ? unsafe UnsafeRawBufferPointer(bytes(request.buffer, Int(request.extent.length)))
            : unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        guard let place = unsafe links.targets[target].backlog.append(entry, data) else {
            return endKeeping(target, slot, .noResources)
        }
        volumes[volume].isEpochInUse = true
        links.targets[target].waiting.append(UInt32(Backlog.firstNumber + place))
        volumes[volume].machine.setBacklog(
            pair: links.targets[target].index,
            since: links.targets[target].backlog.oldest
        )
        noteLength(target)
        watchAge(target)
        endKeeping(target, slot, nil)
        pumpTargets(of: links.peers[links.targets[target].peer].session)
    }

    private mutating func endKeeping(_ target: Int, _ slot: Int, _ failure: IOFailure?) {
        links.targets[target].requests[slot].failure = failure
        endRequest(target, slot)
    }

    /// A host is told that a write is done: what it writes from here on is of another epoch.
    mutating func noteAcknowledgement(_ volume: Int) {
        guard volumes[volume].isEpochInUse, !Mutation.isOn(.mixesEpochs) else { return }
        volumes[volume].isEpochInUse = false
        volumes[volume].epoch += 1
    }

    /// The peer has an entry, on stable storage with the end of its epoch.
    mutating func finishEntry(_ entry: RemoteRequest, _ number: Int, _ target: Int) {
        links.targets[target].update(number) { $0.isActive = false }
        links.targets[target].backlog.release()
        let volume = links.targets[target].volume
        let index = links.targets[target].index
        if let failure = entry.failure {
            volumes[volume].machine.backlogFailed(pair: index, entry.extent, failure)
            carryOut(volume)
        }
        noteLength(target)
        backlogReleased(target)
    }

    /// Tells the machine what is still on its way, or that nothing is.
    mutating func backlogReleased(_ target: Int) {
        let volume = links.targets[target].volume
        let oldest = links.targets[target].backlog.oldest
        volumes[volume].machine.setBacklog(pair: links.targets[target].index, since: oldest)
        guard oldest == nil else { return }
        carryOut(volume)
        if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
    }

    /// Whether a send may still read what is on its way to a target of a volume.
    func hasBacklog(ofVolume volume: Int) -> Bool {
        for target in 0..<Links.targetLimit where links.targets[target].isInUse {
            if links.targets[target].volume == volume, !links.targets[target].backlog.isEmpty { return true }
        }
        return false
    }

    private mutating func noteLength(_ target: Int) {
        let volume = links.targets[target].volume
        let isLong = links.targets[target].backlog.isLong
        if isLong || links.targets[target].backlog.isShort {
            volumes[volume].machine.backlogChanged(pair: links.targets[target].index, isLong: isLong)
        }
    }

    /// When a target becomes older than it may be, if nothing arrives there before; `nil` where it may be of any age, or lacks
    /// nothing.
    private func limit(_ target: Int) -> Instant? {
        let nanoseconds = links.targets[target].recoveryPointNanoseconds
        guard nanoseconds > 0 else { return nil }
        return links.targets[target].backlog.oldest?.advanced(byNanoseconds: nanoseconds)
    }

    /// The target is looked at when it may have become too old, and not with the next tick after that.
    private mutating func watchAge(_ target: Int) {
        guard let limit = limit(target) else { return }
        nextWake = min(nextWake, limit)
    }

    /// A pair whose target is older than it may be is Skewed.
    mutating func checkBacklogs() {
        for target in 0..<Links.targetLimit where links.targets[target].isInUse && links.targets[target].stage == .up {
            guard let limit = limit(target) else { continue }
            guard platform.now >= limit else {
                nextWake = min(nextWake, limit)
                continue
            }
            let volume = links.targets[target].volume
            volumes[volume].machine.backlogTooLong(pair: links.targets[target].index)
            carryOut(volume)
        }
    }

    /// The pair does not mirror any more: what waits to be sent is dropped, what has been sent is awaited.
    ///
    /// What the peer has then is the image of an instant, and what it lacks its machine remembers.
    mutating func dropBacklog(ofPair pair: Int, volume: Int) {
        guard let target = remoteTarget(ofPair: pair, volume: volume), !links.targets[target].backlog.isEmpty else {
            return
        }
        var hasDropped = false
        for _ in 0..<links.targets[target].waiting.count {
            guard let number = links.targets[target].waiting.popFirst().map(Int.init) else { break }
            guard let request = links.targets[target].request(number) else { continue }
            if number >= Backlog.firstNumber, request.sentByteCount == 0 {
                links.targets[target].update(number) { $0.isActive = false }
                hasDropped = true
            } else if number < Backlog.firstNumber, request.isBehindWrites, hasDropped {
                // Its answer would be about writes that the peer never gets.
                links.targets[target].requests[number].failure = .cancelled
                endRequest(target, number)
            } else {
                links.targets[target].waiting.append(UInt32(number))
            }
        }
        links.targets[target].backlog.release()
        volumes[volume].machine.setBacklog(pair: pair, since: links.targets[target].backlog.oldest)
    }
}
