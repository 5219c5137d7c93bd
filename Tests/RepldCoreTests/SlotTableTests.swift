import RepldCore
import Testing

@Suite("The slot table")
struct SlotTableTests {
    @Test("agrees with a dictionary of what was taken, whatever is done to it", arguments: UInt64(1)...10)
    func agreesWithNaiveModel(seed: UInt64) {
        var random = RandomSource(seed: seed)
        let capacity = Int(1 + random.below(40))
        var table = SlotTable<UInt64>(capacity: capacity, blank: 0)
        var model: [SlotID: UInt64] = [:]
        var order: [SlotID] = []
        var released: [SlotID] = []
        for _ in 0..<2000 {
            if random.chance(oneIn: 2) {
                let record = random.next()
                let id = table.take(record)
                #expect((id == nil) == (model.count == capacity), "only a full table refuses")
                if let id {
                    #expect(model[id] == nil && !released.contains(id), "a name stands for one use")
                    model[id] = record
                    order.append(id)
                }
            } else if !order.isEmpty {
                let id = order.remove(at: Int(random.below(UInt64(order.count))))
                let record = table[id]
                #expect(record == model.removeValue(forKey: id))
                table.release(id)
                released.append(id)
            }
            Self.compare(table, model)
        }
        for id in released {
            let isKnown = table.contains(id)
            #expect(!isKnown, "a released name is stale for good")
        }
    }

    /// Takes a slot that has to be there.
    private static func take(_ record: UInt64, from table: inout SlotTable<UInt64>) throws -> SlotID {
        let id = table.take(record)
        return try #require(id)
    }

    private static func compare(_ table: borrowing SlotTable<UInt64>, _ model: [SlotID: UInt64]) {
        let state = (table.takenCount, table.isEmpty, table.isFull)
        #expect(state == (model.count, model.isEmpty, model.count == table.capacity))
        var walked: Set<SlotID> = []
        for index in 0..<table.capacity {
            if let id = table.taken(at: index) { walked.insert(id) }
        }
        #expect(walked == Set(model.keys))
        for (id, record) in model {
            let found = (table.contains(id), table[id])
            #expect(found == (true, record))
        }
    }

    @Test("a record is changed in place under its name")
    func changesInPlace() throws {
        var table = SlotTable<UInt64>(capacity: 2, blank: 0)
        let first = try Self.take(1, from: &table)
        let second = try Self.take(2, from: &table)
        table[first] += 10
        let records = (table[first], table[second])
        #expect(records == (11, 2))
    }

    @Test("the slot given back last is taken first, under a new name")
    func lastInFirstOut() throws {
        var table = SlotTable<UInt64>(capacity: 3, blank: 0)
        let names = [try Self.take(0, from: &table), try Self.take(0, from: &table), try Self.take(0, from: &table)]
        #expect(names.map(\.index) == [0, 1, 2])
        table.release(names[0])
        table.release(names[2])
        let next = [try Self.take(0, from: &table), try Self.take(0, from: &table)]
        #expect(next.map(\.index) == [2, 0])
        #expect(next[0] != names[2] && next[1] != names[0])
    }

    @Test("a generation counts on over its largest value")
    func generationWraps() throws {
        var table = SlotTable<UInt64>(capacity: 1, blank: 0)
        let first = try Self.take(0, from: &table)
        table.release(first)
        for _ in 1..<(1 << 16) {
            let id = try Self.take(0, from: &table)
            let isDistinct = id != first
            #expect(isDistinct)
            table.release(id)
        }
        let again = try Self.take(0, from: &table)
        #expect(again == first, "a name comes back after 65,536 uses of its slot, and not before")
    }

    @Test("a name of an earlier use of the slot stops the process")
    func staleName() async {
        await #expect(processExitsWith: .failure) {
            var table = SlotTable<UInt64>(capacity: 1, blank: 0)
            guard let stale = table.take(1) else { return }
            table.release(stale)
            _ = table.take(2)
            _ = table[stale]
        }
    }

    @Test("a slot given back twice stops the process")
    func doubleRelease() async {
        await #expect(processExitsWith: .failure) {
            var table = SlotTable<UInt64>(capacity: 2, blank: 0)
            guard let id = table.take(1) else { return }
            table.release(id)
            table.release(id)
        }
    }

    @Test("a name with an index outside the table is not known, and stops whoever uses it")
    func foreignName() async {
        let table = SlotTable<UInt64>(capacity: 2, blank: 0)
        let isKnown = table.contains(SlotID(index: 2, generation: 0))
        #expect(!isKnown)
        await #expect(processExitsWith: .failure) {
            let table = SlotTable<UInt64>(capacity: 2, blank: 0)
            _ = table[SlotID(index: 2, generation: 0)]
        }
    }
}
