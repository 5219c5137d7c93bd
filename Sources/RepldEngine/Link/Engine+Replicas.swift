internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// Volumes that a peer writes: its requests, from the frame to the answer, and the record that it tells of.
extension Engine where P: ~Copyable {
    // MARK: - Coming and going

    mutating func addReplica(_ spec: ReplicaSpec<P>) -> Result<Void, EngineRefusal> {
        guard let volume = volumeIndex(spec.volume), !volumes[volume].isRemoving else { return .failure(.noSuchVolume) }
        guard replicaIndex(spec.pair) == nil, findPair(spec.pair) == nil else { return .failure(.nameInUse) }
        guard !hasReplica(volume), volumes[volume].machine.canFollow else { return .failure(.volumeHasPairs) }
        let connectionCount = volumes[volume].connectionCount
        guard connectionCount == 0 else { return .failure(.volumeInUse(connectionCount: connectionCount)) }
        guard !volumes[volume].isReadOnly else { return .failure(.targetReadOnly) }
        let room = spec.metadata.geometry.byteCount - min(spec.metadataOffset, spec.metadata.geometry.byteCount)
        guard room >= UInt64(PairRecord.areaByteCount) else {
            return .failure(.metadataTooSmall(byteCount: room, needed: UInt64(PairRecord.areaByteCount)))
        }
        guard let place = (0..<Links.replicaLimit).first(where: { !links.replicas[$0].isInUse }) else {
            return .failure(.tableFull("replicas"))
        }
        guard let metadata = platform.attach(spec.metadata.handle) else { return .failure(.tableFull("elements")) }
        // Where nothing was kept, it goes without.
        if let refusal = attachUndo(spec, place, volume), spec.record?.hasUndo ?? false {
            platform.detach(metadata)
            return .failure(refusal)
        }
        links.replicas[place].isInUse = true
        links.replicas[place].pair = spec.pair
        links.replicas[place].name = spec.name
        links.replicas[place].volume = volume
        links.replicas[place].metadata = metadata
        links.replicas[place].metadataOffset = spec.metadataOffset
        links.replicas[place].block = AlignedBlock(isInUse: true)
        links.replicas[place].record = spec.record
        links.replicas[place].nextBlock = spec.recordBlock ^ 1
        follow(volume)
        carryOut(volume)
        return .success(())
    }

    /// Takes the area in which a replica keeps what its peer overwrites; why it cannot.
    private mutating func attachUndo(_ spec: ReplicaSpec<P>, _ place: Int, _ volume: Int) -> EngineRefusal? {
        guard let area = spec.undoArea else { return nil }
        let byteCount = volumes[volume].machine.byteCount
        let layout = UndoLayout(volumeByteCount: byteCount, granuleByteCount: UInt64(spec.granuleByteCount))
        let hasBlocks = area.geometry.logicalBlockByteCount <= volumes[volume].geometry.logicalBlockByteCount
        guard area.geometry.byteCount >= layout.areaByteCount, hasBlocks else {
            return .undoAreaUnusable(byteCount: area.geometry.byteCount, needed: layout.areaByteCount)
        }
        guard let element = platform.attach(area.handle) else { return .tableFull("elements") }
        links.replicas[place].undo = ReplicaUndo(
            area: element,
            volumeByteCount: byteCount,
            granuleByteCount: spec.granuleByteCount,
            spec.record?.hasUndo ?? false ? spec.undo : nil
        )
        return nil
    }

    /// Closes what a replica has besides its volume, and gives its place back.
    mutating func endReplica(_ place: Int) {
        if let metadata = links.replicas[place].metadata { platform.detach(metadata) }
        if let area = links.replicas[place].undo.area { platform.detach(area) }
        links.replicas[place] = Replica()
    }

    mutating func removeReplica(_ pair: PairID, _ answer: @escaping @Sendable (Result<Void, EngineRefusal>) -> Void) {
        guard let place = replicaIndex(pair), links.replicas[place].removal == nil else {
            return answer(.failure(.noSuchPair))
        }
        links.replicas[place].session = nil
        links.replicas[place].removal = answer
        finishReplicaIfIdle(place)
    }

