internal import RepldCore
internal import RepldEngine

/// A stream connection between two hosts.
///
/// Side 0 is the one that connected.
///
/// What is true of it at all times:
/// - Bytes arrive in the order in which they were sent, each at most once and as it was: checksums, sequence numbers and
///   encryption below see to that. What fails is the connection, never a byte.
/// - A send completes when its last byte is in the send buffer, which says nothing about the other end. The buffer is
///   bounded, and a byte leaves it when it has arrived and word of that has come back.
/// - An end that is shut down, closed, failed or gone answers bytes with a reset, which takes its time, may be lost, and
///   may overtake what is on its way, as it does outside.
/// - A lost connection is told once, to a send or a receive; after that receives find the end of the stream.
final class SimulatedConnection {
    unowned let world: SimulatedWorld
    var ends: [SimulatedEnd]

    init(_ world: SimulatedWorld, from client: SimulatedHost, to server: SimulatedHost) {
        self.world = world
        ends = [
            SimulatedEnd(host: client, link: world.network.link(from: client, to: server)),
            SimulatedEnd(host: server, link: world.network.link(from: server, to: client)),
        ]
    }

    private var settings: SimulatedNetwork.Settings { world.network.settings }

    /// Neither host has a socket of it.
    var isOver: Bool { ends.allSatisfy { $0.state == .closed || $0.state == .gone } }

    /// One end knows nothing of the connection, or cannot be heard at the other.
    var isHalfOpen: Bool { ends.contains { $0.isMuted || $0.state == .failed || $0.state == .gone } }

    /// Whether nothing comes through from one side to the other.
    func isSilent(_ side: Int) -> Bool {
        ends[side].link.isPartitioned || ends[side].isMuted || !ends[1 - side].host.isUp
    }

    // MARK: - What sockets ask for

    func start(_ receive: SimulatedReceive, _ side: Int) {
        invariant(ends[side].receive == nil, "one receive per socket is in flight")
        ends[side].receive = receive
        settle(side)
    }

    func start(_ send: SimulatedSend, _ side: Int) {
        invariant(ends[side].send == nil, "one send per socket is in flight")
        ends[side].send = send
        settle(side)
        pump(side)
    }

    func shutDown(_ side: Int) {
        guard ends[side].state == .open else { return }
        ends[side].state = .shutDown
        ends[side].isEnding = true
        settle(side)
        pump(side)
    }

    /// The socket goes.
    ///
    /// Bytes that nobody has received make it a reset.
    func close(_ side: Int) {
        if ends[side].state == .failed || !ends[side].arrived.isEmpty { return abandon(side) }
        ends[side].state = .closed
        ends[side].isEnding = true
        pump(side)
    }

    /// Nobody knows of this end any more, and the other is told so, if it comes through.
    func abandon(_ side: Int) {
        let isKnown = ends[side].state != .failed
        forget(side)
        if isKnown { sendReset(from: side) }
    }

    /// What this side sends vanishes from now on, until the connection is cut.
    func mute(_ side: Int) { ends[side].isMuted = true }

    /// The host of one side dies: the other hears of it, or not.
    func crash(_ side: Int) {
        forget(side)
        if world.random.chance(oneIn: 2) { sendReset(from: side) }
    }

    private func forget(_ side: Int) {
        ends[side].state = .gone
        ends[side].unsent.removeAll()
        ends[side].arrived.removeAll()
        ends[side].receive = nil
        ends[side].send = nil
        ends[side].resetArrivesAt = nil
        ends[side].silentSince = nil
    }

    private func sendReset(from side: Int) {
        guard ends[1 - side].isSending, ends[1 - side].resetArrivesAt == nil else { return }
        ends[1 - side].resetArrivesAt = world.now + 1 + ends[side].link.delay(&world.random)
    }

