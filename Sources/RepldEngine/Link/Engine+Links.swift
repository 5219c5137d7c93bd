internal import RepldCore
internal import RepldFormat
internal import RepldPair
internal import RepldWire

/// Sessions: how they are made, kept, lost and made again.
extension Engine where P: ~Copyable {
    // MARK: - Commands

    mutating func carryOut(_ command: LinkCommand<P>) {
        if links.host == PairID(high: 0, low: 0) {
            links.host = PairID(high: platform.random(), low: platform.random())
        }
        links.isInUse = true
        switch command {
        case .addPeer(let spec, let answer): answer(addPeer(spec))
        case .removePeer(let id, let answer): answer(removePeer(id))
        case .listenToPeers(let handle, let answer): answer(listenToPeers(handle))
        case .addReplica(let spec, let answer): answer(addReplica(spec))
        case .removeReplica(let pair, let answer): removeReplica(pair, answer)
        case .setMode(let pair, let isAsynchronous, let limit, let answer):
            answer(setMode(pair, isAsynchronous: isAsynchronous, recoveryPointNanoseconds: limit))
        case .setRecovery(let pair, let isAutomatic, let answer): answer(setRecovery(pair, isAutomatic: isAutomatic))
        case .handover(let command): carryOut(command)
        case .configurePeer(let id, let settings, let answer): answer(configurePeer(id, settings))
        case .send(let peer, let bytes, let answer): sendMessage(peer, bytes, answer)
        case .reply(let token, let bytes): replyToMessage(token, bytes)
        }
    }

    func refuse(_ command: LinkCommand<P>, _ refusal: EngineRefusal) {
        switch command {
        case .addPeer(_, let answer), .removePeer(_, let answer), .listenToPeers(_, let answer),
            .configurePeer(_, _, let answer),
            .addReplica(_, let answer), .removeReplica(_, let answer), .setMode(_, _, _, let answer),
            .setRecovery(_, _, let answer):
            answer(.failure(refusal))
        case .handover(let command): refuse(command, refusal)
        case .send(_, _, let answer): answer(.failure(.stopping))
        case .reply: break
        }
    }

    private mutating func addPeer(_ spec: PeerSpec<P>) -> Result<Void, EngineRefusal> {
        guard peerIndex(spec.id) == nil else { return .failure(.nameInUse) }
        guard let index = (0..<Links.peerLimit).first(where: { !links.peers[$0].isInUse }),
            let session = (0..<Links.sessionLimit).first(where: { links.sessions[$0].stage == .free })
        else { return .failure(.tableFull("peers")) }
        links.peers[index].isInUse = true
        links.peers[index].id = spec.id
        links.peers[index].name = spec.name
        links.peers[index].settings = spec.settings
        links.peers[index].host = spec.host
        links.peers[index].session = session
        links.peers[index].retryAt = platform.now
        links.sessions[session].stage = .down
        links.sessions[session].peer = index
        links.sessions[session].compressor = LinkCompressor(isInUse: true)
        links.sessions[session].compressor.policy = CompressionPolicy(setting: spec.settings.compression.setting)
        peerHandles[index] = spec.handle
        connect(session)
        return .success(())
    }

    /// What is under way goes on as it began: what is being compressed is sent compressed.
    private mutating func configurePeer(_ id: PeerID, _ settings: LinkSettings) -> Result<Void, EngineRefusal> {
        guard let index = peerIndex(id) else { return .failure(.noSuchPair) }
        links.peers[index].settings = settings
        links.sessions[links.peers[index].session].compressor.policy.setting = settings.compression.setting
        return .success(())
    }

    private mutating func setRecovery(_ id: PairID, isAutomatic: Bool) -> Result<Void, EngineRefusal> {
        guard let (volume, pair) = findPair(id) else { return .failure(.noSuchPair) }
        guard remoteTarget(ofPair: pair, volume: volume) != nil else { return .failure(.notRemote) }
        volumes[volume].machine.setRecovery(pair: pair, isAutomatic: isAutomatic)
        return .success(())
    }

