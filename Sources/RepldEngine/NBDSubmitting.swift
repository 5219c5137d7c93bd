internal import RepldCore
internal import RepldFrontends
internal import RepldPair

/// From parsed requests to host requests, piece by piece, and the waiting for what they need.
extension Engine where P: ~Copyable {
    /// No more pieces of a request will be made: the parser goes on with the next message.
    mutating func submitted(_ pending: SlotID, _ connection: Int) {
        nbd.pendings[pending].isSubmitted = true
        nbd.connections[connection].parser = .header
        if nbd.collector == connection {
            nbd.collector = nil
            hasFreedResources = true
        }
        settle(pending)
    }

    /// What stands in the way of a new piece; `nil` when nothing does.
    private func obstacle(_ connection: Int, needsVolume: Bool) -> NBDWait? {
        if nbd.pieces.isFull || nbd.mustQueue(connection, for: .table) { return .table }
        if needsVolume { return volumeObstacle(connection) }
        return nil
    }

    private func volumeObstacle(_ connection: Int) -> NBDWait? {
        let side = nbd.connections[connection].side
        let hasRoom = volumes[nbd.connections[connection].volume].machine.hasRoom(side: side)
        return hasRoom && !nbd.mustQueue(connection, for: .volume) ? nil : .volume
    }

    /// Takes a buffer for a piece; `nil` when it has to wait for one.
    private mutating func takeBuffer(_ connection: Int, _ byteCount: Int) -> BufferID? {
        nbd.connections[connection].wantedByteCount = byteCount
        guard let size = pool.byteCountOfNext(byteCount: byteCount, leaving: Self.copyReserve) else { return nil }
        guard !nbd.mustQueue(connection, for: .buffer, byteCount: size) else { return nil }
        guard let buffer = takeHostBuffer(byteCount: byteCount) else { return nil }
        nbd.connections[connection].heldByteCount += byteCount
        return buffer
    }

    /// Whether a client holds as much as one may; a client that holds nothing gets its piece.
    private func holdsTooMuch(_ connection: Int, adding byteCount: Int) -> Bool {
        let held = nbd.connections[connection].heldByteCount
        return held > 0 && held + byteCount > NBDServer.heldByteLimit
    }

    private mutating func makePiece(_ pending: SlotID, length: UInt32, buffer: BufferID) -> SlotID {
        let offset = nbd.pendings[pending].request.offset + UInt64(nbd.pendings[pending].submittedByteCount)
        let record = NBDPiece(pending: pending, offset: offset, length: length, buffer: buffer)
        guard let piece = nbd.pieces.take(record) else { invariantFailed("there is room for the piece") }
        nbd.pendings[pending].pieceCount += 1
        return piece
    }

    // MARK: - Requests without payload from the client

    /// Makes and submits the next piece of a request.
    mutating func submitNext(_ connection: Int, _ pending: SlotID) -> NBDParserStep {
        // After a failure the rest is not worth doing: the answer is known.
        guard nbd.pendings[pending].failure == nil else {
            submitted(pending, connection)
            return .again
        }
        switch nbd.pendings[pending].command {
        case .read: return submitRead(connection, pending)
        case .flush: return submitBare(connection, pending, .flush, length: 0, window: 1)
        case .trim: return submitZeroing(connection, pending, .discard)
        case .writeZeroes: return submitZeroing(connection, pending, .writeZeroes)
        case .blockStatus: return submitQuery(connection, pending)
        case .write, .cache, .disconnect: invariantFailed("these requests are not submitted by pieces")
        }
    }

    private mutating func submitRead(_ connection: Int, _ pending: SlotID) -> NBDParserStep {
        let record = nbd.pendings[pending]
        let length = min(record.request.length - record.submittedByteCount, UInt32(pool.largestByteCount))
        if isCollected(pending) && Int(record.request.length) > pool.largestByteCount {
            if nbd.collector != connection {
                guard nbd.collector == nil, !nbd.mustQueue(connection, for: .collection) else {
                    return .waits(.collection)
                }
                if holdsTooMuch(connection, adding: Int(length)) { return .pauses }
                nbd.collector = connection
            }
        } else {
            if record.pieceCount >= NBDServer.pieceWindow { return .pauses }
            if holdsTooMuch(connection, adding: Int(length)) { return .pauses }
        }
        if let obstacle = obstacle(connection, needsVolume: true) { return .waits(obstacle) }
        guard let buffer = takeBuffer(connection, Int(length)) else { return .waits(.buffer) }
        let piece = makePiece(pending, length: length, buffer: buffer)
        if isCollected(pending) { appendToCollected(piece, of: pending) }
        submit(piece, of: pending, .read, connection)
        return .again
    }

    /// Simple replies carry a read as a whole: its pieces are sent when all have been read.
    func isCollected(_ pending: SlotID) -> Bool {
        let connection = Int(nbd.pendings[pending].connection)
        guard nbd.pendings[pending].command == .read else { return false }
        return !nbd.connections[connection].isStructured
    }

    private mutating func appendToCollected(_ piece: SlotID, of pending: SlotID) {
        let item = NBDOutboxItem(piece: piece)
        let last = nbd.pendings[pending].lastPiece
        if last == .none {
            nbd.pendings[pending].firstPiece = item
            nbd.pieces[piece].isReplyHead = true
        } else {
            nbd.pieces[pieceID(last)].next = item
        }
        nbd.pendings[pending].lastPiece = item
    }

