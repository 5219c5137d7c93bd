/// Who may touch which bytes now: shared and exclusive locks on extents, granted in the order of asking.
///
/// States of an entry: `waiting → held → released`. An entry waits for exactly those earlier entries, waiting or held,
/// that overlap it and conflict with it (all pairs but shared with shared), and is held when the last of them is
/// released.
///
/// Deadlock: an entry waits only for entries with a smaller sequence number, and a holder never asks for a second lock
/// while it holds one. So the waits-for relation has no cycle, and the oldest entry always holds.
/// Starvation: a later entry cannot pass an earlier one that it conflicts with, so every wait ends when the entries
/// before it end.
///
/// The table is small (the requests in flight on one volume), so overlap is looked for by walking the compact list of
/// entries; at 64 entries that is some tens of nanoseconds, less than a tree costs to keep.
/// Not thread-safe: owned by the loop of its volume.
package struct IntervalLock: ~Copyable {
    package enum Mode: UInt8, Sendable, BitwiseCopyable { case shared, exclusive }

    /// Not private: other modules destroy the table, and Swift 6.3.1 crashes when they do and its element type is.
    struct Entry: BitwiseCopyable {
        var start: UInt64
        var end: UInt64
        var sequence: UInt64
        /// How many earlier entries must be released first; 0 means held.
        var blockerCount: UInt32
        var mode: Mode
        var owner: SlotID
    }

    private var entries: FixedArray<Entry>
    package private(set) var count = 0
    package private(set) var waitingCount = 0
    private var nextSequence: UInt64 = 0

    /// Makes an empty table for at most `capacity` entries at once.
    package init(capacity: Int) {
        let blank = Entry(
            start: 0,
            end: 0,
            sequence: 0,
            blockerCount: 0,
            mode: .shared,
            owner: SlotID(index: 0, generation: 0)
        )
        entries = FixedArray(repeating: blank, count: capacity)
    }

    /// Asks for `extent` on behalf of `owner`; true when it is held at once, false when `owner` has to wait.
    package mutating func acquire(_ extent: Extent, _ mode: Mode, owner: SlotID) -> Bool {
        invariant(count < entries.count, "the interval lock has room for every request slot")
        invariant(extent.length > 0, "an empty extent needs no lock")
        var blockerCount: UInt32 = 0
        let start = extent.offset
        let end = extent.end
        for index in 0..<count where entries[index].start < end && start < entries[index].end {
            invariant(entries[index].owner != owner, "whoever asks for bytes twice would wait for itself")
            if mode == .exclusive || entries[index].mode == .exclusive { blockerCount += 1 }
        }
        entries[count] = Entry(
            start: start,
            end: end,
            sequence: nextSequence,
            blockerCount: blockerCount,
            mode: mode,
            owner: owner
        )
        nextSequence += 1
        count += 1
        if blockerCount > 0 { waitingCount += 1 }
        return blockerCount == 0
    }

    /// Whether an exclusive lock on `extent` would be held at once.
    package func isFree(_ extent: Extent) -> Bool {
        for index in 0..<count where entries[index].start < extent.end && extent.offset < entries[index].end {
            return false
        }
        return true
    }

    /// Gives back the lock of `owner`, held or waited for, and appends to `granted` those who hold theirs because of it.
    package mutating func release(owner: SlotID, granted: inout BoundedQueue<SlotID>) {
        var found = count
        for index in 0..<count where entries[index].owner == owner {
            found = index
            break
        }
        invariant(found < count, "whoever releases a lock has asked for it")
        let gone = entries[found]
        if gone.blockerCount > 0 { waitingCount -= 1 }
        count -= 1
        // The order of the list carries no meaning (sequence numbers do), but grants must come out oldest first.
        entries[found] = entries[count]
        guard waitingCount > 0 else { return }
        let firstGrant = granted.count
        for index in 0..<count where entries[index].blockerCount > 0 && entries[index].sequence > gone.sequence {
            guard entries[index].start < gone.end && gone.start < entries[index].end else { continue }
            guard gone.mode == .exclusive || entries[index].mode == .exclusive else { continue }
            entries[index].blockerCount -= 1
            if entries[index].blockerCount == 0 {
                waitingCount -= 1
                granted.append(entries[index].owner)
            }
        }
        if granted.count - firstGrant > 1 { sortGrants(&granted, from: firstGrant) }
    }

    /// Puts the grants of one release into the order of asking, so that the same inputs give the same effects.
    private func sortGrants(_ granted: inout BoundedQueue<SlotID>, from first: Int) {
        for position in (first + 1)..<granted.count {
            let owner = granted[position]
            let sequence = sequence(of: owner)
            var hole = position
            while hole > first, self.sequence(of: granted[hole - 1]) > sequence {
                granted.replace(at: hole, with: granted[hole - 1])
                hole -= 1
            }
            granted.replace(at: hole, with: owner)
        }
    }

    private func sequence(of owner: SlotID) -> UInt64 {
        for index in 0..<count where entries[index].owner == owner { return entries[index].sequence }
        invariantFailed("a granted lock is in the table")
    }

    /// Checks the invariants of the type from scratch.
    ///
    /// For tests and the simulator.
    package func checkInvariants() {
        var waiting = 0
        for index in 0..<count {
            var blockers: UInt32 = 0
            for other in 0..<count where entries[other].sequence < entries[index].sequence {
                invariant(entries[other].owner != entries[index].owner, "an owner has one entry")
                let overlap = entries[other].start < entries[index].end && entries[index].start < entries[other].end
                let conflict = entries[other].mode == .exclusive || entries[index].mode == .exclusive
                if overlap && conflict { blockers += 1 }
            }
            invariant(blockers == entries[index].blockerCount, "an entry waits for every earlier conflicting one")
            if blockers > 0 { waiting += 1 }
        }
        invariant(waiting == waitingCount, "the count of waiting entries is right")
    }
}
