import RepldCore
import Testing

/// What `#expect` cannot take apart: a check of something that is not copied.
private func expect(_ holds: Bool, _ location: SourceLocation = #_sourceLocation) {
    #expect(holds, sourceLocation: location)
}

/// What a log must hold, kept in the plainest way: the key of each slot, and a dictionary of what each key may be used for.
///
/// It does not foretell which extents leave, but checks that those which left were allowed to.
private struct NaiveActivityLog {
    struct Entry {
        var slot: Int
        var referenceCount = 0
        var isActivating = true
        var lastUse = 0
    }

    let capacity: Int
    var entries: [UInt32: Entry] = [:]
    var slotKeys = [UInt32](repeating: ActivityLog.noKey, count: ActivityLog.slotLimit)
    var wanted: [UInt32] = []
    /// When the extents that are ready were last used at the latest.
    var readySince = 0
    var evictedCount = 0

    mutating func acquire(_ key: UInt32, at step: Int) -> Bool {
        guard let entry = entries[key], !entry.isActivating else { return false }
        entries[key]?.referenceCount += 1
        entries[key]?.lastUse = step
        return true
    }

    mutating func want(_ key: UInt32) -> Bool {
        if entries[key] != nil || wanted.contains(key) { return true }
        guard wanted.count < ActivityLog.wantedLimit else { return false }
        wanted.append(key)
        return true
    }

    /// Takes over what a record changes.
    mutating func takeRecord(of log: borrowing ActivityLog) {
        let count = log.updateCount
        #expect(count > 0 && count <= ActivityLog.updateLimit)
        for index in 0..<count {
            let slot = log.update(index)
            let old = slotKeys[slot]
            if let left = entries[old] {
                #expect(left.referenceCount == 0 && !left.isActivating && left.lastUse <= readySince)
                entries[old] = nil
                evictedCount += 1
            }
            let new = log.key(inSlot: slot)
            slotKeys[slot] = new
            guard new != ActivityLog.noKey else { continue }
            #expect(slot < capacity && new == wanted.first)
            wanted.removeFirst()
            entries[new] = Entry(slot: slot)
        }
    }

    func check(_ log: borrowing ActivityLog) {
        log.checkInvariants()
        let wantedCount = log.wantedCount
        #expect(wantedCount == wanted.count)
        for slot in 0..<log.slotCount {
            let key = log.key(inSlot: slot)
            #expect(key == slotKeys[slot])
        }
    }
}

@Suite("The activity log")
struct ActivityLogTests {
    /// Makes extents active, each record at once.
    private static func activate(_ keys: [UInt32], in log: inout ActivityLog) {
        for key in keys { expect(log.want(key)) }
        while log.beginRecord() { log.recordIsDurable() }
        log.checkInvariants()
    }

    private static func keys(in log: borrowing ActivityLog) -> Set<UInt32> {
        var keys: Set<UInt32> = []
        for slot in 0..<log.slotCount where log.key(inSlot: slot) != ActivityLog.noKey {
            keys.insert(log.key(inSlot: slot))
        }
        return keys
    }

