import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// An element that is not what it was when the daemon ended: never taken for Synchronized in silence.
    @Suite(
        "A replaced element",
        .requires(.root, .product("repld"), .product("replctl"), .pythonModule("nbd"))
    )
    struct ReplacedElementTests {
        /// What lies in the element's place now.
        enum Replacement: String, CaseIterable { case smaller, larger, other, blank, gone }

        private static let byteCount = 16 * mebibyte

        /// A Synchronized pair of two files, whose daemon has ended.
        private func ended(
            _ bed: TestBed,
            _ torture: inout Torture,
            isKilled: Bool
        ) throws -> (mirror: Mirror, writes: NumberedWrites) {
            let (mirror, writes) = try Mirror.numbered(
                bed,
                source: try bed.file("source", byteCount: Self.byteCount),
                target: try bed.file("target", byteCount: Self.byteCount),
                byteCount: Self.byteCount
            )
            try mirror.create()
            try writes.write(300, seed: torture.nextSeed())
            if isKilled {
                try mirror.daemon.kill()
            } else {
                #expect(try mirror.daemon.stop() == .exited(0))
            }
            return (mirror, writes)
        }

        /// Puts something else in the place of an element, which is kept beside it.
        private func replace(_ path: String, by replacement: Replacement, _ bed: TestBed) throws {
            try FileManager.default.moveItem(atPath: path, toPath: path + ".kept")
            let name = (path as NSString).lastPathComponent
            switch replacement {
            case .gone: return
            case .blank: _ = try bed.file(name, byteCount: Self.byteCount)
            case .other: _ = try bed.file(name, byteCount: Self.byteCount)
            case .smaller: _ = try bed.file(name, byteCount: Self.byteCount - 4 * mebibyte)
            case .larger: _ = try bed.file(name, byteCount: Self.byteCount + 4 * mebibyte)
            }
            if replacement != .blank { try bed.fill(path, mebibytes: 4, at: 3) }
        }

        private func putBack(_ path: String) throws {
            try? FileManager.default.removeItem(atPath: path)
            try FileManager.default.moveItem(atPath: path + ".kept", toPath: path)
        }

        /// Whether the beginnings of both elements are equal, as far as the volume goes.
        private func areEqual(_ mirror: Mirror) throws -> Bool {
            let arguments = ["--bytes=\(Self.byteCount)", mirror.source, mirror.target]
            return try mirror.bed.run("cmp", arguments).isSuccess
        }

        @Test(
            "in the target's place is refused, or left alone until ResyncReplica overwrites all of it",
            arguments: Replacement.allCases,
            [true, false]
        )
        func target(replacement: Replacement, isKilled: Bool) throws {
            try Torture.run("target \(replacement), killed: \(isKilled)") { bed, torture in
                let (mirror, writes) = try ended(bed, &torture, isKilled: isKilled)
                try replace(mirror.target, by: replacement, bed)
                let isThere = replacement != .gone
                if isThere { try bed.runs("cp", [mirror.target, mirror.target + ".found"]) }
                try mirror.daemon.start(mirror.configured)
                try writes.check("the volume is served")
                let pair = try mirror.daemon.pair(Mirror.pair)
                switch replacement {
                case .smaller, .gone:
                    #expect(pair.copyState.name != "Synchronized" && pair.copyState.name != "Unsynchronized")
                    let reason = pair.reason ?? ""
                    #expect(reason.contains(mirror.target) || reason.contains("too small"), "it says why: \(reason)")
                    try writes.write(100, seed: torture.nextSeed())
                    #expect(try mirror.daemon.stop() == .exited(0))
                    try putBack(mirror.target)
                    try mirror.daemon.start(mirror.configured)
                    try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                    try mirror.expectWhole(writes, "the old target caught up")
                case .larger, .other, .blank:
                    #expect(pair.copyState.name == "Broken")
                    #expect(pair.reason?.contains("is not the target that the pair had") == true, "\(pair)")
                    try writes.write(100, seed: torture.nextSeed())
                    #expect(try mirror.daemon.stop() == .exited(0))
                    #expect(try bed.run("cmp", [mirror.target, mirror.target + ".found"]).isSuccess, "left alone")
                    try mirror.daemon.start(mirror.configured)
                    #expect(try mirror.daemon.pair(Mirror.pair).reason == pair.reason, "a restart keeps it")
                    try mirror.set("ResyncReplica", "Synchronized")
                    #expect(try areEqual(mirror))
                    let copied = try mirror.daemon.copiedByteCounts(Mirror.pair)
                    #expect(copied.examined == Self.byteCount, "nothing of another target is known")
                }
            }
        }

        /// What the source's place holds now must not be served for the volume's data, nor copied over the last good copy.
        @Test(
            "in the source's place is not served for it, and not copied over the target",
            arguments: Replacement.allCases,
            [true, false]
        )
        func source(replacement: Replacement, isKilled: Bool) throws {
            try Torture.run("source \(replacement), killed: \(isKilled)") { bed, torture in
                let (mirror, writes) = try ended(bed, &torture, isKilled: isKilled)
                // After a kill the two may differ in what was under way; nothing was.
                #expect(try areEqual(mirror))
                try replace(mirror.source, by: replacement, bed)
                try mirror.daemon.start(mirror.configured)
                let refusal = try mirror.refusal()
                #expect(refusal?.contains(mirror.source) == true, "\(refusal ?? "served")")
                #expect(refusal?.contains("Detach") == true, "it names the way out")
                #expect(try mirror.refuses("Detach").contains("force"))
                #expect(try bed.run("cmp", [mirror.source + ".kept", mirror.target]).isSuccess)
                try putBack(mirror.source)
                try mirror.daemon.controls("volume", "retry", Mirror.volume)
                try writes.check("served again")
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                try mirror.expectWhole(writes, "synchronized again")
            }
        }

        @Test("is none when both are as they were: a clean stop costs no copy")
        func neither() throws {
            try Torture.run("nothing replaced") { bed, torture in
                let (mirror, writes) = try ended(bed, &torture, isKilled: false)
                try mirror.daemon.start(mirror.configured)
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.name == "Synchronized")
                let copied = try mirror.daemon.copiedByteCounts(Mirror.pair)
                #expect(copied.examined <= CopyBound.afterCleanStop, "\(copied)")
                try mirror.expectWhole(writes, "it is")
            }
        }
    }
}
