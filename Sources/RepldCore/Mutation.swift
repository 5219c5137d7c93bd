/// Known mistakes that can be made in the engine on purpose, one at a time, to see that the simulator finds each of them.
///
/// Each breaks one rule of the data, at the one place that asks `isOn` for it. They are there only where the package was built
/// with `-Xswiftc -DREPLD_MUTATIONS`: without that, `isOn` is the constant false, and nothing of a mutation is in the product.
/// How many seeds of which kind find each is in `RepldSimulation` (`Mutation.seedBudget`).
@usableFromInline
package enum Mutation: String, CaseIterable, Sendable {
    // MARK: Rule 1: what is acknowledged is durable as promised, on every copy

    /// A host's FLUSH goes to the source alone (`VolumeMachine.startFlush`).
    case flushSkipsTarget = "flush-skips-target"
    /// FUA is kept by the source alone (`VolumeMachine.issueToTargets`).
    case forcedWriteSkipsTarget = "fua-skips-target"
    /// A write of a synchronous pair is answered when the source has it (`VolumeMachine.runningLegCompleted`).
    case answersBeforeTarget = "answers-before-target"
    /// A discard is carried out on the source alone (`VolumeMachine.startWrite`).
    case discardsSourceOnly = "discards-source-only"
    /// A read that the source fails is served by a target that lacks the newest data (`VolumeMachine.standIn`).
    case servesDirtyFromTarget = "serves-dirty-from-target"
    /// A role moves before what is under way has ended (`VolumeMachine.advanceGate`).
    case passesGateUndrained = "passes-gate-undrained"

    // MARK: Rule 2: an extent is recorded as possibly different before it is written

    /// The record of the activity log follows the write (`VolumeMachine.enterLogs`).
    case writesBeforeLog = "writes-before-log"
    /// An extent leaves the log before its bits are durable (`VolumeMachine.advanceEviction`).
    case evictsBeforePages = "evicts-before-pages"
    /// An extent leaves the log before what was mirrored there is durable on both elements (`VolumeMachine.advanceEviction`).
    case evictsBeforeFlush = "evicts-before-flush"
    /// A pair that stops mirroring forgets the writes in flight (`VolumeMachine.rememberUnproven`).
    case forgetsInFlight = "forgets-in-flight"
    /// A pair that stops mirroring forgets what its target has not flushed (`Pair.rememberUnflushed`).
    case forgetsUnflushed = "forgets-unflushed"

    // MARK: Rule 3: a bit is cleared only for what was acknowledged as durable and is not written again

    /// Bits are cleared for what the target has not flushed (`VolumeMachine.startCopyFlush`).
    case clearsBeforeFlush = "clears-before-flush"
    /// Bits are cleared of what was marked again since it was copied (`Pair.markAgain`).
    case clearsMarkedAgain = "clears-marked-again"
    /// Bits are cleared by rule when the peer is back (`VolumeMachine.linkRestored`).
    case clearsOnReconnect = "clears-on-reconnect"
    /// Data that begins with zeroes is copied as zeroes (`DataExamination.answerAtAGlance`).
    case takesDataForZeroes = "takes-data-for-zeroes"
    /// What a verify finds different is not marked (`VolumeMachine.noteDifference`).
    case dropsVerifyMarks = "drops-verify-marks"

    // MARK: Rule 4: the other side hears of a difference after it is recorded here

    /// A host is told of a write that a target lacks before that is recorded (`VolumeMachine.settle`).
    case answersBeforeRecord = "answers-before-record"

    // MARK: Rule 5: requests that overlap are applied in one order on every copy

    /// The mover locks the first block of its chunk only: a mirrored write overtakes it (`VolumeMachine.buffersGranted`).
    case copiesWithoutLock = "copies-without-lock"
    /// A host's write locks its first block only (`VolumeMachine.start`).
    case writesWithoutLock = "writes-without-lock"

    // MARK: Rule 6: a write never becomes visible on a target without those that were acknowledged before it began

    /// All writes of an asynchronous pair are of one epoch (`Engine.noteAcknowledgement`).
    case mixesEpochs = "mixes-epochs"
    /// A replica applies an epoch while the one before is under way (`Engine.requestReceived`).
    case appliesEpochsTogether = "applies-epochs-together"
    /// A replica begins an epoch before the one before is on stable storage (`Engine.requestReceived`).
    case skipsEpochFlush = "skips-epoch-flush"

    // MARK: Rule 7: a target that was consistent stays a usable image

    /// What a chunk overwrites counts as saved before it is (`VolumeMachine.beginSaving`).
    case overwritesBeforeSaved = "overwrites-before-saved"
    /// A replica counts what a peer overwrites as kept before it is (`Engine.save`).
    case replicaOverwritesBeforeSaved = "replica-keeps-nothing"
    /// A target that is half copied to still counts as usable (`VolumeMachine.beginCopying`).
    case callsHalfCopyUsable = "calls-half-copy-usable"

    // MARK: Rule 8: every wait has an end

    /// Hosts wait for a target that hangs (`VolumeMachine.tick`).
    case waitsForStuckTarget = "waits-for-stuck-target"

    // MARK: Rule 9: histories are compared before a byte is moved, and nobody picks a winner

    /// A peer that has taken the pair over does not say so (`Engine.statusBesidePair`).
    case ignoresTerm = "ignores-term"
    /// Who hears that the peer has taken the pair over goes on serving (`Engine.peerHasTakenOver`).
    case servesOnAfterTakeover = "serves-on-after-takeover"
    /// A pair is taken over by whatever record is there (`Engine.claimReplica`).
    case claimsAnyRecord = "claims-any-record"

    // MARK: Rule 10: nothing that is read is trusted

    /// A bitmap page is believed whatever its checksum says (`BitmapSector.decodePage`).
    case trustsDamagedPage = "trusts-damaged-page"
    /// A record of a pair is believed whatever its checksum says (`PairRecord.decode`).
    case trustsDamagedRecord = "trusts-damaged-record"

    // MARK: Rule 11: a daemon killed at any instruction goes on with the same data

    /// A move is recorded in one of the two blocks only (`VolumeMachine.markRecordCritical`).
    case recordsMoveOnce = "records-move-once"
    /// What was active at a crash does not count as different (`Pair.markActive`).
    case forgetsActive = "forgets-active"

    #if REPLD_MUTATIONS
    /// Set once, before anything runs, and only read after that.
    @usableFromInline nonisolated(unsafe) static var current: Mutation?
    #endif

    /// Whether the engine makes this mistake; the constant false where mutations are not compiled in.
    @inlinable
    @inline(__always)
    package static func isOn(_ mutation: Mutation) -> Bool {
        #if REPLD_MUTATIONS
        unsafe current == mutation
        #else
        false
        #endif
    }

    /// Makes the engine make a mistake from here on; false where mutations are not compiled in.
    package static func turnOn(_ mutation: Mutation) -> Bool {
        #if REPLD_MUTATIONS
        unsafe current = mutation
        return true
        #else
        return false
        #endif
    }
}
