import Glibc

/// Why an element could not be opened or made: which, what is wrong, and what would be right.
package struct ElementOpenError: Error, Sendable, Hashable, CustomStringConvertible {
    package enum Reason: Sendable, Hashable {
        case notFound
        case directory
        case neitherFileNorBlockDevice
        /// Not one block long, or for `create` a size that no file has.
        case empty
        case inUse(ElementHolder)
        case permissionDenied(isForWriting: Bool)
        /// The device or its file system takes no writes.
        case readOnly
        case exists
        /// Blocks larger than the 4096 bytes that buffers are aligned to.
        case blockTooLarge(byteCount: UInt32)
        /// Anything else that the kernel said, and while doing what.
        case system(step: String, errorNumber: Int32)
    }

    package let path: String
    package let reason: Reason

    package init(path: String, _ reason: Reason) {
        self.path = path
        if case .system(_, let number) = reason, let known = Self.reason(of: number) {
            self.reason = known
        } else {
            self.reason = reason
        }
    }

    private static func reason(of number: Int32) -> Reason? {
        switch number {
        case ENOENT, ENOTDIR: .notFound
        case EEXIST: .exists
        case EACCES, EPERM: .permissionDenied(isForWriting: true)
        case EROFS: .readOnly
        default: nil
        }
    }

    package var description: String {
        switch reason {
        case .notFound:
            "\(path): no such file or device; give the path of an existing file or block device"
        case .directory:
            "\(path) is a directory; give a file or a block device"
        case .neitherFileNorBlockDevice:
            "\(path) is neither a regular file nor a block device"
        case .empty:
            "\(path): the size is less than one block; an element has at least one"
        case .inUse(let holder):
            "\(path) is in use: \(holder)"
        case .permissionDenied(let isForWriting):
            "\(path): permission denied for \(isForWriting ? "writing" : "reading"); "
                + "check its owner and mode, or run repld as a user who may"
        case .readOnly:
            "\(path) is read-only; open it read-only, or make it writable"
        case .exists:
            "\(path) exists already; choose another name or remove it first"
        case .blockTooLarge(let byteCount):
            "\(path) has blocks of \(byteCount) bytes; repld takes up to 4096"
        case .system(let step, let number):
            "\(path): \(step) failed: \(errorText(number))"
        }
    }
}
