internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// Starts, stops and crashes, as the control plane goes through them.
extension Simulation {
    /// Serves the volume and takes its pairs in: the records say which element serves hosts.
    func attachAll(isFirst: Bool) throws(SimulationFailure) {
        let records = pairs.indices.map { !isFirst && pairs[$0].isAttached ? recoverAll($0) : nil }
        let element = ElementSpec<SimulatedPlatform>(
            handle: SimulatedElement(primary),
            geometry: primary.geometry,
            name: primary.name
        )
        let spec = VolumeSpec<SimulatedPlatform>(id: Self.volumeID, name: "volume", isReadOnly: false, source: element)
        let result = try ask { .addVolume(spec, answer: $0) }
        guard case .success = result else { throw failure("the volume was refused: \(result)") }
        for index in pairs.indices {
            if isFirst {
                try attach(index, isNew: true)
            } else if let (record, maps) = records[index] {
                try add(index, record, maps, isNew: false)
                try checkRestarted(index)
            }
        }
    }

    /// Makes a new association.
    func attach(_ index: Int, isNew: Bool) throws(SimulationFailure) {
        // It has a new identity, and a metadata area of its own, as the control plane makes it.
        pairs[index].forget()
        pairs[index].id = PairID(high: options.seed, low: nextNumber)
        let name = pairs[index].metadata.name
        pairs[index].metadata = SimulatedDisk(name: name, byteCount: Int(options.layout.areaByteCount))
        pairs[index].undoArea = Self.undoArea(options, ofPair: index)
        nextNumber += 1
        try add(index, newRecord(pairs[index].id), .unknown(because: nil), isNew: isNew)
    }

    private func add(
        _ index: Int,
        _ record: PairRecord,
        _ maps: RecoveredMaps,
        isNew: Bool
    ) throws(SimulationFailure) {
        let target = ElementSpec<SimulatedPlatform>(
            handle: SimulatedElement(other(index)),
            geometry: other(index).geometry,
            name: other(index).name
        )
        let metadata = ElementSpec<SimulatedPlatform>(
            handle: SimulatedElement(pairs[index].metadata),
            geometry: pairs[index].metadata.geometry,
            name: pairs[index].metadata.name
        )
        let undoArea = pairs[index].undoArea.map {
            ElementSpec<SimulatedPlatform>(handle: SimulatedElement($0), geometry: $0.geometry, name: $0.name)
        }
        let spec = PairSpec<SimulatedPlatform>(
            volume: Self.volumeID,
            pair: record.pair,
            name: "pair \(index)",
            target: .local(target),
            metadata: metadata,
            record: record,
            maps: maps,
            isNew: isNew,
            settings: PairSettings(
                granuleByteCount: options.granuleByteCount,
                targetTimeoutNanoseconds: options.targetTimeoutNanoseconds,
                copyDepth: options.copyDepth,
                copyChunkByteCount: options.copyChunkByteCount,
                logExtentByteCount: options.logExtentByteCount,
                logExtentCount: options.logExtentCount,
                keepsUndo: options.keepsUndo,
                copy: pairs[index].copy
            ),
            undoArea: undoArea,
            undo: recoverUndo(index, record)
        )
        pairs[index].sequenceAtStart = record.sequence
        pairs[index].isVerifying = false
        pairs[index].state = nil
        // An undo that is taken up is of the image that it began with, not of what the target holds now.
        pairs[index].hasUndo = record.hasUndo && spec.undo != nil
        note("pair \(index) is taken in, \(isNew ? "new" : "with record \(record)")")
        pairs[index].isAttached = true
        let box = AnswerBox<Result<Void, EngineRefusal>>()
        guard mailbox.send(.addPair(spec) { box.value = $0 }) else { throw failure("the engine takes no commands") }
        try turn()
        try turn()
        guard case .success = box.value else { throw failure("pair \(index) was refused") }
        try checkUndoAfterStart(index, record)
        if let operation = engine.facts(of: record.pair)?.operation {
            // What was under way goes on.
            let state = CopyState(rawValue: record.copyState) ?? .initialized
            pairs[index].accepted = AcceptedOperation(operation: operation, from: state, acceptedAt: world.now)
        }
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
    private func recover(_ index: Int) -> PairRecord {
        let block = PairRecord.blockByteCount
        let first = pairs[index].metadata.bytes(0..<block)
        let second = pairs[index].metadata.bytes(block..<2 * block)
        switch unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes) {
        case .found(let record), .older(let record, _): return record
        case .blank, .lost: return newRecord(pairs[index].id)
        }
    }

