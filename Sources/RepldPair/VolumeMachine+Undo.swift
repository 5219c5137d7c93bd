package import RepldCore
internal import RepldFormat

/// The undo areas of the pairs (`PairUndo`): how they begin, what the mover saves there, how a failover takes a copy back.
///
///     none → preparing → blank → present → none
///
/// A chunk of the mover whose granules are not saved:
/// `copyReading → copyComparing → copySaving → copyRecording → copyWriting`: the old content is durable, then its page, which
/// chunks in flight share, and then the target is written.
///
/// A failover of a pair with an undo: mirroring stops, what is in flight to the target ends, whatever is saved counts as different
/// (durably, because it is), the old content is written back, durably; then both blocks of the record say that the target is a usable
/// image and that there is no undo, and the failover goes on as any other. Every step may be repeated: after a crash, or a
/// failure, the undo is as whole as before, and whoever asks for the failover again takes it up from the beginning.
extension VolumeMachine {
    /// The leg of a pair's undo area.
    func undoLeg(ofPair index: Int) -> UInt8 { UInt8(Self.pairLimit + 1 + index) }

    /// The pair of a leg other than 0: its element, or its undo area.
    func pair(ofLeg leg: UInt8) -> Int { (Int(leg) - 1) % Self.pairLimit }

    /// The legs of a pair, as bits.
    func legBits(ofPair index: Int) -> UInt8 { 1 << leg(ofPair: index) | 1 << undoLeg(ofPair: index) }

    /// Whether a host's write goes to the pair's element now.
    @inline(__always)
    func mirrors(_ index: Int, _ extent: Extent) -> Bool {
        pairs[index].isMirroring && !isRatherRemembered(index)
            && (!pairs[index].savesHere || pairs[index].undo.hasSaved(extent))
    }

    // MARK: - Beginning and end

    /// Takes up what the undo area says, if the record counts on it.
    mutating func takeUpUndo(_ record: PairRecord, _ undo: RecoveredUndo?, _ index: Int) {
        pairs[index].undo.generation = record.undoGeneration
        pairs[index].undo.isWanted = pairs[index].settings.keepsUndo
        guard let undo, record.hasUndo, undo.generation == record.undoGeneration else { return }
        let isOver = Self.endsUndo(pairs[index].copyState) || pairs[index].isTargetConsistent
        guard !isOver, !pairs[index].isMisplaced else { return }
        pairs[index].undo.takeUp(undo)
    }

    /// States in which nothing is to be taken back: the target is equal, or is (or will be) overwritten by other means.
    static func endsUndo(_ state: CopyState) -> Bool {
        switch state {
        case .synchronized, .failedover, .fractured, .split, .restored, .prepared, .initialized: true
        default: false
        }
    }

    /// Before a copy begins: whether it has to wait for its undo area.
    mutating func awaitsUndo(_ index: Int) -> Bool {
        if pairs[index].isRemote {
            beginRemoteUndo(index)
            return false
        }
        if pairs[index].undo.isPresent {
            // What would overwrite more than is saved ends the undo first: no chunk begins before that is durable.
            if !pairs[index].undo.isWanted { dropUndo(index) }
            return false
        }
        let differs = !pairs[index].dirty.isClean || !pairs[index].targetChanged.isClean
        guard pairs[index].undo.isWanted, pairs[index].isTargetConsistent, differs else {
            pairs[index].undo.drop()
            return false
        }
        if pairs[index].undo.stage == .blank {
            pairs[index].undo.stage = .present
            return false
        }
        pairs[index].undo.beginBlank()
        pumpUndoPages(index)
        return true
    }

    /// There is nothing to take back from here on; nothing is overwritten before both blocks of the record say so.
    mutating func dropUndo(_ index: Int) {
        let wasPresent = pairs[index].undo.isPresent
        pairs[index].undo.drop()
        if pairs[index].isRemote { pairs[index].undo.wantsEmptying = false }
        guard wasPresent else { return }
        markRecordCritical(index)
        wantRecord(index)
    }

