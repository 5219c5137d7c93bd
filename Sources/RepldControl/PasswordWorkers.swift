internal import Dispatch

/// Runs what hashes passwords, away from the threads that serve requests: few at a time, and few that wait.
///
/// Each takes a processor for a tenth of a second and tens of MiB, so their number is what an attacker can make the
/// daemon spend.
package actor PasswordWorkers {
    package static var runningMax: Int { 2 }
    /// Those of a second or so.
    package static var waitingMax: Int { 16 }

    private let queue = DispatchQueue(label: "repld.passwords", attributes: .concurrent)
    package private(set) var runningCount = 0
    private var waiting: [CheckedContinuation<Void, Never>] = []

    package init() {}

    package var waitingCount: Int { waiting.count }

    /// Runs `work` on a thread that may block, after those that came before.
    ///
    /// Throws `notEnoughResources` at once when too many wait, and what `work` throws.
    package func run<Result: Sendable>(
        _ work: @escaping @Sendable () throws(ControlError) -> Result
    ) async throws(ControlError) -> Result {
        try await enter()
        defer { leave() }
        let result = await withCheckedContinuation { (continuation: CheckedContinuation<Outcome<Result>, Never>) in
            queue.async {
                do throws(ControlError) {
                    continuation.resume(returning: .success(try work()))
                } catch {
                    continuation.resume(returning: .failure(error))
                }
            }
        }
        return try result.get()
    }

    private typealias Outcome<Value> = Swift.Result<Value, ControlError>

    private func enter() async throws(ControlError) {
        if runningCount < Self.runningMax {
            runningCount += 1
            return
        }
        guard waiting.count < Self.waitingMax else {
            throw ControlError(
                .notEnoughResources,
                "too many passwords are being checked: \(runningCount) now, and \(waiting.count) wait",
                suggestion: "try again in a few seconds"
            )
        }
        // Whoever leaves hands its place on, so that nobody overtakes.
        await withCheckedContinuation { waiting.append($0) }
    }

    private func leave() {
        if waiting.isEmpty {
            runningCount -= 1
        } else {
            waiting.removeFirst().resume()
        }
    }
}
