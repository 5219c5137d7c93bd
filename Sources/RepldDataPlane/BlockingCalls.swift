internal import Dispatch
internal import Synchronization

/// Calls that may hang in the kernel for ever: each on a thread that nobody waits for longer than a limit.
///
/// A thread that hangs is lost until the kernel gives it back: so there is one for each subject, and not one for each attempt.
package final class BlockingCalls: Sendable {
    private let limit: Duration
    private let hanging = Mutex<Set<String>>([])

    package init(limit: Duration) { self.limit = limit }

    /// What the call gives; `nil` where it does not come back in time, or an earlier one has not come back yet.
    package func call<Value: Sendable>(
        on subject: String,
        _ body: @escaping @Sendable () -> Value
    ) async -> Value? {
        guard !hanging.withLock({ $0.contains(subject) }) else { return nil }
        return await withCheckedContinuation { continuation in
            let answer = Answer(continuation)
            let timer = Task {
                do { try await Task.sleep(for: limit) } catch { return }
                hanging.withLock { _ = $0.insert(subject) }
                if !answer.give(nil) { forget(subject) }
            }
            DispatchQueue.global().async {
                let value = body()
                timer.cancel()
                // Too late: what was opened is closed again.
                if !answer.give(value) { self.forget(subject) }
            }
        }
    }

    private func forget(_ subject: String) { hanging.withLock { _ = $0.remove(subject) } }

    /// The first answer counts.
    private final class Answer<Value: Sendable>: Sendable {
        private let continuation: Mutex<CheckedContinuation<Value?, Never>?>

        init(_ continuation: CheckedContinuation<Value?, Never>) { self.continuation = Mutex(continuation) }

        /// False where another one was given before.
        func give(_ value: Value?) -> Bool {
            let waiting = continuation.withLock { continuation in
                defer { continuation = nil }
                return continuation
            }
            waiting?.resume(returning: value)
            return waiting != nil
        }
    }
}
