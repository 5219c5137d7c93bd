import Foundation
import Glibc

/// A file system in memory that a test can fill to the last byte, and make room on again.
package struct SmallFileSystem: Sendable {
    /// Where it is mounted.
    package let folder: String

    private var ballast: String { "\(folder)/ballast" }

    /// Takes all the room that is left, but for this many bytes.
    package func fill(leaving freeByteCount: Int = 0) throws {
        let descriptor = open(ballast, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw SystemCallFailed("open \(ballast)") }
        defer { close(descriptor) }
        let chunk = [UInt8](repeating: 0x5A, count: 65536)
        var count = chunk.count
        while count > 0 {
            if write(descriptor, chunk, count) > 0 { continue }
            guard errno == ENOSPC else { throw SystemCallFailed("write \(ballast)") }
            count /= 2
        }
        guard freeByteCount > 0 else { return }
        var record = stat()
        guard fstat(descriptor, &record) == 0, ftruncate(descriptor, record.st_size - off_t(freeByteCount)) == 0 else {
            throw SystemCallFailed("shorten \(ballast)")
        }
    }

    /// Gives the room back.
    package func makeRoom() throws {
        guard unlink(ballast) == 0 else { throw SystemCallFailed("unlink \(ballast)") }
    }
}

extension TestBed {
    /// Mounts a file system that holds no more than this.
    package func smallFileSystem(_ name: String, byteCount: UInt64) throws -> SmallFileSystem {
        let folder = path(name)
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
        try runs("mount", ["-t", "tmpfs", "-o", "size=\(byteCount),mode=700", "tmpfs", folder])
        onCleanup("unmount \(folder)") { [unowned self] in
            // A killed daemon's ring lets go of its files a little later.
            try runs("umount", ["--lazy", folder])
        }
        return SmallFileSystem(folder: folder)
    }
}
