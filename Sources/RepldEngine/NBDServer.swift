internal import RepldCore
internal import RepldFrontends
internal import RepldPair

/// The NBD front end's tables, owned by the engine's loop, all made at the start.
///
/// **Back-pressure.** A connection that lacks something stops parsing and receiving and says what it waits for (`wait`):
/// it stands on the wait list, in the order of coming, and is tried again when something has been given back. Nobody
/// passes an earlier one that waits for the same thing; whoever waits for another volume's slots holds nobody up. What
/// a client can make the server hold is bounded by these tables, by `requestLimit` requests and by `heldByteLimit`
/// bytes of buffers.
///
/// **Why nobody waits for ever.** Whoever holds a buffer needs, to give it back, an element's completion, a request slot
/// of its volume, or its client's socket; never another buffer, with one exception. Request slots of a volume are held by
/// what an element or a lock holder works on, and none of those waits for a buffer of ours. So in the graph of who waits
/// for whom no edge leads from a buffer's holder back to buffers. The exception is a simple read that is longer than a
/// buffer: a simple reply cannot report a failure once it has begun, so all of its pieces are read before the first is
/// sent, and it does wait for buffers while it holds some. Therefore only one connection at a time does that (the
/// `collector`): the holders of all other buffers give them back without it, and the export's longest read is no more
/// than the pool's large buffers less the movers' reserve. A client that takes no replies, or sends no payload, keeps its
/// buffers; when others wait for them longer than `stuckNanoseconds`, it is disconnected.
struct NBDServer: ~Copyable {
    /// Clients at once.
    static var connectionLimit: Int { 64 }
    static var listenerLimit: Int { 8 }
    /// Requests of all clients that have been parsed and not been answered.
    static var pendingLimit: Int { 2048 }
    static var pieceLimit: Int { 2048 }
    /// Requests of one client: twice the depth that clients are known to use.
    static var requestLimit: Int { 256 }
    /// Bytes of buffers of one client: eight of the largest, a tenth of the standard pool.
    static var heldByteLimit: Int { 8 << 20 }
    /// Pieces of one request at once, where they need not be collected.
    static var pieceWindow: Int32 { 4 }
    /// Zeroing and discarding go down in pieces of this length, so that a target's time limit is about a bounded amount
    /// of work, and writers of other ranges wait for no more than that.
    static var zeroPieceByteCount: UInt32 { 32 << 20 }
    /// Read payloads up to this length are copied into the send memory, longer ones are sent from their buffer.
    static var copiedByteLimit: UInt32 { 16 << 10 }
    /// What is missing of a write payload is received into its buffer directly if it is at least this long.
    static var directByteMinimum: Int { 16 << 10 }
    /// Time to choose an export.
    static var handshakeNanoseconds: UInt64 { 15_000_000_000 }
    /// How long a client may keep buffers that others wait for, without a sign of life.
    static var stuckNanoseconds: UInt64 { 30_000_000_000 }
    /// Time for clients to take their last replies when the server stops.
    static var stopNanoseconds: UInt64 { 10_000_000_000 }

    var connections: FixedArray<NBDConnection>
    var pendings: SlotTable<NBDPending>
    var pieces: SlotTable<NBDPiece>
    /// Listeners that accept, or have been told to stop and have not said so yet.
    var isListening: FixedArray<Bool>
    var openConnectionCount = 0
    var nextNumber: UInt32 = 1
    /// Connections that wait for something shared, first come first.
    var waiters: FixedArray<UInt16>
    var waiterCount = 0
    /// The one connection that collects the buffers of a long simple read.
    var collector: Int?
    /// Connections with something to send, in the order of having it.
    var marked: BoundedQueue<UInt16>
    var isStopping = false
    var stopDeadline = Instant(nanoseconds: .max)

    /// Makes a server without connections.
    init() {
        connections = FixedArray(count: Self.connectionLimit) { _ in NBDConnection() }
        let request = NBDRequest(flags: [], commandNumber: 0, cookie: 0, offset: 0, length: 0)
        pendings = SlotTable(
            capacity: Self.pendingLimit,
            blank: NBDPending(connection: 0, command: .read, request: request)
        )
        let nobody = SlotID(index: 0, generation: 0)
        pieces = SlotTable(capacity: Self.pieceLimit, blank: NBDPiece(pending: nobody, offset: 0, length: 0))
        isListening = FixedArray(repeating: false, count: Self.listenerLimit)
        waiters = FixedArray(repeating: 0, count: Self.connectionLimit)
        marked = BoundedQueue(capacity: Self.connectionLimit, blank: 0)
    }

