internal import RepldCore
internal import RepldEngine

/// What a seed runs.
package enum SimulationKind: String, CaseIterable, Sendable {
    /// Pairs of one host (`Simulation`).
    case host
    /// A pair between two hosts (`RemoteSimulation`).
    case hosts
    /// A pair that moves between two hosts (`MoveSimulation`).
    case moves
}

/// One sort of what happens to a run besides what hosts ask for: it can be left out.
package enum FaultClass: String, CaseIterable, Sendable {
    /// Losses of power.
    case crashes
    /// Stops in order.
    case restarts
    /// Elements and undo areas that fail what is asked of them.
    case failures
    /// Elements, undo areas and examinations that do not end.
    case hangs
    /// Sectors of a source that cannot be read.
    case badSectors = "bad-sectors"
    /// Metadata areas that fail.
    case metadataFailures = "metadata-failures"
    /// Bytes of metadata that rot while a daemon is down.
    case damage
    /// Faults that come when they hurt most (`AimedFaults`).
    case aimedFaults = "aimed-faults"
    /// Operations that an operator asks for.
    case operations
    /// Verifies, and rot of what they look at.
    case verifies
    /// What an operator sets about the movers.
    case copySettings = "copy-settings"
    /// Undo areas.
    case undos
    /// Comparisons of all copies at rest.
    case rests
    /// Elements that do not know how to zero.
    case lackingZeroes = "lacking-zeroes"
    /// Partitions of the network.
    case partitions
    /// Connections that are cut, or go silent.
    case cuts
    /// Links that are slow, and answers that come late.
    case slowLinks = "slow-links"
    /// Connects that are refused.
    case refusals
    /// Data that is compressed.
    case compression
    /// Times in which nothing goes wrong.
    case calms
    /// Clocks of hosts that leap, and go at rates of their own.
    case clocks
    /// Hosts that come back as they were on an older day.
    case olderHosts = "older-hosts"
    /// Hosts that get no core for a while.
    case pauses
    /// Pairs that move with both hosts' help.
    case moves
    /// Pairs that are taken over without asking.
    case takeovers

    /// Those that runs of a kind have.
    package static func all(of kind: SimulationKind) -> [FaultClass] {
        let ofNetwork: [FaultClass] = [.partitions, .cuts, .slowLinks, .refusals, .compression, .calms]
        let ofHosts: [FaultClass] = [.clocks, .pauses, .failures, .hangs, .badSectors, .metadataFailures]
        switch kind {
        case .host:
            return [
                .aimedFaults, .crashes, .restarts, .failures, .hangs, .badSectors, .metadataFailures, .damage,
                .operations, .verifies,
                .copySettings, .undos, .rests, .lackingZeroes,
            ]
        case .hosts: return [.aimedFaults, .crashes, .restarts, .operations, .rests, .olderHosts] + ofHosts + ofNetwork
        case .moves:
            return [.aimedFaults, .crashes, .restarts, .operations, .rests] + ofHosts + ofNetwork + [
                .moves, .takeovers,
            ]
        }
    }
}

/// What a run is kept from, beside what its seed draws: so a failing run becomes one that a person can follow.
///
/// A run with limits is another run than the seed's own from the first moment on in which they matter. It may fail all the same,
/// or with other `dice`.
package struct SimulationLimits: Sendable, Hashable {
    /// Steps at most, before everything heals.
    package var stepCount: Int?
    /// Requests of hosts in flight at most.
    package var depth: Int?
    package var volumeByteCount: Int?
    package var pairCount: Int?
    package var without: Set<FaultClass> = []
    /// Another course of things with the same options; 0 is the seed's own.
    package var dice: UInt64 = 0

    package init() {}

    /// What the world of a seed draws its chances from.
    func worldSeed(_ seed: UInt64) -> UInt64 { seed ^ dice &* 0x9E37_79B9_7F4A_7C15 }

    /// As they are written on the command line.
    package var arguments: [String] {
        var words: [String] = []
        func add(_ name: String, _ value: Int?) { if let value { words += [name, "\(value)"] } }
        add("--steps", stepCount)
        add("--depth", depth)
        add("--volume-size", volumeByteCount)
        add("--pairs", pairCount)
        if dice != 0 { words += ["--dice", "\(dice)"] }
        if !without.isEmpty { words += ["--without"] + without.map(\.rawValue).sorted() }
        return words
    }
}

