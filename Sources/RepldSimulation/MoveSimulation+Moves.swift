internal import RepldCore
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// What the control planes do: the steps of `HandoverCommand`, each some time after the one before.
extension MoveSimulation {
    // MARK: - Start

    func start(_ side: MoveHost) {
        note("\(side.host.name) is started with the \(side.registry.entry)")
        if !side.host.isUp {
            hostFaults.setClock(of: side.host)
            side.host.start()
        }
        side.die()
        let place = side.host.peerPlace
        send(.link(.listenToPeers(place, answer: expect("listening", side))), to: side)
        var links = LinkSettings()
        links.compression = options.compression
        let peer = PeerSpec<SimulatedPlatform>(
            id: Self.peer,
            name: other(than: side).host.name,
            handle: other(than: side).host.peerPlace,
            settings: links
        )
        send(.link(.addPeer(peer, answer: expect("the peer", side))), to: side)
        let record = side.metadata.pairRecord
        let isActive = record.map { $0.copyState != CopyState.initialized.rawValue } ?? false
        let awaitsPeer = side.registry.entry == .pair && isActive && side.registry.isPeerMet
        var volume = VolumeSpec<SimulatedPlatform>(
            id: Self.volume,
            name: "volume",
            isReadOnly: false,
            source: side.host.element(side.disk)
        )
        volume.awaitedPeerCount = awaitsPeer ? 1 : 0
        volume.isReplica = side.registry.entry == .replica
        send(.addVolume(volume, answer: expect("the volume", side)), to: side)
        if moves.hasSecondPair { addSecondPair(side) }
        guard side.registry.entry == .pair else { return addReplica(side) }
        var spec = pairSpec(side, record ?? newRecord, maps(side, record), isNew: record == nil)
        spec.awaitsPeer = awaitsPeer
        send(.addPair(spec, answer: expect("the pair", side)), to: side)
        setMode(side)
        resumeSecondPair(side)
    }

    private var newRecord: PairRecord {
        PairRecord(
            sequence: 0,
            pair: Self.pair,
            volumeByteCount: UInt64(options.volumeByteCount),
            copyState: CopyState.initialized.rawValue,
            isClosedCleanly: false
        )
    }

    private func maps(_ side: MoveHost, _ record: PairRecord?) -> RecoveredMaps { maps(in: side.metadata, record) }

    func maps(in metadata: SimulatedDisk, _ record: PairRecord?) -> RecoveredMaps {
        guard let record else { return .unknown(because: nil) }
        let area = metadata.bytes(0..<metadata.byteCount)
        let granule = UInt64(options.settings.granuleByteCount)
        return unsafe RecoveredMaps.read(area.span.bytes, record, granuleByteCount: granule)
    }

    private func pairSpec(_ side: MoveHost, _ record: PairRecord, _ maps: RecoveredMaps, isNew: Bool) -> PairSpec<
        SimulatedPlatform
    > {
        note("\(side.host.name) takes the pair in with \(record)")
        var spec = PairSpec<SimulatedPlatform>(
            volume: Self.volume,
            pair: Self.pair,
            name: "pair",
            target: .remote(Self.peer, other(than: side).disk.geometry),
            metadata: side.host.element(side.metadata),
            record: record,
            maps: maps,
            isNew: isNew,
            settings: options.settings
        )
        spec.generation = replication.nextGeneration()
        return spec
    }

    private func setMode(_ side: MoveHost) {
        let mode = LinkCommand<SimulatedPlatform>.setMode(
            Self.pair,
            isAsynchronous: options.isAsynchronous,
            recoveryPointNanoseconds: options.recoveryPointNanoseconds,
            answer: expect("the mode", side)
        )
        send(.link(mode), to: side)
    }

    private func addReplica(_ side: MoveHost) {
        let record = side.replicaMetadata.pairRecord
        var spec = ReplicaSpec<SimulatedPlatform>(
            volume: Self.volume,
            pair: Self.pair,
            name: "pair",
            metadata: side.host.element(side.replicaMetadata),
            record: record
        )
        if let record { spec.recordBlock = side.replicaMetadata.block(of: record) }
        if options.settings.keepsUndo {
            spec.undo = options.recoverUndo(side.undoArea, record)
            spec.undoArea = side.host.element(side.undoArea)
            spec.granuleByteCount = options.settings.granuleByteCount
        }
        send(.link(.addReplica(spec, answer: expect("the replica", side))), to: side)
    }