    @Test("keeps what it promises, whatever is done to it", arguments: [1, 3, 64, 1000, 1024], UInt64(1)...3)
    func agreesWithDictionary(capacity: Int, seed: UInt64) {
        var random = RandomSource(seed: seed &* 0x10001 &+ UInt64(capacity))
        var log = ActivityLog(capacity: capacity)
        var model = NaiveActivityLog(capacity: capacity)
        // Keys that lie close together collide in the table's home places; the top bit makes others.
        let keyCount = UInt64(capacity) + 1 + random.below(UInt64(2 * capacity))
        var chosenAt = 0
        for step in 1...500 {
            let number = UInt32(random.below(keyCount))
            let key = random.chance(oneIn: 4) ? number | ActivityLog.targetSide : number
            switch random.below(16) {
            case 0...3:
                let isTaken = log.acquire(key)
                #expect(isTaken == model.acquire(key, at: step))
            case 4...6:
                let referenced = model.entries.filter { $0.value.referenceCount > 0 }.keys.min()
                guard let key = referenced else { break }
                log.release(key, epoch: random.chance(oneIn: 2) ? UInt64(step) : nil)
                model.entries[key]?.referenceCount -= 1
            case 7...9:
                for near in 0..<UInt32(1 + random.below(40)) {
                    let isTaken = log.want(key &+ near & ~1)
                    #expect(isTaken == model.want(key &+ near & ~1))
                }
            case 10:
                let isActive = log.touch(key)
                #expect(isActive == (model.entries[key].map { !$0.isActivating } ?? false))
            case 11:
                // Choosing again while some leave is what makes a driver mistake one batch for another.
                guard log.leavingCount == 0 else { break }
                let count = log.chooseLeaving(limit: 1 + Int(random.below(200)))
                expect(count == log.leavingCount)
                chosenAt = step
            case 12:
                if random.chance(oneIn: 4) {
                    log.leavingFailed()
                } else {
                    if log.leavingCount > 0 { model.readySince = max(model.readySince, chosenAt) }
                    log.leavingIsDurable()
                }
                expect(log.leavingCount == 0)
            case 13...14:
                let sequence = log.sequence
                guard log.beginRecord() else { break }
                expect(log.sequence == sequence + 1)
                model.takeRecord(of: log)
            default:
                guard log.isRecordOwed else { break }
                log.recordIsDurable()
                for key in model.entries.keys { model.entries[key]?.isActivating = false }
            }
            model.check(log)
        }
        #expect(capacity > 64 || model.evictedCount > 0)
    }

    @Test("an extent is active when its record is durable, and not before")
    func activation() {
        var log = ActivityLog(capacity: 2)
        expect(!log.acquire(7) && !log.touch(7) && !log.beginRecord())
        expect(log.want(7) && log.want(7) && log.wantedCount == 1)
        expect(log.beginRecord() && log.isRecordOwed && log.sequence == 1 && log.updateCount == 1)
        expect(!log.acquire(7) && !log.touch(7) && log.want(7) && log.wantedCount == 0)
        expect(log.want(8) && !log.beginRecord())
        log.recordIsDurable()
        expect(log.touch(7) && log.acquire(7) && log.acquire(7))
        // The same extent, written by the target's hosts, is another.
        expect(!log.acquire(7 | ActivityLog.targetSide))
        log.checkInvariants()
    }

    @Test("an extent that a write uses does not leave, and one that leaves is kept by a write")
    func leaving() {
        var log = ActivityLog(capacity: 1)
        Self.activate([5], in: &log)
        expect(log.acquire(5) && log.chooseLeaving(limit: 1) == 0)
        log.release(5, epoch: 3)
        expect(log.chooseLeaving(limit: 1) == 1)
        expect(log.acquire(5) && log.leavingCount == 0)
        log.leavingIsDurable()
        expect(log.readyCount == 0)
        log.release(5, epoch: nil)
        expect(log.chooseLeaving(limit: 1) == 1)
        log.leavingIsDurable()
        expect(log.readyCount == 1 && log.leavingCount == 0)
        // Ready to be replaced, and used again before it is.
        expect(log.acquire(5) && log.readyCount == 0)
        expect(log.want(6) && !log.beginRecord())
        log.release(5, epoch: nil)
        expect(log.chooseLeaving(limit: 1) == 1)
        log.leavingFailed()
        expect(log.leavingCount == 0 && log.readyCount == 0 && !log.beginRecord())
        expect(log.chooseLeaving(limit: 1) == 1)
        log.leavingIsDurable()
        expect(log.beginRecord() && !log.acquire(5))
        log.recordIsDurable()
        expect(log.acquire(6) && !log.acquire(5))
        log.checkInvariants()
    }

