internal import RepldCore

/// Host requests: the legs of a write, the flush, and the read that a target serves.
extension VolumeMachine {
    /// The write holds its lock: issues it to every copy that takes it, or holds it while a record is pending.
    mutating func startWrite(_ id: SlotID) {
        if slots[id].sourceFailure != nil {
            slots[id].stage = .running
            return settle(id)
        }
        if holdsForRecord || isPrimaryLeftAlone { return hold(id, .waitingForRecord) }
        var entry = LogEntry.entered
        if isWritingRefused {
            entry = .refused
        } else if isRestoringOverLink {
            entry = enterRestores(slots[id].host.extent)
        }
        if entry == .waits { return holdForRestore(id) }
        if entry == .entered { entry = enterLogs(id) }
        if entry == .waits { return hold(id, .waitingForRecord) }
        slots[id].stage = .running
        if entry == .refused {
            slots[id].sourceFailure = .inputOutput
            return settle(id)
        }
        slots[id].startedAt = awake
        slots[id].awaitsSource = slots[id].host.operation == .writeZeroes && slots[id].host.mustBeFast
        var legs = mirroringLegs(slots[id].host.extent)
        rememberForOthers(id, besides: legs)
        issue(id, leg: 0, writeKind(of: id), isDurable: slots[id].host.isDurable)
        if Mutation.isOn(.discardsSourceOnly), slots[id].host.operation == .discard { legs = 0 }
        if slots[id].awaitsSource { slots[id].laterLegs = legs } else { issueToTargets(id, legs) }
    }

    @inline(__always)
    func writeKind(of id: SlotID) -> ElementOperation.Kind {
        switch slots[id].host.operation {
        case .write: .write
        case .discard: .discard
        case .writeZeroes: slots[id].host.keepsAllocation ? .zeroKeepAllocated : .zeroMayDeallocate
        case .read, .flush: invariantFailed("reads and flushes are no writes")
        }
    }

    /// Marks what the targets that are not written now will lack.
    private mutating func rememberForOthers(_ id: SlotID, besides legs: UInt8) {
        for index in 0..<pairEnd where pairs[index].isInUse && legs & 1 << leg(ofPair: index) == 0 {
            if pairs[index].isMirroring {
                // The target keeps what it holds there until the mover has saved it.
                pairs[index].markAgain(slots[id].host.extent)
            } else {
                pairs[index].rememberWrite(slots[id].host.extent)
            }
        }
    }

    @inline(__always)
    private func mirroringLegs(_ extent: Extent) -> UInt8 {
        var legs: UInt8 = 0
        for index in 0..<pairEnd where mirrors(index, extent) { legs |= 1 << leg(ofPair: index) }
        return legs
    }

    private mutating func issueToTargets(_ id: SlotID, _ legs: UInt8) {
        let kind = writeKind(of: id)
        let isDurable = slots[id].host.isDurable && !Mutation.isOn(.forcedWriteSkipsTarget)
        slots[id].startedAt = awake
        for index in 0..<pairEnd where legs & 1 << leg(ofPair: index) != 0 {
            issue(id, leg: leg(ofPair: index), kind, isDurable: isDurable)
        }
    }

    /// A pair's metadata cannot be written and does not say that the pair is open: no write may happen at all.
    @inline(__always)
    var isWritingRefused: Bool {
        for index in 0..<pairEnd where pairs[index].isInUse {
            if pairs[index].isRecordImpossible || (pairs[index].isRecordStuck && pairs[index].isRecordCritical) {
                return true
            }
        }
        return false
    }

    mutating func startFlush(_ id: SlotID) {
        slots[id].stage = .running
        issue(id, leg: 0, .flush)
        for index in 0..<pairEnd where pairs[index].isMirroring {
            // A host does not wait for what is asynchronous; the machine's own flushes do.
            if pairs[index].isAsynchronous, slots[id].purpose == .hostFlush { continue }
            if Mutation.isOn(.flushSkipsTarget), slots[id].purpose == .hostFlush { continue }
            issue(id, leg: leg(ofPair: index), .flush)
            noteFullFlush(id, index)
        }
        guard slots[id].purpose == .closeFlush else { return }
        // A target that has hosts of its own is flushed for them, as the source is for those of the volume.
        for index in 0..<pairs.count where pairs[index].isInUse && !pairs[index].isMirroring {
            if Self.isHostsOwn(pairs[index].copyState) { issue(id, leg: leg(ofPair: index), .flush) }
        }
    }

