package import RepldCore
internal import RepldFormat

/// Why a volume does not take a new size.
package enum GrowthRefusal: Hashable, Sendable {
    /// It is smaller than the size that the volume has.
    case shrink(byteCount: UInt64, wanted: UInt64)
    case notWholeBlocks(blockByteCount: UInt32, wanted: UInt64)
    /// An element is too small: the one of this pair that does not serve, or the one that serves (`nil`).
    case elementTooSmall(pair: PairID?, byteCount: UInt64, wanted: UInt64)
    case pair(PairID, PairObstacle)
    /// The volume is about to be closed.
    case closing

    /// What a pair has to be brought out of first.
    package enum PairObstacle: Hashable, Sendable {
        /// Its target serves the hosts.
        case misplaced(CopyState)
        /// An operation of the volume waits for what is under way to end.
        case draining
        case detaching
        /// Its metadata cannot be written.
        case metadataFails
        /// Its metadata of a growth before this one is not durable yet.
        case growing
        /// Its metadata lies behind the volume.
        case metadataBehind
        /// What a copy has overwritten can be taken back, in an area that is laid out for the size that the volume has.
        case undoKept
    }

    package var words: String {
        switch self {
        case .shrink(let byteCount, let wanted):
            "it has \(byteCount) bytes, and cannot shrink to \(wanted)"
        case .notWholeBlocks(let block, let wanted):
            "\(wanted) bytes are no multiple of its block size of \(block) bytes"
        case .elementTooSmall(_, let byteCount, let wanted):
            "an element has \(byteCount) bytes, and \(wanted) are needed"
        case .pair(_, let obstacle): obstacle.words
        case .closing: "it is about to be closed"
        }
    }
}

extension GrowthRefusal.PairObstacle {
    package var words: String {
        switch self {
        case .misplaced(.failedover): "it is Failedover, so that its target serves the hosts"
        case .misplaced: "a restore or a failback is under way, and its target serves the hosts"
        case .draining: "an operation has closed the volume's gate for a moment"
        case .detaching: "it is about to be detached"
        case .metadataFails: "its metadata cannot be written"
        case .metadataBehind: "its metadata is in the way, behind the volume"
        case .growing: "its metadata of the growth before this one is not durable yet"
        case .undoKept: "a copy that could be taken back has not come to its end"
        }
    }
}

/// A larger volume on elements that have grown.
///
/// `byteCount, maps → pages → records → grown`. The maps get the new range at once, all of it dirty. The pages that have to do
/// with it are written; until they are, the records of the pair have the former size. A record with the new size comes behind
/// them, and then hosts see it (`Effect.grown`). Nothing has to be drained: locks, slots, the log's extents and the mover's
/// cursor do not depend on the size, and what is in flight lies below the old end.
///
/// **A crash**: what is behind the size that a record has may differ, whatever the pages say; the rest is as the pages and the
/// log say. So at each moment a start knows what differed in the former range, and which records are durable
/// when hosts begin to use the new range does not matter to it. Whoever opens the volume must open it with the new size from the
/// moment that `grow` is called. That is why metadata that fails does not keep the volume from growing.
///
/// **A peer** that has the target hears of the size with the records, as of everything else: it has a record with the new size
/// before hosts see that, or is out of reach, and has the image of a moment at which they had not seen it. So a peer
/// that takes the pair over serves what its record has, and no host finds less than it has seen. Only where the metadata
/// here fails hosts see the size although no record has it. Between a record here and the peer's, the peer's has the former
/// size: that is no reason to part the two (`HandshakeDecision`).
extension VolumeMachine {
    /// Why the volume cannot take this size now; `nil` when it can, or has it.
    package func growthRefusal(to wanted: UInt64) -> GrowthRefusal? {
        if isClosing { return .closing }
        guard wanted % UInt64(blockByteCount) == 0, wanted > 0 else {
            return .notWholeBlocks(blockByteCount: blockByteCount, wanted: wanted)
        }
        if wanted < byteCount { return .shrink(byteCount: byteCount, wanted: wanted) }
        for index in 0..<pairs.count where pairs[index].isInUse {
            if let obstacle = growthObstacle(index) { return .pair(pairs[index].id, obstacle) }
        }
        return nil
    }

    private func growthObstacle(_ index: Int) -> GrowthRefusal.PairObstacle? {
        if pairs[index].wantsDetach || pairs[index].isPlaceHeld { return .detaching }
        let isFlowingBack = pairs[index].isFlowingBack || pairs[index].linkRestore != .none
        if pairs[index].isMisplaced || isFlowingBack { return .misplaced(pairs[index].copyState) }
        if gate.isClosed { return .draining }
        let isStuck = pairs[index].isRecordStuck || pairs[index].store.isLogImpossible
        if isStuck || pairs[index].hasRecordFailed || pairs[index].store.hasPageFailed { return .metadataFails }
        if isGrowing || pairs[index].store.coveredByteCount != nil { return .growing }
        return pairs[index].undo.stage == .none ? nil : .undoKept
    }

    /// Takes a new size; `grown` follows when it is durable.
    ///
    /// To be called when `growthRefusal` has nothing against it, and the elements and metadata areas are large enough.
    package mutating func grow(to wanted: UInt64) {
        invariant(growthRefusal(to: wanted) == nil, "a volume grows only when nothing is against it")
        guard wanted > byteCount else {
            effects.append(.grown)
            return
        }
        byteCount = wanted
        isGrowing = true
        for index in 0..<pairs.count where pairs[index].isInUse {
            pairs[index].grow(to: wanted)
            pairs[index].store.beginSweepAnew()
            copyAgain(index)
            pumpCopies(index)
            if pairs[index].store.trust == .none { wantRecord(index) }
        }
        mayAdvanceLogs = true
        finishEvent()
    }

    /// Lets hosts see the new size when the records have it, and none is waited for.
    mutating func finishGrowing() {
        guard !holdsForRecord else { return }
        for index in 0..<pairs.count where pairs[index].isInUse && !pairs[index].wantsDetach {
            guard pairs[index].isGrowthRecorded else { return }
        }
        isGrowing = false
        effects.append(.grown)
    }
}
