internal import RepldCore
internal import RepldPair
internal import RepldWire

/// Questions of one control plane to another, carried and not looked at.
extension Engine where P: ~Copyable {
    /// How many messages of peers the control plane may owe an answer to.
    private static var owedLimit: Int { 64 }
    /// How long a peer's control plane may take to answer.
    private static var patienceNanoseconds: UInt64 { 60_000_000_000 }

    mutating func sendMessage(
        _ id: PeerID,
        _ bytes: [UInt8],
        _ answer: @escaping @Sendable (Result<[UInt8], MessageFailure>) -> Void
    ) {
        guard bytes.count <= PeerMessage.byteCountMaximum else {
            return answer(.failure(.tooLong(byteCount: bytes.count)))
        }
        guard let peer = peerIndex(id) else { return answer(.failure(.noSuchPeer)) }
        let session = links.peers[peer].session
        guard links.sessions[session].stage == .up, let control = links.sessions[session].control else {
            return answer(.failure(.notConnected(links.peers[peer].reason)))
        }
        guard links.askers.count < Links.messageLimit else {
            return answer(.failure(.notConnected("too many questions are open")))
        }
        let tag = links.nextMessageTag
        links.nextMessageTag += 1
        let deadline = platform.now.advanced(byNanoseconds: Self.patienceNanoseconds)
        links.askers.append(Links.MessageAsker(tag: tag, session: session, deadline: deadline, answer: answer))
        send(.message, bytes: bytes, on: control, tag: tag)
    }

    mutating func messageAnswered(_ header: FrameHeader, _ connection: Int) {
        guard let place = links.askers.firstIndex(where: { $0.tag == header.tag }) else { return }
        links.askers.remove(at: place).answer(.success(unsafe [UInt8](payload(of: header, connection))))
    }

    /// The session is lost: nobody knows whether the questions were heard.
    mutating func failMessages(of session: Int) {
        let asked = links.askers.filter { $0.session == session }
        links.askers.removeAll { $0.session == session }
        links.owedAnswers.removeAll { $0.session == session }
        for asker in asked { asker.answer(.failure(.noAnswer)) }
    }

    /// Gives up what was not answered in time.
    mutating func tickMessages() {
        let now = platform.now
        let late = links.askers.filter { $0.deadline < now }
        links.askers.removeAll { $0.deadline < now }
        for asker in late { asker.answer(.failure(.noAnswer)) }
    }

    mutating func messageReceived(_ header: FrameHeader, _ connection: Int, _ session: Int) {
        guard links.owedAnswers.count(where: { $0.session == session }) < Self.owedLimit else {
            return endSession(session, LinkEnd(.noResources, "the peer asks more than is answered"))
        }
        let token = links.nextMessageTag
        links.nextMessageTag += 1
        links.owedAnswers.append(Links.OwedAnswer(token: token, session: session, tag: header.tag))
        let bytes = unsafe [UInt8](payload(of: header, connection))
        messageSink(PeerMessage(token: token, host: links.sessions[session].host, bytes: bytes))
    }

    mutating func replyToMessage(_ token: UInt64, _ bytes: [UInt8]) {
        guard let place = links.owedAnswers.firstIndex(where: { $0.token == token }) else { return }
        let owed = links.owedAnswers.remove(at: place)
        guard let control = links.sessions[owed.session].control else { return }
        // Whoever asked is not left without an end.
        let answer = bytes.count <= PeerMessage.byteCountMaximum ? bytes : []
        send(.messageReply, bytes: answer, on: control, tag: owed.tag)
    }
}
