import CLiburing
import Glibc
import RepldCore
import RepldEngine

/// Sends and receives on encrypted connections.
///
/// A send encrypts as much as its session's buffer holds (64 KiB), has the kernel send that, and goes round until nothing is
/// left. A receive first asks the session for plaintext, and the kernel for ciphertext only when there is none; it goes round
/// until at least a byte is there. Encryption is done by the loop, in these bounded pieces. A stream that ends without the
/// other side's goodbye was torn: that is a failure, so that nobody takes a part for the whole.
extension UringPlatform {
    mutating func startSealedSend(_ operation: Operation) {
        var operation = operation
        operation.kind = .sealedSend
        let id = startSealed(operation)
        if !sealMore(id) { operations[id].refusal = .gone }
        issue(id)
    }

    mutating func startSealedReceive(_ operation: Operation) {
        let index = Int(operation.place)
        invariant(!sockets[index].isReceiving, "one receive per encrypted socket is in flight")
        sockets[index].isReceiving = true
        var operation = operation
        operation.kind = .sealedOpen
        let id = startSealed(operation)
        if ready.isFull {
            deferred.append(id)
        } else if openSealed(id) {
            issue(id)
        }
    }

    private mutating func startSealed(_ operation: Operation) -> SlotID {
        let index = Int(operation.place)
        invariant(sockets[index].isTaken, "an operation is started on an open socket")
        sockets[index].inFlightCount += 1
        return start(operation, isForRing: false)
    }

    /// Encrypts what the buffer has room for; whether there is something to send then.
    private mutating func sealMore(_ id: SlotID) -> Bool {
        let operation = operations[id]
        let socket = sockets[Int(operation.place)]
        guard let session = socket.session else { return false }
        let taken = unsafe session.seal(
            operation.memory,
            Int(operation.offset),
            socket.second,
            socket.secondLength,
            from: Int(operation.done)
        )
        operations[id].done += UInt64(taken)
        return unsafe !session.output.isEmpty
    }

    mutating func settleSealedSend(_ id: SlotID, _ result: Int32) {
        guard result >= 0 else { return settleError(id, result) }
        guard let session = sockets[Int(operations[id].place)].session else {
            invariantFailed("an encrypted connection has its session")
        }
        if result == 0 { return tryAgain(id, otherwise: .gone) }
        session.sent(Int(result))
        if unsafe !session.output.isEmpty {
            deferred.append(id)
        } else if operations[id].done == operations[id].length {
            finish(id, count: UInt32(truncatingIfNeeded: operations[id].length), failure: nil)
        } else if sealMore(id) {
            deferred.append(id)
        } else {
            finish(id, count: 0, failure: .gone)
        }
    }

    /// Takes plaintext from the session, which finishes the receive; true when it has none and wants ciphertext.
    mutating func openSealed(_ id: SlotID) -> Bool {
        guard let session = sockets[Int(operations[id].place)].session else {
            invariantFailed("an encrypted connection has its session")
        }
        let opened = unsafe session.open(into: operations[id].memory, Int(operations[id].length))
        if opened.count > 0 {
            finish(id, count: UInt32(opened.count), failure: nil)
            return false
        }
        switch opened.state {
        case .wantsInput:
            operations[id].kind = .sealedReceive
            return true
        case .done: finish(id, count: 0, failure: nil)
        case .failed: finish(id, count: 0, failure: .gone)
        }
        return false
    }

    mutating func settleSealedReceive(_ id: SlotID, _ result: Int32) {
        guard result >= 0 else { return settleError(id, result) }
        guard result > 0 else { return finish(id, count: 0, failure: .gone) }
        sockets[Int(operations[id].place)].session?.received(Int(result))
        if openSealed(id) { deferred.append(id) }
    }

    @unsafe
    func prepareSealedSend(_ entry: UnsafeMutablePointer<io_uring_sqe>, _ operation: Operation) {
        let socket = sockets[Int(operation.place)]
        guard let session = socket.session else { invariantFailed("an encrypted connection has its session") }
        let bytes = unsafe session.output
        let flags = Int32(MSG_NOSIGNAL | MSG_WAITALL)
        unsafe io_uring_prep_send(entry, number(of: socket, operation.place), bytes.baseAddress, bytes.count, flags)
        if socket.isRegistered { unsafe repld_sqe_use_fixed_file(entry) }
    }

    @unsafe
    func prepareSealedReceive(_ entry: UnsafeMutablePointer<io_uring_sqe>, _ operation: Operation) {
        let socket = sockets[Int(operation.place)]
        guard let session = socket.session else { invariantFailed("an encrypted connection has its session") }
        let room = unsafe session.room
        unsafe io_uring_prep_recv(entry, number(of: socket, operation.place), room.baseAddress, room.count, 0)
        if socket.isRegistered { unsafe repld_sqe_use_fixed_file(entry) }
    }

    /// Tells the other side of an encrypted connection that the stream ends here and was not torn.
    ///
    /// Not in the middle of a send, and as far as the kernel takes it at once.
    mutating func sayGoodbye(_ index: Int) {
        guard let session = sockets[index].session, !sockets[index].isSending else { return }
        session.sayGoodbye()
        _ = session.sendOutput(sockets[index].descriptor)
    }
}
