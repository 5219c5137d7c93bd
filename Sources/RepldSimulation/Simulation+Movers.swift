internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// The operator and the movers: pauses, caps, floors and the order among pairs.
extension Simulation {
    /// What a pair begins with.
    static func copySettings(_ options: SimulationOptions, ofPair index: Int) -> CopySettings {
        CopySettings(
            capByteRate: options.copyCapByteRate,
            floorByteRate: options.copyFloorByteRate,
            latencyTargetPercent: options.copyLatencyTargetPercent,
            order: options.hasCopyOrder ? UInt16(index) : 0
        )
    }

    /// Pauses a mover or lets it go on, and now and then changes the rest.
    func changeCopySettings() throws(SimulationFailure) {
        let pair = pick()
        pairs[pair].copy.isPaused.toggle()
        if world.random.chance(oneIn: 4) {
            pairs[pair].copy.capByteRate = world.random.chance(oneIn: 2) ? 0 : 1 << 20
            pairs[pair].copy.order = UInt16(world.random.below(3))
        }
        coverage[.copySettings] += 1
        try applyCopySettings(pair)
    }

    /// The operator wants the copies to end.
    func liftPauses() throws(SimulationFailure) {
        for pair in pairs.indices where pairs[pair].copy.isPaused {
            pairs[pair].copy.isPaused = false
            try applyCopySettings(pair)
        }
    }

    private func applyCopySettings(_ pair: Int) throws(SimulationFailure) {
        note("the operator sets pair \(pair)'s mover to \(pairs[pair].copy)")
        guard pairs[pair].isAttached else { return }
        let id = pairs[pair].id
        let settings = pairs[pair].copy
        let result = try ask { .configureCopy(id, settings, answer: $0) }
        guard case .success = result else { throw failure("pair \(pair)'s mover cannot be set: \(result)") }
    }
}