    /// The record says that there is no undo: the room that it took is given back.
    mutating func emptyUndo(_ index: Int) {
        guard pairs[index].undo.wantsEmptying, !pairs[index].undo.isBusy, !pairs[index].isRecordCritical else { return }
        guard pairs[index].undo.stage == .none, pairs[index].operationsInFlight == 0, !isClosing else { return }
        pairs[index].undo.wantsEmptying = false
        pairs[index].undo.isEmptying = true
        effects.append(.emptyUndo(pair: index))
    }

    /// The area has been emptied, as far as that was possible.
    package mutating func undoEmptied(pair index: Int) {
        invariant(pairs[index].isInUse && pairs[index].undo.isEmptying, "an area was being emptied")
        pairs[index].undo.isEmptying = false
        undoWritten(index)
    }

    // MARK: - Pages

    private mutating func pumpUndoPages(_ index: Int) {
        while let place = pairs[index].undo.takePage(now: awake) {
            let page = pairs[index].undo.pageWrites[place].page
            effects.append(.writeUndoPage(pair: index, place: place))
            for slot in 0..<slots.capacity {
                guard let id = slots.taken(at: slot), isRecording(id, index) else { continue }
                if pairs[index].undo.page(of: slots[id].host.extent) == page { slots[id].isPageOnItsWay = true }
            }
        }
    }

    private func isRecording(_ id: SlotID, _ index: Int) -> Bool {
        slots[id].stage == .copyRecording && Int(slots[id].pair) == index
    }

    /// Builds a page of the undo area over a whole block; where it goes in the area.
    package func encodeUndoPage(pair index: Int, place: Int, into block: inout MutableRawSpan) -> UInt64 {
        let page = pairs[index].undo.pageWrites[place].page
        let generation = pairs[index].undo.generation
        BitmapSector.encodeUndoPage(
            page,
            of: pairs[index].undo.saved,
            generation: generation,
            pairs[index].id,
            into: &block
        )
        return UndoLayout.pageOffset(page)
    }

