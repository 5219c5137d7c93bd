import CLiburing
import CRepldLinux
import Glibc
package import RepldCore
package import RepldEngine

/// The real world, through one io_uring.
///
/// An operation has a slot in a fixed table from the call that starts it until its completion is reaped; `user_data` is
/// the slot and its generation, so that a late or doubled completion is an invariant. Nothing on the way of an operation
/// allocates, retains or locks. Completions that nobody took yet wait in `ready`; entries that the ring had no room for,
/// and operations that have to go round again, wait in `deferred`. Reaping never submits: that would recurse.
///
/// Belongs to the thread that made it. When it goes, nothing of the engine may be in flight: all accepting is stopped and
/// every operation has completed, except that connections to peers under way are given up. Elements and sockets still open
/// are closed.
@safe
package struct UringPlatform: ~Copyable, Platform {
    package typealias ElementHandle = OpenElement
    package typealias ListenerHandle = Listener
    package typealias PeerHandle = PeerAddress

    let ring: Ring
    var operations: OperationTable
    var ready: BoundedQueue<Completion>
    var deferred: BoundedQueue<SlotID>

    var elements: FixedArray<ElementEntry>
    private var elementHandles: FixedArray<OpenElement?>
    var sockets: FixedArray<SocketEntry>
    /// Numbers of sockets that are not taken; the last is taken next.
    var freeSockets: FixedArray<UInt16>
    var freeSocketCount: Int
    let sends: SendTable
    var acceptors: FixedArray<AcceptorEntry>
    var listeners: FixedArray<Listener?>

    private let hasFileTable: Bool
    private var regionStart = 0
    private var regionEnd = 0
    private let mayRegisterBuffers: Bool
    private let mayUseMemoryDirectly: Bool
    var hasMultishotAccept: Bool

    package let waker: UringWaker
    /// Rung by the waker and by the workers; a read of it is always in the ring.
    let eventDescriptor: Int32
    let eventCount: UnsafeMutablePointer<UInt64>
    /// How long accepting rests after a failure.
    ///
    /// The kernel copies it when the entry is submitted.
    let acceptPause: UnsafeMutablePointer<__kernel_timespec>
    var signal: SlotID
    var isSignalInKernel = false

    let queryWorker: Worker<AllocationQuery>
    let dataWorker: Worker<DataJob>
    /// Connects to peers and lets them in; made when the first is asked for.
    var admitter: Admitter?
    let admissionCapacity: Int
    let admissionTimeNanoseconds: UInt64
    /// Operations among those in flight that the admitter has.
    var connectsInFlight = 0
    /// Operations that a worker has, and connections that the admitter has.
    var jobsInFlight = 0
    /// Cancellations whose own end has not been seen; nobody waits for it.
    var withdrawalsInFlight = 0

    package internal(set) var now: Instant
    package internal(set) var lagNanoseconds: UInt64 = 0
    /// When the last `wait` began to wait; the end of time when there was something to deliver at once.
    var restsSince = Instant(nanoseconds: .max)
    private var randomSource: RandomSource
    var script: BoundedQueue<ScriptedResult>

    /// Makes a platform for the calling thread.
    package init(_ options: Options = Options()) throws {
        let ring = try Ring(
            submissionEntries: options.submissionEntries,
            completionEntries: options.completionEntries,
            allowing: options.allowed
        )
        let event = repld_eventfd()
        guard event >= 0 else { throw UringSetupError(step: "making an eventfd", errorNumber: errno) }
        let second = fcntl(event, F_DUPFD_CLOEXEC, 0)
        guard second >= 0 else {
            let number = errno
            _ = Glibc.close(event)
            throw UringSetupError(step: "duplicating an eventfd", errorNumber: number)
        }
        let waker = UringWaker(owning: second)
        let capacity = options.operationCapacity
        let queryWorker: Worker<AllocationQuery>
        let dataWorker: Worker<DataJob>
        do {
            queryWorker = try Worker(name: "repld-extents", capacity: capacity, eventDescriptor: event)
            dataWorker = try Worker(name: "repld-data", capacity: capacity, eventDescriptor: event)
        } catch {
            _ = Glibc.close(event)
            throw error
        }
        let nobody = SlotID(index: 0, generation: 0)
        operations = OperationTable(capacity: capacity)
        ready = BoundedQueue(
            capacity: capacity + options.socketCapacity,
            blank: Completion(token: .wake, count: 0, failure: nil)
        )
        deferred = BoundedQueue(capacity: capacity, blank: nobody)
        elements = FixedArray(repeating: ElementEntry(), count: options.elementCapacity)
        elementHandles = FixedArray(count: options.elementCapacity) { _ in nil }
        sockets = FixedArray(repeating: SocketEntry(), count: options.socketCapacity)
        freeSockets = FixedArray(count: options.socketCapacity) { UInt16(options.socketCapacity - 1 - $0) }
        freeSocketCount = options.socketCapacity
        sends = SendTable(count: options.socketCapacity)
        acceptors = FixedArray(repeating: AcceptorEntry(), count: options.listenerCapacity)
        listeners = FixedArray(count: options.listenerCapacity) { _ in nil }
        hasFileTable =
            options.allowed.contains(.registeredFiles)
            && ring.registerFiles(count: UInt32(options.elementCapacity + options.socketCapacity))
        mayRegisterBuffers = options.allowed.contains(.registeredBuffers)
        mayUseMemoryDirectly = options.allowed.contains(.memoryFiles)
        hasMultishotAccept = ring.setup.hasMultishotAccept
        self.ring = ring
        self.waker = waker
        eventDescriptor = event
        unsafe eventCount = .allocate(capacity: 1)
        unsafe eventCount.initialize(to: 0)
        unsafe acceptPause = .allocate(capacity: 1)
        unsafe acceptPause.initialize(to: __kernel_timespec(tv_sec: 0, tv_nsec: 100_000_000))
        self.queryWorker = queryWorker
        self.dataWorker = dataWorker
        admissionCapacity = options.admissionCapacity
        admissionTimeNanoseconds = options.admissionTimeNanoseconds
        now = monotonicNow()
        randomSource = RandomSource(seed: UInt64.random(in: .min ... .max))
        script = BoundedQueue(capacity: 128, blank: ScriptedResult(kind: .signal, result: 0))
        signal = nobody
        guard let signal = operations.take(Operation(token: .wake, kind: .signal, place: 0)) else {
            invariantFailed("an empty table has a free slot")
        }
        self.signal = signal
        deferred.append(signal)
    }

    deinit {
        let ownCount = 1 + withdrawalsInFlight + connectsInFlight
        invariant(
            operations.takenCount == ownCount,
            "when a platform goes, nothing but the read of its waker and connections to peers is in flight"
        )
        withdrawSignal()
        queryWorker.end()
        dataWorker.end()
        admitter?.end()
        for index in 0..<sockets.count where sockets[index].isTaken {
            sockets[index].session?.free()
            _ = Glibc.close(sockets[index].descriptor)
        }
        _ = Glibc.close(eventDescriptor)
        unsafe eventCount.deallocate()
        unsafe acceptPause.deallocate()
    }

    /// What the kernel has and is used.
    package var features: Features {
        Features(
            isSingleIssuer: ring.setup.isSingleIssuer,
            isCooperative: ring.setup.isCooperative,
            submitsAll: ring.setup.submitsAll,
            hasRegisteredRing: ring.setup.isRingRegistered,
            hasRegisteredFiles: hasFileTable,
            hasRegisteredBuffers: regionEnd > regionStart,
            hasMultishotAccept: hasMultishotAccept
        )
    }

    package mutating func random() -> UInt64 { randomSource.next() }

    package mutating func register(memory: UnsafeMutableRawBufferPointer) {
        invariant(regionEnd == 0, "the engine's memory is announced once")
        // The kernel takes at most 1 GiB as one buffer; a larger pool goes unregistered.
        guard mayRegisterBuffers, memory.count <= 1 << 30, let base = memory.baseAddress else { return }
        guard unsafe ring.registerBuffer(memory) else { return }
        regionStart = Int(bitPattern: base)
        regionEnd = regionStart + memory.count
    }

    package mutating func attach(_ handle: OpenElement) -> ElementID? {
        for index in 0..<elements.count where !elements[index].isTaken {
            let isRegistered = hasFileTable && ring.setFile(handle.descriptor, at: UInt32(index))
            elements[index] = ElementEntry(
                descriptor: handle.descriptor,
                blockMask: UInt64(handle.geometry.logicalBlockByteCount) - 1,
                isReadOnly: handle.geometry.isReadOnly,
                isRegistered: isRegistered,
                isInMemory: mayUseMemoryDirectly && repld_is_in_memory(handle.descriptor)
            )
            elementHandles[index] = handle
            return ElementID(index: UInt16(index))
        }
        return nil
    }

    package mutating func detach(_ element: ElementID) {
        let index = Int(element.index)
        invariant(elements[index].isTaken, "an element is detached once")
        invariant(elements[index].inFlightCount == 0, "an element is detached with nothing in flight")
        if elements[index].isRegistered { _ = ring.setFile(-1, at: UInt32(index)) }
        elements[index] = ElementEntry()
        elementHandles[index] = nil
    }

    package func byteCount(of element: ElementID) -> UInt64 {
        elementHandles[Int(element.index)]?.currentByteCount ?? 0
    }

    /// The place of a socket in the table of files.
    func fileIndex(ofSocket index: Int) -> UInt32 { UInt32(elements.count + index) }

    /// Puts a socket's descriptor into the table of files; false when it is used as it is.
    func registerSocket(_ descriptor: Int32, at index: Int) -> Bool {
        hasFileTable && ring.setFile(descriptor, at: fileIndex(ofSocket: index))
    }

    /// Whether the kernel has the pages of this memory pinned.
    @inline(__always)
    func isInRegion(_ memory: UnsafeRawPointer, _ count: Int) -> Bool {
        let start = Int(bitPattern: memory)
        return start >= regionStart && start + count <= regionEnd
    }

    /// For tests: the next result of this kind is replaced by `result`.
    ///
    /// Costs one branch that is never taken.
    package mutating func replaceNextResult(of kind: OperationKind, with result: Int32) {
        script.append(ScriptedResult(kind: kind, result: result))
    }

    /// Takes the read of the waker back out of the kernel, which still has the address of `eventCount`.
    private func withdrawSignal() {
        guard isSignalInKernel else { return }
        let name = userData(of: signal)
        while true {
            if let entry = unsafe ring.nextEntry() {
                unsafe io_uring_prep_cancel64(entry, name, 0)
                unsafe entry.pointee.user_data = .max
                break
            }
            _ = ring.submit()
        }
        while true {
            _ = ring.submitAndWait(nanoseconds: nil)
            let count = ring.readyCount
            var isBack = false
            for place in 0..<count where ring.completion(place).userData == name { isBack = true }
            ring.advance(count)
            if isBack { return }
        }
    }
}

/// The reading of the monotonic clock.
func monotonicNow() -> Instant {
    var time = timespec()
    let result = unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    invariant(result == 0, "the monotonic clock can be read")
    return Instant(nanoseconds: UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec))
}

/// A slot's name as the kernel carries it.
@inline(__always)
func userData(of id: SlotID) -> UInt64 { UInt64(id.generation) << 32 | UInt64(id.index) }
