internal import CRepldLinux
internal import Glibc
internal import RepldCore

/// What the system said when a part of an element could not be read or written.
package struct ElementPartError: Error, Hashable, Sendable, CustomStringConvertible {
    package let step: String
    package let errorNumber: Int32

    package var description: String { "\(step) failed: \(unsafe String(cString: strerror(errorNumber)))" }
}

/// A file or device of which a part is read and written, while a loop may have the rest.
///
/// Past the page cache, as the loop does it: what the cache holds of an element is older than what the loop has written. Only
/// where an element takes no direct I/O, both go through the cache. It is not held: who has it is for others to know.
package struct ElementPart: ~Copyable {
    private static var alignment: Int { 4096 }
    /// Read or written at once.
    private static var stepByteCount: Int { 1 << 20 }

    private let descriptor: Int32

    package init(path: String, isForWriting: Bool) throws(ElementPartError) {
        let flags = O_CLOEXEC | O_NOCTTY | (isForWriting ? O_RDWR : O_RDONLY)
        var descriptor = unsafe open(path, flags | repld_O_DIRECT)
        if descriptor < 0 && errno == EINVAL { descriptor = unsafe open(path, flags) }
        guard descriptor >= 0 else { throw ElementPartError(step: "opening it", errorNumber: errno) }
        self.descriptor = descriptor
    }

    deinit { _ = Glibc.close(descriptor) }

    /// Reads `byteCount` bytes; both numbers are multiples of 4096.
    package func read(from offset: UInt64, byteCount: Int) throws(ElementPartError) -> [UInt8] {
        Self.check(offset, byteCount)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.stepByteCount, alignment: Self.alignment)
        defer { unsafe memory.deallocate() }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(byteCount)
        while bytes.count < byteCount {
            let wanted = min(byteCount - bytes.count, Self.stepByteCount)
            let count = unsafe pread(descriptor, memory.baseAddress, wanted, off_t(offset) + off_t(bytes.count))
            if count < 0 {
                if mayTryAgain() { continue }
                throw ElementPartError(step: "reading it", errorNumber: errno)
            }
            unsafe bytes.append(contentsOf: memory.prefix(count))
            // The element ends before; from the midst of a block direct I/O cannot go on.
            guard count == wanted else { throw ElementPartError(step: "reading it to its end", errorNumber: ENXIO) }
        }
        return bytes
    }

    /// Writes whole blocks of 4096 bytes; they are on stable storage when it returns.
    package func write(_ bytes: [UInt8], at offset: UInt64) throws(ElementPartError) {
        Self.check(offset, bytes.count)
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: Self.alignment)
        defer { unsafe memory.deallocate() }
        unsafe memory.copyBytes(from: bytes)
        var done = 0
        while done < bytes.count {
            let rest = unsafe memory.baseAddress?.advanced(by: done)
            let count = unsafe pwrite(descriptor, rest, bytes.count - done, off_t(offset) + off_t(done))
            if count < 0 {
                if mayTryAgain() { continue }
                throw ElementPartError(step: "writing it", errorNumber: errno)
            }
            done += count
        }
        guard fsync(descriptor) == 0 else { throw ElementPartError(step: "making it durable", errorNumber: errno) }
    }

    private static func check(_ offset: UInt64, _ byteCount: Int) {
        invariant(
            offset % UInt64(alignment) == 0 && byteCount % alignment == 0 && byteCount > 0,
            "a part of an element is made of whole blocks"
        )
    }

    /// After an error: whether it was a signal, or a file that takes direct I/O only when it is opened.
    private func mayTryAgain() -> Bool {
        let number = errno
        if number == EINTR { return true }
        let flags = fcntl(descriptor, F_GETFL)
        guard number == EINVAL, flags & repld_O_DIRECT != 0 else {
            errno = number
            return false
        }
        return fcntl(descriptor, F_SETFL, flags & ~repld_O_DIRECT) == 0
    }
}
