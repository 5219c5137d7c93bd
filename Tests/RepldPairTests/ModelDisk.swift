/// A disk of the model: what each granule holds in its cache and on stable storage, as version numbers.
///
/// Version 0 stands for zeroes; every write of a host has a version of its own.
struct ModelDisk {
    struct Cell: Hashable {
        var version: Int
        /// Which of two writes was later.
        var order: Int
    }

    private(set) var cached: [Cell]
    private(set) var durable: [Cell]
    private var nextOrder = 1

    init(versions: [Int]) {
        cached = versions.map { Cell(version: $0, order: 0) }
        durable = cached
    }

    mutating func write(_ versions: [Int], at granule: Int, isDurable: Bool) {
        for (position, version) in versions.enumerated() {
            cached[granule + position] = Cell(version: version, order: nextOrder)
            if isDurable { durable[granule + position] = cached[granule + position] }
        }
        nextOrder += 1
    }

    /// A flush ended that began when the cache held `snapshot`.
    mutating func makeDurable(_ snapshot: [Cell]) {
        for granule in durable.indices where snapshot[granule].order > durable[granule].order {
            durable[granule] = snapshot[granule]
        }
    }

    mutating func loseCache() { cached = durable }

    func versions(_ granules: Range<Int>) -> [Int] { granules.map { cached[$0].version } }
}

/// What hosts may read of one volume, granule by granule, by what they were told.
struct HostHistory {
    /// Versions that a read may return now: the last one acknowledged, and those whose fate nobody was told.
    private(set) var allowed: [Set<Int>]
    /// Versions that may be there after the power failed: those allowed since the last acknowledged flush began.
    private(set) var afterPowerLoss: [Set<Int>]
    private var flushCandidates: [Int: [Set<Int>]] = [:]
    private var pendingWrites: [Int: Int] = [:]
    /// What hosts wrote is lost, and they have not heard of it.
    private(set) var owesFlushFailure = false
    private var maybeLost: Set<Int> = []
    private var flushesInLoss: Set<Int> = []
    private var pendingReads: [Int: (granule: Int, acceptable: Set<Int>)] = [:]

    init(versions: [Int]) {
        allowed = versions.map { [$0] }
        afterPowerLoss = allowed
    }

    var pendingCount: Int { pendingWrites.count + pendingReads.count + flushCandidates.count }

    mutating func writeBegan(_ version: Int, granule: Int) {
        pendingWrites[version] = granule
        allowed[granule].insert(version)
        afterPowerLoss[granule].insert(version)
        for flush in flushCandidates.keys { flushCandidates[flush]?[granule].insert(version) }
        for read in pendingReads.keys where pendingReads[read]?.granule == granule {
            pendingReads[read]?.acceptable.insert(version)
        }
    }

    mutating func readBegan(_ number: Int, granule: Int) { pendingReads[number] = (granule, allowed[granule]) }

    mutating func flushBegan(_ number: Int) { flushCandidates[number] = allowed }

    /// A request was answered; words when hosts were told what is not so.
    ///
    /// `content` is what a successful read returned.
    mutating func answered(_ number: Int, isSuccess: Bool, content: Int?) -> String? {
        if let granule = pendingWrites.removeValue(forKey: number) {
            let isCertain = maybeLost.remove(number) == nil
            if isSuccess, isCertain { allowed[granule] = pending(on: granule).union([number]) }
            return nil
        }
        if let read = pendingReads.removeValue(forKey: number) {
            guard isSuccess, let content, !read.acceptable.contains(content) else { return nil }
            return "a read of granule \(read.granule) returned \(content), and not one of \(read.acceptable.sorted())"
        }
        guard let candidate = flushCandidates.removeValue(forKey: number) else { return "\(number) was answered twice" }
        guard isSuccess else {
            owesFlushFailure = false
            return nil
        }
        // One that was in flight may have been over before.
        let isLater = flushesInLoss.remove(number) == nil
        if owesFlushFailure, isLater {
            return "a flush succeeded, and hosts never heard that what they wrote before is lost"
        }
        afterPowerLoss = candidate
        return nil
    }

    private func pending(on granule: Int) -> Set<Int> { Set(pendingWrites.filter { $0.value == granule }.keys) }

    /// Hosts see another element from here on, by an operator's will.
    mutating func rebase(on disk: ModelDisk) {
        for granule in allowed.indices {
            let versions: Set<Int> = [disk.cached[granule].version]
            allowed[granule] = versions.union(pending(on: granule))
            afterPowerLoss[granule] = allowed[granule].union([disk.durable[granule].version])
            for flush in flushCandidates.keys { flushCandidates[flush]?[granule] = afterPowerLoss[granule] }
            for read in pendingReads.keys where pendingReads[read]?.granule == granule {
                pendingReads[read]?.acceptable.formUnion(allowed[granule])
            }
        }
    }

    /// The element that serves has lost its cache, which a failed flush told.
    ///
    /// Hosts have to hear of it: where the flush was not theirs, the next of theirs fails.
    mutating func allowLossOfCache(isHostTold: Bool) {
        for granule in allowed.indices { allowed[granule].formUnion(afterPowerLoss[granule]) }
        if !isHostTold { owesFlushFailure = true }
        for (read, pending) in pendingReads {
            pendingReads[read]?.acceptable.formUnion(allowed[pending.granule])
        }
        flushesInLoss = Set(flushCandidates.keys)
        for flush in flushCandidates.keys {
            for granule in allowed.indices { flushCandidates[flush]?[granule].formUnion(afterPowerLoss[granule]) }
        }
        // What was being written may have been in that cache, and is acknowledged only now.
        maybeLost.formUnion(pendingWrites.keys)
    }

    /// Another element serves: what the one before has lost does not matter any more.
    mutating func servingElementChanged() { owesFlushFailure = false }

    func isWriting(_ number: Int) -> Bool { pendingWrites[number] != nil }
    var isFlushing: Bool { !flushCandidates.isEmpty }

    /// Whether a granule of the element that serves may hold a version, also after its cache was lost.
    func mayHold(_ version: Int, granule: Int, afterPowerLoss isPowerLost: Bool) -> Bool {
        (isPowerLost ? afterPowerLoss : allowed)[granule].contains(version)
    }

    /// A new machine serves an element: whatever it holds is what hosts read from now on.
    mutating func restart(on disk: ModelDisk, isPowerLost: Bool) {
        pendingWrites = [:]
        pendingReads = [:]
        flushCandidates = [:]
        maybeLost = []
        flushesInLoss = []
        // A connection that breaks tells hosts that what was not flushed may be gone.
        owesFlushFailure = false
        for granule in allowed.indices {
            allowed[granule] = [disk.cached[granule].version]
            afterPowerLoss[granule] = isPowerLost ? allowed[granule] : afterPowerLoss[granule].union(allowed[granule])
        }
    }

    /// Which requests hosts wait for, as (number, granule): for telling states apart.
    var waiting: [(number: Int, granule: Int)] {
        let writes = pendingWrites.map { (number: $0.key, granule: $0.value) }
        let reads = pendingReads.map { (number: $0.key, granule: -2 - $0.value.granule) }
        let flushes = flushCandidates.keys.map { (number: $0, granule: -1) }
        return (writes + reads + flushes).sorted { $0.number < $1.number }
    }
}
