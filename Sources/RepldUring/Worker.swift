import CRepldLinux
import Glibc
import RepldCore
import Synchronization

/// Work that is no business of the loop, because it takes a core's time or waits for a disk.
///
/// What it refers to (an open element, memory) stays as it is until its answer was taken: the job counts as an operation in
/// flight.
protocol WorkerJob: BitwiseCopyable, SendableMetatype {
    /// The operation that ends with the job.
    var id: SlotID { get }

    /// Fills the empty places of a queue.
    static var blank: Self { get }

    /// Does the work, on the worker's thread.
    func carryOut() -> WorkerAnswer
}

/// The end of a job.
struct WorkerAnswer: BitwiseCopyable {
    var id: SlotID
    /// What the operation's completion carries.
    var count: UInt32
    var errorNumber: Int32 = 0
}

/// A thread that does jobs of one kind for one loop, in the order of asking.
///
/// Life of a job: `enqueue` by the loop → carried out by the thread → `popAnswer` by the loop, after the eventfd was rung.
/// Both queues hold as many jobs as the platform holds operations, so neither overflows, and no job allocates. The memory
/// of a job is handed over and back under the queues' lock, so that each side sees what the other wrote.
final class Worker<Job: WorkerJob> {
    private let queues: WorkerQueues<Job>
    private let thread: LoopThread
    private var hasEnded = false

    /// Starts the thread; `eventDescriptor` is rung at each answer and stays open until after `end`.
    init(name: String, capacity: Int, eventDescriptor: Int32) throws(ThreadStartError) {
        let queues = WorkerQueues<Job>(capacity: capacity, eventDescriptor: eventDescriptor)
        self.queues = queues
        thread = try LoopThread(name: name, stackByteCount: 512 << 10) { queues.run() }
    }

    deinit { end() }

    /// Takes a job; called by the loop, returns at once.
    func enqueue(_ job: Job) { queues.enqueue(job) }

    /// An answer that has not been taken yet; one atomic load when there is none.
    func popAnswer() -> WorkerAnswer? { queues.popAnswer() }

    /// Waits for the job at hand and ends the thread; jobs that wait are never begun.
    ///
    /// Afterwards nothing of any job is looked at any more.
    func end() {
        guard !hasEnded else { return }
        hasEnded = true
        queues.stop()
        thread.join()
    }
}

/// What the loop and a worker's thread share.
@safe
private final class WorkerQueues<Job: WorkerJob>: @unchecked Sendable {
    private let lock: UnsafeMutablePointer<pthread_mutex_t>
    private let hasWork: UnsafeMutablePointer<pthread_cond_t>
    // Guarded by `lock`.
    private var jobs: BoundedQueue<Job>
    private var answers: BoundedQueue<WorkerAnswer>
    private var isStopping = false

    private let answerCount = Atomic<Int>(0)
    private let eventDescriptor: Int32

    init(capacity: Int, eventDescriptor: Int32) {
        unsafe lock = .allocate(capacity: 1)
        unsafe hasWork = .allocate(capacity: 1)
        _ = unsafe pthread_mutex_init(lock, nil)
        _ = unsafe pthread_cond_init(hasWork, nil)
        jobs = BoundedQueue(capacity: capacity, blank: Job.blank)
        answers = BoundedQueue(
            capacity: capacity,
            blank: WorkerAnswer(id: SlotID(index: 0, generation: 0), count: 0)
        )
        self.eventDescriptor = eventDescriptor
    }

    deinit {
        _ = unsafe pthread_cond_destroy(hasWork)
        _ = unsafe pthread_mutex_destroy(lock)
        unsafe hasWork.deallocate()
        unsafe lock.deallocate()
    }

    func enqueue(_ job: Job) {
        _ = unsafe pthread_mutex_lock(lock)
        jobs.append(job)
        _ = unsafe pthread_mutex_unlock(lock)
        // Behind the lock: the thread that wakes up wants it.
        _ = unsafe pthread_cond_signal(hasWork)
    }

    func popAnswer() -> WorkerAnswer? {
        guard answerCount.load(ordering: .acquiring) > 0 else { return nil }
        _ = unsafe pthread_mutex_lock(lock)
        let answer = answers.popFirst()
        _ = unsafe pthread_mutex_unlock(lock)
        if answer != nil { answerCount.subtract(1, ordering: .relaxed) }
        return answer
    }

    /// Makes `run` return when the job at hand is done.
    func stop() {
        _ = unsafe pthread_mutex_lock(lock)
        isStopping = true
        _ = unsafe pthread_mutex_unlock(lock)
        _ = unsafe pthread_cond_signal(hasWork)
    }

    /// The body of the thread.
    func run() {
        while let job = nextJob() {
            let answer = job.carryOut()
            _ = unsafe pthread_mutex_lock(lock)
            answers.append(answer)
            _ = unsafe pthread_mutex_unlock(lock)
            answerCount.add(1, ordering: .releasing)
            ring(eventDescriptor: eventDescriptor)
        }
    }

    private func nextJob() -> Job? {
        _ = unsafe pthread_mutex_lock(lock)
        defer { _ = unsafe pthread_mutex_unlock(lock) }
        while true {
            if isStopping { return nil }
            if let job = jobs.popFirst() { return job }
            _ = unsafe pthread_cond_wait(hasWork, lock)
        }
    }
}
