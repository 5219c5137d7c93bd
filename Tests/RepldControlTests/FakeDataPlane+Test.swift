import Foundation
import RepldControl
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldFormat
import RepldPair
import Synchronization

/// What a test asks of the fake, and sees of it
extension FakeDataPlane {
    var calls: [Call] { state.withLock { $0.calls } }

    /// Is told of each call before it takes effect.
    func beforeEachCall(_ body: @escaping @Sendable (Call) -> Void) { state.withLock { $0.beforeCall = body } }

    /// Elements at `path` cannot be opened until `mend`.
    func breakElement(_ path: String) {
        state.withLock { $0.failures[path] = DataPlaneError(.element, "cannot open \(path): it is on fire") }
    }

    func mendElement(_ path: String) { state.withLock { $0.failures[path] = nil } }

    /// The next operation, detach or pair with a peer waits for `release`.
    func hold() { state.withLock { $0.isHolding = true } }

    /// Whether a call waits.
    var isHeld: Bool { state.withLock { $0.held != nil } }

    func release() {
        let held = state.withLock { state in
            state.isHolding = false
            defer { state.held = nil }
            return state.held
        }
        held?.resume()
    }

    /// The next operation is refused with this, as one that lost a race is.
    func refuseNext(_ refusal: EngineRefusal) { state.withLock { $0.refusal = refusal } }

    func connectClients(_ count: Int, to volume: String) {
        state.withLock { state in
            for id in state.volumes.keys where state.volumes[id]?.name == volume {
                state.volumes[id]?.connectionCount = count
            }
        }
    }

    /// The element that a volume is served from; `nil` when it is not.
    func servingPath(_ volume: String) -> String? { opening(volume)?.path }

    func opening(_ volume: String) -> VolumeOpening? {
        state.withLock { $0.openings.values.first { $0.name == volume } }
    }

    /// The element that a pair mirrors to.
    func targetPath(_ pair: String) -> String? {
        state.withLock { $0.pairs.values.first { $0.opening.name == pair }?.opening.target.path }
    }

    /// Changes the facts of the only pair, behind the service's back.
    func setFacts(_ change: (inout PairFacts) -> Void) {
        state.withLock { state in
            for id in state.pairs.keys {
                guard var pair = state.pairs[id] else { continue }
                change(&pair.status.facts)
                pair.status.copyState = pair.status.facts.copyState
                pair.status.dirtyByteCount = pair.status.facts.differingByteCount
                state.pairs[id] = pair
                store(pair)
            }
        }
    }

    /// The only pair's undo area cannot be opened.
    func loseUndoArea() {
        state.withLock { state in for id in state.pairs.keys { state.pairs[id]?.status.keepsUndo = false } }
    }

    /// Says where the only pair differs by what a side changed.
    func setChanges(_ runs: [Extent], by side: ChangedSide = .both) {
        state.withLock { state in
            for id in state.pairs.keys { state.pairs[id]?.changes[side] = runs }
        }
    }

    /// What the data plane says of the only pair's mover.
    func limitCopy(_ status: CopyControlStatus) {
        state.withLock { state in for id in state.pairs.keys { state.pairs[id]?.status.copyControl = status } }
    }

    /// Moves the only pair's copy on.
    func progress(done: UInt64) {
        state.withLock { state in
            for id in state.pairs.keys {
                let total = state.pairs[id]?.status.copyTotalByteCount ?? 0
                state.pairs[id]?.status.copyDoneByteCount = done
                state.pairs[id]?.status.dirtyByteCount = total - done
                state.pairs[id]?.status.facts.differingByteCount = total - done
            }
        }
    }

    /// Brings the only pair to a copy state, as something that happened by itself.
    ///
    /// What was under way has ended with it: well when that is where it leads.
    func become(_ copyState: CopyState, _ progress: ProgressStatus = .completed, reason: String = "") {
        let events = state.withLock { state in
            state.pairs.keys.flatMap { id -> [EngineEvent] in
                guard let operation = state.pairs[id]?.status.facts.operation else {
                    return change(&state, id, to: copyState, progress, reason: reason)
                }
                let isResult = OperationTable.rule(of: operation).edges.contains { $0.to == copyState }
                let events = change(&state, id, to: copyState, progress, reason: reason)
                return events + end(&state, id, operation, isResult ? nil : .pairBroken)
            }
        }
        for event in events { continuation.yield(event) }
    }

    /// The only pair's operation comes to its end.
    func finish(failure: OperationFailure? = nil) {
        let events = state.withLock { state in
            state.pairs.keys.flatMap { id -> [EngineEvent] in
                guard let operation = state.pairs[id]?.status.facts.operation else { return [] }
                return complete(&state, id, operation, failure)
            }
        }
        for event in events { continuation.yield(event) }
    }