    // MARK: - The daemon that has the pair

    /// Asks for a planned move, as far as the table lets it.
    func move(_ side: MoveHost, _ kind: MoveKind, isForced: Bool) {
        let operation: ReplicationOperation = kind == .failover ? .failover : .reverseRoles
        guard side.stage == .idle, side.registry.entry == .pair, let facts = side.facts else { return }
        guard kind == .failover || facts.copyState != .failedover else { return }
        guard case .accepted = OperationTable.verdict(operation, facts, isForced: isForced) else { return }
        handOver(side, kind)
    }

    func handOver(_ side: MoveHost, _ kind: MoveKind) {
        note("\(side.host.name) hands the pair over: \(kind)")
        side.stage = .handingOver
        let withhold = HandoverCommand<SimulatedPlatform>.withhold(
            Self.volume,
            answer: side.then { [unowned self] result in
                // Whatever keeps hosts away already is not undone.
                guard case .success = result else { return side.stage = .idle }
                settle(side, kind)
            }
        )
        send(.link(.handover(withhold)), to: side)
    }

    private func settle(_ side: MoveHost, _ kind: MoveKind) {
        let settle = HandoverCommand<SimulatedPlatform>.settle(
            Self.pair,
            answer: side.then { [unowned self] result in
                guard case .success(let record) = result else { return giveUp(side, "not settled: \(result)") }
                let isFlowingBack = record.operation == ReplicationOperation.failback.rawValue
                let isEqual = record.copyState == Self.synchronized || isFlowingBack
                // What is asked for was decided by what the pair was before.
                guard kind != .failback || isFlowingBack else { return giveUp(side, "it does not flow back") }
                askToTakeOver(side, Handover(kind: kind, sequence: record.sequence, isEqual: isEqual))
            }
        )
        send(.link(.handover(settle)), to: side)
    }

    private func askToTakeOver(_ side: MoveHost, _ handover: Handover) {
        note("\(side.host.name) asks its peer to take over: \(handover)")
        ask(side, .takeOver(handover)) { [unowned self] answer in
            switch answer {
            case .success(.tookOver(let record)): becomeReplica(side, record)
            case .success(let message):
                if handover.kind == .failback { send(.cancelOperation(Self.pair) { _ in }, to: side) }
                giveUp(side, "\(message)")
            case .failure(.noAnswer):
                note("\(side.host.name) does not know what became of it")
                // The peer may have been asked again before that was known.
                side.stage = side.servesHosts ? .idle : .unsure
                // Where the link is as it was, nothing else would make it find out.
                let askAgain = HandoverCommand<SimulatedPlatform>.askAgain(Self.pair, answer: side.then { _ in })
                send(.link(.handover(askAgain)), to: side)
            case .failure(let failure): giveUp(side, "\(failure)")
            }
        }
    }