    /// Whether a volume is a replica whose record is here.
    func hasReplica(_ volume: Int) -> Bool {
        (0..<Links.replicaLimit).contains { links.replicas[$0].isInUse && links.replicas[$0].volume == volume }
    }

    func replicaIndex(_ pair: PairID) -> Int? {
        (0..<Links.replicaLimit).first { links.replicas[$0].isInUse && links.replicas[$0].pair == pair }
    }

    mutating func finishReplicaIfIdle(_ place: Int) {
        guard links.replicas[place].isInUse, links.replicas[place].isIdle else { return }
        guard let answer = links.replicas[place].removal else { return }
        let volume = links.replicas[place].volume
        stopFollowing(volume)
        endReplica(place)
        carryOut(volume)
        answer(.success(()))
    }

    // MARK: - Opening

    /// The peer wants to write a replica.
    mutating func openReplica(_ opening: PairOpening, _ header: FrameHeader, _ session: Int) {
        // An opening begins anew with epochs.
        let isImage = replicaIndex(opening.record.pair).map { links.replicas[$0].isImage } ?? false
        let status = statusOfOpening(opening, header, session)
        guard let control = links.sessions[session].control else { return }
        var answer = opening
        answer.record = ownSide(of: opening.record)
        if let place = replicaIndex(opening.record.pair) {
            answer.keepsUndo = links.replicas[place].undo.area != nil
            let counts = links.replicas[place].record?.hasUndo ?? false
            answer.isUndoLost = counts && !links.replicas[place].undo.isWhole
            answer.isImage = isImage
        }
        send(.pairOpenReply, answer, on: control, stream: header.stream, tag: header.tag, detail: status.rawValue)
    }

    /// What this side has of a pair that the peer opens.
    func ownSide(of peer: SideRecord) -> SideRecord {
        if let (volume, pair) = findPair(peer.pair), let target = remoteTarget(ofPair: pair, volume: volume),
            let record = links.targets[target].record ?? links.targets[target].recordInFlight
        {
            return record.side(hasPair: true)
        }
        if let place = replicaIndex(peer.pair), let record = links.replicas[place].record {
            return record.side(hasPair: false)
        }
        return SideRecord(pair: peer.pair, volumeByteCount: peer.volumeByteCount, hasPair: false)
    }

    private mutating func statusOfOpening(_ opening: PairOpening, _ header: FrameHeader, _ session: Int) -> OpenStatus {
        if let status = statusBesidePair(opening) { return status }
        guard let place = replicaIndex(opening.record.pair), links.replicas[place].removal == nil else {
            return .unknownPair
        }
        guard !links.replicas[place].isClaimed else { return .alreadyOpen }
        let volume = links.replicas[place].volume
        let byteCount = volumes[volume].geometry.byteCount
        let blockByteCount = volumes[volume].geometry.logicalBlockByteCount
        guard opening.record.volumeByteCount <= byteCount, blockByteCount <= opening.blockByteCount else {
            return .damaged
        }
        // What came over an earlier session must not be applied behind what comes over this one.
        guard links.replicas[place].isIdle else { return .alreadyOpen }
        for other in 0..<Links.replicaLimit where other != place && links.replicas[other].session == session {
            if links.replicas[other].stream == header.stream { return .noResources }
        }
        links.replicas[place].session = session
        links.replicas[place].stream = header.stream
        links.replicas[place].epoch = 0
        links.replicas[place].epochFailure = nil
        return .opened
    }

    mutating func closeReplica(_ header: FrameHeader, _ session: Int) {
        if let place = replica(ofStream: header.stream, session) { links.replicas[place].session = nil }
    }

    private func replica(ofStream stream: UInt32, _ session: Int) -> Int? {
        (0..<Links.replicaLimit).first {
            links.replicas[$0].isInUse && links.replicas[$0].session == session && links.replicas[$0].stream == stream
        }
    }

    // MARK: - The record