    // MARK: - The wait list

    /// Puts a connection at the end of the wait list, or says anew what it waits for.
    mutating func wait(_ connection: Int, for what: NBDWait) {
        if connections[connection].wait == nil {
            waiters[waiterCount] = UInt16(connection)
            waiterCount += 1
        }
        connections[connection].wait = what
    }

    mutating func stopWaiting(_ connection: Int) {
        guard connections[connection].wait != nil else { return }
        connections[connection].wait = nil
        var kept = 0
        for place in 0..<waiterCount where Int(waiters[place]) != connection {
            waiters[kept] = waiters[place]
            kept += 1
        }
        waiterCount = kept
    }

    /// Whether somebody who came earlier waits for what `connection` wants now; for a buffer, of `byteCount` bytes.
    func mustQueue(_ connection: Int, for what: NBDWait, byteCount: Int = 0) -> Bool {
        for place in 0..<waiterCount {
            let other = Int(waiters[place])
            if other == connection { return false }
            guard connections[other].wait == what else { continue }
            switch what {
            case .table, .collection: return true
            case .volume:
                let isSameSide = connections[other].side == connections[connection].side
                if isSameSide, connections[other].volume == connections[connection].volume { return true }
            // A buffer that is too small for whoever waits is of no use to it.
            case .buffer: if connections[other].wantedByteCount <= byteCount { return true }
            }
        }
        return false
    }
}

/// The hooks by which the engine drives its front end.
extension Engine where P: ~Copyable {
    /// Starts to accept connections; false when there are too many listeners.
    mutating func startListening(_ handle: P.ListenerHandle) -> Bool {
        guard !nbd.isStopping else { return false }
        guard let place = (0..<NBDServer.listenerLimit).first(where: { !nbd.isListening[$0] }) else { return false }
        nbd.isListening[place] = true
        platform.startAccepting(handle, token: acceptToken(place))
        return true
    }

    func acceptToken(_ listener: Int) -> Token {
        Token(kind: TokenKind.accept.rawValue, leg: 0, slot: SlotID(index: UInt32(listener), generation: 0))
    }

    func clientToken(_ kind: TokenKind, _ connection: Int) -> Token {
        let slot = SlotID(index: UInt32(connection), generation: nbd.connections[connection].generation)
        return Token(kind: kind.rawValue, leg: 0, slot: slot)
    }

    /// A completion whose token is of one of the front end's kinds.
    mutating func frontendCompleted(_ kind: TokenKind, _ completion: Completion) {
        let slot = completion.token.slot
        switch kind {
        case .accept:
            acceptCompleted(Int(slot.index), completion)
        case .receive:
            checkGeneration(slot)
            receiveCompleted(Int(slot.index), completion)
        case .send:
            checkGeneration(slot)
            sendCompleted(Int(slot.index), completion)
        case .query:
            queryCompleted(slot, completion)
        case .element, .zeroOrFill, .adviceDiscard, .fill, .record, .log, .page, .undoPage, .undoEmptied,
            .examination, .linkAccept, .linkConnect, .linkReceive, .linkSend, .replicaRecord, .compression, .expansion,
            .replicaUndoStep, .replicaUndoPage, .replicaUndoEmptied:
            invariantFailed("completions of elements go to the machines, those of links to the links")
        }
    }

    private func checkGeneration(_ slot: SlotID) {
        invariant(
            nbd.connections[Int(slot.index)].generation == slot.generation,
            "a connection outlives the operations on its socket"
        )
    }

    /// Buffers or request slots have been given back: whoever waits for them may try again, first come first.
    mutating func frontendResourcesFreed() {
        var place = 0
        while place < nbd.waiterCount {
            let connection = Int(nbd.waiters[place])
            advanceClient(connection)
            // Whoever got what it waited for has left this place, and stands at the end if it waits again.
            if place < nbd.waiterCount, Int(nbd.waiters[place]) == connection { place += 1 }
        }
    }

    /// The turn ends: sends what has gathered.
    mutating func frontendFlushOutput() {
        while let connection = nbd.marked.popFirst() {
            nbd.connections[Int(connection)].isMarkedForSending = false
            startSending(Int(connection))
        }
    }
}
