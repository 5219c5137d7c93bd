import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// The source of a pair between two hosts gets back what the other host has.
    @Suite(
        "A restore between two hosts",
        RequirementTrait(requirements: HostPair.requirements + [.tool("nbdinfo"), .tool("qemu-io")])
    )
    struct HostRestoreTests {
        @Test("shows the restored data at once, keeps what is written meanwhile, and Resume makes both equal")
        func restored() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.mirror.write(0x11, hosts.mirror.uri, at: 0, mebibytes: 32)
                try hosts.create()
                try hosts.mirror.set("Suspend", "Suspended")
                try hosts.mirror.write(0x22, hosts.mirror.uri, at: 0, mebibytes: 32)
                let plan = try hosts.north.controls("set", Mirror.pair, "RestoreFromReplica", "--plan")
                #expect(plan.contains("Restored") && plan.contains("32"), "\(plan)")
                try hosts.mirror.set("RestoreFromReplica")
                try hosts.waitUntilRestoreHasBegun()
                #expect(try hosts.mirror.holds(0x11, hosts.mirror.uri, at: 31), "restored from the first moment")
                try hosts.mirror.write(0x33, hosts.mirror.uri, at: 16)
                try hosts.waitForCopyState("Restored")
                #expect(try hosts.pair().progressStatus.number == 25, "it waits for Resume")
                #expect(try hosts.mirror.holds(0x11, hosts.mirror.uri, at: 0, mebibytes: 16))
                #expect(try hosts.mirror.holds(0x33, hosts.mirror.uri, at: 16), "what was written meanwhile is kept")
                #expect(try hosts.mirror.holds(0x11, hosts.mirror.uri, at: 17, mebibytes: 15))
                try hosts.mirror.set("Resume", "Synchronized")
                try hosts.expectEqual("both have the restored data and what was written since")
            }
        }

        @Test(
            "goes on by itself after the link was lost and the daemon was killed, and never serves what is half restored"
        )
        func interrupted() throws {
            try withTestBed { bed in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.mirror.write(0x11, hosts.mirror.uri, at: 0, mebibytes: 48)
                try hosts.create()
                try hosts.mirror.set("Suspend", "Suspended")
                try hosts.mirror.write(0x22, hosts.mirror.uri, at: 0, mebibytes: 48)
                try network.limit(megabitsPerSecond: 32)
                try hosts.mirror.set("RestoreFromReplica")
                try hosts.waitUntilRestoreHasBegun()
                #expect(try hosts.mirror.holds(0x11, hosts.mirror.uri, at: 47))
                try hosts.mirror.write(0x33, hosts.mirror.uri, at: 47)
                try network.setSilent(true)
                try hosts.north.wait(for: "the link is lost", atMost: .hang) {
                    try hosts.pair().reason?.isEmpty == false
                }
                #expect(try hosts.pair().copyState.name == "Suspended")
                #expect(try !hosts.mirror.holds(0x22, hosts.mirror.uri, at: 46), "it is not current")
                #expect(try !hosts.mirror.holds(0x11, hosts.mirror.uri, at: 46), "and what is cannot be had")
                try hosts.mirror.write(0x44, hosts.mirror.uri, at: 60)
                #expect(try hosts.mirror.holds(0x33, hosts.mirror.uri, at: 47))
                try hosts.north.kill()
                try network.setSilent(false)
                try hosts.startNorth()
                try hosts.waitForCopyState("Restored")
                for (pattern, place) in [(0x11, 0), (0x11, 46), (0x33, 47), (0x44, 60)] as [(UInt8, UInt64)] {
                    #expect(try hosts.mirror.holds(pattern, hosts.mirror.uri, at: place), "at \(place) MiB")
                }
                try hosts.mirror.set("Resume", "Synchronized")
                try hosts.expectEqual("both have the restored data and what was written since")
            }
        }

        @Test("undoes a takeover that was a mistake")
        func takeoverUndone() throws {
            try withTestBed { bed in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.create()
                try network.setSilent(true)
                try hosts.waitForCopyState("Partitioned")
                try hosts.mirror.write(0x61, hosts.mirror.uri, at: 40)
                try hosts.south.waitUntilSourceIsGone()
                try hosts.south.controls("set", Mirror.pair, "Failover", "--force")
                try hosts.mirror.write(0x62, hosts.copyURI, at: 41)
                try network.setSilent(false)
                try hosts.waitForReplica(on: hosts.north)
                try hosts.set("ReverseRoles", "Suspended", on: hosts.south, isForced: true)
                try hosts.set("RestoreFromReplica", "Restored", on: hosts.south)
                #expect(try hosts.mirror.holds(0x61, hosts.copyURI, at: 40), "what the cut off host went on with")
                #expect(try !hosts.mirror.holds(0x62, hosts.copyURI, at: 41), "the mistake is given up")
                try hosts.set("Resume", "Synchronized", on: hosts.south)
                try hosts.set("ReverseRoles", "Synchronized", on: hosts.south)
                #expect(try hosts.isVolumeExported() && !hosts.isCopyExported())
                #expect(try hosts.mirror.holds(0x61, hosts.mirror.uri, at: 40))
                try hosts.expectEqual("both are equal, where they were")
            }
        }
    }
}

extension HostPair {
    fileprivate func waitUntilRestoreHasBegun() throws {
        try north.wait(for: "the restore has begun") {
            let pair = try pair()
            return pair.progressStatus.number == 8 || pair.copyState.name == "Restored"
        }
    }
}
