internal import RepldCore
internal import RepldPair
internal import RepldWire

/// How sessions end: lost, given up, or because the engine stops.
extension Engine where P: ~Copyable {
    /// Ends a connection, and with it its session.
    mutating func endConnection(_ connection: Int, _ end: LinkEnd) {
        if let session = links.connections[connection].session {
            endSession(session, end)
        } else {
            shutDown(connection)
        }
    }

    /// Ends a session: its machines hear of it now, what was in flight ends when its sockets have.
    mutating func endSession(_ session: Int, _ end: LinkEnd) {
        let stage = links.sessions[session].stage
        guard stage == .connecting || stage == .up else { return }
        links.sessions[session].stage = .ending
        links.sessions[session].reason = end.words
        if let peer = links.sessions[session].peer {
            links.peers[peer].reason = end.words
            for target in 0..<Links.targetLimit where links.targets[target].isInUse {
                if links.targets[target].peer == peer { closeTarget(target, end.words) }
            }
        }
        for replica in 0..<Links.replicaLimit where links.replicas[replica].session == session {
            links.replicas[replica].session = nil
        }
        for connection in [links.sessions[session].control, links.sessions[session].data] {
            if let connection { shutDown(connection) }
        }
        failMessages(of: session)
        finishSession(session)
    }

    mutating func shutDown(_ connection: Int) {
        dropFrames(connection)
        if let socket = links.connections[connection].socket, !links.connections[connection].isShutDown {
            links.connections[connection].isShutDown = true
            platform.shutdown(socket)
        }
        // One that is being connected has no socket to shut down: its end is awaited.
        links.connections[connection].isEnding = true
        finishConnection(connection)
    }

    /// Frees a connection that ends when nothing is in flight on its socket.
    mutating func finishConnection(_ connection: Int) {
        guard links.connections[connection].isEnding, !links.connections[connection].hasOperations else { return }
        dropExpansion(connection)
        if let socket = links.connections[connection].socket { platform.close(socket) }
        let session = links.connections[connection].session
        let lane = links.connections[connection].lane
        links.connections[connection].close()
        guard let session else { return }
        setConnection(nil, session, lane)
        finishSession(session)
    }

    /// Nothing of a session that ends is in flight any more: what its peer has not answered has failed.
    mutating func finishSession(_ session: Int) {
        guard links.sessions[session].stage == .ending else { return }
        guard links.sessions[session].control == nil, links.sessions[session].data == nil else { return }
        guard !links.sessions[session].compressor.isWorking else { return }
        guard let peer = links.sessions[session].peer else {
            links.sessions[session] = LinkSession()
            return
        }
        links.sessions[session].stage = .down
        links.sessions[session].compressor.releaseAll()
        links.sessions[session].requestCount = 0
        links.sessions[session].requestByteCount = 0
        for target in 0..<Links.targetLimit where links.targets[target].isInUse {
            if links.targets[target].peer == peer { failRequests(of: target) }
        }
    }

    // MARK: - Stopping

    mutating func beginLinkStop() {
        links.isStopping = true
        for listener in 0..<Links.listenerLimit where links.isListening[listener] {
            platform.stopAccepting(token: linkAcceptToken(listener))
        }
        for session in 0..<Links.sessionLimit where links.sessions[session].peer == nil {
            endSession(session, LinkEnd(.stopping, "the daemon stops"))
        }
        for connection in 0..<Links.connectionLimit {
            if links.connections[connection].stage == .greeting, links.connections[connection].session == nil {
                shutDown(connection)
            }
        }
    }

    mutating func endAllSessions() {
        for session in 0..<Links.sessionLimit { endSession(session, LinkEnd(.stopping, "the daemon stops")) }
    }

    /// No socket of a link is open; one that is still being connected is the platform's.
    var areLinksClosed: Bool {
        for connection in 0..<Links.connectionLimit {
            let stage = links.connections[connection].stage
            if stage != .free && stage != .connecting { return false }
        }
        return true
    }

    /// Nothing of a peer that writes here is in flight any more.
    var isLinkServingStopped: Bool {
        for listener in 0..<Links.listenerLimit where links.isListening[listener] { return false }
        for session in 0..<Links.sessionLimit where links.sessions[session].peer == nil {
            if links.sessions[session].stage != .free { return false }
        }
        for replica in 0..<Links.replicaLimit where links.replicas[replica].isInUse {
            if !links.replicas[replica].isIdle { return false }
        }
        return true
    }
}
