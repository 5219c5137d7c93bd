internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// Crashes, rest, and what must be true then.
extension RemoteSimulation {
    var state: CopyState? { source.engine?.copyState(of: Self.pair) }

    // MARK: - Crashes

    func crashSource() throws(SimulationFailure) {
        turnsToCrash = nil
        guard source.isUp else { return }
        coverage[.sourceHostCrashes] += 1
        source.crash()
        diskFaults.liftAll(of: source)
        let isHalfRestored = restore.stage != .none
        let isOlder = putBackSource()
        if !isHalfRestored, !isOlder { try settleSource(after: "a crash of the source") { $0.survivors($1) } }
        try pass(random.below(3_000_000_000))
        try startSource(isNew: false)
        if isHalfRestored {
            try settleRestore(after: "a crash of the source") { $0.survivors($1) }
        } else {
            takeUpRestore()
        }
        try checkCovered("after a crash of the source")
    }

    func crashTarget() throws(SimulationFailure) {
        guard target.isUp else { return }
        coverage[.targetHostCrashes] += 1
        target.crash()
        diskFaults.liftAll(of: target)
        putBackTarget()
        // Of what it had not flushed any part may be gone, as of every disk; an asynchronous target flushes each epoch.
        if !options.isAsynchronous { hasLostPower = true }
        try pass(random.below(8_000_000_000))
        try startTarget()
    }

    /// One of the daemons is stopped in order, and started.
    func restartOne() throws(SimulationFailure) {
        if random.chance(oneIn: 2) {
            try drainHosts()
            diskFaults.liftAll(of: source)
            note("clean stop of the source")
            guard replication.stop(source) else { throw failure("the source's engine does not stop") }
            coverage[.cleanRestarts] += 1
            let isHalfRestored = restore.stage != .none
            if !isHalfRestored { try settleSource(after: "a clean stop of the source") { $0.readable($1) } }
            try pass(random.below(3_000_000_000))
            try startSource(isNew: false)
            if isHalfRestored {
                try settleRestore(after: "a clean stop of the source") { $0.readable($1) }
            } else {
                takeUpRestore()
            }
        } else {
            diskFaults.liftAll(of: target)
            note("clean stop of the target")
            guard replication.stop(target) else { throw failure("the target's engine does not stop") }
            coverage[.cleanRestarts] += 1
            try pass(random.below(3_000_000_000))
            try startTarget()
        }
    }

    /// The source holds what it may hold; from here on that is the past.
    func settleSource(
        after event: String,
        _ allowed: (WriteHistory, Int) -> [UInt64]
    ) throws(SimulationFailure) {
        // The target has an image of the past that ends here, until it has been copied to.
        formerOrder = formerOrder ?? workload.order
        if let flaw = workload.settle(on: sourceDisk, after: event, allowed) { throw failure(flaw) }
    }

    /// Time passes, with whatever happens meanwhile.
    private func pass(_ nanoseconds: UInt64) throws(SimulationFailure) {
        let end = replication.world.now + nanoseconds
        for _ in 0..<2000 where replication.world.now < end && replication.hosts.contains(where: \.isUp) { try turn() }
    }

    // MARK: - The image

    /// The target's last record counts on what it keeps.
    var isKept: Bool { replicaMetadata.pairRecord?.hasUndo ?? false }

    /// While nothing is copied to it, a target that was equal once is an image of the source's past.
    func checkImage() throws(SimulationFailure) {
        try checkKeptImage()
        // An older source says of its target what was true once.
        guard older != .source else { return }
        guard source.isUp, let facts = source.engine?.facts(of: Self.pair) else { return }
        guard !hasLostPower, facts.isTargetConsistent, facts.copyState != .unsynchronized else { return }
        coverage[facts.copyState == .synchronized ? .imagesChecked : .formerImagesChecked] += 1
        let values = targetDisk.words
        if let flaw = (formerOrder ?? workload.order).flaw(in: values) {
            throw failure("the target is no image of the past in \(facts.copyState.name): \(flaw)")
        }
    }

    /// While something is copied to it, what it held before can be had back: an image of the source's past.
    private func checkKeptImage() throws(SimulationFailure) {
        guard let record = replicaMetadata.pairRecord, record.hasUndo, !hasLostPower, !hasKeptLoss else { return }
        guard let undo = options.findUndo(undoArea, record) else {
            throw failure("the target's record counts on an undo that is not there")
        }
        var values = targetDisk.words
        let kept = undoArea.words.dropFirst(Int(options.undoLayout.headByteCount) / SimulatedDisk.sectorByteCount)
        let granule = Int(options.settings.granuleByteCount) / SimulatedDisk.sectorByteCount
        for sector in values.indices where undo.saved[sector / granule / 64] >> UInt64(sector / granule % 64) & 1 == 1 {
            values[sector] = kept[kept.startIndex + sector]
        }
        coverage[.keptImagesChecked] += 1
        if let flaw = (keptOrder ?? formerOrder ?? workload.order).flaw(in: values) {
            throw failure("what the target held before the copy is no image of the past: \(flaw)")
        }
    }

