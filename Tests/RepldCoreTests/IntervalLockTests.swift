import RepldCore
import Testing

/// The same rules read off the list of everything asked for so far, from scratch each time.
private struct NaiveIntervalLock {
    struct Entry {
        var extent: Extent
        var mode: IntervalLock.Mode
        var owner: SlotID
    }

    /// In the order of asking.
    var entries: [Entry] = []

    static func conflict(_ left: Entry, _ right: Entry) -> Bool {
        let overlap = left.extent.offset < right.extent.end && right.extent.offset < left.extent.end
        return overlap && (left.mode == .exclusive || right.mode == .exclusive)
    }

    func isHeld(_ position: Int) -> Bool {
        !entries[..<position].contains { Self.conflict($0, entries[position]) }
    }

    var held: [SlotID] { entries.indices.filter(isHeld).map { entries[$0].owner } }

    mutating func acquire(_ entry: Entry) -> Bool {
        entries.append(entry)
        return isHeld(entries.count - 1)
    }

    /// Those who hold theirs because of the release, in the order of asking.
    mutating func release(_ owner: SlotID) -> [SlotID] {
        let before = Set(held)
        entries.removeAll { $0.owner == owner }
        return held.filter { !before.contains($0) }
    }
}

@Suite("The interval lock")
struct IntervalLockTests {
    private static func owner(_ number: UInt32) -> SlotID { SlotID(index: number, generation: 1) }

    /// Releases, and returns who holds theirs because of it.
    private static func release(_ lock: inout IntervalLock, _ number: UInt32) -> [UInt32] {
        var granted = BoundedQueue(capacity: 64, blank: owner(0))
        lock.release(owner: owner(number), granted: &granted)
        lock.checkInvariants()
        var numbers: [UInt32] = []
        while let next = granted.popFirst() { numbers.append(next.index) }
        return numbers
    }

    @Test("grants what the rules read off the whole history grant, in the same order", arguments: UInt64(1)...40)
    func agreesWithNaiveModel(seed: UInt64) {
        var random = RandomSource(seed: seed)
        var lock = IntervalLock(capacity: 24)
        var model = NaiveIntervalLock()
        var nextOwner: UInt32 = 0
        // Few places make many conflicts; the seeds differ in how many.
        let places = 2 + random.below(30)
        for step in 0..<400 {
            let mayAsk = model.entries.count < 24
            if mayAsk && (model.entries.isEmpty || random.chance(oneIn: 2)) {
                let start = random.below(places)
                let extent = Extent(offset: start, length: 1 + random.below(places - start))
                let mode: IntervalLock.Mode = random.chance(oneIn: 2) ? .shared : .exclusive
                let isFree = lock.isFree(extent)
                #expect(isFree == !model.entries.contains { $0.extent.overlaps(extent) })
                let isHeld = lock.acquire(extent, mode, owner: Self.owner(nextOwner))
                let expected = model.acquire(.init(extent: extent, mode: mode, owner: Self.owner(nextOwner)))
                #expect(isHeld == expected, "step \(step)")
                nextOwner += 1
            } else {
                // Mostly a holder gives back; sometimes a waiting request is withdrawn.
                let held = model.held
                let owner =
                    random.chance(oneIn: 5)
                    ? model.entries[Int(random.below(UInt64(model.entries.count)))].owner
                    : held[Int(random.below(UInt64(held.count)))]
                let granted = Self.release(&lock, owner.index)
                let expected = model.release(owner).map(\.index)
                #expect(granted == expected, "step \(step)")
            }
            lock.checkInvariants()
            let counts = (lock.count, lock.waitingCount)
            #expect(counts == (model.entries.count, model.entries.count - model.held.count))
        }
    }

    @Test("the oldest request always holds its lock", arguments: UInt64(100)...110)
    func oldestHolds(seed: UInt64) {
        var random = RandomSource(seed: seed)
        var lock = IntervalLock(capacity: 64)
        var held: Set<UInt32> = []
        for number in 0..<UInt32(64) {
            let extent = Extent(offset: random.below(8), length: 1 + random.below(8))
            let mode: IntervalLock.Mode = random.chance(oneIn: 3) ? .shared : .exclusive
            if lock.acquire(extent, mode, owner: Self.owner(number)) { held.insert(number) }
        }
        for number in 0..<UInt32(64) {
            #expect(held.contains(number), "request \(number) waits although everything before it has ended")
            held.formUnion(Self.release(&lock, number))
        }
        let left = (lock.count, lock.waitingCount)
        #expect(left == (0, 0))
    }

