import RepldCore
import RepldFormat

@testable import RepldPair

/// Something that happens in a `PairWorld`.
enum WorldEvent: Hashable, Sendable, CustomStringConvertible {
    /// How an operation on an element ends.
    enum Outcome: Hashable, Sendable, CaseIterable {
        case done, failed
        /// Told as failed, with its effect on the disk.
        case failedAfterEffect
        /// Failed, and what was in the cache of the element is gone.
        case lostCache
    }

    /// What becomes of an element when the daemon is killed.
    enum Fate: Hashable, Sendable, CaseIterable {
        case kept
        /// What was in flight took effect.
        case keptWithInFlight
        case lostCache
    }

    case operate(Int, ReplicationOperation, isForced: Bool)
    case cancel(Int)
    case write(Int), read(Int), flush
    case targetWrite(pair: Int, granule: Int)
    case targetFlush(pair: Int)
    /// The n-th of the operations in flight on an element ends.
    case end(element: Int, nth: Int, Outcome)
    case record(pair: Int, isWritten: Bool)
    /// A page of the pair's undo area ends.
    case undoPage(pair: Int, isWritten: Bool)
    /// The link to the pair's target is lost, and what was in flight there with it; what becomes of the target.
    case linkLost(pair: Int, Fate)
    case linkRestored(pair: Int)
    /// The time limit passes.
    case tick
    /// The daemon is killed and started; whether a record that was on its way was written.
    case crash([Fate], isRecordWritten: Bool)
    case close
    case detach(Int)
    /// The volume becomes the replica of a peer's pair, or is its own again.
    case follow(Bool)
    /// Everything that is in flight ends well, until nothing moves any more.
    case playOut

    var description: String {
        switch self {
        case .operate(let pair, let operation, let isForced):
            "\(operation.name)\(isForced ? " by force" : "")\(pair == 0 ? "" : " on pair \(pair)")"
        case .cancel(let pair): "cancel \(pair)"
        case .write(let granule): "write \(granule)"
        case .read(let granule): "read \(granule)"
        case .flush: "flush"
        case .targetWrite(let pair, let granule): "write \(granule) on target \(pair)"
        case .targetFlush(let pair): "flush on target \(pair)"
        case .end(let element, let nth, let outcome): "element \(element) ends \(nth): \(outcome)"
        case .record(let pair, let isWritten): "record \(pair) \(isWritten ? "written" : "failed")"
        case .undoPage(let pair, let isWritten): "undo page \(pair) \(isWritten ? "written" : "failed")"
        case .linkLost(let pair, let fate): "link \(pair) lost, its target \(fate)"
        case .linkRestored(let pair): "link \(pair) restored"
        case .tick: "tick"
        case .crash(let fates, let isRecordWritten): "crash \(fates) record \(isRecordWritten ? "written" : "lost")"
        case .close: "close"
        case .detach(let pair): "detach \(pair)"
        case .follow(let isReplica): isReplica ? "becomes a replica" : "is a source again"
        case .playOut: "play out"
        }
    }
}

extension PairWorld {
    /// Lets something happen; false when it cannot happen now.
    func apply(_ event: WorldEvent) -> Bool {
        let isDone = carryOut(event)
        settle()
        wakeMover()
        if isClosed { restart(Array(repeating: .lostCache, count: disks.count), isRecordWritten: false) }
        readdGonePairs()
        return isDone
    }

