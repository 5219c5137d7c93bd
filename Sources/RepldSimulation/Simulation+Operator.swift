internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// The operator: every operation of the table at any time, forced or not, on any pair; cancellation; associations that end
/// and begin.
extension Simulation {
    /// The operations that the control plane carries out, or none does.
    private static var isDataPlaneOperation: [ReplicationOperation] {
        ReplicationOperation.allCases.filter {
            ![.detach, .dissolve, .resetToSync, .resetToAsync].contains($0)
        }
    }

    /// Operations that give up what has been reached: asked for less often, so that pairs get somewhere.
    private static var givingUp: [ReplicationOperation] { [.prepare, .unprepare, .abort, .deactivate] }

    func operate() throws(SimulationFailure) {
        let pair = pick()
        guard pairs[pair].isAttached else { return try attach(pair, isNew: true) }
        let isForced = world.random.chance(oneIn: 2)
        switch world.random.below(40) {
        case 0: try endAssociation(pair, .detach, isForced: isForced)
        case 1: try endAssociation(pair, .dissolve, isForced: isForced)
        case 2...3: try cancel(pair)
        case 4...9: try finishOperations()
        case 10...15: try lead(pair, waits: false)
        case 16...31: _ = try ask(pair, usefulOperation(pair), isForced: isForced)
        default:
            let choices = Self.isDataPlaneOperation
            _ = try ask(pair, choices[Int(world.random.below(UInt64(choices.count)))], isForced: isForced)
        }
    }

    /// One that the table accepts in the pair's copy state, force and conditions aside.
    private func usefulOperation(_ pair: Int) -> ReplicationOperation {
        // Abort has nothing to do with the copy state while a restore runs.
        if pairs[pair].accepted?.operation == .restoreFromReplica, world.random.chance(oneIn: 2) { return .abort }
        let state = pairs[pair].state ?? .initialized
        let isGivenUp = world.random.chance(oneIn: 8)
        let choices = Self.isDataPlaneOperation.filter {
            OperationTable.rule(of: $0).acceptedFrom.contains(state) && (isGivenUp || !Self.givingUp.contains($0))
        }
        guard !choices.isEmpty else { return .suspend }
        return choices[Int(world.random.below(UInt64(choices.count)))]
    }

    /// Asks for an operation and compares the verdict with the table's; whether the operation has begun, or held already.
    func ask(_ pair: Int, _ operation: ReplicationOperation, isForced: Bool) throws(SimulationFailure) -> Bool {
        let box = AnswerBox<Result<OperationStart, EngineRefusal>>()
        let id = pairs[pair].id
        note("operator asks pair \(pair) for \(operation.name)\(isForced ? ", forced" : "")")
        let keepsUndo = options.keepsUndo && !world.random.chance(oneIn: 5)
        let isSent = mailbox.send(
            .operate(id, operation, isForced: isForced, keepsUndo: keepsUndo, answer: { box.value = $0 })
        )
        guard isSent else { throw failure("the engine takes no commands") }
        // This turn ends with the wake-up, the next one begins with the command: nothing comes between.
        try turn()
        guard let facts = engine.facts(of: id) else { throw failure("pair \(pair) is gone") }
        let expected = OperationTable.verdict(operation, facts, isForced: isForced)
        try turn()
        guard let answer = box.value else {
            guard case .accepted = expected, !OperationTable.rule(of: operation).startsJob else {
                throw failure("\(operation.name) in \(facts.copyState.name) gets no answer; the table says \(expected)")
            }
            begun(pair, operation, facts, box)
            return true
        }
        switch answer {
        case .success(.started), .success(.done):
            guard case .accepted = expected else {
                throw failure("\(operation.name) in \(facts.copyState.name) begins; the table says \(expected)")
            }
            begun(pair, operation, facts, nil)
            return true
        case .success(.held):
            guard expected == .holds else {
                throw failure("\(operation.name) in \(facts.copyState.name) holds; the table says \(expected)")
            }
            return true
        case .failure(let refusal):
            try checkRefusal(refusal, of: operation, facts, expected)
            return false
        }
    }