    private mutating func submitZeroing(
        _ connection: Int,
        _ pending: SlotID,
        _ operation: HostOperation
    ) -> NBDParserStep {
        let record = nbd.pendings[pending]
        let length = min(record.request.length - record.submittedByteCount, NBDServer.zeroPieceByteCount)
        // A refusal to zero fast must come before anything has been zeroed: the first piece goes alone.
        let goesAlone = record.request.flags.contains(.fastZero)
        return submitBare(
            connection,
            pending,
            operation,
            length: length,
            window: goesAlone ? 1 : NBDServer.pieceWindow
        )
    }

    private mutating func submitBare(
        _ connection: Int,
        _ pending: SlotID,
        _ operation: HostOperation,
        length: UInt32,
        window: Int32
    ) -> NBDParserStep {
        if nbd.pendings[pending].pieceCount >= window { return .pauses }
        if let obstacle = obstacle(connection, needsVolume: true) { return .waits(obstacle) }
        let piece = makePiece(pending, length: length, buffer: .none)
        submit(piece, of: pending, operation, connection)
        return .again
    }

    /// Hands a piece to the volume; there is room.
    private mutating func submit(_ piece: SlotID, of pending: SlotID, _ operation: HostOperation, _ connection: Int) {
        let record = nbd.pieces[piece]
        let flags = nbd.pendings[pending].request.flags
        nbd.pendings[pending].submittedByteCount += record.length
        let isWhole = nbd.pendings[pending].submittedByteCount == nbd.pendings[pending].request.length
        let host = HostRequest(
            operation: operation,
            extent: operation == .flush
                ? Extent(offset: 0, length: 0) : Extent(offset: record.offset, length: UInt64(record.length)),
            buffer: record.buffer,
            origin: RequestOrigin(client: UInt32(connection), request: piece.index),
            isDurable: operation != .read && operation != .flush && flags.contains(.forceUnitAccess),
            keepsAllocation: flags.contains(.noHole),
            mustBeFast: flags.contains(.fastZero),
            side: nbd.connections[connection].side
        )
        let isTaken = submit(host, to: nbd.connections[connection].volume)
        invariant(isTaken, "the volume had room")
        // Answers come through a queue: the request still exists.
        if isWhole { submitted(pending, connection) }
    }

    // MARK: - Allocation queries

    /// How much memory a query's runs get.
    static var queryByteCount: Int { NBDLimit.statusExtentCount * MemoryLayout<AllocationRun>.stride }

    private mutating func submitQuery(_ connection: Int, _ pending: SlotID) -> NBDParserStep {
        let length = nbd.pendings[pending].request.length
        guard asksForAllocation(connection) else {
            // What may differ is in the machine's maps: nobody is asked, and the answer is made when it is written.
            nbd.pendings[pending].submittedByteCount = length
            submitted(pending, connection)
            return .again
        }
        if holdsTooMuch(connection, adding: Self.queryByteCount) { return .pauses }
        if let obstacle = obstacle(connection, needsVolume: false) { return .waits(obstacle) }
        guard let buffer = takeBuffer(connection, Self.queryByteCount) else { return .waits(.buffer) }
        let piece = makePiece(pending, length: length, buffer: buffer)
        nbd.pendings[pending].submittedByteCount = length
        let volume = nbd.connections[connection].volume
        let place = volumes[volume].place(ofLeg: nbd.connections[connection].side)
        volumes[volume].queryCounts[Int(place)] += 1
        nbd.pieces[piece].place = place
        let element = volumes[volume].element(atPlace: place)
        if element.remoteTarget != nil {
            // The peer is not asked: what is not known is data.
            submitted(pending, connection)
            pieceEnded(piece, nil)
            queryEnded(atPlace: place, volume: volume)
            return .again
        }
        let memory = unsafe UnsafeMutableRawBufferPointer(rebasing: pool.bytes(of: buffer)[..<Self.queryByteCount])
        unsafe platform.queryAllocation(
            element,
            nbd.pendings[pending].request.extent,
            into: memory.bindMemory(to: AllocationRun.self),
            token: Token(kind: TokenKind.query.rawValue, leg: UInt8(volume), slot: piece)
        )
        submitted(pending, connection)
        return .again
    }

    mutating func queryCompleted(_ piece: SlotID, _ completion: Completion) {
        let volume = Int(completion.token.leg)
        let place = nbd.pieces[piece].place
        nbd.pieces[piece].runCount = completion.count
        // An element that cannot tell has told nothing wrong: what is not known is data.
        let failure = completion.failure == .notSupported ? nil : completion.failure
        if completion.failure != nil { nbd.pieces[piece].runCount = 0 }
        pieceEnded(piece, failure)
        queryEnded(atPlace: place, volume: volume)
    }

    // MARK: - Write payloads

    /// Makes the piece that the next bytes of a payload belong to.
    mutating func beginFilling(_ connection: Int, _ pending: SlotID) -> NBDParserStep {
        let record = nbd.pendings[pending]
        let remaining = record.request.length - record.submittedByteCount
        guard record.failure == nil else {
            nbd.connections[connection].parser = .skipping(pending, byteCount: remaining)
            return .again
        }
        let length = min(remaining, UInt32(pool.largestByteCount))
        if holdsTooMuch(connection, adding: Int(length)) { return .pauses }
        if let obstacle = obstacle(connection, needsVolume: false) { return .waits(obstacle) }
        guard let buffer = takeBuffer(connection, Int(length)) else { return .waits(.buffer) }
        nbd.connections[connection].filling = makePiece(pending, length: length, buffer: buffer)
        nbd.connections[connection].filledByteCount = 0
        return .again
    }

    /// Submits a piece whose payload is there.
    mutating func submitFilled(_ connection: Int, _ pending: SlotID, _ piece: SlotID) -> NBDParserStep {
        if let obstacle = volumeObstacle(connection) { return .waits(obstacle) }
        nbd.connections[connection].filling = nil
        submit(piece, of: pending, .write, connection)
        return .again
    }
}