    /// A target's flush ended; the pair breaks if it failed.
    mutating func targetFlushCompleted(pair index: Int, _ failure: IOFailure?) {
        if let failure, pairs[index].isMirroring { breakPair(index, .targetFlushFailed(failure)) }
    }

    mutating func runningLegCompleted(_ id: SlotID, leg: UInt8, _ failure: IOFailure?) {
        switch slots[id].purpose {
        case .hostRead:
            if failure != nil, leg > 0 {
                // What a restore has not brought here yet is nowhere else.
                answer(id, .inputOutput)
            } else if let failure {
                slots[id].sourceFailure = failure
                redirect(id)
            } else {
                answer(id, nil)
            }
        case .hostWrite:
            if leg == 0 {
                slots[id].sourceFailure = failure
                if slots[id].awaitsSource {
                    slots[id].awaitsSource = false
                    let mirroring = mirroringLegs(slots[id].host.extent)
                    rememberForOthers(id, besides: mirroring)
                    // A pair that mirrors since has it as a difference, and a record on its way that has to come first.
                    if failure == nil { issueToTargets(id, slots[id].laterLegs & mirroring) }
                }
            } else {
                targetWriteCompleted(id, pair: Int(leg) - 1, failure)
            }
            let isEnough = slots[id].awaitedLegs == 0 || Mutation.isOn(.answersBeforeTarget) && leg == 0
            if isEnough && slots[id].stage == .running { settle(id) }
        case .hostFlush:
            if leg == 0 {
                slots[id].sourceFailure = failure
                if failure != nil { sourceFlushFailed() }
            } else {
                targetFlushCompleted(pair: Int(leg) - 1, failure)
            }
            if slots[id].awaitedLegs == 0 && slots[id].stage == .running { settle(id) }
        case .targetRead, .targetWrite, .targetFlush:
            slots[id].sourceFailure = failure
            endTargetRequest(id)
        case .copyFlush:
            copyFlushLegCompleted(id, leg: leg, failure)
        case .logFlush:
            logFlushLegCompleted(id, leg: leg, failure)
        case .gateFlush:
            gateFlushLegCompleted(id, leg: leg, failure)
        case .closeFlush:
            closeFlushLegCompleted(id, leg: leg, failure)
        case .copy, .verify, .rollback:
            invariantFailed("a copy has stages of its own, and so has a verify")
        }
    }

    /// A flush that nobody waits for any more came back from a target that was slow or stuck.
    mutating func lateFlushCompleted(_ id: SlotID, pair index: Int, _ failure: IOFailure?) {
        if slots[id].purpose == .copyFlush { pairs[index].isCopyFlushInFlight = false }
        if slots[id].purpose == .logFlush { logFlushEnded(index) }
        if slots[id].purpose != .hostRead { targetFlushCompleted(pair: index, failure) }
    }

    private mutating func targetWriteCompleted(_ id: SlotID, pair index: Int, _ failure: IOFailure?) {
        guard pairs[index].isMirroring else {
            // The pair was stopped after the write was issued; stopping has marked the extent already.
            return
        }
        if failure == .noResources, pairs[index].isAsynchronous {
            return skew(index, slots[id].host.extent)
        }
        if let failure {
            // The leg is no longer pending, so that breaking would miss its extent: mark it first.
            pairs[index].markDirty(slots[id].host.extent)
            breakPair(index, .targetWriteFailed(failure, slots[id].host.extent))
        }
    }

    /// A write has ended on all copies: where it was mirrored, only a flush of both elements that begins now makes it durable
    /// on both.
    private mutating func noteUnflushed(_ id: SlotID) {
        for index in 0..<pairEnd where pairs[index].isMirroring {
            guard slots[id].issuedLegs & 1 << leg(ofPair: index) != 0 else { continue }
            pairs[index].unflushed.mark(touching: slots[id].host.extent)
        }
    }