extension SimulationOptions {
    /// The options of a seed, as far as the limits let them.
    package init(seed: UInt64, limits: SimulationLimits) {
        self.init(seed: seed)
        worldSeed = limits.worldSeed(seed)
        aimed = AimedFaults(seed: seed, limits: limits)
        stepCount = min(stepCount, limits.stepCount ?? .max)
        depth = min(depth, limits.depth ?? .max)
        volumeByteCount = min(volumeByteCount, limits.volumeByteCount ?? .max)
        pairCount = min(pairCount, limits.pairCount ?? .max)
        for left in limits.without { leave(left) }
    }

    private mutating func leave(_ left: FaultClass) {
        switch left {
        case .crashes: (crashOneIn, crashAfterOperationOneIn, crashesWhereItHurts) = (0, 0, false)
        case .restarts: restartOneIn = 0
        case .failures: (targetFailureOneIn, sourceFlakyOneIn, undoFailureOneIn) = (0, 0, 0)
        case .hangs:
            (targetStuckOneIn, sourceStuckOneIn, stuckFailoverOneIn) = (0, 0, 0)
            (undoStuckOneIn, examinerStuckOneIn) = (0, 0)
        case .badSectors: sourceBadSectorOneIn = 0
        case .metadataFailures: metadataFailureOneIn = 0
        case .damage: damagedBlockOneIn = 0
        case .operations: operatorOneIn = 0
        case .verifies: (verifyOneIn, rotOneIn) = (0, 0)
        case .copySettings:
            (pauseOneIn, copyCapByteRate, copyFloorByteRate) = (0, 0, nil)
            (copyLatencyTargetPercent, hasCopyOrder) = (10_000, false)
        case .undos: keepsUndo = false
        case .rests: restOneIn = 0
        case .lackingZeroes: (targetLacksZeroing, sourceLacksZeroing) = (false, false)
        case .aimedFaults, .partitions, .cuts, .slowLinks, .refusals, .compression, .calms, .moves, .takeovers, .clocks,
            .pauses, .olderHosts:
            break
        }
    }
}

extension RemoteOptions {
    /// The options of a seed, as far as the limits let them.
    init(seed: UInt64, limits: SimulationLimits) {
        self.init(seed: seed)
        stepCount = min(stepCount, limits.stepCount ?? .max)
        depth = min(depth, limits.depth ?? .max)
        volumeByteCount = min(volumeByteCount, limits.volumeByteCount ?? .max)
        for left in limits.without { leave(left) }
    }

    private mutating func leave(_ left: FaultClass) {
        switch left {
        case .crashes: (sourceCrashOneIn, targetCrashOneIn) = (0, 0)
        case .restarts: restartOneIn = 0
        case .operations: operatorOneIn = 0
        case .rests: restOneIn = 0
        case .calms: calmOneIn = 0
        case .compression: compression = .off
        case .partitions: network.partitionOneIn = 0
        case .cuts: (network.cutOneIn, network.muteOneIn) = (0, 0)
        case .slowLinks: (network.slowLinkOneIn, network.answerDelayLimitNanoseconds) = (0, 0)
        case .refusals: network.refusalOneIn = 0
        case .clocks: (hosts.clockSkewLimit, hosts.clockSkewOneIn, hosts.clockLeapOneIn) = (0, 0, 0)
        case .pauses: hosts.pauseOneIn = 0
        case .olderHosts: hosts.olderOneIn = 0
        case .failures: hosts.disks.failureOneIn = 0
        case .hangs: hosts.disks.hangOneIn = 0
        case .badSectors: hosts.disks.badSectorOneIn = 0
        case .metadataFailures: hosts.disks.metadataFailureOneIn = 0
        case .aimedFaults, .damage, .verifies, .copySettings, .undos,
            .lackingZeroes, .moves, .takeovers:
            break
        }
    }
}

extension MoveOptions {
    /// The options of a seed, as far as the limits let them.
    init(seed: UInt64, limits: SimulationLimits) {
        self.init(seed: seed)
        var aimed = AimedFaults(seed: seed, limits: limits)
        // Connections come and go between two steps.
        if aimed.isOn { stepDelayLimitNanoseconds = 1_000_000_000 << aimed.random.below(5) }
        if limits.without.contains(.moves) { moveOneIn = 0 }
        if limits.without.contains(.takeovers) { takeOverOneIn = 0 }
        if limits.pairCount ?? 2 < 2 { hasSecondPair = false }
    }
}
