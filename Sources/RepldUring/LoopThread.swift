import CRepldLinux
import Glibc
import RepldCore

/// Why a thread could not be started.
package struct ThreadStartError: Error, Sendable, CustomStringConvertible {
    package let name: String
    package let errorNumber: Int32
    package var description: String { "thread \(name) could not be started: \(errorText(errorNumber))" }
}

/// A named thread that runs one loop from start to end.
///
/// The platform and the engine are made by the body, on the thread that they belong to. Signals are blocked on it, so that
/// the process's signal handling stays with the threads that expect it; faults (SIGSEGV and the like) are not.
@safe
package final class LoopThread: @unchecked Sendable {
    /// Enough for an engine's deepest call and a debug build's fat frames.
    package static let standardStackByteCount = 4 << 20
    package static let longestName = 15

    package let name: String
    private let thread: pthread_t
    private let lock: UnsafeMutablePointer<pthread_mutex_t>
    private var isJoined = false

    private final class Start {
        let name: String
        let body: @Sendable () -> Void
        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }

    /// Starts `body` on a thread called `name`, at most 15 bytes of UTF-8.
    package init(
        name: String,
        stackByteCount: Int = LoopThread.standardStackByteCount,
        body: @escaping @Sendable () -> Void
    ) throws(ThreadStartError) {
        invariant(name.utf8.count <= Self.longestName, "a thread name has at most 15 bytes")
        var attributes = pthread_attr_t()
        _ = unsafe pthread_attr_init(&attributes)
        defer { _ = unsafe pthread_attr_destroy(&attributes) }
        _ = unsafe pthread_attr_setstacksize(&attributes, stackByteCount)

        var blocked = sigset_t()
        var former = sigset_t()
        _ = unsafe sigfillset(&blocked)
        for fault in [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS] {
            _ = unsafe sigdelset(&blocked, fault)
        }
        _ = unsafe pthread_sigmask(SIG_BLOCK, &blocked, &former)
        defer { _ = unsafe pthread_sigmask(SIG_SETMASK, &former, nil) }

        let start = unsafe Unmanaged.passRetained(Start(name: name, body: body))
        var made = pthread_t()
        let result = unsafe pthread_create(
            &made,
            &attributes,
            { argument in
                guard let argument = unsafe argument else { return nil }
                let start = unsafe Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
                unsafe repld_name_this_thread(start.name)
                start.body()
                return nil
            },
            unsafe start.toOpaque()
        )
        guard result == 0 else {
            unsafe start.release()
            throw ThreadStartError(name: name, errorNumber: result)
        }
        self.name = name
        thread = made
        unsafe lock = .allocate(capacity: 1)
        _ = unsafe pthread_mutex_init(lock, nil)
    }

    /// A thread that nobody joined goes on by itself; its memory is given back when it ends.
    deinit {
        if !isJoined { _ = pthread_detach(thread) }
        _ = unsafe pthread_mutex_destroy(lock)
        unsafe lock.deallocate()
    }

    /// Waits until the body has returned.
    ///
    /// May be called more than once and from any thread but its own.
    package func join() {
        _ = unsafe pthread_mutex_lock(lock)
        defer { _ = unsafe pthread_mutex_unlock(lock) }
        guard !isJoined else { return }
        invariant(pthread_equal(pthread_self(), thread) == 0, "a thread does not wait for itself")
        _ = pthread_join(thread, nil)
        isJoined = true
    }
}
