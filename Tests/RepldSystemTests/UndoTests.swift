import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// A copy over a usable image that is interrupted can be taken back, byte for byte.
    @Suite("An undo area", .requires(.product("repld"), .product("replctl"), .tool("qemu-io")))
    struct UndoTests {
        private static let byteCount = 64 * mebibyte

        /// How a copy is interrupted.
        enum Interruption: String, CaseIterable { case failover, kill, stop, suspend }

        @Test("brings the target back to the image that it held", arguments: Interruption.allCases)
        func takesBack(_ interruption: Interruption) throws {
            try withTestBed { bed in
                let copy = try InterruptedCopy(bed)
                try copy.begin()
                let mirror = copy.mirror
                let kept = try #require(try mirror.daemon.pair(Mirror.pair).undoByteCount)
                #expect(try copy.target() != copy.image, "the copy is in the middle")
                // A host writes while it runs: where the target's content is kept, and where it is not yet.
                try mirror.write(0x77, mirror.uri, at: 0)
                try mirror.write(0x78, mirror.uri, at: 58)
                switch interruption {
                case .failover: break
                case .kill: try mirror.daemon.kill()
                case .stop: #expect(try mirror.daemon.stop() == .exited(0))
                case .suspend: try mirror.set("Suspend", "Suspended")
                }
                if interruption == .kill || interruption == .stop {
                    try mirror.daemon.start()
                    #expect(try mirror.daemon.pair(Mirror.pair).undoByteCount ?? 0 >= kept, "nothing is forgotten")
                }
                let plan = try mirror.daemon.controls("set", Mirror.pair, "Failover", "--plan")
                #expect(plan.contains("Taken back"), "\(plan)")
                #expect(try mirror.refuses("Failover").contains("taken back first"))
                try mirror.set("Failover", "Failedover", isForced: true)
                #expect(try copy.target() == copy.image, "the target holds what it held")
                #expect(try mirror.daemon.pair(Mirror.pair).undoByteCount == nil)
                #expect(try mirror.holds(0x11, mirror.uri, at: 0), "and hosts see it")
                try mirror.daemon.controls("pair", "resync", Mirror.pair, "--resume", "--cap", "none")
                try mirror.set("Failback", "Synchronized", isForced: true)
                try mirror.expectEqual("failed back")
                #expect(try copy.target() == copy.image)
                try copy.expectEmpty()
            }
        }

        @Test("lets the copy go on that was interrupted, and is empty when it has ended")
        func goesOn() throws {
            try withTestBed { bed in
                let copy = try InterruptedCopy(bed)
                try copy.begin()
                let mirror = copy.mirror
                #expect(try copy.allocatedByteCount() > 0)
                let refused = try mirror.daemon.control(["volume", "grow", Mirror.volume])
                #expect(!refused.isSuccess && refused.errors.contains("has not come to its end"), "\(refused)")
                try mirror.daemon.kill()
                try mirror.daemon.start()
                try mirror.daemon.controls("pair", "resync", Mirror.pair, "--resume", "--cap", "none")
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                try mirror.expectEqual("synchronized")
                try copy.expectEmpty()
                try mirror.set("Detach")
                #expect(try FileManager.default.contentsOfDirectory(atPath: copy.folder) == [])
            }
        }

        @Test("that is not wanted, or is lost, leaves no way back", arguments: [true, false])
        func withoutOne(isLost: Bool) throws {
            try withTestBed { bed in
                let copy = try InterruptedCopy(bed)
                try copy.begin(isLost ? [] : ["--no-undo"])
                let mirror = copy.mirror
                if isLost {
                    let area = try copy.area()
                    try mirror.daemon.kill()
                    try FileManager.default.removeItem(atPath: area)
                    try mirror.daemon.start()
                    #expect(try mirror.daemon.process.errors().contains("cannot be taken back"))
                }
                #expect(try mirror.daemon.pair(Mirror.pair).undoByteCount == nil)
                #expect(try mirror.refuses("Failover", isForced: true).contains("no usable image"))
                try mirror.daemon.controls("pair", "resync", Mirror.pair, "--resume", "--cap", "none")
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                try mirror.expectEqual("synchronized")
                try copy.expectEmpty()
            }
        }

        @Test("brings the target back when the source has died", .requires(.root, .loopDevices, .fuse, .tool("nbdkit")))
        func sourceDies() throws {
            try withTestBed { bed in
                let source = try bed.faultyDevice("source", byteCount: Self.byteCount)
                let copy = try InterruptedCopy(bed, source: source.device.path)
                try copy.begin()
                let mirror = copy.mirror
                try source.setReadsFail(true)
                try source.setWritesFail(true)
                try mirror.daemon.controls("pair", "resync", Mirror.pair, "--resume", "--cap", "none")
                try mirror.daemon.waitForCopyState("Broken", of: Mirror.pair)
                try mirror.set("Failover", "Failedover", isForced: true)
                #expect(try copy.target() == copy.image)
                #expect(try mirror.holds(0x11, mirror.uri, at: 0))
            }
        }

        @Test("without room for it refuses the copy before it begins, in words that help", .requires(.root))
        func noRoomBefore() throws {
            try withTestBed { bed in
                let space = try bed.smallFileSystem("state", byteCount: 8 * mebibyte)
                let copy = try InterruptedCopy(bed, stateDirectory: "\(space.folder)/repld")
                let words = try copy.mirror.refuses("Resume")
                for word in ["up to 16MiB", "are free", "--no-undo", copy.folder] {
                    #expect(words.contains(word), "'\(word)': \(words)")
                }
                #expect(try copy.mirror.daemon.pair(Mirror.pair).copyState.name == "Suspended")
                #expect(try copy.target() == copy.image)
                let resumed = try copy.mirror.daemon.control(
                    ["set", Mirror.pair, "Resume", "--no-undo", "--wait", "Synchronized"]
                )
                #expect(resumed.isSuccess, "\(resumed)")
                try copy.mirror.expectEqual("synchronized")
            }
        }

        @Test("that runs out of room breaks the pair, and what was overwritten can be taken back", .requires(.root))
        func noRoomMeanwhile() throws {
            try withTestBed { bed in
                let space = try bed.smallFileSystem("state", byteCount: 24 * mebibyte)
                let copy = try InterruptedCopy(bed, stateDirectory: "\(space.folder)/repld")
                try copy.begin()
                let mirror = copy.mirror
                try mirror.daemon.controls("pair", "resync", Mirror.pair, "--cap", "1M")
                try mirror.daemon.controls("pair", "resync", Mirror.pair, "--resume")
                try space.fill()
                try mirror.daemon.waitForCopyState("Broken", of: Mirror.pair)
                let reason = try mirror.daemon.pair(Mirror.pair).reason ?? ""
                for word in ["undo area", "no space", "--no-undo", "Failover"] {
                    #expect(reason.lowercased().contains(word.lowercased()), "'\(word)': \(reason)")
                }
                try space.makeRoom()
                try mirror.set("Failover", "Failedover", isForced: true)
                #expect(try copy.target() == copy.image)
            }
        }
    }
}