    @Test("readers share, and a writer waits for all of them")
    func sharing() {
        var lock = IntervalLock(capacity: 8)
        let extent = Extent(offset: 0, length: 4096)
        let readers = (
            lock.acquire(extent, .shared, owner: Self.owner(1)), lock.acquire(extent, .shared, owner: Self.owner(2))
        )
        #expect(readers == (true, true))
        let writer = lock.acquire(extent, .exclusive, owner: Self.owner(3))
        #expect(!writer)
        #expect(Self.release(&lock, 2) == [])
        #expect(Self.release(&lock, 1) == [3])
    }

    @Test("a reader that comes after a waiting writer does not pass it")
    func readerDoesNotStarveWriter() {
        var lock = IntervalLock(capacity: 8)
        let extent = Extent(offset: 0, length: 4096)
        _ = lock.acquire(extent, .shared, owner: Self.owner(1))
        _ = lock.acquire(extent, .exclusive, owner: Self.owner(2))
        let late = lock.acquire(extent, .shared, owner: Self.owner(3))
        #expect(!late)
        #expect(Self.release(&lock, 1) == [2])
        #expect(Self.release(&lock, 2) == [3])
    }

    @Test("one release grants several in the order of asking, wherever they stand in the table")
    func grantsInOrder() {
        var lock = IntervalLock(capacity: 8)
        _ = lock.acquire(Extent(offset: 1000, length: 1), .exclusive, owner: Self.owner(9))
        _ = lock.acquire(Extent(offset: 0, length: 100), .exclusive, owner: Self.owner(1))
        for number in UInt32(2)...5 {
            _ = lock.acquire(Extent(offset: UInt64(number) * 10, length: 10), .exclusive, owner: Self.owner(number))
        }
        // The last entry takes the place of the released one: the table is now out of order.
        #expect(Self.release(&lock, 9) == [])
        #expect(Self.release(&lock, 1) == [2, 3, 4, 5])
    }

    @Test("neighbours do not conflict, one shared byte does", arguments: [(UInt64(9), false), (10, true), (11, true)])
    func boundaries(offset: UInt64, isHeldAtOnce: Bool) {
        var lock = IntervalLock(capacity: 8)
        _ = lock.acquire(Extent(offset: 0, length: 10), .exclusive, owner: Self.owner(1))
        let free = lock.isFree(Extent(offset: offset, length: 5))
        #expect(free == isHeldAtOnce)
        let isHeld = lock.acquire(Extent(offset: offset, length: 5), .exclusive, owner: Self.owner(2))
        #expect(isHeld == isHeldAtOnce)
    }

    @Test("a withdrawn request frees those that waited for it")
    func withdrawal() {
        var lock = IntervalLock(capacity: 8)
        _ = lock.acquire(Extent(offset: 0, length: 10), .exclusive, owner: Self.owner(1))
        _ = lock.acquire(Extent(offset: 0, length: 30), .exclusive, owner: Self.owner(2))
        _ = lock.acquire(Extent(offset: 20, length: 10), .exclusive, owner: Self.owner(3))
        #expect(Self.release(&lock, 2) == [3])
        let waiting = lock.waitingCount
        #expect(waiting == 0)
    }

    @Test("a lock given back twice stops the process")
    func doubleRelease() async {
        await #expect(processExitsWith: .failure) {
            var lock = IntervalLock(capacity: 8)
            var granted = BoundedQueue(capacity: 8, blank: SlotID(index: 0, generation: 0))
            let owner = SlotID(index: 1, generation: 1)
            _ = lock.acquire(Extent(offset: 0, length: 1), .shared, owner: owner)
            lock.release(owner: owner, granted: &granted)
            lock.release(owner: owner, granted: &granted)
        }
    }

    @Test("an owner that asks twice for the same bytes would wait for itself, and stops the process")
    func secondLockOfOneOwner() async {
        await #expect(processExitsWith: .failure) {
            var lock = IntervalLock(capacity: 8)
            let owner = SlotID(index: 1, generation: 1)
            _ = lock.acquire(Extent(offset: 0, length: 1), .exclusive, owner: owner)
            _ = lock.acquire(Extent(offset: 0, length: 1), .exclusive, owner: owner)
        }
    }

    @Test("more requests than the table has room for stop the process, and so does an empty extent")
    func limits() async {
        await #expect(processExitsWith: .failure) {
            var lock = IntervalLock(capacity: 1)
            _ = lock.acquire(Extent(offset: 0, length: 1), .shared, owner: SlotID(index: 1, generation: 1))
            _ = lock.acquire(Extent(offset: 9, length: 1), .shared, owner: SlotID(index: 2, generation: 1))
        }
        await #expect(processExitsWith: .failure) {
            var lock = IntervalLock(capacity: 1)
            _ = lock.acquire(Extent(offset: 5, length: 0), .shared, owner: SlotID(index: 1, generation: 1))
        }
    }
}
