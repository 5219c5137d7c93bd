internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// Targets that a peer has: what their machines want of them, as frames, and the answers.
extension Engine where P: ~Copyable {
    // MARK: - Coming and going

    /// Takes a place for a pair's target; `nil` when there is no such peer, or no place.
    mutating func attachRemote(_ peer: PeerID, _ pair: PairID, volume: Int) -> ElementID? {
        guard let peer = peerIndex(peer) else { return nil }
        guard let place = (0..<Links.targetLimit).first(where: { !links.targets[$0].isInUse }) else { return nil }
        let capacity = volumes[volume].machine.slotCapacity
        links.targets[place] = RemoteTarget(peer: peer, pair: pair, volume: volume, slotCapacity: capacity)
        links.targets[place].stream = UInt32(place + 1)
        return ElementID(remoteTarget: place)
    }

    /// Gives the place back: nothing is in flight to the target any more.
    mutating func detachRemote(_ target: Int) {
        let isQuiet = links.targets[target].activeCount == 0 && links.targets[target].backlog.isEmpty
        invariant(isQuiet, "a target is given up with nothing in flight")
        let session = links.peers[links.targets[target].peer].session
        if links.targets[target].stage != .closed, let control = links.sessions[session].control {
            let header = FrameHeader(kind: .pairClose, stream: links.targets[target].stream, tag: 0)
            enqueue(OutgoingFrame(header: header), on: control)
        }
        forgetTarget(target)
    }

    /// The remote target of a pair; `nil` where its target is an element of this host.
    func remoteTarget(ofPair pair: Int, volume: Int) -> Int? {
        for target in 0..<Links.targetLimit where links.targets[target].isInUse {
            if links.targets[target].volume == volume, links.targets[target].index == pair { return target }
        }
        return nil
    }

    // MARK: - The link

    /// The link is lost: the machine hears of it now, what is in flight fails when its sockets have ended.
    mutating func closeTarget(_ target: Int, _ words: String) {
        let wasUp = links.targets[target].stage == .up
        links.targets[target].stage = .closed
        links.targets[target].reason = words
        let volume = links.targets[target].volume
        let index = links.targets[target].index
        if wasUp { volumes[volume].machine.linkLost(pair: index) }
        if links.targets[target].isRecordAwaited {
            links.targets[target].isRecordAwaited = false
            volumes[volume].machine.recordWritten(pair: index, nil)
        }
        carryOut(volume)
        if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
    }

    /// Whatever the peer has not answered has failed.
    mutating func failRequests(of target: Int) {
        while links.targets[target].waiting.popFirst() != nil {}
        links.targets[target].backlog.removeAll()
        backlogReleased(target)
        guard links.targets[target].activeCount > 0 else { return }
        for slot in 0..<links.targets[target].requests.count where links.targets[target].requests[slot].isActive {
            links.targets[target].requests[slot].openPieces = 0
            links.targets[target].requests[slot].failure = .gone
            endRequest(target, slot)
        }
    }

    // MARK: - The record

    /// A record is durable here: the peer is told, and the machine hears when it has it as well.
    ///
    /// False when nobody has to be waited for.
    mutating func recordIsDurableHere(pair: Int, volume: Int) -> Bool {
        guard let target = remoteTarget(ofPair: pair, volume: volume) else { return false }
        links.targets[target].record = links.targets[target].recordInFlight
        switch links.targets[target].stage {
        case .closed:
            openTargets(of: links.targets[target].peer)
            return false
        case .opening: return false
        case .recording, .up:
            // One that was begun before the peer was met says nothing of what was decided then: the next one does.
            let isTold = links.targets[target].record?.lineage.isTold ?? false
            let isSuperseded = volumes[volume].machine.isRecordWanted(pair) || !isTold
            if links.targets[target].isRecordHeldBack, isSuperseded { return false }
            links.targets[target].isRecordHeldBack = false
            links.targets[target].isRecordAwaited = true
            sendRecord(target)
            return true
        }
    }

