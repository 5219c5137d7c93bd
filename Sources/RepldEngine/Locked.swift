internal import Glibc
internal import RepldCore

/// A value behind a lock, shared between the loop and other threads.
///
/// Over `pthread_mutex` and not `Synchronization.Mutex`, because the thread sanitizer reports the latter falsely.
/// Never taken on the per-request path.
@safe
package final class Locked<Value: ~Copyable>: @unchecked Sendable {
    private var value: Value
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>

    package init(_ value: consuming sending Value) {
        self.value = value
        unsafe mutex = .allocate(capacity: 1)
        unsafe mutex.initialize(to: pthread_mutex_t())
        let result = unsafe pthread_mutex_init(mutex, nil)
        invariant(result == 0, "a mutex can be made")
    }

    deinit {
        unsafe pthread_mutex_destroy(mutex)
        unsafe mutex.deallocate()
    }

    /// Runs `body` with the lock held; it must not block.
    package func withLock<Result, Failure: Error>(
        _ body: (inout Value) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let locked = unsafe pthread_mutex_lock(mutex)
        invariant(locked == 0, "a mutex is taken by a thread that does not hold it")
        defer { unsafe pthread_mutex_unlock(mutex) }
        return try body(&value)
    }
}
