import CRepldLinux
import Glibc
import RepldCore
import RepldEngine
import Synchronization

/// A thread that connects to peers and has them prove who they are, for one loop.
///
/// Life of a request: `enqueue` by the loop → an `Admission`, which the thread takes from step to step as its descriptor
/// becomes ready → `popAnswer` by the loop, after the eventfd was rung. One thread does all of them: none blocks it, and a
/// peer that never speaks costs a place until its time is over. `capacity` bounds the places for those who connect here and
/// for those whom we connect to, each. Of the former the oldest makes way for a new one.
final class Admitter {
    private let shared: AdmitterQueues
    private let thread: LoopThread
    private var hasEnded = false

    /// Starts the thread; `eventDescriptor` is rung at each answer and stays open until after `end`.
    init(capacity: Int, timeNanoseconds: UInt64, eventDescriptor: Int32) throws {
        let wakeDescriptor = repld_eventfd()
        guard wakeDescriptor >= 0 else { throw UringSetupError(step: "making an eventfd", errorNumber: errno) }
        let shared = AdmitterQueues(
            waker: UringWaker(owning: wakeDescriptor),
            eventDescriptor: eventDescriptor,
            requestCountMax: 4 * capacity
        )
        self.shared = shared
        thread = try LoopThread(name: "repld-peers", stackByteCount: 512 << 10) {
            AdmissionLoop(shared, capacity: capacity, timeNanoseconds: timeNanoseconds).run()
        }
    }

    deinit { end() }

    /// Takes a request; false when more wait than can be looked at soon.
    func enqueue(_ request: AdmissionRequest) -> Bool { shared.enqueue(request) }

    /// An answer that has not been taken yet; one atomic load when there is none.
    func popAnswer() -> AdmissionAnswer? { shared.popAnswer() }

    /// Ends the thread at once, and closes all that it had, and the answers that nobody took.
    ///
    /// Only a look-up of a name under way goes on, and ends by itself.
    func end() {
        guard !hasEnded else { return }
        hasEnded = true
        shared.stop()
        thread.join()
        while let answer = shared.popAnswer() { answer.discard() }
        for request in shared.takeRest() {
            if case .accepted(let descriptor, _, _) = request { _ = close(descriptor) }
        }
    }
}

extension AdmissionAnswer {
    /// Closes what nobody wants.
    func discard() {
        session?.free()
        if descriptor >= 0 { _ = close(descriptor) }
    }
}

/// What the loop and the admitter's thread share.
private final class AdmitterQueues: Sendable {
    private struct State {
        var requests: [AdmissionRequest] = []
        var answers: [AdmissionAnswer] = []
        var isStopping = false

        mutating func takeRequests() -> [AdmissionRequest] {
            let taken = requests
            requests = []
            return taken
        }
    }

    let waker: UringWaker
    private let state = Locked(State())
    private let answerCount = Atomic<Int>(0)
    private let eventDescriptor: Int32
    private let requestCountMax: Int

    init(waker: UringWaker, eventDescriptor: Int32, requestCountMax: Int) {
        self.waker = waker
        self.eventDescriptor = eventDescriptor
        self.requestCountMax = requestCountMax
    }

    func enqueue(_ request: AdmissionRequest) -> Bool {
        let isTaken = state.withLock { state in
            guard state.requests.count < requestCountMax else { return false }
            state.requests.append(request)
            return true
        }
        if isTaken { waker.wake() }
        return isTaken
    }

    func popAnswer() -> AdmissionAnswer? {
        guard answerCount.load(ordering: .acquiring) > 0 else { return nil }
        answerCount.subtract(1, ordering: .relaxed)
        return state.withLock { $0.answers.removeFirst() }
    }

    func answer(_ answer: AdmissionAnswer) {
        state.withLock { $0.answers.append(answer) }
        answerCount.add(1, ordering: .releasing)
        ring(eventDescriptor: eventDescriptor)
    }

    func stop() {
        state.withLock { $0.isStopping = true }
        waker.wake()
    }

