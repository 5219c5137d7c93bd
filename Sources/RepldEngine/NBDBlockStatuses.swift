internal import RepldCore
internal import RepldFrontends
internal import RepldPair

/// Answers to BLOCK_STATUS: one chunk for each context that the client selected.
///
/// Where the export has holes an element was asked before, by a piece. Where the elements of pairs may differ stands in the
/// machine's maps, which are read when the answer is written: it is true of a moment between request and reply, and what
/// was written before the request is in it.
extension Engine where P: ~Copyable {
    /// Runs that one chunk of differences looks at, of pairs that change in turn and so make one long extent.
    static var differenceRunLimit: Int { 1024 }

    /// Whether an element has to be asked.
    func asksForAllocation(_ connection: Int) -> Bool {
        nbd.connections[connection].session?.contexts.contains(.allocation) ?? false
    }

    /// Writes the answer, and releases the request and its piece, if it has one; false when there is no room.
    mutating func gatherBlockStatus(_ item: NBDOutboxItem, _ pending: SlotID, _ connection: Int) -> Bool {
        guard let session = nbd.connections[connection].session else { invariantFailed("requests follow a handshake") }
        let limit = NBDLimit.statusExtentCount
        let needed = session.contexts.count * NBDReply.blockStatusByteCount(extentCount: limit)
        invariant(
            needed > 0 && needed <= NBDConnectionMemory.sendByteCount,
            "an accepted request is about contexts, whose chunks fit into the send memory"
        )
        guard nbd.connections[connection].gatherCapacity >= needed else { return false }
        let half = unsafe nbd.connections[connection].memory.half(nbd.connections[connection].gatherHalf)
        var output = unsafe OutputRawSpan(
            buffer: half,
            initializedCount: nbd.connections[connection].gatheredByteCount
        )
        let request = nbd.pendings[pending].request
        var left = session.contexts.count
        for index in 0..<NBDMetadataContexts.limit {
            let context = NBDMetadataContexts.context(at: index)
            guard session.contexts.contains(context) else { continue }
            left -= 1
            var status = NBDBlockStatus(
                answering: request,
                about: context,
                isDone: left == 0,
                extentCountMaximum: limit,
                output: &output
            )
            if context == .allocation {
                appendAllocation(of: item, request, to: &status, &output)
            } else {
                appendDifferences(connection, session, context, request, to: &status, &output)
            }
            status.finish(output: &output)
        }
        nbd.connections[connection].gatheredByteCount = unsafe output.finalize(for: half)
        removeFirst(item, connection)
        if !item.isPending { releasePiece(pieceID(item)) }
        releasePending(pending)
        return true
    }

    /// What the element has told.
    private func appendAllocation(
        of item: NBDOutboxItem,
        _ request: NBDRequest,
        to status: inout NBDBlockStatus,
        _ output: inout OutputRawSpan
    ) {
        let record = nbd.pieces[pieceID(item)]
        let bytes = unsafe pool.bytes(of: record.buffer)
        var start = record.offset
        for index in 0..<Int(record.runCount) {
            let place = index * MemoryLayout<AllocationRun>.stride
            let run = unsafe bytes.load(fromByteOffset: place, as: AllocationRun.self)
            let state: NBDAllocationState = run.isHole ? [.hole, .zero] : []
            guard status.append(byteCount: run.end - start, state, to: &output) else { break }
            start = run.end
        }
        if start == record.offset { _ = status.append(byteCount: UInt64(request.length), [], to: &output) }
    }

    /// What the maps say of the pairs that a context is about.
    ///
    /// Of a pair that was selected and is gone nothing is known any more: all of it may differ.
    private func appendDifferences(
        _ connection: Int,
        _ session: NBDSession,
        _ context: NBDMetadataContexts,
        _ request: NBDRequest,
        to status: inout NBDBlockStatus,
        _ output: inout OutputRawSpan
    ) {
        let volume = nbd.connections[connection].volume
        let known = volumes[volume].pairs(ofSide: nbd.connections[connection].side)
        var selected = session.pairs
        var asked = known
        if let place = context.place {
            selected = NBDPairSet()
            selected[place] = session.pairs[place]
            asked = selected
        }
        guard !selected.isEmpty, selected.isSubset(of: known) else {
            _ = status.append(byteCount: UInt64(request.length), difference: .dirty, to: &output)
            return
        }
        var offset = request.offset
        let end = request.extent.end
        for _ in 0..<Self.differenceRunLimit {
            let run = volumes[volume].difference(of: asked, at: offset, upTo: end)
            let state: NBDDifferenceState = run.isDirty ? .dirty : []
            guard status.append(byteCount: run.end - offset, difference: state, to: &output) else { return }
            offset = run.end
        }
    }
}

extension HostedVolume {
    /// Whether the elements of any of these pairs may differ at `offset`, and up to where that is known to hold: `end` at most.
    fileprivate func difference(
        of pairs: NBDPairSet,
        at offset: UInt64,
        upTo end: UInt64
    ) -> (isDirty: Bool, end: UInt64) {
        var dirtyEnd = offset
        var cleanEnd = end
        for place in 0..<VolumeMachine.pairLimit where pairs[place] != NBDPairSet.noPair {
            let found = machine.withPair(place) { pair in
                (pair.endOfDifference(from: offset, upTo: end), pair.nextDifference(from: offset) ?? end)
            }
            guard let (endOfDifference, next) = found else { invariantFailed("a pair that has a number is in use") }
            dirtyEnd = max(dirtyEnd, endOfDifference)
            cleanEnd = min(cleanEnd, next)
        }
        return dirtyEnd > offset ? (true, dirtyEnd) : (false, cleanEnd)
    }
}
