import CRepldLinux
import Glibc
package import RepldCore

/// An element that is open and held exclusively: a regular file or a block device.
///
/// Opened by the control plane on any thread (it may take as long as the device takes), given to a loop, closed when the last
/// reference goes. Nobody else who asks for it exclusively gets it meanwhile: another repld, mkfs, mount.
package final class OpenElement: Sendable {
    package let path: String
    package let geometry: ElementGeometry
    package let isBlockDevice: Bool
    /// Bytes at the end of a file that do not fill a block; they are left alone.
    package let unusedTailByteCount: UInt64
    let descriptor: Int32

    private init(owning descriptor: Int32, path: String, facts: ElementFacts) {
        self.descriptor = descriptor
        self.path = path
        geometry = facts.geometry
        isBlockDevice = facts.isBlockDevice
        unusedTailByteCount = facts.unusedTailByteCount
    }

    deinit {
        // Explicitly: a table of registered files may keep the file itself a moment longer.
        _ = flock(descriptor, LOCK_UN)
        _ = Glibc.close(descriptor)
    }

    /// Words for an operator about what was found, when there is something to say.
    package var remark: String? {
        if unusedTailByteCount > 0 {
            return "\(path): the last \(unusedTailByteCount) bytes do not fill a block of "
                + "\(geometry.logicalBlockByteCount) and are not used"
        }
        return geometry.isDirect ? nil : "\(path): no direct I/O here; transfers go through the page cache"
    }

    /// Opens the file or block device at `path` and takes hold of it.
    ///
    /// - Parameters:
    ///   - path: a regular file or a block device; symbolic links are followed.
    ///   - readOnly: opens for reading; an element that takes no writes is otherwise refused.
    ///   - direct: whether to bypass the page cache where the element can; without, never.
    /// - Returns: the element, held until its last reference goes.
    /// - Throws: `ElementOpenError`, with what is wrong and, when it is in use, by whom.
    package static func open(
        path: String,
        readOnly: Bool,
        direct: Bool = true
    ) throws(ElementOpenError) -> OpenElement {
        var named = repld_file_facts()
        guard unsafe repld_file_facts_of_path(path, &named) == 0 else {
            throw ElementOpenError(path: path, .system(step: "finding it", errorNumber: errno))
        }
        let isBlockDevice = try checkKind(named, path)
        let descriptor = try openDescriptor(path, readOnly, isBlockDevice, direct)
        do throws(ElementOpenError) {
            try lock(descriptor, path)
            let facts = try ElementFacts.find(descriptor, path, isReadOnly: readOnly)
            return OpenElement(owning: descriptor, path: path, facts: facts)
        } catch {
            _ = Glibc.close(descriptor)
            throw error
        }
    }

    /// Opens an element as `open` does, and waits a while for a holder that cannot be named: blocks the thread.
    ///
    /// The elements of a killed daemon are held for some milliseconds after its end, until the kernel has ended its ring, by
    /// nobody who could be seen. Whoever starts a daemon again at once is not to find its volumes in use.
    package static func open(
        path: String,
        readOnly: Bool,
        waitingForNobody limit: Duration
    ) throws(ElementOpenError) -> OpenElement {
        let end = ContinuousClock.now + limit
        while true {
            do throws(ElementOpenError) {
                return try open(path: path, readOnly: readOnly)
            } catch {
                guard error.reason == .inUse(.unknown), ContinuousClock.now < end else { throw error }
            }
            usleep(20_000)
        }
    }

    /// Whether a path leads to this element now.
    package func isSame(asPath path: String) -> Bool {
        var own = repld_file_facts()
        var other = repld_file_facts()
        guard unsafe repld_file_facts_of_descriptor(descriptor, &own) == 0,
            unsafe repld_file_facts_of_path(path, &other) == 0, own.kind == other.kind
        else { return false }
        if isBlockDevice { return own.own_major == other.own_major && own.own_minor == other.own_minor }
        return own.device_major == other.device_major && own.device_minor == other.device_minor
            && own.inode == other.inode
    }

    /// How large it is now, where `geometry` says how large it was when it was opened; `nil` when it does not say.
    package var currentByteCount: UInt64? { ElementFacts.byteCount(descriptor) }

    /// Makes a sparse file of `byteCount` bytes that reads as zeroes, readable and writable by its owner only, durably
    /// named in its directory.
    ///
    /// Refused when something of that name exists.
    package static func create(path: String, byteCount: UInt64) throws(ElementOpenError) {
        guard byteCount > 0, byteCount <= UInt64(Int64.max) else {
            throw ElementOpenError(path: path, .empty)
        }
        let descriptor = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw ElementOpenError(path: path, .system(step: "creating it", errorNumber: errno))
        }
        defer { _ = Glibc.close(descriptor) }
        guard ftruncate(descriptor, off_t(byteCount)) == 0, fsync(descriptor) == 0 else {
            let number = errno
            _ = unsafe unlink(path)
            throw ElementOpenError(path: path, .system(step: "giving it its size", errorNumber: number))
        }
        // The name is durable only when the directory is.
        let directory = unsafe Glibc.open(directoryName(of: path), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { return }
        _ = fsync(directory)
        _ = Glibc.close(directory)
    }

    private static func checkKind(_ facts: repld_file_facts, _ path: String) throws(ElementOpenError) -> Bool {
        switch UInt32(facts.kind) {
        case REPLD_KIND_BLOCK.rawValue: return true
        case REPLD_KIND_REGULAR.rawValue: return false
        case REPLD_KIND_DIRECTORY.rawValue: throw ElementOpenError(path: path, .directory)
        default: throw ElementOpenError(path: path, .neitherFileNorBlockDevice)
        }
    }

    private static func openDescriptor(
        _ path: String,
        _ readOnly: Bool,
        _ isBlockDevice: Bool,
        _ direct: Bool
    ) throws(ElementOpenError) -> Int32 {
        var flags = O_CLOEXEC | O_NOCTTY | (readOnly ? O_RDONLY : O_RDWR)
        // On a block device O_EXCL without O_CREAT claims it: refused while mounted, in a RAID or claimed otherwise.
        if isBlockDevice { flags |= O_EXCL }
        var descriptor: Int32 = -1
        if direct { descriptor = unsafe Glibc.open(path, flags | repld_O_DIRECT) }
        if descriptor < 0 && (!direct || errno == EINVAL) { descriptor = unsafe Glibc.open(path, flags) }
        guard descriptor < 0 else { return descriptor }
        switch errno {
        case EBUSY: throw ElementOpenError(path: path, .inUse(ElementHolder.find(path)))
        case EROFS: throw ElementOpenError(path: path, .readOnly)
        case EACCES, EPERM: throw ElementOpenError(path: path, .permissionDenied(isForWriting: !readOnly))
        default: throw ElementOpenError(path: path, .system(step: "opening it", errorNumber: errno))
        }
    }

    private static func lock(_ descriptor: Int32, _ path: String) throws(ElementOpenError) {
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            switch errno {
            case EINTR: continue
            case EWOULDBLOCK:
                throw ElementOpenError(path: path, .inUse(ElementHolder.find(path, besides: descriptor)))
            default: throw ElementOpenError(path: path, .system(step: "locking it", errorNumber: errno))
            }
        }
    }
}

/// The directory part of a path; the working directory when there is none.
func directoryName(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
}
