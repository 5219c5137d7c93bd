internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// What host applications do to one volume that is served: numbered writes, reads and flushes, what they may find, and what they
/// wait for.
struct HostWorkload {
    /// A request that a host waits for.
    struct Waiting {
        var number: Int
        var operation: HostOperation
        var sectors: Range<Int>
        var value: UInt64
        var isDurable: Bool
        var covered: [UInt64]
        /// Of a read: what it might have found in each sector when it was submitted.
        var readable: [[UInt64]]
        var since: UInt64
        /// Something that hosts may hear of went wrong while it was under way.
        var isExcused = false
    }

    /// Longer than the silence after which a link is lost, and than anything else that a host may have to wait for.
    static var patienceNanoseconds: UInt64 { 60_000_000_000 }

    var history: WriteHistory
    var order: WriteOrder
    /// By number on the host that serves the volume.
    var waiting: [Waiting] = []

    init(sectorCount: Int) {
        history = WriteHistory(sectorCount: sectorCount)
        order = WriteOrder(values: Array(repeating: 0, count: sectorCount))
    }

    /// Submits a request drawn by chance, a write with `value`; says in words what, or `nil` where the volume takes none now.
    mutating func submit(
        to host: ReplicationHost,
        _ volume: VolumeID,
        on disk: SimulatedDisk,
        value: UInt64,
        at now: UInt64,
        isExcused: Bool = false,
        _ random: inout RandomSource
    ) -> String? {
        let count = history.sectorCount
        let length = random.chance(oneIn: 8) ? Int(1 + random.below(64)) : Int(1 + random.below(8))
        let first = Int(random.below(UInt64(count - length)))
        // Many writes of the same few sectors meet each other.
        let start = random.chance(oneIn: 2) ? first % 32 : first
        var sectors = start..<start + length
        let kind = random.below(10)
        let operation: HostOperation = kind < 6 ? .write : kind < 8 ? .read : .flush
        if operation == .flush { sectors = 0..<0 }
        let isDurable = operation == .write && random.chance(oneIn: 6)
        guard let number = host.submit(operation, sectors, value: value, isDurable: isDurable, to: volume) else {
            return nil
        }
        if operation == .write {
            history.submitted(value, value: value, sectors)
            order.began(value, sectors)
        }
        waiting.append(
            Waiting(
                number: number,
                operation: operation,
                sectors: sectors,
                value: value,
                isDurable: isDurable,
                covered: operation == .flush ? history.covered() : [],
                readable: operation == .read ? sectors.map { history.readable($0) } : [],
                since: now,
                isExcused: isExcused || operation == .read && disk.isBad(sectors)
            )
        )
        return "\(operation) \(sectors) value \(value)\(isDurable ? " FUA" : "")"
    }

    /// A request has been answered; what is wrong with the answer, in words.
    ///
    /// `mayFail` where something has happened of which hosts are to hear: a failed write may be there or not. A read may have been
    /// answered over the link then, and find what was there before a write that has ended meanwhile.
    mutating func answered(_ number: Int, by host: ReplicationHost, mayFail: Bool = false) -> String? {
        guard let place = waiting.firstIndex(where: { $0.number == number }) else { return nil }
        let asked = waiting.remove(at: place)
        let request = host.requests[asked.number]
        let mayFail = mayFail || asked.isExcused
        if mayFail, request.failure != nil { return nil }
        if let failure = request.failure { return "\(asked.operation) \(asked.value) of a host failed: \(failure)" }
        switch asked.operation {
        case .write:
            history.acknowledged(asked.value, asked.sectors, isDurable: asked.isDurable)
            order.acknowledged(asked.value, asked.sectors)
        case .flush: history.flushed(covering: asked.covered)
        case .read:
            for (sector, value) in zip(asked.sectors, request.values) where !history.readable(sector).contains(value) {
                let isOverlapped =
                    value > asked.value || asked.readable[sector - asked.sectors.lowerBound].contains(value)
                if mayFail, isOverlapped { continue }
                return "a read finds \(value) in sector \(sector), not \(history.readable(sector))"
            }
        case .discard, .writeZeroes: break
        }
        return nil
    }

    /// What is under way may fail from now on.
    mutating func excuse() {
        for index in waiting.indices { waiting[index].isExcused = true }
    }

    /// Reads of sectors that have gone bad may fail.
    mutating func excuse(readsOf disk: SimulatedDisk) {
        for index in waiting.indices where waiting[index].operation == .read && disk.isBad(waiting[index].sectors) {
            waiting[index].isExcused = true
        }
    }

    /// Hosts got no core for so long, and could not have heard of an answer.
    mutating func wait(_ nanoseconds: UInt64) {
        for index in waiting.indices { waiting[index].since += nanoseconds }
    }

    /// The request that a host has waited for too long, in words.
    func overdue(at now: UInt64) -> String? {
        guard let asked = waiting.first, now > asked.since + Self.patienceNanoseconds else { return nil }
        return "\(asked.operation) \(asked.value) of a host has waited for more than a minute"
    }

    /// The disk holds what it may hold after something that its hosts cannot have missed; from here on that is the past.
    ///
    /// `allowed` says what may be in a sector; the flaw, in words.
    mutating func settle(
        on disk: SimulatedDisk,
        after event: String,
        _ allowed: (WriteHistory, Int) -> [UInt64]
    ) -> String? {
        waiting = []
        for sector in 0..<disk.sectorCount {
            let value = disk.word(sector)
            guard allowed(history, sector).contains(value) else {
                return "after \(event) sector \(sector) holds \(value), not \(allowed(history, sector))"
            }
            history.settle(value, sector)
        }
        order = WriteOrder(values: disk.words)
        return nil
    }
}
