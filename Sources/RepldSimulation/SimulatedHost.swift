internal import RepldCore
internal import RepldEngine

/// One host of a simulated world: what is in flight on it, and when its loop is to be turned next.
///
/// It outlives engines: a crash drops the engine and whatever is in flight, and the next engine gets the same host.
package final class SimulatedHost {
    unowned let world: SimulatedWorld
    package let index: Int
    package let name: String
    private var operations: [SimulatedOperation] = []
    private var jobs: [SimulatedJob] = []
    /// What the network has to tell that is not the end of a transfer.
    var notices: [SimulatedNotice] = []
    var sockets: [SimulatedSocket?] = []
    var listeners: [SimulatedListener] = []

    /// A platform was made on it, and it has not crashed since.
    package private(set) var isUp = false
    /// Its loop gets no core until this is false again; its kernel goes on.
    package var isFrozen = false
    package var isWakePending = false
    /// Longest time of one disk operation, in nanoseconds.
    package var latencyLimitNanoseconds: UInt64 = 2_000_000
    /// Longest time of one piece of work on data in memory, in nanoseconds; 0 where it is over with the next turn.
    package var examinationLimitNanoseconds: UInt64 = 0
    /// Work on data in memory is not over until this is false again: the thread that does it gets no core.
    package var isExaminerStuck = false
    /// Longest time from an event to the turn that it leads to, in nanoseconds: what comes meanwhile comes with it.
    ///
    /// Of no effect on a host that is alone in its world.
    package var latenessLimitNanoseconds: UInt64 = 0
    var clock = SimulatedClock()
    /// Its loop gets no core before.
    var pausedUntil: UInt64 = 0
    /// Open sockets that it may have.
    package var socketLimit = 1024
    package private(set) var operationCount: UInt64 = 0
    package private(set) var examinationCount = 0
    package private(set) var recodingCount = 0

    /// The deadline of the last `wait`, as its clock will show it; the past where that handed something over.
    private var sleepsUntil: UInt64 = 0
    private var latenessNanoseconds: UInt64 = 0

    init(world: SimulatedWorld, index: Int, name: String) {
        self.world = world
        self.index = index
        self.name = name
    }

    package var hasOperationsInFlight: Bool { !operations.isEmpty || !jobs.isEmpty }

    func start(_ disk: SimulatedDisk, _ kind: SimulatedOperation.Kind, byteCount: Int, token: Token) {
        let operation = SimulatedOperation(
            disk: disk,
            kind: kind,
            token: token,
            dueAt: world.soon(within: latencyLimitNanoseconds),
            sequence: world.takeSequence(),
            byteCount: UInt32(byteCount)
        )
        operations.append(operation)
    }

    func start(_ work: SimulatedJob.Work, token: Token) {
        let limit = examinationLimitNanoseconds
        let dueAt = limit == 0 ? world.now : world.soon(within: limit)
        jobs.append(SimulatedJob(work, token: token, dueAt: dueAt, sequence: world.takeSequence()))
    }

    // MARK: - Waiting

    func wait(until deadline: UInt64, into completions: inout BoundedQueue<Completion>) {
        if world.isOfOneHost { return world.advance(self, to: clock.moment(of: deadline), into: &completions) }
        let room = completions.capacity - completions.count
        let hasDelivered = deliver(atMost: room, into: &completions) > 0
        sleepsUntil = hasDelivered ? 0 : deadline
        let isLate = !hasDelivered && latenessLimitNanoseconds > 0
        latenessNanoseconds = isLate ? world.random.below(latenessLimitNanoseconds) : 0
    }

    /// When the loop is to be turned; the past where it is late, and the end of time where nothing is to be done.
    var nextMoment: UInt64 {
        guard isUp, !isFrozen else { return .max }
        if isWakePending { return pausedUntil }
        let due = min(clock.moment(of: sleepsUntil), nextEventMoment)
        let (moment, overflow) = due.addingReportingOverflow(latenessNanoseconds)
        return overflow ? .max : max(moment, pausedUntil)
    }

    /// When the next completion is due.
    var nextEventMoment: UInt64 { isWakePending ? 0 : nextEvent()?.dueAt ?? .max }

    /// Hands over what is due now, in the order in which it became due; the number of completions.
    func deliver(atMost limit: Int, into completions: inout BoundedQueue<Completion>) -> Int {
        var count = 0
        if isWakePending, limit > 0 {
            isWakePending = false
            completions.append(Completion(token: .wake, count: 0, failure: nil))
            count += 1
        }
        while count < limit, let event = nextEvent(), event.dueAt <= world.now {
            completions.append(end(event.source))
            count += 1
        }
        return count
    }

    /// What the next completion comes of, by its place.
    private enum EventSource {
        case operation(Int)
        case job(Int)
        case notice(Int)
        case receive(Int)
        case send(Int)
    }

    private struct Event {
        var dueAt: UInt64
        var sequence: UInt64
        var source: EventSource
    }

    private func nextEvent() -> Event? {
        var next: Event?
        func consider(_ dueAt: UInt64, _ sequence: UInt64, _ source: EventSource) {
            if let next, (next.dueAt, next.sequence) < (dueAt, sequence) { return }
            next = Event(dueAt: dueAt, sequence: sequence, source: source)
        }
        for (index, operation) in operations.enumerated() where !operation.disk.faults.isStuck {
            consider(operation.dueAt, operation.sequence, .operation(index))
        }
        if !isExaminerStuck {
            for (index, job) in jobs.enumerated() { consider(job.dueAt, job.sequence, .job(index)) }
        }
        for (index, notice) in notices.enumerated() { consider(notice.dueAt, notice.sequence, .notice(index)) }
        for (index, socket) in sockets.enumerated() {
            guard let socket else { continue }
            if let due = socket.receiveDue { consider(due.moment, due.sequence, .receive(index)) }
            if let due = socket.sendDue { consider(due.moment, due.sequence, .send(index)) }
        }
        return next
    }

    private func end(_ source: EventSource) -> Completion {
        switch source {
        case .operation(let index): endOperation(index)
        case .job(let index): endJob(index)
        case .notice(let index): endNotice(index)
        case .receive(let index): socket(index).connection.endReceive(socket(index).side)
        case .send(let index): socket(index).connection.endSend(socket(index).side)
        }
    }

    private func endOperation(_ index: Int) -> Completion {
        let operation = operations.remove(at: index)
        operationCount += 1
        let failure = operation.disk.apply(operation, random: &world.random)
        return Completion(token: operation.token, count: operation.byteCount, failure: failure)
    }

    private func endJob(_ index: Int) -> Completion {
        let job = jobs.remove(at: index)
        invariant(job.isUntouched, "memory stays as it is while it is worked on")
        switch job.work {
        case .examine: examinationCount += 1
        case .recode: recodingCount += 1
        }
        return Completion(token: job.token, count: job.carryOut(), failure: nil)
    }

    // MARK: - Life and death

    /// A platform is made on it: the kernel is there, and has nothing of the last life.
    func boot() {
        invariant(operations.isEmpty && jobs.isEmpty, "an engine dies before the next one is made")
        isUp = true
        sleepsUntil = 0
        latenessNanoseconds = 0
        world.network.hostChanged()
    }

    /// The host dies: what is under way may have happened or not, power goes from the disks, connections are torn.
    ///
    /// It stays down until another platform is made on it. The memory of the operations must still be there, so this
    /// comes before the engine is dropped.
    package func crash(disks: [SimulatedDisk]) {
        for operation in operations where world.random.chance(oneIn: 2) {
            guard case .write = operation.kind else { continue }
            if world.random.chance(oneIn: 2) {
                operation.disk.tear(operation, random: &world.random)
            } else {
                _ = operation.disk.apply(operation, random: &world.random)
            }
        }
        operations.removeAll()
        jobs.removeAll()
        isExaminerStuck = false
        isFrozen = false
        pausedUntil = 0
        for disk in disks { disk.losePower(random: &world.random) }
        isWakePending = false
        isUp = false
        notices.removeAll()
        sockets.removeAll()
        listeners.removeAll()
        world.network.hostCrashed(self)
    }
}