    /// The peer's record of a pair; false when the one before is still being written.
    mutating func recordReceived(_ header: FrameHeader, _ connection: Int, _ session: Int) throws(LinkEnd) -> Bool {
        guard let place = replica(ofStream: header.stream, session) else {
            acknowledge(header, .notOpen, session)
            return true
        }
        guard links.replicas[place].writing == nil else { return false }
        let record: PairRecord
        do throws(PairRecordDamage) {
            record = unsafe try PairRecord.decode(RawSpan(_unsafeBytes: payload(of: header, connection)))
        } catch {
            throw LinkEnd(.badFrame, "a bad record: \(error.words)")
        }
        guard record.pair == links.replicas[place].pair else { throw LinkEnd(.badOrder, "the record of another pair") }
        guard !record.isTakenBack else { throw LinkEnd(.badFrame, "a source is never taken back") }
        let need = undoNeed(of: record, place)
        guard need != .quiet else { return false }
        links.replicas[place].writing = record
        links.replicas[place].writingSession = session
        links.replicas[place].writingTag = header.tag
        let isOfSameImage = links.replicas[place].record.map { record.isOfSameImage(as: $0) } ?? true
        links.replicas[place].copiesOwed = isOfSameImage ? max(links.replicas[place].copiesOwed, 1) : 2
        switch need {
        case .impossible: refuseRecord(place)
        case .blankPages: beginKeeping(record, place)
        case .nothing, .quiet: writeRecord(place)
        }
        return true
    }

    /// Writes the record that is to be written.
    mutating func writeRecord(_ place: Int) {
        guard let record = links.replicas[place].writing else { invariantFailed("a record is to be written") }
        guard let metadata = links.replicas[place].metadata else { invariantFailed("a replica has a metadata area") }
        let block = unsafe links.replicas[place].block.memory
        var span = unsafe MutableRawSpan(_unsafeBytes: block)
        record.encode(into: &span)
        unsafe platform.write(
            metadata,
            at: links.replicas[place].metadataOffset
                + UInt64(links.replicas[place].nextBlock * PairRecord.blockByteCount),
            from: UnsafeRawBufferPointer(block),
            isDurable: true,
            token: Token(
                kind: TokenKind.replicaRecord.rawValue,
                leg: 0,
                slot: SlotID(index: UInt32(place), generation: 0)
            )
        )
    }

    /// What the record counts on cannot be kept: it is not written, and the peer is told.
    mutating func refuseRecord(_ place: Int) { endRecord(place, .notKept) }

    mutating func replicaRecordWritten(_ place: Int, _ failure: IOFailure?) {
        guard let record = links.replicas[place].writing else { invariantFailed("a record was on its way") }
        if failure == nil {
            links.replicas[place].record = record
            links.replicas[place].nextBlock ^= 1
        }
        if links.replicas[place].undo.takingBack != nil {
            links.replicas[place].writing = nil
            takenBackRecorded(place, failure)
            return finishReplicaIfIdle(place)
        }
        if failure == nil {
            links.replicas[place].copiesOwed -= 1
            guard links.replicas[place].copiesOwed <= 0 else { return writeRecord(place) }
            undoRecorded(record, place)
            forgetEpochFailure(record, place)
        } else if links.replicas[place].undo.pages.stage == .blank, !(links.replicas[place].record?.hasUndo ?? false) {
            links.replicas[place].undo.pages.drop()
        }
        endRecord(place, failure == nil ? .done : .ioError)
    }

    private mutating func endRecord(_ place: Int, _ status: AckStatus) {
        links.replicas[place].writing = nil
        if let session = links.replicas[place].writingSession, links.replicas[place].session == session,
            let control = links.sessions[session].control
        {
            let header = FrameHeader(
                kind: .ack,
                stream: links.replicas[place].stream,
                tag: links.replicas[place].writingTag,
                detail: status.rawValue
            )
            enqueue(OutgoingFrame(header: header), on: control)
        }
        links.replicas[place].writingSession = nil
        hasFreedResources = true
        finishReplicaIfIdle(place)
    }

    // MARK: - Requests