    private func carryOut(_ event: WorldEvent) -> Bool {
        switch event {
        case .operate(let pair, let operation, let isForced): return operate(pair, operation, isForced: isForced)
        case .cancel(let pair): return machine.cancelOperation(pair)
        case .write(let granule): return ask(.write, granule)
        case .read(let granule): return ask(.read, granule)
        case .flush: return ask(.flush, 0)
        case .targetWrite(let pair, let granule): return ask(.write, granule, ofTarget: pair)
        case .targetFlush(let pair): return ask(.flush, 0, ofTarget: pair)
        case .end(let element, let nth, let outcome):
            let candidates = inFlight.indices.filter { inFlight[$0].element == element }
            guard nth < candidates.count else { return false }
            // A kernel tells of lost writes when it is asked for a flush; only a target is given up for less.
            let isFlush = inFlight[candidates[nth]].operation.kind == .flush
            if outcome == .lostCache, element == places[0], !isFlush { return false }
            end(candidates[nth], outcome)
        case .record(let pair, let isWritten):
            guard pairs[pair].recordInFlight != nil else { return false }
            recordEnds(pair, isWritten: isWritten)
        case .undoPage(let pair, let isWritten):
            guard pairs[pair].undo.pageInFlight != nil else { return false }
            undoPageEnds(pair, isWritten: isWritten)
        case .linkLost(let pair, let fate): return loseLink(pair, fate)
        case .linkRestored(let pair):
            guard machine.pairs[pair].isInUse, !machine.pairs[pair].isReachable else { return false }
            machine.linkRestored(pair: pair)
        case .tick: passTime()
        case .crash(let fates, let isRecordWritten): restart(fates, isRecordWritten: isRecordWritten)
        case .close:
            guard !machine.isClosing else { return false }
            machine.close()
        case .detach(let pair):
            guard !machine.isClosing, !machine.pairs[pair].wantsDetach else { return false }
            machine.detachPair(pair)
        case .follow(let isReplica):
            guard shape.mayFollow, !machine.isClosing, self.isReplica != isReplica else { return false }
            guard !isReplica || machine.canFollow else { return false }
            self.isReplica = isReplica
            machine.setFollowing(isReplica)
        case .playOut: playOut()
        }
        return true
    }

    private func loseLink(_ pair: Int, _ fate: WorldEvent.Fate) -> Bool {
        guard machine.pairs[pair].isInUse, machine.pairs[pair].isRemote, machine.pairs[pair].isReachable else {
            return false
        }
        let element = places[pair + 1]
        machine.linkLost(pair: pair)
        settle()
        while let index = inFlight.firstIndex(where: { $0.element == element }) {
            end(index, fate == .keptWithInFlight ? .failedAfterEffect : .failed)
            settle()
        }
        if fate == .lostCache { disks[element].loseCache() }
        return true
    }

    /// Time passes until the mover has begun what it wants to begin: no event waits for its pace.
    private func wakeMover() {
        for _ in 0..<40 where machine.copyWakeAt.nanoseconds != .max {
            time = max(time, machine.copyWakeAt.nanoseconds)
            machine.advance(to: Instant(nanoseconds: time))
            machine.wake()
            settle()
        }
    }

    private func passTime() {
        time += Self.timeLimit + 1
        machine.advance(to: Instant(nanoseconds: time))
        machine.tick()
    }

    private func operate(_ pair: Int, _ operation: ReplicationOperation, isForced: Bool) -> Bool {
        let facts = machine.facts(of: pair)
        // With force and without, where that makes no difference, is one event.
        if isForced, case .needsForce = OperationTable.verdict(operation, facts, isForced: false) {
        } else if isForced {
            return false
        }
        let verdict = machine.operate(pair, operation, facts, isForced: isForced)
        guard case .accepted = verdict else { return false }
        if [.resyncReplica, .activate, .resume, .prepare, .unprepare].contains(operation) {
            pairs[pair].isTargetOwned = false
        }
        pairs[pair].outstanding.append(operation)
        // What the target alone has, hosts see as well when it serves.
        let movesHosts =
            operation == .restoreFromReplica || isForced || facts.copyState == .split
            || facts.targetChangedByteCount > 0
        pairs[pair].expectsRebase = movesHosts && operation != .failback && operation != .resyncReplica
        return true
    }

    private func ask(_ operation: HostOperation, _ granule: Int, ofTarget pair: Int? = nil) -> Bool {
        if let pair {
            // The front end of the export closes with it.
            guard machine.isTargetOpen(pair), inFlight.count < 8 else { return false }
        } else if machine.isClosing || history.pendingCount >= shape.hostLimit {
            return false
        }
        let number = takeNumber()
        let hasData = operation != .flush
        let offset = hasData ? UInt64(granule) * Self.granuleByteCount : 0
        let isWrite = operation == .write
        let client = pair.map { UInt32($0 + (isWrite ? 11 : 1)) } ?? 0
        let request = HostRequest(
            operation: operation,
            extent: Extent(offset: offset, length: hasData ? Self.granuleByteCount : 0),
            buffer: hasData ? BufferID(rawValue: UInt32(number)) : .none,
            origin: RequestOrigin(client: client, request: UInt32(number)),
            side: pair.map { UInt8($0 + 1) } ?? 0
        )
        guard machine.hasRoom(side: request.side) else { return false }
        if isWrite { buffers[UInt32(number)] = [number] }
        if pair == nil {
            switch operation {
            case .read: history.readBegan(number, granule: granule)
            case .flush: history.flushBegan(number)
            default: history.writeBegan(number, granule: granule)
            }
        }
        return machine.begin(request)
    }

