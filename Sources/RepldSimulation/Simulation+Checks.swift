internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// Starts, stops, crashes, and what must be true at rest.
extension Simulation {
    private var isHostIdle: Bool { inFlight.allSatisfy { $0 == nil } }

    // MARK: - Starts and stops

    /// Serves the volume and takes its pairs in, as the control plane does at start.
    func attachAll(isFirst: Bool) throws(SimulationFailure) {
        let element = ElementSpec<SimulatedPlatform>(
            handle: SimulatedElement(source),
            geometry: source.geometry,
            name: source.name
        )
        let spec = VolumeSpec<SimulatedPlatform>(id: Self.volumeID, name: "volume", isReadOnly: false, source: element)
        let result = try ask { .addVolume(spec, answer: $0) }
        guard case .success = result else { throw failure("the volume was refused: \(result)") }
        for index in pairs.indices where isFirst || pairs[index].isAttached { try attach(index, isNew: isFirst) }
    }

    func attach(_ index: Int, isNew: Bool) throws(SimulationFailure) {
        if isNew {
            // A new association has a new identity, and a metadata area of its own, as the control plane makes it.
            pairs[index].id = PairID(high: options.seed, low: nextNumber)
            let name = pairs[index].metadata.name
            pairs[index].metadata = SimulatedDisk(name: name, byteCount: PairRecord.areaByteCount)
            nextNumber += 1
        }
        guard let record = isNew ? newRecord(pairs[index].id) : recover(index) else { return }
        let target = ElementSpec<SimulatedPlatform>(
            handle: SimulatedElement(pairs[index].disk),
            geometry: pairs[index].disk.geometry,
            name: pairs[index].disk.name
        )
        let metadata = ElementSpec<SimulatedPlatform>(
            handle: SimulatedElement(pairs[index].metadata),
            geometry: pairs[index].metadata.geometry,
            name: pairs[index].metadata.name
        )
        let spec = PairSpec<SimulatedPlatform>(
            volume: Self.volumeID,
            pair: record.pair,
            name: "pair \(index)",
            target: target,
            metadata: metadata,
            record: record,
            isNew: isNew,
            settings: PairSettings(
                granuleByteCount: options.granuleByteCount,
                targetTimeoutNanoseconds: options.targetTimeoutNanoseconds,
                copyDepth: options.copyDepth,
                copyChunkByteCount: options.copyChunkByteCount
            )
        )
        pairs[index].sequenceAtStart = record.sequence
        note("pair \(index) is taken in, \(isNew ? "new" : "with record \(record.sequence)")")
        let result = try ask { .addPair(spec, answer: $0) }
        guard case .success = result else { throw failure("pair \(index) was refused: \(result)") }
        pairs[index].isAttached = true
    }

    private func newRecord(_ id: PairID) -> PairRecord {
        PairRecord(
            sequence: 0,
            pair: id,
            volumeByteCount: UInt64(options.volumeByteCount),
            copyState: CopyState.initialized.rawValue,
            isClosedCleanly: false
        )
    }

