package import RepldCore
package import RepldFormat

/// The durable record of each pair: when it is written, what waits for it, and what becomes of a pair that cannot have it.
extension VolumeMachine {
    private static var recordAttemptLimit: Int { 3 }

    /// Asks for a record of the pair as it is now.
    ///
    /// One is in flight at a time; the last wish wins.
    mutating func wantRecord(_ index: Int) {
        // What a stuck target gives back after the last record changes nothing that a start would believe: with an
        // operation in flight, that record was not a clean one.
        guard closeStage != .closed, !pairs[index].wantsDetach else { return }
        pairs[index].isRecordWanted = true
        pairs[index].recordAttempts = 0
        writeRecord(index)
    }

    private mutating func writeRecord(_ index: Int) {
        guard pairs[index].isRecordWanted, !pairs[index].isRecordInFlight, !pairs[index].wantsDetach else { return }
        pairs[index].isRecordWanted = false
        pairs[index].isRecordInFlight = true
        pairs[index].recordStartedAt = awake
        pairs[index].recordSequence += 1
        var record = PairRecord(
            sequence: pairs[index].recordSequence,
            pair: pairs[index].id,
            volumeByteCount: pairs[index].store.recordableByteCount(of: byteCount),
            copyState: pairs[index].copyState.rawValue,
            isClosedCleanly: pairs[index].wantsCleanRecord
        )
        record.operation = pairs[index].operation?.rawValue ?? 0
        record.volumeBlockByteCount = blockByteCount
        record.isSecondSource = pairs[index].isSecondSource
        record.isSecondPrimary = pairs[index].isSecondPrimary
        record.isTargetConsistent = pairs[index].isTargetConsistent
        record.isSourceAhead = pairs[index].isSourceAhead
        record.isSourceInconsistent = pairs[index].isSourceInconsistent
        record.mapTrust = pairs[index].store.trust
        record.logGeneration = pairs[index].store.generation
        record.granuleShift = pairs[index].dirty.granuleShift
        record.extentShift = pairs[index].store.extentShift
        record.servingEpoch = servingEpoch
        record.term = pairs[index].term
        record.lineage = pairs[index].lineage
        record.hasUndo = pairs[index].undo.isPresent
        record.undoGeneration = pairs[index].undo.generation
        pairs[index].recordTrust = record.mapTrust
        pairs[index].recordServingEpoch = servingEpoch
        record.isRestoringOverLink = pairs[index].linkRestore != .none
        if record.mapTrust.rawValue < pairs[index].store.provenTrust.rawValue {
            pairs[index].store.provenTrust = record.mapTrust
        }
        // It may get there although nobody is told so.
        if record.mapTrust.rawValue > pairs[index].store.durableTrust.rawValue {
            pairs[index].store.durableTrust = record.mapTrust
        }
        pairs[index].recordInFlight = record
        effects.append(.persist(pair: index))
    }

    /// The record that a `persist` effect is to write.
    package func recordInFlight(pair index: Int) -> PairRecord {
        guard pairs[index].isRecordInFlight, let record = pairs[index].recordInFlight else {
            invariantFailed("a record is on its way until its end is reported")
        }
        return record
    }

    /// The record of a `persist` effect is durable, or could not be written.
    package mutating func recordWritten(pair index: Int, _ failure: IOFailure?) {
        invariant(pairs[index].isInUse && pairs[index].isRecordInFlight, "a record was on its way")
        pairs[index].isRecordInFlight = false
        if pairs[index].isRecordStuck {
            // It may say what was true when it was begun.
            pairs[index].isRecordStuck = false
            pairs[index].isRecordWanted = true
        }
        if let failure {
            recordFailed(index, failure)
        } else {
            if !pairs[index].wantsCleanRecord { pairs[index].isOpenRecorded = true }
            pairs[index].store.durableTrust = pairs[index].recordTrust
            pairs[index].store.provenTrust = pairs[index].recordTrust
            mayAdvanceLogs = true
            pairs[index].isRecordImpossible = false
            pairs[index].hasRecordFailed = false
            pairs[index].recordAttempts = 0
            if !pairs[index].isRecordWanted { recordIsDurable(index) }
        }
        if pairs[index].wantsDetach { pairs[index].isRecordWanted = false }
        writeRecord(index)
        finishDetachIfIdle(index)
        mayReleaseHeld = true
        finishEvent()
        if pairs[index].isInUse, !pairs[index].isRecordPending {
            pumpCopies(index)
            pumpRollback(index)
            emptyUndo(index)
        }
        if isClosing { advanceClosing() }
        finishEvent()
    }

    /// The present state is recorded once; where it must not be forgotten, both blocks of the area are to have it.
    private mutating func recordIsDurable(_ index: Int) {
        if pairs[index].recordCopiesOwed > 0 {
            pairs[index].recordCopiesOwed -= 1
            pairs[index].isRecordWanted = true
            return
        }
        pairs[index].isRecordCritical = false
        if pairs[index].isSettled { endSettling(index, nil) }
        // A start believes the maps of those pairs only that know of the last change of the serving element.
        for other in 0..<pairs.count where pairs[other].isInUse && !pairs[other].isRecordPending {
            if pairs[other].recordServingEpoch != servingEpoch { wantRecord(other) }
        }
        tellEnd(index, nil)
    }

    /// Tries again to write the records that could not be written.
    ///
    /// Once per tick.
    mutating func retryRecords() {
        for index in 0..<pairs.count where pairs[index].isInUse && pairs[index].hasRecordFailed && !isClosing {
            wantRecord(index)
        }
    }

    /// After a few attempts the pair goes on without the record if an open one is durable: then a restart takes
    /// everything as different, which is safe.
    ///
    /// Without one, writes are refused, because a restart could believe an old record that says "in sync".
    private mutating func recordFailed(_ index: Int, _ failure: IOFailure) {
        pairs[index].recordAttempts += 1
        // The next one goes into the same block: the other is the only whole one, and what is owed to both is not written
        // twice into one.
        pairs[index].recordSequence -= 1
        if pairs[index].recordAttempts < Self.recordAttemptLimit {
            pairs[index].isRecordWanted = true
            return
        }
        goOnWithoutRecord(index, failure)
    }

    private mutating func goOnWithoutRecord(_ index: Int, _ failure: IOFailure) {
        if !pairs[index].hasRecordFailed { announce(.recordFailed(pair: pairs[index].id, failure)) }
        pairs[index].hasRecordFailed = true
        if !pairs[index].isOpenRecorded || pairs[index].isRecordCritical { pairs[index].isRecordImpossible = true }
        endSettling(index, .recordFailed(failure))
        tellEnd(index, .recordFailed(failure))
    }

    /// Records that do not come back within the pair's time limit count as failed.
    ///
    /// Once per tick.
    mutating func giveUpStuckRecords() {
        for index in 0..<pairs.count where pairs[index].isInUse && pairs[index].isRecordInFlight {
            guard !pairs[index].isRecordStuck else { continue }
            let limit = pairs[index].settings.targetTimeoutNanoseconds
            guard awake.nanoseconds(since: pairs[index].recordStartedAt) > limit else { continue }
            pairs[index].isRecordStuck = true
            mayReleaseHeld = true
            goOnWithoutRecord(index, .timedOut)
        }
    }

    /// A record of a pair is on its way, stuck or not: its area cannot be closed.
    package var hasRecordInFlight: Bool {
        for index in 0..<pairs.count where pairs[index].isInUse && hasMetadataInFlight(index) { return true }
        return false
    }
}