    private mutating func removePeer(_ id: PeerID) -> Result<Void, EngineRefusal> {
        guard let index = peerIndex(id) else { return .failure(.noSuchPair) }
        for target in 0..<Links.targetLimit where links.targets[target].isInUse && links.targets[target].peer == index {
            return .failure(.volumeHasPairs)
        }
        let session = links.peers[index].session
        links.peers[index] = LinkPeer()
        peerHandles[index] = nil
        links.sessions[session].peer = nil
        if links.sessions[session].stage == .down {
            links.sessions[session] = LinkSession()
        } else {
            endSession(session, LinkEnd(.removed, "the peer was removed"))
        }
        return .success(())
    }

    private mutating func listenToPeers(_ handle: P.ListenerHandle) -> Result<Void, EngineRefusal> {
        guard let place = (0..<Links.listenerLimit).first(where: { !links.isListening[$0] }) else {
            return .failure(.tableFull("listeners for peers"))
        }
        links.isListening[place] = true
        platform.startAccepting(handle, token: linkAcceptToken(place))
        return .success(())
    }

    func peerIndex(_ id: PeerID) -> Int? {
        (0..<Links.peerLimit).first { links.peers[$0].isInUse && links.peers[$0].id == id }
    }

    var peerStatuses: [PeerStatus] {
        (0..<Links.peerLimit).filter { links.peers[$0].isInUse }.map { peer in
            let session = links.peers[peer].session
            var status = PeerStatus(
                id: links.peers[peer].id,
                name: links.peers[peer].name,
                isConnected: links.sessions[session].stage == .up,
                reason: links.peers[peer].reason
            )
            status.roundTripNanoseconds = links.peers[peer].roundTripNanoseconds
            status.sentByteCount = links.sessions[session].sentByteCount
            status.receivedByteCount = links.sessions[session].receivedByteCount
            status.plainByteCount = links.sessions[session].compressor.plainByteCount
            status.compressedByteCount = links.sessions[session].compressor.compressedByteCount
            return status
        }
    }

    var replicaStatuses: [ReplicaStatus] {
        (0..<Links.replicaLimit).filter { links.replicas[$0].isInUse }.map { place in
            var status = ReplicaStatus(
                pair: links.replicas[place].pair,
                name: links.replicas[place].name,
                volume: volumes[links.replicas[place].volume].id,
                isConnected: links.replicas[place].session != nil,
                record: links.replicas[place].record
            )
            let isKept = links.replicas[place].undo.isPresent && links.replicas[place].record?.hasUndo ?? false
            if isKept { status.keptByteCount = links.replicas[place].undo.pages.saved.dirtyByteCount }
            return status
        }
    }

    // MARK: - Tokens and completions

    func linkAcceptToken(_ listener: Int) -> Token {
        Token(kind: TokenKind.linkAccept.rawValue, leg: 0, slot: SlotID(index: UInt32(listener), generation: 0))
    }

    func linkToken(_ kind: TokenKind, _ connection: Int) -> Token {
        let slot = SlotID(index: UInt32(connection), generation: links.connections[connection].generation)
        return Token(kind: kind.rawValue, leg: 0, slot: slot)
    }

    mutating func linkCompleted(_ kind: TokenKind, _ completion: Completion) {
        let slot = completion.token.slot
        let place = Int(slot.index)
        switch kind {
        case .linkAccept: return peerAccepted(place, completion)
        case .replicaRecord: return replicaRecordWritten(place, completion.failure)
        case .compression:
            return compressed(session: place, place: Int(completion.token.leg), byteCount: Int(completion.count))
        case .replicaUndoStep, .replicaUndoPage, .replicaUndoEmptied:
            return replicaUndoCompleted(kind, place, Int(completion.token.leg), completion.failure)
        default: break
        }
        invariant(
            links.connections[place].generation == slot.generation,
            "a connection outlives the operations on its socket"
        )
        switch kind {
        case .linkConnect: peerConnected(place, completion)
        case .linkReceive: linkReceived(place, completion)
        case .linkSend: linkSent(place, completion)
        case .expansion: expanded(place, byteCount: Int(completion.count))
        default: invariantFailed("a completion of a link is of one of its kinds")
        }
    }

