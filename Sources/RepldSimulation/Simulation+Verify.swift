internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// The operator verifies pairs at any time, and now and then a target rots before that.
extension Simulation {
    /// Asks for a verify of any pair, or cancels the one that runs.
    func verify() throws(SimulationFailure) {
        let pair = pick()
        guard pairs[pair].isAttached else { return }
        let id = pairs[pair].id
        if pairs[pair].isVerifying, world.random.chance(oneIn: 4) {
            note("operator cancels the verify of pair \(pair)")
            _ = try ask { .cancelVerify(id, answer: $0) }
            return
        }
        var extent: Extent?
        if world.random.chance(oneIn: 2) {
            let first = Int(world.random.below(UInt64(primary.sectorCount)))
            let count = 1 + Int(world.random.below(UInt64(primary.sectorCount - first)))
            let size = UInt64(SimulatedDisk.sectorByteCount)
            extent = Extent(offset: UInt64(first) * size, length: UInt64(count) * size)
        }
        try beginVerify(pair, extent)
    }

    private func beginVerify(_ pair: Int, _ extent: Extent?) throws(SimulationFailure) {
        let id = pairs[pair].id
        note("operator asks for a verify of pair \(pair)")
        let box = AnswerBox<Result<Void, EngineRefusal>>()
        guard mailbox.send(.verify(id, extent) { box.value = $0 }) else {
            throw failure("the engine takes no commands")
        }
        // As with an operation: nothing comes between this look and the command.
        try turn()
        let state = engine.copyState(of: id)
        let wasVerifying = pairs[pair].isVerifying
        let begins = state == .synchronized && !wasVerifying
        // It may end in the same turn.
        pairs[pair].isVerifying = begins || wasVerifying
        try turn()
        switch box.value {
        case .success:
            guard begins else {
                throw failure("a verify begins in \(state?.name ?? "nothing")")
            }
        case .failure(.verifyRefused(.state(let found))):
            guard state == found, found != .synchronized else { throw failure("a verify is refused in \(found.name)") }
        case .failure(.verifyRefused(.alreadyRunning)):
            guard wasVerifying else { throw failure("a verify is refused because of one that does not run") }
        case .failure(let refusal):
            throw failure("a verify is refused with \(refusal)")
        case nil:
            throw failure("a verify is not answered")
        }
    }

    /// Every end is of a verify that was begun, and nothing was found but what has rotted.
    func noteVerifies() throws(SimulationFailure) {
        for (id, report, reason) in log.verified {
            guard let index = pairIndex(id) else { continue }
            guard pairs[index].isVerifying else { throw failure("a verify of pair \(index) ends that was not begun") }
            pairs[index].isVerifying = false
            var found: Set<Int> = []
            for range in report.ranges {
                let size = UInt64(SimulatedDisk.sectorByteCount)
                found.formUnion(Int(range.offset / size)..<Int(range.end / size))
            }
            let known = rotten.flatMap { $0.pair == index ? $0.sectors : nil } ?? []
            guard found.isSubset(of: known) else {
                throw failure(
                    "a verify of pair \(index) finds sectors \(found.subtracting(known).sorted()), which are equal"
                )
            }
            guard UInt64(found.count * SimulatedDisk.sectorByteCount) == report.counts.differentByteCount else {
                throw failure(
                    "a verify of pair \(index) counts \(report.counts.differentByteCount) bytes in \(found.count) sectors"
                )
            }
            coverage[.verifyRechecks] += Int(report.counts.recheckCount)
            coverage[.verifyLocks] += Int(report.counts.lockedCount)
            guard reason == nil else {
                coverage[.verifiesEndedEarly] += 1
                continue
            }
            coverage[.verifies] += 1
            // Another pair's may end meanwhile.
            if index == rotten?.pair { lastVerified = found }
            guard report.counts.doneByteCount == report.counts.extent.length else {
                throw failure("a verify of pair \(index) ends after \(report.counts.doneByteCount) bytes")
            }
        }
        log.verified.removeAll()
    }

    // MARK: - Rot