    /// The record, and what the bitmaps and the activity log behind it say.
    private func recoverAll(_ index: Int) -> (PairRecord, RecoveredMaps) {
        let record = recover(index)
        let area = pairs[index].metadata.bytes(0..<pairs[index].metadata.byteCount)
        let granule = UInt64(options.granuleByteCount)
        let maps = unsafe RecoveredMaps.read(area.span.bytes, record, granuleByteCount: granule)
        coverage.recovered(maps, record)
        note("the maps of pair \(index): \(maps.trust), \(maps.active.count) active, \(maps.distrust ?? "whole")")
        return (record, maps)
    }

    /// A pair goes on as it was recorded: its target is not taken from its hosts, and is usable if it says so.
    private func checkRestarted(_ index: Int) throws(SimulationFailure) {
        guard let state = engine.copyState(of: pairs[index].id) else { throw failure("pair \(index) is gone") }
        if pairs[index].isTargetWritten, state != .fractured, state != .split {
            throw failure("hosts have written on the target of pair \(index), which starts as \(state.name)")
        }
        guard state != .unsynchronized, state != .synchronized else {
            // A copy that would have taken the image away never got as far as being recorded.
            let isUsable = engine.facts(of: pairs[index].id)?.isTargetConsistent ?? false
            if isUsable, pairs[index].imageInFlow == nil, let saved = pairs[index].imageBeforeFlow {
                if other(index).writeCount == saved.writeCount { pairs[index].imageInFlow = saved.image }
            }
            pairs[index].image = nil
            return
        }
        if let saved = pairs[index].imageBeforeFlow, pairs[index].image == nil {
            if other(index).writeCount == saved.writeCount { pairs[index].image = saved.image }
        }
        if pairs[index].image == nil { pairs[index].image = pairs[index].imageInFlow }
        let isMisplaced = pairs[index].isSecondPrimary != pairs[index].isSecondSource
        if !isMisplaced { try checkImage(index) }
    }

    // MARK: - Crashes

    func crash() throws(SimulationFailure) {
        coverage[.crashes] += 1
        if pairs.contains(where: { $0.isAttached && $0.accepted != nil }) { coverage[.crashesInGate] += 1 }
        note("crash")
        crashAtTurn = nil
        host.crash(disks: allDisks)
        for place in inFlight.indices { inFlight[place] = nil }
        healAll()
        metadataTroubleUntil = 0
        damageMetadata()
        var wasSynchronized = pairs.map { $0.isAttached && $0.state == .synchronized }
        // What a record of this life calls Synchronized must not lack what was acknowledged.
        for index in pairs.indices where pairs[index].isAttached && !pairs[index].hasMetadataFailed {
            // Of two blocks, one of which is damaged, the other one may be older than what the pair became.
            let record = recover(index)
            guard !blocks(index).contains(nil), record.sequence > pairs[index].sequenceAtStart else { continue }
            let isInPlace = record.isSecondPrimary == pairs[index].isSecondPrimary
            let isTheirs = pairs[index].targetHistory != nil || pairs[index].state == .split
            if record.copyState == CopyState.synchronized.rawValue, isInPlace, !isTheirs {
                wasSynchronized[index] = true
            }
        }
        mailbox = Mailbox()
        engine = Self.makeEngine(host, mailbox, log)
        try choosePrimary()
        keepImages(wasSynchronized)
        try checkHistories(after: "the crash", wasSynchronized) { $0.survivors($1) }
        try attachAll(isFirst: false)
        try checkCovered()
    }