    @Test("the clock gives what was used since it came by a second chance")
    func clock() {
        var log = ActivityLog(capacity: 4)
        Self.activate([10, 11, 12, 13], in: &log)
        // All were just activated: the hand goes round once, and takes the first.
        expect(log.chooseLeaving(limit: 1) == 1)
        expect(log.touch(11) && log.chooseLeaving(limit: 2) == 2)
        log.leavingIsDurable()
        Self.activate([20, 21], in: &log)
        expect(Self.keys(in: log) == [11, 13, 20, 21])
    }

    @Test("a record changes so many slots at most; the next one has the rest")
    func recordIsBounded() {
        var log = ActivityLog(capacity: 1024)
        for key in 0..<UInt32(300) { expect(log.want(key)) }
        for count in [128, 128, 44] {
            expect(log.beginRecord() && log.updateCount == count)
            expect(log.contextStart == (log.sequence.isMultiple(of: 2) ? 512 : 0))
            log.recordIsDurable()
        }
        expect(!log.beginRecord() && log.freeCount == 724)
        log.checkInvariants()
    }

    @Test("ready extents that nobody waits for are freed by a record that is written anyway")
    func restIsFreed() {
        var log = ActivityLog(capacity: 300)
        Self.activate(Array(0..<300), in: &log)
        expect(log.chooseLeaving(limit: 200) == 200)
        log.leavingIsDurable()
        expect(log.want(1000) && log.beginRecord() && log.updateCount == 128)
        expect(log.readyCount == 72 && log.freeCount == 127)
        log.recordIsDurable()
        log.checkInvariants()
        expect(log.acquire(1000))
    }

    @Test("so many extents may wait, each once, and the preferred one always")
    func wantedIsBounded() {
        var log = ActivityLog(capacity: 8)
        for key in 0..<UInt32(ActivityLog.wantedLimit - 1) { expect(log.want(key)) }
        expect(!log.want(9999) && log.want(0) && log.want(510) && log.wantedCount == 511)
        expect(log.want(511, isPreferred: true) && log.want(511) && log.wantedCount == 512)
        expect(!log.want(9999, isPreferred: true))
        expect(log.beginRecord() && log.updateCount == 8 && log.want(9999))
        log.recordIsDurable()
        expect(!log.beginRecord())
        log.checkInvariants()
    }

    @Test("what recovery found is active in its slot, also behind the slots that are used now")
    func restore() {
        var log = ActivityLog(capacity: 4)
        log.resume(after: 77)
        for slot in 0..<10 { log.restore(key: UInt32(100 + slot), inSlot: slot) }
        log.checkInvariants()
        expect(log.freeCount == 0 && log.acquire(109) && log.chooseLeaving(limit: 64) == 9)
        log.leavingIsDurable()
        Self.activate([1, 2, 3, 4], in: &log)
        expect(log.sequence == 78 && Self.keys(in: log) == [1, 2, 3, 4, 109])
        log.release(109, epoch: nil)
        expect(log.chooseLeaving(limit: 5) == 5)
        log.leavingIsDurable()
        Self.activate([5], in: &log)
        expect(Self.keys(in: log) == [5] && log.freeCount == 3)
    }

    @Test("misuse stops the process")
    func misuse() async {
        await #expect(processExitsWith: .failure) { _ = ActivityLog(capacity: 0) }
        await #expect(processExitsWith: .failure) { _ = ActivityLog(capacity: ActivityLog.slotLimit + 1) }
        await #expect(processExitsWith: .failure) {
            var log = ActivityLog(capacity: 1)
            log.restore(key: 1, inSlot: 0)
            log.release(1, epoch: nil)
        }
        await #expect(processExitsWith: .failure) {
            var log = ActivityLog(capacity: 1)
            log.restore(key: 1, inSlot: 0)
            log.restore(key: 1, inSlot: 1)
        }
        await #expect(processExitsWith: .failure) {
            var log = ActivityLog(capacity: 1)
            log.recordIsDurable()
        }
    }
}
