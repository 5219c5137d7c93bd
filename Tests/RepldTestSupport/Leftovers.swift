import Foundation
import Glibc

/// What a test process left behind that was killed: only ever things under a directory, or with a name, of its own making.
package enum Leftovers {
    /// Sweeps once per process.
    static let sweptOnce: Void = sweep()

    /// Unmounts, detaches and removes what lies under directories of test processes that are gone, and their networks.
    package static func sweep() {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: TestBed.rootDirectory)) ?? []
        for name in names where isAbandoned(name) {
            let directory = "\(TestBed.rootDirectory)/\(name)"
            // Their names are not those of files under the directory any more when what these lie on is unmounted.
            let devices = LoopDevice.devices(backedUnder: directory)
            for mountPoint in mountPoints(under: directory).reversed() { quietly("umount", ["-l", mountPoint]) }
            for device in devices { quietly("losetup", ["-d", device]) }
            try? FileManager.default.removeItem(atPath: directory)
        }
        let spaces = (try? FileManager.default.contentsOfDirectory(atPath: TestNetwork.directory)) ?? []
        for space in spaces where isAbandoned(space) { quietly("ip", ["netns", "delete", space]) }
    }

    /// Whether a directory or a network was made by a test process that no longer runs.
    package static func isAbandoned(_ name: String) -> Bool {
        guard name.hasPrefix(TestBed.directoryPrefix) else { return false }
        let owner = name.dropFirst(TestBed.directoryPrefix.count).prefix { $0 != "-" }
        guard let pid = pid_t(owner) else { return false }
        return kill(pid, 0) == -1 && errno == ESRCH
    }

    package static func mountPoints(under directory: String) -> [String] {
        let table = (try? String(contentsOfFile: "/proc/self/mounts", encoding: .utf8)) ?? ""
        return table.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            return fields.count > 1 && fields[1].hasPrefix(directory + "/") ? String(fields[1]) : nil
        }
    }

    private static func quietly(_ tool: String, _ arguments: [String]) {
        let logPath = NSTemporaryDirectory() + "repld-sweep-\(getpid())"
        defer { for end in [".out", ".err"] { try? FileManager.default.removeItem(atPath: logPath + end) } }
        _ = try? Child(tool, arguments, logPath: logPath).wait(atMost: .hang)
    }
}