    /// Tells something of the only pair.
    func tell(_ kind: EngineEvent.Kind) {
        let pair = state.withLock { $0.pairs.values.first?.opening }
        continuation.yield(EngineEvent(volume: pair?.volume, pair: pair?.id, kind: kind))
    }

    /// Leaves the record of the only pair as a clean stop does, or an end by force.
    func leaveRecord(clean: Bool) {
        state.withLock { state in
            for pair in state.pairs.values { store(pair, isClosedCleanly: clean) }
        }
    }
}

/// The machine, as far as the control plane can see it
extension FakeDataPlane {
    func begin(
        _ operation: ReplicationOperation,
        of id: PairID,
        isForced: Bool,
        _ state: inout State
    ) -> (Result<OperationStart, EngineRefusal>, [EngineEvent]) {
        if let refusal = state.refusal {
            state.refusal = nil
            return (.failure(refusal), [])
        }
        guard let facts = state.pairs[id]?.status.facts else { return (.failure(.noSuchPair), []) }
        let verdict = OperationTable.verdict(operation, facts, isForced: isForced)
        switch verdict {
        case .refused, .needsForce: return (.failure(.operationRefused(verdict, facts)), [])
        case .holds: return (.success(.held), [])
        case .accepted(let result): return accept(operation, of: id, to: result, &state)
        }
    }

    private func accept(
        _ operation: ReplicationOperation,
        of id: PairID,
        to result: CopyState?,
        _ state: inout State
    ) -> (Result<OperationStart, EngineRefusal>, [EngineEvent]) {
        var events: [EngineEvent] = []
        if let other = state.pairs[id]?.status.facts.operation {
            events += end(&state, id, other, .superseded(by: operation))
        }
        let rule = OperationTable.rule(of: operation)
        guard rule.startsJob else {
            events += change(&state, id, to: result ?? .broken, .dormant, reason: "")
            events += end(&state, id, operation, nil)
            return (.success(.done), events)
        }
        if result == .synchronized, operation != .failback {
            let source = (state.pairs[id]?.opening.volume).flatMap { state.volumes[$0]?.byteCount } ?? 0
            state.pairs[id]?.status.copyTotalByteCount = source
            state.pairs[id]?.status.copyDoneByteCount = 0
            events += change(&state, id, to: .unsynchronized, rule.progress, reason: "")
        }
        state.pairs[id]?.status.progress = rule.progress
        state.pairs[id]?.status.facts.operation = operation
        store(state.pairs[id])
        return (.success(.started), events)
    }

    func cancel(_ id: PairID, _ state: inout State) -> (ReplicationOperation?, [EngineEvent]) {
        guard let operation = state.pairs[id]?.status.facts.operation else { return (nil, []) }
        switch operation {
        case .activate, .resume, .resyncReplica:
            return (
                operation,
                change(&state, id, to: .suspended, .dormant, reason: "") + end(&state, id, operation, .cancelled)
            )
        case .failback, .split, .failover, .reverseRoles:
            return (operation, end(&state, id, operation, .cancelled))
        default:
            return (operation, [])
        }
    }

    func complete(
        _ state: inout State,
        _ id: PairID,
        _ operation: ReplicationOperation,
        _ failure: OperationFailure?
    ) -> [EngineEvent] {
        guard failure == nil, let pair = state.pairs[id] else { return end(&state, id, operation, failure) }
        let edge = OperationTable.rule(of: operation).edge(from: pair.status.copyState)
        let target = requested(operation, edge, pair.status.copyState)
        switch operation {
        case .failover: state.pairs[id]?.status.isSecondPrimary.toggle()
        case .failback: state.pairs[id]?.status.isSecondPrimary.toggle()
        case .reverseRoles:
            state.pairs[id]?.status.isSecondSource.toggle()
            if pair.status.copyState == .synchronized { state.pairs[id]?.status.isSecondPrimary.toggle() }
        default: break
        }
        var events = change(&state, id, to: target, .completed, reason: "")
        events += end(&state, id, operation, nil)
        if operation == .reverseRoles, let now = state.pairs[id] {
            events.append(event(now, .rolesReversed(isSecondSource: now.status.isSecondSource)))
        }
        return events
    }

    private func requested(_ operation: ReplicationOperation, _ edge: OperationEdge?, _ now: CopyState) -> CopyState {
        if operation == .reverseRoles { return edge?.to ?? now }
        return edge?.to ?? OperationTable.rule(of: operation).edges.first?.to ?? now
    }

