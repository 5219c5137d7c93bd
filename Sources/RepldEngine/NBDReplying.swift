internal import RepldCore
internal import RepldFrontends
internal import RepldPair

/// From answers to replies.
extension Engine where P: ~Copyable {
    // MARK: - Answers

    /// A request that the front end submitted is answered.
    ///
    /// The buffer of a successful read is the front end's now and goes back with `releaseBuffer`; the buffers of all
    /// other requests are given back by the engine.
    mutating func frontendAnswered(_ origin: RequestOrigin, _ failure: IOFailure?) {
        guard let piece = nbd.pieces.taken(at: Int(origin.request)) else {
            invariantFailed("an answer is for a piece that waits for it")
        }
        let pending = nbd.pieces[piece].pending
        invariant(
            Int(nbd.pendings[pending].connection) == Int(origin.client),
            "an answer goes to the client that asked"
        )
        if nbd.pendings[pending].command != .read || failure != nil { forgetBuffer(piece, Int(origin.client)) }
        pieceEnded(piece, failure)
    }

    /// The buffer of a piece has gone back to the pool by other ways.
    private mutating func forgetBuffer(_ piece: SlotID, _ connection: Int) {
        guard nbd.pieces[piece].buffer != .none else { return }
        nbd.pieces[piece].buffer = .none
        nbd.connections[connection].heldByteCount -= Int(nbd.pieces[piece].length)
    }

    /// A piece has been answered: it is released, sent, or kept until the others have been answered too.
    mutating func pieceEnded(_ piece: SlotID, _ failure: IOFailure?) {
        let pending = nbd.pieces[piece].pending
        let connection = Int(nbd.pendings[pending].connection)
        invariant(!nbd.pieces[piece].hasEnded, "a piece is answered once")
        nbd.pieces[piece].hasEnded = true
        if let failure, nbd.pendings[pending].failure == nil {
            nbd.pendings[pending].failure = code(for: failure, nbd.pendings[pending])
        }
        let isDropped = nbd.connections[connection].ending == .abrupt
        if !isDropped && isCollected(pending) {
            nbd.pendings[pending].endedPieceCount += 1
            settle(pending)
        } else if !isDropped && failure == nil && nbd.pieces[piece].buffer != .none {
            // What comes next is decided when it has been written.
            enqueue(NBDOutboxItem(piece: piece), connection)
        } else {
            releasePiece(piece)
            settle(pending)
        }
        resumeIfPaused(connection)
        finishIfEnded(connection)
    }

    /// The protocol's error for a failure.
    ///
    /// `notSupported` is for fast zeroing only; other clients expect EINVAL.
    private func code(for failure: IOFailure, _ pending: NBDPending) -> NBDErrorCode {
        switch failure {
        case .inputOutput, .gone, .timedOut, .cancelled, .noResources, .notKept: .inputOutput
        case .noSpace: .noSpace
        case .readOnly: .notPermitted
        case .notSupported: pending.request.flags.contains(.fastZero) ? .notSupported : .invalidArgument
        case .invalidArgument: .invalidArgument
        }
    }

    /// Decides whether a request has come to its end, and queues what is left to say about it.
    ///
    /// To be called whenever a piece has ended or gone, and when the last one has been submitted.
    mutating func settle(_ pending: SlotID) {
        let record = nbd.pendings[pending]
        let connection = Int(record.connection)
        guard record.isSubmitted else { return }
        if nbd.connections[connection].ending == .abrupt {
            if record.pieceCount == 0 { releasePending(pending) }
        } else if record.pieceCount == 0 {
            enqueue(NBDOutboxItem(pending: pending), connection)
        } else if record.firstPiece != .none && record.endedPieceCount == record.pieceCount {
            settleCollected(pending, connection)
        }
    }

    /// All pieces of a simple read have ended: they are sent in order, or, if one failed, the failure is.
    private mutating func settleCollected(_ pending: SlotID, _ connection: Int) {
        let hasFailed = nbd.pendings[pending].failure != nil
        var item = nbd.pendings[pending].firstPiece
        nbd.pendings[pending].firstPiece = .none
        while item != .none {
            let piece = pieceID(item)
            let next = nbd.pieces[piece].next
            nbd.pieces[piece].next = .none
            if hasFailed { releasePiece(piece) } else { append(item, connection) }
            item = next
        }
        if hasFailed { append(NBDOutboxItem(pending: pending), connection) }
        drainOutbox(connection)
    }