    mutating func sendRecord(_ target: Int) {
        let session = links.peers[links.targets[target].peer].session
        guard let record = links.targets[target].record, let control = links.sessions[session].control else { return }
        invariant(record.lineage.isTold, "a record that is told says so")
        links.targets[target].recordTag += 1
        links.targets[target].recordSentAt = platform.now
        var bytes = [UInt8](repeating: 0, count: PairRecord.blockByteCount)
        var span = bytes.mutableSpan
        var raw = unsafe span.mutableBytes
        record.encode(into: &raw)
        let stream = links.targets[target].stream
        send(.record, bytes: bytes, on: control, stream: stream, tag: links.targets[target].recordTag | Self.recordBit)
    }

    /// Tags with this bit name records, all others requests.
    private static var recordBit: UInt64 { 1 << 63 }

    private mutating func recordAnswered(_ header: FrameHeader, _ target: Int) throws(LinkEnd) {
        guard header.tag == links.targets[target].recordTag | Self.recordBit else { return }
        let isOpening = links.targets[target].stage == .recording
        guard isOpening || links.targets[target].stage == .up else { return }
        if header.detail == AckStatus.notKept.rawValue { return recordNotKept(target) }
        guard header.detail == AckStatus.done.rawValue else {
            guard isOpening else { throw LinkEnd(.internalError, "the peer cannot keep the record of a pair") }
            // The other pairs of the session go on.
            return closeTarget(target, "the peer cannot keep the record of this pair")
        }
        let volume = links.targets[target].volume
        let index = links.targets[target].index
        links.targets[target].stage = .up
        if let record = links.targets[target].record {
            volumes[volume].machine.peerHasRecord(pair: index, sequence: record.sequence)
        }
        if links.targets[target].isRecordAwaited {
            links.targets[target].isRecordAwaited = false
            volumes[volume].machine.recordWritten(pair: index, nil)
        }
        if isOpening { volumes[volume].machine.linkRestored(pair: index) }
        peerWasAsked(target)
        isOrderStale = true
        carryOut(volume)
        if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
    }

    /// The peer has refused a record because it could not keep what a copy would overwrite.
    private mutating func recordNotKept(_ target: Int) {
        let volume = links.targets[target].volume
        let index = links.targets[target].index
        volumes[volume].machine.peerCannotKeep(pair: index)
        if links.targets[target].stage == .recording {
            // Opened again with the record of what has become of it.
            closeTarget(target, "the peer cannot keep what would be overwritten")
        } else if links.targets[target].isRecordAwaited {
            links.targets[target].isRecordAwaited = false
            volumes[volume].machine.recordWritten(pair: index, nil)
        }
        carryOut(volume)
        if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
    }

    // MARK: - Requests

    /// Carries an operation out on an element that a peer has.
    mutating func performRemotely(_ operation: ElementOperation, _ target: Int, place: UInt8) {
        let slot = Int(operation.slot.index)
        invariant(!links.targets[target].requests[slot].isActive, "a slot has one operation on a leg at a time")
        var request = RemoteRequest(isActive: true)
        request.slot = operation.slot
        request.place = place
        request.extent = operation.extent
        request.isDurable = operation.isDurable
        request.buffer = operation.buffer
        switch operation.kind {
        case .read, .readAndCheckZero: request.kind = .read
        case .readAndCompare:
            request.isComparison = true
            request.kind = hasDigests(target) ? .digest : .read
        case .write: request.kind = .write
        case .flush: request.kind = .flush
        case .discard: request.kind = operation.fillsIfUnsupported ? .zero : .discard
        case .zeroMayDeallocate: request.kind = .zero
        case .zeroKeepAllocated: request.kind = .keptZero
        case .save: invariantFailed("an undo area is an element of this host")
        }
        if operation.kind == .readAndCompare, request.kind == .read { request.buffer = operation.secondBuffer }
        if links.targets[target].isAsynchronous, goesToBacklog(request, target) { return keep(request, target) }
        links.targets[target].requests[slot] = request
        links.targets[target].activeCount += 1
        guard links.targets[target].stage == .up else {
            links.targets[target].requests[slot].failure = .gone
            return endRequest(target, slot)
        }
        links.targets[target].waiting.append(UInt32(slot))
        pumpTargets(of: links.peers[links.targets[target].peer].session)
    }