    func end(
        _ state: inout State,
        _ id: PairID,
        _ operation: ReplicationOperation,
        _ failure: OperationFailure?
    ) -> [EngineEvent] {
        state.pairs[id]?.status.facts.operation = nil
        store(state.pairs[id])
        return state.pairs[id].map { [event($0, .operationEnded(operation, failure))] } ?? []
    }

    func change(
        _ state: inout State,
        _ id: PairID,
        to copyState: CopyState,
        _ progress: ProgressStatus,
        reason: String
    ) -> [EngineEvent] {
        guard var pair = state.pairs[id] else { return [] }
        let old = pair.status.copyState
        pair.status.copyState = copyState
        pair.status.progress = progress
        pair.status.reason = reason
        pair.status.facts.copyState = copyState
        switch copyState {
        case .synchronized:
            pair.status.dirtyByteCount = 0
            pair.status.facts.differingByteCount = 0
            pair.status.facts.isTargetConsistent = true
        case .unsynchronized: pair.status.facts.isTargetConsistent = false
        default: break
        }
        state.pairs[id] = pair
        store(pair)
        return old == copyState ? [] : [event(pair, .copyStateChanged(from: old, to: copyState))]
    }

    private func event(_ pair: Pair, _ kind: EngineEvent.Kind) -> EngineEvent {
        EngineEvent(volume: pair.opening.volume, pair: pair.opening.id, kind: kind)
    }

    /// Writes the record into both blocks, as one that may have moved the service is.
    func store(_ pair: Pair?, isClosedCleanly: Bool = true, byteCount: UInt64 = 1 << 20) {
        guard let pair else { return }
        var record = PairRecord(
            sequence: 1,
            pair: pair.opening.id,
            volumeByteCount: byteCount,
            copyState: pair.status.copyState.rawValue,
            isClosedCleanly: isClosedCleanly
        )
        record.operation = pair.status.facts.operation?.rawValue ?? 0
        record.volumeBlockByteCount = 4096
        record.isSecondSource = pair.status.isSecondSource
        record.isSecondPrimary = pair.status.isSecondPrimary
        record.isTargetConsistent = pair.status.facts.isTargetConsistent
        record.isSourceAhead = pair.status.facts.isSourceAhead
        let place = pair.opening.metadata
        if let before = try? PairMetadata.read(place).record {
            (record.sequence, record.term) = (max(before.sequence, 1), before.term)
        }
        if place.isInternal {
            try? PairMetadata.begin(record, in: place)
        } else {
            guard let area = try? PairMetadata.area(with: record, insteadOf: "/dev/null") else { return }
            try? Data(area).write(to: URL(filePath: place.path))
        }
    }
}

extension PairStatus {
    /// A pair that has just been made.
    static func initialized(_ pair: PairOpening, byteCount: UInt64) -> PairStatus {
        var status = PairStatus(
            id: pair.id,
            name: pair.name,
            copyState: .initialized,
            progress: .requiresActivate,
            facts: PairFacts(copyState: .initialized, differingByteCount: byteCount),
            isSecondSource: false,
            isSecondPrimary: false,
            isTargetExported: false,
            reason: "",
            dirtyByteCount: byteCount,
            copyTotalByteCount: 0,
            copyDoneByteCount: 0,
            copyWrittenByteCount: 0,
            copyZeroByteCount: 0,
            copyEqualByteCount: 0
        )
        status.keepsUndo = pair.settings.keepsUndo
        return status
    }

    /// Takes what a record says, as the machine does: a pair that was Synchronized and not closed cleanly is copied again, and
    /// what was being copied goes on.
    mutating func take(_ record: PairRecord, byteCount: UInt64) {
        copyState = CopyState(rawValue: record.copyState) ?? .initialized
        let wasSynchronized = copyState == .synchronized
        if wasSynchronized, !record.isClosedCleanly { copyState = .unsynchronized }
        let isMisplaced = record.isSecondPrimary != record.isSecondSource
        let lasting: Set<ReplicationOperation> =
            isMisplaced
            ? [.failback, .restoreFromReplica]
            : copyState == .unsynchronized ? [.activate, .resyncReplica, .resume, .split] : []
        facts.operation = ReplicationOperation(rawValue: record.operation).flatMap { lasting.contains($0) ? $0 : nil }
        if copyState == .unsynchronized { copyTotalByteCount = byteCount }
        dirtyByteCount = copyState == .synchronized ? 0 : byteCount
        progress = facts.operation.map { OperationTable.rule(of: $0).progress } ?? .completed
        facts.copyState = copyState
        facts.differingByteCount = dirtyByteCount
        facts.isTargetConsistent = record.isTargetConsistent || wasSynchronized
        facts.isSourceAhead = record.isSourceAhead
        isSecondSource = record.isSecondSource
        isSecondPrimary = record.isSecondPrimary
    }
}
