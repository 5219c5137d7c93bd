internal import RepldCore
internal import RepldFormat
internal import RepldPair

/// From a machine's effects to the platform, and back from completions to events.
extension Engine where P: ~Copyable {
    /// Volumes are named by the upper bits of a token's slot index, machine slots by the lower.
    private static var slotBits: UInt32 { 20 }

    func token(_ kind: TokenKind, volume: Int, leg: UInt8, slot: SlotID) -> Token {
        let index = UInt32(volume) << Self.slotBits | slot.index
        return Token(kind: kind.rawValue, leg: leg, slot: SlotID(index: index, generation: slot.generation))
    }

    /// Carries out all that a volume's machine wants, in order.
    mutating func carryOut(_ volume: Int) {
        while let effect = volumes[volume].machine.nextEffect() {
            switch effect {
            case .perform(let operation):
                perform(operation, volume: volume)
            case .answer(let origin, let failure):
                if failure != nil {
                    volumes[volume].counters.failedRequestCount += 1
                } else {
                    noteAcknowledgement(volume)
                }
                hasFreedResources = true
                answers.append(EngineAnswer(origin: origin, failure: failure))
            case .recycle(let buffer):
                releaseBuffer(buffer)
            case .needBuffers(let slot, let byteCount, let isPair):
                // The copy may have been dropped by the event that began it.
                guard volumes[volume].machine.awaitsBuffers(slot) else { continue }
                let waiter = BufferWaiter(volume: volume, slot: slot, byteCount: Int(byteCount), isPair: isPair)
                if bufferWaiters.count * 2 > bufferWaiters.capacity { dropStaleBufferWaiters() }
                // Behind those who wait already: each mover gets its turn.
                if !bufferWaiters.isEmpty || !grantBuffers(waiter) { bufferWaiters.append(waiter) }
            case .locateDifference(let slot, let offset):
                locateDifference(slot, from: offset, volume: volume)
            case .persist(let pair):
                persist(pair: pair, volume: volume)
            case .writeLog(let pair):
                writeLog(pair: pair, volume: volume)
            case .writePage(let pair, let place):
                writePage(place, pair: pair, volume: volume)
            case .writeUndoPage(let pair, let place):
                writeUndoPage(place, pair: pair, volume: volume)
            case .emptyUndo(let pair):
                emptyUndo(pair: pair, volume: volume)
            case .announce:
                announce(volumes[volume].machine.nextEvent(), volume: volume)
            case .swapLegs(let pair):
                volumes[volume].swapLegs(pair: pair)
            case .disconnectHosts:
                disconnectClients(of: volume, because: .servedByOtherElement)
            case .closeTargetExport(let pair):
                disconnectClients(of: volume, side: UInt8(pair + 1))
            case .settled(let pair, let failure):
                pairSettled(pair, failure, volume: volume)
            case .grown:
                volumeGrown(volume)
            case .pairDetached(let pair):
                pairDetached(pair, volume: volume)
            case .closed:
                volumeClosed(volume)
            }
        }
        nextWake = min(nextWake, volumes[volume].machine.copyWakeAt)
    }

    // MARK: - Operations

    private mutating func perform(_ operation: ElementOperation, volume: Int) {
        let place = volumes[volume].place(ofLeg: operation.leg)
        let element = volumes[volume].element(atPlace: place)
        if let target = element.remoteTarget { return performRemotely(operation, target, place: place) }
        let extent = operation.extent
        // An undo area has its pages before what is at byte 0 of the volume.
        let offset = extent.offset + volumes[volume].headByteCount(atPlace: place)
        let length = Int(extent.length)
        let token = token(.element, volume: volume, leg: place, slot: operation.slot)
        switch operation.kind {
        case .read, .readAndCheckZero:
            unsafe platform.read(element, at: offset, into: bytes(operation.buffer, length), token: token)
        case .readAndCompare:
            unsafe platform.read(element, at: offset, into: bytes(operation.secondBuffer, length), token: token)
        case .write, .save:
            let buffer = operation.kind == .save ? operation.secondBuffer : operation.buffer
            unsafe platform.write(
                element,
                at: offset,
                from: UnsafeRawBufferPointer(bytes(buffer, length)),
                isDurable: operation.isDurable,
                token: token
            )
        case .flush:
            platform.flush(element, token: token)
        case .discard, .zeroMayDeallocate, .zeroKeepAllocated:
            zero(operation, volume: volume)
        }
    }