    private func hasDigests(_ target: Int) -> Bool {
        let session = links.peers[links.targets[target].peer].session
        return links.sessions[session].terms?.features.contains(.digests) ?? false
    }

    /// Sends what waits for all targets of a session, one after the other.
    mutating func pumpTargets(of session: Int) {
        guard let peer = links.sessions[session].peer else { return }
        var hasSent = true
        while hasSent {
            hasSent = false
            for step in 0..<Links.targetLimit {
                let target = (links.sessions[session].nextTarget + step) % Links.targetLimit
                guard links.targets[target].isInUse, links.targets[target].peer == peer else { continue }
                guard sendNext(target, session) else { continue }
                links.sessions[session].nextTarget = (target + 1) % Links.targetLimit
                hasSent = true
                break
            }
        }
    }

    /// Sends one piece of what waits for a target; false when nothing does, or there is no room.
    private mutating func sendNext(_ target: Int, _ session: Int) -> Bool {
        guard !links.targets[target].waiting.isEmpty else { return false }
        let number = Int(links.targets[target].waiting[0])
        guard let request = links.targets[target].request(number) else {
            invariantFailed("a request waits as long as it is active")
        }
        guard sendPiece(request, number, target, session) else { return false }
        if links.targets[target].request(number)?.isSent ?? true { _ = links.targets[target].waiting.popFirst() }
        return true
    }

    /// Sends the next piece of a request; false when there is no room for it now.
    private mutating func sendPiece(_ request: RemoteRequest, _ number: Int, _ target: Int, _ session: Int) -> Bool {
        guard links.sessions[session].stage == .up, let terms = links.sessions[session].terms else { return false }
        let limit = pieceLength(request, session)
        let length = min(request.extent.length - request.sentByteCount, limit)
        let piece = request.sentByteCount / limit
        invariant(piece < RemoteRequest.pieceLimit, "a request has no more pieces than bits to remember them by")
        let byteCount = request.carriesData ? Int(length) : 0
        guard links.sessions[session].requestCount < Int(terms.limits.requestCount) else { return false }
        let window = Int(terms.limits.windowByteCount)
        guard links.sessions[session].requestByteCount + byteCount <= window else { return false }
        let hasBacklog = links.targets[target].isAsynchronous || !links.targets[target].backlog.isEmpty
        let isOrdered = request.isBehindWrites && hasBacklog
        let isControl = (request.kind == .read || request.kind == .digest) && !isOrdered
        guard let connection = isControl ? links.sessions[session].control : links.sessions[session].data,
            hasRoomForFrame(connection)
        else { return false }
        var header = frameHeader(of: request, length: length, stream: links.targets[target].stream)
        header.tag = UInt64(request.slot.generation) << 32 | piece << 24 | UInt64(number)
        if isOrdered { header.epoch = volumes[links.targets[target].volume].epoch }
        var frame = OutgoingFrame(header: header)
        if request.kind == .write {
            frame.header.payloadByteCount = UInt32(length)
            let sent = Int(request.sentByteCount)
            let count = Int(length)
            frame.payload =
                number >= Backlog.firstNumber
                ? .backlog(target: target, offset: request.dataOffset + sent, count: count)
                : .buffer(request.buffer, offset: sent, count: count)
        }
        if request.kind == .write { compress(&frame, request, target, session) }
        links.sessions[session].requestCount += 1
        links.sessions[session].requestByteCount += byteCount
        links.targets[target].update(number) { request in
            request.openPieces |= 1 << piece
            request.sentByteCount += length
            request.isSent = request.sentByteCount == request.extent.length
        }
        enqueue(frame, on: connection)
        return true
    }

