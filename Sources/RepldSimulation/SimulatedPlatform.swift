package import RepldCore
package import RepldEngine

/// The simulated world of one host: a clock that jumps from event to event, and the operations under way.
///
/// It outlives engines: a crash drops the engine and whatever is in flight, and the next engine gets the same world.
package final class SimulatedWorld {
    package private(set) var now: UInt64 = 1
    package var random: RandomSource
    private var operations: [SimulatedOperation] = []
    private var examinations: [SimulatedExamination] = []
    private var nextSequence: UInt64 = 0
    package var isWakePending = false
    /// Longest time of one disk operation, in nanoseconds.
    package var latencyLimitNanoseconds: UInt64 = 2_000_000
    /// Longest time of one examination of data, in nanoseconds; 0 where they are over with the next turn.
    package var examinationLimitNanoseconds: UInt64 = 0
    /// Examinations are not over until this is false again: the thread that makes them gets no core.
    package var isExaminerStuck = false
    package private(set) var operationCount: UInt64 = 0
    package private(set) var examinationCount = 0

    package init(seed: UInt64) { random = RandomSource(seed: seed) }

    package var hasOperationsInFlight: Bool { !operations.isEmpty || !examinations.isEmpty }

    func start(_ disk: SimulatedDisk, _ kind: SimulatedOperation.Kind, byteCount: Int, token: Token) {
        let operation = SimulatedOperation(
            disk: disk,
            kind: kind,
            token: token,
            dueAt: now + 1 + random.below(latencyLimitNanoseconds),
            sequence: nextSequence,
            byteCount: UInt32(byteCount)
        )
        nextSequence += 1
        operations.append(operation)
    }

    func start(_ examination: DataExamination, token: Token) {
        let limit = examinationLimitNanoseconds
        let dueAt = limit == 0 ? now : now + 1 + random.below(limit)
        examinations.append(SimulatedExamination(examination, token: token, dueAt: dueAt, sequence: nextSequence))
        nextSequence += 1
    }

    /// Lets time pass to the next completion, at most to `deadline`.
    func advance(to deadline: UInt64, into completions: inout BoundedQueue<Completion>) {
        if isWakePending {
            isWakePending = false
            completions.append(Completion(token: .wake, count: 0, failure: nil))
            return
        }
        let operation = nextOperation()
        let examination = nextExamination()
        let operationMoment = operation.map { (operations[$0].dueAt, operations[$0].sequence) } ?? (.max, .max)
        let examinationMoment = examination.map { (examinations[$0].dueAt, examinations[$0].sequence) } ?? (.max, .max)
        guard min(operationMoment.0, examinationMoment.0) <= deadline else {
            now = max(now, deadline)
            return
        }
        if let index = examination, examinationMoment < operationMoment {
            completions.append(endExamination(index))
        } else if let index = operation {
            completions.append(endOperation(index))
        }
    }

    private func nextOperation() -> Int? {
        var next: Int?
        for index in operations.indices where !operations[index].disk.faults.isStuck {
            guard let best = next else {
                next = index
                continue
            }
            let left = (operations[index].dueAt, operations[index].sequence)
            if left < (operations[best].dueAt, operations[best].sequence) { next = index }
        }
        return next
    }

    private func nextExamination() -> Int? {
        if isExaminerStuck { return nil }
        return examinations.indices.min {
            (examinations[$0].dueAt, examinations[$0].sequence) < (examinations[$1].dueAt, examinations[$1].sequence)
        }
    }

    private func endOperation(_ index: Int) -> Completion {
        let operation = operations.remove(at: index)
        now = max(now, operation.dueAt)
        operationCount += 1
        let failure = operation.disk.apply(operation, random: &random)
        return Completion(token: operation.token, count: operation.byteCount, failure: failure)
    }

    private func endExamination(_ index: Int) -> Completion {
        let ended = examinations.remove(at: index)
        now = max(now, ended.dueAt)
        examinationCount += 1
        invariant(ended.isUntouched, "memory stays as it is while it is examined")
        return Completion(token: ended.token, count: ended.examination.isMatch ? 1 : 0, failure: nil)
    }

    /// The host dies: what is under way may have happened or not, and power goes from the disks.
    ///
    /// The memory of the operations must still be there, so this comes before the engine is dropped.
    package func crash(disks: [SimulatedDisk]) {
        for operation in operations where random.chance(oneIn: 2) {
            guard case .write = operation.kind else { continue }
            if random.chance(oneIn: 2) {
                operation.disk.tear(operation, random: &random)
            } else {
                _ = operation.disk.apply(operation, random: &random)
            }
        }
        operations.removeAll()
        examinations.removeAll()
        isExaminerStuck = false
        for disk in disks { disk.losePower(random: &random) }
        isWakePending = false
    }
}

