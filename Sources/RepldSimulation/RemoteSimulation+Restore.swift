internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// What a run knows of restores over the link.
final class RestoreModel {
    var stage = LinkRestore.none
    /// What hosts were entitled to before the restore began, should a crash forget that.
    var former: WriteHistory?
    /// Until when hosts may have been turned away or refused for a restore.
    var mayFailUntil: UInt64 = 0
}

/// Restores over the link: what hosts may find meanwhile, and in the end.
extension RemoteSimulation {
    /// Hosts that were turned away hear of it a little later.
    private static var echoNanoseconds: UInt64 { 1_000_000_000 }

    var mayFail: Bool { restore.stage != .none || isHalfRestored || replication.world.now < restore.mayFailUntil }

    private var stage: LinkRestore { source.engine?.linkRestore(of: Self.pair) ?? .none }
    private var isHalfRestored: Bool { stage != .none }

    /// What hosts would find in each sector, had they all of it to read; `nil` where they find nothing.
    private func word(_ sector: Int) -> UInt64? {
        guard source.engine?.isLacking(Self.pair, touching: Simulation.extent(sector)) == true else {
            return sourceDisk.word(sector)
        }
        return stage == .lost ? nil : targetDisk.word(sector)
    }

    /// Looks at how far the restore has come since the last turn.
    func observeRestore() throws(SimulationFailure) {
        guard source.isUp, stage != restore.stage else {
            if isHalfRestored, random.chance(oneIn: 20) { try checkRestored("while the source is half restored") }
            return
        }
        let before = restore.stage
        restore.stage = stage
        note("the restore is \(stage), and was \(before)")
        switch (before, stage) {
        case (.none, .lost), (.running, .lost), (.stopped, .lost):
            coverage[.linkRestoresLost] += 1
        case (.none, _), (.lost, .running), (.lost, .stopped):
            coverage[.linkRestores] += 1
            restore.former = workload.history
            for sector in 0..<sourceDisk.sectorCount where word(sector) != targetDisk.word(sector) {
                throw failure("when the restore begins hosts would not find the target's sector \(sector)")
            }
            rebase()
        case (_, .none) where source.engine?.copyState(of: Self.pair) == .restored:
            coverage[.linkRestoresDone] += 1
            restore.former = nil
            try checkRestored("when the source is restored")
        case (_, .none):
            coverage[.linkRestoresGivenUp] += 1
            restore.former = nil
            rebase()
            formerOrder = WriteOrder(values: targetDisk.words)
        case (.running, _):
            coverage[.linkRestoresStopped] += 1
        case (.stopped, _), (.lost, .lost):
            break
        }
        restore.mayFailUntil = replication.world.now + Self.echoNanoseconds
    }

    /// Hosts find another image from here on, by the operator's will.
    private func rebase() {
        let words = (0..<sourceDisk.sectorCount).map { word($0) ?? 0 }
        let pending = workload.waiting.filter { $0.operation == .write }
        for sector in words.indices {
            let writes = pending.filter { $0.sectors.contains(sector) }.map { (number: $0.value, value: $0.value) }
            workload.history.rebase(sector, on: [words[sector]], pending: writes)
        }
        workload.order = WriteOrder(values: words)
        for write in pending { workload.order.began(write.value, write.sectors) }
        formerOrder = nil
    }

    /// Every sector, wherever it counts, holds what hosts may read.
    private func checkRestored(_ event: String) throws(SimulationFailure) {
        for sector in 0..<sourceDisk.sectorCount {
            guard !isOnOlderTarget(sector), let value = word(sector),
                !workload.history.readable(sector).contains(value)
            else { continue }
            let allowed = workload.history.readable(sector)
            throw failure("\(event) hosts would find \(value) in sector \(sector), not \(allowed)")
        }
    }

    /// What an older target holds no host is served: the handshake notices first.
    private func isOnOlderTarget(_ sector: Int) -> Bool {
        older == .target && source.engine?.isLacking(Self.pair, touching: Simulation.extent(sector)) == true
    }

    /// The source was whole when its daemon ended, and is half restored when it comes again: that it was given up was not durable.
    func takeUpRestore() {
        restore.stage = stage
        guard stage != .none else { return }
        rebase()
        formerOrder = WriteOrder(values: targetDisk.words)
    }

    /// The source was half restored when its daemon ended, and it comes again.
    func settleRestore(
        after event: String,
        _ allowed: (WriteHistory, Int) -> [UInt64]
    ) throws(SimulationFailure) {
        let before = restore.stage
        restore.stage = stage
        note("after \(event) the restore is \(stage), and was \(before)")
        if before == .running { coverage[.linkRestoresStopped] += 1 }
        workload.waiting = []
        if stage == .lost {
            if before != .lost { coverage[.linkRestoresLost] += 1 }
            return
        }
        if stage == .none, source.engine?.copyState(of: Self.pair) != .restored, let former = restore.former {
            // That it had begun was not durable, and no host has written before it is.
            workload.history = former
            workload.order = WriteOrder(values: sourceDisk.words)
            formerOrder = WriteOrder(values: targetDisk.words)
        }
        for sector in 0..<sourceDisk.sectorCount {
            guard !isOnOlderTarget(sector), let value = word(sector) else { continue }
            guard allowed(workload.history, sector).contains(value) else {
                let known = allowed(workload.history, sector)
                throw failure("after \(event) hosts would find \(value) in sector \(sector), not \(known)")
            }
            workload.history.settle(value, sector)
        }
        formerOrder = formerOrder ?? workload.order
        workload.order = WriteOrder(values: (0..<sourceDisk.sectorCount).map { word($0) ?? 0 })
    }
}
