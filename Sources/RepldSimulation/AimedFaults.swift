internal import RepldCore

/// Faults that come when they hurt most, beside those that come at any time: a crash just after a pair has broken, rot of a bit that
/// is set, control planes that are slow while a pair moves.
///
/// What the engine has to have ready for a crash is often on its way to a disk for two milliseconds only. A third of the seeds aim at
/// such moments. They draw from a generator of their own, so that all other seeds, those among them that have found something, go
/// on as they were.
struct AimedFaults {
    let isOn: Bool
    var random: RandomSource

    init(seed: UInt64, limits: SimulationLimits) {
        var choice = RandomSource(seed: seed ^ Self.salt)
        isOn = choice.chance(oneIn: 3) && !limits.without.contains(.aimedFaults)
        random = RandomSource(seed: limits.worldSeed(seed) ^ ~Self.salt)
    }

    /// With this, none of the seeds that have found something before is among those that aim.
    private static var salt: UInt64 { 0xA1ED_072F }

    static var off: AimedFaults {
        var limits = SimulationLimits()
        limits.without = [.aimedFaults]
        return AimedFaults(seed: 0, limits: limits)
    }

    /// Whether something happens now that happens once in so many such moments.
    mutating func strikes(oneIn: UInt64) -> Bool { isOn && random.chance(oneIn: oneIn) }
}