    private func ask(
        _ side: MoveHost,
        _ message: MoveMessage,
        _ then: @escaping (Result<MoveMessage, MessageFailure>) -> Void
    ) {
        let answer: @Sendable (Result<[UInt8], MessageFailure>) -> Void = side.then { [unowned self] result in
            then(
                result.map { bytes in messages[bytes.enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }]
                }
            )
        }
        send(.link(.send(Self.peer, number(message), answer: answer)), to: side)
    }

    /// Nothing has moved: hosts may come again.
    private func giveUp(_ side: MoveHost, _ words: String) {
        note("\(side.host.name) gives the handover up: \(words)")
        let release = HandoverCommand<SimulatedPlatform>.release(
            Self.volume,
            answer: side.then { _ in side.stage = .idle }
        )
        send(.link(.handover(release)), to: side)
    }

    // MARK: - The daemon that takes it over

    /// An operator says that the other host is gone; the engine and the record say whether that may be.
    func takeOverAlone(_ side: MoveHost) {
        guard side.host.isUp, side.stage == .idle, side.registry.entry == .replica else { return }
        guard let record = side.replicaMetadata.pairRecord, side.isSecond != record.isSecondSource else { return }
        guard isUsable(record) else { return }
        note("\(side.host.name) is told to take over alone")
        takeOver(side, Handover(kind: .failover, sequence: nil, isEqual: false)) { _ in }
    }

    /// Whether the last record that a replica was told says that it is a usable image, or can be made one.
    private func isUsable(_ record: PairRecord) -> Bool {
        record.copyState == Self.synchronized || record.isTargetConsistent || record.hasUndo
    }

    private func takeOver(_ side: MoveHost, _ handover: Handover, _ answer: @escaping (MoveMessage) -> Void) {
        side.stage = .takingOver
        side.hasTakenBack = false
        let refuse = { (words: String) in
            side.stage = .idle
            answer(.refused(words))
        }
        let claim = HandoverCommand<SimulatedPlatform>.claimReplica(
            Self.pair,
            sequence: handover.sequence,
            answer: side.then { [unowned self] result in
                guard case .success(let last) = result else { return refuse("no claim: \(result)") }
                let isGivenUp = random.chance(oneIn: moves.refusalOneIn) || !isUsable(last)
                guard !isGivenUp else { return unclaim(side) { refuse("given up") } }
                guard last.hasUndo, !last.isTargetConsistent, handover.kind == .failover else {
                    return prepare(side, handover, last, answer)
                }
                takeBack(side, refuse) { [unowned self] in prepare(side, handover, $0, answer) }
            }
        )
        send(.link(.handover(claim)), to: side)
    }

    /// A copy that was under way is taken back; now and then the takeover is given up after that.
    private func takeBack(
        _ side: MoveHost,
        _ refuse: @escaping (String) -> Void,
        _ then: @escaping (PairRecord) -> Void
    ) {
        let takeBack = HandoverCommand<SimulatedPlatform>.takeBack(
            Self.pair,
            answer: side.then { [unowned self] result in
                guard case .success(let record) = result else {
                    return unclaim(side) { refuse("not taken back: \(result)") }
                }
                note("\(side.host.name) has taken a copy back")
                coverage[.takenBack] += 1
                side.hasTakenBack = true
                guard !random.chance(oneIn: moves.refusalOneIn) else { return unclaim(side) { refuse("given up") } }
                then(record)
            }
        )
        send(.link(.handover(takeBack)), to: side)
    }

    private func prepare(
        _ side: MoveHost,
        _ handover: Handover,
        _ last: PairRecord,
        _ answer: @escaping (MoveMessage) -> Void
    ) {
        let record = handover.record(
            after: last,
            isSecond: side.isSecond,
            servingEpoch: side.host.engine?.servingEpoch(of: Self.volume) ?? 0,
            replication.nextGeneration()
        )
        side.metadata.lay(record)
        side.later { [unowned self] in commit(side, handover, last, record, answer) }
    }

    private func unclaim(_ side: MoveHost, _ then: @escaping () -> Void) {
        let answer: @Sendable (Result<Void, EngineRefusal>) -> Void = side.then { _ in then() }
        send(.link(.handover(.unclaimReplica(Self.pair, answer: answer))), to: side)
    }

    /// The one point of change: from here on this host has the pair, whatever crashes.
    private func commit(
        _ side: MoveHost,
        _ handover: Handover,
        _ last: PairRecord,
        _ record: PairRecord,
        _ answer: @escaping (MoveMessage) -> Void
    ) {
        note("\(side.host.name) has the pair from now on")
        // Nobody moves hosts to a disk that fails; from here on it may fail in what concerns them.
        healDisks(of: side)
        let isAsked = handover.sequence != nil
        (side.registry.entry, side.registry.isPeerMet) = (.pair, isAsked)
        inherit(side, handover, last)
        coverage[isAsked ? .plannedMoves : .unplannedMoves] += 1
        side.later { [unowned self] in
            let spec = pairSpec(side, record, handover.isEqual ? .nothingDiffers : .unknown(because: nil), isNew: false)
            send(.link(.handover(.takeOver(spec, answer: expect("the pair that it takes over", side)))), to: side)
            setMode(side)
            if moves.hasSecondPair, side.secondMetadata.pairRecord == nil { addSecondPair(side) }
            resumeSecondPair(side)
            side.later {
                side.stage = .idle
                answer(.tookOver(record))
            }
        }
    }

    // MARK: - Messages

    func receive(_ message: MoveMessage, _ side: MoveHost, _ token: UInt64) {
        let answer = { [unowned self] (message: MoveMessage) in
            note("\(side.host.name) answers: \(message)")
            send(.link(.reply(token: token, number(message))), to: side)
        }
        switch message {
        case .takeOver(let handover):
            guard side.registry.entry == .replica, side.stage == .idle else { return answer(.refused("not now")) }
            takeOver(side, handover, answer)
        case .meet(let former, let extents, let isAhead):
            guard side.registry.entry == .pair else { return answer(.refused("it is the replica")) }
            let meet = HandoverCommand<SimulatedPlatform>.meet(
                Self.pair,
                by: former,
                extents,
                isAhead: isAhead,
                isFirst: !side.registry.isPeerMet,
                answer: side.then { [unowned self] result in
                    guard case .success(let record) = result else { return answer(.refused("\(result)")) }
                    side.registry.isPeerMet = true
                    coverage[.meetings] += 1
                    answer(.met(record))
                }
            )
            send(.link(.handover(meet)), to: side)
        case .tookOver, .met, .refused: answer(.refused("that is no question"))
        }
    }

    // MARK: - The daemon that has lost it

    /// The peer has taken the pair over: it is told what this host has that it may lack, and gets a replica.
    func returnPair(_ side: MoveHost) {
        guard side.stage == .idle || side.stage == .unsure, side.registry.entry == .pair else { return }
        side.stage = .returning
        collect(side, [], from: 0) { [unowned self] extents in
            guard let facts = side.facts, let last = side.metadata.pairRecord else { return side.stage = .idle }
            let isAhead = facts.isSourceAhead || options.isAsynchronous && !extents.isEmpty
            let told = extents.coarsened(to: moves.extentLimit)
            note("\(side.host.name) tells what it has: \(told), ahead \(isAhead)")
            ask(side, .meet(last, told, isAhead: isAhead)) { [unowned self] answer in
                guard case .success(.met(let record)) = answer else { return side.stage = .idle }
                becomeReplica(side, record)
            }
        }
    }

    private func collect(
        _ side: MoveHost,
        _ extents: [Extent],
        from offset: UInt64,
        _ then: @escaping ([Extent]) -> Void
    ) {
        let query = ChangesQuery(side: .both, offset: offset, runLimit: 16)
        let answer: @Sendable (Result<PairChanges, EngineRefusal>) -> Void = side.then { [unowned self] result in
            guard case .success(let changes) = result else { return fail("changes are not told: \(result)") }
            let all = extents + changes.runs
            guard let next = changes.nextOffset else { return then(all) }
            collect(side, all, from: next, then)
        }
        send(.changes(Self.pair, query, answer: answer), to: side)
    }

    func becomeReplica(_ side: MoveHost, _ record: PairRecord) {
        side.stage = .returning
        side.replicaMetadata.lay(record)
        side.later { [unowned self] in
            note("\(side.host.name) has the replica from now on")
            healDisks(of: side)
            (side.registry.entry, side.registry.isPeerMet) = (.replica, true)
            noteSecondPair(side)
            bequeath(side)
            side.later { [unowned self] in
                let answer: @Sendable (Result<Void, EngineRefusal>) -> Void = side.then { [unowned self] result in
                    guard case .success = result else { return fail("the pair is not detached: \(result)") }
                    addReplica(side)
                    side.later { side.stage = .idle }
                }
                send(.link(.handover(.keepAway(Self.volume, answer: expect("the end of hosts", side)))), to: side)
                send(.detachPair(Self.pair, answer: answer), to: side)
            }
        }
    }
}
