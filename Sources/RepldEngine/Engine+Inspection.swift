package import RepldCore
package import RepldPair

/// What whoever embeds the engine, and the simulator's checkers, may look at between two turns.
extension Engine where P: ~Copyable {
    /// Whether a volume would take a host request now.
    package func hasRoom(volume: Int) -> Bool { volumes[volume].isInUse && volumes[volume].machine.hasRoom }

    /// Where a pair's copy stands; `nil` for a pair that the engine does not have.
    package func copyState(of pair: PairID) -> CopyState? {
        for volume in 0..<volumes.count where volumes[volume].isInUse {
            guard let index = volumes[volume].machine.pairIndex(pair) else { continue }
            return volumes[volume].machine.withPair(index) { $0.copyState }
        }
        return nil
    }

    /// Whether a pair's dirty map covers any part of an extent.
    package func isDirty(_ pair: PairID, touching extent: Extent) -> Bool {
        for volume in 0..<volumes.count where volumes[volume].isInUse {
            guard let index = volumes[volume].machine.pairIndex(pair) else { continue }
            return volumes[volume].machine.withPair(index) { $0.dirty.isDirty(touching: extent) } ?? false
        }
        return false
    }

    /// Checks every machine's invariants from scratch.
    package func checkInvariants() {
        for volume in 0..<volumes.count where volumes[volume].isInUse { volumes[volume].machine.checkInvariants() }
    }
}
