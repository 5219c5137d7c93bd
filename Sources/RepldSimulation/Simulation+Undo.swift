internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// The undo areas: a target whose copy is taken back must hold what it held before the copy, byte by byte.
extension Simulation {
    static func undoArea(_ options: SimulationOptions, ofPair index: Int) -> SimulatedDisk? {
        guard options.keepsUndo else { return nil }
        return SimulatedDisk(name: "undo area \(index)", byteCount: Int(options.undoLayout.areaByteCount))
    }

    /// What the pages of the area say, read as the control plane reads them.
    func recoverUndo(_ index: Int, _ record: PairRecord) -> RecoveredUndo? {
        guard let area = pairs[index].undoArea else { return nil }
        let head = area.bytes(0..<Int(options.undoLayout.headByteCount))
        let granule = UInt64(options.granuleByteCount)
        return unsafe RecoveredUndo.read(head.span.bytes, record, granuleByteCount: granule)
    }

    /// A record that counts on an undo finds it, unless something has damaged the area.
    func checkUndoAfterStart(_ index: Int, _ record: PairRecord) throws(SimulationFailure) {
        let hasUndo = engine.facts(of: pairs[index].id)?.hasUndo ?? false
        if hasUndo {
            coverage[.undosResumed] += 1
            guard pairs[index].undoImage != nil else { throw failure("pair \(index) starts with an undo of nothing") }
        } else if record.hasUndo, recoverUndo(index, record) == nil {
            coverage[.undosLost] += 1
            let isExcused = pairs[index].isUndoDamaged || pairs[index].hasMetadataFailed
            guard isExcused else {
                throw failure("the undo of pair \(index) cannot be read, and nothing has damaged it")
            }
        }
        pairs[index].hasUndo = hasUndo
    }

    /// Follows an undo from its beginning to its end.
    func observeUndo(_ index: Int) {
        guard let facts = engine.facts(of: pairs[index].id) else { return }
        let hadUndo = pairs[index].hasUndo
        pairs[index].hasUndo = facts.hasUndo
        if facts.hasUndo, !hadUndo {
            coverage[.undos] += 1
            note("the undo of pair \(index) begins")
            // Nothing is in flight to the target, and nothing has been overwritten.
            var image = WriteHistory(sectorCount: other(index).sectorCount)
            for (sector, values) in other(index).survivors().enumerated() {
                image.rebase(sector, on: values, pending: [])
            }
            pairs[index].undoImage = image
            pairs[index].isUndoDamaged = false
        }
        if hadUndo, !facts.hasUndo, facts.isTargetConsistent, pairs[index].accepted?.operation == .failover {
            coverage[.rollbacks] += 1
            note("the copy of pair \(index) has been taken back")
            pairs[index].image = pairs[index].undoImage
        }
    }

    func injectUndoFaults() {
        guard options.keepsUndo else { return }
        if world.random.chance(oneIn: options.undoFailureOneIn), let area = pairs[pick()].undoArea {
            let isFailing = area.faults.failure != nil
            let failures: [IOFailure] = [.inputOutput, .noSpace]
            area.faults.failure = isFailing ? nil : failures[Int(world.random.below(2))]
            note("\(area.name) \(isFailing ? "heals" : "fails")")
        }
        if world.random.chance(oneIn: options.undoStuckOneIn), let area = pairs[pick()].undoArea {
            area.faults.isStuck.toggle()
            note("\(area.name) stuck: \(area.faults.isStuck)")
        }
    }

    /// Bits rot in the pages of an area while the daemon is down.
    func damageUndo(_ index: Int) {
        guard let area = pairs[index].undoArea, world.random.chance(oneIn: options.damagedBlockOneIn) else { return }
        let pages = Int(UndoLayout.pageOffset(options.undoLayout.pageCount))
        area.rot(at: Int(world.random.below(UInt64(pages))))
        pairs[index].isUndoDamaged = true
    }
}

extension SimulationOptions {
    var undoLayout: UndoLayout {
        UndoLayout(volumeByteCount: UInt64(volumeByteCount), granuleByteCount: UInt64(granuleByteCount))
    }
}
