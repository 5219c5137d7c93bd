internal import RepldCore
internal import RepldFrontends
internal import RepldPair

/// What one step of a connection's parser came to.
enum NBDParserStep: BitwiseCopyable {
    case again
    case needsInput
    /// Something shared is missing; tried again when it is given back.
    case waits(NBDWait)
    /// Too much of its own is in flight; tried again when some of it is done.
    case pauses
    case ended
}

/// From accepting a client to parsed requests.
extension Engine where P: ~Copyable {
    // MARK: - Accepting

    mutating func acceptCompleted(_ listener: Int, _ completion: Completion) {
        if let failure = completion.failure {
            // Any other failure is of one accept only: accepting goes on.
            if failure == .cancelled { nbd.isListening[listener] = false }
            return
        }
        let socket = SocketID(index: UInt16(completion.count))
        let number = nbd.nextNumber
        nbd.nextNumber &+= 1
        let place = (0..<NBDServer.connectionLimit).first { nbd.connections[$0].stage == .free }
        guard !nbd.isStopping, let place else {
            platform.shutdown(socket)
            platform.close(socket)
            if !nbd.isStopping {
                let reason = NBDEndReason.tooManyClients.words
                eventSink(EngineEvent(volume: nil, pair: nil, kind: .clientDisconnected(number, reason: reason)))
            }
            return
        }
        nbd.connections[place].begin(socket: socket, number: number, at: platform.now)
        nbd.openConnectionCount += 1
        advanceClient(place)
    }

    // MARK: - Receiving

    /// Receives more for a parser that needs it.
    private mutating func receive(_ connection: Int) {
        guard !nbd.connections[connection].isReceiving else { return }
        let token = clientToken(.receive, connection)
        let socket = nbd.connections[connection].socket
        nbd.connections[connection].isReceiving = true
        nbd.connections[connection].receiveStartedAt = platform.now
        if let piece = nbd.connections[connection].filling, nbd.connections[connection].stagedByteCount == 0 {
            let length = Int(nbd.pieces[piece].length)
            let filled = nbd.connections[connection].filledByteCount
            if length - filled >= NBDServer.directByteMinimum {
                nbd.connections[connection].receivesIntoPiece = true
                let memory = unsafe pool.bytes(of: nbd.pieces[piece].buffer)
                unsafe platform.receive(
                    socket,
                    into: UnsafeMutableRawBufferPointer(rebasing: memory[filled..<length]),
                    token: token
                )
                return
            }
        }
        unsafe platform.receive(socket, into: nbd.connections[connection].stagingToReceiveInto(), token: token)
    }

    mutating func receiveCompleted(_ connection: Int, _ completion: Completion) {
        invariant(nbd.connections[connection].isReceiving, "a receive completes once")
        nbd.connections[connection].isReceiving = false
        let isDirect = nbd.connections[connection].receivesIntoPiece
        nbd.connections[connection].receivesIntoPiece = false
        releaseOrphan(connection)
        guard nbd.connections[connection].ending == .none else { return finishIfEnded(connection) }
        if let failure = completion.failure { return endAbruptly(connection, .receiveFailed(failure)) }
        guard completion.count > 0 else { return streamEnded(connection) }
        let count = Int(completion.count)
        if isDirect {
            nbd.connections[connection].filledByteCount += count
        } else {
            let range = nbd.connections[connection].stagedRange
            nbd.connections[connection].stagedRange = range.lowerBound..<range.upperBound + count
        }
        advanceClient(connection)
    }

    /// The client closed its side.
    ///
    /// Between two messages that is a way to leave; inside one it is a loss.
    private mutating func streamEnded(_ connection: Int) {
        switch nbd.connections[connection].parser {
        case .header where nbd.connections[connection].stagedByteCount == 0: endGracefully(connection)
        case .handshake: endAbruptly(connection, .none)
        case .header, .submitting, .payload, .skipping, .ended: endAbruptly(connection, .endedInsideMessage)
        }
    }

    // MARK: - Parsing

    /// Parses and submits until the client's bytes are used up or something is missing.
    mutating func advanceClient(_ connection: Int) {
        nbd.connections[connection].isPaused = false
        while true {
            switch step(connection) {
            case .again:
                nbd.stopWaiting(connection)
            case .needsInput:
                nbd.stopWaiting(connection)
                return receive(connection)
            case .waits(let what):
                return nbd.wait(connection, for: what)
            case .pauses:
                nbd.stopWaiting(connection)
                nbd.connections[connection].isPaused = true
                return
            case .ended:
                return
            }
        }
    }

    /// Goes on with a client that paused for want of room of its own.
    mutating func resumeIfPaused(_ connection: Int) {
        if nbd.connections[connection].isPaused { advanceClient(connection) }
    }

    private mutating func step(_ connection: Int) -> NBDParserStep {
        switch nbd.connections[connection].parser {
        case .handshake: stepHandshake(connection)
        case .header: stepHeader(connection)
        case .submitting(let pending): submitNext(connection, pending)
        case .payload(let pending): stepPayload(connection, pending)
        case .skipping(let pending, let byteCount): skip(connection, pending, byteCount)
        case .ended: .ended
        }
    }