    /// Sectors of a target rot while nothing else is wrong: a verify under load finds exactly those that hosts have not
    /// written since, and ResyncReplica makes them equal again.
    ///
    /// All of it in one step: until the repair, checkers of other faults would not know what the target may hold.
    func rotAndVerify() throws(SimulationFailure) {
        let pair = pick()
        guard pairs[pair].isAttached, isHealthy(pair) else { return }
        try drainHost()
        guard pairs[pair].state == .synchronized, isHealthy(pair) else { return }
        let disk = other(pair)
        for disk in disks { disk.writeBack() }
        var sectors: Set<Int> = []
        for _ in 0...world.random.below(4) {
            let first = Int(world.random.below(UInt64(disk.sectorCount)))
            let count = 1 + Int(world.random.below(6))
            sectors.formUnion(first..<min(first + count, disk.sectorCount))
        }
        for sector in sectors.sorted() {
            disk.rot(at: sector * SimulatedDisk.sectorByteCount + Int(world.random.below(512)))
        }
        note("\(disk.name) rots in sectors \(sectors.sorted())")
        rotten = (pair, sectors)
        let found = try verifyUnderLoad(pair, isBusy: world.random.chance(oneIn: 2))
        try drainHost()
        let differing = primary.sectors(differingFrom: other(pair))
        guard found.isSuperset(of: differing) else {
            throw failure("a verify of pair \(pair) overlooks sectors \(Set(differing).subtracting(found).sorted())")
        }
        try repair(pair, found)
        coverage[.rottenSectors] += found.count
        rotten = nil
    }

    /// Nothing is wrong with the pair, and nothing under way on the volume.
    private func isHealthy(_ pair: Int) -> Bool {
        guard pairs[pair].state == .synchronized, !pairs[pair].isVerifying, !hasUntoldLoss else { return false }
        guard !host.isExaminerStuck else { return false }
        guard !pairs.contains(where: { $0.isAttached && $0.accepted != nil }), !isMetadataInTrouble else {
            return false
        }
        guard !engine.isGateClosed(volume: 0), !primary.isBad(0..<primary.sectorCount) else { return false }
        return [primary, other(pair)].allSatisfy { disk in
            disk.faults.failure == nil && disk.faults.failsOneIn == 0 && !disk.faults.isStuck
                && !disk.faults.failsNextFlush
                && !disk.isBad(0..<disk.sectorCount)
        }
    }

    private func verifyUnderLoad(_ pair: Int, isBusy: Bool) throws(SimulationFailure) -> Set<Int> {
        lastVerified = nil
        try beginVerify(pair, nil)
        var turns = 0
        while lastVerified == nil {
            if isBusy, world.random.chance(oneIn: 2) { submit() } else { try turn() }
            turns += 1
            guard turns < 200_000, pairs[pair].state == .synchronized else {
                throw failure("a verify of pair \(pair) does not end well in a healthy world")
            }
        }
        let found = lastVerified ?? []
        if !isBusy, found != rotten?.sectors {
            throw failure("an undisturbed verify finds sectors \(found.sorted()), and not all that have rotted")
        }
        return found
    }

    /// What was found is marked, a failover would not be lossless, and ResyncReplica makes the two equal.
    private func repair(_ pair: Int, _ found: Set<Int>) throws(SimulationFailure) {
        guard let facts = engine.facts(of: pairs[pair].id) else { throw failure("pair \(pair) is gone") }
        guard found.isEmpty == (facts.verifyMarkedByteCount == 0) else {
            throw failure(
                "\(found.count) sectors were found different, \(facts.verifyMarkedByteCount) bytes are marked"
            )
        }
        if !found.isEmpty {
            for sector in found where !engine.isDirty(pairs[pair].id, touching: Self.extent(sector)) {
                throw failure("sector \(sector) was found different and is not marked")
            }
            guard try !ask(pair, .failover, isForced: false) else {
                throw failure("a target that was found different takes over without force")
            }
            guard try ask(pair, .resyncReplica, isForced: false) else {
                throw failure("ResyncReplica does not repair what a verify has found")
            }
            try finishOperations()
        }
        try drainHost()
        guard pairs[pair].state == .synchronized else {
            throw failure("a repaired pair is \(pairs[pair].state?.name ?? "gone")")
        }
        let left = primary.sectors(differingFrom: other(pair))
        guard left.isEmpty else { throw failure("sectors \(left) still differ after the repair") }
        for disk in disks { disk.writeBack() }
    }
}
