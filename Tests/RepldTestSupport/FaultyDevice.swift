import Foundation
import Glibc

/// A block device that fails on command: nbdkit's error filter, made a file by nbdfuse, made a device by loop.
package final class FaultyDevice {
    package let device: LoopDevice
    /// The file that holds the bytes.
    package let backingPath: String
    private let server: Child
    private let readSwitch: String
    private let writeSwitch: String

    fileprivate init(bed: TestBed, name: String, byteCount: UInt64) throws {
        backingPath = try bed.file("\(name).img", byteCount: byteCount)
        let readSwitch = bed.path("\(name).reads-fail")
        let writeSwitch = bed.path("\(name).writes-fail")
        let writeFaults = ["pwrite", "trim", "zero"].flatMap {
            ["error-\($0)=EIO", "error-\($0)-rate=100%", "error-\($0)-file=\(writeSwitch)"]
        }
        let readFaults = ["error-pread=EIO", "error-pread-rate=100%", "error-pread-file=\(readSwitch)"]
        let nbd = try bed.nbdServer(name, ["--filter=error", "file", backingPath] + readFaults + writeFaults)
        self.readSwitch = readSwitch
        self.writeSwitch = writeSwitch
        server = nbd.child
        device = try bed.loopDevice(backing: bed.nbdFile(name, socket: nbd.socket))
    }

    /// Makes every read fail from now on, or no more.
    package func setReadsFail(_ fail: Bool) throws { try set(readSwitch, fail) }

    /// Makes every write, discard and write-zeroes fail from now on, or no more.
    package func setWritesFail(_ fail: Bool) throws { try set(writeSwitch, fail) }

    /// Stops answering anything from now on, without an error, or answers again and what waited as well.
    package func setHangs(_ hangs: Bool) { server.send(hangs ? SIGSTOP : SIGCONT) }

    /// Takes the medium away for good: everything fails from now on.
    package func loseMedium() throws {
        server.end(with: SIGKILL)
        _ = try server.wait(atMost: .hang)
    }

    private func set(_ path: String, _ exists: Bool) throws {
        if exists {
            try Data().write(to: URL(filePath: path))
        } else if access(path, F_OK) == 0 {
            try FileManager.default.removeItem(atPath: path)
        }
    }
}

extension TestBed {
    /// Makes a device that fails on command.
    package func faultyDevice(_ name: String, byteCount: UInt64) throws -> FaultyDevice {
        try FaultyDevice(bed: self, name: name, byteCount: byteCount)
    }

    /// Starts nbdkit and waits until it listens.
    package func nbdServer(_ name: String, _ arguments: [String]) throws -> (child: Child, socket: String) {
        let socket = path("\(name).nbd")
        let pidFile = path("\(name).nbdkit-pid")
        let child = try start("nbdkit", ["--foreground", "--pidfile", pidFile, "--unix", socket] + arguments)
        try Deadline(after: .hang).waitForFile(pidFile, madeBy: child)
        return (child, socket)
    }

    /// Makes an NBD export a file, and returns its path; `exportName` is empty for the default export.
    package func nbdFile(_ name: String, socket: String, exportName: String = "") throws -> String {
        let mountPoint = path("\(name).mount")
        let pidFile = path("\(name).nbdfuse-pid")
        try FileManager.default.createDirectory(atPath: mountPoint, withIntermediateDirectories: false)
        let uri = "nbd+unix:///\(exportName)?socket=\(socket)"
        let child = try start("nbdfuse", ["--pidfile", pidFile, mountPoint, uri])
        try Deadline(after: .hang).waitForFile(pidFile, madeBy: child)
        onCleanup("unmount \(mountPoint)") { [unowned self] in
            // nbdfuse ends by itself when its file system goes; lazily, because its server may be dead by then.
            try runs("umount", ["--lazy", mountPoint])
        }
        return "\(mountPoint)/nbd"
    }
}
