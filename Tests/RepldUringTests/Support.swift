import CRepldLinux
import Foundation
import Glibc
import RepldCore
import RepldEngine
import RepldUring
import Testing

/// A directory of the test's own, gone with the last reference; nothing may be mounted in it then.
final class TemporaryDirectory {
    let path: String

    /// On a real file system; with `tmpfs` a mount of that size, which root may make.
    init(tmpfs size: String? = nil) throws {
        let template = "/tmp/repld-uring-test.XXXXXX"
        var bytes = Array(template.utf8CString)
        guard mkdtemp(&bytes) != nil else { throw ToolFailure(words: "mkdtemp: \(errno)") }
        path = String(decoding: bytes.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        isMount = size != nil
        if let size { try run("mount", "-t", "tmpfs", "-o", "size=\(size)", "tmpfs", path) }
    }

    private let isMount: Bool

    deinit {
        if isMount { _ = try? run("umount", path) }
        try? FileManager.default.removeItem(atPath: path)
    }

    /// A path in here.
    func file(_ name: String) -> String { "\(path)/\(name)" }

    /// A sparse file of this size in here.
    func sparseFile(_ name: String, _ byteCount: UInt64) throws -> String {
        try OpenElement.create(path: file(name), byteCount: byteCount)
        return file(name)
    }
}

/// A loop device, detached with the last reference.
final class LoopDevice {
    let path: String

    init(on file: String, blockByteCount: Int = 512, isReadOnly: Bool = false) throws {
        let options = ["-f", "--show", "-b", "\(blockByteCount)"] + (isReadOnly ? ["-r"] : [])
        path = try run(["losetup"] + options + [file])
    }

    deinit { _ = try? run("losetup", "-d", path) }
}

struct ToolFailure: Error { var words: String }

/// Runs a tool to its end; what it printed, without the last newline.
@discardableResult
func run(_ words: String...) throws -> String { try run(words) }

/// Not Foundation's `Process`: that waits until also the servers that the tool leaves behind are gone.
@discardableResult
func run(_ words: [String]) throws -> String {
    guard let stream = tmpfile() else { throw ToolFailure(words: "tmpfile: \(errno)") }
    defer { fclose(stream) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, fileno(stream), 1)
    posix_spawn_file_actions_adddup2(&actions, fileno(stream), 2)
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
    defer { for argument in arguments { free(argument) } }
    arguments.append(nil)
    var child: pid_t = 0
    let result = posix_spawnp(&child, words[0], &actions, nil, arguments, environ)
    guard result == 0 else { throw ToolFailure(words: "\(words): error \(result)") }
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
    rewind(stream)
    var bytes = [UInt8](repeating: 0, count: 65536)
    let text = String(decoding: bytes[..<fread(&bytes, 1, bytes.count, stream)], as: UTF8.self)
    guard status == 0 else { throw ToolFailure(words: "\(words): \(text)") }
    return text.hasSuffix("\n") ? String(text.dropLast()) : text
}

/// A process that says a line when it is ready and ends when its input does.
final class Bystander {
    let id: Int32
    private let process = Process()
    private let input = Pipe()

    init(_ words: String...) throws {
        let output = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        process.standardInput = input
        process.standardOutput = output
        try process.run()
        id = process.processIdentifier
        if output.fileHandleForReading.availableData.isEmpty { throw ToolFailure(words: "\(words) is not ready") }
    }

    deinit {
        try? input.fileHandleForWriting.close()
        process.waitUntilExit()
    }
}

let isRoot = geteuid() == 0

/// Memory that direct I/O takes.
final class Memory {
    let bytes: UnsafeMutableRawBufferPointer

    init(_ byteCount: Int) {
        bytes = .allocate(byteCount: byteCount, alignment: 4096)
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    /// Filled with numbers that repeat nowhere.
    convenience init(_ byteCount: Int, seed: UInt64) {
        self.init(byteCount)
        var random = RandomSource(seed: seed)
        for offset in stride(from: 0, to: byteCount, by: 8) {
            bytes.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
        }
    }

    deinit { bytes.deallocate() }

    func slice(_ offset: Int, _ count: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + count])
    }

    func equals(_ other: Memory) -> Bool {
        guard bytes.count == other.bytes.count else { return false }
        guard let own = bytes.baseAddress, let others = other.bytes.baseAddress else { return bytes.isEmpty }
        return memcmp(own, others, bytes.count) == 0
    }

    func isZero(_ offset: Int, _ count: Int) -> Bool { slice(offset, count).allSatisfy { $0 == 0 } }
}

/// A platform with a queue for its completions, driven by hand.
struct Desk: ~Copyable {
    var platform: UringPlatform
    var completions: BoundedQueue<Completion>

    init(_ options: UringPlatform.Options = .init(), room: Int = 1024) throws {
        platform = try UringPlatform(options)
        completions = BoundedQueue(capacity: room, blank: Completion(token: .wake, count: 0, failure: nil))
    }

    /// The next completion; `nil` when there is none within two minutes.
    mutating func next() -> Completion? {
        if completions.isEmpty { platform.wait(until: .soon(120_000), into: &completions) }
        return completions.popFirst()
    }

    mutating func read(_ element: ElementID, _ offset: UInt64, _ memory: UnsafeMutableRawBufferPointer) -> Completion? {
        platform.read(element, at: offset, into: memory, token: Token(rawValue: 1))
        return next()
    }

    mutating func write(
        _ element: ElementID,
        _ offset: UInt64,
        _ memory: UnsafeMutableRawBufferPointer,
        isDurable: Bool = false
    ) -> Completion? {
        platform.write(
            element,
            at: offset,
            from: UnsafeRawBufferPointer(memory),
            isDurable: isDurable,
            token: Token(rawValue: 2)
        )
        return next()
    }

    mutating func flush(_ element: ElementID) -> Completion? {
        platform.flush(element, token: Token(rawValue: 3))
        return next()
    }

    mutating func zero(
        _ element: ElementID,
        _ extent: Extent,
        _ kind: ZeroKind,
        isDurable: Bool = false
    ) -> Completion? {
        platform.zero(element, extent, kind, isDurable: isDurable, token: Token(rawValue: 4))
        return next()
    }

    mutating func attach(_ path: String, direct: Bool = true, readOnly: Bool = false) throws -> ElementID {
        let element = try OpenElement.open(path: path, readOnly: readOnly, direct: direct)
        guard let id = platform.attach(element) else { throw ToolFailure(words: "the table of elements is full") }
        return id
    }
}

extension Instant {
    static func soon(_ milliseconds: UInt64) -> Instant {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Instant(nanoseconds: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec))
            .advanced(byNanoseconds: milliseconds * 1_000_000)
    }
}

extension Completion {
    /// A success of `count`.
    func succeeded(_ count: Int) -> Bool { failure == nil && self.count == UInt32(count) }
}

/// 512-byte units that a file takes on its file system.
func allocatedUnits(_ path: String) -> Int {
    var status = stat()
    return stat(path, &status) == 0 ? Int(status.st_blocks) : -1
}
