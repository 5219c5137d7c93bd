internal import RepldCore

/// The mover: walks a pair's dirty map in disk order and makes the target equal.
///
/// A chunk's life: `waitingForBuffers → waitingForLock → (waitingForRecord) → copyReading → [copyComparing] → copyWriting → copied`.
/// Buffers come before the lock: a holder of a lock never waits for a buffer, so host writes that wait for the lock (and
/// hold buffers) cannot be waited for by it. `copied` extents wait for a flush of the target; only then are their bits
/// cleared. A pass ends at the end of the map; bits that are still set then are the next pass. When a pass finds
/// nothing, the pair is Synchronized.
/// Progress: each chunk waits only for the writes that were before it (`IntervalLock`), so a pass ends under any load;
/// host writes are mirrored while it runs and set no new bits, so passes end too. How fast chunks follow each other is the
/// controller's business (`VolumeMachine+CopyControl`), which never puts one off for ever.
extension VolumeMachine {
    /// Starts as many chunks as the pair may have in flight, or goes on to what follows the last of them.
    mutating func pumpCopies(_ index: Int) {
        guard pairs[index].isInUse, isCopying(index), !pairs[index].isCopyFlushInFlight else { return }
        guard !gate.isClosed, !pairs[index].isRecordCritical else { return }
        if pumpAwaited(index) { return }
        var permit = CopyPermit.later
        while pairs[index].copiesInFlight < Int(pairs[index].settings.copyDepth) {
            guard pairs[index].copied.count + pairs[index].copiesInFlight < Pair.copiedExtentLimit else { break }
            permit = copyPermit(index)
            guard case .start(let byteLimit) = permit else { break }
            let limit = byteLimit >> UInt64(pairs[index].dirty.granuleShift)
            guard var run = pairs[index].nextRunToCopy(from: pairs[index].cursor, limit: max(limit, 1)) else {
                break
            }
            if pairs[index].savesHere {
                run = run.lowerBound..<min(run.upperBound, pairs[index].undo.chunkEnd(from: run.lowerBound))
            }
            pairs[index].cursor = run.upperBound
            paceChunk(index, byteCount: pairs[index].dirty.extent(of: run).length)
            beginChunk(pairs[index].dirty.extent(of: run), pair: index)
        }
        guard pairs[index].copiesInFlight == 0, !isHeldBack(index, permit) else { return }
        if !pairs[index].copied.isEmpty {
            startCopyFlush(index)
        } else if pairs[index].hasNothingToCopy {
            finishCopying(index)
        } else {
            invariant(pairs[index].cursor > 0, "a pass that starts at the beginning finds what is dirty")
            pairs[index].cursor = 0
            pairs[index].undo.hasPassed = true
            pumpCopies(index)
        }
    }

    mutating func beginChunk(_ extent: Extent, pair index: Int) {
        var request = Request(
            host: HostRequest(
                operation: .write,
                extent: extent,
                buffer: .none,
                origin: RequestOrigin(client: 0, request: 0)
            ),
            purpose: .copy,
            stage: .waitingForBuffers
        )
        request.pair = UInt8(index)
        request.startedAt = awake
        guard let id = slots.take(request) else { invariantFailed("the mover's slots are reserved") }
        pairs[index].copiesInFlight += 1
        pairs[index].hasCaughtUp = false
        let isRestore = pairs[index].linkRestore == .running
        slots[id].isLockless = isRestore
        let isPair = !isRestore && (pairs[index].comparesFirst || mustSave(id, pair: index))
        effects.append(.needBuffers(id, byteCount: UInt32(extent.length), isPair: isPair))
    }

    /// The chunk holds its lock and its buffers.
    mutating func startCopy(_ id: SlotID) {
        let index = Int(slots[id].pair)
        guard isCopying(index) else { return endChunk(id, isCopied: false) }
        if holdsForRecord || isPrimaryLeftAlone { return hold(id, .waitingForRecord) }
        slots[id].stage = .copyReading
        slots[id].startedAt = awake
        issue(id, leg: slots[id].isLockless ? leg(ofPair: index) : 0, .readAndCheckZero)
    }

    func isCopying(_ index: Int) -> Bool {
        (pairs[index].copyState == .unsynchronized || pairs[index].isFlowingBack
            || pairs[index].linkRestore == .running)
            && !pairs[index].wantsDetach
            && !isClosing && !pairs[index].isRecordImpossible
    }

    mutating func copyStepCompleted(_ id: SlotID, leg: UInt8, _ outcome: OperationOutcome) {
        let index = Int(slots[id].pair)
        let extent = slots[id].host.extent
        guard isCopying(index) else { return endChunk(id, isCopied: false) }
        switch slots[id].stage {
        case .copyReading:
            if let failure = outcome.failure {
                breakPair(index, .sourceReadFailed(failure, extent))
                return endChunk(id, isCopied: false)
            }
            slots[id].isMatch = outcome.isMatch
            if slots[id].secondBuffer != .none {
                slots[id].stage = .copyComparing
                slots[id].startedAt = awake
                issue(id, leg: self.leg(ofPair: index), .readAndCompare)
            } else {
                writeChunk(id, pair: index)
            }
        case .copyComparing:
            if let failure = outcome.failure {
                breakPair(index, .targetReadFailed(failure, extent))
                return endChunk(id, isCopied: false)
            }
            // In a later pass what hosts write to is saved, so that it is mirrored from then on.
            if outcome.isMatch, !pairs[index].undo.hasPassed || !mustSave(id, pair: index) {
                pairs[index].copyEqualByteCount += extent.length
                return endChunk(id, isCopied: true)
            }
            writeChunk(id, pair: index)
        case .copySaving:
            chunkSaved(id, pair: index, outcome.failure)
        case .copyWriting:
            if let failure = outcome.failure {
                breakPair(index, .targetWriteFailed(failure, extent))
                return endChunk(id, isCopied: false)
            }
            if slots[id].isMatch {
                pairs[index].copyZeroByteCount += extent.length
            } else {
                pairs[index].copyWrittenByteCount += extent.length
            }
            endChunk(id, isCopied: true)
        default:
            invariantFailed("a copy is in one of its stages")
        }
    }