    private func frameHeader(of request: RemoteRequest, length: UInt64, stream: UInt32) -> FrameHeader {
        let kind: FrameKind
        var flags: FrameFlags = request.isDurable ? .durable : []
        var detail: UInt32 = 0
        switch request.kind {
        case .read: (kind, flags) = (.read, [])
        case .write: kind = .write
        case .zero: kind = .zero
        case .keptZero: (kind, flags) = (.zero, flags.union(.noHole))
        case .discard: kind = .discard
        case .flush: (kind, flags) = (.flush, [])
        case .digest: (kind, flags, detail) = (.digestRequest, [], UInt32(WireLimits.pieceByteCountCeiling))
        }
        let offset = request.kind == .flush ? 0 : request.extent.offset + request.sentByteCount
        return FrameHeader(
            kind: kind,
            flags: flags,
            stream: stream,
            epoch: request.epoch,
            offset: offset,
            length: UInt32(length),
            detail: detail
        )
    }

    // MARK: - Answers

    /// The request that an answer is to, and what its piece took of the window; what was not asked ends the session.
    private func piece(_ header: FrameHeader, _ session: Int) throws(LinkEnd) -> AnsweredPiece {
        guard let target = target(ofStream: header.stream, session) else {
            throw LinkEnd(.badOrder, "an answer for a pair that is not open")
        }
        let number = Int(header.tag & 0xFF_FFFF)
        let piece = header.tag >> 24 & 0xFF
        guard let request = links.targets[target].request(number), piece < RemoteRequest.pieceLimit,
            request.openPieces >> piece & 1 == 1, UInt64(request.slot.generation) == header.tag >> 32
        else { throw LinkEnd(.badOrder, "an answer to what was not asked") }
        let length = pieceLength(request, session)
        let start = piece * length
        let extent = Extent(offset: request.extent.offset + start, length: min(length, request.extent.length - start))
        return AnsweredPiece(target: target, number: number, piece: piece, request: request, extent: extent)
    }

    /// The bytes that one frame of a request is about at most.
    private func pieceLength(_ request: RemoteRequest, _ session: Int) -> UInt64 {
        let isCut = request.carriesData || request.kind == .digest
        return isCut ? UInt64(links.sessions[session].terms?.limits.pieceByteCount ?? 4096) : 1 << 30
    }

    /// A piece has been answered, and with the last one the request.
    private mutating func answered(_ piece: AnsweredPiece, _ failure: IOFailure?, _ session: Int) {
        let target = piece.target
        links.sessions[session].requestCount -= 1
        if piece.request.carriesData { links.sessions[session].requestByteCount -= Int(piece.extent.length) }
        links.targets[target].update(piece.number) { request in
            request.openPieces &= ~(1 << piece.piece)
            if let failure { request.failure = failure }
        }
        if let request = links.targets[target].request(piece.number), request.openPieces == 0, request.isSent {
            if piece.number >= Backlog.firstNumber {
                finishEntry(request, piece.number, target)
            } else {
                finishRequest(target, piece.number)
            }
        }
        pumpTargets(of: session)
    }

    private mutating func finishRequest(_ target: Int, _ slot: Int) {
        let request = links.targets[target].requests[slot]
        guard request.kind == .digest, request.failure == nil, request.differs else { return endRequest(target, slot) }
        // A verify says where the two differ, and so has to see the data.
        let operands = volumes[links.targets[target].volume].machine.operands(of: request.slot)
        guard operands.examination == .haveEqualDigests else { return endRequest(target, slot) }
        links.targets[target].requests[slot].kind = .read
        links.targets[target].requests[slot].buffer = operands.secondBuffer
        links.targets[target].requests[slot].sentByteCount = 0
        links.targets[target].requests[slot].isSent = false
        links.targets[target].waiting.append(UInt32(slot))
    }

    /// Tells the machine, at the end of the event.
    mutating func endRequest(_ target: Int, _ slot: Int) {
        let request = links.targets[target].requests[slot]
        links.targets[target].requests[slot].isActive = false
        links.targets[target].activeCount -= 1
        let isKnown = request.kind == .digest && request.failure == nil
        links.hasEnded = true
        links.targets[target].ended.append(
            RemoteOutcome(
                slot: request.slot,
                place: request.place,
                failure: request.failure,
                isMatch: isKnown ? !request.differs : nil
            )
        )
    }

