import RepldCore
import RepldEngine

/// The operations in flight: a `SlotTable` for one kind of record.
///
/// Its own type because the path of an operation looks at single fields of a record. `SlotTable`'s subscript reads the
/// whole record through a getter that is not specialised across modules (measured: half of the platform's user time,
/// in the look-up of generic metadata); addresses cost nothing. The invariants are the same: a slot is free or taken,
/// and taking one changes its generation.
struct OperationTable: ~Copyable {
    struct Slot: BitwiseCopyable {
        var operation: Operation
        var generation: UInt16 = 0
        var isTaken = false
        var nextFree: UInt32
    }

    var slots: FixedArray<Slot>
    var firstFree: UInt32 = 0
    private(set) var takenCount = 0

    static var none: UInt32 { .max }

    init(capacity: Int) {
        invariant(capacity > 0 && capacity < Int(UInt32.max), "a table has at least one slot and a 32-bit index")
        slots = FixedArray(count: capacity) { index in
            Slot(
                operation: Operation(token: .wake, kind: .signal, place: 0),
                nextFree: index + 1 < capacity ? UInt32(index + 1) : Self.none
            )
        }
    }

    /// Takes a free slot; `nil` when all are taken.
    @inline(__always)
    mutating func take(_ operation: Operation) -> SlotID? {
        guard firstFree != Self.none else { return nil }
        let index = firstFree
        let place = Int(index)
        invariant(!slots[place].isTaken, "a slot of the free list is free")
        firstFree = slots[place].nextFree
        slots[place].operation = operation
        slots[place].isTaken = true
        slots[place].generation &+= 1
        takenCount += 1
        return SlotID(index: index, generation: slots[place].generation)
    }

    /// Gives a slot back; its name is stale from here on.
    @inline(__always)
    mutating func release(_ id: SlotID) {
        let place = checked(id)
        slots[place].isTaken = false
        slots[place].nextFree = firstFree
        firstFree = id.index
        takenCount -= 1
    }

    subscript(_ id: SlotID) -> Operation {
        @inline(__always)
        _read { yield slots[checked(id)].operation }
        @inline(__always)
        _modify { yield &slots[checked(id)].operation }
    }

    @inline(__always)
    func checked(_ id: SlotID) -> Int {
        let place = Int(id.index)
        invariant(
            place < slots.count && slots[place].isTaken && slots[place].generation == id.generation,
            "a slot is used under the name it was taken with, and only until it is released"
        )
        return place
    }
}
