internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// What a peer overwrites on a replica of this host, kept (`ReplicaUndo`).
extension Engine where P: ~Copyable {
    // MARK: - Beginning and end

    /// What has to be done before a record of the peer is written.
    func undoNeed(of record: PairRecord, _ place: Int) -> UndoNeed {
        guard record.hasUndo else { return .nothing }
        let isSame = links.replicas[place].undo.pages.generation == record.undoGeneration
        if links.replicas[place].undo.isWhole, isSame { return .nothing }
        // What is overwritten already cannot be kept any more.
        guard links.replicas[place].undo.area != nil, let last = links.replicas[place].record,
            last.isTargetConsistent, !last.hasUndo, !last.isTakenBack
        else { return .impossible }
        guard links.replicas[place].writeCount == 0, !links.replicas[place].undo.isBusy else { return .quiet }
        return .blankPages
    }

    /// Writes blank pages; the record follows.
    mutating func beginKeeping(_ record: PairRecord, _ place: Int) {
        links.replicas[place].undo.pages.beginBlank(generation: record.undoGeneration)
        pumpBlanking(place)
    }

    private mutating func pumpBlanking(_ place: Int) {
        guard let area = links.replicas[place].undo.area else { return }
        while let step = links.replicas[place].undo.freeStep(),
            let run = links.replicas[place].undo.pages.stale.nextDirtyRun(
                from: 0,
                limit: links.replicas[place].undo.stepPageCount
            )
        {
            let extent = Extent(
                offset: UndoLayout.pageOffset(run.lowerBound),
                length: UndoLayout.pageOffset(run.upperBound - run.lowerBound)
            )
            links.replicas[place].undo.pages.stale.clear(inside: extent)
            links.replicas[place].undo.steps[step] = UndoStep(stage: .blanking, extent: extent)
            for page in run { encodePage(page, at: Int(page - run.lowerBound), ofStep: step, place) }
            unsafe platform.write(
                area,
                at: extent.offset,
                from: UnsafeRawBufferPointer(links.replicas[place].undo.bytes(ofStep: step)),
                isDurable: true,
                token: undoToken(.replicaUndoStep, place, step)
            )
        }
    }

    private mutating func encodePage(_ page: UInt64, at position: Int, ofStep step: Int, _ place: Int) {
        let start = position * MetadataLayout.blockByteCount
        let bytes = unsafe links.replicas[place].undo.bytes(ofStep: step)
        let block = unsafe UnsafeMutableRawBufferPointer(
            rebasing: bytes[start..<start + MetadataLayout.blockByteCount]
        )
        unsafe encodePage(page, into: block, place)
    }

    private func encodePage(_ page: UInt64, into block: UnsafeMutableRawBufferPointer, _ place: Int) {
        var span = unsafe MutableRawSpan(_unsafeBytes: block)
        BitmapSector.encodeUndoPage(
            page,
            of: links.replicas[place].undo.pages.saved,
            generation: links.replicas[place].undo.pages.generation,
            links.replicas[place].pair,
            into: &span
        )
    }

    /// Some of the pages are blank, or could not be written; the record follows the last of them.
    private mutating func blanked(_ place: Int, _ step: Int, _ failure: IOFailure?) {
        links.replicas[place].undo.steps[step].stage = .free
        if failure != nil { links.replicas[place].undo.pages.drop() }
        guard links.replicas[place].undo.pages.stage == .preparing else {
            // The record is refused when nothing is on its way to the area any more.
            if !links.replicas[place].undo.hasSteps { refuseRecord(place) }
            return
        }
        pumpBlanking(place)
        guard !links.replicas[place].undo.hasSteps else { return }
        if links.replicas[place].undo.pages.finishPreparing() { writeRecord(place) }
    }

    /// The peer's record is durable, in both blocks: what it says of the undo holds.
    mutating func undoRecorded(_ record: PairRecord, _ place: Int) {
        guard !record.hasUndo else {
            if links.replicas[place].undo.pages.stage == .blank { links.replicas[place].undo.pages.stage = .present }
            return
        }
        guard links.replicas[place].undo.isPresent else { return }
        links.replicas[place].undo.pages.drop()
        emptyUndoIfIdle(place)
        pumpSaving(place)
    }