/// Rouses a simulated loop: there is one thread, so it is a flag.
package struct SimulatedWaker: Waker, @unchecked Sendable {
    let world: SimulatedWorld

    package func wake() { world.isWakePending = true }
}

/// A simulated element, as the control plane would hand it over.
///
/// Unchecked: the simulation has one thread.
package struct SimulatedElement: @unchecked Sendable {
    package let disk: SimulatedDisk

    package init(_ disk: SimulatedDisk) { self.disk = disk }
}

/// The platform of the simulated world: disks with faults and a virtual clock.
///
/// Links come with replication between hosts.
package struct SimulatedPlatform: ~Copyable, Platform {
    package typealias ElementHandle = SimulatedElement
    package typealias ListenerHandle = Never
    package typealias PeerHandle = Never
    package typealias PlatformWaker = SimulatedWaker

    private let world: SimulatedWorld
    private var elements: [SimulatedDisk?]

    package init(world: SimulatedWorld) {
        self.world = world
        elements = Array(repeating: nil, count: 64)
    }

    package var waker: SimulatedWaker { SimulatedWaker(world: world) }
    package var now: Instant { Instant(nanoseconds: world.now) }
    package mutating func random() -> UInt64 { world.random.next() }
    package mutating func register(memory: UnsafeMutableRawBufferPointer) {}

    package mutating func attach(_ handle: SimulatedElement) -> ElementID? {
        guard let index = elements.firstIndex(where: { $0 == nil }) else { return nil }
        elements[index] = handle.disk
        return ElementID(index: UInt16(index))
    }

    package mutating func detach(_ element: ElementID) {
        invariant(elements[Int(element.index)] != nil, "an element is detached once")
        elements[Int(element.index)] = nil
    }

    package func byteCount(of element: ElementID) -> UInt64 { disk(element).geometry.byteCount }

    private func disk(_ element: ElementID) -> SimulatedDisk {
        guard let disk = elements[Int(element.index)] else {
            invariantFailed("an element is used while it is attached")
        }
        return disk
    }

    package mutating func read(
        _ element: ElementID,
        at offset: UInt64,
        into memory: UnsafeMutableRawBufferPointer,
        token: Token
    ) {
        unsafe world.start(disk(element), .read(Int(offset), memory), byteCount: memory.count, token: token)
    }

    package mutating func write(
        _ element: ElementID,
        at offset: UInt64,
        from memory: UnsafeRawBufferPointer,
        isDurable: Bool,
        token: Token
    ) {
        let kind = unsafe SimulatedOperation.Kind.write(Int(offset), memory, isDurable: isDurable)
        world.start(disk(element), kind, byteCount: memory.count, token: token)
    }

    package mutating func flush(_ element: ElementID, token: Token) {
        world.start(disk(element), .flush, byteCount: 0, token: token)
    }

    package mutating func zero(
        _ element: ElementID,
        _ extent: Extent,
        _ kind: ZeroKind,
        isDurable: Bool,
        token: Token
    ) {
        world.start(disk(element), .zero(extent, isDurable: isDurable), byteCount: 0, token: token)
    }

    package mutating func queryAllocation(
        _ element: ElementID,
        _ extent: Extent,
        into memory: UnsafeMutableBufferPointer<AllocationRun>,
        token: Token
    ) {
        unsafe memory[0] = AllocationRun(end: extent.end, isHole: false)
        world.start(disk(element), .queryAllocation, byteCount: 1, token: token)
    }

    package mutating func recode(_ recoding: DataRecoding, token: Token) {
        invariantFailed("nothing is compressed in a world without links")
    }

    package mutating func connect(_ peer: Never, token: Token) {}

    package mutating func examine(_ examination: DataExamination, token: Token) {
        world.start(examination, token: token)
    }

    package mutating func startAccepting(_ listener: Never, token: Token) {}

    package mutating func stopAccepting(token: Token) {
        invariantFailed("nothing listens in a world without links")
    }

    package mutating func receive(_ socket: SocketID, into memory: UnsafeMutableRawBufferPointer, token: Token) {
        invariantFailed("no socket exists in a world without links")
    }

    package mutating func send(
        _ socket: SocketID,
        _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer,
        token: Token
    ) {
        invariantFailed("no socket exists in a world without links")
    }

    package mutating func shutdown(_ socket: SocketID) {
        invariantFailed("no socket exists in a world without links")
    }

    package mutating func close(_ socket: SocketID) {
        invariantFailed("no socket exists in a world without links")
    }

    package mutating func wait(until deadline: Instant, into completions: inout BoundedQueue<Completion>) {
        world.advance(to: deadline.nanoseconds, into: &completions)
    }
}
