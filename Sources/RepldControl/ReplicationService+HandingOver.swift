internal import Foundation
internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// A pair of this host that moves to its peer, because somebody has asked for it.
struct Move: Sendable {
    var entry: PairEntry
    var volume: VolumeEntry
    var peer: PeerEntry
    var operation: ReplicationOperation
    /// Names this move to the peer: what that has refused once it does not do later.
    var attempt = UInt64.random(in: 1...UInt64(Int64.max))

    var subject: String { "volume \(volume.name)" }
    var words: String { "\(operation.name) of pair '\(entry.name)'" }
}

/// Pairs of this host that move to their peer: Failover, ReverseRoles, and the end of a Failback
///
///     hosts kept away · settled · the peer is asked ──> it takes over, or refuses · replica here, or hosts come again
///
/// Where the peer's answer is lost nobody knows: hosts stay away, and the peer is asked until it says, or has opened the pair again
/// with a later record, which it cannot take over by. After a start it is the data plane that asks (`takenOver`, `released`).
extension ReplicationService {
    /// Between two attempts to go on with a move.
    private static var moveInterval: Duration { .seconds(1) }

    /// Whether an operation lets a peer's element serve hosts, so that the pair has to move.
    static func movesToPeer(_ operation: ReplicationOperation, _ entry: PairEntry, _ facts: PairFacts) -> Bool {
        guard entry.remote != nil else { return false }
        return operation == .failover || operation == .reverseRoles && facts.copyState != .failedover
    }

    /// What hosts have written to the former source that is not here would be overwritten unseen before it has told of that.
    func checkPeerIsMet(_ operation: ReplicationOperation, _ entry: PairEntry) throws(ControlError) {
        guard let remote = entry.remote, !entry.isPeerMet, Self.moving.contains(operation) else { return }
        throw ControlError(
            .notInThisState,
            """
            \(operation.name) of pair '\(entry.name)' has to wait: peer '\(remote.peer)', from which it was taken over, has not \
            told yet what it has that is not here
            """,
            suggestion: "it does as soon as it is connected: 'replctl peer ls' shows that"
        )
    }

    /// Begins a move that the table accepts; its job ends when hosts are served by the peer, or here again.
    func beginMove(
        _ operation: ReplicationOperation,
        of entry: PairEntry,
        _ before: PairSituation,
        _ consent: Consent,
        _ caller: Caller
    ) async throws(ControlError) -> MethodReply {
        // From here on no other pair of the volume begins what would keep it from becoming a replica.
        moves.insert(entry.id)
        var isBegun = false
        defer { if !isBegun { moves.remove(entry.id) } }
        let move = try await checkedMove(operation, of: entry)
        guard before.facts.copyState != .unsynchronized, before.facts.copyState != .skewed else {
            throw ControlError(
                .notInThisState,
                "\(move.words) has to wait: what differs is being copied",
                suggestion: "wait until it is Synchronized, or Suspend it first"
            )
        }
        let connection = connection(to: move.peer, try await planeStatus())
        guard connection.isConnected else {
            throw ControlError(
                .peerNotConnected,
                "\(move.words): peer '\(move.peer.name)' is not connected (\(connection.reason ?? ""))",
                suggestion: "where this host cannot be reached, Failover can be asked for there"
            )
        }
        let check = try await message(of: move, Settled(isEqual: false, isAhead: false), isCheck: true)
        _ = try await ask(move.peer, check)
        try begin(move.words, on: move.subject)
        let job: JobEntry
        do throws(ControlError) {
            guard
                case .accepted(let result) = OperationTable.verdict(operation, before.facts, isForced: consent.isForced)
            else { throw ControlError(.notInThisState, "\(move.words): its state has just changed; try again") }
            job = try makeJob(operation, on: entry, before, to: result, caller)
        } catch {
            end(on: move.subject)
            throw error
        }
        noteRunning(job.number)
        noteChange("\(operation.name) accepted", of: entry)
        isBegun = true
        Task { await carryOut(move) }
        return MethodReply(returnCode: .jobStarted, job: job.id)
    }

    /// A failback has nothing left to copy: hosts can be moved back.
    func beginEndOfFailback(_ id: PairID) async {
        guard let entry = registry.content.pair(id), entry.remote != nil, !moves.contains(id) else { return }
        moves.insert(id)
        while await isReadyToFailBack(entry) {
            do throws(ControlError) {
                let move = try await checkedMove(.failback, of: entry)
                try begin(move.words, on: move.subject)
                return await carryOut(move)
            } catch {
                logger.warning("a failback waits", metadata: ["pair": "\(entry.name)", "reason": "\(error)"])
            }
            guard await waitToGoOn() else { break }
        }
        moves.remove(id)
    }

