internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// After every turn: what has changed about the pairs, and whether it may have.
extension Simulation {
    func observe() throws(SimulationFailure) {
        noteLostSectors()
        try noteEnds()
        try noteVerifies()
        for index in pairs.indices where pairs[index].isAttached { try observe(index) }
    }

    /// A failed flush told hosts that writes may be lost: from then on older data may be found.
    private func noteLostSectors() {
        hasUntoldLoss = false
        for disk in disks {
            let lost = disk.takeLostSectors()
            guard !lost.isEmpty else { continue }
            hasUntoldLoss = true
            note("a failed flush of \(disk.name) lost \(lost.count) sectors")
            if disk === primary { for sector in lost { history.unsettle(sector) } }
            for index in pairs.indices where disk === other(index) {
                for sector in lost { pairs[index].targetHistory?.unsettle(sector) }
            }
        }
    }

    private func noteEnds() throws(SimulationFailure) {
        for (id, operation, reason) in log.ended {
            guard let index = pairIndex(id) else { continue }
            coverage.ended(reason)
            guard let accepted = pairs[index].accepted, accepted.operation == operation else {
                throw failure("\(operation.name) ends on pair \(index), where it was not under way")
            }
            if let answer = accepted.answer, answer.value == nil {
                throw failure("\(operation.name) has ended, and who asked for it was not told")
            }
            pairs[index].accepted = nil
        }
        log.ended.removeAll()
    }

    private func observe(_ index: Int) throws(SimulationFailure) {
        let id = pairs[index].id
        guard let state = engine.copyState(of: id), let place = engine.place(of: id) else { return }
        observeUndo(index)
        let before = pairs[index].state
        if place.isSecondPrimary != pairs[index].isSecondPrimary {
            try primaryMoved(index, from: before, to: state, place.isSecondSource)
        }
        pairs[index].isSecondSource = place.isSecondSource
        pairs[index].state = state
        if let before, before != state {
            try stateChanged(index, from: before, to: state)
            if state == .broken { aimCrash(oneIn: 2, within: 6) }
        }
        if pairs[index].hasUndo { aimCrash(oneIn: 30, within: 4) }
        try observeTarget(index, state)
        forgetWhatIsDurable(index)
    }

    private func stateChanged(_ index: Int, from before: CopyState, to state: CopyState) throws(SimulationFailure) {
        switch (before, state) {
        case (.synchronized, .unsynchronized):
            pairs[index].imageInFlow = history
        case (_, .unsynchronized), (_, .synchronized):
            let image = pairs[index].image
            dropImage(index)
            // Nothing differs, and the target is what it was: a copy has nothing to do.
            if state == .unsynchronized, engine.facts(of: pairs[index].id)?.differingByteCount == 0 {
                pairs[index].imageInFlow = history
                if let image { pairs[index].imageInFlow?.widen(by: image) }
            }
        case (.fractured, .aborted), (.split, .aborted):
            // A restore that was given up before it began: the target is what its hosts have made of it.
            if let own = pairs[index].targetHistory ?? pairs[index].ownBeforeFlow { pairs[index].image = own }
        case (.synchronized, _):
            pairs[index].image = pairs[index].image ?? history
        case (.unsynchronized, _):
            if var image = pairs[index].imageInFlow {
                image.widen(by: history)
                pairs[index].image = image
            }
        default:
            break
        }
        if state == .split {
            // Drained, flushed, and no write before the record is durable; only what the source failed may differ.
            let differing = primary.sectors(differingFrom: other(index))
            let isCovered = differing.allSatisfy { engine.isDirty(pairs[index].id, touching: Self.extent($0)) }
            guard primary.isStable, other(index).isStable, isCovered, differing.isEmpty || primary.faults.failsOneIn > 0
            else { throw failure("\(other(index).name) is Split, and is not what \(primary.name) is") }
            try checkNothingIsLost(index, other(index))
        }
    }

    /// What was the point in time of the target is overwritten from here on.
    private func dropImage(_ index: Int) {
        if let image = pairs[index].image {
            pairs[index].imageBeforeFlow = (image, other(index).writeCount)
        }
        pairs[index].image = nil
        pairs[index].imageInFlow = nil
    }

