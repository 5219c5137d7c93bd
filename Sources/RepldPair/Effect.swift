package import RepldCore
package import RepldFormat

/// One operation on one copy: leg 0 is the source element, leg n the target of pair n-1; behind those of all pairs come
/// their undo areas, where byte n of the volume lies behind the area's head (`UndoLayout`).
package struct ElementOperation: Sendable, BitwiseCopyable {
    package enum Kind: UInt8, Sendable, BitwiseCopyable {
        case read, write, flush, discard, zeroMayDeallocate, zeroKeepAllocated
        /// A read whose data the mover looks at: the completion says whether all of it is zero.
        case readAndCheckZero
        /// A read of a target into the second buffer: the completion says whether it equals the first.
        case readAndCompare
        /// A durable write of the second buffer to an undo area.
        case save
    }

    package var slot: SlotID
    package var leg: UInt8
    package var kind: Kind
    package var isDurable: Bool
    /// Discards and zeroings: where the element cannot do it without moving data, zeroes are written out, so that all
    /// copies read the same.
    ///
    /// Otherwise the operation ends as `notSupported`, with nothing changed.
    package var fillsIfUnsupported: Bool
    package var buffer: BufferID
    package var secondBuffer: BufferID
    package var extent: Extent
}

/// How an operation on a copy ended, as the engine reports it.
package struct OperationOutcome: Sendable, BitwiseCopyable {
    package var failure: IOFailure?
    /// Of `readAndCheckZero`: every byte is zero.
    ///
    /// Of `readAndCompare`: both buffers are equal.
    package var isMatch: Bool

    package init(failure: IOFailure?, isMatch: Bool = false) {
        self.failure = failure
        self.isMatch = isMatch
    }
}

/// What a volume's machine wants done.
///
/// The engine carries effects out in order, after each event.
package enum Effect: Sendable, BitwiseCopyable {
    case perform(ElementOperation)
    /// Tells the host; `failure` nil is success. The buffer of a successful read belongs to the front end from here on;
    /// every other buffer comes back with `recycle`.
    case answer(RequestOrigin, failure: IOFailure?)
    /// The request's buffer is no longer used by any element.
    case recycle(BufferID)
    /// The mover needs one buffer, or two, of this many bytes; the engine answers with `buffersGranted`, at once or later.
    case needBuffers(SlotID, byteCount: UInt32, isPair: Bool)
    /// Look for the next run of blocks, at or behind this byte of the volume, in which the slot's two buffers differ; the engine
    /// answers with `differenceLocated` at once.
    case locateDifference(SlotID, from: UInt64)
    /// Write the pair's record (`recordInFlight`) durably into its metadata area, then report `recordWritten`.
    ///
    /// The record is not in the effect: each effect of each request would be as long.
    case persist(pair: Int)
    /// Write the record of the pair's activity log (`encodeLog`) durably, then report `logWritten`.
    case writeLog(pair: Int)
    /// Write a bitmap page of the pair (`encodePage`) durably, then report `pageWritten`.
    case writePage(pair: Int, place: Int)
    /// Write a page of the pair's undo area (`encodeUndoPage`) durably, then report `undoPageWritten`.
    case writeUndoPage(pair: Int, place: Int)
    /// Nothing in the pair's undo area is needed any more: give its room back, as far as that can be, then report `undoEmptied`.
    case emptyUndo(pair: Int)
    /// Tell the operator of the oldest event (`nextEvent`), which is not in the effect for the same reason.
    case announce
    /// The primary of the volume and the other element of a pair change places: leg 0 and the pair's leg.
    case swapLegs(pair: Int)
    /// The volume's hosts are served by an element with other data: its clients are to be disconnected.
    case disconnectHosts
    /// The target's own export closes: its clients are to be disconnected.
    case closeTargetExport(pair: Int)
    /// A pair that `settle` was asked for can be taken over by its peer, or not.
    case settled(pair: Int, OperationFailure?)
    /// The new size of the volume is durable where it can be: hosts may see it.
    case grown
    /// Nothing is in flight to the pair's target any more, and the machine has forgotten the pair.
    case pairDetached(pair: Int)
    /// Everything is drained, flushed and recorded.
    case closed
}

/// Why a pair stopped.
package enum BreakReason: Hashable, Sendable, BitwiseCopyable {
    case targetWriteFailed(IOFailure, Extent)
    case targetReadFailed(IOFailure, Extent)
    case targetFlushFailed(IOFailure)
    case targetTimedOut
    /// The peer that has the target cannot be reached.
    case linkLost
    /// What the peer has of this pair does not go together with what there is here.
    case historiesDiffer(HandshakeStop)
    /// A restore over a link was under way, and what hosts have written since is not known any more.
    case restoreForgotten
    /// More is on its way to the target than may be, or for longer.
    case backlogTooLong
    case sourceReadFailed(IOFailure, Extent)
    /// What the target held could not be kept, and so was not overwritten.
    case undoFailed(IOFailure)

    /// Words for the operator; `isFlowingBack` when data flows from the target to the source.
    package func words(isFlowingBack: Bool) -> String {
        let (from, to) = isFlowingBack ? ("target", "source") : ("source", "target")
        return switch self {
        case .targetWriteFailed(let failure, let extent):
            "the \(to) failed a write at byte \(extent.offset): \(failure.words)"
        case .targetReadFailed(let failure, let extent):
            "the \(to) failed a read at byte \(extent.offset): \(failure.words)"
        case .targetFlushFailed(let failure): "the \(to) failed a flush: \(failure.words)"
        case .undoFailed(let failure):
            """
            the undo area could not be written (\(failure.words)), and nothing was overwritten without it: mend that or make \
            room, and ResyncReplica goes on; or ResyncReplica without an undo (--no-undo), or Failover, which takes the copy back
            """
        case .linkLost: "the peer cannot be reached"
        case .historiesDiffer(let stop): "\(stop.words). \(stop.conflict.waysOut)"
        case .restoreForgotten:
            """
            the source is half restored, and what was written to it since is not known any more. \
            RestoreFromReplica --force restores all of it, ResyncReplica --force keeps it as it is
            """
        case .backlogTooLong:
            "hosts write faster than the link carries: the target keeps an older image until it has caught up"
        case .targetTimedOut: "the \(to) did not answer within its time limit"
        case .sourceReadFailed(let failure, let extent):
            "the \(from) failed a read at byte \(extent.offset), which the copy needs: \(failure.words)"
        }
    }
}

/// Something about a volume that an operator may want to know.
package enum VolumeEvent: Sendable, BitwiseCopyable {
    case copyStateChanged(pair: PairID, from: CopyState, to: CopyState)
    case pairBroken(pair: PairID, BreakReason, isFlowingBack: Bool)
    case operationEnded(pair: PairID, ReplicationOperation, OperationFailure?)
    case rolesReversed(pair: PairID, isSecondSource: Bool)
    case sourceReadServedByTarget(pair: PairID, Extent, isRepaired: Bool)
    case sourceWriteFailed(Extent, IOFailure)
    case recordFailed(pair: PairID, IOFailure)
    /// What the peer has kept of what a copy has overwritten is gone: the copy cannot be taken back any more.
    case undoLost(pair: PairID)
    /// A failback to a peer has nothing left to copy, and goes on mirroring: the peer can take the pair over.
    case caughtUp(pair: PairID)
    /// A verify has found the two elements different here; only the first ranges are told one by one.
    case verifyFound(pair: PairID, Extent)
    case verifyEnded(pair: PairID, VerifyFailure?)
}
