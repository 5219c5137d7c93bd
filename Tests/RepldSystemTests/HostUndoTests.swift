import Foundation
import RepldTestSupport
import Testing

extension SystemTests {
    /// A copy to another host that is interrupted: real daemons, and a link that is slow enough to be found in the middle of it.
    @Suite(
        "A copy to another host",
        RequirementTrait(requirements: HostPair.requirements + [.tool("nbdinfo"), .tool("qemu-io")])
    )
    struct HostUndoTests {
        private static let mebibytes: UInt64 = 24

        @Test("that its source does not survive is taken back by Failover, also after kills of the replica's daemon")
        func takenBack() throws {
            try Torture.run("a copy that is taken back") { bed, torture in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.create()
                try hosts.mirror.write(0x31, hosts.mirror.uri, at: 0, mebibytes: Self.mebibytes)
                try hosts.set("Suspend", "Suspended", on: hosts.north)
                try hosts.mirror.write(0x32, hosts.mirror.uri, at: 0, mebibytes: Self.mebibytes)
                try network.limit(megabitsPerSecond: 40)
                try hosts.north.controls("set", Mirror.pair, "Resume")
                try hosts.waitUntilKept(moreThan: 0)
                try torture.pause(atMostMicroseconds: 500_000)
                try hosts.south.kill()
                try hosts.startSouth()
                try hosts.waitUntilKept(moreThan: try hosts.keptByteCount())
                try torture.pause(atMostMicroseconds: 300_000)
                try hosts.north.kill()
                try hosts.south.waitUntilSourceIsGone()
                let kept = try hosts.keptByteCount()
                #expect(kept > 0 && kept < Self.mebibytes * mebibyte, "the copy was under way: \(kept) bytes")
                let refused = try hosts.south.control(["set", Mirror.pair, "Failover"])
                #expect(!refused.isSuccess && refused.errors.contains("is taken back"), "\(refused)")
                try hosts.set("Failover", "Failedover", on: hosts.south, isForced: true)
                #expect(try hosts.mirror.holds(0x31, hosts.copyURI, at: 0, mebibytes: Self.mebibytes))
                try hosts.mirror.write(0x33, hosts.copyURI, at: 5)
                try network.unlimit()
                try hosts.startNorth()
                try hosts.waitForReplica(on: hosts.north)
                // Each of the two connects by itself.
                try hosts.south.waitForPeer("north")
                try hosts.set("Failback", "Synchronized", on: hosts.south, isForced: true)
                try hosts.expectEqual("both have what was taken back, and what was written since")
                #expect(try hosts.mirror.holds(0x33, hosts.mirror.uri, at: 5))
                #expect(try hosts.mirror.holds(0x31, hosts.mirror.uri, at: 0, mebibytes: 5))
                // The file has not gone with those of the pair that was here meanwhile.
                _ = try hosts.undoAllocation()
            }
        }

        @Test("that comes to its end gives the room back that what it has overwritten took")
        func ended() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.set("Suspend", "Suspended", on: hosts.north)
                try hosts.mirror.write(0x32, hosts.mirror.uri, at: 0, mebibytes: Self.mebibytes)
                let plan = try hosts.north.controls("set", Mirror.pair, "Resume", "--plan")
                #expect(plan.contains("Undo  "), "\(plan)")
                try hosts.set("Resume", "Synchronized", on: hosts.north)
                try hosts.expectEqual("the copy is there")
                try hosts.south.wait(for: "the undo area to be empty") {
                    try hosts.undoAllocation() < UInt64(mebibyte)
                }
            }
        }
    }
}

extension HostPair {
    /// What the replica's daemon has kept of what the copy has overwritten.
    fileprivate func keptByteCount() throws -> UInt64 { try south.replica(Mirror.pair).undoByteCount ?? 0 }

    fileprivate func waitUntilKept(moreThan byteCount: UInt64) throws {
        try south.wait(for: "the copy to go on", atMost: .hang) { try keptByteCount() > byteCount }
    }

    /// The room that the undo areas of the replica's host take.
    fileprivate func undoAllocation() throws -> UInt64 {
        let folder = bed.path("state-south/pairs")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder).filter { $0.hasSuffix(".kept") }
        #expect(names.count == 1)
        return try names.reduce(0) { sum, name in
            let text = try bed.run("stat", ["--format=%b", "\(folder)/\(name)"]).output
            return sum + (UInt64(text.trimmingCharacters(in: .whitespacesAndNewlines)) ?? .max / 512) * 512
        }
    }
}
