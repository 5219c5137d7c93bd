/// The set of hot extents of one pair, in memory: the extents that a write may be under way in.
///
/// After the activity log of DRBD (`drbd_actlog.c`): an extent is *active* once a durable record says so, and stays active
/// until its slot is needed for another. So a write to a hot extent costs no metadata I/O, one record carries many
/// activations, and after a crash exactly the active extents (and those marked dirty) may differ.
///
/// A key is the number of an extent; its top bit says that the target's own hosts write it, not those of the volume.
///
/// States of a slot: `free → activating → active → (leaving → ready) → free or activating with another key`.
/// - `activating`: the record that names it is on its way.
/// - `active`: writes take references; an extent with references does not leave.
/// - `leaving`: chosen to be evicted; whoever drives the log makes durable what the extent has (its bits, or its data on
///   both copies) and calls `leavingIsDurable`. A write that comes meanwhile keeps it.
/// - `ready`: may be replaced by the next record.
///
/// Victims are chosen by the clock algorithm (second chance), which needs nothing but a bit on the hot path.
/// Not thread-safe: owned by the loop of its volume.
@usableFromInline
package struct ActivityLog: ~Copyable {
    /// Slots of the table, on disk as well: 4 GiB of hot extents of 4 MiB.
    package static var slotLimit: Int { 1024 }
    /// Slots that one record may change.
    package static var updateLimit: Int { 128 }
    /// Slots that each record repeats, in turn, so that the last few records hold the whole table.
    package static var contextCount: Int { 512 }
    /// Keys that may wait for a record.
    package static var wantedLimit: Int { 512 }
    /// Stands for "no extent".
    package static var noKey: UInt32 { .max }
    /// The bit of a key that is written by the target's own hosts.
    package static var targetSide: UInt32 { 1 << 31 }

    package enum State: UInt8, Sendable, BitwiseCopyable { case free, activating, active, leaving, ready }

    /// Not private: a private type as the element of a table crashes the compiler (Swift 6.3).
    struct Slot: BitwiseCopyable {
        var key = ActivityLog.noKey
        var references: UInt32 = 0
        /// The flush epoch in which the last mirrored write of the extent ended; 0 for none.
        var epoch: UInt64 = 0
        var state = State.free
        /// Used since the clock's hand last came by.
        var isRecent = false
    }

    private var slots: FixedArray<Slot>
    /// Open addressing with linear probing, by key; the number of the slot and one, 0 for none.
    private var places: FixedArray<UInt16>
    @usableFromInline
    var wanted: BoundedQueue<UInt32>
    /// Slots that the record under way changes.
    private var updates: BoundedQueue<UInt16>
    private var hand = 0
    private let capacity: Int
    package private(set) var freeCount: Int
    package private(set) var readyCount = 0
    package private(set) var leavingCount = 0
    /// The sequence of the record that was built last.
    package private(set) var sequence: UInt64 = 0
    /// A record has been built, and is not durable.
    package private(set) var isRecordOwed = false
    package private(set) var contextStart = 0

    /// Makes an empty log that uses `capacity` slots.
    package init(capacity: Int) {
        invariant(capacity > 0 && capacity <= Self.slotLimit, "a log has at least one slot, and as many as its format")
        self.capacity = capacity
        freeCount = capacity
        slots = FixedArray(repeating: Slot(), count: Self.slotLimit)
        places = FixedArray(repeating: 0, count: 4 * Self.slotLimit)
        wanted = BoundedQueue(capacity: Self.wantedLimit, blank: Self.noKey)
        updates = BoundedQueue(capacity: Self.updateLimit, blank: 0)
    }

    /// Inlined, because it is asked for with every write, and the table would be copied as bytes for the call.
    @inlinable
    package var wantedCount: Int { wanted.count }
    package var slotCount: Int { slots.count }

    /// The key in a slot as the record under way, or the last one, has it.
    package func key(inSlot slot: Int) -> UInt32 { slots[slot].key }

    /// The slots that the record under way changes.
    package var updateCount: Int { updates.count }
    package func update(_ index: Int) -> Int { Int(updates[index]) }

    /// Puts an extent into a slot as recovery found it.
    package mutating func restore(key: UInt32, inSlot slot: Int) {
        invariant(slots[slot].state == .free && find(key) == nil, "recovery puts each extent into one slot")
        slots[slot] = Slot(key: key, state: .active)
        insert(key, slot)
        if slot < capacity { freeCount -= 1 }
    }

    /// Goes on counting records behind the last one that recovery found.
    package mutating func resume(after sequence: UInt64) { self.sequence = sequence }

    // MARK: - Writes

    /// Takes a reference on an active extent; false, with nothing done, when it is not active.
    package mutating func acquire(_ key: UInt32) -> Bool {
        guard let slot = find(key), slots[slot].state != .activating else { return false }
        slots[slot].references += 1
        slots[slot].isRecent = true
        if slots[slot].state != .active { keep(slot) }
        return true
    }

    /// Whether an extent is active; a second chance for those that a waiting write will need.
    package mutating func touch(_ key: UInt32) -> Bool {
        guard let slot = find(key), slots[slot].state != .activating else { return false }
        slots[slot].isRecent = true
        return true
    }

    /// Gives a reference back; `epoch` is that of a write that was mirrored, and is durable with a later flush.
    package mutating func release(_ key: UInt32, epoch: UInt64?) {
        guard let slot = find(key) else { invariantFailed("an extent with references is in the log") }
        invariant(slots[slot].references > 0, "a reference is given back once")
        slots[slot].references -= 1
        if let epoch { slots[slot].epoch = max(slots[slot].epoch, epoch) }
    }

    /// Asks for an extent to be made active; false when so many wait already that the caller has to ask again.
    ///
    /// The last place is kept for the one that is preferred: others could take each place as it becomes free.
    package mutating func want(_ key: UInt32, isPreferred: Bool = false) -> Bool {
        if find(key) != nil { return true }
        for index in 0..<wanted.count where wanted[index] == key { return true }
        guard wanted.count < (isPreferred ? wanted.capacity : wanted.capacity - 1) else { return false }
        wanted.append(key)
        return true
    }

    private mutating func keep(_ slot: Int) {
        if slots[slot].state == .leaving { leavingCount -= 1 } else { readyCount -= 1 }
        slots[slot].state = .active
    }

    // MARK: - Eviction

    /// Chooses up to `limit` extents without references to leave; how many there are now.
    package mutating func chooseLeaving(limit: Int) -> Int {
        var steps = 2 * slots.count
        while leavingCount < limit, steps > 0 {
            steps -= 1
            let slot = hand
            hand = hand + 1 == slots.count ? 0 : hand + 1
            guard slots[slot].state == .active, slots[slot].references == 0 else { continue }
            if slots[slot].isRecent {
                slots[slot].isRecent = false
            } else {
                slots[slot].state = .leaving
                leavingCount += 1
            }
        }
        return leavingCount
    }

    package func isLeaving(_ slot: Int) -> Bool { slots[slot].state == .leaving }

    /// The flush epoch in which the last mirrored write of a slot's extent ended; 0 for none.
    package func epoch(inSlot slot: Int) -> UInt64 { slots[slot].epoch }

    /// What the leaving extents have is durable: the next record may replace them.
    package mutating func leavingIsDurable() {
        for slot in 0..<slots.count where slots[slot].state == .leaving {
            slots[slot].state = .ready
            readyCount += 1
        }
        leavingCount = 0
    }

    /// What the leaving extents have could not be made durable: they stay.
    package mutating func leavingFailed() {
        for slot in 0..<slots.count where slots[slot].state == .leaving { slots[slot].state = .active }
        leavingCount = 0
    }

    // MARK: - Records

    /// Builds the next record: waiting keys take free slots, then those that are ready; the rest of these is freed.
    ///
    /// False when there is nothing to write, or one is on its way. `isForced` builds one that may change nothing.
    package mutating func beginRecord(isForced: Bool = false) -> Bool {
        guard !isRecordOwed else { return false }
        guard isForced || (!wanted.isEmpty && freeCount + readyCount > 0) else { return false }
        updates.removeAll()
        var free = 0
        var ready = 0
        while updates.count < Self.updateLimit, let key = wanted.first {
            let slot: Int
            if let found = nextSlot(.free, from: &free, below: capacity) {
                slot = found
                freeCount -= 1
            } else if let found = nextSlot(.ready, from: &ready, below: slots.count) {
                slot = found
                evict(slot)
                guard slot < capacity else {
                    updates.append(UInt16(slot))
                    continue
                }
                freeCount -= 1
            } else {
                break
            }
            _ = wanted.popFirst()
            slots[slot] = Slot(key: key, state: .activating)
            insert(key, slot)
            updates.append(UInt16(slot))
        }
        while updates.count < Self.updateLimit, let slot = nextSlot(.ready, from: &ready, below: slots.count) {
            evict(slot)
            updates.append(UInt16(slot))
        }
        sequence += 1
        contextStart = Int((sequence - 1) % UInt64(slots.count / Self.contextCount)) * Self.contextCount
        isRecordOwed = true
        return true
    }

    private func nextSlot(_ state: State, from start: inout Int, below end: Int) -> Int? {
        while start < end {
            start += 1
            if slots[start - 1].state == state { return start - 1 }
        }
        return nil
    }

    private mutating func evict(_ slot: Int) {
        remove(slots[slot].key)
        slots[slot] = Slot()
        readyCount -= 1
        if slot < capacity { freeCount += 1 }
    }

    /// The record is durable: its extents are active.
    package mutating func recordIsDurable() {
        invariant(isRecordOwed, "a record becomes durable once")
        isRecordOwed = false
        for index in 0..<updates.count {
            let slot = Int(updates[index])
            guard slots[slot].state == .activating else { continue }
            slots[slot].state = .active
            slots[slot].isRecent = true
        }
        updates.removeAll()
    }

    // MARK: - Places

    private func home(_ key: UInt32) -> Int {
        // Fibonacci hashing: the upper bits of the product are well mixed.
        Int(truncatingIfNeeded: (key &* 0x9E37_79B1) >> 20) & (places.count - 1)
    }

    private func find(_ key: UInt32) -> Int? {
        var place = home(key)
        while places[place] != 0 {
            let slot = Int(places[place]) - 1
            if slots[slot].key == key { return slot }
            place = (place + 1) & (places.count - 1)
        }
        return nil
    }

    private mutating func insert(_ key: UInt32, _ slot: Int) {
        var place = home(key)
        while places[place] != 0 { place = (place + 1) & (places.count - 1) }
        places[place] = UInt16(slot + 1)
    }

    /// Takes a key out and moves those behind it up, so that no probe ends too early.
    private mutating func remove(_ key: UInt32) {
        let mask = places.count - 1
        var hole = home(key)
        while places[hole] == 0 || slots[Int(places[hole]) - 1].key != key {
            invariant(places[hole] != 0, "a key that is removed is in the table")
            hole = (hole + 1) & mask
        }
        var next = (hole + 1) & mask
        while places[next] != 0 {
            let wish = home(slots[Int(places[next]) - 1].key)
            if (next - wish) & mask >= (next - hole) & mask {
                places[hole] = places[next]
                hole = next
            }
            next = (next + 1) & mask
        }
        places[hole] = 0
    }

    /// Checks the invariants of the type from scratch.
    ///
    /// For tests and the simulator.
    package func checkInvariants() {
        var counts = (free: 0, leaving: 0, ready: 0)
        var free = 0
        for slot in 0..<slots.count {
            let entry = slots[slot]
            switch entry.state {
            case .free:
                counts.free += slot < capacity ? 1 : 0
                free += 1
            case .leaving: counts.leaving += 1
            case .ready: counts.ready += 1
            case .active, .activating: break
            }
            invariant((entry.state == .free) == (entry.key == Self.noKey), "a slot is free exactly when it has no key")
            invariant(entry.references == 0 || entry.state == .active, "only active extents have references")
            invariant(entry.state == .free || find(entry.key) == slot, "every extent is found by its key")
        }
        var placed = 0
        for place in 0..<places.count where places[place] != 0 {
            invariant(slots[Int(places[place]) - 1].state != .free, "no place stands for a free slot")
            placed += 1
        }
        invariant(placed == slots.count - free, "every extent has one place")
        invariant(counts.free == freeCount, "free slots are counted")
        invariant(counts.leaving == leavingCount && counts.ready == readyCount, "slots about to leave are counted")
    }
}