    /// Gives the room of the area back, as far as the file system can.
    private mutating func emptyUndoIfIdle(_ place: Int) {
        guard links.replicas[place].undo.pages.wantsEmptying, let area = links.replicas[place].undo.area else { return }
        guard !links.replicas[place].undo.hasSteps, links.replicas[place].undo.pages.pageWriteCount == 0 else { return }
        links.replicas[place].undo.pages.wantsEmptying = false
        links.replicas[place].undo.isEmptying = true
        let volume = volumes[links.replicas[place].volume].machine.byteCount
        let length = links.replicas[place].undo.headByteCount + volume
        platform.zero(
            area,
            Extent(offset: 0, length: length),
            .discard,
            isDurable: false,
            token: undoToken(.replicaUndoEmptied, place, 0)
        )
    }

    private func undoToken(_ kind: TokenKind, _ place: Int, _ part: Int) -> Token {
        Token(kind: kind.rawValue, leg: UInt8(part), slot: SlotID(index: UInt32(place), generation: 0))
    }

    mutating func replicaUndoCompleted(_ kind: TokenKind, _ place: Int, _ part: Int, _ failure: IOFailure?) {
        switch kind {
        case .replicaUndoEmptied: links.replicas[place].undo.isEmptying = false
        case .replicaUndoPage: undoPageWritten(place, part, failure)
        default: undoStepCompleted(place, part, failure)
        }
        emptyUndoIfIdle(place)
        hasFreedResources = true
        finishReplicaIfIdle(place)
    }

    // MARK: - Requests

    /// Whether a request of the peer has to wait: for what it would overwrite, or behind one that does.
    func mustWaitForUndo(_ serve: SlotID, _ place: Int) -> Bool {
        guard links.replicas[place].undo.isPresent else { return false }
        if !links.replicas[place].undo.held.isEmpty { return true }
        return links.serves[serve].isWrite && !links.replicas[place].undo.mayOverwrite(links.serves[serve].extent)
    }

    mutating func waitForUndo(_ serve: SlotID, _ place: Int) {
        links.replicas[place].undo.held.append(serve)
        pumpSaving(place)
    }

    /// Saves what the requests that wait would overwrite, and lets those go on that need to wait no longer.
    private mutating func pumpSaving(_ place: Int) {
        while !links.replicas[place].undo.held.isEmpty {
            let serve = links.replicas[place].undo.held[0]
            let isFree =
                !links.replicas[place].undo.isPresent || !links.serves[serve].isWrite
                || links.replicas[place].undo.mayOverwrite(links.serves[serve].extent)
            guard isFree else { break }
            _ = links.replicas[place].undo.held.popFirst()
            submitInOrder(serve)
        }
        guard links.replicas[place].undo.isPresent else { return }
        for position in 0..<min(links.replicas[place].undo.held.count, ReplicaUndo.lookahead) {
            let serve = links.replicas[place].undo.held[position]
            guard links.serves[serve].isWrite else { continue }
            let extent = links.serves[serve].extent
            while let next = links.replicas[place].undo.nextToSave(of: extent) {
                guard let step = links.replicas[place].undo.freeStep() else { return }
                save(next, place, step)
            }
        }
    }

    private mutating func save(_ extent: Extent, _ place: Int, _ step: Int) {
        links.replicas[place].undo.steps[step] = UndoStep(stage: .reading, extent: extent)
        if Mutation.isOn(.replicaOverwritesBeforeSaved) {
            links.replicas[place].undo.steps[step].stage = .writing
            return undoStepCompleted(place, step, nil)
        }
        unsafe platform.read(
            volumes[links.replicas[place].volume].element(atPlace: 0),
            at: extent.offset,
            into: links.replicas[place].undo.bytes(ofStep: step),
            token: undoToken(.replicaUndoStep, place, step)
        )
    }