    // MARK: - Ends and beginnings

    /// The daemon is gone, and comes again with what the disks and the records say.
    func restart(_ fates: [WorldEvent.Fate], isRecordWritten: Bool) {
        for pair in pairs.indices {
            guard let record = pairs[pair].recordInFlight, isRecordWritten else { continue }
            pairs[pair].blocks[Int(record.sequence & 1)] = .valid(record)
        }
        for pair in pairs.indices {
            if isRecordWritten, let page = pairs[pair].undo.pageInFlight { pairs[pair].undo.head = page.block }
            pairs[pair].undo.pageInFlight = nil
            pairs[pair].undo.wasRollingBack = false
            // The image stays the one that the record counts on.
            pairs[pair].undo.wasPresent = recovered(pair)?.hasUndo == true
        }
        for element in disks.indices {
            switch fates[element] {
            case .kept: break
            case .keptWithInFlight: for ending in inFlight where ending.element == element { apply(ending) }
            case .lostCache: disks[element].loseCache()
            }
        }
        let wasClean = isClosed
        _ = forgetGonePairs()
        inFlight = []
        buffers = [:]
        isClosed = false
        machine = Self.makeMachine(shape)
        machine.advance(to: Instant(nanoseconds: time))
        let before = places
        places = home
        for pair in pairs.indices where recovered(pair)?.isSecondPrimary == true { places.swapAt(0, pair + 1) }
        if places != before, let swap = beforeSwap, swap.places == places { history = swap.history }
        beforeSwap = nil
        if !restartLinkRestores() { checkAfterStart(isPowerLost: fates[places[0]] == .lostCache, wasClean: wasClean) }
        history.restart(on: disks[places[0]], isPowerLost: fates[places[0]] == .lostCache)
        for pair in pairs.indices {
            pairs[pair].recordInFlight = nil
            pairs[pair].expectsRebase = false
            addPair(pair)
        }
        follow()
        settle()
    }

    /// A start takes the pairs in first, and then gives the volume to the peer.
    private func follow() {
        guard isReplica else { return }
        if !machine.canFollow { return fail("after a start the pairs of a replica cannot rest") }
        machine.setFollowing(true)
    }

    /// A pair that was detached comes again as a new one, of the same elements as they are placed now.
    private func readdGonePairs() {
        guard !machine.isClosing else { return }
        for pair in forgetGonePairs() {
            addPair(pair)
            settle()
        }
    }

    private func forgetGonePairs() -> [Int] {
        let gone = pairs.indices.filter { pairs[$0].isGone }
        for pair in gone {
            pairs[pair] = Association()
            home = places
            for other in pairs.indices where other != pair && machine.pairs[other].isSecondPrimary {
                home.swapAt(0, other + 1)
            }
            halfCopied.insert(places[pair + 1])
            halfCopied.remove(places[0])
        }
        return gone
    }

    /// Everything ends well, one after the other; what still waits then is looked at by `checkRest`.
    private func playOut() {
        var quietTicks = 0
        var steps = 0
        while quietTicks < 6, violation == nil {
            steps += 1
            if steps > 2000 { return fail("it does not come to rest") }
            for pair in pairs.indices where shape.isRemote { machine.linkRestored(pair: pair) }
            settle()
            if let pair = pairs.indices.first(where: { pairs[$0].recordInFlight != nil }) {
                recordEnds(pair, isWritten: true)
                quietTicks = 0
            } else if let pair = pairs.indices.first(where: { pairs[$0].undo.pageInFlight != nil }) {
                undoPageEnds(pair, isWritten: true)
                quietTicks = 0
            } else if !inFlight.isEmpty {
                end(0, .done)
                quietTicks = 0
            } else if machine.copyWakeAt.nanoseconds != .max {
                wakeMover()
            } else {
                if isClosed { return }
                passTime()
                quietTicks += 1
            }
        }
        settle()
        if violation == nil { checkRest() }
    }
}
