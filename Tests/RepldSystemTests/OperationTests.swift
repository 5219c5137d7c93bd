import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// The operations of SetReplicationRelationship, on real data and under load.
    @Suite(
        "An operation",
        .requires(
            .root,
            .loopDevices,
            .product("repld"),
            .product("replctl"),
            .tool("fio"),
            .tool("nbdinfo"),
            .tool("nbdcopy"),
            .tool("qemu-io")
        )
    )
    struct OperationTests {
        @Test("Split leaves a point in time that hosts can use, and ResyncReplica takes it back")
        func split() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                try mirror.write(0x11, mirror.uri, at: 0)
                #expect(try !mirror.isTargetExported(), "in Synchronized the target is nobody's")
                let fio = try mirror.startFio(byteCount: 16 * mebibyte, offset: 32 * mebibyte, writesPerSecond: 2000)
                try mirror.waitForWrites(500)
                try mirror.set("Split", "Split")
                try mirror.write(0x22, mirror.uri, at: 0)
                #expect(try mirror.holds(0x11, mirror.targetURI, at: 0), "the target keeps its point in time")
                try mirror.write(0x33, mirror.targetURI, at: 8)
                #expect(try mirror.holds(0, mirror.uri, at: 8), "the source does not get what the target's hosts write")
                try mirror.expectNoError(fio, byteCount: 16 * mebibyte)
                let split = try mirror.daemon.pair(Mirror.pair)
                #expect(split.copyState.number == 7)
                let differing = split.dirtyByteCount ?? 0
                #expect(differing >= 2 * mebibyte && differing <= 20 * mebibyte, "\(differing) bytes may differ")
                try mirror.set("ResyncReplica", "Synchronized")
                #expect(try !mirror.isTargetExported())
                #expect(try mirror.daemon.pair(Mirror.pair).copy?.totalByteCount ?? .max <= differing)
                try mirror.expectEqual("the target has the source's data again")
                #expect(try mirror.holds(0x22, mirror.uri, at: 0))
            }
        }

        @Test("Failover and Failback move a host that writes all the while, and it notices nothing")
        func failoverAndFailback() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 32 * mebibyte, writesPerSecond: 1500)
                try mirror.waitForWrites(1000)
                try mirror.set("Failover", "Failedover")
                let failedOver = try mirror.daemon.activity(Mirror.volume).writeCount
                try mirror.waitForWrites(failedOver + 1000)
                #expect(try !bed.areEqual(mirror.source, mirror.target), "hosts are with the target")
                try mirror.set("Failback", "Synchronized")
                #expect(fio.isRunning, "all of that happened under load")
                try mirror.expectNoError(fio, byteCount: 32 * mebibyte)
                try mirror.expectEqual("both elements have every byte that fio wrote")
                #expect(try mirror.daemon.activity(Mirror.volume).failedRequestCount == 0)
                let pair = try mirror.daemon.pair(Mirror.pair)
                #expect(pair.sourcePath == mirror.source && pair.targetPath == mirror.target)
            }
        }

        @Test("ReverseRoles exchanges the elements under a host, for good")
        func reverseRoles() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 16 * mebibyte, writesPerSecond: 2000)
                try mirror.waitForWrites(500)
                try mirror.set("ReverseRoles")
                try mirror.daemon.wait(for: "the roles are reversed") {
                    try mirror.daemon.pair(Mirror.pair).sourcePath == mirror.target
                }
                try mirror.expectNoError(fio, byteCount: 16 * mebibyte)
                #expect(try mirror.daemon.pair(Mirror.pair).targetPath == mirror.source)
                try mirror.expectEqual("both elements are equal")
                // What is written now, with the old source suspended, is on the new source alone; a restart keeps it.
                try mirror.set("Suspend", "Suspended")
                try mirror.write(0x44, mirror.uri, at: 40)
                try mirror.daemon.kill()
                try mirror.daemon.start()
                #expect(try mirror.holds(0x44, mirror.uri, at: 40), "the new source serves")
                try mirror.set("Resume", "Synchronized")
                try mirror.expectEqual("both elements are equal again")
                // Without the pair the volume stays with the element that has its data.
                try mirror.set("Detach")
                try mirror.write(0x55, mirror.uri, at: 41)
                try mirror.daemon.kill()
                try mirror.daemon.start()
                #expect(try mirror.holds(0x55, mirror.uri, at: 41))
                #expect(try mirror.daemon.volume(Mirror.volume).byteCount == 64 * mebibyte)
            }
        }

        @Test("RestoreFromReplica shows the restored data at once, and keeps what is written meanwhile")
        func restore() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 256 * mebibyte)
                try mirror.write(0x11, mirror.uri, at: 0, mebibytes: 128)
                try mirror.create()
                try mirror.set("Split", "Split")
                try mirror.write(0x66, mirror.uri, at: 0, mebibytes: 128)
                try mirror.write(0x77, mirror.targetURI, at: 200)
                #expect(try mirror.holds(0x66, mirror.uri, at: 100))
                try mirror.set("RestoreFromReplica")
                try mirror.daemon.wait(for: "the restore has begun") {
                    let pair = try mirror.daemon.pair(Mirror.pair)
                    return pair.progressStatus.number == 8 || pair.copyState.number == 18
                }
                #expect(
                    try mirror.holds(0x11, mirror.uri, at: 127),
                    "the last megabyte is restored from the first moment"
                )
                try mirror.write(0x12, mirror.uri, at: 64)
                try mirror.daemon.waitForCopyState("Restored", of: Mirror.pair)
                #expect(try mirror.holds(0x11, mirror.uri, at: 0, mebibytes: 64))
                #expect(try mirror.holds(0x12, mirror.uri, at: 64), "what was written during the restore is kept")
                #expect(try mirror.holds(0x11, mirror.uri, at: 65, mebibytes: 63))
                #expect(try mirror.holds(0x77, mirror.uri, at: 200), "what the target's hosts wrote is restored")
                try mirror.expectEqual("in Restored both elements are equal")
                #expect(try mirror.daemon.pair(Mirror.pair).progressStatus.number == 25, "it waits for Resume")
                try mirror.set("Resume", "Synchronized")
                try mirror.write(0x13, mirror.uri, at: 65)
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.expectEqual("the pair mirrors again")
            }
        }

        @Test("Failover leaves a source behind that hangs, and the host goes on without an error")
        func failoverFromHangingSource() throws {
            try withTestBed { bed in
                let (folder, source) = try bed.freezableFile("source", byteCount: 64 * mebibyte)
                let target = try bed.loopDevice("target", byteCount: 64 * mebibyte)
                let mirror = try bed.mirror(
                    source: source,
                    target: target.path,
                    configuration: "pair-defaults:\n  target-timeout: 10s\n"
                )
                try mirror.create()
                let fio = try mirror.startFio(byteCount: 16 * mebibyte, writesPerSecond: 2000)
                try mirror.waitForWrites(500)
                try bed.runs("fsfreeze", ["--freeze", folder])
                try mirror.set("Failover", "Failedover")
                try mirror.expectNoError(fio, byteCount: 16 * mebibyte)
                try bed.runs("fsfreeze", ["--unfreeze", folder])
                try mirror.set("Failback", "Synchronized")
                #expect(try mirror.daemon.stop() == .exited(0))
                try mirror.expectEqual("the old source has all of it")
            }
        }

        @Test("that a kill interrupts goes on, and hosts are served by the element that has their data")
        func killed() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 256 * mebibyte)
                try bed.fill(mirror.source, mebibytes: 128)
                try mirror.create()
                try mirror.set("Failover", "Failedover")
                try mirror.write(0x21, mirror.uri, at: 5)
                try mirror.daemon.kill()
                try mirror.daemon.start()
                #expect(try mirror.daemon.pair(Mirror.pair).copyState.number == 10)
                #expect(try mirror.holds(0x21, mirror.uri, at: 5), "the target serves after the kill")
                try mirror.set("Failback")
                try mirror.write(0x22, mirror.uri, at: 6)
                try mirror.daemon.kill()
                try mirror.daemon.start()
                #expect(try mirror.holds(0x22, mirror.uri, at: 6), "what was written during the failback is there")
                try mirror.daemon.waitForCopyState("Synchronized", of: Mirror.pair)
                try mirror.expectEqual("the failback was taken up and finished")
                try mirror.set("Split", "Split")
                try mirror.write(0x23, mirror.uri, at: 0, mebibytes: 64)
                try mirror.write(0x24, mirror.targetURI, at: 7)
                try mirror.daemon.kill()
                try mirror.daemon.start()
                #expect(try mirror.holds(0x24, mirror.targetURI, at: 7), "the target is still its hosts'")
                try mirror.set("RestoreFromReplica")
                try mirror.write(0x25, mirror.uri, at: 8)
                try mirror.daemon.kill()
                try mirror.daemon.start()
                try mirror.daemon.waitForCopyState("Restored", of: Mirror.pair)
                for (pattern, place) in [(0x21, 5), (0x22, 6), (0x24, 7), (0x25, 8)] as [(UInt8, UInt64)] {
                    #expect(try mirror.holds(pattern, mirror.uri, at: place))
                }
                try mirror.expectEqual("the restore was taken up and finished")
            }
        }

        @Test("of every other kind does what the table says, by number and by name")
        func everyOther() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 32 * mebibyte)
                try mirror.daemon.controls(
                    "pair",
                    "create",
                    "--source",
                    Mirror.volume,
                    "--target",
                    mirror.target,
                    "--name",
                    Mirror.pair,
                    "--no-activate"
                )
                let steps: [(operation: String, state: String)] = [
                    ("24", "Prepared"), ("Activate", "Synchronized"), ("suspend", "Suspended"), ("12", "Fractured"),
                    ("Unprepare", "Prepared"), ("DEACTIVATE", "Inactive"), ("4", "Synchronized"), ("7", "Inactive"),
                    ("Prepare", "Prepared"), ("2", "Aborted"), ("resync-replica", "Synchronized"),
                    ("ResetToAsync", "Synchronized"), ("17", "Synchronized"), ("Fracture", "Fractured"),
                    ("ResyncReplica", "Synchronized"), ("22", "Suspended"), ("16", "Synchronized"),
                ]
                for step in steps {
                    try mirror.set(step.operation, step.state)
                    // What the pair does not mirror now, it has to remember.
                    try mirror.write(UInt8.random(in: 1...255), mirror.uri, at: UInt64.random(in: 0..<32))
                    if step.state == "Synchronized" { try mirror.expectEqual("after \(step.operation)") }
                }
                #expect(try mirror.refuses("AddSyncPair").contains("group"))
                #expect(
                    try mirror.refuses("RestoreFromReplica", isForced: true).contains("Split"),
                    "it says from where"
                )
                try mirror.set("Dissolve")
                #expect(try !mirror.daemon.control(["pair", "show", Mirror.pair]).isSuccess, "the pair is gone")
                try mirror.create()
                try mirror.expectEqual("a later pair of the same elements starts from what it finds")
            }
        }

        @Test("is refused where it would lose data, and says what")
        func refusals() throws {
            try withTestBed { bed in
                let mirror = try bed.mirror(byteCount: 64 * mebibyte)
                try mirror.create()
                try mirror.set("Suspend", "Suspended")
                try mirror.write(0x31, mirror.uri, at: 3)
                let words = try mirror.refuses("Failover")
                #expect(words.contains("force") && words.contains("Suspended"), "\(words)")
                #expect(try mirror.holds(0x31, mirror.uri, at: 3), "nothing was changed")
                try mirror.set("Failover", "Failedover", isForced: true)
                #expect(try mirror.holds(0, mirror.uri, at: 3), "the target never had it")
                try mirror.write(0x32, mirror.uri, at: 4)
                #expect(try mirror.refuses("Failback").contains("force"))
                try mirror.set("Failback", "Synchronized", isForced: true)
                #expect(try mirror.holds(0x32, mirror.uri, at: 4) && mirror.holds(0, mirror.uri, at: 3))
                try mirror.expectEqual("both elements are equal again")
                #expect(try mirror.refuses("Activate 99").isEmpty == false)
                #expect(try mirror.refuses("28").contains("28"))
            }
        }
    }
}

extension TestBed {
    /// A file on a file system that can be frozen, and with it every write to the file; thawed at the end.
    func freezableFile(_ name: String, byteCount: UInt64) throws -> (folder: String, path: String) {
        let medium = try loopDevice("medium-\(name)", byteCount: byteCount + 96 * mebibyte)
        try runs("mkfs.ext4", ["-q", medium.path])
        let folder = path("mounted-\(name)")
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: false)
        try runs("mount", [medium.path, folder])
        onCleanup("unmount \(folder)") { [unowned self] in try runs("umount", ["--lazy", folder]) }
        try runs("truncate", ["--size=\(byteCount)", "\(folder)/\(name)"])
        onCleanup("thaw \(folder)") { [unowned self] in _ = try run("fsfreeze", ["--unfreeze", folder]) }
        return (folder, "\(folder)/\(name)")
    }
}