/// A Suspended pair whose source was overwritten in 16 of its 64 MiB, and a copy of that which is stopped in the middle.
private struct InterruptedCopy {
    let mirror: Mirror
    /// What the target held before the copy.
    let image: Data

    init(_ bed: TestBed, source: String? = nil, stateDirectory: String? = nil) throws {
        let source = try source ?? bed.file("source", byteCount: 64 * mebibyte)
        let target = try bed.file("target", byteCount: 64 * mebibyte)
        try bed.fill(source, mebibytes: 64)
        let daemon = try Daemon(bed: bed, stateDirectory: stateDirectory)
        try daemon.start()
        try daemon.controls("volume", "add", Mirror.volume, "--element", source)
        mirror = Mirror(bed: bed, daemon: daemon, source: source, target: target)
        try mirror.create()
        try mirror.write(0x11, mirror.uri, at: 0)
        try mirror.set("Suspend", "Suspended")
        image = try Data(contentsOf: URL(filePath: target))
        let writes = (0..<16).flatMap { ["-c", "write -P \(0x20 + $0) \($0 * 4)M 1M"] }
        try bed.runs("qemu-io", ["-f", "raw"] + writes + ["-c", "flush", mirror.uri])
    }

    /// Begins the copy, and holds it when some of it is done.
    func begin(_ more: [String] = []) throws {
        try mirror.daemon.controls("pair", "resync", Mirror.pair, "--cap", "4M")
        let plan = try mirror.daemon.control(["set", Mirror.pair, "Resume", "--plan"] + more)
        #expect(plan.output.contains("Undo ") == more.isEmpty, "\(plan)")
        let outcome = try mirror.daemon.control(["set", Mirror.pair, "Resume"] + more)
        #expect(outcome.isSuccess, "\(outcome)")
        try mirror.daemon.wait(for: "some of the copy is done") {
            try mirror.daemon.pair(Mirror.pair).copy?.writtenByteCount ?? 0 >= 2 * mebibyte
        }
        try mirror.daemon.controls("pair", "resync", Mirror.pair, "--pause")
        #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Unsynchronized")
    }

    func target() throws -> Data { try Data(contentsOf: URL(filePath: mirror.target)) }

    var folder: String { "\(mirror.daemon.stateDirectory)/pairs" }

    func area() throws -> String { try "\(folder)/\(mirror.daemon.pair(Mirror.pair).id).undo" }

    func allocatedByteCount() throws -> Int {
        var facts = Glibc.stat()
        #expect(try stat(area(), &facts) == 0)
        return Int(facts.st_blocks) * 512
    }

    /// The room is given back soon after the copy has ended.
    func expectEmpty() throws {
        try mirror.daemon.wait(for: "the undo area is empty") { try allocatedByteCount() == 0 }
    }
}