    private func begun(
        _ pair: Int,
        _ operation: ReplicationOperation,
        _ facts: PairFacts,
        _ box: AnswerBox<Result<OperationStart, EngineRefusal>>?
    ) {
        note("accepted from \(facts.copyState.name)")
        if options.crashAfterOperationOneIn > 0, world.random.chance(oneIn: options.crashAfterOperationOneIn) {
            crashAtTurn = turnCount + 1 + world.random.below(12)
        }
        coverage.accepted(operation, from: facts.copyState)
        pairs[pair].accepted = AcceptedOperation(
            operation: operation,
            from: facts.copyState,
            acceptedAt: world.now,
            answer: box
        )
    }

    private func checkRefusal(
        _ refusal: EngineRefusal,
        of operation: ReplicationOperation,
        _ facts: PairFacts,
        _ expected: OperationVerdict
    ) throws(SimulationFailure) {
        guard case .operationRefused(let verdict, let found) = refusal else {
            throw failure("\(operation.name) is refused with \(refusal)")
        }
        note("refused: \(verdict)")
        coverage[.refusals] += 1
        guard found == facts else { throw failure("\(operation.name) is refused because of \(found), not \(facts)") }
        if verdict == expected { return }
        switch (verdict, expected) {
        case (.refused(.underWay), _):
            // The machine's own: an end that is not durable yet, or another pair's gate.
            let isAnyUnderWay = pairs.contains { $0.isAttached && ($0.accepted != nil) }
            guard isAnyUnderWay else {
                throw failure("\(operation.name) is refused (\(verdict)); nothing is under way")
            }
        case (.refused(.elementBusy), .accepted):
            break
        case (.refused(.metadataStuck), .accepted), (.refused(.metadataStuck), .needsForce):
            // An area that fails is found out by writing it; it may have healed since.
            guard pairs.contains(where: { $0.isAttached && $0.hasMetadataFailed }) else {
                throw failure("\(operation.name) is refused (\(verdict)); no metadata has failed")
            }
        default:
            throw failure("\(operation.name) in \(facts.copyState.name): \(verdict); the table says \(expected)")
        }
    }

    private func cancel(_ pair: Int) throws(SimulationFailure) {
        note("operator cancels on pair \(pair)")
        let id = pairs[pair].id
        let result = try ask { .cancelOperation(id, answer: $0) }
        note("cancelled: \(result)")
    }

    private func endAssociation(
        _ pair: Int,
        _ operation: ReplicationOperation,
        isForced: Bool
    ) throws(SimulationFailure) {
        guard let facts = engine.facts(of: pairs[pair].id) else { throw failure("pair \(pair) is gone") }
        guard case .accepted = OperationTable.verdict(operation, facts, isForced: isForced) else { return }
        note("operator asks pair \(pair) for \(operation.name)")
        coverage.accepted(operation, from: facts.copyState)
        // The answer waits for what is stuck on either element or in the undo area, and for what hosts have in flight on the target.
        for disk in disks + pairs.compactMap(\.undoArea) { disk.faults.isStuck = false }
        host.isExaminerStuck = false
        let id = pairs[pair].id
        // The control plane writes down which element serves, and only then detaches.
        let held = try ask { .holdPlace(id, isHeld: true, answer: $0) }
        guard case .success(let isSecondPrimary) = held else { throw failure("pair \(pair) cannot be held: \(held)") }
        guard isSecondPrimary == pairs[pair].isSecondPrimary else {
            throw failure("the place of pair \(pair) is told wrongly")
        }
        pairs[pair].undo = nil
        let result = try ask { .detachPair(id, answer: $0) }
        guard case .success = result else { throw failure("pair \(pair) cannot be detached: \(result)") }
        if pairs[pair].isSecondPrimary { swap(&volumeDisk, &pairs[pair].second) }
        pairs[pair].isAttached = false
        pairs[pair].forget()
    }

    // MARK: - The end of operations