    // MARK: - Making a session

    private mutating func freeConnection() -> Int? {
        (0..<Links.connectionLimit).first { links.connections[$0].stage == .free }
    }

    private mutating func connect(_ session: Int) {
        guard links.sessions[session].stage == .down, !links.isStopping else { return }
        guard let peer = links.sessions[session].peer else { return }
        links.peers[peer].retryAt = platform.now.advanced(byNanoseconds: links.peers[peer].settings.retryNanoseconds)
        links.sessions[session].number = links.nextSessionNumber
        links.nextSessionNumber += 1
        links.sessions[session].id = PairID(high: platform.random(), low: platform.random())
        links.sessions[session].terms = nil
        links.sessions[session].startedAt = platform.now
        links.sessions[session].stage = .connecting
        if !openConnection(session, .control) { links.sessions[session].stage = .down }
    }

    private mutating func openConnection(_ session: Int, _ lane: Lane) -> Bool {
        guard let peer = links.sessions[session].peer, let handle = peerHandles[peer],
            let place = freeConnection()
        else { return false }
        links.connections[place].open(.connecting, at: platform.now)
        links.connections[place].session = session
        links.connections[place].lane = lane
        links.connections[place].isInitiator = true
        links.connections[place].reader = FrameReader(context: WireContext(lane: lane))
        setConnection(place, session, lane)
        platform.connect(handle, token: linkToken(.linkConnect, place))
        return true
    }

    mutating func setConnection(_ connection: Int?, _ session: Int, _ lane: Lane) {
        switch lane {
        case .control: links.sessions[session].control = connection
        case .data: links.sessions[session].data = connection
        }
    }

    private mutating func peerConnected(_ connection: Int, _ completion: Completion) {
        links.connections[connection].stage = .greeting
        if completion.failure == nil {
            links.connections[connection].socket = SocketID(index: UInt16(completion.count))
        }
        if links.connections[connection].isEnding { return finishConnection(connection) }
        if let failure = completion.failure {
            return endConnection(connection, LinkEnd(.silent, "cannot connect: \(failure.words)"))
        }
        guard let session = links.connections[connection].session else { return finishConnection(connection) }
        sendHello(.hello, connection, links.sessions[session].id)
        receiveFrames(connection)
    }

    private mutating func peerAccepted(_ listener: Int, _ completion: Completion) {
        if completion.failure == .cancelled {
            links.isListening[listener] = false
            return
        }
        guard completion.failure == nil else { return }
        let socket = SocketID(index: UInt16(completion.count))
        guard !links.isStopping, let place = freeConnection() else {
            platform.shutdown(socket)
            platform.close(socket)
            return
        }
        links.connections[place].open(.greeting, at: platform.now)
        links.connections[place].socket = socket
        receiveFrames(place)
    }

    func ownHello(_ lane: Lane, session: PairID) -> Hello {
        let features: WireFeatures = [.lz4, .digests]
        return Hello(lane: lane, features: features, session: session, host: links.host)
    }

    mutating func sendHello(_ kind: FrameKind, _ connection: Int, _ session: PairID) {
        let hello = ownHello(links.connections[connection].lane, session: session)
        send(kind, hello, on: connection)
    }

    // MARK: - Greetings

    /// The first frame of a connection that a peer has made.
    mutating func greeted(_ connection: Int, _ hello: Hello) throws(LinkEnd) {
        links.connections[connection].lane = hello.lane
        let terms = try negotiated(hello, connection)
        try checkClaim(hello.host, connection)
        let session = try findSession(for: hello)
        guard (hello.lane == .control ? links.sessions[session].control : links.sessions[session].data) == nil else {
            throw LinkEnd(.badOrder, "the session has a \(hello.lane) connection")
        }
        links.connections[connection].session = session
        links.connections[connection].stage = .open
        setConnection(connection, session, hello.lane)
        links.connections[connection].heardAt = platform.now
        links.sessions[session].terms = terms
        links.connections[connection].reader = FrameReader(context: WireContext(lane: hello.lane, terms: terms))
        sendHello(.helloReply, connection, hello.session)
        if hello.lane == .data { links.sessions[session].stage = .up }
    }