    /// Every leg has ended or was given up: the outcome is decided.
    mutating func settle(_ id: SlotID) {
        if slots[id].purpose == .hostFlush, slots[id].sourceFailure == nil {
            slots[id].sourceFailure = owedFlushFailure
            owedFlushFailure = nil
        }
        let failure = slots[id].sourceFailure
        if slots[id].purpose == .hostWrite {
            // A source that cannot zero fast has changed nothing, and alone it has nobody to differ from.
            let isHarmless = failure == .notSupported && slots[id].issuedLegs == 1
            if let failure, slots[id].issuedLegs != 0, !isHarmless { sourceWriteFailed(id, failure) }
            noteUnflushed(id)
            leaveLogs(id)
            unlock(id)
        }
        if holdsForRecord, !Mutation.isOn(.answersBeforeRecord) {
            hold(id, .answerHeld)
        } else {
            answer(id, failure)
        }
    }

    /// Nobody knows what the source holds in the extent now: every pair has to compare it with its target again.
    private mutating func sourceWriteFailed(_ id: SlotID, _ failure: IOFailure) {
        let extent = slots[id].host.extent
        announce(.sourceWriteFailed(extent, failure))
        for index in 0..<pairs.count where pairs[index].isInUse {
            pairs[index].markAgain(extent)
            copyAgain(index)
        }
    }