    /// A page of the undo area is durable, or could not be written.
    package mutating func undoPageWritten(pair index: Int, place: Int, _ failure: IOFailure?) {
        invariant(pairs[index].isInUse, "a page was on its way")
        let page = pairs[index].undo.pageWritten(place: place)
        if let failure { undoFailed(index, failure) }
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), isRecording(id, index) else { continue }
            if !isCopying(index) {
                endUnsaved(id)
            } else if slots[id].isPageOnItsWay, pairs[index].undo.page(of: slots[id].host.extent) == page {
                slots[id].isPageOnItsWay = false
                writeSavedChunk(id)
            }
        }
        if pairs[index].undo.isPresent ? isCopying(index) : failure == nil { pumpUndoPages(index) }
        if !pairs[index].undo.isEmptying { _ = pairs[index].undo.finishPreparing() }
        undoWritten(index)
    }

    private mutating func undoWritten(_ index: Int) {
        startIfPossible(index)
        emptyUndo(index)
        finishDetachIfIdle(index)
        if isClosing { advanceClosing() }
        finishEvent()
    }

    /// The area cannot be written: nothing more is overwritten, and nothing is lost.
    private mutating func undoFailed(_ index: Int, _ failure: IOFailure) {
        if pairs[index].undo.stage == .preparing {
            pairs[index].undo.drop()
            guard pairs[index].wantsStart else { return }
            pairs[index].wantsStart = false
            endOperation(index, .undoFailed(failure))
        } else if pairs[index].undo.isPresent {
            breakPair(index, .undoFailed(failure))
        }
    }

    // MARK: - The mover

    /// Whether a chunk that was compared has to be saved before it is written.
    func mustSave(_ id: SlotID, pair index: Int) -> Bool {
        pairs[index].savesHere && !pairs[index].undo.hasSaved(slots[id].host.extent)
    }

    /// What the target holds was read into the second buffer just now; false when the chunk has to be begun anew.
    mutating func beginSaving(_ id: SlotID, pair index: Int) -> Bool {
        let extent = slots[id].host.extent
        let range = pairs[index].undo.saved.granules(touching: extent)
        // One that began before the undo: it was not cut for it, or has not read what the target holds.
        let isCut = pairs[index].undo.chunkEnd(from: range.lowerBound) >= range.upperBound
        guard isCut, slots[id].secondBuffer != .none else { return false }
        slots[id].stage = .copySaving
        slots[id].startedAt = awake
        if Mutation.isOn(.overwritesBeforeSaved) {
            chunkSaved(id, pair: index, nil)
            return true
        }
        issue(id, leg: undoLeg(ofPair: index), .save, isDurable: true)
        return true
    }

    /// The old content of a chunk is durable, or could not be written.
    mutating func chunkSaved(_ id: SlotID, pair index: Int, _ failure: IOFailure?) {
        if let failure {
            breakPair(index, .undoFailed(failure))
            return endChunk(id, isCopied: false)
        }
        pairs[index].undo.noteSaved(slots[id].host.extent)
        slots[id].stage = .copyRecording
        slots[id].startedAt = awake
        slots[id].isPageOnItsWay = false
        pumpUndoPages(index)
    }

    /// A chunk whose page is not known to be durable ends: it is not saved, whatever the page says on disk.
    private mutating func endUnsaved(_ id: SlotID) {
        let index = Int(slots[id].pair)
        if pairs[index].undo.isPresent { pairs[index].undo.saved.clear(inside: slots[id].host.extent) }
        endChunk(id, isCopied: false)
    }

    // MARK: - Taking a copy back

    /// A failover of a pair whose target is half overwritten.
    mutating func beginRollback(_ index: Int) {
        if pairs[index].isMirroring { stopMirroring(index, to: .suspended) }
        pairs[index].rememberSaved()
        pairs[index].undo.isRollingBack = true
        pairs[index].undo.rollbackCursor = 0
        pairs[index].undo.rollbackDeadline = rollbackDeadline(index)
        markRecordCritical(index)
        wantRecord(index)
        mayAdvanceLogs = true
    }

    private func rollbackDeadline(_ index: Int) -> Instant {
        awake.advanced(byNanoseconds: pairs[index].settings.targetTimeoutNanoseconds)
    }

    /// Begins as many chunks as may be in flight, or goes on with the failover when all is as it was.
    mutating func pumpRollback(_ index: Int) {
        guard pairs[index].undo.isRollingBack, !pairs[index].isRecordCritical, !pairs[index].isRecordPending else {
            return
        }
        guard !pairs[index].wantsDetach, !isClosing, !gate.isClosed, !pairs[index].undo.isBusy else { return }
        guard pairs[index].copiesInFlight == 0 else { return }
        // What a copy has begun comes first; then nothing but this is in flight to the target.
        guard pairs[index].operationsInFlight <= pairs[index].undo.rollbacksInFlight else { return }
        let limit = max(UInt64(pairs[index].settings.copyChunkByteCount) >> UInt64(pairs[index].dirty.granuleShift), 1)
        while pairs[index].undo.rollbacksInFlight < Int(pairs[index].settings.copyDepth) {
            let cursor = pairs[index].undo.rollbackCursor
            guard let run = pairs[index].undo.saved.nextDirtyRun(from: cursor, limit: limit) else { break }
            pairs[index].undo.rollbackCursor = run.upperBound
            beginRollbackChunk(pairs[index].undo.saved.extent(of: run), index)
        }
        if pairs[index].undo.rollbacksInFlight == 0 { finishRollback(index) }
    }

    private mutating func beginRollbackChunk(_ extent: Extent, _ index: Int) {
        let origin = RequestOrigin(client: 0, request: 0)
        let host = HostRequest(operation: .write, extent: extent, buffer: .none, origin: origin)
        var request = Request(host: host, purpose: .rollback, stage: .waitingForBuffers)
        request.pair = UInt8(index)
        request.startedAt = awake
        guard let id = slots.take(request) else { invariantFailed("the mover's slots are reserved") }
        pairs[index].undo.rollbacksInFlight += 1
        effects.append(.needBuffers(id, byteCount: UInt32(extent.length), isPair: false))
    }

    /// A chunk has its buffer: the old content is read.
    mutating func startRollbackChunk(_ id: SlotID) {
        let index = Int(slots[id].pair)
        guard pairs[index].undo.isRollingBack else { return endRollbackChunk(id) }
        slots[id].stage = .rollbackReading
        slots[id].startedAt = awake
        issue(id, leg: undoLeg(ofPair: index), .read)
    }

    mutating func rollbackStepCompleted(_ id: SlotID, _ failure: IOFailure?) {
        let index = Int(slots[id].pair)
        let isReading = slots[id].stage == .rollbackReading
        guard pairs[index].undo.isRollingBack else { return endRollbackChunk(id) }
        if let failure {
            failRollback(index, failure)
            return endRollbackChunk(id)
        }
        pairs[index].undo.rollbackDeadline = rollbackDeadline(index)
        guard isReading else { return endRollbackChunk(id) }
        slots[id].stage = .rollbackWriting
        slots[id].startedAt = awake
        issue(id, leg: leg(ofPair: index), .write, isDurable: true)
    }

    private mutating func failRollback(_ index: Int, _ failure: IOFailure) {
        endOperation(index, .rollbackFailed(failure))
        wantRecord(index)
    }

    private mutating func endRollbackChunk(_ id: SlotID) {
        let index = Int(slots[id].pair)
        invariant(slots[id].pendingLegs == 0, "a chunk ends when its operation is over")
        pairs[index].undo.rollbacksInFlight -= 1
        recycleBuffers(id)
        slots.release(id)
        pumpRollback(index)
        startIfPossible(index)
        finishDetachIfIdle(index)
    }

    /// A chunk that waits for its buffer is begun again later.
    mutating func dropWaitingRollback(_ id: SlotID) {
        let index = Int(slots[id].pair)
        let granule = slots[id].host.extent.offset >> UInt64(pairs[index].dirty.granuleShift)
        pairs[index].undo.rollbackCursor = min(pairs[index].undo.rollbackCursor, granule)
        pairs[index].undo.rollbacksInFlight -= 1
        slots.release(id)
    }

    /// The target holds what it held before the copy: the failover is one from an older image.
    private mutating func finishRollback(_ index: Int) {
        pairs[index].isTargetConsistent = true
        dropUndo(index)
        closeGate(index, .failover)
    }

    // MARK: - Time

    /// Gives up what does not come back, and goes on with what waits.
    ///
    /// Once per tick.
    mutating func tickUndo() {
        for index in 0..<pairs.count where pairs[index].isInUse {
            if isUndoStuck(index) { giveUpUndoPages(index) }
            if pairs[index].undo.isRollingBack, awake > pairs[index].undo.rollbackDeadline {
                failRollback(index, .timedOut)
            }
            pumpRollback(index)
            emptyUndo(index)
        }
    }

    private func isUndoStuck(_ index: Int) -> Bool {
        let limit = pairs[index].settings.targetTimeoutNanoseconds
        for place in 0..<pairs[index].undo.pageWrites.count where pairs[index].undo.pageWrites[place].isInUse {
            if awake.nanoseconds(since: pairs[index].undo.pageWrites[place].startedAt) > limit { return true }
        }
        return false
    }

    private mutating func giveUpUndoPages(_ index: Int) {
        undoFailed(index, .timedOut)
        // Host writes wait for their locks.
        for slot in 0..<slots.capacity {
            guard let id = slots.taken(at: slot), isRecording(id, index) else { continue }
            endUnsaved(id)
        }
    }
}