    mutating func requestAnswered(_ header: FrameHeader, _ session: Int) throws(LinkEnd) {
        if header.tag & Self.recordBit != 0 {
            guard let target = target(ofStream: header.stream, session) else { return }
            return try recordAnswered(header, target)
        }
        let piece = try piece(header, session)
        let request = piece.request
        let status = AckStatus(rawValue: header.detail) ?? .ioError
        guard status == .done else { return answered(piece, failure(for: status), session) }
        guard request.kind != .read, request.kind != .digest else {
            throw LinkEnd(.badOrder, "an acknowledgement in place of data")
        }
        answered(piece, nil, session)
    }

    private func failure(for status: AckStatus) -> IOFailure {
        switch status {
        case .noSpace: .noSpace
        case .notKept: .notKept
        case .outOfRange, .badData: .invalidArgument
        case .notOpen, .refused, .abandoned: .gone
        case .done, .ioError: .inputOutput
        }
    }

    mutating func readAnswered(_ header: FrameHeader, _ connection: Int, _ session: Int) throws(LinkEnd) {
        let piece = try piece(header, session)
        let request = piece.request
        guard request.kind == .read, header.offset == piece.extent.offset,
            UInt64(header.length) == piece.extent.length, !header.flags.contains(.compressed)
        else { throw LinkEnd(.badOrder, "data that was not asked for") }
        let start = Int(header.offset - request.extent.offset)
        let room = unsafe pool.bytes(of: request.buffer)[start..<start + Int(header.length)]
        if header.flags.contains(.zeroes) {
            unsafe UnsafeMutableRawBufferPointer(rebasing: room).initializeMemory(as: UInt8.self, repeating: 0)
        } else {
            unsafe UnsafeMutableRawBufferPointer(rebasing: room).copyMemory(from: payload(of: header, connection))
        }
        answered(piece, nil, session)
    }

    mutating func digestsAnswered(_ header: FrameHeader, _ connection: Int, _ session: Int) throws(LinkEnd) {
        let piece = try piece(header, session)
        let request = piece.request
        guard request.kind == .digest, header.offset == piece.extent.offset,
            UInt64(header.length) == piece.extent.length, header.payloadByteCount == 8
        else { throw LinkEnd(.badOrder, "digests that were not asked for") }
        let start = Int(header.offset - request.extent.offset)
        let found = unsafe payload(of: header, connection).loadUnaligned(as: UInt64.self)
        let bytes = unsafe UnsafeRawBufferPointer(pool.bytes(of: request.buffer))[start..<start + Int(header.length)]
        let own = unsafe BlockDigest.digest(UnsafeRawBufferPointer(rebasing: bytes))
        if UInt64(littleEndian: found) != own { links.targets[piece.target].requests[piece.number].differs = true }
        answered(piece, nil, session)
    }

    /// Tells the machines what has ended.
    mutating func deliverRemoteOutcomes() {
        links.hasEnded = false
        for target in 0..<Links.targetLimit where links.targets[target].isInUse {
            while let outcome = links.targets[target].ended.popFirst() {
                deliver(outcome, volume: links.targets[target].volume)
            }
        }
    }

    private mutating func deliver(_ outcome: RemoteOutcome, volume: Int) {
        hasFreedResources = true
        var isMatch = outcome.isMatch ?? false
        if outcome.failure == nil, outcome.isMatch == nil {
            guard let answer = examine(outcome.slot, place: outcome.place, volume: volume) else { return }
            isMatch = answer
        }
        let leg = volumes[volume].leg(atPlace: outcome.place)
        let result = OperationOutcome(failure: outcome.failure, isMatch: isMatch)
        volumes[volume].machine.completed(outcome.slot, leg: leg, result)
        carryOut(volume)
        if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
    }
}

/// The piece of a request that an answer is to.
private struct AnsweredPiece {
    var target: Int
    /// The request's number, and the piece's in it.
    var number: Int
    var piece: UInt64
    /// As it was before the answer.
    var request: RemoteRequest
    var extent: Extent
}