    /// A host that is known as a peer of ours has to come with the key that this peer is reached by.
    private func checkClaim(_ host: PairID, _ connection: Int) throws(LinkEnd) {
        guard let peer = peer(ofHost: host), let handle = peerHandles[peer] else { return }
        guard let socket = links.connections[connection].socket, platform.hasProven(socket, toBe: handle) else {
            throw LinkEnd(.badOrder, "it calls itself host \(host), and has not the key of that host")
        }
    }

    private func peer(ofHost host: PairID) -> Int? {
        (0..<Links.peerLimit).first { links.peers[$0].isInUse && links.peers[$0].host == host }
    }

    /// The daemon of a peer has said what it calls itself: two peers are two hosts.
    private mutating func noteHost(_ host: PairID, _ session: Int) throws(LinkEnd) {
        guard let peer = links.sessions[session].peer else { return }
        if let other = self.peer(ofHost: host), other != peer {
            throw LinkEnd(.badOrder, "it calls itself the host that peer '\(links.peers[other].name)' is")
        }
        links.peers[peer].host = host
    }

    /// The session that a connection belongs to; a new control connection of a host takes the place of the one before.
    private mutating func findSession(for hello: Hello) throws(LinkEnd) -> Int {
        for session in 0..<Links.sessionLimit where links.sessions[session].peer == nil {
            let stage = links.sessions[session].stage
            guard stage == .connecting || stage == .up else { continue }
            if links.sessions[session].id == hello.session {
                guard links.sessions[session].host == hello.host else {
                    throw LinkEnd(.badOrder, "the session is another host's")
                }
                if hello.lane == .data { return session }
                throw LinkEnd(.badOrder, "the session has a control connection")
            }
            if links.sessions[session].host == hello.host, hello.lane == .control {
                endSession(session, LinkEnd(.replaced, "the host has made a new session"))
            }
        }
        guard hello.lane == .control else { throw LinkEnd(.badOrder, "no such session") }
        guard let session = (0..<Links.sessionLimit).first(where: { links.sessions[$0].stage == .free }) else {
            throw LinkEnd(.noResources, "too many sessions")
        }
        links.sessions[session] = LinkSession()
        links.sessions[session].stage = .connecting
        links.sessions[session].number = links.nextSessionNumber
        links.nextSessionNumber += 1
        links.sessions[session].id = hello.session
        links.sessions[session].host = hello.host
        links.sessions[session].startedAt = platform.now
        return session
    }

    private func negotiated(_ hello: Hello, _ connection: Int) throws(LinkEnd) -> WireTerms {
        let ours = ownHello(links.connections[connection].lane, session: hello.session)
        let terms: WireTerms
        do throws(NegotiationFailure) {
            terms = try WireTerms.negotiate(ours: ours, theirs: hello)
        } catch {
            throw LinkEnd(.notCompatible, error.words)
        }
        let pieceByteCount = UInt64(terms.limits.pieceByteCount)
        guard pieceByteCount * RemoteRequest.pieceLimit >= UInt64(pool.largestByteCount) else {
            throw LinkEnd(.notCompatible, "the peer takes pieces of no more than \(pieceByteCount) bytes")
        }
        return terms
    }