    /// What the metadata area says, read as the control plane reads it.
    ///
    /// A blank area is a pair that never got its first record written: it is new.
    private func recover(_ index: Int) -> PairRecord? {
        let block = PairRecord.blockByteCount
        let first = pairs[index].metadata.bytes(0..<block)
        let second = pairs[index].metadata.bytes(block..<2 * block)
        switch unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes) {
        case .found(let record), .older(let record, _):
            pairs[index].id = record.pair
            return record
        case .blank, .lost:
            return newRecord(pairs[index].id)
        }
    }

    func crash() throws(SimulationFailure) {
        coverage.crashes += 1
        var wasSynchronized: [Bool] = []
        for pair in pairs { wasSynchronized.append(engine.copyState(of: pair.id) == .synchronized) }
        note("crash")
        world.crash(disks: [source] + pairs.map(\.disk) + pairs.map(\.metadata))
        for place in inFlight.indices { inFlight[place] = nil }
        healAll()
        // What a record of this life calls Synchronized must not lack what was acknowledged.
        for index in pairs.indices where pairs[index].isAttached && !pairs[index].hasMetadataFailed {
            guard let record = recover(index), record.sequence > pairs[index].sequenceAtStart else { continue }
            if record.copyState == CopyState.synchronized.rawValue { wasSynchronized[index] = true }
        }
        mailbox = Mailbox()
        engine = Self.makeEngine(world, mailbox, log)
        for sector in 0..<options.volumeByteCount / SimulatedDisk.sectorByteCount {
            let value = try sectorValue(source.sector(sector), "sector \(sector) of the source, after the crash,")
            guard history.survivors(sector).contains(value) else {
                throw failure(
                    "after the crash, source sector \(sector) holds \(value), flushed was \(history.survivors(sector))"
                )
            }
            for (index, pair) in pairs.enumerated() where wasSynchronized[index] {
                let copy = try sectorValue(pair.disk.sector(sector), "sector \(sector) of \(pair.disk.name)")
                guard history.survivors(sector).contains(copy) else {
                    throw failure(
                        "after the crash, \(pair.disk.name) sector \(sector) holds \(copy), older than what was flushed"
                    )
                }
            }
            history.settle(value, sector)
        }
        try attachAll(isFirst: false)
    }

    func restartCleanly() throws(SimulationFailure) {
        // A target may hang while the daemon stops; then what hangs may still happen when the process is gone.
        let stuck = world.random.chance(oneIn: 3) ? pairs.map(\.disk.faults.isStuck) : []
        healAll()
        for (index, isStuck) in stuck.enumerated() { pairs[index].disk.faults.isStuck = isStuck }
        try drainHost()
        note("clean stop")
        let box = AnswerBox<Bool>()
        _ = mailbox.send(.stop { box.value = true })
        var turns = 0
        while engine.turn() {
            engine.checkInvariants()
            turns += 1
            if turns > 100_000 { throw failure("the engine does not stop") }
        }
        guard box.value == true else { throw failure("the engine ended without saying so") }
        world.crash(disks: [source] + pairs.map(\.disk) + pairs.map(\.metadata))
        healAll()
        coverage.cleanRestarts += 1
        mailbox = Mailbox()
        engine = Self.makeEngine(world, mailbox, log)
        for sector in 0..<options.volumeByteCount / SimulatedDisk.sectorByteCount {
            let value = try sectorValue(source.sector(sector), "sector \(sector), after a clean stop,")
            guard history.readable(sector).contains(value) else {
                throw failure(
                    "after a clean stop, source sector \(sector) holds \(value), not \(history.readable(sector))"
                )
            }
            history.settle(value, sector)
        }
        try attachAll(isFirst: false)
        try compareAtRest()
    }

    // MARK: - At rest

    func drainHost() throws(SimulationFailure) {
        for _ in 0..<200_000 {
            if isHostIdle { return }
            try turn()
        }
        throw failure("host requests never end: \(inFlight.compactMap { $0 })")
    }

    func rest() throws(SimulationFailure) {
        // A stuck source would never rest; a stuck target is given up after its time limit.
        try drainHost()
        try compareAtRest()
    }

    /// No host request is in flight: every difference is covered by a dirty bit, and a Synchronized target is equal.
    private func compareAtRest() throws(SimulationFailure) {
        coverage.comparisonsAtRest += 1
        for pair in pairs where pair.isAttached {
            for sector in source.sectors(differingFrom: pair.disk) {
                let extent = Extent(
                    offset: UInt64(sector * SimulatedDisk.sectorByteCount),
                    length: UInt64(SimulatedDisk.sectorByteCount)
                )
                guard engine.isDirty(pair.id, touching: extent) else {
                    throw failure("\(pair.disk.name) differs in sector \(sector), and no dirty bit says so")
                }
                guard engine.copyState(of: pair.id) != .synchronized else {
                    throw failure("\(pair.disk.name) is Synchronized and differs in sector \(sector)")
                }
            }
        }
    }

    /// Everything is healed: all pairs become Synchronized within bounded time, and equal.
    func converge() throws(SimulationFailure) {
        healAll()
        for sector in 0..<options.volumeByteCount / SimulatedDisk.sectorByteCount { source.heal(sector: sector) }
        try drainHost()
        // A pair whose record could not be written refuses writes until its area is well again: start over.
        try restartCleanly()
        for index in pairs.indices where !pairs[index].isAttached { try attach(index, isNew: true) }
        let ids = pairs.map(\.id)
        for id in ids { try start(id) }
        for _ in 0..<200_000 {
            if ids.allSatisfy({ engine.copyState(of: $0) == .synchronized }) { break }
            try turn()
        }
        for pair in pairs {
            guard engine.copyState(of: pair.id) == .synchronized else {
                let state = engine.copyState(of: pair.id)?.name ?? "gone"
                throw failure("\(pair.disk.name) does not become Synchronized in a healthy world: \(state)")
            }
            guard pair.disk.contents == source.contents else {
                throw failure("\(pair.disk.name) is Synchronized and differs from the source")
            }
        }
        guard engine.pool.takenCount == 1 else {
            throw failure("\(engine.pool.takenCount - 1) buffers were not given back")
        }
    }
}
