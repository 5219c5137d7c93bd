import CRepldLinux
import Glibc
import RepldCore
import RepldEngine
import RepldUring
import Testing

/// Reads and writes on real files: what arrives, however it got there.
@Suite struct ElementTransferTests {
    static let without: [UringPlatform.Acceleration] = [
        [], .setupFlags, .registeredRing, .registeredFiles, .registeredBuffers, .multishotAccept, .memoryFiles,
        .all,
    ]

    @Test("The same bytes with every acceleration, and with each taken away", arguments: without, [true, false])
    func roundTrip(missing: UringPlatform.Acceleration, direct: Bool) throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 4 << 20)
        let data = Memory(1 << 20, seed: 7)
        let back = Memory(1 << 20)
        var options = UringPlatform.Options()
        options.allowed = UringPlatform.Acceleration.all.subtracting(missing)
        var desk = try Desk(options)
        desk.platform.register(memory: data.bytes)
        let element = try desk.attach(path, direct: direct)

        for (offset, count) in [(0, 4096), (4096, 65536), (1 << 19, 1 << 19)] {
            let written = desk.write(element, UInt64(offset), data.slice(offset, count), isDurable: count == 4096)
            #expect(written?.succeeded(count) == true)
            let read = desk.read(element, UInt64(offset), back.slice(offset, count))
            #expect(read?.succeeded(count) == true)
            #expect(data.slice(offset, count).elementsEqual(back.slice(offset, count)))
        }
        let flushed = desk.flush(element)
        #expect(flushed?.succeeded(0) == true)
        // The same bytes, seen without us.
        let descriptor = open(path, O_RDONLY)
        let seen = Memory(65536)
        #expect(pread(descriptor, seen.bytes.baseAddress, 65536, 4096) == 65536)
        close(descriptor)
        #expect(seen.bytes.elementsEqual(data.slice(4096, 65536)))
        desk.platform.detach(element)
    }

    @Test(
        "A file in memory is moved by the loop itself up to 64 KiB, and by the ring beyond or when told",
        arguments: [UringPlatform.Acceleration.all, .all.subtracting(.memoryFiles)],
        [512, 65536, 65536 + 512]
    )
    func memoryFile(allowed: UringPlatform.Acceleration, count: Int) throws {
        let place = try TemporaryDirectory(tmpfs: "4m")
        let data = Memory(1 << 20, seed: 9)
        let back = Memory(1 << 20)
        var options = UringPlatform.Options()
        options.allowed = allowed
        var desk = try Desk(options)
        let element = try desk.attach(try place.sparseFile("element", 8 << 20), direct: false)
        let written = desk.write(element, 4096, data.slice(0, count), isDurable: true)
        #expect(written?.succeeded(count) == true)
        let read = desk.read(element, 4096, back.slice(0, count))
        #expect(read?.succeeded(count) == true)
        #expect(data.slice(0, count).elementsEqual(back.slice(0, count)))
        // The file system is smaller than the file: at some place it is full, and says so.
        var failure: IOFailure?
        for offset in stride(from: UInt64(0), to: 8 << 20, by: count) where failure == nil {
            failure = desk.write(element, offset, data.slice(0, count), isDurable: false)?.failure
        }
        #expect(failure == .noSpace)
        desk.platform.detach(element)
    }

    /// The node of every device lies in a file system in memory, the loop's transfers would wait for the device itself.
    @Test("A device is in memory neither by its node in /dev nor by its backing file", .enabled(if: isRoot))
    func deviceIsNotInMemory() throws {
        let place = try TemporaryDirectory(tmpfs: "4m")
        let path = try place.sparseFile("element", 1 << 20)
        let device = try LoopDevice(on: path)
        // Also a node that lies elsewhere in memory than in /dev.
        let node = place.file("node")
        let number = try run("stat", "--format=%Hr %Lr", device.path).split(separator: " ").map(String.init)
        try run(["mknod", node, "b"] + number)
        for (name, isInMemory) in [(path, true), (device.path, false), (node, false), (place.path, false)] {
            let descriptor = open(name, O_RDONLY | O_CLOEXEC)
            #expect(descriptor >= 0 && repld_is_in_memory(descriptor) == isInMemory, "\(name)")
            close(descriptor)
        }
        withExtendedLifetime(device) {}
    }

    @Test("This kernel has all of it, so the fallbacks are not what the other tests test")
    func features() throws {
        let memory = Memory(1 << 20)
        var desk = try Desk()
        desk.platform.register(memory: memory.bytes)
        let features = desk.platform.features
        #expect(features.hasRegisteredBuffers && features.hasRegisteredFiles && features.hasRegisteredRing)
        #expect(features.isSingleIssuer && features.isCooperative && features.hasMultishotAccept)
        #expect(!features.description.contains("without"))

        var options = UringPlatform.Options()
        options.allowed = []
        let bare = try Desk(options)
        let none = bare.platform.features
        #expect(!none.hasRegisteredFiles && !none.isSingleIssuer && !none.hasMultishotAccept)
    }

    @Test(
        "A short read or write goes on where it stopped, also in the middle of a block",
        arguments: [4096, 4196, 8192]
    )
    func shortTransfer(moved: Int32) throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        let data = Memory(32768, seed: 1)
        let back = Memory(32768)
        var desk = try Desk()
        let element = try desk.attach(path)
        desk.platform.replaceNextResult(of: .write, with: moved)
        let written = desk.write(element, 4096, data.bytes)
        #expect(written?.succeeded(32768) == true)
        desk.platform.replaceNextResult(of: .read, with: moved)
        desk.platform.replaceNextResult(of: .read, with: 512)
        let read = desk.read(element, 4096, back.bytes)
        #expect(read?.succeeded(32768) == true)
        #expect(data.equals(back))
        desk.platform.detach(element)
    }

    @Test("A file cut while it is open: what is left is read short, the end is an error", arguments: [true, false])
    func truncatedFile(direct: Bool) throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        let memory = Memory(65536)
        var desk = try Desk()
        let element = try desk.attach(path, direct: direct)
        truncate(path, 8192 + 100)
        let inside = desk.read(element, 0, memory.slice(0, 8192))
        #expect(inside?.succeeded(8192) == true)
        let across = desk.read(element, 0, memory.bytes)
        #expect(across?.failure == .inputOutput)
        let behind = desk.read(element, 65536, memory.bytes)
        #expect(behind?.failure == .inputOutput)
        desk.platform.detach(element)
    }

    @Test("Interrupted operations go round again")
    func interrupted() throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        let data = Memory(4096, seed: 3)
        var desk = try Desk()
        let element = try desk.attach(path)
        for kind in [OperationKind.write, .write, .flush, .zero] {
            desk.platform.replaceNextResult(of: kind, with: -EINTR)
        }
        let written = desk.write(element, 0, data.bytes)
        #expect(written?.succeeded(4096) == true)
        let flushed = desk.flush(element)
        #expect(flushed?.failure == nil)
        let zeroed = desk.zero(element, Extent(offset: 0, length: 4096), .discard)
        #expect(zeroed?.failure == nil)
        desk.platform.detach(element)
    }

    @Test("A kernel that is busy is asked again, but not for ever", arguments: [(1, true), (64, true), (65, false)])
    func again(times: Int, succeeds: Bool) throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        let memory = Memory(4096)
        var desk = try Desk()
        let element = try desk.attach(path)
        for _ in 0..<times { desk.platform.replaceNextResult(of: .read, with: -EAGAIN) }
        let read = desk.read(element, 0, memory.bytes)
        #expect(read?.failure == (succeeds ? nil : .noResources))
        desk.platform.detach(element)
    }

    @Test("A medium error is the engine's to decide about, once")
    func mediumError() throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        let memory = Memory(4096)
        var desk = try Desk()
        let element = try desk.attach(path)
        desk.platform.replaceNextResult(of: .read, with: -EIO)
        let failed = desk.read(element, 0, memory.bytes)
        #expect(failed?.failure == .inputOutput)
        let good = desk.read(element, 0, memory.bytes)
        #expect(good?.succeeded(4096) == true)
        desk.platform.detach(element)
    }

    @Test("A read-only element refuses to change without asking the kernel")
    func readOnlyElement() throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        let memory = Memory(4096)
        var desk = try Desk()
        let element = try desk.attach(path, readOnly: true)
        let written = desk.write(element, 0, memory.bytes)
        #expect(written?.failure == .readOnly)
        let zeroed = desk.zero(element, Extent(offset: 0, length: 4096), .discard)
        #expect(zeroed?.failure == .readOnly)
        let read = desk.read(element, 0, memory.bytes)
        #expect(read?.failure == nil)
        desk.platform.detach(element)
    }

    @Test("A full file system is noSpace, and what is there stays readable", .enabled(if: isRoot))
    func fullFileSystem() throws {
        let place = try TemporaryDirectory(tmpfs: "256k")
        let path = try place.sparseFile("element", 1 << 20)
        let data = Memory(524_288, seed: 9)
        let back = Memory(4096)
        var desk = try Desk()
        let element = try desk.attach(path)
        // Half of it fits: a short write first, then no room for the rest.
        let written = desk.write(element, 0, data.bytes)
        #expect(written?.failure == .noSpace)
        let read = desk.read(element, 0, back.bytes)
        #expect(read?.failure == nil)
        #expect(back.bytes.elementsEqual(data.slice(0, 4096)))
        desk.platform.detach(element)
    }

    @Test("A limit on file size is met by a short write and then noSpace")
    func fileSizeLimit() async throws {
        let place = try TemporaryDirectory()
        let path = try place.sparseFile("element", 1 << 20)
        await #expect(processExitsWith: .success) { [path = path as String] in
            let data = Memory(262_144, seed: 9)
            var desk = try Desk()
            let element = try desk.attach(path, direct: false)
            _ = Glibc.signal(SIGXFSZ, SIG_IGN)
            var limit = rlimit(rlim_cur: 131_072, rlim_max: 1 << 30)
            try #require(setrlimit(__rlimit_resource_t(1), &limit) == 0)
            let inside = desk.write(element, 0, data.slice(0, 65536))
            let across = desk.write(element, 0, data.bytes)
            desk.platform.detach(element)
            exit(inside?.failure == nil && across?.failure == .noSpace ? 0 : 1)
        }
    }
}
