internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// What must be true at rest, and in the end.
extension Simulation {
    private var isHostIdle: Bool { inFlight.allSatisfy { $0 == nil } }

    func drainHost() throws(SimulationFailure) {
        for _ in 0..<200_000 {
            releaseHosts()
            if isHostIdle { return }
            try turn()
        }
        throw failure("host requests never end: \(inFlight.compactMap { $0 }.map { "\($0.operation) \($0.number)" })")
    }

    func rest() throws(SimulationFailure) {
        // A stuck source would never rest; a stuck target is given up after its time limit.
        try drainHost()
        try compareAtRest()
    }

    /// No host request is in flight: every difference is covered by a dirty bit, and a Synchronized target is equal.
    ///
    /// What a flush of the engine's own has lost is acted upon when all of that flush has ended: not before is it at rest.
    func compareAtRest() throws(SimulationFailure) {
        var turns = 0
        while hasUntoldLoss || engine.isGateClosed(volume: 0) {
            try turn()
            turns += 1
            if turns > 10_000 { return }
        }
        coverage[.comparisonsAtRest] += 1
        for index in pairs.indices where pairs[index].isAttached {
            let id = pairs[index].id
            for sector in primary.sectors(differingFrom: other(index)) {
                guard engine.isDirty(id, touching: Self.extent(sector)) else {
                    throw failure("\(other(index).name) differs in sector \(sector), and no dirty bit says so")
                }
                guard engine.copyState(of: id) != .synchronized else {
                    throw failure("\(other(index).name) is Synchronized and differs in sector \(sector)")
                }
            }
        }
    }

    /// Everything is healed: operations bring all pairs back to Synchronized within bounded time, and they are equal.
    func converge() throws(SimulationFailure) {
        note("everything heals")
        healAll()
        for disk in disks { for sector in 0..<disk.sectorCount { disk.heal(sector: sector) } }
        try drainHost()
        try finishOperations()
        // A pair whose record could not be written refuses writes until its area is well again: start over.
        try restartCleanly()
        for index in pairs.indices where !pairs[index].isAttached { try attach(index, isNew: true) }
        for _ in 0..<20 * pairs.count {
            try finishOperations()
            guard let next = pairs.indices.first(where: { pairs[$0].state != .synchronized }) else { break }
            try lead(next, waits: true)
        }
        try drainHost()
        for index in pairs.indices {
            guard pairs[index].state == .synchronized else {
                let state = pairs[index].state?.name ?? "gone"
                throw failure("\(other(index).name) does not become Synchronized in a healthy world: \(state)")
            }
            guard other(index).contents == primary.contents else {
                throw failure("\(other(index).name) is Synchronized and differs from \(primary.name)")
            }
        }
        guard engine.pool.takenCount == 1 else {
            throw failure("\(engine.pool.takenCount - 1) buffers were not given back")
        }
    }
}
