import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// A host is put back to what a backup of it has, element and metadata: two real daemons.
    @Suite(
        "A host that is restored from a backup",
        .requires(
            .root,
            .product("repld"),
            .product("replctl"),
            .tool("nbdinfo"),
            .tool("qemu-io")
        )
    )
    struct BackupTests {
        @Test("as the source copies nothing over what is newer, says what each side has, and gets the newer data back")
        func source() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.mirror.write(0x11, hosts.mirror.uri, at: 1)
                #expect(try hosts.north.stop() == .exited(0))
                let backup = try hosts.backUp(["source", "state-north"])
                try hosts.startNorth()
                try hosts.waitForCopyState("Synchronized")
                try hosts.mirror.write(0x22, hosts.mirror.uri, at: 1)
                #expect(try hosts.north.stop() == .exited(0))
                try hosts.restore(backup)
                try hosts.startNorth()
                try hosts.waitForCopyState("Invalid")
                let reason = try hosts.pair().reason ?? ""
                #expect(reason.contains("older than what the peer has heard") && reason.contains("at the peer: record"))
                let refused = try hosts.north.control(["set", Mirror.pair, "ResyncReplica"])
                #expect(!refused.isSuccess && refused.errors.contains("force"), "\(refused)")
                try hosts.set("RestoreFromReplica", "Restored", on: hosts.north, isForced: true)
                #expect(try hosts.mirror.holds(0x22, hosts.mirror.uri, at: 1), "what was written after the backup")
                try hosts.mirror.set("Resume", "Synchronized")
                try hosts.expectEqual("both are equal again")
            }
        }

        @Test("as the replica gets all that it lacks, although nothing is known to differ")
        func replica() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.mirror.write(0x11, hosts.mirror.uri, at: 1)
                #expect(try hosts.south.stop() == .exited(0))
                let backup = try hosts.backUp(["target", "state-south"])
                try hosts.startSouth()
                try hosts.waitForCopyState("Synchronized")
                try hosts.mirror.write(0x22, hosts.mirror.uri, at: 1)
                try hosts.mirror.set("Suspend", "Suspended")
                try hosts.mirror.set("Resume", "Synchronized")
                #expect(try hosts.south.stop() == .exited(0))
                try hosts.waitForCopyState("Partitioned")
                try hosts.restore(backup)
                try hosts.startSouth()
                try hosts.waitForCopyState("Synchronized")
                #expect(try hosts.mirror.holds(0x22, hosts.mirror.uri, at: 1))
                try hosts.expectEqual("the replica has what its backup had not")
            }
        }
    }
}

extension HostPair {
    /// Copies files and folders of the test's folder, with their names.
    fileprivate func backUp(_ names: [String]) throws -> [String] {
        for name in names { try bed.runs("cp", ["-a", "--sparse=always", bed.path(name), bed.path("backup-\(name)")]) }
        return names
    }

    fileprivate func restore(_ names: [String]) throws {
        for name in names {
            // In place: an element has to stay the same file.
            if try bed.run("test", ["-d", bed.path(name)]).isSuccess { try bed.runs("rm", ["-r", bed.path(name)]) }
            try bed.runs("cp", ["-a", "--no-target-directory", bed.path("backup-\(name)"), bed.path(name)])
        }
    }
}
