internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// Frames: how they are sent, and who gets those that are received.
extension Engine where P: ~Copyable {
    // MARK: - Sending

    /// Whether a frame of data would find room; control frames always do, because what asks for them is bounded.
    func hasRoomForFrame(_ connection: Int) -> Bool {
        links.connections[connection].frames.count < Links.queuedFrameLimit
    }

    /// Puts a frame at the end of what a connection sends.
    mutating func enqueue(_ frame: OutgoingFrame, on connection: Int) {
        guard !links.connections[connection].isEnding else { return releaseServe(of: frame) }
        links.connections[connection].frames.append(frame)
        mark(connection)
    }

    mutating func mark(_ connection: Int) {
        guard !links.connections[connection].isMarked else { return }
        links.connections[connection].isMarked = true
        links.marked.append(UInt16(connection))
    }

    /// Sends a frame with a payload of a fixed size.
    mutating func send<Payload: FramePayload>(
        _ kind: FrameKind,
        _ payload: Payload,
        on connection: Int,
        stream: UInt32 = 0,
        tag: UInt64 = 0,
        detail: UInt32 = 0
    ) {
        var bytes = [UInt8](repeating: 0, count: Payload.byteCount)
        var span = bytes.mutableSpan
        var raw = unsafe span.mutableBytes
        payload.encode(into: &raw)
        send(kind, bytes: bytes, on: connection, stream: stream, tag: tag, detail: detail)
    }

    mutating func send(
        _ kind: FrameKind,
        bytes: [UInt8],
        on connection: Int,
        stream: UInt32 = 0,
        tag: UInt64 = 0,
        detail: UInt32 = 0
    ) {
        guard !links.connections[connection].isEnding else { return }
        var header = FrameHeader(kind: kind, stream: stream, tag: tag, detail: detail)
        unsafe header.seal(payload: bytes.span.bytes)
        links.connections[connection].controlPayloads.append(bytes)
        enqueue(OutgoingFrame(header: header, payload: .control), on: connection)
    }

    /// Sends what has gathered.
    mutating func flushLinks() {
        while let connection = links.marked.popFirst() {
            links.connections[Int(connection)].isMarked = false
            startSendingFrames(Int(connection))
        }
    }