    func pieceID(_ item: NBDOutboxItem) -> SlotID {
        guard !item.isPending, let piece = nbd.pieces.taken(at: item.index) else {
            invariantFailed("a list of pieces names pieces that exist")
        }
        return piece
    }

    private func pendingID(_ item: NBDOutboxItem) -> SlotID {
        guard item.isPending, let pending = nbd.pendings.taken(at: item.index) else {
            invariantFailed("an outbox names requests that exist")
        }
        return pending
    }

    // MARK: - Releasing

    /// Gives a piece back, with its buffer.
    mutating func releasePiece(_ piece: SlotID) {
        let pending = nbd.pieces[piece].pending
        let connection = Int(nbd.pendings[pending].connection)
        if nbd.pieces[piece].buffer != .none {
            releaseBuffer(nbd.pieces[piece].buffer)
            nbd.connections[connection].heldByteCount -= heldByteCount(of: piece)
        }
        nbd.pieces.release(piece)
        nbd.pendings[pending].pieceCount -= 1
        hasFreedResources = true
    }

    /// What a piece's buffer counts for: a query's buffer is shorter than what it asks about.
    private func heldByteCount(of piece: SlotID) -> Int {
        let isQuery = nbd.pendings[nbd.pieces[piece].pending].command == .blockStatus
        return isQuery ? Self.queryByteCount : Int(nbd.pieces[piece].length)
    }

    mutating func releasePending(_ pending: SlotID) {
        invariant(nbd.pendings[pending].pieceCount == 0, "a request outlives its pieces")
        nbd.connections[Int(nbd.pendings[pending].connection)].requestCount -= 1
        nbd.pendings.release(pending)
        hasFreedResources = true
    }

    // MARK: - The outbox

    private mutating func append(_ item: NBDOutboxItem, _ connection: Int) {
        let tail = nbd.connections[connection].outboxTail
        if tail == .none {
            nbd.connections[connection].outboxHead = item
        } else if tail.isPending {
            nbd.pendings[pendingID(tail)].next = item
        } else {
            nbd.pieces[pieceID(tail)].next = item
        }
        nbd.connections[connection].outboxTail = item
    }

    private mutating func enqueue(_ item: NBDOutboxItem, _ connection: Int) {
        append(item, connection)
        drainOutbox(connection)
    }

    mutating func removeFirst(_ item: NBDOutboxItem, _ connection: Int) {
        let next = item.isPending ? nbd.pendings[pendingID(item)].next : nbd.pieces[pieceID(item)].next
        nbd.connections[connection].outboxHead = next
        if next == .none { nbd.connections[connection].outboxTail = .none }
    }

    /// Turns what waits in the outbox into bytes, as far as there is room to gather them.
    private mutating func drainOutbox(_ connection: Int) {
        while true {
            let item = nbd.connections[connection].outboxHead
            guard item != .none else { break }
            let isWritten =
                item.isPending ? gatherStatus(item, connection) : gatherData(item, connection)
            guard isWritten else { break }
        }
        markForSending(connection)
    }

    /// Writes the last word about a request, and releases it; false when there is no room.
    private mutating func gatherStatus(_ item: NBDOutboxItem, _ connection: Int) -> Bool {
        let pending = pendingID(item)
        let record = nbd.pendings[pending]
        if record.command == .blockStatus, record.failure == nil {
            return gatherBlockStatus(item, pending, connection)
        }
        guard nbd.connections[connection].gatherCapacity >= NBDReply.errorByteCountMaximum else { return false }
        let isStructured = nbd.connections[connection].isStructured
        let cookie = record.request.cookie
        nbd.connections[connection].gather { output in
            if isStructured, let failure = record.failure {
                NBDReply.appendError(cookie: cookie, error: failure, isDone: true, to: &output)
            } else if isStructured && record.command == .read {
                NBDReply.appendDone(cookie: cookie, to: &output)
            } else {
                NBDReply.appendSimple(cookie: cookie, error: record.failure, to: &output)
            }
        }
        removeFirst(item, connection)
        releasePending(pending)
        return true
    }