    /// What a crash has left different, the maps and the activity log know.
    private func checkCovered() throws(SimulationFailure) {
        for index in pairs.indices where pairs[index].isAttached {
            for sector in primary.sectors(differingFrom: other(index)) {
                guard !engine.isDirty(pairs[index].id, touching: Self.extent(sector)) else { continue }
                throw failure("after the crash sector \(sector) of pair \(index) differs, and no dirty bit says so")
            }
        }
    }

    /// Bits rot while the daemon is down: in one block of one pair.
    private func damageMetadata() {
        guard world.random.chance(oneIn: options.damagedBlockOneIn) else { return }
        let pair = pick()
        let limit = world.random.chance(oneIn: 2) ? PairRecord.areaByteCount : pairs[pair].metadata.byteCount
        var offset = Int(world.random.below(UInt64(limit)))
        var bits: UInt8 = 0x40
        if let aim = aimAtMetadata(pair, isRecord: offset < PairRecord.areaByteCount) { (offset, bits) = aim }
        // While only one block knows of a move of the primary, no write of a host has been answered since; without that
        // block the move is taken back, and what hosts may find then was forgotten here at the crash before.
        let places = blocks(pair).map { $0?.isSecondPrimary }
        if offset < PairRecord.areaByteCount, places[0] != places[1] { return }
        coverage[.damagedBlocks] += 1
        note("byte \(offset) of \(pairs[pair].metadata.name) rots")
        pairs[pair].metadata.rot(at: offset, flipping: bits)
        damageUndo(pair)
    }

    /// A bit that says something, of the newer of the two records or of the bitmap pages; `nil` where the run does not aim, or nothing
    /// is there to be hit.
    private func aimAtMetadata(_ pair: Int, isRecord: Bool) -> (offset: Int, bits: UInt8)? {
        guard aimed.strikes(oneIn: 2) else { return nil }
        if isRecord {
            let newer = recover(pair).areaOffset
            // Closed cleanly, served by the second element, a usable image.
            let flags: [UInt8] = [1, 4, 8]
            return (Int(newer) + 49, flags[Int(aimed.random.below(3))])
        }
        let pages = Int(MetadataLayout.pageOffset(0))..<pairs[pair].metadata.byteCount
        let sector = SimulatedDisk.sectorByteCount
        // Behind the head of each sector there is a bit for each granule.
        let set = zip(pages, pairs[pair].metadata.bytes(pages)).filter { ($0.0 % sector) >= 16 && $0.1 != 0 }
        guard !set.isEmpty else { return nil }
        let (offset, byte) = set[Int(aimed.random.below(UInt64(set.count)))]
        return (offset, byte & (~byte &+ 1))
    }

    /// The records choose the element that serves hosts: the one that did, unless its move there was not durable.
    private func choosePrimary() throws(SimulationFailure) {
        for index in pairs.indices where pairs[index].isAttached {
            let record = recover(index)
            pairs[index].accepted = nil
            if record.isSecondPrimary != pairs[index].isSecondPrimary {
                guard let undo = pairs[index].undo else {
                    throw failure("the records of pair \(index) choose the element that did not serve hosts")
                }
                note("the move of the primary of pair \(index) was not durable")
                coverage[.movesTakenBack] += 1
                history = undo.history
                pairs[index].targetHistory = undo.targetHistory
                pairs[index].image = undo.image
                pairs[index].imageInFlow = undo.imageInFlow
                pairs[index].isSecondPrimary = undo.isSecondPrimary
                let wasInSync = undo.image == nil && record.copyState == CopyState.synchronized.rawValue
                if wasInSync { pairs[index].imageInFlow = undo.history }
            }
            let isOwn = record.copyState == CopyState.fractured.rawValue || record.copyState == CopyState.split.rawValue
            if pairs[index].targetHistory == nil, isOwn { pairs[index].targetHistory = pairs[index].ownBeforeFlow }
            pairs[index].ownBeforeFlow = nil
            pairs[index].isSecondSource = record.isSecondSource
            pairs[index].undo = nil
        }
        let chosen = pairs.filter { $0.isAttached && $0.isSecondPrimary }
        guard chosen.count < 2 else { throw failure("two pairs say that hosts are served by their second elements") }
    }