    /// The peer has answered our greeting.
    mutating func greetingAnswered(_ connection: Int, _ hello: Hello) throws(LinkEnd) {
        guard let session = links.connections[connection].session else { return }
        let lane = links.connections[connection].lane
        guard hello.session == links.sessions[session].id, hello.lane == lane else {
            throw LinkEnd(.badOrder, "the answer is to another greeting")
        }
        let terms = try negotiated(hello, connection)
        if lane == .data, hello.host != links.sessions[session].host {
            throw LinkEnd(.badOrder, "another host has answered")
        }
        try noteHost(hello.host, session)
        links.connections[connection].stage = .open
        links.connections[connection].reader = FrameReader(context: WireContext(lane: lane, terms: terms))
        links.connections[connection].heardAt = platform.now
        links.sessions[session].terms = terms
        links.sessions[session].host = hello.host
        if lane == .control {
            guard openConnection(session, .data) else { throw LinkEnd(.noResources, "too many connections") }
        } else {
            sessionIsUp(session)
        }
    }

    private mutating func sessionIsUp(_ session: Int) {
        links.sessions[session].stage = .up
        links.sessions[session].reason = ""
        guard let peer = links.sessions[session].peer else { return }
        links.peers[peer].reason = ""
        ping(session)
        openTargets(of: peer)
    }

    // MARK: - Time

    mutating func tickLinks() {
        tickMessages()
        checkBacklogs()
        for session in 0..<Links.sessionLimit {
            switch links.sessions[session].stage {
            case .free, .ending: continue
            case .down:
                guard let peer = links.sessions[session].peer, platform.now >= links.peers[peer].retryAt else {
                    continue
                }
                connect(session)
            case .connecting:
                if platform.now.nanoseconds(since: links.sessions[session].startedAt) > Links.greetingNanoseconds {
                    endSession(session, LinkEnd(.silent, "the peer did not answer the greeting in time"))
                }
            case .up:
                keepAlive(session)
            }
        }
        for connection in 0..<Links.connectionLimit where links.connections[connection].session == nil {
            guard links.connections[connection].stage == .greeting else { continue }
            if platform.now.nanoseconds(since: links.connections[connection].startedAt) > Links.greetingNanoseconds {
                shutDown(connection)
            }
        }
    }

    private mutating func keepAlive(_ session: Int) {
        let settings = links.sessions[session].peer.map { links.peers[$0].settings } ?? LinkSettings()
        let limit = settings.silenceNanoseconds
        for connection in [links.sessions[session].control, links.sessions[session].data] {
            guard let connection, !links.connections[connection].isPaused else { continue }
            guard platform.now.nanoseconds(since: links.connections[connection].heardAt) > limit else { continue }
            let lane = links.connections[connection].lane
            let words = "nothing was heard on the \(lane) connection for more than \(limit / 1_000_000_000) s"
            return endSession(session, LinkEnd(.silent, words))
        }
        guard let peer = links.sessions[session].peer else { return }
        closeHeldTargets(of: peer, limit)
        if isRecordOverdue(peer, limit) {
            return endSession(session, LinkEnd(.silent, "the peer did not keep a record in time"))
        }
        ping(session)
        openTargets(of: peer)
    }

    /// A record that has to be durable here before the peer is told does not get there: the other pairs of the session go on.
    private mutating func closeHeldTargets(of peer: Int, _ limit: UInt64) {
        for target in 0..<Links.targetLimit where links.targets[target].isInUse && links.targets[target].peer == peer {
            guard links.targets[target].stage == .recording, links.targets[target].isRecordHeldBack else { continue }
            guard platform.now.nanoseconds(since: links.targets[target].recordSentAt) > limit else { continue }
            closeTarget(target, "the record of this pair cannot be written here")
        }
    }

    private func isRecordOverdue(_ peer: Int, _ limit: UInt64) -> Bool {
        for target in 0..<Links.targetLimit where links.targets[target].isInUse && links.targets[target].peer == peer {
            guard links.targets[target].isRecordAwaited || links.targets[target].stage == .recording else { continue }
            if platform.now.nanoseconds(since: links.targets[target].recordSentAt) > limit { return true }
        }
        return false
    }

    /// Asks on both connections whether the peer is there.
    private mutating func ping(_ session: Int) {
        for connection in [links.sessions[session].control, links.sessions[session].data] {
            guard let connection, hasRoomForFrame(connection) else { continue }
            send(.ping, Ping(askedClock: platform.now.nanoseconds), on: connection)
        }
    }
}
