import CLiburing
import CRepldLinux
import Glibc
import RepldCore
import RepldEngine

/// From an operation to an entry of the ring.
extension UringPlatform {
    /// Takes a slot for an operation and, unless a worker does it, hands it to the ring.
    @inline(__always)
    mutating func start(_ operation: Operation, isForRing: Bool) -> SlotID {
        guard let id = operations.take(operation) else {
            invariantFailed("the engine's slots bound the operations in flight below the platform's table")
        }
        if isForRing { issue(id) }
        return id
    }

    /// Fills an entry for the operation, now or, where there is no room or nothing to ask the kernel, in the next `wait`.
    @inline(__always)
    mutating func issue(_ id: SlotID) {
        guard deferred.isEmpty, operations[id].refusal == nil, let entry = unsafe roomForEntry() else {
            deferred.append(id)
            return
        }
        unsafe prepare(entry, id)
    }

    /// Issues what waits, as far as there is room.
    mutating func issueDeferred() {
        while !deferred.isEmpty {
            let id = deferred[0]
            if let refusal = operations[id].refusal {
                guard !ready.isFull else { return }
                _ = deferred.popFirst()
                finish(id, count: 0, failure: refusal)
                continue
            }
            let isAccept = operations[id].kind == .accept || operations[id].kind == .acceptPause
            if isAccept, acceptors[Int(operations[id].place)].isStopping {
                guard !ready.isFull else { return }
                _ = deferred.popFirst()
                endAccepting(id)
                continue
            }
            if operations[id].kind == .sealedOpen {
                guard !ready.isFull else { return }
                _ = deferred.popFirst()
                if openSealed(id) { deferred.append(id) }
                continue
            }
            guard let entry = unsafe roomForEntry() else { return }
            _ = deferred.popFirst()
            unsafe prepare(entry, id)
        }
    }

    /// An empty entry; when the queue is full, what is in it is submitted early.
    @inline(__always)
    private mutating func roomForEntry() -> UnsafeMutablePointer<io_uring_sqe>? {
        if let entry = unsafe ring.nextEntry() { return unsafe entry }
        return unsafe roomAfterSubmission()
    }

    @inline(never)
    private mutating func roomAfterSubmission() -> UnsafeMutablePointer<io_uring_sqe>? {
        for _ in 0..<8 {
            let result = ring.submit()
            if let entry = unsafe ring.nextEntry() { return unsafe entry }
            // The kernel takes no more until completions that did not fit were fetched, or until it has memory.
            if ready.isFull { return nil }
            checkEnter(result)
            reap()
        }
        return nil
    }

    /// Errors of entering the ring that the loop lives with; all others are our own mistakes.
    func checkEnter(_ result: Int32) {
        guard result < 0 else { return }
        switch -result {
        case ETIME, EINTR, EAGAIN, EBUSY, ENOMEM: return
        default: invariantFailed("a ring can be entered by the thread that made it")
        }
    }

    private mutating func prepare(_ entry: UnsafeMutablePointer<io_uring_sqe>, _ id: SlotID) {
        switch operations[id].kind {
        case .read, .write: unsafe prepareTransfer(entry, operations[id])
        case .flush, .zeroFlush:
            let element = elements[Int(operations[id].place)]
            unsafe io_uring_prep_fsync(entry, number(of: element, operations[id].place), IORING_FSYNC_DATASYNC)
            if element.isRegistered { unsafe repld_sqe_use_fixed_file(entry) }
        case .zero:
            let element = elements[Int(operations[id].place)]
            let mode =
                switch operations[id].zeroKind {
                case .discard, .mayDeallocate: repld_FALLOC_PUNCH_HOLE
                case .keepAllocated: repld_FALLOC_ZERO_RANGE
                }
            unsafe io_uring_prep_fallocate(
                entry,
                number(of: element, operations[id].place),
                mode,
                off_t(operations[id].offset),
                off_t(operations[id].length)
            )
            if element.isRegistered { unsafe repld_sqe_use_fixed_file(entry) }
        case .receive:
            let socket = sockets[Int(operations[id].place)]
            unsafe io_uring_prep_recv(
                entry,
                number(of: socket, operations[id].place),
                operations[id].memory,
                Int(operations[id].length),
                0
            )
            if socket.isRegistered { unsafe repld_sqe_use_fixed_file(entry) }
        case .send: unsafe prepareSend(entry, operations[id])
        case .accept:
            let descriptor = acceptors[Int(operations[id].place)].descriptor
            let flags = Int32(SOCK_CLOEXEC.rawValue)
            if hasMultishotAccept {
                unsafe io_uring_prep_multishot_accept(entry, descriptor, nil, nil, flags)
            } else {
                unsafe io_uring_prep_accept(entry, descriptor, nil, nil, flags)
            }
        case .acceptPause: unsafe io_uring_prep_timeout(entry, acceptPause, 0, 0)
        case .signal:
            unsafe io_uring_prep_read(entry, eventDescriptor, eventCount, 8, 0)
            isSignalInKernel = true
        case .cancel: unsafe io_uring_prep_cancel64(entry, operations[id].offset, 0)
        case .sealedReceive: unsafe prepareSealedReceive(entry, operations[id])
        case .sealedSend: unsafe prepareSealedSend(entry, operations[id])
        case .query, .examine, .connect: invariantFailed("what a worker does goes to it")
        case .sealedOpen: invariantFailed("a session is asked for plaintext before the kernel is for ciphertext")
        }
        unsafe entry.pointee.user_data = userData(of: id)
    }