    /// What a target that was usable may hold while it is copied to after the start.
    private func keepImages(_ wasSynchronized: [Bool]) {
        for index in pairs.indices where pairs[index].isAttached {
            guard var image = pairs[index].imageInFlow ?? pairs[index].image ?? (wasSynchronized[index] ? history : nil)
            else { continue }
            image.widen(by: history)
            pairs[index].imageInFlow = image
        }
    }

    /// Every image holds what it may hold; from here on that is the past.
    private func checkHistories(
        after event: String,
        _ isSynchronized: [Bool],
        _ allowed: (WriteHistory, Int) -> [UInt64]
    ) throws(SimulationFailure) {
        for sector in 0..<primary.sectorCount {
            let value = try sectorValue(primary.sector(sector), "sector \(sector) of \(primary.name), after \(event),")
            guard allowed(history, sector).contains(value) else {
                throw failure(
                    "after \(event), \(primary.name) sector \(sector) holds \(value), not \(allowed(history, sector))"
                )
            }
            for index in pairs.indices where pairs[index].isAttached {
                let copy = try sectorValue(other(index).sector(sector), "sector \(sector) of \(other(index).name)")
                if isSynchronized[index], !allowed(history, sector).contains(copy) {
                    throw failure(
                        "after \(event), \(other(index).name) sector \(sector) holds \(copy), older than what was flushed"
                    )
                }
                guard let own = pairs[index].targetHistory else { continue }
                // What its hosts have not written is what it was found to be, flushed or not.
                let ownAllowed = pairs[index].isTargetWritten ? allowed(own, sector) : own.survivors(sector)
                guard ownAllowed.contains(copy) else {
                    throw failure(
                        "after \(event), \(other(index).name), its hosts' own, holds \(copy) in sector \(sector), "
                            + "not \(ownAllowed)"
                    )
                }
                pairs[index].targetHistory?.settle(copy, sector)
            }
            history.settle(value, sector)
        }
    }

    // MARK: - Clean stops

    func restartCleanly() throws(SimulationFailure) {
        // A target may hang while the daemon stops; then what hangs may still happen when the process is gone.
        let stuck = world.random.chance(oneIn: 3) ? disks.map(\.faults.isStuck) : []
        healAll()
        for (disk, isStuck) in zip(disks, stuck) { disk.faults.isStuck = isStuck }
        // What is its hosts' is to be flushed.
        for index in pairs.indices where pairs[index].state == .fractured || pairs[index].state == .split {
            other(index).faults.isStuck = false
        }
        try drainHost()
        note("clean stop")
        let box = AnswerBox<Bool>()
        _ = mailbox.send(.stop { box.value = true })
        var turns = 0
        while engine.turn() {
            engine.checkInvariants()
            try observe()
            turns += 1
            if turns > 100_000 { throw failure("the engine does not stop") }
        }
        guard box.value == true else { throw failure("the engine ended without saying so") }
        host.crash(disks: allDisks)
        healAll()
        metadataTroubleUntil = 0
        coverage[.cleanRestarts] += 1
        mailbox = Mailbox()
        engine = Self.makeEngine(host, mailbox, log)
        try choosePrimary()
        keepImages(pairs.map { $0.state == .synchronized })
        try checkHistories(after: "a clean stop", pairs.map { $0.state == .synchronized }) { $0.readable($1) }
        try attachAll(isFirst: false)
        try compareAtRest()
    }
}
