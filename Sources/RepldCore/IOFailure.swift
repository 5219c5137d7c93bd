/// Why an operation on an element failed, reduced to what repld decides by.
///
/// The platform maps the kernel's error numbers to these words; everything that the world can do to an element is here,
/// and an error number that would be our own mistake (EBADF, EFAULT) is an invariant there.
@usableFromInline
package enum IOFailure: UInt8, Error, Sendable, BitwiseCopyable, CaseIterable {
    /// The medium or the path to it failed (EIO and all that means the same).
    case inputOutput
    /// No room left, in the file system or the thin pool behind the element (ENOSPC, EDQUOT, EFBIG).
    case noSpace
    /// The element does not take writes (EROFS, EPERM, EACCES).
    case readOnly
    /// The element does not know this operation (EOPNOTSUPP, ENOSYS, ENOTTY).
    case notSupported
    /// The element refused the arguments, for instance their alignment (EINVAL).
    case invalidArgument
    /// The element, or the device behind it, is gone (ENXIO, ENODEV, ENOMEDIUM, ESHUTDOWN).
    case gone
    /// Nothing came back within the time limit; the operation may still take effect later.
    case timedOut
    /// The operation was withdrawn before it took effect.
    case cancelled
    /// The kernel had no memory for it (ENOMEM, EAGAIN for good).
    case noResources
    /// What it would have overwritten could not be kept; nothing was done.
    case notKept

    /// Words for a log line or a refusal.
    package var words: String {
        switch self {
        case .inputOutput: "input/output error"
        case .noSpace: "no space left"
        case .readOnly: "read-only"
        case .notSupported: "operation not supported"
        case .invalidArgument: "arguments refused"
        case .gone: "device gone"
        case .timedOut: "no answer within the time limit"
        case .cancelled: "cancelled"
        case .noResources: "out of kernel resources"
        case .notKept: "the peer could not keep what would have been overwritten"
        }
    }
}
