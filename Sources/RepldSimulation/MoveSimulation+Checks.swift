internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// Who may serve, what an image has to hold, crashes, rest, and what must be true then.
extension MoveSimulation {
    // MARK: - Who serves

    func checkService() throws(SimulationFailure) {
        for side in sides where side.servesHosts {
            guard side.registry.entry == .pair else { throw failure("\(side.host.name) serves a replica to hosts") }
            guard side.right != .lost else {
                throw failure("\(side.host.name) serves hosts, and its peer has taken the pair over")
            }
        }
        if sides.allSatisfy(\.servesHosts), !sides.contains(where: { $0.right == .contested }) {
            throw failure("both hosts serve")
        }
    }

    // MARK: - What moves with the pair

    /// A host has taken the pair over: its image is what the other's hosts may find here, and the history goes on from it.
    func inherit(_ side: MoveHost, _ handover: Handover, _ last: PairRecord) {
        let former = other(than: side)
        guard var branch = former.branch else { return fail("a pair is taken over from a host that does not have it") }
        if let flaw = flaw(of: side, branch, handover, last) {
            fail("\(side.host.name) has taken over after \(last), and \(flaw)")
        }
        let isCutOff = former.host.isUp && (former.servesHosts || former.stage == .handingOver)
        former.right = handover.sequence == nil && isCutOff ? .contested : .lost
        if former.right == .contested { coverage[.forks] += 1 }
        side.right = .held
        branch.workload.waiting = []
        branch.formerOrder = nil
        branch.isSynchronized = false
        branch.hasReplicaLostPower = false
        branch.isLossKnown = false
        if !handover.isEqual {
            for (sector, values) in side.disk.survivors().enumerated() {
                branch.workload.history.rebase(sector, on: values, pending: [])
            }
            branch.workload.order = WriteOrder(values: side.disk.words)
        }
        branch.parting = branch.workload.history
        side.branch = branch
    }

    /// What is wrong with the image that a host takes over with, in words.
    private func flaw(
        of side: MoveHost,
        _ branch: MoveHost.Branch,
        _ handover: Handover,
        _ last: PairRecord
    ) -> String? {
        let values = side.disk.words
        coverage[.imagesChecked] += 1
        if handover.isEqual { return flaw(in: values) { branch.workload.history.readable($0) } }
        if last.copyState == Self.synchronized, !options.isAsynchronous {
            let history = branch.parting ?? branch.workload.history
            let mayLack = branch.hasReplicaLostPower
            let flaw = flaw(in: values) { mayLack ? history.survivors($0) : history.readable($0) }
            if let flaw { return flaw }
        }
        // What is being copied to is no image, unless that was taken back.
        let isImage = last.copyState != CopyState.unsynchronized.rawValue || side.hasTakenBack
        guard !branch.hasReplicaLostPower, isImage else { return nil }
        return (branch.formerOrder ?? branch.workload.order).flaw(in: values).map {
            "it is no image of the past: \($0)"
        }
    }

    private func flaw(in values: [UInt64], _ allowed: (Int) -> [UInt64]) -> String? {
        for (sector, value) in values.enumerated() where !allowed(sector).contains(value) {
            return "sector \(sector) holds \(value), not \(allowed(sector))"
        }
        return nil
    }

    /// A host has become the replica: what it holds is of its own past, where the two had parted.
    func bequeath(_ side: MoveHost) {
        let holder = other(than: side)
        side.right = .lost
        if holder.branch?.isSynchronized == false, side.branch?.isSynchronized == false {
            holder.branch?.formerOrder = side.branch?.workload.order
        }
        side.branch = nil
    }

    // MARK: - Crashes

    func crash(_ side: MoveHost) throws(SimulationFailure) {
        guard side.host.isUp else { return }
        coverage[side.isSecond ? .targetHostCrashes : .sourceHostCrashes] += 1
        side.host.crash()
        healDisks(of: side)
        try ended(side, after: "a crash of \(side.host.name)") { $0.survivors($1) }
        let holder = other(than: side)
        let flushesEpochs = options.isAsynchronous && holder.branch?.formerOrder == nil
        if side.registry.entry == .replica, !flushesEpochs { holder.branch?.hasReplicaLostPower = true }
    }

    /// The daemon of a host is gone.
    private func ended(
        _ side: MoveHost,
        after event: String,
        _ allowed: (WriteHistory, Int) -> [UInt64]
    ) throws(SimulationFailure) {
        side.die()
        side.downUntil = replication.world.now + random.below(8_000_000_000)
        if side.right == .contested { side.right = .lost }
        side.branch?.end()
        if let flaw = side.branch?.workload.settle(on: side.disk, after: event, allowed) { throw failure(flaw) }
    }

    func restartOne() throws(SimulationFailure) {
        let side = sides[Int(random.below(2))]
        guard side.host.isUp else { return }
        try drainHosts()
        note("clean stop of \(side.host.name)")
        side.die()
        healDisks(of: side)
        guard replication.stop(side.host) else { throw failure("the engine of \(side.host.name) does not stop") }
        coverage[.cleanRestarts] += 1
        try ended(side, after: "a clean stop of \(side.host.name)") { $0.readable($1) }
    }

