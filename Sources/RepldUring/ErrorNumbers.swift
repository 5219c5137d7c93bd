import Glibc
package import RepldCore

/// The system's words for an error number, with its number.
func errorText(_ number: Int32) -> String {
    guard let words = unsafe strerror(number) else { return "error \(number)" }
    return unsafe String(cString: words)
}

/// Reduces an error number of the kernel to what repld decides by.
///
/// Error numbers that only our own mistake can cause stop the process. EINTR and EAGAIN are re-issued by the platform
/// before they come here.
package func ioFailure(ofErrorNumber number: Int32) -> IOFailure {
    switch number {
    case ENOSPC, EDQUOT, EFBIG:
        return .noSpace
    case EROFS, EPERM, EACCES, ETXTBSY:
        return .readOnly
    case EOPNOTSUPP, ENOSYS, ENOTTY:
        return .notSupported
    case EINVAL:
        return .invalidArgument
    // The device, the file system or the other end of the stream went away.
    case ENXIO, ENODEV, ENOMEDIUM, ESHUTDOWN, ESTALE, ECONNRESET, ECONNABORTED, ECONNREFUSED, EPIPE, ENOTCONN,
        ENETDOWN, ENETUNREACH, ENETRESET, EHOSTDOWN, EHOSTUNREACH, EPROTO:
        return .gone
    case ETIMEDOUT, ETIME:
        return .timedOut
    case ECANCELED:
        return .cancelled
    case EAGAIN, EINTR, EBUSY, ENOMEM, ENOBUFS, EMFILE, ENFILE:
        return .noResources
    // A file system in user space may answer anything, also EBADF for a file that it has forgotten.
    case EBADF, ESPIPE, EISDIR:
        return .gone
    case EFAULT, ENOTSOCK, EDESTADDRREQ:
        invariantFailed("descriptors and memory are valid while an operation uses them")
    // EIO, and the block layer's finer words for it: EREMOTEIO (target), ENODATA (medium), EILSEQ (protection),
    // ENOLINK (transport), EBADE (reservation), EUCLEAN (file system). A number that nobody knows is no better.
    default:
        return .inputOutput
    }
}
