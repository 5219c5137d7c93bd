internal import RepldCore
internal import RepldFrontends
internal import RepldPair

/// How connections end: by the client's wish, by its loss, by its fault, or because the server stops.
///
/// Whatever a connection holds comes back exactly once: a piece that an element works on when it is answered, a buffer
/// that a receive or a send uses when that completes, everything else at once.
extension Engine where P: ~Copyable {
    /// Ends a connection after its requests in flight have been answered.
    mutating func endGracefully(_ connection: Int) {
        guard nbd.connections[connection].ending == .none else { return }
        nbd.connections[connection].ending = .graceful
        leaveParser(connection)
        finishIfEnded(connection)
    }

    /// Ends a connection now: nothing is sent any more, and what is in flight is dropped when it comes back.
    mutating func endAbruptly(_ connection: Int, _ reason: NBDEndReason) {
        guard nbd.connections[connection].stage != .free, nbd.connections[connection].ending != .abrupt else { return }
        if case .none = nbd.connections[connection].endReason { nbd.connections[connection].endReason = reason }
        nbd.connections[connection].ending = .abrupt
        leaveParser(connection)
        dropOutput(connection)
        if !nbd.connections[connection].isShutDown {
            nbd.connections[connection].isShutDown = true
            platform.shutdown(nbd.connections[connection].socket)
        }
        finishIfEnded(connection)
    }

    /// Stops parsing for good: gives up the message that is being parsed, and the place on the wait list.
    private mutating func leaveParser(_ connection: Int) {
        if nbd.connections[connection].wait != nil {
            nbd.stopWaiting(connection)
            // Those behind it may go on.
            hasFreedResources = true
        }
        nbd.connections[connection].isPaused = false
        switch nbd.connections[connection].parser {
        case .submitting(let pending), .skipping(let pending, _):
            giveUp(pending, connection)
        case .payload(let pending):
            giveUpFilling(connection)
            giveUp(pending, connection)
        case .handshake, .header, .ended:
            break
        }
        nbd.connections[connection].parser = .ended
    }

    private mutating func giveUp(_ pending: SlotID, _ connection: Int) {
        if nbd.pendings[pending].failure == nil { nbd.pendings[pending].failure = .shuttingDown }
        submitted(pending, connection)
    }

    /// Gives up the piece whose payload is being received; a receive in flight keeps its buffer until it completes.
    private mutating func giveUpFilling(_ connection: Int) {
        guard let piece = nbd.connections[connection].filling else { return }
        nbd.connections[connection].filling = nil
        if nbd.connections[connection].receivesIntoPiece {
            let orphan = NBDPayload(buffer: nbd.pieces[piece].buffer, byteCount: Int(nbd.pieces[piece].length))
            nbd.connections[connection].orphan = orphan
            nbd.pieces[piece].buffer = .none
        }
        releasePiece(piece)
    }

    /// The receive that kept the buffer of a piece that was given up is over.
    mutating func releaseOrphan(_ connection: Int) {
        releasePayload(nbd.connections[connection].orphan, connection)
        nbd.connections[connection].orphan = .none
    }

    /// Drops everything that was still to be sent, and all requests that nothing works on.
    private mutating func dropOutput(_ connection: Int) {
        nbd.connections[connection].gatheredByteCount = 0
        releasePayload(nbd.connections[connection].gatheredPayload, connection)
        nbd.connections[connection].gatheredPayload = .none
        nbd.connections[connection].outboxHead = .none
        nbd.connections[connection].outboxTail = .none
        guard nbd.connections[connection].requestCount > 0 else { return }
        for index in 0..<nbd.pieces.capacity {
            guard let piece = nbd.pieces.taken(at: index), nbd.pieces[piece].hasEnded else { continue }
            if Int(nbd.pendings[nbd.pieces[piece].pending].connection) == connection { releasePiece(piece) }
        }
        for index in 0..<nbd.pendings.capacity {
            guard let pending = nbd.pendings.taken(at: index) else { continue }
            guard Int(nbd.pendings[pending].connection) == connection else { continue }
            invariant(nbd.pendings[pending].isSubmitted, "a connection that ends submits nothing more")
            if nbd.pendings[pending].pieceCount == 0 { releasePending(pending) }
        }
    }

    /// Closes a connection that ends when nothing of it is in flight any more.
    mutating func finishIfEnded(_ connection: Int) {
        guard nbd.connections[connection].stage != .free else { return }
        switch nbd.connections[connection].ending {
        case .none:
            return
        case .graceful:
            let hasMore = nbd.connections[connection].requestCount > 0 || nbd.connections[connection].hasOutput
            guard !hasMore, !nbd.connections[connection].isSending else { return }
        case .abrupt:
            break
        }
        if !nbd.connections[connection].isShutDown {
            nbd.connections[connection].isShutDown = true
            platform.shutdown(nbd.connections[connection].socket)
        }
        guard !nbd.connections[connection].isReceiving, !nbd.connections[connection].isSending,
            nbd.connections[connection].requestCount == 0
        else { return }
        close(connection)
    }