    @inline(__always)
    private func prepareTransfer(_ entry: UnsafeMutablePointer<io_uring_sqe>, _ operation: Operation) {
        let element = elements[Int(operation.place)]
        let number = number(of: element, operation.place)
        let memory = unsafe operation.memory.map { unsafe $0 + Int(operation.done) }
        let length = UInt32(operation.length - operation.done)
        let offset = operation.offset + operation.done
        switch (operation.kind == .read, operation.isInRegion) {
        case (true, true): unsafe io_uring_prep_read_fixed(entry, number, memory, length, offset, 0)
        case (true, false): unsafe io_uring_prep_read(entry, number, memory, length, offset)
        case (false, true): unsafe io_uring_prep_write_fixed(entry, number, memory, length, offset, 0)
        case (false, false): unsafe io_uring_prep_write(entry, number, memory, length, offset)
        }
        if operation.isDurable { unsafe entry.pointee.rw_flags = repld_RWF_DSYNC }
        if element.isRegistered { unsafe repld_sqe_use_fixed_file(entry) }
    }

    /// Sends what is left of both pieces, or of the second.
    ///
    /// `offset` of a send is the length of its first piece.
    private func prepareSend(_ entry: UnsafeMutablePointer<io_uring_sqe>, _ operation: Operation) {
        let index = Int(operation.place)
        let socket = sockets[index]
        let number = number(of: socket, operation.place)
        let firstLength = Int(operation.offset)
        let done = Int(operation.done)
        // MSG_WAITALL lets newer kernels (5.19) continue short sends themselves; older ones ignore it.
        let flags = Int32(MSG_NOSIGNAL | MSG_WAITALL)
        if done < firstLength && socket.secondLength > 0 {
            let header = unsafe sends.fill(
                index,
                operation.memory.map { unsafe $0 + done },
                firstLength - done,
                UnsafeMutableRawPointer(mutating: socket.second),
                socket.secondLength
            )
            unsafe io_uring_prep_sendmsg(entry, number, header, UInt32(flags))
        } else if done < firstLength {
            unsafe io_uring_prep_send(
                entry,
                number,
                operation.memory.map { unsafe $0 + done },
                firstLength - done,
                flags
            )
        } else {
            let sent = done - firstLength
            unsafe io_uring_prep_send(
                entry,
                number,
                socket.second.map { unsafe $0 + sent },
                socket.secondLength - sent,
                flags
            )
        }
        if socket.isRegistered { unsafe repld_sqe_use_fixed_file(entry) }
    }

    /// The number by which the ring knows an element: its place in the table of files, or its descriptor.
    @inline(__always)
    private func number(of element: ElementEntry, _ place: UInt16) -> Int32 {
        element.isRegistered ? Int32(place) : element.descriptor
    }

    @inline(__always)
    func number(of socket: SocketEntry, _ place: UInt16) -> Int32 {
        socket.isRegistered ? Int32(fileIndex(ofSocket: Int(place))) : socket.descriptor
    }
}
