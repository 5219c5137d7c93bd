package import RepldCore
package import RepldFormat
package import RepldPair

/// What whoever embeds the engine, and the simulator's checkers, may look at between two turns.
extension Engine where P: ~Copyable {
    /// Whether a volume, or the own export of a target, would take a host request now.
    package func hasRoom(volume: Int, side: UInt8 = 0) -> Bool {
        volumes[volume].isInUse && volumes[volume].machine.hasRoom(side: side)
    }

    /// Whether hosts find a volume: it is neither withheld nor a peer's replica.
    package func servesHosts(_ id: VolumeID) -> Bool { volumeIndex(id).map { volumes[$0].isExported } ?? false }

    /// What the operations table would be asked about a pair; `nil` for a pair that the engine does not have.
    package func facts(of pair: PairID) -> PairFacts? {
        guard let (volume, index) = findPair(pair) else { return nil }
        return facts(volume, index)
    }

    /// Whether hosts are served by the pair's second element, and whether that is the source.
    package func place(of pair: PairID) -> (isSecondPrimary: Bool, isSecondSource: Bool)? {
        guard let (volume, index) = findPair(pair) else { return nil }
        return volumes[volume].machine.withPair(index) { ($0.isSecondPrimary, $0.isSecondSource) }
    }

    /// The side by which hosts reach the target of a pair now; `nil` while it is not theirs.
    package func openSide(of pair: PairID) -> UInt8? {
        guard let (volume, index) = findPair(pair), volumes[volume].machine.isTargetOpen(index) else { return nil }
        return UInt8(index + 1)
    }

    /// Whether an operation drains or flushes a volume now.
    package func isGateClosed(volume: Int) -> Bool { volumes[volume].isInUse && volumes[volume].machine.isGateClosed }

    /// Whether the next flush of a volume's host fails for one of the engine's own that failed.
    package func owesFlushFailure(volume: Int) -> Bool {
        volumes[volume].isInUse && volumes[volume].machine.owesFlushFailure
    }

    /// Where a pair's copy stands; `nil` for a pair that the engine does not have.
    package func copyState(of pair: PairID) -> CopyState? {
        for volume in 0..<volumes.count where volumes[volume].isInUse {
            guard let index = volumes[volume].machine.pairIndex(pair) else { continue }
            return volumes[volume].machine.withPair(index) { $0.copyState }
        }
        return nil
    }

    /// What was decided of pairs whose two sides met.
    package var handshakes: HandshakeCounts { links.handshakes }

    /// How often another element has come to serve the hosts of a volume.
    package func servingEpoch(of volume: VolumeID) -> UInt32? {
        volumeIndex(volume).map { volumes[$0].machine.servingEpoch }
    }

    /// How old what the other element of a pair lacks is, in nanoseconds; `nil` where nobody knows.
    package func exposureNanoseconds(of pair: PairID) -> UInt64? {
        guard let (volume, index) = findPair(pair) else { return nil }
        return exposureNanoseconds(volume, index)
    }

    func exposureNanoseconds(_ volume: Int, _ pair: Int) -> UInt64? {
        volumes[volume].machine.withPair(pair) { [now = platform.now] in $0.exposureNanoseconds(at: now) } ?? nil
    }

    /// Whether a pair's dirty map covers any part of an extent.
    package func isDirty(_ pair: PairID, touching extent: Extent) -> Bool {
        for volume in 0..<volumes.count where volumes[volume].isInUse {
            guard let index = volumes[volume].machine.pairIndex(pair) else { continue }
            return volumes[volume].machine.withPair(index) {
                $0.dirty.isDirty(touching: extent) || $0.targetChanged.isDirty(touching: extent)
            } ?? false
        }
        return false
    }

    /// How far a restore of a pair over its link has come; `nil` for a pair that the engine does not have.
    package func linkRestore(of pair: PairID) -> LinkRestore? {
        guard let (volume, index) = findPair(pair) else { return nil }
        return volumes[volume].machine.withPair(index) { $0.linkRestore }
    }

    /// Whether hosts do not find all of an extent on the source of a pair, because that is half restored.
    package func isLacking(_ pair: PairID, touching extent: Extent) -> Bool {
        guard let (volume, index) = findPair(pair) else { return false }
        return volumes[volume].machine.withPair(index) { $0.isLacking(touching: extent) } ?? false
    }

    /// Whether something is on its way to the target of a pair that hosts were answered for.
    package func hasBacklog(_ pair: PairID) -> Bool {
        guard let (volume, index) = findPair(pair) else { return false }
        guard let target = remoteTarget(ofPair: index, volume: volume) else { return false }
        return !links.targets[target].backlog.isEmpty
    }

    /// Checks every machine's invariants from scratch.
    package func checkInvariants() {
        for volume in 0..<volumes.count where volumes[volume].isInUse {
            invariant(volume < volumeEnd, "a turn looks at every volume")
            volumes[volume].machine.checkInvariants()
        }
    }
}
