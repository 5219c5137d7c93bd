internal import Foundation

/// One element of the demo: a loop device over a sparse file where that is allowed, else the file itself.
struct DemoElement: Sendable {
    let file: String
    let device: String?

    var path: String { device ?? file }

    /// Whether loop devices can be made here.
    static var mayUseLoopDevices: Bool {
        geteuid() == 0 && FileManager.default.isWritableFile(atPath: "/dev/loop-control")
    }

    init(in directory: String, name: String, byteCount: UInt64, asLoopDevice: Bool) throws {
        file = "\(directory)/\(name).img"
        guard FileManager.default.createFile(atPath: file, contents: nil) else {
            throw DemoError("cannot create \(file)")
        }
        let handle = try FileHandle(forWritingTo: URL(filePath: file))
        try handle.truncate(atOffset: byteCount)
        try handle.close()
        guard asLoopDevice else {
            device = nil
            return
        }
        let result = try DemoTool.run("losetup", ["-f", "--show", "--direct-io=on", file])
        device = result.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// Makes every write to the device fail from here on, without touching what it holds.
    ///
    /// A device that is set read-only under an open writer refuses its writes. False where there is no device to set.
    func takeAway() throws -> Bool {
        guard let device else { return false }
        _ = try DemoTool.run("blockdev", ["--setro", device])
        return true
    }

    func bringBack() throws {
        guard let device else { return }
        _ = try DemoTool.run("blockdev", ["--setrw", device])
    }

    /// Releases the device; the file goes with its directory.
    func remove() {
        guard let device else { return }
        _ = try? DemoTool.run("losetup", ["-d", device])
    }
}

/// Runs the system's own tools.
enum DemoTool {
    /// Runs a command to its end; what it printed.
    @discardableResult
    static func run(_ command: String, _ arguments: [String]) throws -> String {
        let process = Process()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = [command] + arguments
        var environment = ProcessInfo.processInfo.environment
        environment["PATH"] = (environment["PATH"] ?? "/usr/bin:/bin") + ":/usr/sbin:/sbin"
        process.environment = environment
        let output = Pipe()
        let errors = Pipe()
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        let printed = output.fileHandleForReading.readDataToEndOfFile()
        let complaint = errors.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            let words = String(decoding: complaint, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
            throw DemoError("\(command) \(arguments.joined(separator: " ")) failed: \(words)")
        }
        return String(decoding: printed, as: UTF8.self)
    }
}
