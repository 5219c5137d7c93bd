import RepldCore
import RepldFormat

@testable import RepldPair

/// Restores over a link: what hosts may find while the source is half restored.
extension PairWorld {
    /// The element with what hosts are to find in a granule; `nil` where they are to find nothing.
    func countingElement(_ granule: Int) -> Int? {
        for pair in pairs.indices where machine.pairs[pair].isInUse {
            switch machine.pairs[pair].linkRestore {
            case .none: continue
            case .lost: return nil
            case .running, .stopped:
                if machine.pairs[pair].targetChanged.isDirty(granule: UInt64(granule)) { return places[pair + 1] }
            }
        }
        return places[0]
    }

    /// A restore that begins shows hosts the target, and one that is given up the source as it is.
    func noteLinkRestores() {
        for pair in pairs.indices {
            let stage = machine.pairs[pair].isInUse ? machine.pairs[pair].linkRestore : .none
            let before = pairs[pair].linkRestore
            pairs[pair].linkRestore = stage
            if stage == .running, before == .none || before == .lost {
                beforeRestore = history
                pairs[pair].expectsRebase = false
                history.rebase(on: disks[places[pair + 1]])
            } else if stage == .none, before != .none {
                let isRestored = machine.pairs[pair].isInUse && machine.pairs[pair].copyState == .restored
                if isRestored { halfCopied.remove(places[0]) } else { history.rebase(on: disks[places[0]]) }
            }
        }
    }

    /// The mover writes the source, or a host does.
    func checkSourceWrite(_ operation: Range<Int>, element: Int, isCopy: Bool) {
        let isRestoring = pairs.indices.contains { machine.pairs[$0].linkRestore != .none }
        if isCopy {
            if !isRestoring { fail("the mover writes leg 0") }
            halfCopied.insert(element)
        } else if operation.contains(where: { countingElement($0) != element }) {
            fail("a host writes what the source lacks")
        }
    }

    /// The daemon comes again: whether the source is known to be half restored.
    func restartLinkRestores() -> Bool {
        var isHalfRestored = false
        for pair in pairs.indices {
            let record = recovered(pair)
            let state = record.flatMap { CopyState(rawValue: $0.copyState) }
            let isMisplaced = record?.isSecondPrimary != record?.isSecondSource
            if record?.isSourceInconsistent == true, !isMisplaced, state != .aborted, state != .prepared {
                isHalfRestored = true
            } else if pairs[pair].linkRestore != .none, state != .restored, let beforeRestore {
                // No host has written before that was durable.
                history = beforeRestore
            }
            pairs[pair].linkRestore = .none
        }
        beforeRestore = nil
        return isHalfRestored
    }
}