    /// Whatever is under way ends: within bounded time when nothing is wrong any more, with hosts or without.
    func finishOperations() throws(SimulationFailure) {
        guard pairs.contains(where: { $0.isAttached && $0.accepted != nil }) else { return }
        healAll()
        try liftPauses()
        let isBusy = world.random.chance(oneIn: 2)
        note("the operator waits, hosts are \(isBusy ? "busy" : "idle")")
        let limit = world.now + 3 * options.targetTimeoutNanoseconds + 60_000_000_000
        var turns = 0
        while pairs.contains(where: { $0.isAttached && $0.accepted != nil }) {
            try turn()
            turns += 1
            if isBusy, turns < 2000, world.random.chance(oneIn: 2) { submit() }
            guard world.now < limit, turns < 200_000 else {
                let left = pairs.compactMap { $0.accepted.map { "\($0.operation.name) from \($0.from.name)" } }
                throw failure("never ends in a healthy world: \(left), copy states \(pairs.map(\.state?.name))")
            }
        }
    }

    /// The primary hangs, and the operator lets a target take over: hosts are answered within bounded time.
    func failOverFromStuckPrimary() throws(SimulationFailure) {
        let pair = pick()
        guard pairs[pair].isAttached, pairs[pair].state == .synchronized, !isMetadataInTrouble else { return }
        guard !pairs.contains(where: { $0.isAttached && $0.accepted != nil }) else { return }
        guard engine.facts(of: pairs[pair].id)?.doesOtherPairFlow == false else { return }
        guard other(pair).faults.failure == nil, other(pair).faults.failsOneIn == 0 else { return }
        for disk in disks { disk.faults.isStuck = false }
        // A target that fails now breaks the pair, and there is nobody left to take over.
        other(pair).faults.failsNextFlush = false
        host.isExaminerStuck = false
        note("\(primary.name) hangs; pair \(pair) is to fail over")
        for _ in 0..<world.random.below(20) { submit() }
        primary.faults.isStuck = true
        excuseRequests()
        for _ in 0..<world.random.below(20) { submit() }
        let waiting = inFlight.compactMap { $0?.pair == nil ? $0?.number : nil }
        guard try ask(pair, .failover, isForced: false) else {
            // Something happened on the way.
            return
        }
        coverage[.stuckFailovers] += 1
        let limit = world.now + 2 * options.targetTimeoutNanoseconds + 10_000_000_000
        while pairs[pair].accepted != nil
            || inFlight.contains(where: { $0.map { waiting.contains($0.number) } == true })
        {
            try turn()
            if world.random.chance(oneIn: 8) { submit() }
            guard world.now < limit else { throw failure("failing over from a source that hangs takes too long") }
        }
        guard pairs[pair].state == .failedover else {
            throw failure("a failover from a source that hangs ends in \(pairs[pair].state?.name ?? "nothing")")
        }
    }

    /// Asks for whatever leads a pair on towards Synchronized.
    ///
    /// `waits` for a copy that goes on without one.
    func lead(_ pair: Int, waits: Bool) throws(SimulationFailure) {
        if waits { try liftPauses() }
        switch pairs[pair].state {
        case .initialized, .prepared, .inactive: _ = try ask(pair, .activate, isForced: true)
        case .suspended, .restored: _ = try ask(pair, .resume, isForced: true)
        case .failedover:
            if try ask(pair, .failback, isForced: true) { return }
            // Another pair mirrors the element that serves.
            _ = try ask(pair, .reverseRoles, isForced: true)
        case .fractured, .split, .broken, .aborted, .skewed, .partitioned, .invalid:
            _ = try ask(pair, .resyncReplica, isForced: true)
        case .unsynchronized where waits:
            // After a start no operation may be under way, and the copy goes on all the same.
            var turns = 0
            while pairs[pair].state == .unsynchronized {
                try turn()
                turns += 1
                guard turns < 200_000 else { throw failure("the copy of pair \(pair) never ends in a healthy world") }
            }
        case .unsynchronized, .synchronized, .mixed, nil: break
        }
    }
}
