internal import RepldCore
internal import RepldFormat

/// How one run of the simulator behaves, drawn from its seed: some kinds of faults off, the others with wild weights.
package struct SimulationOptions: Sendable {
    package var seed: UInt64
    /// What the chances of the run are drawn from: the seed, unless limits give it other dice.
    var worldSeed: UInt64
    /// What aimed faults the run begins with, and whether crashes are among them.
    var aimed: AimedFaults
    var crashesWhereItHurts = true
    package var volumeByteCount: Int
    package var stepCount: Int
    package var depth: Int
    package var granuleByteCount: UInt32
    package var copyDepth: UInt8
    package var copyChunkByteCount: UInt32
    package var targetTimeoutNanoseconds: UInt64
    /// Each happens once in so many steps; 0 is never.
    package var crashOneIn: UInt64
    package var restartOneIn: UInt64
    package var targetFailureOneIn: UInt64
    package var targetStuckOneIn: UInt64
    package var sourceStuckOneIn: UInt64
    package var stuckFailoverOneIn: UInt64
    package var damagedBlockOneIn: UInt64
    package var sourceBadSectorOneIn: UInt64
    package var sourceFlakyOneIn: UInt64
    package var metadataFailureOneIn: UInt64
    package var operatorOneIn: UInt64
    package var restOneIn: UInt64
    package var targetLacksZeroing: Bool
    package var sourceLacksZeroing: Bool
    package var pairCount: Int
    package var logExtentByteCount: UInt32
    package var logExtentCount: UInt16
    /// What the operator sets about the movers, and how often he changes his mind; order numbers are drawn for each pair.
    package var copyCapByteRate: UInt64
    package var copyFloorByteRate: UInt64?
    package var copyLatencyTargetPercent: UInt16
    package var hasCopyOrder: Bool
    package var pauseOneIn: UInt64
    package var verifyOneIn: UInt64
    package var rotOneIn: UInt64
    package var keepsUndo: Bool
    package var undoFailureOneIn: UInt64
    package var undoStuckOneIn: UInt64
    /// Longest time of one examination of what a mover or a verify has read; 0 where it is over with the next turn.
    package var examinationLimitNanoseconds: UInt64
    package var examinerStuckOneIn: UInt64
    /// Operations that a crash follows within a few turns: what they change of the maps is on its way then.
    package var crashAfterOperationOneIn: UInt64

    /// Draws the options of a seed.
    package init(seed: UInt64) {
        var random = RandomSource(seed: seed ^ 0x5EED_0F0D_D500)
        func pick<Value>(_ values: [Value]) -> Value { values[Int(random.below(UInt64(values.count)))] }
        self.seed = seed
        worldSeed = seed
        aimed = AimedFaults(seed: seed, limits: SimulationLimits())
        volumeByteCount = pick([64 << 10, 256 << 10, 1 << 20])
        stepCount = pick([300, 500, 1000])
        depth = pick([1, 4, 16, 40, 256])
        granuleByteCount = pick([4096, 16384, 65536])
        copyDepth = pick([1, 2, 4, 16])
        copyChunkByteCount = max(granuleByteCount, pick([4096, 65536]))
        targetTimeoutNanoseconds = pick([2_000_000_000, 30_000_000_000])
        crashOneIn = pick([0, 50, 200, 500])
        restartOneIn = pick([0, 200, 500])
        targetFailureOneIn = pick([0, 0, 50, 200])
        targetStuckOneIn = pick([0, 0, 100])
        sourceBadSectorOneIn = pick([0, 0, 20])
        sourceFlakyOneIn = pick([0, 0, 0, 200])
        metadataFailureOneIn = pick([0, 0, 0, 100])
        operatorOneIn = pick([8, 20, 50])
        restOneIn = pick([20, 100])
        sourceStuckOneIn = pick([0, 0, 200])
        stuckFailoverOneIn = pick([0, 100])
        damagedBlockOneIn = pick([0, 3])
        targetLacksZeroing = random.chance(oneIn: 4)
        sourceLacksZeroing = random.chance(oneIn: 4)
        pairCount = pick([1, 1, 2, 3])
        logExtentByteCount = max(granuleByteCount, pick([16384, 65536]))
        // The largest requests, of 64 KiB, touch up to five extents.
        logExtentCount = pick([6, 8, 16, 1024])
        copyCapByteRate = pick([0, 0, 256 << 10, 4 << 20])
        copyFloorByteRate = pick([nil, 64 << 10, 1 << 20])
        copyLatencyTargetPercent = pick([105, 125, 10_000])
        hasCopyOrder = random.chance(oneIn: 2)
        pauseOneIn = pick([0, 0, 40, 150])
        verifyOneIn = pick([0, 10, 50])
        rotOneIn = pick([0, 50, 200])
        keepsUndo = random.chance(oneIn: 2)
        undoFailureOneIn = pick([0, 0, 100])
        undoStuckOneIn = pick([0, 0, 200])
        examinationLimitNanoseconds = pick([0, 100_000, 2_000_000, 50_000_000])
        examinerStuckOneIn = pick([0, 0, 100])
        crashAfterOperationOneIn = pick([0, 0, 4])
    }

    /// Where things are in the metadata areas.
    var layout: MetadataLayout {
        MetadataLayout(volumeByteCount: UInt64(volumeByteCount), granuleByteCount: UInt64(granuleByteCount))
    }
}