    private func isReadyToFailBack(_ entry: PairEntry) async -> Bool {
        let status = try? await planeStatus()
        guard let facts = status?.volumes.lazy.flatMap(\.pairs).first(where: { $0.id == entry.id })?.facts else {
            return false
        }
        return facts.operation == .failback && facts.differingByteCount == 0 && registry.content.pair(entry.id) != nil
    }

    private func checkedMove(_ operation: ReplicationOperation, of entry: PairEntry) async throws(ControlError) -> Move
    {
        guard let remote = entry.remote, let peer = registry.content.peer(named: remote.peer),
            let volume = registry.content.volume(entry.volumeNumber)
        else { throw ControlError(.internalFailure, "pair '\(entry.name)' has no peer, or no volume") }
        try await checkOthersCanRest(besides: entry, of: volume, "\(operation.name) of pair '\(entry.name)'")
        return Move(entry: entry, volume: volume, peer: peer, operation: operation)
    }

    // MARK: - The steps

    /// What both hosts know when the peer is asked.
    private struct Settled: Sendable {
        var sequence: UInt64 = 0
        var isEqual: Bool
        var isAhead: Bool
    }

    private enum TakeOverAnswer: Sendable {
        case taken(PairRecord)
        case refused(ControlError)
        /// It may have been done, or be done yet.
        case unknown(ControlError)
    }

    /// Moves a pair, or leaves it here; the claims of both are given back.
    private func carryOut(_ move: Move) async {
        defer {
            moves.remove(move.entry.id)
            end(on: move.subject)
        }
        do {
            try await plane.withhold(move.volume.id)
        } catch {
            // Hosts that are kept away for another reason are not let in.
            let error = Self.controlError(error, move.words)
            return await stay(move, because: error, isUnsettled: true, isWithheld: false)
        }
        let settled: Settled
        do throws(ControlError) {
            try await checkOthersCanRest(besides: move.entry, of: move.volume, move.words)
            settled = try await settle(move)
        } catch {
            return await stay(move, because: error, isUnsettled: true)
        }
        while true {
            switch await askToTakeOver(move, settled) {
            case .taken(let record):
                if await becomeReplica(move, record, settled) { return }
            case .refused(let error):
                return await stay(move, because: error)
            case .unknown(let error):
                let words =
                    "nobody knows whether peer '\(move.peer.name)' has taken it over, and hosts wait: \(error.message)"
                noteTrouble(words, of: move.entry)
            }
            guard await waitToGoOn(), await isUndecided(move) else { return }
        }
    }

    /// Brings the pair, whose hosts are kept away, to the point at which the peer can take it over.
    private func settle(_ move: Move) async throws(ControlError) -> Settled {
        do {
            let status = try await plane.status()
            let pair = status.volumes.lazy.flatMap(\.pairs).first { $0.id == move.entry.id }
            let record = try await plane.settle(move.entry.id)
            guard let facts = pair?.facts else {
                throw ControlError(.pairNotFound, "the data plane does not have the pair")
            }
            let isEqual = facts.copyState == .synchronized || facts.operation == .failback
            return Settled(
                sequence: record.sequence,
                isEqual: isEqual && facts.differingByteCount == 0,
                isAhead: facts.isSourceAhead || facts.changedByteCount > 0
            )
        } catch {
            throw Self.controlError(error, move.words)
        }
    }

    private func message(
        of move: Move,
        _ settled: Settled,
        isCheck: Bool = false
    ) async throws(ControlError) -> TakeOverMessage {
        TakeOverMessage(
            pair: move.entry.id,
            attempt: move.attempt,
            isCheck: isCheck,
            operation: move.operation,
            sequence: settled.sequence,
            isEqual: settled.isEqual,
            isAhead: settled.isAhead,
            moving: MovingPair(
                registry.content.pair(move.entry.id) ?? move.entry,
                volume: move.volume.name,
                geometry: try await ownGeometry(of: move.volume)
            )
        )
    }