    /// Writes what was read; zeroes are punched, so that a sparse source gets a sparse target.
    ///
    /// Where an undo is kept, what the target holds is saved before.
    private mutating func writeChunk(_ id: SlotID, pair index: Int) {
        if mustSave(id, pair: index) {
            if !beginSaving(id, pair: index) { endChunk(id, isCopied: false) }
            return
        }
        issueChunkWrite(id, pair: index)
    }

    /// What the target held is saved, and both are durable: content and page.
    mutating func writeSavedChunk(_ id: SlotID) { issueChunkWrite(id, pair: Int(slots[id].pair)) }

    private mutating func issueChunkWrite(_ id: SlotID, pair index: Int) {
        slots[id].stage = .copyWriting
        slots[id].startedAt = awake
        let leg = slots[id].isLockless ? 0 : leg(ofPair: index)
        issue(id, leg: leg, slots[id].isMatch ? .zeroMayDeallocate : .write)
    }

    /// The chunk is over, one way or the other: its lock, buffers and slot are given back.
    mutating func endChunk(_ id: SlotID, isCopied: Bool) {
        let index = Int(slots[id].pair)
        invariant(slots[id].pendingLegs == 0, "a chunk ends when its operation is over")
        if isCopied, !slots[id].isStale {
            pairs[index].copied.append(slots[id].host.extent)
            pairs[index].copyDoneByteCount += slots[id].host.extent.length
        }
        pairs[index].copiesInFlight -= 1
        unlock(id)
        recycleBuffers(id)
        slots.release(id)
        pumpCopies(index)
        pumpRollback(index)
        finishDetachIfIdle(index)
    }

    /// Drops the chunks of a copy that is over and that still wait for buffers: nothing has been done for them.
    mutating func dropWaitingChunks(_ index: Int) {
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), slots[id].stage == .waitingForBuffers else { continue }
            guard Int(slots[id].pair) == index else { continue }
            if slots[id].purpose == .verify {
                dropWaitingPiece(id)
                continue
            }
            if slots[id].purpose == .rollback {
                dropWaitingRollback(id)
                continue
            }
            pairs[index].copiesInFlight -= 1
            slots.release(id)
        }
    }

    mutating func recycleBuffers(_ id: SlotID) {
        if slots[id].host.buffer != .none { effects.append(.recycle(slots[id].host.buffer)) }
        if slots[id].secondBuffer != .none { effects.append(.recycle(slots[id].secondBuffer)) }
    }

    mutating func startCopyFlush(_ index: Int) {
        var request = Request(
            host: .ownFlush,
            purpose: .copyFlush,
            stage: .running
        )
        request.pair = UInt8(index)
        request.startedAt = awake
        guard let id = slots.take(request) else { invariantFailed("the mover's slots are reserved") }
        pairs[index].isCopyFlushInFlight = true
        // The source as well: what was read there may be in a cache that a loss of power empties, and the target would keep it.
        issue(id, leg: 0, .flush)
        // The target was flushed before a restore over a link began, and has not been written since.
        guard pairs[index].linkRestore == .none else { return }
        if !Mutation.isOn(.clearsBeforeFlush) { issue(id, leg: leg(ofPair: index), .flush) }
        noteFullFlush(id, index)
    }

    mutating func copyFlushLegCompleted(_ id: SlotID, leg: UInt8, _ failure: IOFailure?) {
        let index = Int(slots[id].pair)
        if leg == 0 {
            // That marks everything, and leaves nothing to clear.
            if let failure { ownFlushOfPrimaryFailed(failure) }
        } else {
            targetFlushCompleted(pair: index, failure)
        }
        if slots[id].pendingLegs == 0 {
            copyFlushCompleted(id)
        } else if slots[id].awaitedLegs == 0 {
            slots[id].stage = .abandoned
        }
    }

    mutating func logFlushLegCompleted(_ id: SlotID, leg: UInt8, _ failure: IOFailure?) {
        let index = Int(slots[id].pair)
        if leg == 0 {
            if let failure { ownFlushOfPrimaryFailed(failure) }
        } else {
            targetFlushCompleted(pair: index, failure)
        }
        if slots[id].pendingLegs == 0 {
            slots.release(id)
            logFlushEnded(index)
        } else if slots[id].awaitedLegs == 0 {
            slots[id].stage = .abandoned
        }
    }

    /// Both elements have made the copied extents durable: exactly their bits are cleared (rule 3).
    private mutating func copyFlushCompleted(_ id: SlotID) {
        let index = Int(slots[id].pair)
        pairs[index].isCopyFlushInFlight = false
        if isCopying(index), pairs[index].linkRestore == .running {
            noteRestored(index)
        } else if isCopying(index) {
            while let extent = pairs[index].copied.popFirst() { pairs[index].clearDirty(extent) }
        }
        slots.release(id)
        pumpCopies(index)
        finishDetachIfIdle(index)
    }
}