    func bytes(_ buffer: BufferID, _ length: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(rebasing: pool.bytes(of: buffer)[..<length])
    }

    private mutating func zero(_ operation: ElementOperation, volume: Int) {
        let zeroKind: ZeroKind =
            switch operation.kind {
            case .discard: .discard
            case .zeroKeepAllocated: .keepAllocated
            default: .mayDeallocate
            }
        let tokenKind: TokenKind =
            operation.fillsIfUnsupported ? .zeroOrFill : (operation.kind == .discard ? .adviceDiscard : .element)
        let place = volumes[volume].place(ofLeg: operation.leg)
        platform.zero(
            volumes[volume].element(atPlace: place),
            operation.extent,
            zeroKind,
            isDurable: operation.isDurable,
            token: token(tokenKind, volume: volume, leg: place, slot: operation.slot)
        )
    }

    mutating func elementCompleted(_ kind: TokenKind, _ completion: Completion) {
        let token = completion.token.slot
        let volume = Int(token.index >> Self.slotBits)
        let slot = SlotID(index: token.index & (1 << Self.slotBits - 1), generation: token.generation)
        // The place of the element; for a record, the pair.
        let place = completion.token.leg
        var failure = completion.failure
        // A late completion may free a request slot without an answer.
        hasFreedResources = true
        switch kind {
        case .record:
            if failure == nil, recordIsDurableHere(pair: Int(place), volume: volume) { return }
            volumes[volume].machine.recordWritten(pair: Int(place), failure)
            carryOut(volume)
            answerMeeting(Int(place), volume)
            if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
            return
        case .log, .page, .undoPage, .undoEmptied:
            return metadataCompleted(kind, pair: Int(place), Int(slot.index), failure, volume: volume)
        case .zeroOrFill where failure == .notSupported:
            volumes[volume].fillProgress[fillPlace(slot, place)] = 0
            return fillNext(volume, slot, place)
        case .fill where failure == nil:
            volumes[volume].fillProgress[fillPlace(slot, place)] += UInt64(completion.count)
            if volumes[volume].fillProgress[fillPlace(slot, place)]
                < volumes[volume].machine.operands(of: slot).extent.length
            {
                return fillNext(volume, slot, place)
            }
        case .adviceDiscard where failure == .notSupported:
            failure = nil
        default:
            break
        }
        var isMatch = false
        if kind == .examination {
            isMatch = completion.count != 0
        } else if failure == nil, volumes[volume].machine.wantsExamination(slot) {
            guard let answer = examine(slot, place: place, volume: volume) else { return }
            isMatch = answer
        }
        let leg = volumes[volume].leg(atPlace: place)
        volumes[volume].machine.completed(slot, leg: leg, OperationOutcome(failure: failure, isMatch: isMatch))
        carryOut(volume)
        if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
    }

    // MARK: - Writing zeroes out

    private func fillPlace(_ slot: SlotID, _ place: UInt8) -> Int {
        Int(slot.index) * HostedVolume.legLimit + Int(place)
    }

    private mutating func fillNext(_ volume: Int, _ slot: SlotID, _ place: UInt8) {
        let operands = volumes[volume].machine.operands(of: slot)
        let done = volumes[volume].fillProgress[fillPlace(slot, place)]
        let length = min(operands.extent.length - done, UInt64(pool.largestByteCount))
        unsafe platform.write(
            volumes[volume].element(atPlace: place),
            at: operands.extent.offset + done,
            from: UnsafeRawBufferPointer(bytes(zeroes, Int(length))),
            isDurable: operands.isDurable,
            token: token(.fill, volume: volume, leg: place, slot: slot)
        )
    }

    // MARK: - Buffers for the movers