    // MARK: - Rest

    func drainHosts() throws(SimulationFailure) {
        for _ in 0..<100_000 where !workload.waiting.isEmpty { try turn() }
        if !workload.waiting.isEmpty { throw failure("host requests do not end") }
    }

    func rest() throws(SimulationFailure) {
        guard source.isUp else { return }
        try drainHosts()
        try checkCovered("at rest")
    }

    /// What differs is covered by a dirty bit, or by what is still on its way to an asynchronous target.
    private func checkCovered(_ event: String) throws(SimulationFailure) {
        guard source.isUp, target.isUp, source.engine?.hasBacklog(Self.pair) == false else { return }
        coverage[.comparisonsAtRest] += 1
        try checkExposure(event)
        // What an older source does not know of it does not cover before it has met its peer.
        guard older == nil else { return }
        // A target that has lost what it had not flushed is not known to before the link is lost.
        let isKnown = state != .synchronized && state != .unsynchronized
        for sector in sourceDisk.sectors(differingFrom: targetDisk) where isKnown {
            let extent = Simulation.extent(sector)
            guard source.engine?.isDirty(Self.pair, touching: extent) == true else {
                throw failure(
                    "\(event) sector \(sector) differs in \(state?.name ?? "no state"), and no dirty bit says so"
                )
            }
        }
    }

    /// A pair that is in step is not exposed, and one that has been is so since some time of this run.
    private func checkExposure(_ event: String) throws(SimulationFailure) {
        let exposure = source.engine?.exposureNanoseconds(of: Self.pair)
        if state == .synchronized, exposure != 0 {
            throw failure("\(event) the pair is in step, and its exposure is \(exposure.map(String.init) ?? "unknown")")
        }
        if let exposure, exposure > source.host.clockReading {
            throw failure("\(event) the exposure of \(exposure) ns is older than the clock")
        }
    }

    /// Asks for whatever leads the pair on towards Synchronized.
    private func leadOn() throws(SimulationFailure) {
        let facts = source.engine?.facts(of: Self.pair)
        if facts?.copyState == .invalid {
            return try operate(random.chance(oneIn: 2) ? .restoreFromReplica : .resyncReplica, isForced: true)
        }
        // What is half restored, and does not go on by itself, goes on by force: one way or the other.
        if facts?.isSourceInconsistent == true, facts?.operation == nil {
            return try operate(random.chance(oneIn: 2) ? .restoreFromReplica : .resyncReplica, isForced: true)
        }
        for operation in [ReplicationOperation.activate, .resume, .resyncReplica] { try operate(operation) }
    }

    /// For a while nothing goes wrong: the pair gets to Synchronized, with hosts at work, and the next storm finds it there.
    func calm() throws(SimulationFailure) {
        note("calm")
        replication.healNetwork()
        healDisks()
        if !target.isUp { try startTarget() }
        if !source.isUp { try startSource(isNew: false) }
        let end = replication.world.now + 60_000_000_000
        var nextTry = replication.world.now
        while state != .synchronized, replication.world.now < end {
            if replication.world.now >= nextTry {
                nextTry = replication.world.now + 10_000_000_000
                try leadOn()
            }
            if random.chance(oneIn: 8) { submit() }
            try turn()
        }
        for _ in 0..<random.below(100) {
            if random.chance(oneIn: 2) { submit() }
            try turn()
        }
        if state == .synchronized { coverage[.synchronizations] += 1 }
        replication.faults = options.network
    }

    /// The world heals, and the pair becomes Synchronized and equal.
    func converge() throws(SimulationFailure) {
        note("everything heals")
        replication.healNetwork()
        healDisks()
        if !target.isUp { try startTarget() }
        if !source.isUp { try startSource(isNew: false) }
        try drainHosts()
        let end = replication.world.now + 600_000_000_000
        var nextTry = replication.world.now
        while state != .synchronized || source.engine?.hasBacklog(Self.pair) != false {
            try turn()
            if replication.world.now >= nextTry {
                nextTry = replication.world.now + 20_000_000_000
                if state != .synchronized { try leadOn() }
            }
            if replication.world.now > end {
                throw failure("the pair is \(state?.name ?? "gone") in a healthy world: \(reason)")
            }
        }
        try flush()
        let differing = sourceDisk.sectors(differingFrom: targetDisk)
        try checkExposure("in the end")
        guard differing.isEmpty else { throw failure("Synchronized, and sectors \(differing.prefix(8)) differ") }
        coverage[.synchronizations] += 1
        for host in replication.hosts {
            guard host.takenBufferCount == 1 else {
                throw failure("buffers of the \(host.name) were not given back")
            }
        }
        try checkImage()
        for host in replication.hosts {
            guard replication.stop(host) else { throw failure("the \(host.name)'s engine does not stop") }
        }
    }

    var reason: String {
        source.events.last { $0.pair == Self.pair }.map { "\($0.kind)" } ?? "nothing was told"
    }

    private func flush() throws(SimulationFailure) {
        try drainHosts()
        for _ in 0..<2000 { try turn() }
    }
}
