internal import CRepldLinux
internal import Glibc

/// Why a metadata area could not be read: where, what is wrong, and what would be right.
package struct MetadataFileError: Error, Sendable, Hashable, CustomStringConvertible {
    package enum Reason: Sendable, Hashable {
        /// Somebody, most likely the daemon, holds it.
        case inUse
        case notAFile
        case behindTheEnd(offset: UInt64, byteCount: UInt64)
        /// It was looked for an area in so many bytes at the end.
        case noArea(scannedByteCount: UInt64)
        case severalAreas(offsets: [UInt64])
        case system(step: String, errorNumber: Int32)
    }

    package let path: String
    package let reason: Reason

    package var description: String {
        switch reason {
        case .inUse:
            "\(path) is in use: a daemon that runs changes what is there; stop it, or use --force to read it as it is now"
        case .notAFile:
            "\(path) is neither a regular file nor a block device"
        case .behindTheEnd(let offset, let byteCount):
            "\(path) has \(byteCount) bytes: nothing is at offset \(offset)"
        case .noArea(let count):
            "\(path) has no pair's record in its last \(count) bytes; say with --offset where the area begins"
        case .severalAreas(let offsets):
            "\(path) has several areas; choose one: \(offsets.map { "--offset \($0)" }.joined(separator: ", "))"
        case .system(let step, let number):
            "\(path): \(step) failed: \(unsafe String(cString: strerror(number)))"
        }
    }
}

/// A file or a block device that metadata is read from, and held meanwhile, so that no daemon starts to use it.
package struct MetadataFile: ~Copyable {
    package let path: String
    package let byteCount: UInt64
    private let descriptor: Int32

    /// Opens `path` for reading; refused while somebody holds it, unless `isForced`.
    package init(path: String, isForced: Bool = false) throws(MetadataFileError) {
        var facts = repld_file_facts()
        guard unsafe repld_file_facts_of_path(path, &facts) == 0 else {
            throw MetadataFileError(path: path, reason: .system(step: "finding it", errorNumber: errno))
        }
        let isBlockDevice = facts.kind == Int32(REPLD_KIND_BLOCK.rawValue)
        guard isBlockDevice || facts.kind == Int32(REPLD_KIND_REGULAR.rawValue) else {
            throw MetadataFileError(path: path, reason: .notAFile)
        }
        // O_EXCL claims a block device, as the daemon and the kernel's mounts do; it means nothing for a file.
        let claim = isBlockDevice && !isForced ? O_EXCL : 0
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | claim)
        guard descriptor >= 0 else { throw Self.error(path, "opening it") }
        do throws(MetadataFileError) {
            if !isForced { try Self.hold(descriptor, path) }
            byteCount = isBlockDevice ? try Self.deviceByteCount(descriptor, path) : facts.byte_count
        } catch {
            _ = close(descriptor)
            throw error
        }
        self.path = path
        self.descriptor = descriptor
    }

    deinit {
        // The lock goes with the last descriptor.
        _ = close(descriptor)
    }

    private static func error(_ path: String, _ step: String) -> MetadataFileError {
        let number = errno
        return MetadataFileError(
            path: path,
            reason: number == EBUSY || number == EWOULDBLOCK ? .inUse : .system(step: step, errorNumber: number)
        )
    }

    private static func hold(_ descriptor: Int32, _ path: String) throws(MetadataFileError) {
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            guard errno == EINTR else { throw error(path, "locking it") }
        }
    }

    private static func deviceByteCount(_ descriptor: Int32, _ path: String) throws(MetadataFileError) -> UInt64 {
        var facts = repld_block_device_facts()
        guard unsafe repld_block_device_facts(descriptor, &facts) == 0 else { throw error(path, "asking for its size") }
        return facts.byte_count
    }

    /// Reads what is there of `byteCount` bytes from `offset` on.
    package func read(from offset: UInt64, byteCount: UInt64) throws(MetadataFileError) -> [UInt8] {
        guard offset < self.byteCount else {
            throw MetadataFileError(path: path, reason: .behindTheEnd(offset: offset, byteCount: self.byteCount))
        }
        var bytes = [UInt8](repeating: 0, count: Int(min(byteCount, self.byteCount - offset)))
        var done = 0
        while done < bytes.count {
            let rest = bytes.count - done
            let count = unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe pread(descriptor, buffer.baseAddress.map { unsafe $0 + done }, rest, off_t(offset) + off_t(done))
            }
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw Self.error(path, "reading it") }
            guard count > 0 else { break }
            done += count
        }
        bytes.removeLast(bytes.count - done)
        return bytes
    }
}