    private mutating func undoStepCompleted(_ place: Int, _ step: Int, _ failure: IOFailure?) {
        let extent = links.replicas[place].undo.steps[step].extent
        switch links.replicas[place].undo.steps[step].stage {
        case .blanking: return blanked(place, step, failure)
        case .readingBack, .writingBack: return backStepCompleted(place, step, failure)
        case .free, .recording: invariantFailed("a step is in one of its stages")
        case .reading, .writing: break
        }
        guard failure == nil, let area = links.replicas[place].undo.area else {
            links.replicas[place].undo.steps[step].stage = .free
            return refuseHeld(place)
        }
        if links.replicas[place].undo.steps[step].stage == .reading {
            links.replicas[place].undo.steps[step].stage = .writing
            unsafe platform.write(
                area,
                at: links.replicas[place].undo.headByteCount + extent.offset,
                from: UnsafeRawBufferPointer(links.replicas[place].undo.bytes(ofStep: step)),
                isDurable: true,
                token: undoToken(.replicaUndoStep, place, step)
            )
            return
        }
        // Nobody counts on what was kept any more.
        guard links.replicas[place].undo.isPresent else {
            links.replicas[place].undo.steps[step].stage = .free
            return pumpSaving(place)
        }
        links.replicas[place].undo.pages.noteSaved(extent)
        links.replicas[place].undo.steps[step].stage = .recording
        links.replicas[place].undo.steps[step].isPageOnItsWay = false
        pumpUndoPages(place)
    }

    /// What waits would overwrite what cannot be kept: it is refused, and the peer breaks the pair.
    private mutating func refuseHeld(_ place: Int) {
        while let serve = links.replicas[place].undo.held.popFirst() {
            let request = links.serves[serve]
            // What came later must not become visible without it: the source may count the copy as over already.
            noteEpochFailure(of: request, .notKept)
            let isOfSession =
                links.sessions[request.session].number == request.sessionNumber
                && links.sessions[request.session].stage == .up
            if isOfSession, let control = links.sessions[request.session].control {
                let header = FrameHeader(
                    kind: .ack,
                    stream: request.stream,
                    tag: request.tag,
                    detail: AckStatus.notKept.rawValue
                )
                enqueue(OutgoingFrame(header: header), on: control)
            }
            endServe(serve)
        }
    }

    // MARK: - Pages

    private mutating func pumpUndoPages(_ place: Int) {
        guard let area = links.replicas[place].undo.area else { return }
        while let write = links.replicas[place].undo.pages.takePage(now: platform.now) {
            let page = links.replicas[place].undo.pages.pageWrites[write].page
            let block = unsafe links.replicas[place].undo.block(write)
            unsafe encodePage(page, into: block, place)
            for step in 0..<links.replicas[place].undo.steps.count where isRecording(step, page, place) {
                links.replicas[place].undo.steps[step].isPageOnItsWay = true
            }
            unsafe platform.write(
                area,
                at: UndoLayout.pageOffset(page),
                from: UnsafeRawBufferPointer(block),
                isDurable: true,
                token: undoToken(.replicaUndoPage, place, write)
            )
        }
    }

    private func isRecording(_ step: Int, _ page: UInt64, _ place: Int) -> Bool {
        let found = links.replicas[place].undo.steps[step]
        return found.stage == .recording && links.replicas[place].undo.pages.page(of: found.extent) == page
    }

    private mutating func undoPageWritten(_ place: Int, _ write: Int, _ failure: IOFailure?) {
        let page = links.replicas[place].undo.pages.pageWritten(place: write)
        switch links.replicas[place].undo.pages.stage {
        case .none, .blank, .preparing:
            // Another page has failed, or nobody counts on them any more.
            for step in 0..<links.replicas[place].undo.steps.count {
                if links.replicas[place].undo.steps[step].stage == .recording {
                    links.replicas[place].undo.steps[step].stage = .free
                }
            }
            return pumpSaving(place)
        case .present: break
        }
        for step in 0..<links.replicas[place].undo.steps.count where isRecording(step, page, place) {
            let found = links.replicas[place].undo.steps[step]
            guard found.isPageOnItsWay else { continue }
            links.replicas[place].undo.steps[step].stage = .free
            // It is not saved, whatever the page says on disk: the element holds it still.
            if failure != nil { links.replicas[place].undo.pages.saved.clear(inside: found.extent) }
        }
        if failure != nil { refuseHeld(place) }
        pumpUndoPages(place)
        pumpSaving(place)
    }

