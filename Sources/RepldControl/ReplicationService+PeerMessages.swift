internal import Foundation
internal import Logging
internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldPair

/// What daemons say to each other
extension ReplicationService {
    /// Messages that are answered at once; of more, the rest is refused.
    private static var messageLimit: Int { 32 }

    /// Answers what peers ask, until the data plane stops.
    package func followMessages() async {
        await withDiscardingTaskGroup { group in
            for await message in plane.messages {
                guard messagesUnderWay < Self.messageLimit else {
                    let busy = ControlError(.notEnoughResources, "too many messages are being answered; try again")
                    answer(message, PeerAnswer(host: hostID, refusal: busy.reply))
                    continue
                }
                messagesUnderWay += 1
                group.addTask { await self.answer(message) }
            }
        }
    }

    private func answer(_ message: PeerMessage) async {
        defer { messagesUnderWay -= 1 }
        do throws(ControlError) {
            let request = try PeerMessages.decode(message.bytes)
            answer(message, try await carryOut(request, from: message.host))
        } catch {
            let from = registry.content.peer(ofHost: message.host.description)?.name ?? "\(message.host)"
            logger.warning("a peer's message is refused", metadata: ["peer": "\(from)", "reason": "\(error)"])
            answer(message, PeerAnswer(host: hostID, refusal: error.reply))
        }
    }

    private func answer(_ message: PeerMessage, _ answer: PeerAnswer) {
        do {
            plane.reply(to: message.token, with: try PeerMessages.encode(answer))
        } catch {
            logger.error("an answer to a peer is too long", metadata: ["reason": "\(error)"])
            let short = PeerAnswer(host: hostID, refusal: MethodReply(returnCode: .unspecifiedError))
            if let bytes = try? PeerMessages.encode(short) { plane.reply(to: message.token, with: bytes) }
        }
    }

    private func carryOut(_ request: PeerRequest, from host: PairID) async throws(ControlError) -> PeerAnswer {
        var answer = PeerAnswer(host: hostID)
        switch request {
        case .identify: break
        case .associate(let message): answer.geometry = try await associate(message, from: host)
        case .dissociate(let message): try await dissociate(message, from: host)
        case .operate(let message): answer.reply = try await operate(message, from: host)
        case .await(let message): answer.reply = try await wait(message, from: host)
        case .mode(let message): try takeNote(of: message, from: host)
        case .takeOver(let message): return await self.answer(message, from: host)
        case .differences(let message): try takeNote(of: message, from: host)
        case .meet(let message): answer.record = PeerMessages.text(of: try await meet(message, from: host))
        case .grow(let message): answer.geometry = try await growReplica(message, from: host)
        }
        return answer
    }

    /// An operation that was asked of the replica's host.
    private func operate(_ message: OperateMessage, from host: PairID) async throws(ControlError) -> MethodReply {
        let entry = try sharedPair(message.pair, with: host)
        // The role was asked for where the operation was.
        let principal = Principal(.somebodyAtPeer(message.by, peer: entry.remote?.peer ?? ""), role: .operator)
        let result: Result<MethodReply, ControlError> = await Principal.$current.withValue(principal) {
            do throws(ControlError) {
                return .success(try await setReplicationRelationship(pair: entry.name, message.request))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private func wait(_ message: AwaitMessage, from host: PairID) async throws(ControlError) -> MethodReply {
        if let moved = PairID(message.pair).flatMap({ registry.content.replica($0) }), moved.hostID == host.description
        {
            throw ControlError(.timeout, "pair '\(moved.name)' has moved to your host")
        }
        let entry = try sharedPair(message.pair, with: host)
        let wanted = try Self.copyState(message.copyState, field: "copyState")
        let limit = min(.milliseconds(message.milliseconds), PeerMessages.awaitLimit)
        try await wait(for: wanted, of: entry, until: .now.advanced(by: limit), job: message.job)
        return MethodReply(returnCode: .success, job: message.job)
    }

    /// A pair of this host whose target is on that host: others are not told apart from none.
    func sharedPair(_ id: String, with host: PairID) throws(ControlError) -> PairEntry {
        let entry = PairID(id).flatMap { registry.content.pair($0) }
        guard let entry, entry.remote?.hostID == host.description else {
            throw ControlError(.pairNotFound, "there is no pair \(id) with your host here")
        }
        return entry
    }

    /// Asks a peer's control plane, and takes note of who answers; what it refuses is thrown.
    func ask(_ peer: PeerEntry, _ message: some Encodable) async throws(ControlError) -> PeerAnswer {
        let answer = try await exchange(peer, message)
        if let refusal = answer.refusal { throw ControlError(refusal, of: "peer '\(peer.name)'") }
        return answer
    }

    /// Asks a peer's control plane; what is thrown is that it could not be asked, or has not answered.
    func exchange(_ peer: PeerEntry, _ message: some Encodable) async throws(ControlError) -> PeerAnswer {
        let who = "peer '\(peer.name)'"
        if let failure = peerFailures[peer.number] {
            throw ControlError(.peerNotConnected, "\(who) cannot be reached: \(failure)")
        }
        let bytes = try PeerMessages.encode(message)
        let found: [UInt8]
        do {
            found = try await plane.send(bytes, to: peer.id)
        } catch {
            throw Self.controlError(error, who)
        }
        let answer = try PeerAnswer.decode(found, of: who)
        if answer.host == hostID.description {
            throw ControlError(
                .invalidRequest,
                "\(who) is this daemon itself",
                suggestion: "its address is one of this host's own"
            )
        }
        note(answer.host, of: peer)
        return answer
    }

    /// Asks the peers who they are, or only those that have never said so; those that do not answer are passed over.
    func identifyPeers(onlyUnknown: Bool = false) async {
        let peers = registry.content.peers.filter { !onlyUnknown || $0.hostID == nil }
        for peer in peers { _ = try? await ask(peer, IdentifyMessage()) }
    }

    /// Keeps what a peer's daemon calls itself.
    private func note(_ host: String, of peer: PeerEntry) {
        guard let known = registry.content.peer(named: peer.name), known.number == peer.number, known.hostID != host
        else { return }
        do {
            try registry.commit { content in
                guard let index = content.peers.firstIndex(where: { $0.number == peer.number }) else { return }
                content.peers[index].hostID = host
            }
        } catch {
            logger.warning("who a peer is cannot be written down", metadata: ["reason": "\(error)"])
        }
    }

    private static func controlError(_ failure: MessageFailure, _ who: String) -> ControlError {
        switch failure {
        case .noSuchPeer: ControlError(.peerNotConnected, "\(who) is not known to the data plane")
        case .notConnected(let reason):
            ControlError(
                .peerNotConnected,
                "\(who) is not connected\(reason.isEmpty ? "" : ": \(reason)")",
                suggestion: "'replctl peer ls' shows when it is"
            )
        case .noAnswer:
            ControlError(.noAnswer, "\(who) has not answered; it may have done what was asked, or not")
        case .tooLong(let byteCount):
            ControlError(.invalidRequest, "a message of \(byteCount) bytes is too long for \(who)")
        case .stopping: ControlError(.stopping, "the daemon is stopping")
        }
    }
}