    func startWhoIsDue() {
        for side in sides where !side.host.isUp && side.downUntil <= replication.world.now { start(side) }
    }

    // MARK: - Rest

    private func drainHosts() throws(SimulationFailure) {
        for _ in 0..<100_000 {
            guard sides.contains(where: { $0.branch?.workload.waiting.isEmpty == false }) else { return }
            try turn()
        }
        throw failure("host requests do not end")
    }

    func rest() throws(SimulationFailure) {
        try drainHosts()
        try checkCovered()
        try checkSecondPairsCovered()
    }

    /// What differs is covered by a dirty bit of the pair that serves, or by what is still on its way to an asynchronous target.
    private func checkCovered() throws(SimulationFailure) {
        let side = holder
        guard other(than: side).host.isUp, let facts = side.facts, side.host.engine?.hasBacklog(Self.pair) == false
        else { return }
        // While something is copied it is on its way; a replica that has lost what it had not flushed is not known to before
        // the link is lost.
        guard facts.copyState != .synchronized, facts.copyState != .unsynchronized, facts.operation != .failback else {
            return
        }
        // That replica says of itself that it is not what it was: it is compared when it is opened again.
        guard other(than: side).replicaMetadata.pairRecord?.isTakenBack != true else { return }
        coverage[.comparisonsAtRest] += 1
        for sector in side.disk.sectors(differingFrom: other(than: side).disk) {
            // Until the peer has told, it is the placeholder that covers what it goes on to write.
            guard side.host.engine?.isDirty(Self.pair, touching: Simulation.extent(sector)) == true else {
                throw failure("sector \(sector) differs in \(facts.copyState.name), and no dirty bit says so")
            }
        }
    }

    // MARK: - The end

    private var isConverged: Bool {
        let (side, replica) = (holder, other(than: holder))
        return side.facts?.copyState == .synchronized && replica.registry.entry == .replica && replica.host.isUp
            && side.servesHosts && side.stage == .idle && replica.stage == .idle
            && side.host.engine?.hasBacklog(Self.pair) == false && isSecondPairSynchronized(side)
    }

    /// What an operator does who wants the pair to be Synchronized.
    private func help() {
        let side = holder
        if moves.hasSecondPair { helpSecondPair(side) }
        guard let facts = side.facts, facts.copyState != .synchronized else { return }
        if facts.copyState == .failedover {
            return operate(side, random.chance(oneIn: 2) ? .failback : .reverseRoles, isForced: true)
        }
        for operation in [ReplicationOperation.activate, .resume, .resyncReplica] {
            operate(side, operation, isForced: operation == .resyncReplica)
        }
    }

    /// Waits until the pair is as it should be; hosts are at work for the first requests only, because a slow link never catches up
    /// with hosts that never rest.
    private func heal(upTo limit: UInt64, requestCount: Int) throws(SimulationFailure) {
        replication.healNetwork()
        healDisks()
        let end = replication.world.now + limit
        let lastValue = nextValue + UInt64(requestCount)
        var nextHelp = replication.world.now + 5_000_000_000
        while !isConverged, replication.world.now < end {
            startWhoIsDue()
            if replication.world.now >= nextHelp {
                nextHelp = replication.world.now + 20_000_000_000
                help()
            }
            if nextValue < lastValue, random.chance(oneIn: 8) { submit() }
            try turn()
        }
    }

    /// For a while nothing goes wrong: the pair gets to Synchronized, with hosts at work, and the next storm finds it there.
    func calm() throws(SimulationFailure) {
        note("calm")
        try heal(upTo: 60_000_000_000, requestCount: 100)
        for _ in 0..<random.below(100) {
            if random.chance(oneIn: 2) { submit() }
            try turn()
        }
        if isConverged { coverage[.synchronizations] += 1 }
        replication.faults = options.network
    }

    /// The world heals, and the pair becomes Synchronized and equal.
    func converge() throws(SimulationFailure) {
        note("everything heals")
        // What was under way when everything healed may end the first peace.
        for _ in 0..<3 {
            try heal(upTo: 600_000_000_000, requestCount: 0)
            try drainHosts()
            for _ in 0..<2000 { try turn() }
        }
        guard isConverged else {
            throw failure("the pair is \(holder.facts?.copyState.name ?? "gone") in a healthy world: \(standing)")
        }
        let differing = sides[0].disk.sectors(differingFrom: sides[1].disk)
        guard differing.isEmpty else { throw failure("Synchronized, and sectors \(differing.prefix(8)) differ") }
        if let flaw = flawOfSecondPair(holder) { throw failure(flaw) }
        coverage[.synchronizations] += 1
        for side in sides where side.host.takenBufferCount != 1 {
            throw failure("buffers of \(side.host.name) were not given back")
        }
        for side in sides {
            guard replication.stop(side.host) else { throw failure("the engine of \(side.host.name) does not stop") }
        }
    }

    private var standing: String {
        sides.map { side in
            "\(side.host.name) has the \(side.registry.entry), \(side.stage), serves \(side.servesHosts)"
        }.joined(separator: "; ")
    }
}