    private mutating func grantBuffers(_ waiter: BufferWaiter) -> Bool {
        let count = waiter.isPair ? 2 : 1
        guard moverBufferCount == 0 || moverBufferCount + count <= moverBufferLimit else { return false }
        guard let first = pool.take(byteCount: waiter.byteCount, leaving: peerReserve) else { return false }
        var second = BufferID.none
        if waiter.isPair {
            guard let other = pool.take(byteCount: waiter.byteCount, leaving: peerReserve) else {
                pool.release(first)
                return false
            }
            second = other
        }
        isMoverBuffer[Int(first.rawValue)] = true
        if second != .none { isMoverBuffer[Int(second.rawValue)] = true }
        moverBufferCount += count
        volumes[waiter.volume].machine.buffersGranted(waiter.slot, first, second: second)
        return true
    }

    /// Copies that ended left their places in the queue; while buffers are stuck, nobody else would take them out.
    private mutating func dropStaleBufferWaiters() {
        for _ in 0..<bufferWaiters.count {
            guard let waiter = bufferWaiters.popFirst() else { return }
            if volumes[waiter.volume].machine.awaitsBuffers(waiter.slot) { bufferWaiters.append(waiter) }
        }
    }

    /// Serves movers in the order of asking, as far as buffers go.
    mutating func serveBufferWaiters() {
        while !bufferWaiters.isEmpty {
            guard volumes[bufferWaiters[0].volume].machine.awaitsBuffers(bufferWaiters[0].slot) else {
                _ = bufferWaiters.popFirst()
                continue
            }
            guard grantBuffers(bufferWaiters[0]) else { return }
            guard let served = bufferWaiters.popFirst() else { return }
            carryOut(served.volume)
        }
    }

    // MARK: - Events

    private mutating func announce(_ event: VolumeEvent, volume: Int) {
        let id = volumes[volume].id
        isOrderStale = true
        if case .operationEnded(let pair, let operation, let failure) = event {
            return operationEnded(pair, operation, failure, volume: volume)
        }
        if case .copyStateChanged(let pair, _, let state) = event, state != .synchronized, state != .unsynchronized,
            let index = volumes[volume].machine.pairIndex(pair)
        {
            dropBacklog(ofPair: index, volume: volume)
        }
        let (pair, kind): (PairID?, EngineEvent.Kind) =
            switch event {
            case .copyStateChanged(let pair, let from, let to): (pair, .copyStateChanged(from: from, to: to))
            case .pairBroken(let pair, let reason, let isFlowingBack):
                (pair, .pairBroken(reason.words(isFlowingBack: isFlowingBack)))
            case .operationEnded(let pair, let operation, let failure): (pair, .operationEnded(operation, failure))
            case .rolesReversed(let pair, let isSecondSource): (pair, .rolesReversed(isSecondSource: isSecondSource))
            case .sourceReadServedByTarget(let pair, let extent, let isRepaired):
                (pair, .sourceReadServedByTarget(extent, isRepaired: isRepaired))
            case .sourceWriteFailed(let extent, let failure): (nil, .sourceWriteFailed(extent, failure))
            case .recordFailed(let pair, let failure): (pair, .recordFailed(failure))
            case .caughtUp(let pair): (pair, .caughtUp)
            case .undoLost(let pair): (pair, .undoLost)
            case .verifyFound(let pair, let extent): (pair, .verifyFound(extent))
            case .verifyEnded(let pair, let failure):
                (pair, .verifyEnded(verifyReport(pair, volume: volume), failure))
            }
        eventSink(EngineEvent(volume: id, pair: pair, kind: kind))
    }

    /// An operation has ended: whoever waits for it is told.
    private mutating func operationEnded(
        _ pair: PairID,
        _ operation: ReplicationOperation,
        _ failure: OperationFailure?,
        volume: Int
    ) {
        if !OperationTable.rule(of: operation).startsJob, let answer = operationAnswers.removeValue(forKey: pair) {
            answer(failure.map { .failure(.operationFailed($0)) } ?? .success(.done))
        }
        eventSink(EngineEvent(volume: volumes[volume].id, pair: pair, kind: .operationEnded(operation, failure)))
    }
}
