internal import RepldCore
internal import RepldPair
internal import RepldWire

/// Payloads that are compressed before they are sent, and expanded when they come; another thread does both.
extension Engine where P: ~Copyable {
    /// Has the payload of a frame compressed, where that is agreed on and pays.
    mutating func compress(_ frame: inout OutgoingFrame, _ request: RemoteRequest, _ target: Int, _ session: Int) {
        let length = UInt64(frame.header.length)
        guard length >= LinkCompressor.plainByteMinimum else { return }
        guard links.sessions[session].terms?.features.contains(.lz4) == true else { return }
        let extentClass = extentClass(of: request, target)
        guard links.sessions[session].compressor.policy.choose(extentClass) else { return }
        guard let plain = unsafe plainBytes(of: frame) else { return }
        let place = links.sessions[session].compressor.begin(
            extentClass,
            plainByteCount: Int(length),
            at: platform.now
        )
        guard let place else { return }
        frame.place = place
        let room = unsafe links.sessions[session].compressor.bytes(place)
        let slot = SlotID(index: UInt32(session), generation: 0)
        platform.recode(
            unsafe DataRecoding(.compress, plain, into: room),
            token: Token(kind: TokenKind.compression.rawValue, leg: UInt8(place), slot: slot)
        )
    }

    private func extentClass(of request: RemoteRequest, _ target: Int) -> ExtentClass {
        let volume = links.targets[target].volume
        let isHosts = request.epoch != 0 || volumes[volume].machine.isHostWrite(request.slot)
        if !isHosts { return .copy }
        return request.extent.length < 16 << 10 ? .smallWrite : .largeWrite
    }

    private func plainBytes(of frame: OutgoingFrame) -> UnsafeRawBufferPointer? {
        switch frame.payload {
        case .buffer(let buffer, let offset, let count):
            unsafe UnsafeRawBufferPointer(rebasing: pool.bytes(of: buffer)[offset..<offset + count])
        case .backlog(let target, let offset, let count): unsafe links.targets[target].backlog.data(offset, count)
        case .none, .control, .compressed: nil
        }
    }

    /// A payload has been compressed, or does not shrink.
    mutating func compressed(session: Int, place: Int, byteCount: Int) {
        links.sessions[session].compressor.ended(place, byteCount: byteCount, at: platform.now)
        if links.sessions[session].stage == .ending { return finishSession(session) }
        if let data = links.sessions[session].data { mark(data) }
    }

    /// A frame as it is to be sent; `nil` while its payload is being compressed.
    func readyFrame(_ frame: OutgoingFrame, _ connection: Int) -> OutgoingFrame? {
        guard let place = frame.place, let session = links.connections[connection].session else { return frame }
        let found = links.sessions[session].compressor.places[place]
        guard found.stage == .ready else { return nil }
        var ready = frame
        guard found.byteCount > 0 else { return ready }
        ready.header.flags.insert(.compressed)
        ready.header.payloadByteCount = UInt32(found.byteCount)
        ready.payload = .compressed(session: session, place: place, count: found.byteCount)
        return ready
    }

    /// The send that carried a payload from where it was is over.
    mutating func payloadSent(_ connection: Int) {
        guard let session = links.connections[connection].session else { return }
        if let place = links.connections[connection].sentPlace {
            links.connections[connection].sentPlace = nil
            links.sessions[session].compressor.release(place)
        }
        guard links.connections[connection].isInitiator, links.connections[connection].lane == .data else { return }
        let isFull = !links.connections[connection].frames.isEmpty || hasWaiting(session)
        let byteCount = UInt64(links.connections[connection].sentByteCount)
        links.sessions[session].compressor.sent(byteCount, isFull: isFull, at: platform.now)
    }

    /// Something waits for room on the link.
    private func hasWaiting(_ session: Int) -> Bool {
        guard let peer = links.sessions[session].peer else { return false }
        for target in 0..<Links.targetLimit where links.targets[target].isInUse {
            if links.targets[target].peer == peer, !links.targets[target].waiting.isEmpty { return true }
        }
        return false
    }

    // MARK: - Expanding

    /// Has the payload of the frame at the front expanded into a buffer.
    mutating func expand(_ header: FrameHeader, _ connection: Int, into buffer: BufferID) {
        links.connections[connection].expansion = .running(buffer)
        let source = unsafe payload(of: header, connection)
        let room = unsafe bytes(buffer, Int(header.length))
        platform.recode(
            unsafe DataRecoding(.expand, source, into: room),
            token: linkToken(.expansion, connection)
        )
    }

    /// A frame has been taken: what was expanded of it and not used must not be taken for that of the next one.
    mutating func dropExpansion(_ connection: Int) {
        guard case .done(let buffer, _) = links.connections[connection].expansion else { return }
        links.connections[connection].expansion = .none
        releaseBuffer(buffer)
    }

    mutating func expanded(_ connection: Int, byteCount: Int) {
        guard case .running(let buffer) = links.connections[connection].expansion else {
            invariantFailed("what has been expanded was asked for")
        }
        if links.connections[connection].isEnding {
            links.connections[connection].expansion = .none
            releaseBuffer(buffer)
            return finishConnection(connection)
        }
        links.connections[connection].expansion = .done(buffer, isWhole: byteCount > 0)
        takeFrames(connection)
    }
}

extension CompressionMode {
    var setting: CompressionSetting {
        switch self {
        case .automatic: .auto
        case .always: .always
        case .off: .off
        }
    }
}
