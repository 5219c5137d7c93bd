internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// A second pair of the volume that moves, on each of the two hosts, with its target there as well: it rests while its volume is the
/// replica of the other host's, and goes on when that is a source again.
extension MoveSimulation {
    // MARK: - What a control plane does

    /// A start takes the pair in before the peer can write; a replica gets no new one.
    func addSecondPair(_ side: MoveHost) {
        let found = side.secondMetadata.pairRecord
        guard found != nil || side.registry.entry == .pair else { return }
        let record =
            found
            ?? PairRecord(
                sequence: 0,
                pair: Self.secondPair,
                volumeByteCount: UInt64(options.volumeByteCount),
                copyState: CopyState.initialized.rawValue,
                isClosedCleanly: false
            )
        var settings = options.settings
        settings.keepsUndo = false
        let spec = PairSpec<SimulatedPlatform>(
            volume: Self.volume,
            pair: Self.secondPair,
            name: "second",
            target: .local(side.host.element(side.secondTarget)),
            metadata: side.host.element(side.secondMetadata),
            record: record,
            maps: maps(in: side.secondMetadata, found),
            isNew: found == nil,
            settings: settings
        )
        send(.addPair(spec, answer: expect("the second pair", side)), to: side)
    }

    /// The volume becomes a replica: what flows rests, and is to go on later.
    func noteSecondPair(_ side: MoveHost) {
        guard let state = side.secondFacts?.copyState else { return }
        if state == .synchronized || state == .unsynchronized { side.registry.isSecondPairResting = true }
    }

    /// The volume is a source: what has rested goes on.
    func resumeSecondPair(_ side: MoveHost) {
        guard moves.hasSecondPair else { return }
        guard side.registry.isSecondPairResting else { return }
        side.registry.isSecondPairResting = false
        note("the second pair of \(side.host.name) goes on")
        coverage[.restedPairs] += 1
        send(.operate(Self.secondPair, .resume, isForced: false) { _ in }, to: side)
    }

    func operateOnSecondAtRandom() {
        let operations: [ReplicationOperation] = [
            .suspend, .resume, .resyncReplica, .deactivate, .activate, .activate, .abort, .prepare,
        ]
        let side = sides[Int(random.below(2))]
        let operation = operations[Int(random.below(UInt64(operations.count)))]
        guard side.host.isUp else { return }
        note("operator asks \(side.host.name) for \(operation.name) of the second pair")
        let isReplica = side.registry.entry == .replica
        let answer: @Sendable (Result<OperationStart, EngineRefusal>) -> Void = side.then { result in
            // Whoever says what becomes of it means it.
            if isReplica, case .success = result { side.registry.isSecondPairResting = false }
        }
        send(.operate(Self.secondPair, operation, isForced: random.chance(oneIn: 2), answer: answer), to: side)
    }

    /// What an operator does who wants it to be Synchronized.
    func helpSecondPair(_ side: MoveHost) {
        guard !isSecondPairSynchronized(side) else { return }
        for operation in [ReplicationOperation.activate, .resume, .resyncReplica] {
            send(.operate(Self.secondPair, operation, isForced: false) { _ in }, to: side)
        }
    }

    func isSecondPairSynchronized(_ side: MoveHost) -> Bool {
        !moves.hasSecondPair || side.secondFacts?.copyState == .synchronized
    }

    // MARK: - What must be true

    /// Nothing flows where a peer writes the volume.
    func checkSecondPairsRest() throws(SimulationFailure) {
        for side in sides {
            guard let facts = side.secondFacts, facts.isSourceReplica else { continue }
            guard facts.copyState != .synchronized, facts.copyState != .unsynchronized, facts.operation == nil else {
                throw failure(
                    "the second pair of \(side.host.name) is \(facts.copyState.name), and its volume is a replica"
                )
            }
        }
    }

    /// What a target that gets nothing lacks is remembered, whoever writes the volume.
    func checkSecondPairsCovered() throws(SimulationFailure) {
        guard moves.hasSecondPair else { return }
        for side in sides {
            guard let state = side.secondFacts?.copyState, state != .synchronized, state != .unsynchronized else {
                continue
            }
            if let flaw = flawOfSecondPair(side) { throw failure(flaw) }
        }
    }

    /// A sector that differs without a dirty bit, in words.
    func flawOfSecondPair(_ side: MoveHost) -> String? {
        guard moves.hasSecondPair else { return nil }
        coverage[.comparisonsAtRest] += 1
        for sector in side.disk.sectors(differingFrom: side.secondTarget) {
            if side.host.engine?.isDirty(Self.secondPair, touching: Simulation.extent(sector)) != true {
                return "sector \(sector) differs in the second pair of \(side.host.name), and no dirty bit says so"
            }
        }
        return nil
    }
}