    /// One side learns that the connection is lost.
    ///
    /// What has come there may still be received, or not.
    func fail(_ side: Int, _ failure: IOFailure) {
        guard ends[side].isSending else { return }
        if ends[side].state == .closed { return forget(side) }
        ends[side].state = .failed
        ends[side].failure = failure
        ends[side].unsent.removeAll()
        ends[side].silentSince = nil
        ends[side].resetArrivesAt = nil
        if world.random.chance(oneIn: 2) { ends[side].arrived.removeAll() }
        settle(side)
    }

    // MARK: - The way of the bytes

    /// Moves bytes on: from a send into the buffer, from the buffer to the link.
    func pump(_ side: Int) {
        fillBuffer(side)
        transmit(side)
        noteSilence(side)
    }

    private func fillBuffer(_ side: Int) {
        guard let send = ends[side].send, send.due == nil, ends[side].state == .open else { return }
        let room = max(0, settings.sendBufferByteCount - ends[side].bufferedByteCount)
        let end = min(send.takenCount + room, send.bytes.count)
        ends[side].unsent.append(send.bytes[send.takenCount..<end])
        ends[side].send?.takenCount = end
        if end == send.bytes.count { ends[side].send?.due = soon() }
    }

    private func transmit(_ side: Int) {
        guard ends[side].isSending, !isSilent(side) else { return }
        while !ends[side].unsent.isEmpty, ends[side].leavingUntil <= world.now, window(side) > 0 {
            let count = pieceByteCount(atMost: min(ends[side].unsent.count, window(side)))
            let leftAt = ends[side].link.take(byteCount: count, at: world.now)
            ends[side].leavingUntil = leftAt
            put(ends[side].unsent.take(count), side, after: leftAt)
            ends[side].transitByteCount += count
        }
        if ends[side].isEnding, !ends[side].hasSentEnd, ends[side].unsent.isEmpty {
            ends[side].hasSentEnd = true
            put([], side, after: ends[side].leavingUntil)
        }
    }

    private func put(_ bytes: [UInt8], _ side: Int, after leftAt: UInt64) {
        let arrivesAt = max(leftAt, world.now) + 1 + ends[side].link.delay(&world.random)
        let before = ends[side].transit.last?.arrivesAt ?? 0
        ends[side].transit.append(SimulatedEnd.Piece(bytes: bytes, arrivesAt: max(before, arrivesAt)))
    }

    /// What the other end has room for.
    private func window(_ side: Int) -> Int {
        settings.receiveBufferByteCount - ends[1 - side].arrived.count - ends[side].transitByteCount
    }

    /// Half of the pieces are as large as can be, and a few are tiny.
    private func pieceByteCount(atMost most: Int) -> Int {
        let limit = UInt64(min(most, settings.pieceByteCountMaximum))
        switch world.random.below(8) {
        case 0: return 1 + Int(world.random.below(min(limit, 64)))
        case 1...3: return 1 + Int(world.random.below(limit))
        default: return Int(limit)
        }
    }

    private func deliverArrived(_ side: Int) {
        while let piece = ends[side].transit.first, piece.arrivesAt <= world.now {
            ends[side].transit.removeFirst()
            ends[side].transitByteCount -= piece.bytes.count
            if isSilent(1 - side) { ends[side].unacknowledgedByteCount += piece.bytes.count }
            // What arrives is a sign of life.
            ends[side].silentSince = nil
            take(piece, 1 - side)
        }
    }

    private func take(_ piece: SimulatedEnd.Piece, _ side: Int) {
        guard ends[side].state == .open else {
            if !piece.bytes.isEmpty { sendReset(from: side) }
            return
        }
        if piece.bytes.isEmpty {
            ends[side].hasEnded = true
        } else {
            ends[side].arrived.append(piece.bytes[...])
        }
        settle(side)
    }

    /// What is sent and not confirmed is sent again and again, and not for ever.
    private func noteSilence(_ side: Int) {
        let waits = ends[side].isSending && (ends[side].bufferedByteCount > 0 || !ends[side].transit.isEmpty)
        guard waits, isSilent(side) || isSilent(1 - side) else {
            ends[side].silentSince = nil
            return
        }
        if ends[side].silentSince == nil { ends[side].silentSince = world.now }
    }