    /// What hosts may do with the target.
    private func observeTarget(_ index: Int, _ state: CopyState) throws(SimulationFailure) {
        guard state == .fractured || state == .split else {
            if let own = pairs[index].targetHistory { pairs[index].ownBeforeFlow = own }
            pairs[index].targetHistory = nil
            pairs[index].isTargetWritten = false
            return
        }
        guard engine.openSide(of: pairs[index].id) != nil else { return }
        guard pairs[index].isSecondPrimary == pairs[index].isSecondSource else {
            throw failure("the target of pair \(index) is open to its own hosts while it serves those of the volume")
        }
        guard pairs[index].targetHistory == nil else { return }
        note("the target of pair \(index) is its hosts'")
        try checkImage(index)
        pairs[index].ownBeforeFlow = nil
        pairs[index].targetHistory = historyOfTarget(index)
    }

    /// What is there, and the requests on the target that are still in flight.
    private func historyOfTarget(_ index: Int) -> WriteHistory {
        var found = WriteHistory(sectorCount: other(index).sectorCount)
        for (sector, values) in other(index).survivors().enumerated() {
            found.rebase(sector, on: values, pending: pending(at: sector, of: index))
        }
        return found
    }

    /// The requests in flight that write a sector: of the volume, or of a target's own export.
    private func pending(at sector: Int, of pair: Int?) -> [(number: UInt64, value: UInt64)] {
        inFlight.compactMap { host -> (number: UInt64, value: UInt64)? in
            guard let host, host.pair == pair, host.sectors.contains(sector) else { return nil }
            return host.written.map { (host.number, $0) }
        }.sorted { $0.number < $1.number }
    }

    /// A target that counts as usable holds what the source was when mirroring stopped.
    func checkImage(_ index: Int) throws(SimulationFailure) {
        guard let facts = engine.facts(of: pairs[index].id), facts.isTargetConsistent else { return }
        // A record that could not be written leaves an older one behind.
        guard pairs[index].targetHistory == nil, !pairs[index].hasMetadataFailed else { return }
        guard let image = pairs[index].image else {
            throw failure("\(other(index).name) counts as a usable image in \(facts.copyState.name), and is none")
        }
        for (sector, values) in other(index).survivors().enumerated() {
            for value in values where !image.survivors(sector).contains(value) {
                throw failure(
                    "\(other(index).name) counts as usable; sector \(sector) holds \(value), not \(image.survivors(sector))"
                )
            }
        }
    }

    // MARK: - Moves of the primary

    private func primaryMoved(
        _ index: Int,
        from before: CopyState?,
        to state: CopyState,
        _ isSecondSource: Bool
    ) throws(SimulationFailure) {
        coverage[.primaryMoves] += 1
        let old = primary
        let new = other(index)
        note("the primary moves from \(old.name) to \(new.name)")
        let undo = Undo(
            isSecondPrimary: pairs[index].isSecondPrimary,
            isSecondSource: pairs[index].isSecondSource,
            history: history,
            targetHistory: pairs[index].targetHistory,
            image: pairs[index].image,
            imageInFlow: pairs[index].imageInFlow
        )
        if isInSync(index, state) {
            try checkNothingIsLost(index, new)
            let isLeftBehind = state == .failedover || state == .suspended
            if !isLeftBehind, old.contents != new.contents || !old.isStable || !new.isStable {
                throw failure("\(old.name) and \(new.name) differ, and one has just been copied to the other")
            }
        } else {
            try takeOver(index, new)
        }
        pairs[index].undo = undo
        pairs[index].isSecondPrimary.toggle()
        pairs[index].isSecondSource = isSecondSource
        let isReversed = state == .split && isSecondSource != undo.isSecondSource
        pairs[index].targetHistory = isReversed ? undo.history.withoutRequests() : nil
        pairs[index].isTargetWritten = pairs[index].targetHistory != nil
        pairs[index].image = state == .synchronized ? nil : undo.history
        pairs[index].imageBeforeFlow = nil
        pairs[index].imageInFlow = nil
        excuseRequests()
    }

    /// Whether the element that becomes the primary has everything that the old one has.
    private func isInSync(_ index: Int, _ state: CopyState) -> Bool {
        if state == .restored || state == .synchronized { return true }
        // A source that fails meanwhile takes the pair out of sync, but the target has what was acknowledged.
        guard let accepted = pairs[index].accepted, accepted.from == .synchronized else { return false }
        return accepted.operation == .failover || accepted.operation == .reverseRoles
    }

