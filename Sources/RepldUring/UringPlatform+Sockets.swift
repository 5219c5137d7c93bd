import Glibc
import RepldCore
package import RepldEngine

/// Starting operations on sockets.
extension UringPlatform {
    package mutating func startAccepting(_ listener: Listener, token: Token) {
        for index in 0..<acceptors.count where acceptors[index].operation == nil {
            let id = start(Operation(token: token, kind: .accept, place: UInt16(index)), isForRing: false)
            acceptors[index] = AcceptorEntry(
                operation: id,
                descriptor: listener.descriptor,
                isTCP: listener.isTCP,
                isForPeers: listener.door != nil,
                isStopping: false
            )
            listeners[index] = listener
            issue(id)
            return
        }
        // The control plane may open more listeners than there are places: a refusal, and the end of it.
        var refused = Operation(token: token, kind: .cancel, place: 0)
        refused.refusal = .noResources
        _ = start(refused, isForRing: true)
    }

    package mutating func stopAccepting(token: Token) {
        for index in 0..<acceptors.count {
            guard let id = acceptors[index].operation, operations[id].token == token else { continue }
            if acceptors[index].isStopping { return }
            acceptors[index].isStopping = true
            var withdrawal = Operation(token: token, kind: .cancel, place: UInt16(index))
            withdrawal.offset = userData(of: id)
            withdrawalsInFlight += 1
            _ = start(withdrawal, isForRing: true)
            return
        }
    }

    package mutating func receive(
        _ socket: SocketID,
        into memory: UnsafeMutableRawBufferPointer,
        token: Token
    ) {
        invariant(memory.count > 0 && memory.count <= 1 << 30, "a receive has room for at least a byte, at most 1 GiB")
        var operation = Operation(token: token, kind: .receive, place: socket.index)
        unsafe operation.memory = memory.baseAddress
        operation.length = UInt64(memory.count)
        if sockets[Int(socket.index)].session != nil { return startSealedReceive(operation) }
        startOnSocket(operation)
    }

    package mutating func send(
        _ socket: SocketID,
        _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer,
        token: Token
    ) {
        let index = Int(socket.index)
        invariant(!sockets[index].isSending, "one send per socket is in flight")
        invariant(first.count + second.count > 0, "a send sends at least a byte")
        invariant(first.count + second.count <= 1 << 30, "a send sends at most 1 GiB")
        var operation = Operation(token: token, kind: .send, place: socket.index)
        unsafe operation.memory = UnsafeMutableRawPointer(mutating: first.baseAddress)
        operation.offset = UInt64(first.count)
        operation.length = UInt64(first.count + second.count)
        sockets[index].isSending = true
        unsafe sockets[index].second = second.baseAddress
        sockets[index].secondLength = second.count
        if sockets[index].session != nil { return startSealedSend(operation) }
        startOnSocket(operation)
    }

    package mutating func shutdown(_ socket: SocketID) {
        invariant(sockets[Int(socket.index)].isTaken, "an open socket is shut down")
        sayGoodbye(Int(socket.index))
        // ENOTCONN, when the other end was faster, is the same end.
        _ = Glibc.shutdown(sockets[Int(socket.index)].descriptor, Int32(SHUT_RDWR))
    }

    package mutating func close(_ socket: SocketID) {
        let index = Int(socket.index)
        invariant(sockets[index].isTaken, "a socket is closed once")
        invariant(sockets[index].inFlightCount == 0, "a socket is closed with nothing in flight")
        sayGoodbye(index)
        sockets[index].session?.free()
        // The table of files may hold the socket a moment longer; the other end shall see the end now.
        _ = Glibc.shutdown(sockets[index].descriptor, Int32(SHUT_RDWR))
        if sockets[index].isRegistered { _ = ring.setFile(-1, at: fileIndex(ofSocket: index)) }
        _ = Glibc.close(sockets[index].descriptor)
        sockets[index] = SocketEntry()
        freeSockets[freeSocketCount] = socket.index
        freeSocketCount += 1
    }

    /// Takes a descriptor into the table; `nil`, with the descriptor closed and the session freed, when the table is full.
    mutating func adopt(_ descriptor: Int32, isTCP: Bool, session: PeerSession? = nil) -> UInt16? {
        guard freeSocketCount > 0 else {
            session?.free()
            _ = Glibc.close(descriptor)
            return nil
        }
        if isTCP {
            // Replies are written whole: waiting for more to send only costs the peer time.
            var yes: Int32 = 1
            _ = unsafe setsockopt(
                descriptor,
                Int32(IPPROTO_TCP),
                TCP_NODELAY,
                &yes,
                socklen_t(MemoryLayout<Int32>.size)
            )
        }
        freeSocketCount -= 1
        let index = Int(freeSockets[freeSocketCount])
        var entry = SocketEntry()
        entry.descriptor = descriptor
        entry.session = session
        entry.isRegistered = registerSocket(descriptor, at: index)
        sockets[index] = entry
        return UInt16(index)
    }

    @inline(__always)
    private mutating func startOnSocket(_ operation: Operation) {
        let index = Int(operation.place)
        invariant(sockets[index].isTaken, "an operation is started on an open socket")
        sockets[index].inFlightCount += 1
        _ = start(operation, isForRing: true)
    }
}
