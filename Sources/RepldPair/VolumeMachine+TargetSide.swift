internal import RepldCore

/// The own export of a target, which hosts use read-write while the pair is Fractured or Split.
///
/// A request's life is short: `[waitingForLock → (waitingForRecord)] → running → answered`. It touches the target alone, has
/// no time limit (the element is that host's storage, as a source is), and when the export closes, what is in flight ends by
/// itself and what comes later is answered `cancelled`.
extension VolumeMachine {
    /// Whether hosts may use the target of a pair through its own export.
    package func isTargetOpen(_ index: Int) -> Bool {
        guard pairs[index].isInUse, !pairs[index].wantsDetach, pairs[index].operation == nil else { return false }
        // What hosts write here would count for what the source lacks.
        guard pairs[index].linkRestore == .none else { return false }
        // Before that is durable, a start after a crash could overwrite what hosts write here.
        guard !pairs[index].isRecordCritical else { return false }
        // A copy that was in flight when the pair was fractured would overwrite what hosts write here.
        guard pairs[index].isTargetQuiet else { return false }
        return Self.isHostsOwn(pairs[index].copyState)
    }

    /// The states in which the target has hosts of its own.
    static func isHostsOwn(_ state: CopyState) -> Bool { state == .fractured || state == .split }

    mutating func beginOnTarget(_ host: HostRequest) {
        let index = Int(host.side) - 1
        let purpose: Purpose =
            switch host.operation {
            case .read: .targetRead
            case .flush: .targetFlush
            case .write, .discard, .writeZeroes: .targetWrite
            }
        var request = Request(host: host, purpose: purpose, stage: .running)
        request.startedAt = awake
        guard let id = slots.take(request) else { invariantFailed("hosts leave room for the mover's slots") }
        targetRequestCounts[index] += 1
        guard isTargetOpen(index) else { return answer(id, .cancelled) }
        switch purpose {
        case .targetRead: issue(id, leg: host.side, .read)
        case .targetFlush: issue(id, leg: host.side, .flush)
        default:
            slots[id].stage = .waitingForLock
            if locks.acquire(lockExtent(of: id), .exclusive, owner: id) { startTargetWrite(id) }
        }
    }

    /// Each target has a space of locks of its own, behind that of the volume: a target that hangs holds up only its own hosts.
    private func lockExtent(of id: SlotID) -> Extent {
        let extent = slots[id].host.extent
        return Extent(offset: extent.offset + UInt64(slots[id].host.side) << 60, length: extent.length)
    }

    /// The write holds its lock.
    mutating func startTargetWrite(_ id: SlotID) {
        let index = Int(slots[id].host.side) - 1
        if slots[id].sourceFailure != nil {
            slots[id].stage = .running
            return endTargetRequest(id)
        }
        if holdsForRecord { return hold(id, .waitingForRecord) }
        let isOpen = isTargetOpen(index)
        let entry = isWritingRefused ? .refused : (isOpen ? enterLogs(id) : .entered)
        if entry == .waits { return hold(id, .waitingForRecord) }
        slots[id].stage = .running
        guard isOpen, entry == .entered else {
            slots[id].sourceFailure = entry == .refused ? .inputOutput : .cancelled
            return endTargetRequest(id)
        }
        pairs[index].markTargetChanged(slots[id].host.extent)
        issue(id, leg: slots[id].host.side, writeKind(of: id), isDurable: slots[id].host.isDurable)
    }

    /// The engine stops, and a target does not answer its own hosts: they are told that it did not, and the slots stay taken.
    ///
    /// Only what began longer ago than the pair's time limit.
    package mutating func giveUpTargetRequests() {
        for index in 0..<slots.capacity {
            guard let id = slots.taken(at: index), slots[id].host.side != 0 else { continue }
            guard slots[id].stage == .waitingForLock || slots[id].stage == .waitingForRecord else { continue }
            slots[id].sourceFailure = .cancelled
        }
        for index in 0..<slots.capacity {
            guard let id = slots.taken(at: index), slots[id].host.side != 0, slots[id].stage == .running else {
                continue
            }
            let pair = Int(slots[id].host.side) - 1
            let limit = pairs[pair].settings.targetTimeoutNanoseconds
            guard awake.nanoseconds(since: slots[id].startedAt) > limit else { continue }
            slots[id].sourceFailure = .timedOut
            endTargetRequest(id)
        }
        if isClosing { advanceClosing() }
        finishEvent()
    }

    mutating func endTargetRequest(_ id: SlotID) {
        if slots[id].purpose == .targetWrite {
            leaveLogs(id)
            unlock(id)
        }
        answer(id, slots[id].sourceFailure)
    }
}
