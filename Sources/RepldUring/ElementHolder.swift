import CRepldLinux
import Glibc

/// Who holds an element, as far as /proc and /sys tell.
package enum ElementHolder: Sendable, Hashable, CustomStringConvertible {
    /// It, or a partition of it (then by name), is mounted there.
    case mounted(at: String, partition: String?)
    case swap(partition: String?)
    /// Another block device is built on it: device-mapper, RAID, bcache.
    case blockDevice(name: String)
    /// Other processes, the one with the lowest number first, at most ``namedProcessCount``. Each of them has the element
    /// open; which of several holds it alone cannot be seen from outside (the kernel keeps no trace of O_EXCL).
    case processes([HoldingProcess])
    case thisProcess
    case unknown

    /// Processes that one refusal names at most.
    static let namedProcessCount = 4

    package var description: String {
        switch self {
        case .mounted(let path, nil): "mounted at \(path); unmount it first"
        case .mounted(let path, let partition?): "its partition \(partition) is mounted at \(path); unmount it first"
        case .swap(nil): "used as swap; run swapoff first"
        case .swap(let partition?): "its partition \(partition) is used as swap; run swapoff first"
        case .blockDevice(let name): "block device \(name) is built on it"
        case .processes(let processes): "held by " + processes.map(\.description).joined(separator: " or ")
        case .thisProcess: "this process holds it already"
        case .unknown: "somebody holds it who cannot be named from here"
        }
    }

    /// Looks for the holder of the element at `path`.
    ///
    /// Somebody may have let go meanwhile: then it is unknown. `own`: a descriptor of whoever looks, which holds nothing.
    static func find(_ path: String, besides own: Int32 = -1) -> ElementHolder {
        var facts = repld_file_facts()
        guard unsafe repld_file_facts_of_path(path, &facts) == 0 else { return .unknown }
        if facts.kind == Int32(REPLD_KIND_BLOCK.rawValue), let user = userOfDevice(facts) { return user }
        return lockHolder(facts) ?? opener(facts, besides: own) ?? .unknown
    }

    private static func userOfDevice(_ facts: repld_file_facts) -> ElementHolder? {
        let own = "\(facts.own_major):\(facts.own_minor)"
        var devices: [(number: String, partition: String?)] = [(own, nil)]
        let folder = "/sys/dev/block/\(own)"
        for name in names(inDirectory: folder) {
            guard contents(ofFile: "\(folder)/\(name)/partition") != nil,
                let number = contents(ofFile: "\(folder)/\(name)/dev")
            else { continue }
            devices.append((trimmed(number), name))
        }
        for device in devices {
            if let place = mountPoint(ofDevice: device.number) {
                return .mounted(at: place, partition: device.partition)
            }
            if isSwap(device.number) { return .swap(partition: device.partition) }
            if let holder = names(inDirectory: "/sys/dev/block/\(device.number)/holders").first {
                return .blockDevice(name: holder)
            }
        }
        return nil
    }

    /// /proc/self/mountinfo: `36 35 98:0 /root /mount/point options …`.
    private static func mountPoint(ofDevice number: String) -> String? {
        guard let table = contents(ofFile: "/proc/self/mountinfo") else { return nil }
        for line in table.split(separator: "\n") {
            let fields = line.split(separator: " ")
            if fields.count > 4 && fields[2] == number { return unescaped(fields[4]) }
        }
        return nil
    }

    /// Blanks and the like are three octal digits behind a backslash there.
    static func unescaped(_ text: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(text.utf8)[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3,
                let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func isSwap(_ number: String) -> Bool {
        guard let table = contents(ofFile: "/proc/swaps") else { return false }
        for line in table.split(separator: "\n").dropFirst() {
            guard let path = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).first else { continue }
            var facts = repld_file_facts()
            guard unsafe repld_file_facts_of_path(unescaped(path), &facts) == 0 else { continue }
            if facts.kind == Int32(REPLD_KIND_BLOCK.rawValue) && "\(facts.own_major):\(facts.own_minor)" == number {
                return true
            }
        }
        return false
    }

    /// /proc/locks: `1: FLOCK  ADVISORY  WRITE 4711 fe:01:393219 0 EOF`; device in hexadecimal, then the inode.
    private static func lockHolder(_ facts: repld_file_facts) -> ElementHolder? {
        guard let table = contents(ofFile: "/proc/locks") else { return nil }
        for line in table.split(separator: "\n") {
            let fields = line.split(separator: " ")
            guard fields.count > 5, fields[1] == "FLOCK", let id = Int32(fields[4]), id > 0 else { continue }
            let place = fields[5].split(separator: ":")
            guard place.count == 3, UInt32(place[0], radix: 16) == facts.device_major,
                UInt32(place[1], radix: 16) == facts.device_minor, UInt64(place[2]) == facts.inode
            else { continue }
            if id == getpid() { return .thisProcess }
            // Who took a lock may be gone, and have left it to another, or to a ring that the kernel is about to end.
            return unsafe access("/proc/\(id)", F_OK) == 0 ? .processes([HoldingProcess(id: id)]) : nil
        }
        return nil
    }

    /// The processes that have the element open: this one, which opens none that it does not hold, or whoever else does.
    private static func opener(_ facts: repld_file_facts, besides own: Int32) -> ElementHolder? {
        let openers = names(inDirectory: "/proc").compactMap { Int32($0) }.filter { hasOpen($0, facts, besides: own) }
        if openers.contains(getpid()) { return .thisProcess }
        let named = openers.sorted().prefix(namedProcessCount)
        return named.isEmpty ? nil : .processes(named.map { HoldingProcess(id: $0) })
    }

    private static func hasOpen(_ id: Int32, _ wanted: repld_file_facts, besides own: Int32) -> Bool {
        let folder = "/proc/\(id)/fd"
        let isDevice = wanted.kind == Int32(REPLD_KIND_BLOCK.rawValue)
        for name in names(inDirectory: folder) where id != getpid() || Int32(name) != own {
            var facts = repld_file_facts()
            guard unsafe repld_file_facts_of_path("\(folder)/\(name)", &facts) == 0, facts.kind == wanted.kind else {
                continue
            }
            let isSame =
                isDevice
                ? facts.own_major == wanted.own_major && facts.own_minor == wanted.own_minor
                : facts.device_major == wanted.device_major && facts.device_minor == wanted.device_minor
                    && facts.inode == wanted.inode
            if isSame { return true }
        }
        return false
    }

    fileprivate static func trimmed(_ text: String) -> String {
        String(text.prefix { $0 != "\n" })
    }
}

/// A process that has an element open, as /proc names it.
package struct HoldingProcess: Sendable, Hashable, CustomStringConvertible {
    package let name: String
    package let id: Int32

    package var description: String { "\(name) (pid \(id))" }

    init(id: Int32) {
        self.id = id
        name = contents(ofFile: "/proc/\(id)/comm").map(ElementHolder.trimmed) ?? "a process"
    }
}