    /// The volume's geometry, as peers are told of it.
    func ownGeometry(of volume: VolumeEntry) async throws(ControlError) -> RemoteGeometry {
        let served = try await planeStatus().volumes.first { $0.id == volume.id }
        guard let served, var geometry = volumes[volume.number]?.geometry else {
            throw ControlError(.volumeNotServed, "volume '\(volume.name)' is not served")
        }
        geometry.byteCount = served.byteCount
        geometry.logicalBlockByteCount = served.blockByteCount
        return RemoteGeometry(geometry)
    }

    private func askToTakeOver(_ move: Move, _ settled: Settled) async -> TakeOverAnswer {
        let answer: PeerAnswer
        do throws(ControlError) {
            let message = try await message(of: move, settled)
            answer = try await exchange(move.peer, message)
        } catch {
            return .unknown(error)
        }
        if let refusal = answer.refusal {
            let error = ControlError(refusal, of: "peer '\(move.peer.name)'")
            return answer.isFinal == true ? .refused(error) : .unknown(error)
        }
        guard let record = answer.record.flatMap({ PeerMessages.record(in: $0, of: move.entry.id) }) else {
            return .unknown(ControlError(.refused, "peer '\(move.peer.name)' has answered without a record"))
        }
        return .taken(record)
    }

    /// The peer has the pair: true when this side is its replica.
    private func becomeReplica(_ move: Move, _ record: PairRecord, _ settled: Settled) async -> Bool {
        do throws(ControlError) {
            var record = record
            if !settled.isEqual { record = try await tellChanges(of: move.entry, move.volume, move.peer) }
            try await becomeReplica(move.entry, move.volume, record)
            return true
        } catch {
            noteTrouble(
                "peer '\(move.peer.name)' serves hosts, and this side is not its replica yet: \(error)",
                of: move.entry
            )
            return false
        }
    }

    /// Hosts are served here as before: the peer has not taken the pair over, and does not by this attempt.
    private func stay(
        _ move: Move,
        because error: ControlError,
        isUnsettled: Bool = false,
        isWithheld: Bool = true
    ) async {
        moveTroubles[move.entry.id] = nil
        guard error.code != .stopping else { return }
        let isTriedAgain = move.operation == .failback && isUnsettled
        if !isTriedAgain {
            for job in jobs.running(of: move.entry.id) where job.operation == move.operation {
                end(job, .exception, code: error.code.returnCode, error.description)
            }
            if move.operation == .failback { try? await plane.cancelOperation(move.entry.id) }
        }
        do {
            if isWithheld { try await plane.release(move.volume.id) }
        } catch {
            logger.error("hosts are kept away", metadata: ["volume": "\(move.volume.name)", "reason": "\(error)"])
        }
        // What has begun to differ again is copied first; where nothing has, nobody tells of it any more.
        guard isTriedAgain else { return }
        Task {
            guard await waitToGoOn() else { return }
            await beginEndOfFailback(move.entry.id)
        }
    }

    /// Whether a move still has to come to its end; where hosts have been let in, it has not taken place.
    private func isUndecided(_ move: Move) async -> Bool {
        guard registry.content.pair(move.entry.id) != nil, let status = try? await planeStatus() else { return false }
        guard let volume = status.volumes.first(where: { $0.id == move.volume.id }) else { return false }
        if volume.isWithheld { return true }
        endMoves(ofVolume: move.volume.number, includingThoseUnderWay: true)
        return false
    }

    /// Ends the jobs of moves that have not taken place: hosts have been let in here.
    func endMoves(ofVolume number: UInt64, includingThoseUnderWay isAll: Bool = false) {
        for entry in registry.content.pairs where entry.volumeNumber == number && entry.remote != nil {
            guard isAll || !moves.contains(entry.id) else { continue }
            moveTroubles[entry.id] = nil
            for job in jobs.running(of: entry.id) where job.operation == .failover || job.operation == .reverseRoles {
                end(job, .exception, code: .failed, "the peer has not taken the pair over; hosts are served here")
            }
        }
    }

    /// False when the daemon stops.
    private func waitToGoOn() async -> Bool {
        do {
            try await Task.sleep(for: Self.moveInterval)
        } catch {
            return false
        }
        return !isStopped
    }

    /// Tells once why a pair does not move on.
    func noteTrouble(_ words: String, of entry: PairEntry) {
        guard moveTroubles[entry.id] != words else { return }
        moveTroubles[entry.id] = words
        let volume = registry.content.volume(entry.volumeNumber)?.name
        record("pair-not-moved", volume: volume, pair: entry.name, message: words, level: .error)
    }
}
