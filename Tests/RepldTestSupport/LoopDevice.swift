import Foundation

/// A loop device of a test, detached at its end.
package struct LoopDevice: Sendable {
    /// `/dev/loopN`.
    package let path: String
    package let backingPath: String

    /// Loop devices whose backing file lies under a directory, as the kernel lists them.
    package static func devices(backedUnder directory: String) -> [String] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: "/sys/block")) ?? []
        return names.filter { $0.hasPrefix("loop") }.filter { name in
            let path = "/sys/block/\(name)/loop/backing_file"
            guard let backing = try? String(contentsOfFile: path, encoding: .utf8) else { return false }
            return backing.hasPrefix(directory + "/")
        }.map { "/dev/\($0)" }.sorted()
    }
}

extension TestBed {
    /// Attaches a file to a free loop device.
    package func loopDevice(
        backing: String,
        blockByteCount: Int = 512,
        isDirect: Bool = true,
        isReadOnly: Bool = false
    ) throws -> LoopDevice {
        let options =
            ["--find", "--show", "--direct-io=\(isDirect ? "on" : "off")", "--sector-size", "\(blockByteCount)"]
            + (isReadOnly ? ["--read-only"] : [])
        let path = try runs("losetup", options + [backing]).trimmingCharacters(in: .whitespacesAndNewlines)
        let device = LoopDevice(path: path, backingPath: backing)
        onCleanup("detach \(path)") { [unowned self] in
            try runs("losetup", ["--detach", path])
            // The kernel detaches when the last user lets go; the ring of a killed daemon does so a little later.
            let isGone = try Deadline(after: .hang).reaches { [unowned self] in
                !LoopDevice.devices(backedUnder: directory).contains(path)
            }
            if !isGone { throw CleanupFailed(description: "\(path) is still held: \(holders(of: path))") }
        }
        return device
    }

    /// Makes a sparse file and attaches it.
    package func loopDevice(_ name: String, byteCount: UInt64, blockByteCount: Int = 512) throws -> LoopDevice {
        try loopDevice(backing: file(name, byteCount: byteCount), blockByteCount: blockByteCount)
    }

    /// The processes that hold a device open.
    private func holders(of device: String) -> String {
        let processes = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        let holding = processes.filter { process in
            let folder = "/proc/\(process)/fd"
            let descriptors = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
            return descriptors.contains {
                (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\($0)")) == device
            }
        }
        return holding.isEmpty ? "by nobody seen" : "by process \(holding.joined(separator: ", "))"
    }

    /// Whether two files or devices of one size hold the same bytes.
    package func areEqual(_ left: String, _ right: String) throws -> Bool {
        let outcome = try run("cmp", [left, right], atMost: .seconds(300))
        guard outcome.isSuccess || outcome.ending == .exited(1) else { throw Outcome.Failed(description: "\(outcome)") }
        return outcome.isSuccess
    }

    /// Bytes that a file takes on disk.
    package func allocatedByteCount(of path: String) throws -> UInt64 {
        let blocks = try runs("stat", ["--format=%b", path]).trimmingCharacters(in: .whitespacesAndNewlines)
        guard let count = UInt64(blocks) else { throw Outcome.Failed(description: "stat said \(blocks)") }
        return count * 512
    }
}
