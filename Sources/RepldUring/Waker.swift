import CRepldLinux
import Glibc
import RepldCore
import RepldEngine
import Synchronization

/// Rouses the loop of one `UringPlatform` from any thread, also from a signal handler: one atomic exchange, and one
/// write to an eventfd when the loop does not know yet.
///
/// It may outlive the platform: the descriptor is its own.
package final class UringWaker: Waker, Sendable {
    /// Readable when somebody has called `wake`.
    let descriptor: Int32
    private let isPending = Atomic<Bool>(false)

    /// Takes over `descriptor`, an eventfd that nobody else closes.
    init(owning descriptor: Int32) { self.descriptor = descriptor }

    deinit { _ = close(descriptor) }

    package func wake() {
        if isPending.exchange(true, ordering: .sequentiallyConsistent) { return }
        ring(eventDescriptor: descriptor)
    }

    /// Whether `wake` was called since this was last asked.
    ///
    /// What was done before that `wake` is visible afterwards.
    func takePending() -> Bool { isPending.exchange(false, ordering: .sequentiallyConsistent) }
}

/// Adds one to an eventfd.
///
/// It cannot fail but by our mistake, or block: nobody counts to 2^64.
func ring(eventDescriptor: Int32) {
    var one: UInt64 = 1
    while true {
        let written = unsafe write(eventDescriptor, &one, 8)
        if written == 8 || errno != EINTR { return }
    }
}
