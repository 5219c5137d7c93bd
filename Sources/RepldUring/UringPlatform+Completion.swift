import CLiburing
import Glibc
package import RepldCore
package import RepldEngine

/// Waiting, and what a result of the kernel means.
extension UringPlatform {
    package mutating func wait(until deadline: Instant, into completions: inout BoundedQueue<Completion>) {
        let before = now
        restsSince = Instant(nanoseconds: .max)
        var hasDelivered = deliver(into: &completions)
        repeat {
            issueDeferred()
            enter(mayBlock: !hasDelivered && !completions.isFull && ready.isEmpty, until: deadline)
            now = monotonicNow()
            reap()
            if deliver(into: &completions) { hasDelivered = true }
        } while !hasDelivered && !completions.isFull && now < deadline
        lagNanoseconds = min(now, restsSince).nanoseconds(since: before)
    }

    /// Moves what is ready to the caller, as far as there is room there; whether anything was moved.
    private mutating func deliver(into completions: inout BoundedQueue<Completion>) -> Bool {
        var hasDelivered = false
        while !completions.isFull, let completion = ready.popFirst() {
            completions.append(completion)
            hasDelivered = true
        }
        return hasDelivered
    }

    private mutating func enter(mayBlock: Bool, until deadline: Instant) {
        let result: Int32
        if ring.readyCount > 0 || !mayBlock {
            if ring.readyCount > 0 && ring.unsubmittedCount == 0 { return }
            result = ring.submitAndCollect()
        } else if !deferred.isEmpty {
            // The kernel took nothing just now. Ask again soon, whatever completes until then.
            result = ring.submitAndWait(nanoseconds: 1_000_000)
        } else if deadline.nanoseconds == .max {
            result = ring.submitAndWait(nanoseconds: nil)
        } else {
            let moment = monotonicNow()
            restsSince = min(restsSince, moment)
            let left = deadline.nanoseconds(since: moment)
            result = left == 0 ? ring.submitAndCollect() : ring.submitAndWait(nanoseconds: left)
        }
        checkEnter(result)
    }

    /// Settles every completion that the kernel has, as far as `ready` has room for what comes of it.
    mutating func reap() {
        while true {
            let available = ring.readyCount
            var taken: UInt32 = 0
            while taken < available && !ready.isFull {
                settle(ring.completion(taken))
                taken += 1
            }
            ring.advance(taken)
            if taken == 0 || ready.isFull || !ring.hasOverflow { break }
            checkEnter(ring.collect())
        }
        if jobsInFlight > 0 { reapAnswers() }
    }

    private mutating func reapAnswers() {
        while !ready.isFull, let answer = admitter?.popAnswer() {
            jobsInFlight -= 1
            settleAdmission(answer)
        }
        while !ready.isFull, let answer = queryWorker.popAnswer() ?? dataWorker.popAnswer() {
            jobsInFlight -= 1
            if answer.errorNumber == 0 {
                finish(answer.id, count: answer.count, failure: nil)
            } else {
                finish(answer.id, count: 0, failure: ioFailure(ofErrorNumber: answer.errorNumber))
            }
        }
    }

    @inline(__always)
    mutating func settle(_ completion: RingCompletion) {
        let id = SlotID(
            index: UInt32(truncatingIfNeeded: completion.userData),
            generation: UInt16(truncatingIfNeeded: completion.userData >> 32)
        )
        let kind = operations[id].kind
        var result = completion.result
        if _slowPath(!script.isEmpty) { result = scripted(kind, insteadOf: result) }
        switch kind {
        case .read, .write: settleTransfer(id, result)
        case .flush, .zeroFlush, .zero: settleWhole(id, kind, result)
        case .receive: settleReceive(id, result)
        case .send: settleSend(id, result)
        case .accept: settleAccept(id, result, isLast: completion.flags & IORING_CQE_F_MORE == 0)
        case .acceptPause: settlePause(id)
        case .signal: settleSignal(id, result)
        case .cancel:
            withdrawalsInFlight -= 1
            operations.release(id)
        case .sealedReceive: settleSealedReceive(id, result)
        case .sealedSend: settleSealedSend(id, result)
        case .query, .examine, .connect: invariantFailed("what a worker does is answered by it")
        case .sealedOpen: invariantFailed("a session is asked for plaintext without the kernel")
        }
    }

    /// Reads and writes: whole, or once more for the rest.
    @inline(__always)
    private mutating func settleTransfer(_ id: SlotID, _ result: Int32) {
        if result > 0 {
            let left = operations[id].length - operations[id].done
            if UInt64(result) == left {
                finish(id, count: UInt32(truncatingIfNeeded: operations[id].length), failure: nil)
                return
            }
        }
        settleShortTransfer(id, result)
    }

    @inline(never)
    private mutating func settleShortTransfer(_ id: SlotID, _ result: Int32) {
        guard result >= 0 else { return settleError(id, result) }
        let mask = elements[Int(operations[id].place)].blockMask
        // Direct I/O goes on from a block's start; a part of a block is moved again.
        let moved = UInt64(result) & ~mask
        invariant(moved < operations[id].length - operations[id].done, "the kernel moves no more than it was asked to")
        if moved > 0 {
            operations[id].done += moved
            deferred.append(id)
        } else if operations[id].kind == .read {
            // The element ends here: it is smaller than when it was opened.
            finish(id, count: 0, failure: .inputOutput)
        } else {
            tryAgain(id, otherwise: .inputOutput)
        }
    }