    private mutating func startSendingFrames(_ connection: Int) {
        guard !links.connections[connection].isSending, !links.connections[connection].isEnding else { return }
        guard let socket = links.connections[connection].socket else { return }
        let memory = unsafe links.connections[connection].memory.sending
        var used = 0
        var tail = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        while !links.connections[connection].frames.isEmpty {
            let frame = links.connections[connection].frames[0]
            guard isStillAsked(frame, connection) else {
                return endConnection(connection, LinkEnd(.badOrder, "an answer to what was not sent"))
            }
            guard let frame = readyFrame(frame, connection) else { break }
            let isCopied = frame.header.payloadByteCount <= UInt32(Links.copiedByteLimit) || isControl(frame.payload)
            let needed = FrameHeader.byteCount + (isCopied ? Int(frame.header.payloadByteCount) : 0)
            guard used + needed <= memory.count else { break }
            _ = links.connections[connection].frames.popFirst()
            let place = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[used..<used + needed])
            used += needed
            if let payload = unsafe pack(frame, into: place, connection) {
                unsafe tail = payload
                links.connections[connection].sentServe = frame.serve
                links.connections[connection].sentPlace = frame.place
                break
            }
            if let place = frame.place, let session = links.connections[connection].session {
                links.sessions[session].compressor.release(place)
            }
        }
        guard used > 0 else { return }
        links.connections[connection].isSending = true
        links.connections[connection].sentByteCount = used + tail.count
        if let session = links.connections[connection].session {
            links.sessions[session].sentByteCount += UInt64(used + tail.count)
        }
        unsafe platform.send(
            socket,
            UnsafeRawBufferPointer(rebasing: memory[..<used]),
            tail,
            token: linkToken(.linkSend, connection)
        )
    }

    /// Whether the request of a frame of data is open: a peer may not answer before it was sent.
    private func isStillAsked(_ frame: OutgoingFrame, _ connection: Int) -> Bool {
        guard frame.header.kind == .write, links.connections[connection].isInitiator else { return true }
        let number = Int(frame.header.tag & 0xFF_FFFF)
        guard let request = links.targets[Int(frame.header.stream) - 1].request(number) else { return false }
        let piece = frame.header.tag >> 24 & 0xFF
        return request.openPieces >> piece & 1 == 1 && UInt64(request.slot.generation) == frame.header.tag >> 32
    }

    private func isControl(_ payload: OutgoingFrame.Payload) -> Bool {
        if case .control = payload { true } else { false }
    }

    /// Writes a frame's header, and its payload where that is copied; otherwise returns the payload.
    private mutating func pack(
        _ frame: OutgoingFrame,
        into place: UnsafeMutableRawBufferPointer,
        _ connection: Int
    ) -> UnsafeRawBufferPointer? {
        var span = unsafe MutableRawSpan(_unsafeBytes: place)
        let behind = unsafe UnsafeMutableRawBufferPointer(rebasing: place[FrameHeader.byteCount...])
        switch frame.payload {
        case .none:
            frame.header.encode(into: &span)
        case .control:
            frame.header.encode(into: &span)
            let bytes = links.connections[connection].controlPayloads.removeFirst()
            unsafe behind.copyBytes(from: bytes)
        case .buffer(let buffer, let offset, let count):
            let data = unsafe UnsafeRawBufferPointer(rebasing: pool.bytes(of: buffer)[offset..<offset + count])
            var header = frame.header
            unsafe header.seal(payload: RawSpan(_unsafeBytes: data))
            header.encode(into: &span)
            if unsafe behind.isEmpty { return unsafe data }
            unsafe behind.copyMemory(from: data)
            if let serve = frame.serve { endServe(serve) }
        case .backlog(let target, let offset, let count):
            let data = unsafe links.targets[target].backlog.data(offset, count)
            var header = frame.header
            unsafe header.seal(payload: RawSpan(_unsafeBytes: data))
            header.encode(into: &span)
            if unsafe behind.isEmpty { return unsafe data }
            unsafe behind.copyMemory(from: data)
        case .compressed(let session, let place, let count):
            let data = unsafe UnsafeRawBufferPointer(
                rebasing: links.sessions[session].compressor.bytes(place)[..<count]
            )
            var header = frame.header
            unsafe header.seal(payload: RawSpan(_unsafeBytes: data))
            header.encode(into: &span)
            if unsafe behind.isEmpty { return unsafe data }
            unsafe behind.copyMemory(from: data)
        }
        return nil
    }

    mutating func linkSent(_ connection: Int, _ completion: Completion) {
        links.connections[connection].isSending = false
        if let serve = links.connections[connection].sentServe {
            links.connections[connection].sentServe = nil
            endServe(serve)
        }
        payloadSent(connection)
        if links.connections[connection].isEnding { return finishConnection(connection) }
        if let failure = completion.failure {
            return endConnection(connection, LinkEnd(.silent, "the connection was lost: \(failure.words)"))
        }
        mark(connection)
        // Whoever could not answer for want of room may try again.
        hasFreedResources = true
        if let session = links.connections[connection].session, links.connections[connection].isInitiator {
            pumpTargets(of: session)
        }
    }

    /// Gives up what waits to be sent.
    mutating func dropFrames(_ connection: Int) {
        while let frame = links.connections[connection].frames.popFirst() { releaseServe(of: frame) }
        links.connections[connection].controlPayloads.removeAll()
    }

    private mutating func releaseServe(of frame: OutgoingFrame) {
        if let serve = frame.serve { endServe(serve) }
    }

    // MARK: - Receiving

    mutating func receiveFrames(_ connection: Int) {
        guard !links.connections[connection].isReceiving, !links.connections[connection].isEnding else { return }
        guard let socket = links.connections[connection].socket else { return }
        let room = unsafe links.connections[connection].room()
        invariant(room.count > 0, "the longest frame leaves room behind it")
        links.connections[connection].isReceiving = true
        unsafe platform.receive(socket, into: room, token: linkToken(.linkReceive, connection))
    }

    mutating func linkReceived(_ connection: Int, _ completion: Completion) {
        links.connections[connection].isReceiving = false
        if links.connections[connection].isEnding { return finishConnection(connection) }
        if let failure = completion.failure {
            return endConnection(connection, LinkEnd(.silent, "the connection was lost: \(failure.words)"))
        }
        guard completion.count > 0 else {
            return endConnection(connection, LinkEnd(.silent, "the peer has closed the connection"))
        }
        let range = links.connections[connection].stagedRange
        links.connections[connection].stagedRange = range.lowerBound..<range.upperBound + Int(completion.count)
        if let session = links.connections[connection].session {
            links.sessions[session].receivedByteCount += UInt64(completion.count)
        }
        links.connections[connection].heardAt = platform.now
        takeFrames(connection)
    }

    /// Takes frames off the front until one is not whole, or has to wait.
    mutating func takeFrames(_ connection: Int) {
        // Another thread reads the frame at the front: whatever becomes of its pair meanwhile, it stays where it is.
        if links.connections[connection].isExpanding { return }
        links.connections[connection].isPaused = false
        do throws(LinkEnd) {
            while !links.connections[connection].isEnding {
                guard let header = try nextFrame(connection) else { break }
                guard canAnswer(connection) else {
                    links.connections[connection].isPaused = true
                    return
                }
                guard try handle(header, connection) else {
                    links.connections[connection].isPaused = true
                    return
                }
                // One that has ended meanwhile may have nothing staged any more.
                if links.connections[connection].isEnding || links.connections[connection].stage == .free { return }
                links.connections[connection].dropStaged(header.frameByteCount)
                dropExpansion(connection)
            }
        } catch {
            return endConnection(connection, error)
        }
        receiveFrames(connection)
    }

    /// Whether there is room for the answer to a frame, on whichever connection of the session it goes.
    private func canAnswer(_ connection: Int) -> Bool {
        guard let session = links.connections[connection].session, !links.connections[connection].isInitiator else {
            return true
        }
        if let control = links.sessions[session].control, !hasRoomForFrame(control) { return false }
        if let data = links.sessions[session].data, !hasRoomForFrame(data) { return false }
        return true
    }

    private mutating func nextFrame(_ connection: Int) throws(LinkEnd) -> FrameHeader? {
        let bytes = unsafe links.connections[connection].staged
        do throws(FrameError) {
            let progress = unsafe try links.connections[connection].reader.advance(RawSpan(_unsafeBytes: bytes))
            guard case .frame(let header) = progress else { return nil }
            return header
        } catch {
            throw LinkEnd(.badFrame, "a bad frame: \(error.words)")
        }
    }

    /// The payload of the frame at the front.
    func payload(of header: FrameHeader, _ connection: Int) -> UnsafeRawBufferPointer {
        let staged = unsafe links.connections[connection].staged
        return unsafe UnsafeRawBufferPointer(rebasing: staged[FrameHeader.byteCount..<header.frameByteCount])
    }

    private func decode<Payload: FramePayload>(
        _ type: Payload.Type,
        _ header: FrameHeader,
        _ connection: Int
    ) throws(LinkEnd) -> Payload {
        do throws(PayloadError) {
            return unsafe try Payload.decode(RawSpan(_unsafeBytes: payload(of: header, connection)))
        } catch {
            throw LinkEnd(.badFrame, "a bad \(header.kind) frame: \(error.words)")
        }
    }

    /// Does what a frame says; false when it has to wait for a buffer or a place.
    private mutating func handle(_ header: FrameHeader, _ connection: Int) throws(LinkEnd) -> Bool {
        guard links.connections[connection].stage == .open else {
            try handleGreeting(header, connection)
            return true
        }
        guard let session = links.connections[connection].session else { return true }
        let isInitiator = links.connections[connection].isInitiator
        switch header.kind {
        case .goodbye:
            throw LinkEnd(Goodbye(detail: header.detail), "the peer has ended the session")
        case .ping:
            var ping = try decode(Ping.self, header, connection)
            ping.answeredClock = platform.now.nanoseconds
            send(.pong, ping, on: connection, tag: header.tag)
        case .pong:
            try heardPong(decode(Ping.self, header, connection), session)
        case .message where !isInitiator:
            messageReceived(header, connection, session)
        case .messageReply where isInitiator:
            messageAnswered(header, connection)
        case .pairOpen where !isInitiator:
            openReplica(try decode(PairOpening.self, header, connection), header, session)
        case .pairOpenReply where isInitiator:
            targetOpened(try decode(PairOpening.self, header, connection), header, session)
        case .pairClose where !isInitiator:
            closeReplica(header, session)
        case .record where !isInitiator:
            return try recordReceived(header, connection, session)
        case .ack where isInitiator:
            if let data = links.sessions[session].data { links.connections[data].heardAt = platform.now }
            try requestAnswered(header, session)
        case .readReply where isInitiator:
            try readAnswered(header, connection, session)
        case .digestReply where isInitiator:
            try digestsAnswered(header, connection, session)
        case .write, .zero, .discard, .flush, .read, .digestRequest:
            guard !isInitiator else { throw LinkEnd(.badOrder, "a \(header.kind) frame from the side that answers") }
            return try requestReceived(header, connection, session)
        default:
            throw LinkEnd(.badOrder, "a \(header.kind) frame where none belongs")
        }
        return true
    }

    private mutating func handleGreeting(_ header: FrameHeader, _ connection: Int) throws(LinkEnd) {
        let isInitiator = links.connections[connection].isInitiator
        switch header.kind {
        case .hello where !isInitiator: try greeted(connection, decode(Hello.self, header, connection))
        case .helloReply where isInitiator: try greetingAnswered(connection, decode(Hello.self, header, connection))
        case .goodbye: throw LinkEnd(Goodbye(detail: header.detail), "the peer refuses the connection")
        default: throw LinkEnd(.badOrder, "a \(header.kind) frame in place of a greeting")
        }
    }

    private mutating func heardPong(_ pong: Ping, _ session: Int) {
        guard let peer = links.sessions[session].peer, pong.askedClock <= platform.now.nanoseconds else { return }
        links.peers[peer].roundTripNanoseconds = platform.now.nanoseconds - pong.askedClock
    }

    /// Whoever waits for a buffer or a place may try again.
    mutating func retryLinks() {
        guard links.isInUse else { return }
        var blockedReplicas: UInt32 = 0
        for _ in 0..<links.waitingServes.count {
            guard let serve = links.waitingServes.popFirst() else { break }
            let bit: UInt32 = 1 << UInt32(links.serves[serve].replica)
            if blockedReplicas & bit != 0 || !submitServe(serve) {
                blockedReplicas |= bit
                links.waitingServes.append(serve)
            }
        }
        for connection in 0..<Links.connectionLimit where links.connections[connection].isPaused {
            takeFrames(connection)
        }
    }
}