    /// A request of the peer; false when it has to wait for a place or a buffer.
    mutating func requestReceived(_ header: FrameHeader, _ connection: Int, _ session: Int) throws(LinkEnd) -> Bool {
        guard let place = replica(ofStream: header.stream, session) else {
            acknowledge(header, .notOpen, session)
            return true
        }
        let volume = links.replicas[place].volume
        let extent = Extent(offset: header.offset, length: UInt64(header.length))
        let block = UInt64(volumes[volume].geometry.logicalBlockByteCount)
        let longest = min(Int(links.sessions[session].terms?.limits.pieceByteCount ?? 0), pool.largestByteCount)
        let needsBuffer = header.kind == .write || header.kind == .read || header.kind == .digestRequest
        let isShort = !needsBuffer || Int(header.length) <= longest
        guard isShort, extent.end <= volumes[volume].machine.byteCount, extent.isAligned(to: block) else {
            acknowledge(header, .outOfRange, session)
            return true
        }
        guard !links.serves.isFull else { return false }
        if header.epoch != 0 {
            switch header.kind {
            case .write, .zero, .discard:
                let isBegun = header.epoch == links.replicas[place].epoch || skipsEndOfEpoch(header, place)
                if !isBegun { return beginEpoch(header, place, session) }
            default:
                guard links.replicas[place].writeCount == 0 else { return false }
                if refusesRead(header, place, session) { return true }
            }
        }
        var request = PeerRequest.blank
        request.kind = header.kind
        request.replica = place
        request.session = session
        request.sessionNumber = links.sessions[session].number
        request.stream = header.stream
        request.tag = header.tag
        request.extent = extent
        request.granule = header.detail
        request.isDurable = header.flags.contains(.durable)
        request.isOrdered = header.epoch != 0
        request.keepsAllocation = header.flags.contains(.noHole)
        if header.kind == .write {
            guard try takeData(header, connection, &request) else { return false }
        }
        if header.kind == .digestRequest, header.detail < header.length {
            throw LinkEnd(.badOrder, "digests of less than what is asked for")
        }
        guard let serve = links.serves.take(request) else { invariantFailed("there is a place") }
        links.replicas[place].requestCount += 1
        if links.serves[serve].isWrite { links.replicas[place].writeCount += 1 }
        if mustWaitForUndo(serve, place) { waitForUndo(serve, place) } else { submitInOrder(serve) }
        return true
    }

    /// Hands a request to its volume behind all that wait already: overlapping ones keep their order.
    mutating func submitInOrder(_ serve: SlotID) {
        if !links.waitingServes.isEmpty || !submitServe(serve) { links.waitingServes.append(serve) }
    }

    /// Takes the data of a write into a buffer; false when there is none.
    private mutating func takeData(
        _ header: FrameHeader,
        _ connection: Int,
        _ request: inout PeerRequest
    ) throws(LinkEnd) -> Bool {
        switch links.connections[connection].expansion {
        case .running: return false
        case .done(let buffer, let isWhole):
            links.connections[connection].expansion = .none
            guard isWhole else {
                releaseBuffer(buffer)
                throw LinkEnd(.badFrame, "the payload of a write does not expand to what its header says")
            }
            request.buffer = buffer
            return true
        case .none: break
        }
        guard let buffer = pool.take(byteCount: Int(header.length)) else { return false }
        if header.flags.contains(.compressed) {
            expand(header, connection, into: buffer)
            return false
        }
        let room = unsafe bytes(buffer, Int(header.length))
        if header.flags.contains(.zeroes) {
            unsafe room.initializeMemory(as: UInt8.self, repeating: 0)
        } else {
            unsafe room.copyMemory(from: payload(of: header, connection))
        }
        request.buffer = buffer
        return true
    }

