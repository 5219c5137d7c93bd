import CRepldLinux
import Glibc
import RepldCore
import RepldEngine
import Synchronization

/// Asks file systems where their data is, on a thread of its own, because SEEK_DATA may read metadata from disk.
///
/// Life of a query: `enqueue` by the loop → run by the worker → `popAnswer` by the loop, after the eventfd was rung.
/// Both queues hold as many queries as the platform holds operations, so neither overflows. The element stays open and the
/// memory stays valid until the answer was taken: the query counts as an operation in flight.
@safe
final class AllocationWorker: @unchecked Sendable {
    @safe
    struct Query: BitwiseCopyable {
        var id: SlotID
        var descriptor: Int32
        var start: UInt64
        var end: UInt64
        var blockByteCount: UInt64
        var runs: UnsafeMutablePointer<AllocationRun>
        var runCapacity: Int
    }

    struct Answer: BitwiseCopyable {
        var id: SlotID
        var runCount: UInt32
        var errorNumber: Int32
    }

    private let lock: UnsafeMutablePointer<pthread_mutex_t>
    private let hasWork: UnsafeMutablePointer<pthread_cond_t>
    // Guarded by `lock`.
    private var queries: BoundedQueue<Query>
    private var answers: BoundedQueue<Answer>
    private var isStopping = false

    private let answerCount = Atomic<Int>(0)
    private let eventDescriptor: Int32

    /// Makes the queues; `eventDescriptor` is rung at each answer and stays open until after `stop`.
    init(capacity: Int, eventDescriptor: Int32) {
        unsafe lock = .allocate(capacity: 1)
        unsafe hasWork = .allocate(capacity: 1)
        _ = unsafe pthread_mutex_init(lock, nil)
        _ = unsafe pthread_cond_init(hasWork, nil)
        let blank = SlotID(index: 0, generation: 0)
        let somewhere = unsafe UnsafeMutablePointer<AllocationRun>(bitPattern: 8)
        guard let somewhere = unsafe somewhere else { invariantFailed("8 is not the null pointer") }
        queries = unsafe BoundedQueue(
            capacity: capacity,
            blank: Query(
                id: blank,
                descriptor: -1,
                start: 0,
                end: 0,
                blockByteCount: 1,
                runs: somewhere,
                runCapacity: 0
            )
        )
        answers = BoundedQueue(capacity: capacity, blank: Answer(id: blank, runCount: 0, errorNumber: 0))
        self.eventDescriptor = eventDescriptor
    }

    deinit {
        _ = unsafe pthread_cond_destroy(hasWork)
        _ = unsafe pthread_mutex_destroy(lock)
        unsafe hasWork.deallocate()
        unsafe lock.deallocate()
    }

    /// Takes a query; called by the loop, returns at once.
    func enqueue(_ query: Query) {
        _ = unsafe pthread_mutex_lock(lock)
        queries.append(query)
        _ = unsafe pthread_cond_signal(hasWork)
        _ = unsafe pthread_mutex_unlock(lock)
    }

    /// An answer that has not been taken yet; one atomic load when there is none.
    func popAnswer() -> Answer? {
        guard answerCount.load(ordering: .acquiring) > 0 else { return nil }
        _ = unsafe pthread_mutex_lock(lock)
        let answer = answers.popFirst()
        _ = unsafe pthread_mutex_unlock(lock)
        if answer != nil { answerCount.subtract(1, ordering: .relaxed) }
        return answer
    }

    /// Makes `run` return when the query at hand is answered.
    func stop() {
        _ = unsafe pthread_mutex_lock(lock)
        isStopping = true
        _ = unsafe pthread_cond_signal(hasWork)
        _ = unsafe pthread_mutex_unlock(lock)
    }

    /// The body of the worker's thread.
    func run() {
        while let query = nextQuery() {
            let answer = Self.answer(query)
            _ = unsafe pthread_mutex_lock(lock)
            answers.append(answer)
            _ = unsafe pthread_mutex_unlock(lock)
            answerCount.add(1, ordering: .releasing)
            ring(eventDescriptor: eventDescriptor)
        }
    }

    private func nextQuery() -> Query? {
        _ = unsafe pthread_mutex_lock(lock)
        defer { _ = unsafe pthread_mutex_unlock(lock) }
        while true {
            if isStopping { return nil }
            if let query = queries.popFirst() { return query }
            _ = unsafe pthread_cond_wait(hasWork, lock)
        }
    }

    /// Walks data and holes.
    ///
    /// A hole that does not fill whole blocks counts as data at its ends.
    private static func answer(_ query: Query) -> Answer {
        var count = 0
        var place = query.start
        let mask = query.blockByteCount &- 1
        while place < query.end && count < query.runCapacity {
            guard let data = seek(query.descriptor, place, repld_SEEK_DATA, orElse: query.end) else {
                if errno != EINVAL && errno != EOPNOTSUPP {
                    return Answer(id: query.id, runCount: 0, errorNumber: errno)
                }
                // This file system cannot tell: all of it may be data.
                unsafe query.runs[count] = AllocationRun(end: query.end, isHole: false)
                return Answer(id: query.id, runCount: UInt32(count + 1), errorNumber: 0)
            }
            let dataStart = data >= query.end ? query.end : max(data & ~mask, place)
            if dataStart > place {
                unsafe query.runs[count] = AllocationRun(end: dataStart, isHole: true)
                count += 1
                place = dataStart
                continue
            }
            guard let hole = seek(query.descriptor, place, repld_SEEK_HOLE, orElse: query.end) else {
                return Answer(id: query.id, runCount: 0, errorNumber: errno)
            }
            // A run is at least one block, so that the walk ends.
            let dataEnd = min(max((hole &+ mask) & ~mask, place &+ query.blockByteCount), query.end)
            unsafe query.runs[count] = AllocationRun(end: dataEnd, isHole: false)
            count += 1
            place = dataEnd
        }
        return Answer(id: query.id, runCount: UInt32(count), errorNumber: 0)
    }

    /// The place that `lseek` finds; behind the last data (ENXIO) it is `end`; `nil` with `errno` when it fails.
    private static func seek(_ descriptor: Int32, _ place: UInt64, _ what: Int32, orElse end: UInt64) -> UInt64? {
        let found = lseek(descriptor, off_t(place), what)
        if found >= 0 { return UInt64(found) }
        return errno == ENXIO ? end : nil
    }
}
