package import RepldEngine
internal import Synchronization

/// Events on their way from a data plane's thread to the control plane: so many wait, and more are dropped and counted.
///
/// Invariants:
/// - What was dropped is told by an `eventsLost` in the place where it would have been, also when nothing follows it.
/// - One consumer, and never an event and a consumer that wait for each other.
package final class EventQueue: Sendable {
    private struct State {
        /// Those before `head` have been given out: taking one out costs no move of the others, for which the loop would wait.
        var events: [EngineEvent] = []
        var head = 0
        /// Dropped behind the last event that waits, and not told yet.
        var lostCount: UInt64 = 0
        var isFinished = false
        var consumer: CheckedContinuation<EngineEvent?, Never>?

        var waitingCount: Int { events.count - head }

        mutating func next() -> EngineEvent? {
            guard head < events.count else { return takeLost() }
            let event = events[head]
            head += 1
            if head == events.count || head >= 1024 {
                events.removeFirst(head)
                head = 0
            }
            return event
        }

        mutating func takeLost() -> EngineEvent? {
            guard lostCount > 0 else { return nil }
            defer { lostCount = 0 }
            return EngineEvent(volume: nil, pair: nil, kind: .eventsLost(lostCount))
        }
    }

    private let limit: Int
    private let state = Mutex(State())

    package init(limit: Int) { self.limit = limit }

    /// What happens, in order; one consumer.
    package var stream: AsyncStream<EngineEvent> {
        AsyncStream(unfolding: { await self.next() }, onCancel: { self.finish() })
    }

    package func send(_ event: EngineEvent) {
        let consumer = state.withLock { state -> CheckedContinuation<EngineEvent?, Never>? in
            guard !state.isFinished else { return nil }
            defer { state.consumer = nil }
            if let consumer = state.consumer { return consumer }
            // Room for two: what was lost comes first.
            if state.waitingCount + (state.lostCount > 0 ? 2 : 1) > limit {
                state.lostCount += 1
            } else {
                if let lost = state.takeLost() { state.events.append(lost) }
                state.events.append(event)
            }
            return nil
        }
        consumer?.resume(returning: event)
    }

    /// No more comes; what waits is still given out.
    package func finish() {
        let consumer = state.withLock { state in
            state.isFinished = true
            defer { state.consumer = nil }
            return state.consumer
        }
        consumer?.resume(returning: nil)
    }

    private func next() async -> EngineEvent? {
        await withCheckedContinuation { continuation in
            let (event, isNow) = state.withLock { state -> (EngineEvent?, Bool) in
                if let event = state.next() { return (event, true) }
                if state.isFinished { return (nil, true) }
                state.consumer = continuation
                return (nil, false)
            }
            if isNow { continuation.resume(returning: event) }
        }
    }
}