    private mutating func close(_ connection: Int) {
        invariant(nbd.connections[connection].heldByteCount == 0, "a connection that is closed holds no buffer")
        invariant(nbd.connections[connection].filling == nil, "a connection that is closed receives nothing")
        platform.close(nbd.connections[connection].socket)
        let reason = nbd.connections[connection].endReason.words
        let number = nbd.connections[connection].number
        if let session = nbd.connections[connection].session {
            let (id, side) = Self.exported(session.export.identity)
            // The volume may have been removed meanwhile, and its place taken by another.
            if let volume = volumeIndex(id) { countClient(-1, of: volume, side: side) }
            eventSink(EngineEvent(volume: id, pair: nil, kind: .clientDisconnected(number, reason: reason)))
        } else if reason != nil {
            eventSink(EngineEvent(volume: nil, pair: nil, kind: .clientDisconnected(number, reason: reason)))
        }
        nbd.connections[connection].stage = .free
        nbd.connections[connection].ending = .none
        nbd.openConnectionCount -= 1
    }

    /// Counts a client of a volume, or of the own export of a target.
    mutating func countClient(_ change: Int, of volume: Int, side: UInt8) {
        if side == 0 {
            volumes[volume].connectionCount += change
        } else {
            volumes[volume].targetConnectionCounts[Int(side) - 1] += change
        }
    }

    /// Ends all connections to an export that goes away: a volume's, or the own one of a target; its requests in flight
    /// are still answered.
    mutating func disconnectClients(of volume: Int, side: UInt8 = 0, because reason: NBDEndReason? = nil) {
        for connection in 0..<NBDServer.connectionLimit where nbd.connections[connection].stage == .transmission {
            guard nbd.connections[connection].volume == volume else { continue }
            guard nbd.connections[connection].side == side else { continue }
            endAbruptly(connection, reason ?? (side == 0 ? .volumeRemoved : .targetClosed))
        }
    }

    /// Stops accepting and reading; connections end when their requests in flight are answered.
    mutating func beginFrontendStop() {
        nbd.isStopping = true
        nbd.stopDeadline = platform.now.advanced(byNanoseconds: NBDServer.stopNanoseconds)
        for listener in 0..<NBDServer.listenerLimit where nbd.isListening[listener] {
            platform.stopAccepting(token: acceptToken(listener))
        }
        for connection in 0..<NBDServer.connectionLimit {
            switch nbd.connections[connection].stage {
            case .free: break
            case .handshake: endAbruptly(connection, .none)
            case .transmission: endGracefully(connection)
            }
        }
    }

    /// A target that does not answer its own hosts must not keep the engine from closing every other pair cleanly.
    private mutating func giveUpTargetRequests() {
        for index in 0..<volumes.count where volumes[index].isInUse {
            volumes[index].machine.advance(to: platform.now, stalled: stalledNanoseconds)
            volumes[index].machine.giveUpTargetRequests()
            carryOut(index)
        }
    }

    /// No connection and no listener is left.
    var isFrontendStopped: Bool {
        for listener in 0..<NBDServer.listenerLimit where nbd.isListening[listener] { return false }
        return nbd.openConnectionCount == 0
    }

    /// About a second has passed: ends the connections whose time is up.
    mutating func frontendTick() {
        let now = platform.now
        if nbd.isStopping && now >= nbd.stopDeadline { giveUpTargetRequests() }
        let othersWait = (0..<nbd.waiterCount).contains { nbd.connections[Int(nbd.waiters[$0])].wait != .volume }
        for connection in 0..<NBDServer.connectionLimit where nbd.connections[connection].stage != .free {
            if nbd.isStopping && now >= nbd.stopDeadline || nbd.connections[connection].isStuckAtEnd(at: now) {
                endAbruptly(connection, .lastRepliesTimedOut)
            } else if nbd.connections[connection].isTooLongInHandshake(at: now) {
                endAbruptly(connection, .handshakeTimedOut)
            } else if othersWait && nbd.connections[connection].isStuckWithBuffers(at: now) {
                endAbruptly(connection, .heldBuffersTooLong)
            }
        }
    }
}

extension NBDConnection {
    func isTooLongInHandshake(at now: Instant) -> Bool {
        stage == .handshake && now.nanoseconds(since: acceptedAt) > NBDServer.handshakeNanoseconds
    }

    /// Whether the client has said goodbye and does not take what it is still owed.
    func isStuckAtEnd(at now: Instant) -> Bool {
        ending == .graceful && isSending && now.nanoseconds(since: sendStartedAt) > NBDServer.stuckNanoseconds
    }

    /// Whether the client keeps buffers by neither taking a reply nor sending the rest of a payload.
    func isStuckWithBuffers(at now: Instant) -> Bool {
        guard heldByteCount > 0 else { return false }
        if isSending && now.nanoseconds(since: sendStartedAt) > NBDServer.stuckNanoseconds { return true }
        return filling != nil && isReceiving && now.nanoseconds(since: receiveStartedAt) > NBDServer.stuckNanoseconds
    }
}
