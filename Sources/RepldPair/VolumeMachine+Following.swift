internal import RepldCore
package import RepldFormat

/// Volumes with pairs of their own that become the replica of a peer's pair
///
/// One pair of a volume may move to its peer while the volume has others. From then on the peer writes the volume, at times
/// with a copy in disk order, and a target that mirrored that would be a mixture without its pair's saying so. So the other pairs
/// rest as long as the volume is a replica (`isFollowing`):
///
/// - What flowed, or would by itself, is Suspended at the instant in which the volume becomes a replica, before the peer can write.
///   Each target keeps the image that it has come to, with its undo where a copy was under way.
/// - What the peer writes is a host's write to this machine: it is marked for every pair before it is issued. What is taken back when
///   the replica takes over lies within what the peer has overwritten, and so is marked already.
/// - Nothing starts a pair, neither by itself nor by an operation (`OperationRefusal.sourceIsReplica`), until the volume is a source
///   again. Whoever made it rest then resumes it.
/// - A pair that cannot rest keeps the volume from becoming a replica: hosts are with its target, or it restores the source.
extension VolumeMachine {
    /// Whether the volume can become the replica of a peer's pair now.
    package var canFollow: Bool {
        guard !gate.isClosed else { return false }
        return (0..<pairs.count).allSatisfy { !pairs[$0].isInUse || canRest($0) }
    }

    /// Whether a pair could be taken in with its record: the volume's own element has to be the one that counts.
    package func canTakeIn(_ record: PairRecord, isRemote: Bool) -> Bool {
        guard isFollowing else { return true }
        let isPlaced = record.isSecondPrimary == record.isSecondSource && !record.isRestoringOverLink
        return isPlaced && (isRemote || !record.isSecondPrimary)
    }

    func canRest(_ index: Int) -> Bool {
        guard !pairs[index].isMisplaced, !pairs[index].isFlowingBack, pairs[index].linkRestore == .none else {
            return false
        }
        // Its target's element is the volume's then, and no peer's.
        return !isMoving(index) && (pairs[index].isRemote || !pairs[index].isSecondPrimary)
    }

    /// The volume becomes the replica of a peer's pair, or is its own again.
    package mutating func setFollowing(_ isFollowing: Bool) {
        guard self.isFollowing != isFollowing else { return }
        invariant(!isFollowing || canFollow, "the pairs of a replica can rest")
        self.isFollowing = isFollowing
        guard isFollowing else { return }
        for index in 0..<pairs.count where pairs[index].isInUse { restForPeer(index) }
        mayReleaseHeld = true
        finishEvent()
    }

    /// Nothing goes to the pair's target from here on, and nothing will by itself.
    mutating func restForPeer(_ index: Int) {
        pairs[index].wantsStart = false
        endOperation(index, .sourceIsReplica)
        if pairs[index].isMirroring {
            stopMirroring(index, to: .suspended)
        } else if pairs[index].copyState == .partitioned || pairs[index].copyState == .skewed {
            pairs[index].reason = nil
            changeState(index, to: .suspended)
        } else {
            return
        }
        pairs[index].isResumeRequired = true
        // The peer must not write before no start can take the pair for one that mirrors.
        markRecordCritical(index)
    }
}