    /// Flush and zero: nothing in between.
    ///
    /// A durable zero has a second half.
    private mutating func settleWhole(_ id: SlotID, _ kind: OperationKind, _ result: Int32) {
        guard result >= 0 else { return settleError(id, result) }
        if kind == .zero && operations[id].isDurable {
            operations[id].kind = .zeroFlush
            operations[id].retryCount = 0
            deferred.append(id)
        } else {
            finish(id, count: UInt32(clamping: operations[id].length), failure: nil)
        }
    }

    @inline(__always)
    private mutating func settleReceive(_ id: SlotID, _ result: Int32) {
        guard result >= 0 else { return settleError(id, result) }
        finish(id, count: UInt32(result), failure: nil)
    }

    @inline(__always)
    private mutating func settleSend(_ id: SlotID, _ result: Int32) {
        guard result >= 0 else { return settleError(id, result) }
        operations[id].done += UInt64(result)
        invariant(operations[id].done <= operations[id].length, "the kernel sends no more than it was given")
        if operations[id].done == operations[id].length {
            finish(id, count: UInt32(truncatingIfNeeded: operations[id].length), failure: nil)
        } else if result == 0 {
            tryAgain(id, otherwise: .gone)
        } else {
            deferred.append(id)
        }
    }

    /// A negative result: interrupted ones go round again, the others are the end.
    @inline(never)
    mutating func settleError(_ id: SlotID, _ result: Int32) {
        switch -result {
        case EINTR: deferred.append(id)
        case EAGAIN: tryAgain(id, otherwise: .noResources)
        default: finish(id, count: 0, failure: ioFailure(ofErrorNumber: -result))
        }
    }

    /// Once more, but not for ever.
    mutating func tryAgain(_ id: SlotID, otherwise failure: IOFailure) {
        if operations[id].retryCount == Operation.retryLimit {
            finish(id, count: 0, failure: failure)
        } else {
            operations[id].retryCount += 1
            deferred.append(id)
        }
    }

    /// The end of an operation: its completion, and its slot back.
    @inline(__always)
    mutating func finish(_ id: SlotID, count: UInt32, failure: IOFailure?) {
        let place = Int(operations[id].place)
        switch operations[id].kind {
        case .read, .write, .flush, .zero, .zeroFlush, .query:
            elements[place].inFlightCount -= 1
        case .send:
            sockets[place].isSending = false
            sockets[place].inFlightCount -= 1
        case .receive:
            sockets[place].inFlightCount -= 1
        case .sealedSend:
            sockets[place].isSending = false
            sockets[place].inFlightCount -= 1
        case .sealedOpen, .sealedReceive:
            sockets[place].isReceiving = false
            sockets[place].inFlightCount -= 1
        case .connect:
            connectsInFlight -= 1
        case .examine, .accept, .acceptPause, .signal, .cancel:
            break
        }
        ready.append(Completion(token: operations[id].token, count: count, failure: failure))
        operations.release(id)
    }

    private mutating func settleSignal(_ id: SlotID, _ result: Int32) {
        invariant(result == 8 || result == -EINTR || result == -EAGAIN, "an eventfd can be read")
        isSignalInKernel = false
        deferred.append(id)
        if waker.takePending() { ready.append(Completion(token: .wake, count: 0, failure: nil)) }
    }

    private mutating func scripted(_ kind: OperationKind, insteadOf result: Int32) -> Int32 {
        guard script[0].kind == kind, let replacement = script.popFirst() else { return result }
        return replacement.result
    }
}

/// Accepting: one operation per listener, alive from `startAccepting` to the completion that says `cancelled`.
extension UringPlatform {
    private mutating func settleAccept(_ id: SlotID, _ result: Int32, isLast: Bool) {
        let place = Int(operations[id].place)
        let token = operations[id].token
        if result >= 0 {
            if acceptors[place].isForPeers {
                admit(result, id)
            } else if let socket = adopt(result, isTCP: acceptors[place].isTCP) {
                ready.append(Completion(token: token, count: UInt32(socket), failure: nil))
            } else {
                ready.append(Completion(token: token, count: 0, failure: .noResources))
            }
            if isLast { deferred.append(id) }
            return
        }
        if !isLast { return }
        if acceptors[place].isStopping { return endAccepting(id) }
        switch -result {
        case EINTR, EAGAIN, ECANCELED, ECONNABORTED, EPROTO:
            // The connection was gone before it was accepted, or nothing happened at all.
            pauseOrRearm(id)
        case EINVAL where hasMultishotAccept:
            // The kernel knows the operation but not this form of it.
            hasMultishotAccept = false
            deferred.append(id)
        default:
            ready.append(Completion(token: token, count: 0, failure: ioFailure(ofErrorNumber: -result)))
            operations[id].kind = .acceptPause
            deferred.append(id)
        }
    }

    /// Accepts again at once, unless that has been in vain too often in a row.
    private mutating func pauseOrRearm(_ id: SlotID) {
        operations[id].retryCount += 1
        if operations[id].retryCount == Operation.retryLimit {
            operations[id].retryCount = 0
            operations[id].kind = .acceptPause
        }
        deferred.append(id)
    }

    private mutating func settlePause(_ id: SlotID) {
        operations[id].kind = .accept
        if acceptors[Int(operations[id].place)].isStopping {
            endAccepting(id)
        } else {
            deferred.append(id)
        }
    }

    /// The last completion of a listener.
    mutating func endAccepting(_ id: SlotID) {
        let place = Int(operations[id].place)
        ready.append(Completion(token: operations[id].token, count: 0, failure: .cancelled))
        operations.release(id)
        acceptors[place] = AcceptorEntry()
        listeners[place] = nil
    }
}
