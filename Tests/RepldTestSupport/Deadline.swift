import Foundation
package import Glibc

/// A moment until which something may take.
package struct Deadline: Sendable {
    private let end: ContinuousClock.Instant

    package init(after limit: Duration) { end = .now + limit }

    package var millisecondsLeft: Int32 {
        let left = ContinuousClock.now.duration(to: end)
        guard left > .zero else { return 0 }
        let (seconds, attoseconds) = left.components
        return Int32(min(seconds * 1000 + attoseconds / 1_000_000_000_000_000 + 1, 1_000_000_000))
    }

    /// Waits for one of the descriptors; 0 when the time is over, else how many have something to say.
    package func poll(_ descriptors: inout [pollfd]) throws -> Int32 {
        while true {
            let count = Glibc.poll(&descriptors, nfds_t(descriptors.count), millisecondsLeft)
            if count >= 0 { return count }
            guard errno == EINTR else { throw SystemCallFailed("poll") }
        }
    }
}

extension Duration {
    /// Longer than anything takes that tests wait for, however busy the machine is: what takes longer hangs.
    package static var hang: Duration { .seconds(300) }
}

extension Deadline {
    /// Looks again and again, a few milliseconds apart, until something holds; false when the time is over.
    ///
    /// Only for what the kernel does on its own and tells nobody, such as letting go of the files of a killed ring.
    package func reaches(_ holds: () -> Bool) throws -> Bool {
        var nothing: [pollfd] = []
        while !holds() {
            if millisecondsLeft == 0 { return false }
            _ = try Deadline(after: .milliseconds(3)).poll(&nothing)
        }
        return true
    }
}

/// A system call that failed where it should not.
package struct SystemCallFailed: Error, CustomStringConvertible {
    package let description: String

    package init(_ call: String) { description = "\(call): \(String(cString: strerror(errno)))" }
}

extension Deadline {
    /// Waits until a file of that name exists.
    ///
    /// An error when the time is over, or when `child` ends first.
    package func waitForFile(_ path: String, madeBy child: Child) throws {
        let watch = inotify_init1(Int32(IN_CLOEXEC | IN_NONBLOCK))
        guard watch >= 0 else { throw SystemCallFailed("inotify_init1") }
        defer { close(watch) }
        let folder = (path as NSString).deletingLastPathComponent
        guard inotify_add_watch(watch, folder, UInt32(IN_CREATE | IN_MOVED_TO)) >= 0 else {
            throw SystemCallFailed("inotify_add_watch \(folder)")
        }
        // The watch stands before the first look, so nothing is missed between the two.
        while access(path, F_OK) != 0 {
            var wanted = [
                pollfd(fd: watch, events: Int16(POLLIN), revents: 0),
                pollfd(fd: child.exitDescriptor, events: Int16(POLLIN), revents: 0),
            ]
            if try poll(&wanted) == 0 {
                throw Child.TimedOut(description: "\(child.name) has not made \(path) in time\n\(child.tail())")
            }
            if wanted[1].revents != 0 && access(path, F_OK) != 0 {
                throw Child.CannotStart(description: "\(child.name) ended before it made \(path)\n\(child.tail())")
            }
            var events = [UInt8](repeating: 0, count: 4096)
            _ = read(watch, &events, events.count)
        }
    }
}