    /// The source may have lost whatever it had not made durable (a kernel reports that once, and then forgets it):
    /// nothing is known to be equal any more.
    mutating func sourceFlushFailed() {
        for index in 0..<pairs.count where pairs[index].isInUse {
            if pairs[index].linkRestore != .none {
                // What was copied and is not durable is still lacking, and what hosts have written is dirty.
                pairs[index].copied.removeAll()
                continue
            }
            pairs[index].markAgain(Extent(offset: 0, length: byteCount))
            pairs[index].distrustMaps()
            pairs[index].comparesFirst = true
            copyAgain(index)
            // No start may believe an older record.
            wantRecord(index)
        }
        // What chunks in flight have read may be what is lost now.
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].purpose == .copy else { continue }
            slots[id].isStale = true
        }
    }

    /// The next flush of a host fails, whatever the primary says to it.
    package var owesFlushFailure: Bool { owedFlushFailure != nil }

    /// The primary failed a flush that no host asked for, and will not tell of it again: the next flush of a host fails.
    mutating func ownFlushOfPrimaryFailed(_ failure: IOFailure) {
        sourceFlushFailed()
        owedFlushFailure = failure
    }

    /// A pair that was in sync has something to copy; one that flows finds it by itself.
    ///
    /// The target has all that was acknowledged, and whatever the source has of the rest may be there as well: it stays a
    /// usable image. A source that is about to be left behind is not copied from.
    mutating func copyAgain(_ index: Int) {
        guard pairs[index].copyState == .synchronized, !pairs[index].wantsDetach, !leavesPrimary(index) else { return }
        beginCopying(index, keepsImage: true)
    }

    /// Tells the host, and gives the slot back when no element holds on to it.
    mutating func answer(_ id: SlotID, _ failure: IOFailure?) {
        effects.append(.answer(slots[id].host.origin, failure: failure))
        let side = Int(slots[id].host.side)
        if side == 0 {
            hostRequestCount -= 1
            copyControl.answered(arrivedAt: slots[id].arrivedAt, at: now)
        } else {
            targetRequestCounts[side - 1] -= 1
        }
        if slots[id].host.operation == .read && failure == nil { slots[id].host.buffer = .none }
        slots[id].stage = .abandoned
        releaseIfUnused(id)
    }

    /// Releases an answered request's slot when its last operation is over.
    mutating func releaseIfUnused(_ id: SlotID) {
        guard slots[id].pendingLegs == 0 else { return }
        recycleBuffers(id)
        slots.release(id)
    }

    /// The end of an event: answers and issues what a record held back, if that may go on now.
    ///
    /// Never inside an event: what is released may release others, and a slot would be met twice on the way.
    mutating func finishEvent() {
        repeat {
            while mayReleaseHeld {
                mayReleaseHeld = false
                releaseHeld()
            }
            if mayAdvanceLogs {
                mayAdvanceLogs = false
                advanceLogs()
            }
        } while mayReleaseHeld
        if isGrowing { finishGrowing() }
        advanceGate()
    }

    private mutating func releaseHeld() {
        // Writes among them wait for a record by themselves: no later request may take its lock before them.
        while !gate.isClosed, let id = gateWaiters.popFirst() {
            heldCount -= 1
            start(id)
        }
        guard heldCount > 0, !holdsForRecord else { return }
        for index in 0..<slots.capacity {
            guard let id = slots.taken(at: index) else { continue }
            if slots[id].stage == .answerHeld {
                // Only the target has it, and a start would not know that the target serves.
                let isInDoubt = isWritingRefused && slots[id].wasMirrored
                if isInDoubt, slots[id].sourceFailure == nil { slots[id].sourceFailure = .timedOut }
                heldCount -= 1
                answer(id, slots[id].sourceFailure)
            } else if slots[id].stage == .waitingForRecord {
                heldCount -= 1
                slots[id].stage = .waitingForLock
                switch slots[id].purpose {
                case .copy: startCopy(id)
                case .targetWrite: startTargetWrite(id)
                case .hostRead: start(id)
                default: startWrite(id)
                }
            }
        }
    }

    // MARK: - Reads that a target serves

    /// The pair that can stand in for the source over an extent: it mirrors, and nothing there is dirty.
    private func standIn(for extent: Extent) -> Int? {
        for index in 0..<pairs.count where pairs[index].isMirroring {
            let isDirty = pairs[index].dirty.isDirty(touching: extent) && !Mutation.isOn(.servesDirtyFromTarget)
            guard !isDirty else { continue }
            // What a verify has found different would be served, and written to the source.
            if !pairs[index].targetChanged.isDirty(touching: extent) { return index }
        }
        return nil
    }

    /// Whether what the target was read to hold is what hosts were told is there.
    ///
    /// The lock keeps writes of hosts away meanwhile. But of an asynchronous target one may have been under way that hosts were
    /// answered for already: where it has not come to pass, the pair has stopped, or has it marked.
    private func stillStandsIn(_ index: Int, for extent: Extent) -> Bool {
        if pairs[index].isAsynchronous, !pairs[index].isMirroring { return false }
        return !pairs[index].dirty.isDirty(touching: extent) || Mutation.isOn(.servesDirtyFromTarget)
    }

    /// The source failed a read.
    ///
    /// The lock makes sure that no write is half applied when the target is read.
    private mutating func redirect(_ id: SlotID) {
        guard standIn(for: slots[id].host.extent) != nil else { return answer(id, slots[id].sourceFailure) }
        slots[id].stage = .redirectWaiting
        if locks.acquire(slots[id].host.extent, .exclusive, owner: id) { startRedirectedRead(id) }
    }

    mutating func startRedirectedRead(_ id: SlotID) {
        guard let index = standIn(for: slots[id].host.extent) else {
            unlock(id)
            return answer(id, slots[id].sourceFailure)
        }
        slots[id].stage = .redirectReading
        disturbVerify(slots[id].host.extent)
        slots[id].pair = UInt8(index)
        slots[id].startedAt = awake
        issue(id, leg: leg(ofPair: index), .read)
    }

    mutating func redirectCompleted(_ id: SlotID, leg: UInt8, _ failure: IOFailure?) {
        let index = Int(slots[id].pair)
        let extent = slots[id].host.extent
        if slots[id].stage == .redirectReading {
            if let failure {
                if pairs[index].isMirroring { breakPair(index, .targetReadFailed(failure, extent)) }
                unlock(id)
                return answer(id, slots[id].sourceFailure)
            }
            guard stillStandsIn(index, for: extent) else {
                unlock(id)
                return answer(id, slots[id].sourceFailure)
            }
            readsServedByTarget += 1
            if isPrimaryLeftAlone { return endRedirect(id, isRepaired: false) }
            slots[id].stage = .redirectRepairing
            return issue(id, leg: 0, .write, isDurable: true)
        }
        endRedirect(id, isRepaired: failure == nil)
    }

    private mutating func endRedirect(_ id: SlotID, isRepaired: Bool) {
        let pair = pairs[Int(slots[id].pair)].id
        announce(.sourceReadServedByTarget(pair: pair, slots[id].host.extent, isRepaired: isRepaired))
        unlock(id)
        answer(id, nil)
    }
}