    // MARK: - Taking back

    /// Brings a claimed replica back to what it held before a copy; answers with its record, which calls it a usable image then.
    ///
    /// It may be done again, whatever has become of it.
    mutating func takeBack(_ pair: PairID, _ answer: @escaping @Sendable (Result<PairRecord, EngineRefusal>) -> Void) {
        guard let place = replicaIndex(pair), links.replicas[place].isClaimed else {
            return answer(.failure(.noSuchPair))
        }
        guard links.replicas[place].isIdle else { return answer(.failure(.replicaBusy)) }
        guard let record = links.replicas[place].record, record.hasUndo, links.replicas[place].undo.isPresent else {
            return answer(.failure(.nothingKept))
        }
        links.replicas[place].undo.takingBack = TakingBack(answer: answer)
        writeTakenBack(record, place)
    }

    private mutating func writeTakenBack(_ record: PairRecord, _ place: Int) {
        var record = record
        record.isTakenBack = true
        links.replicas[place].writing = record
        links.replicas[place].writingSession = nil
        writeRecord(place)
    }

    /// The record says that the copy is taken back, in one more block.
    mutating func takenBackRecorded(_ place: Int, _ failure: IOFailure?) {
        guard var taking = links.replicas[place].undo.takingBack, let record = links.replicas[place].record else {
            return
        }
        if let failure {
            taking.failure = failure
            links.replicas[place].undo.takingBack = taking
            return pumpTakingBack(place)
        }
        taking.recordsOwed -= 1
        links.replicas[place].undo.takingBack = taking
        if taking.recordsOwed > 0 { return writeTakenBack(record, place) }
        pumpTakingBack(place)
    }

    private mutating func pumpTakingBack(_ place: Int) {
        guard var taking = links.replicas[place].undo.takingBack, let area = links.replicas[place].undo.area else {
            return
        }
        let limit = links.replicas[place].undo.stepGranuleCount
        while taking.failure == nil, let step = links.replicas[place].undo.freeStep(),
            let run = links.replicas[place].undo.pages.saved.nextDirtyRun(from: taking.cursor, limit: limit)
        {
            taking.cursor = run.upperBound
            let extent = links.replicas[place].undo.pages.saved.extent(of: run)
            links.replicas[place].undo.steps[step] = UndoStep(stage: .readingBack, extent: extent)
            unsafe platform.read(
                area,
                at: links.replicas[place].undo.headByteCount + extent.offset,
                into: links.replicas[place].undo.bytes(ofStep: step),
                token: undoToken(.replicaUndoStep, place, step)
            )
        }
        links.replicas[place].undo.takingBack = taking
        guard !links.replicas[place].undo.hasSteps else { return }
        links.replicas[place].undo.takingBack = nil
        finishTakingBack(taking, place)
    }

    private mutating func finishTakingBack(_ taking: TakingBack, _ place: Int) {
        guard taking.failure == nil, var record = links.replicas[place].record else {
            return taking.answer(.failure(.operationFailed(.rollbackFailed(taking.failure ?? .inputOutput))))
        }
        record.isTargetConsistent = true
        record.hasUndo = false
        record.isTakenBack = false
        taking.answer(.success(record))
    }

    private mutating func backStepCompleted(_ place: Int, _ step: Int, _ failure: IOFailure?) {
        if let failure { links.replicas[place].undo.takingBack?.failure = failure }
        let found = links.replicas[place].undo.steps[step]
        guard failure == nil, found.stage == .readingBack else {
            links.replicas[place].undo.steps[step].stage = .free
            return pumpTakingBack(place)
        }
        links.replicas[place].undo.steps[step].stage = .writingBack
        unsafe platform.write(
            volumes[links.replicas[place].volume].element(atPlace: 0),
            at: found.extent.offset,
            from: UnsafeRawBufferPointer(links.replicas[place].undo.bytes(ofStep: step)),
            isDurable: true,
            token: undoToken(.replicaUndoStep, place, step)
        )
    }
}

/// What has to be done before a record of a peer is written down.
enum UndoNeed {
    case nothing
    /// Something is still on its way; the record waits.
    case quiet
    case blankPages
    /// What the record counts on cannot be had.
    case impossible
}