    // MARK: - The ends of transfers

    /// Where there is something to complete a transfer with, it is due soon.
    private func settle(_ side: Int) {
        let end = ends[side]
        if let receive = end.receive, receive.due == nil {
            if !end.arrived.isEmpty || end.hasEnded || end.state != .open { ends[side].receive?.due = soon() }
        }
        if let send = end.send, send.due == nil, end.state != .open { ends[side].send?.due = soon() }
    }

    private func soon() -> SimulatedDue {
        SimulatedDue(
            moment: world.soon(within: SimulatedNetwork.kernelLimitNanoseconds),
            sequence: world.takeSequence()
        )
    }

    func endReceive(_ side: Int) -> Completion {
        guard let receive = ends[side].receive else { invariantFailed("a receive ends once") }
        ends[side].receive = nil
        let count = unsafe min(receive.memory.count, ends[side].arrived.count)
        if count > 0 {
            unsafe receive.memory.copyBytes(from: ends[side].arrived.take(count))
            // There is room again.
            pump(1 - side)
            return Completion(token: receive.token, count: UInt32(count), failure: nil)
        }
        // Until it completes, a receive may put anything into its memory.
        unsafe receive.memory.initializeMemory(as: UInt8.self, repeating: 0xEE)
        let isCancelled = ends[side].state == .shutDown && world.random.chance(oneIn: 4)
        let failure = takeFailure(side) ?? (isCancelled ? .cancelled : nil)
        return Completion(token: receive.token, count: 0, failure: failure)
    }

    func endSend(_ side: Int) -> Completion {
        guard let send = ends[side].send else { invariantFailed("a send ends once") }
        ends[side].send = nil
        invariant(send.isUntouched, "memory stays as it is while it is sent")
        if send.isTaken { return Completion(token: send.token, count: UInt32(send.bytes.count), failure: nil) }
        return Completion(token: send.token, count: 0, failure: takeFailure(side) ?? .gone)
    }

    private func takeFailure(_ side: Int) -> IOFailure? {
        defer { ends[side].failure = nil }
        return ends[side].failure
    }

    // MARK: - Time

    /// When something next happens to what is on its way from one side, or to that side.
    func nextMoment(_ side: Int) -> UInt64 {
        let end = ends[side]
        var moment = end.resetArrivesAt ?? .max
        if !isSilent(side) {
            if let piece = end.transit.first { moment = min(moment, piece.arrivesAt) }
            if end.isSending, !end.unsent.isEmpty, window(side) > 0 { moment = min(moment, end.leavingUntil) }
        }
        return min(moment, silenceEnd(side))
    }

    private func silenceEnd(_ side: Int) -> UInt64 {
        guard let since = ends[side].silentSince, let limit = settings.silenceLimitNanoseconds else { return .max }
        return since + limit
    }

    func carryOut(_ side: Int) {
        if let moment = ends[side].resetArrivesAt, moment <= world.now {
            ends[side].resetArrivesAt = nil
            // A reset is not sent again.
            if !isSilent(1 - side) { fail(side, .gone) }
        }
        if !isSilent(side) {
            deliverArrived(side)
            pump(side)
        }
        if silenceEnd(side) <= world.now { fail(side, .timedOut) }
    }

    /// The network or a host has changed: what waited goes on, after a while.
    func reconsider(_ side: Int) {
        if !isSilent(1 - side) { ends[side].unacknowledgedByteCount = 0 }
        if !isSilent(side), let first = ends[side].transit.first, first.arrivesAt < world.now {
            let resumesAt = world.soon(within: SimulatedNetwork.retryLimitNanoseconds)
            for index in ends[side].transit.indices where ends[side].transit[index].arrivesAt < resumesAt {
                ends[side].transit[index].arrivesAt = resumesAt
            }
        }
        pump(side)
    }
}