    /// Writes what a piece of a read or a query brought, and releases it; false when there is no room.
    private mutating func gatherData(_ item: NBDOutboxItem, _ connection: Int) -> Bool {
        let piece = pieceID(item)
        let record = nbd.pieces[piece]
        let pending = record.pending
        let request = nbd.pendings[pending]
        if request.command == .blockStatus { return gatherBlockStatus(item, pending, connection) }
        let isCopied = record.length <= NBDServer.copiedByteLimit
        let needed = NBDReply.dataHeaderByteCount + (isCopied ? Int(record.length) : 0)
        guard nbd.connections[connection].gatherCapacity >= needed else { return false }
        let isLast = request.isSubmitted && request.pieceCount == 1
        let isStructured = nbd.connections[connection].isStructured
        removeFirst(item, connection)
        if isStructured && request.failure != nil {
            // The failure is all that is said about the request once it is known.
            releasePiece(piece)
            settle(pending)
            return true
        }
        nbd.connections[connection].gather { output in
            if isStructured {
                NBDReply.appendDataHeader(
                    cookie: request.request.cookie,
                    offset: record.offset,
                    byteCount: record.length,
                    isDone: isLast,
                    to: &output
                )
            } else if record.isReplyHead {
                NBDReply.appendSimple(cookie: request.request.cookie, error: nil, to: &output)
            }
        }
        gatherPayload(piece, connection, isCopied: isCopied)
        if isLast { releasePending(pending) }
        return true
    }

    /// Copies a piece's data behind the gathered bytes, or hands its buffer over to be sent; releases the piece.
    private mutating func gatherPayload(_ piece: SlotID, _ connection: Int, isCopied: Bool) {
        let length = Int(nbd.pieces[piece].length)
        let buffer = nbd.pieces[piece].buffer
        if isCopied {
            let half = unsafe nbd.connections[connection].memory.half(nbd.connections[connection].gatherHalf)
            let start = nbd.connections[connection].gatheredByteCount
            unsafe UnsafeMutableRawBufferPointer(rebasing: half[start..<start + length]).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: pool.bytes(of: buffer)[..<length])
            )
            nbd.connections[connection].gatheredByteCount += length
        } else {
            // The buffer stays held until it has been sent.
            nbd.connections[connection].gatheredPayload = NBDPayload(buffer: buffer, byteCount: length)
            nbd.pieces[piece].buffer = .none
        }
        releasePiece(piece)
    }

    // MARK: - Sending

    mutating func markForSending(_ connection: Int) {
        guard nbd.connections[connection].hasGathered, !nbd.connections[connection].isMarkedForSending else { return }
        nbd.connections[connection].isMarkedForSending = true
        nbd.marked.append(UInt16(connection))
    }

    /// Sends what has gathered, unless a send is in flight: then its completion does.
    mutating func startSending(_ connection: Int) {
        guard nbd.connections[connection].hasGathered, !nbd.connections[connection].isSending else { return }
        guard !nbd.connections[connection].isShutDown else { return }
        let half = nbd.connections[connection].gatherHalf
        let count = nbd.connections[connection].gatheredByteCount
        let payload = nbd.connections[connection].gatheredPayload
        nbd.connections[connection].isSending = true
        nbd.connections[connection].sendStartedAt = platform.now
        nbd.connections[connection].sentPayload = payload
        nbd.connections[connection].gatheredPayload = .none
        nbd.connections[connection].gatheredByteCount = 0
        nbd.connections[connection].gatherHalf = 1 - half
        let memory = unsafe nbd.connections[connection].memory.half(half)
        var first = unsafe UnsafeRawBufferPointer(rebasing: memory[..<count])
        var second = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        if payload.buffer != .none {
            unsafe second = UnsafeRawBufferPointer(rebasing: pool.bytes(of: payload.buffer)[..<payload.byteCount])
            if count == 0 { unsafe swap(&first, &second) }
        }
        unsafe platform.send(
            nbd.connections[connection].socket,
            first,
            second,
            token: clientToken(.send, connection)
        )
        // The other half is free: more of the outbox fits.
        drainOutbox(connection)
    }

    mutating func sendCompleted(_ connection: Int, _ completion: Completion) {
        invariant(nbd.connections[connection].isSending, "a send completes once")
        nbd.connections[connection].isSending = false
        releasePayload(nbd.connections[connection].sentPayload, connection)
        nbd.connections[connection].sentPayload = .none
        if let failure = completion.failure, nbd.connections[connection].ending != .abrupt {
            return endAbruptly(connection, .sendFailed(failure))
        }
        drainOutbox(connection)
        resumeIfPaused(connection)
        finishIfEnded(connection)
    }

    mutating func releasePayload(_ payload: NBDPayload, _ connection: Int) {
        guard payload.buffer != .none else { return }
        nbd.connections[connection].heldByteCount -= payload.byteCount
        releaseBuffer(payload.buffer)
    }
}
