internal import RepldCore
internal import RepldPair
internal import RepldWire

/// Questions of one control plane to another, carried and not looked at.
extension Engine where P: ~Copyable {
    /// How many messages of peers the control plane may owe an answer to.
    private static var owedLimit: Int { 64 }

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
        guard links.messageAnswers.count < Links.messageLimit else {
            return answer(.failure(.notConnected("too many questions are open")))
        }
        let tag = links.nextMessageTag
        links.nextMessageTag += 1
        links.messageAnswers[tag] = Links.MessageAnswer(session: session, answer: answer)
        send(.message, bytes: bytes, on: control, tag: tag)
    }

    mutating func messageAnswered(_ header: FrameHeader, _ connection: Int) {
        guard let waiting = links.messageAnswers.removeValue(forKey: header.tag) else { return }
        waiting.answer(.success(unsafe [UInt8](payload(of: header, connection))))
    }

    /// The session is lost: nobody knows whether the questions were heard.
    mutating func failMessages(of session: Int) {
        for (tag, waiting) in links.messageAnswers where waiting.session == session {
            links.messageAnswers[tag] = nil
            waiting.answer(.failure(.noAnswer))
        }
        links.owedAnswers = links.owedAnswers.filter { $0.value.session != session }
    }

    mutating func messageReceived(_ header: FrameHeader, _ connection: Int, _ session: Int) {
        guard links.owedAnswers.count < Self.owedLimit else {
            return endSession(session, LinkEnd(.noResources, "the peer asks more than is answered"))
        }
        let token = links.nextMessageTag
        links.nextMessageTag += 1
        links.owedAnswers[token] = Links.OwedAnswer(session: session, tag: header.tag)
        let bytes = unsafe [UInt8](payload(of: header, connection))
        messageSink(PeerMessage(token: token, host: links.sessions[session].host, bytes: bytes))
    }

    mutating func replyToMessage(_ token: UInt64, _ bytes: [UInt8]) {
        guard let owed = links.owedAnswers.removeValue(forKey: token) else { return }
        guard bytes.count <= PeerMessage.byteCountMaximum, let control = links.sessions[owed.session].control else {
            return
        }
        send(.messageReply, bytes: bytes, on: control, tag: owed.tag)
    }
}
