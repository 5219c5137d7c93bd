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
    /// Write this record durably into the pair's metadata area, then report `recordWritten`.
    case persist(pair: Int, PairRecord)
    /// Write the record of the pair's activity log (`encodeLog`) durably, then report `logWritten`.
    case writeLog(pair: Int)
    /// Write a bitmap page of the pair (`encodePage`) durably, then report `pageWritten`.
    case writePage(pair: Int, place: Int)
    /// Write a page of the pair's undo area (`encodeUndoPage`) durably, then report `undoPageWritten`.
    case writeUndoPage(pair: Int, place: Int)
    /// Nothing in the pair's undo area is needed any more: give its room back, as far as that can be, then report `undoEmptied`.
    case emptyUndo(pair: Int)
    case announce(VolumeEvent)
    /// The primary of the volume and the other element of a pair change places: leg 0 and the pair's leg.
    case swapLegs(pair: Int)
    /// The volume's hosts are served by an element with other data: its clients are to be disconnected.
    case disconnectHosts
    /// The target's own export closes: its clients are to be disconnected.
    case closeTargetExport(pair: Int)
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
    /// The peer has heard of a later record of this pair than there is here.
    case historiesDiffer
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
        case .historiesDiffer:
            """
            the metadata here is older than what the peer has been told: what was written since is not known. \
            ResyncReplica --force keeps the source's data, Detach keeps both apart
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
    /// A verify has found the two elements different here; only the first ranges are told one by one.
    case verifyFound(pair: PairID, Extent)
    case verifyEnded(pair: PairID, VerifyFailure?)
}
