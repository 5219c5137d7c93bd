import Foundation
import Glibc

/// A file of a daemon that does not run, in which a test damages ranges of bytes.
///
/// It knows nothing of what the bytes mean, so it fits whatever the format becomes.
package struct DamagedFile {
    package let path: String

    package init(path: String) { self.path = path }

    /// What is done to a range.
    package enum Damage: Sendable {
        case zeroed
        /// One bit of the range is another, the bit with this number, counted from the first byte's lowest.
        case bitFlipped(Int)
        /// Behind its first bytes the range is as it was in an earlier content: a write that was cut off.
        case torn(earlier: [UInt8], keeping: Int)
        /// The bytes are those that another file has there.
        case replaced(with: [UInt8])
        /// The bytes mean nothing, and repeat with a period that no format has.
        case garbage(UInt8)
    }

    package func content() throws -> [UInt8] {
        guard let data = FileManager.default.contents(atPath: path) else { throw SystemCallFailed("read \(path)") }
        return Array(data)
    }

    /// Damages a range, of which what lies behind the end of the file is left out.
    package func damage(_ range: Range<Int>, _ damage: Damage) throws {
        var bytes = try content()
        let range = range.clamped(to: 0..<bytes.count)
        guard !range.isEmpty else { return }
        switch damage {
        case .zeroed:
            for place in range { bytes[place] = 0 }
        case .bitFlipped(let number):
            let bit = number % (range.count * 8)
            bytes[range.lowerBound + bit / 8] ^= 1 << UInt8(bit % 8)
        case .torn(let earlier, let kept):
            for place in range.dropFirst(kept) where place < earlier.count { bytes[place] = earlier[place] }
        case .replaced(let other):
            for place in range where place < other.count { bytes[place] = other[place] }
        case .garbage(let seed):
            for place in range { bytes[place] = UInt8(truncatingIfNeeded: place % 251) &+ seed }
        }
        try write(bytes)
    }

    /// Cuts the file off.
    package func truncate(to byteCount: Int) throws {
        guard Glibc.truncate(path, off_t(byteCount)) == 0 else { throw SystemCallFailed("truncate \(path)") }
    }

    package func write(_ bytes: [UInt8]) throws {
        // In place: whoever holds the file sees the same one.
        let descriptor = open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw SystemCallFailed("open \(path)") }
        defer { close(descriptor) }
        guard pwrite(descriptor, bytes, bytes.count, 0) == bytes.count, fsync(descriptor) == 0 else {
            throw SystemCallFailed("write \(path)")
        }
    }
}

extension Daemon {
    /// The metadata of the daemon's pairs, by their ids.
    package func metadataFiles() throws -> [DamagedFile] {
        let folder = stateDirectory + "/pairs"
        let names = try FileManager.default.contentsOfDirectory(atPath: folder)
        return names.filter { $0.hasSuffix(".meta") }.sorted().map { DamagedFile(path: "\(folder)/\($0)") }
    }
}
