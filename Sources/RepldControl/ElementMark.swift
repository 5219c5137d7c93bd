internal import CRepldLinux
internal import Foundation

/// What an element was when it was last opened, so that another one in its place is not taken for it.
///
/// A file keeps its inode and the time of its making when it is renamed; a copy that was put back from a backup has others.
/// The number of the device that holds a file is not kept: it changes from one start of the machine to the next.
package struct ElementMark: Codable, Hashable, Sendable {
    package var byteCount: UInt64
    package var isBlockDevice: Bool
    /// Of a file.
    package var inode: UInt64?
    /// When the file was made, in seconds and nanoseconds since 1970, where its file system knows.
    package var madeAt: String?
    /// The file system that holds the file, where it has a number that stays.
    package var fileSystem: String?
    /// What the kernel knows a block device by that stays: a serial number, the file of a loop device.
    package var device: String?

    /// What lies at a path now; `nil` when nothing does that could be an element.
    package static func find(_ path: String) -> ElementMark? {
        var found = repld_file_identity()
        guard unsafe repld_file_identity_of_path(path, &found) == 0 else { return nil }
        if found.is_block_device { return ofDevice("/sys/dev/block/\(found.own_major):\(found.own_minor)") }
        guard found.is_regular else { return nil }
        var mark = ElementMark(byteCount: found.byte_count, isBlockDevice: false)
        mark.inode = found.inode
        if found.birth_seconds != 0 || found.birth_nanoseconds != 0 {
            mark.madeAt = "\(found.birth_seconds).\(found.birth_nanoseconds)"
        }
        let number = unsafe withUnsafeBytes(of: found.file_system) { unsafe Array($0) }
        if number.contains(where: { $0 != 0 }) {
            mark.fileSystem = number.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        }
        return mark
    }

    private init(byteCount: UInt64, isBlockDevice: Bool) {
        self.byteCount = byteCount
        self.isBlockDevice = isBlockDevice
    }

    private static func ofDevice(_ folder: String) -> ElementMark? {
        guard let units = text(folder, "size").flatMap({ UInt64($0) }) else { return nil }
        var mark = ElementMark(byteCount: units * 512, isBlockDevice: true)
        if let partition = text(folder, "partition") {
            mark.device = device(folder + "/..").map { "\($0), partition \(partition)" }
        } else {
            mark.device = device(folder)
        }
        return mark
    }

    private static func device(_ folder: String) -> String? {
        let names = [
            "dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial", "loop/backing_file",
        ]
        for name in names {
            if let text = text(folder, name) { return "\(name) \(text)" }
        }
        return nil
    }

    private static func text(_ folder: String, _ name: String) -> String? {
        guard let text = try? String(contentsOfFile: "\(folder)/\(name)", encoding: .utf8) else { return nil }
        let trimmed = text.trimmingCharacters(in: .whitespacesAndNewlines)
        return trimmed.isEmpty ? nil : trimmed
    }

    /// Whether this may be the same element at another time, whatever its size; what is not known tells nothing.
    package func isSame(as other: ElementMark) -> Bool {
        func mayBeEqual<Value: Equatable>(_ left: Value?, _ right: Value?) -> Bool {
            left == nil || right == nil || left == right
        }
        return isBlockDevice == other.isBlockDevice && mayBeEqual(inode, other.inode)
            && mayBeEqual(madeAt, other.madeAt) && mayBeEqual(fileSystem, other.fileSystem)
            && mayBeEqual(device, other.device)
    }

    /// Words for an operator: what kind, how large, and what it is known by.
    package var words: String {
        var words = "\(isBlockDevice ? "a block device" : "a file") of \(OperationWords.bytes(byteCount))"
        if let device { words += ", \(device)" }
        if let inode { words += ", inode \(inode)" }
        if let seconds = madeAt?.split(separator: ".").first.flatMap({ Double($0) }) {
            words += ", made \(Date(timeIntervalSince1970: seconds).formatted(.iso8601))"
        }
        if let fileSystem { words += ", on file system \(fileSystem)" }
        return words
    }
}
