/// The name of one use of one slot: a late answer to an earlier use of the same slot does not match it.
@usableFromInline
package struct SlotID: Hashable, Sendable, BitwiseCopyable {
    @usableFromInline
    package let index: UInt32
    /// Counts the uses of the slot, modulo 2^16.
    @usableFromInline
    package let generation: UInt16

    @inlinable
    package init(index: UInt32, generation: UInt16) {
        self.index = index
        self.generation = generation
    }
}

/// A fixed number of records, each taken and given back many times.
///
/// Invariants: a slot is free or taken; taking one changes its generation, so that a `SlotID` names exactly one use;
/// `takenCount` is the number of taken slots. Free slots are handed out last-in first-out, which keeps the working set
/// small. All operations are O(1) and allocate nothing.
@usableFromInline
package struct SlotTable<Record: BitwiseCopyable>: ~Copyable {
    @usableFromInline
    struct Slot: BitwiseCopyable {
        @usableFromInline
        var record: Record
        /// The generation in the lower half, and whether the slot is taken in the bit above: one comparison, which is made with
        /// every access, answers both.
        @usableFromInline
        var use: UInt32 = 0
        @usableFromInline
        var nextFree: UInt32

        @inlinable
        static var taken: UInt32 { 1 << 16 }
        @inlinable
        var isTaken: Bool { use & Self.taken != 0 }
        @inlinable
        var generation: UInt16 { UInt16(truncatingIfNeeded: use) }

        @inlinable
        init(record: Record, nextFree: UInt32) {
            self.record = record
            self.nextFree = nextFree
        }
    }

    @usableFromInline
    var slots: FixedArray<Slot>
    @usableFromInline
    var firstFree: UInt32
    @usableFromInline
    package internal(set) var takenCount = 0

    @inlinable
    static var none: UInt32 { .max }

    /// Makes a table of `capacity` free slots; `blank` fills those that nobody uses.
    @inlinable
    package init(capacity: Int, blank: Record) {
        invariant(capacity > 0 && capacity < Int(UInt32.max), "a slot table has at least one slot and a 32-bit index")
        slots = FixedArray(count: capacity) { index in
            Slot(record: blank, nextFree: index + 1 < capacity ? UInt32(index + 1) : Self.none)
        }
        firstFree = 0
    }

    @inlinable
    package var capacity: Int { slots.count }
    @inlinable
    package var isFull: Bool { firstFree == Self.none }
    @inlinable
    package var isEmpty: Bool { takenCount == 0 }

    /// Takes a free slot for `record`; `nil` when all are taken, which is the back-pressure.
    @inlinable
    package mutating func take(_ record: Record) -> SlotID? {
        guard firstFree != Self.none else { return nil }
        let index = firstFree
        firstFree = slots[Int(index)].nextFree
        invariant(!slots[Int(index)].isTaken, "a slot of the free list is free")
        let generation = slots[Int(index)].generation &+ 1
        slots[Int(index)].record = record
        slots[Int(index)].use = Slot.taken | UInt32(generation)
        takenCount += 1
        return SlotID(index: index, generation: generation)
    }

    /// Gives a slot back; its name is stale from here on.
    @inlinable
    package mutating func release(_ id: SlotID) {
        check(id)
        slots[Int(id.index)].use = UInt32(id.generation)
        slots[Int(id.index)].nextFree = firstFree
        firstFree = id.index
        takenCount -= 1
    }

    /// Whether the name still stands for the use it was given for.
    @inlinable
    package func contains(_ id: SlotID) -> Bool {
        Int(id.index) < slots.count && slots[Int(id.index)].use == Slot.taken | UInt32(id.generation)
    }

    /// The name of the use of the slot at `index`; `nil` when it is free.
    ///
    /// For walks over the whole table.
    @inlinable
    package func taken(at index: Int) -> SlotID? {
        guard slots[index].isTaken else { return nil }
        return SlotID(index: UInt32(index), generation: slots[index].generation)
    }

    /// The record in its place: whoever looks at one field of it reads that field, and not the whole record.
    @inlinable
    package subscript(_ id: SlotID) -> Record {
        @inline(__always)
        _read {
            check(id)
            yield slots[Int(id.index)].record
        }
        @inline(__always)
        _modify {
            check(id)
            yield &slots[Int(id.index)].record
        }
    }

    @inlinable
    @inline(__always)
    func check(_ id: SlotID) {
        invariant(contains(id), "a slot is used under the name it was taken with, and only until it is released")
    }
}