    private mutating func stepHandshake(_ connection: Int) -> NBDParserStep {
        var handshake = nbd.connections[connection].handshake
        let half = unsafe nbd.connections[connection].memory.half(nbd.connections[connection].gatherHalf)
        var output = unsafe OutputRawSpan(
            buffer: half,
            initializedCount: nbd.connections[connection].gatheredByteCount
        )
        let input = unsafe RawSpan(_unsafeBytes: nbd.connections[connection].staged)
        let progress = handshake.advance(input, exports: self, output: &output)
        nbd.connections[connection].gatheredByteCount = unsafe output.finalize(for: half)
        nbd.connections[connection].handshake = handshake
        nbd.connections[connection].dropStaged(progress.consumedByteCount)
        markForSending(connection)
        switch progress.outcome {
        case .needsInput:
            return .needsInput
        case .needsOutputSpace:
            return .pauses
        case .transmission(let session):
            let (id, side) = Self.exported(session.export.identity)
            guard let volume = volumeIndex(id) else { invariantFailed("an export is a volume's") }
            nbd.connections[connection].session = session
            nbd.connections[connection].isStructured = session.hasStructuredReplies
            nbd.connections[connection].volume = volume
            nbd.connections[connection].side = side
            nbd.connections[connection].stage = .transmission
            nbd.connections[connection].parser = .header
            countClient(1, of: volume, side: side)
            let number = nbd.connections[connection].number
            eventSink(EngineEvent(volume: volumes[volume].id, pair: nil, kind: .clientConnected(number)))
            return .again
        case .close(let reason):
            nbd.connections[connection].endReason = .protocol(reason)
            endGracefully(connection)
            return .ended
        }
    }

    private mutating func stepHeader(_ connection: Int) -> NBDParserStep {
        guard nbd.connections[connection].stagedByteCount >= NBDRequest.headerByteCount else { return .needsInput }
        guard nbd.connections[connection].requestCount < NBDServer.requestLimit else { return .pauses }
        guard let session = nbd.connections[connection].session else { invariantFailed("requests follow a handshake") }
        let bytes = unsafe RawSpan(_unsafeBytes: nbd.connections[connection].staged)
        guard let request = NBDRequest(parsing: bytes) else {
            endAbruptly(connection, .protocol(.badRequestMagic))
            return .ended
        }
        switch request.verdict(for: session) {
        case .close(let reason):
            endAbruptly(connection, .protocol(reason))
            return .ended
        case .accept(.disconnect):
            nbd.connections[connection].dropStaged(NBDRequest.headerByteCount)
            endGracefully(connection)
            return .ended
        case .refuse(let code, let payloadByteCount):
            let command = NBDCommand(rawValue: request.commandNumber) ?? .flush
            guard let pending = take(request, command, connection) else { return .waits(.table) }
            nbd.pendings[pending].failure = code
            nbd.connections[connection].parser = .skipping(pending, byteCount: payloadByteCount)
        case .accept(let command):
            guard let pending = take(request, command, connection) else { return .waits(.table) }
            accept(pending, request, command, connection)
        }
        return .again
    }

    /// Takes a request off the stream and into the table; `nil` when the table is full.
    private mutating func take(_ request: NBDRequest, _ command: NBDCommand, _ connection: Int) -> SlotID? {
        guard !nbd.mustQueue(connection, for: .table) else { return nil }
        let record = NBDPending(connection: UInt16(connection), command: command, request: request)
        guard let pending = nbd.pendings.take(record) else { return nil }
        nbd.connections[connection].dropStaged(NBDRequest.headerByteCount)
        nbd.connections[connection].requestCount += 1
        return pending
    }

    private mutating func accept(_ pending: SlotID, _ request: NBDRequest, _ command: NBDCommand, _ connection: Int) {
        switch command {
        case .write:
            nbd.connections[connection].parser = .payload(pending)
        case .cache:
            // Elements bypass the page cache, so there is nothing to warm: the wish is granted by doing nothing.
            submitted(pending, connection)
        case .read where request.flags.contains(.doNotFragment) && Int(request.length) > pool.largestByteCount:
            // One chunk would need all of it in memory at once; the protocol lets a server decline.
            nbd.pendings[pending].failure = .overflow
            submitted(pending, connection)
        case .read, .flush, .trim, .writeZeroes, .blockStatus, .disconnect:
            nbd.connections[connection].parser = .submitting(pending)
        }
    }

    private mutating func stepPayload(_ connection: Int, _ pending: SlotID) -> NBDParserStep {
        guard let piece = nbd.connections[connection].filling else { return beginFilling(connection, pending) }
        let length = Int(nbd.pieces[piece].length)
        let filled = nbd.connections[connection].filledByteCount
        let count = min(nbd.connections[connection].stagedByteCount, length - filled)
        if count > 0 {
            let memory = unsafe pool.bytes(of: nbd.pieces[piece].buffer)
            unsafe UnsafeMutableRawBufferPointer(rebasing: memory[filled..<filled + count]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: nbd.connections[connection].staged[..<count])
            )
            nbd.connections[connection].dropStaged(count)
            nbd.connections[connection].filledByteCount += count
        }
        guard nbd.connections[connection].filledByteCount == length else { return .needsInput }
        return submitFilled(connection, pending, piece)
    }

    private mutating func skip(_ connection: Int, _ pending: SlotID, _ byteCount: UInt32) -> NBDParserStep {
        let count = min(nbd.connections[connection].stagedByteCount, Int(byteCount))
        nbd.connections[connection].dropStaged(count)
        guard count == Int(byteCount) else {
            nbd.connections[connection].parser = .skipping(pending, byteCount: byteCount - UInt32(count))
            return .needsInput
        }
        submitted(pending, connection)
        return .again
    }
}

extension NBDConnection {
    /// Puts the place to a new use.
    mutating func begin(socket: SocketID, number: UInt32, at now: Instant) {
        invariant(stage == .free && requestCount == 0 && heldByteCount == 0, "a free place holds nothing")
        stage = .handshake
        ending = .none
        endReason = .none
        parser = .handshake
        generation &+= 1
        self.number = number
        self.socket = socket
        acceptedAt = now
        handshake = NBDHandshake()
        session = nil
        isStructured = false
        isPaused = false
        stagedRange = 0..<0
        isShutDown = false
    }
}
