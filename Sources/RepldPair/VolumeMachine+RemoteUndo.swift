package import RepldCore
internal import RepldFormat

/// What a copy overwrites on a target that a peer has, which the peer keeps by itself (`PairUndo` is its way of doing so as well).
///
/// The source says in its record that the target holds an image worth keeping, under a generation of the undo area; the peer
/// keeps the record only when its area is blank for that generation, and from then on overwrites nothing that is not saved, whoever
/// writes it. The source copies as without an undo. When its record says that there is none any more, the peer empties the area.
///
/// - Nothing is sent to the target between the wish for that record and the peer's acknowledgement of it: hosts and the mover wait
///   for records.
/// - What the peer has kept it may lose; it says so when the pair is opened, before anything is sent.
/// - Only the peer takes a copy back, when it takes the pair over: then the pair is not the source's any more. A takeover that is
///   given up after that makes the peer one without a record, and everything is compared.
extension Pair {
    /// What the mover overwrites is kept in an area of this host.
    var savesHere: Bool { undo.isPresent && !isRemote }

    /// What a copy overwrites on a usable target is kept, as far as is known.
    package var keepsUndo: Bool { settings.keepsUndo && (!isRemote || canPeerKeep || !isReachable) }
}

extension VolumeMachine {
    /// Takes up what the record says of a peer's undo area; the peer says whether it is still so when the pair is opened.
    mutating func takeUpRemoteUndo(_ record: PairRecord, _ index: Int) {
        pairs[index].undo.generation = record.undoGeneration
        pairs[index].undo.isWanted = pairs[index].settings.keepsUndo
        let isOver = Self.endsUndo(pairs[index].copyState) || pairs[index].isTargetConsistent
        guard record.hasUndo, !isOver, !pairs[index].isMisplaced, pairs[index].linkRestore == .none else { return }
        pairs[index].undo.stage = .present
    }

    /// Before a copy to a peer begins: what it overwrites is to be kept, where that is wanted and can be.
    ///
    /// The record that says so is the one that says that the target is no usable image any more.
    mutating func beginRemoteUndo(_ index: Int) {
        guard pairs[index].undo.isWanted else { return dropUndo(index) }
        guard !pairs[index].undo.isPresent, pairs[index].canPeerKeep, pairs[index].isTargetConsistent else { return }
        guard !pairs[index].dirty.isClean || !pairs[index].targetChanged.isClean else { return }
        pairs[index].undo.stage = .present
        pairs[index].undo.generation &+= 1
        // A record that is on its way does not say so yet.
        pairs[index].untoldUndoSequence = pairs[index].recordSequence + 1
        markRecordCritical(index)
    }

    /// The peer says, before anything is sent to it, whether it can keep what is overwritten, and whether it has lost what it had kept.
    package mutating func peerTellsUndo(pair index: Int, canKeep: Bool, isLost: Bool) {
        guard pairs[index].isInUse, pairs[index].isRemote else { return }
        pairs[index].canPeerKeep = canKeep
        guard isLost, pairs[index].undo.isPresent else { return }
        announce(.undoLost(pair: pairs[index].id))
        dropUndo(index)
        finishEvent()
    }

    /// The peer refuses the record, because its undo area cannot be made ready: what is there is not overwritten by itself.
    package mutating func peerCannotKeep(pair index: Int) {
        guard pairs[index].isInUse, pairs[index].isRemote, pairs[index].undo.isPresent else { return }
        dropUndo(index)
        // Nothing was sent since the record before, which called the target a usable image.
        if pairs[index].untoldUndoSequence != nil { pairs[index].isTargetConsistent = true }
        pairs[index].untoldUndoSequence = nil
        if pairs[index].isMirroring {
            breakPair(index, .undoFailed(.notKept))
        } else if pairs[index].wantsStart || pairs[index].copyState == .partitioned {
            pairs[index].wantsStart = false
            pairs[index].reason = .undoFailed(.notKept)
            endOperation(index, .undoFailed(.notKept))
            changeState(index, to: .broken)
        }
        finishEvent()
    }

    /// The former target of the pair holds again what it held before a copy: what was taken back counts as written by this side.
    package mutating func rememberTakenBack(pair index: Int, _ extent: Extent) {
        guard pairs[index].isInUse, extent.offset < byteCount else { return }
        let length = min(extent.length, byteCount - extent.offset)
        pairs[index].rememberWrite(Extent(offset: extent.offset, length: length))
        pairs[index].distrustMaps()
        wantRecord(index)
        finishEvent()
    }

    /// How much would be taken back at least; of a peer's area only what this copy has written is known.
    func undoByteCount(of index: Int) -> UInt64 {
        guard pairs[index].isRemote else { return pairs[index].undo.saved.dirtyByteCount }
        guard pairs[index].undo.isPresent else { return 0 }
        let known = pairs[index].copyWrittenByteCount + pairs[index].copyZeroByteCount
        return max(known, pairs[index].dirty.granuleByteCount)
    }
}
