internal import RepldCore

/// What befalls the hosts of one run between two hosts, besides losses of power, drawn from its seed: of half of the seeds, some
/// kinds off, the others with wild weights.
///
/// All of it is drawn from a generator of its own, so that the other seeds, those among them that have found something, go on as
/// they were.
struct HostFaults {
    /// Longest difference of a host's clock from the rate of the world's, in 1024ths.
    var clockSkewLimit: UInt64 = 0
    /// Each happens once in so many steps; 0 is never.
    var clockLeapOneIn: UInt64 = 0
    var clockSkewOneIn: UInt64 = 0
    var pauseOneIn: UInt64 = 0
    var disks = DiskFaults()
    /// Crashes of which a host comes back as it was on an older day.
    var olderOneIn: UInt64 = 0

    /// With this, none of the seeds that have found something before is among those that have host faults.
    private static var salt: UInt64 { 0xFA01_0006_6934 }

    init(seed: UInt64) {
        var random = RandomSource(seed: seed ^ Self.salt)
        guard random.chance(oneIn: 2) else { return }
        func pick<Value>(_ values: [Value]) -> Value { values[Int(random.below(UInt64(values.count)))] }
        clockSkewLimit = pick([0, 10, 10, 307])
        clockSkewOneIn = pick([0, 0, 100])
        clockLeapOneIn = pick([0, 50, 200])
        pauseOneIn = pick([0, 0, 60, 200])
        disks = DiskFaults(drawnFrom: &random)
        olderOneIn = pick([0, 0, 2])
    }

    /// What the faults of a run are drawn from.
    static func random(seed: UInt64, limits: SimulationLimits) -> RandomSource {
        RandomSource(seed: limits.worldSeed(seed) ^ ~salt)
    }

    var hasClocks: Bool { clockSkewLimit > 0 || clockLeapOneIn > 0 }
}

/// The host faults of one run, as they come.
struct HostFaultInjector {
    let faults: HostFaults
    var random: RandomSource

    private static var second: UInt64 { 1_000_000_000 }

    // MARK: - Clocks

    /// A host comes up, or is about to: its clock shows any number, and has a rate of its own.
    mutating func setClock(of host: ReplicationHost) {
        guard faults.hasClocks else { return }
        host.host.setClockRate(drawRate())
        let reading = random.below(100 * 86400 * Self.second)
        if host.isUp { host.host.leapClock(by: reading) } else { host.host.resetClock(showing: reading) }
    }

    /// Around the rate of the world.
    private mutating func drawRate() -> UInt64 {
        SimulatedClock.unit - faults.clockSkewLimit + random.below(2 * faults.clockSkewLimit + 1)
    }

    /// Perhaps something happens to a clock; what, in words, for a trace.
    mutating func disturbClocks(_ hosts: [ReplicationHost], _ coverage: inout SimulationCoverage) -> String? {
        if random.chance(oneIn: faults.clockLeapOneIn) {
            let host = hosts[Int(random.below(UInt64(hosts.count)))]
            let limits: [UInt64] = [60, 3600, 10 * 3600]
            let seconds = 1 + random.below(limits[Int(random.below(3))])
            host.host.leapClock(by: seconds * Self.second)
            coverage[.clockLeaps] += 1
            return "the clock of \(host.name) leaps forward by \(seconds) s"
        }
        if random.chance(oneIn: faults.clockSkewOneIn) {
            let host = hosts[Int(random.below(UInt64(hosts.count)))]
            let rate = drawRate()
            host.host.setClockRate(rate)
            coverage[.clockSkews] += 1
            return "the clock of \(host.name) goes at \(rate)/\(SimulatedClock.unit) of the world's"
        }
        return nil
    }

    /// Perhaps a host gets no core for some seconds, and how many nanoseconds.
    mutating func pauseOne(
        of hosts: [ReplicationHost],
        _ coverage: inout SimulationCoverage
    ) -> (host: Int, nanoseconds: UInt64)? {
        guard random.chance(oneIn: faults.pauseOneIn) else { return nil }
        let index = Int(random.below(UInt64(hosts.count)))
        let limits: [UInt64] = [1, 10, 40]
        let nanoseconds = 1 + random.below(limits[Int(random.below(3))] * Self.second)
        hosts[index].host.pause(for: nanoseconds)
        coverage[.pauses] += 1
        return (index, nanoseconds)
    }
}