    /// Hands a request to its volume; false when that takes none now.
    mutating func submitServe(_ serve: SlotID) -> Bool {
        let volume = links.replicas[links.serves[serve].replica].volume
        let kind = links.serves[serve].kind
        if kind == .read || kind == .digestRequest, links.serves[serve].buffer == .none {
            guard let buffer = pool.take(byteCount: Int(links.serves[serve].extent.length)) else { return false }
            links.serves[serve].buffer = buffer
        }
        let operation: HostOperation =
            switch kind {
            case .write: .write
            case .zero: .writeZeroes
            case .discard: .discard
            case .flush, .epochMark: .flush
            default: .read
            }
        let request = HostRequest(
            operation: operation,
            extent: links.serves[serve].extent,
            buffer: links.serves[serve].buffer,
            origin: RequestOrigin(client: RequestOrigin.peers, request: serve.index),
            isDurable: links.serves[serve].isDurable,
            keepsAllocation: links.serves[serve].keepsAllocation
        )
        links.serves[serve].isSubmitted = true
        if submit(request, to: volume) { return true }
        links.serves[serve].isSubmitted = false
        return false
    }

    /// The volume has answered a request of a peer.
    mutating func serveAnswered(_ slot: UInt32, _ failure: IOFailure?) {
        guard let serve = links.serves.taken(at: Int(slot)) else { invariantFailed("an answer is to a request") }
        let request = links.serves[serve]
        if request.kind == .epochMark { return epochEnded(serve, failure) }
        noteEpochFailure(of: request, failure)
        // A buffer that was written from comes back by itself.
        if request.kind == .write || failure != nil { links.serves[serve].buffer = .none }
        guard links.sessions[request.session].number == request.sessionNumber,
            links.sessions[request.session].stage == .up
        else { return endServe(serve) }
        var header = FrameHeader(kind: .ack, stream: request.stream, tag: request.tag)
        guard failure == nil, request.kind == .read || request.kind == .digestRequest else {
            header.detail = status(for: failure).rawValue
            if failure == nil, request.isDurable || request.kind == .flush { header.flags = .durable }
            return answer(header, .none, serve, links.sessions[request.session].control)
        }
        header.kind = request.kind == .read ? .readReply : .digestReply
        header.offset = request.extent.offset
        header.length = UInt32(request.extent.length)
        let data = links.sessions[request.session].data
        if request.kind == .read {
            let count = Int(request.extent.length)
            header.payloadByteCount = UInt32(count)
            return answer(header, .buffer(request.buffer, offset: 0, count: count), serve, data)
        }
        header.detail = request.granule
        let bytes = unsafe bytes(request.buffer, Int(request.extent.length))
        var digest = unsafe BlockDigest.digest(UnsafeRawBufferPointer(bytes)).littleEndian
        unsafe withUnsafeBytes(of: &digest) { unsafe bytes.copyMemory(from: $0) }
        header.payloadByteCount = 8
        answer(header, .buffer(request.buffer, offset: 0, count: 8), serve, data)
    }

    private mutating func answer(
        _ header: FrameHeader,
        _ payload: OutgoingFrame.Payload,
        _ serve: SlotID,
        _ connection: Int?
    ) {
        guard let connection else { return endServe(serve) }
        if case .none = payload {
            enqueue(OutgoingFrame(header: header), on: connection)
            return endServe(serve)
        }
        enqueue(OutgoingFrame(header: header, payload: payload, serve: serve), on: connection)
    }

    /// A request of a peer is over: its answer has been sent, or nobody wants it any more.
    mutating func endServe(_ serve: SlotID) {
        let request = links.serves[serve]
        if request.buffer != .none { releaseBuffer(request.buffer) }
        links.serves.release(serve)
        links.replicas[request.replica].requestCount -= 1
        if request.isWrite { links.replicas[request.replica].writeCount -= 1 }
        hasFreedResources = true
        finishReplicaIfIdle(request.replica)
    }

    mutating func acknowledge(_ header: FrameHeader, _ status: AckStatus, _ session: Int) {
        guard let control = links.sessions[session].control else { return }
        let answer = FrameHeader(kind: .ack, stream: header.stream, tag: header.tag, detail: status.rawValue)
        enqueue(OutgoingFrame(header: answer), on: control)
    }

    func status(for failure: IOFailure?) -> AckStatus {
        switch failure {
        case nil: .done
        case .noSpace: .noSpace
        case .notKept: .notKept
        case .invalidArgument: .outOfRange
        case .cancelled: .abandoned
        default: .ioError
        }
    }
}