    private func checkNothingIsLost(_ index: Int, _ new: SimulatedDisk) throws(SimulationFailure) {
        for (sector, values) in new.survivors().enumerated() {
            guard let value = values.last, history.readable(sector).contains(value) else {
                throw failure(
                    "\(new.name) takes over: sector \(sector) holds \(values), not \(history.readable(sector))"
                )
            }
            for value in values where !history.survivors(sector).contains(value) {
                throw failure(
                    "\(new.name) takes over, and a loss of power would bring \(value) back in sector \(sector)"
                )
            }
        }
    }

    /// What the two do not have in common is the new primary's from here on, and nothing else is.
    private func takeOver(_ index: Int, _ new: SimulatedDisk) throws(SimulationFailure) {
        if pairs[index].accepted?.operation != .abort, pairs[index].targetHistory == nil,
            !pairs[index].hasMetadataFailed
        {
            // While a pair that was in sync evens out what an error or a crash has left, its target has all that counts.
            if pairs[index].image == nil, var image = pairs[index].imageInFlow {
                image.widen(by: history)
                pairs[index].image = image
            }
            try checkOldImage(index, new)
        }
        for (sector, values) in new.survivors().enumerated() {
            guard let value = values.last else { continue }
            if let own = pairs[index].targetHistory, !own.readable(sector).contains(value) {
                throw failure("\(new.name) takes over: its own hosts wrote \(own.readable(sector)) in sector \(sector)")
            }
            let isDirty = engine.isDirty(pairs[index].id, touching: Self.extent(sector))
            if !isDirty {
                for value in values where !history.survivors(sector).contains(value) {
                    throw failure("\(new.name) takes over: sector \(sector) holds \(value), and no dirty bit says so")
                }
                guard history.readable(sector).contains(value) else {
                    throw failure("\(new.name) takes over: sector \(sector) lacks writes, and no dirty bit says so")
                }
                continue
            }
            let pending = pending(at: sector, of: nil)
            if let own = pairs[index].targetHistory {
                history.takeOver(sector, from: own, pending: pending)
            } else {
                history.rebase(sector, on: values, pending: pending)
            }
        }
    }

    private func checkOldImage(_ index: Int, _ new: SimulatedDisk) throws(SimulationFailure) {
        guard let image = pairs[index].image else { throw failure("\(new.name) takes over, and is no usable image") }
        for (sector, values) in new.survivors().enumerated() {
            for value in values where !image.survivors(sector).contains(value) {
                throw failure(
                    "\(new.name) takes over: sector \(sector) holds \(value); when mirroring stopped it was "
                        + "\(image.survivors(sector))"
                )
            }
        }
    }

    static func extent(_ sector: Int) -> Extent {
        Extent(
            offset: UInt64(sector * SimulatedDisk.sectorByteCount),
            length: UInt64(SimulatedDisk.sectorByteCount)
        )
    }

    /// What each block of the area, alone, says.
    func blocks(_ index: Int) -> [PairRecord?] {
        (0..<2).map { block in
            let start = block * PairRecord.blockByteCount
            let bytes = pairs[index].metadata.bytes(start..<start + PairRecord.blockByteCount)
            return try? unsafe PairRecord.decode(bytes.span.bytes)
        }
    }

    /// What has become durable cannot be taken back by a crash, nor by a damaged block.
    private func forgetWhatIsDurable(_ index: Int) {
        guard pairs[index].undo != nil || pairs[index].ownBeforeFlow != nil else { return }
        let records = blocks(index)
        if records.allSatisfy({ $0?.isSecondPrimary == pairs[index].isSecondPrimary }) { pairs[index].undo = nil }
        let states = records.map { $0.flatMap { CopyState(rawValue: $0.copyState) } }
        if states.allSatisfy({ $0 != nil && $0 != .fractured && $0 != .split }) { pairs[index].ownBeforeFlow = nil }
    }
}

extension Simulation.SimulatedPair {
    /// Nothing that was known of the association holds any more.
    mutating func forget() {
        hasMetadataFailed = false
        state = nil
        isSecondPrimary = false
        isSecondSource = false
        accepted = nil
        targetHistory = nil
        isTargetWritten = false
        image = nil
        imageBeforeFlow = nil
        imageInFlow = nil
        ownBeforeFlow = nil
        undo = nil
        undoImage = nil
        hasUndo = false
        isUndoDamaged = false
        isVerifying = false
    }
}
