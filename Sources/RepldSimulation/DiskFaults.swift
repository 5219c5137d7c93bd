internal import RepldCore
internal import RepldEngine

/// What the disks of hosts do wrong in one run between two hosts, drawn from its seed: each once in so many steps, 0 is never.
struct DiskFaults {
    /// An element or an undo area fails what is asked of it.
    var failureOneIn: UInt64 = 0
    /// It does not answer, or takes long.
    var hangOneIn: UInt64 = 0
    var badSectorOneIn: UInt64 = 0
    var metadataFailureOneIn: UInt64 = 0

    init() {}

    init(drawnFrom random: inout RandomSource) {
        func pick<Value>(_ values: [Value]) -> Value { values[Int(random.below(UInt64(values.count)))] }
        failureOneIn = pick([0, 0, 50, 200])
        hangOneIn = pick([0, 0, 100])
        badSectorOneIn = pick([0, 0, 20])
        metadataFailureOneIn = pick([0, 0, 100])
    }
}

/// The disks of a run that have gone wrong, what of it hosts may hear, and when each is well again.
///
/// The element that serves hosts never fails a flush here, because it would lose what hosts were told is there: kind `host` has that.
struct DiskFaultInjector {
    /// A disk, and what it is for.
    struct Place {
        enum Purpose { case servingElement, copy, metadata, replicaMetadata, undoArea }

        var host: ReplicationHost
        var disk: SimulatedDisk
        var purpose: Purpose

        /// Hosts hear of what it does wrong.
        var concernsHosts: Bool { purpose == .servingElement || purpose == .metadata }
        var isElement: Bool { purpose == .servingElement || purpose == .copy }
        var isMetadata: Bool { purpose == .metadata || purpose == .replicaMetadata }
    }

    private struct Fault {
        var host: ReplicationHost
        var disk: SimulatedDisk
        var until: UInt64
    }

    let faults: DiskFaults
    private var active: [Fault] = []
    private var nextLift = UInt64.max

    private static var slowNanoseconds: UInt64 { 300_000_000 }
    private static var usualNanoseconds: UInt64 { 2_000_000 }
    /// A record that failed is tried again at the next tick.
    private static var retryNanoseconds: UInt64 { 3_000_000_000 }

    init(_ faults: DiskFaults) { self.faults = faults }

    /// What has just gone wrong, in words, and up to when requests of hosts may fail for it; `nil` is that they may not.
    struct Mishap {
        var words: String
        var host: ReplicationHost
        var mayFailUntil: UInt64?
    }

    // MARK: - Coming

    /// Perhaps a disk goes wrong.
    mutating func inject(
        into places: [Place],
        at now: UInt64,
        _ random: inout RandomSource,
        _ coverage: inout SimulationCoverage
    ) -> Mishap? {
        func pick(_ isMeant: (Place) -> Bool) -> Place? {
            let meant = places.filter { $0.host.isUp && isMeant($0) }
            return meant.isEmpty ? nil : meant[Int(random.below(UInt64(meant.count)))]
        }
        if random.chance(oneIn: faults.failureOneIn), let place = pick({ !$0.isMetadata }) {
            coverage[.diskFailures] += 1
            return fail(place, at: now, &random)
        }
        if random.chance(oneIn: faults.metadataFailureOneIn), let place = pick({ $0.isMetadata }) {
            coverage[.metadataFailures] += 1
            return fail(place, at: now, &random)
        }
        if random.chance(oneIn: faults.hangOneIn), let place = pick({ _ in true }) {
            coverage[.diskHangs] += 1
            return hang(place, at: now, &random)
        }
        if random.chance(oneIn: faults.badSectorOneIn), let place = pick({ $0.isElement }) {
            coverage[.badSectors] += 1
            let sector = Int(random.below(UInt64(place.disk.sectorCount)))
            place.disk.spoil(sector: sector)
            return Mishap(words: "\(place.disk.name) sector \(sector) goes bad", host: place.host)
        }
        return nil
    }

    private mutating func fail(_ place: Place, at now: UInt64, _ random: inout RandomSource) -> Mishap {
        let failures: [IOFailure] = [.inputOutput, .noSpace, .gone]
        let failure = failures[Int(random.below(3))]
        let oneIn: UInt64 = [0, 3, 30][Int(random.below(3))]
        place.disk.faults.sparesFlushes = place.purpose == .servingElement
        let until = begin(place, at: now, limitSeconds: 30, &random)
        var words = "\(place.disk.name) fails with \(failure)"
        if place.purpose == .copy, random.chance(oneIn: 4) {
            place.disk.faults.failsNextFlush = true
            words = "the next flush of \(place.disk.name) fails"
        } else if oneIn > 0 {
            place.disk.faults.failsOneIn = oneIn
            words = "\(place.disk.name) fails once in \(oneIn)"
        } else {
            place.disk.faults.failure = failure
        }
        words += " for \((until - now) / 1_000_000) ms"
        let mayFailUntil = place.concernsHosts ? until + Self.retryNanoseconds : nil
        return Mishap(words: words, host: place.host, mayFailUntil: mayFailUntil)
    }

    /// Hosts wait for their own element as long as it takes, and for its metadata up to a limit.
    private mutating func hang(_ place: Place, at now: UInt64, _ random: inout RandomSource) -> Mishap {
        if random.chance(oneIn: 2) {
            let until = begin(place, at: now, limitSeconds: 10, &random)
            place.host.host.latencyLimitNanoseconds = Self.slowNanoseconds
            let words = "the disks of \(place.host.name) are slow for \((until - now) / 1_000_000) ms"
            return Mishap(words: words, host: place.host)
        }
        let until = begin(place, at: now, limitSeconds: place.concernsHosts ? 10 : 60, &random)
        place.disk.faults.isStuck = true
        return Mishap(words: "\(place.disk.name) hangs for \((until - now) / 1_000_000) ms", host: place.host)
    }

    private mutating func begin(
        _ place: Place,
        at now: UInt64,
        limitSeconds: UInt64,
        _ random: inout RandomSource
    ) -> UInt64 {
        let until = now + 1 + random.below(limitSeconds * 1_000_000_000)
        active.append(Fault(host: place.host, disk: place.disk, until: until))
        nextLift = min(nextLift, until)
        return until
    }

    // MARK: - Going

    /// What has lasted long enough is over; the names of the disks that are well again.
    mutating func lift(at now: UInt64) -> [String] {
        guard now >= nextLift else { return [] }
        return lift { $0.until <= now }
    }

    /// The host has lost its power, or its daemon is stopped: its disks answer again.
    mutating func liftAll(of host: ReplicationHost) { _ = lift { $0.host === host } }

    /// Everything is well again, sectors included.
    mutating func liftAll(_ places: [Place]) {
        _ = lift { _ in true }
        for place in places where place.isElement { place.disk.healSectors() }
    }

    private mutating func lift(_ isMeant: (Fault) -> Bool) -> [String] {
        let over = active.filter(isMeant)
        active.removeAll(where: isMeant)
        for fault in over {
            fault.disk.faults = SimulatedDisk.Faults()
            fault.host.host.latencyLimitNanoseconds = Self.usualNanoseconds
        }
        nextLift = active.reduce(.max) { min($0, $1.until) }
        return over.map(\.disk.name)
    }
}