    /// All requests so far; `nil` when the thread is to end.
    func takeRequests() -> [AdmissionRequest]? { state.withLock { $0.isStopping ? nil : $0.takeRequests() } }

    /// The requests that the thread has not seen; after its end.
    func takeRest() -> [AdmissionRequest] { state.withLock { $0.takeRequests() } }
}

/// The admissions under way, and the thread's loop over them; oldest first.
private final class AdmissionLoop {
    private let shared: AdmitterQueues
    private let capacity: Int
    private let timeNanoseconds: UInt64
    private var admissions: [Admission] = []
    private var polls: [pollfd] = []

    init(_ shared: AdmitterQueues, capacity: Int, timeNanoseconds: UInt64) {
        self.shared = shared
        self.capacity = capacity
        self.timeNanoseconds = timeNanoseconds
    }

    func run() {
        while let requests = shared.takeRequests() {
            let now = monotonicNow()
            // Those that have something to say come before new ones, which may take their places.
            advance(now)
            for request in requests { begin(request, now) }
            wait()
        }
    }

    private func begin(_ request: AdmissionRequest, _ now: Instant) {
        let admission = Admission(request, deadline: now.advanced(byNanoseconds: timeNanoseconds))
        let isAccepted = admission.isAccepted
        if admissions.count(where: { $0.isAccepted == isAccepted }) >= capacity {
            guard isAccepted, let oldest = admissions.firstIndex(where: \.isAccepted) else {
                return end(admission, .refused(.noResources, words: "too many connections are being made"))
            }
            end(admissions.remove(at: oldest), .refused(.timedOut, words: "it was the slowest of too many at once"))
        }
        if let verdict = admission.begin(now: now, waker: shared.waker) {
            end(admission, verdict)
        } else {
            admissions.append(admission)
        }
    }

    private func advance(_ now: Instant) {
        admissions.removeAll { admission in
            guard let verdict = admission.advance(now: now) ?? admission.expire(now: now) else { return false }
            end(admission, verdict)
            return true
        }
    }

    private func end(_ admission: Admission, _ verdict: Admission.Verdict) {
        var answer: AdmissionAnswer
        let trouble: PeerTrouble
        switch admission.request {
        case .connect(let peer, let id):
            answer = AdmissionAnswer(id: id, isAccepted: false)
            trouble = peer.trouble
        case .accepted(_, let door, let id):
            answer = AdmissionAnswer(id: id, isAccepted: true)
            trouble = door.trouble
        }
        switch verdict {
        case .admitted:
            (answer.descriptor, answer.session) = admission.takeResult()
            if !answer.isAccepted { trouble.clear() }
        case .refused(let failure, let words):
            answer.failure = failure
            if admission.isAccepted, let other = SocketAddress.of(admission.descriptor, isOther: true) {
                trouble.add("\(other.words): \(words)")
            } else {
                trouble.add(words)
            }
            admission.discard()
        }
        shared.answer(answer)
    }

    /// Waits for a descriptor, a request, a name, or the end of somebody's time.
    private func wait() {
        polls.removeAll(keepingCapacity: true)
        polls.append(pollfd(fd: shared.waker.descriptor, events: Int16(POLLIN), revents: 0))
        var deadline = Instant(nanoseconds: .max)
        for admission in admissions {
            deadline = min(deadline, admission.nextDeadline)
            // A negative descriptor is passed over.
            polls.append(pollfd(fd: admission.descriptor, events: admission.events, revents: 0))
        }
        let left = deadline.nanoseconds(since: monotonicNow())
        // Rounded up, so that the time is over afterwards.
        let milliseconds = deadline.nanoseconds == .max ? -1 : Int32(clamping: left / 1_000_000 + 1)
        _ = unsafe poll(&polls, nfds_t(polls.count), milliseconds)
        guard polls[0].revents != 0 else { return }
        var count: UInt64 = 0
        _ = unsafe read(shared.waker.descriptor, &count, 8)
        _ = shared.waker.takePending()
    }
}
