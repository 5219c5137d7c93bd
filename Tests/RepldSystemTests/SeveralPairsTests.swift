import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// One source with targets on two other hosts, of which one takes its hosts over: three daemons.
    @Suite(
        "Hosts of a volume with pairs to two hosts",
        RequirementTrait(requirements: HostPair.requirements + [.tool("fio"), .tool("nbdinfo"), .tool("qemu-io")])
    )
    struct SeveralPairsTests {
        @Test("move under load to one of them and back, and the other gets just what was written meanwhile")
        func planned() throws {
            try withTestBed { bed in
                let hosts = try ThreeHosts(bed)
                let (pair, mirror) = (hosts.pair, hosts.pair.mirror)
                let fio = try mirror.startFio(byteCount: 48 * mebibyte, writesPerSecond: 1500)
                try mirror.waitForWrites(500)
                try pair.set("Failover", "Failedover", on: pair.north)
                // It does not always notice that its server is gone.
                fio.send(SIGKILL)
                _ = try fio.wait(atMost: .hang)
                try pair.expectEqual("the other host has every byte")
                #expect(try pair.north.pair(ThreeHosts.other).copyState.name == "Suspended")
                try hosts.expectOtherEqual("the third has what hosts had when they went")
                let refused = try pair.north.control(["set", ThreeHosts.other, "Resume", "--force"])
                #expect(!refused.isSuccess && refused.errors.contains("replica"), "\(refused)")
                try mirror.write(0x71, pair.copyURI, at: 7)
                try pair.set("Failback", "Synchronized", on: pair.south)
                try pair.north.waitForCopyState("Synchronized", of: ThreeHosts.other)
                #expect(try mirror.holds(0x71, mirror.uri, at: 7))
                try pair.expectEqual("both hosts have what was written on the other")
                try hosts.expectOtherEqual("and so has the third")
                // Hosts that had flushed what they wrote: nothing else may differ.
                try mirror.write(0x74, mirror.uri, at: 10)
                try pair.set("ReverseRoles", "Synchronized", on: pair.north)
                try mirror.write(0x75, pair.copyURI, at: 11)
                try pair.set("ReverseRoles", "Synchronized", on: pair.north)
                try pair.north.waitForCopyState("Synchronized", of: ThreeHosts.other)
                try hosts.expectOtherEqual("again")
                let copy = try pair.north.pair(ThreeHosts.other).copy
                #expect((copy?.totalByteCount ?? .max) <= 2 * mebibyte, "\(String(describing: copy))")
            }
        }

        @Test(
            "are served by one when their host is killed; it comes back as the replica, and the third host's pair rests"
        )
        func unplanned() throws {
            try withTestBed { bed in
                let hosts = try ThreeHosts(bed)
                let (pair, mirror) = (hosts.pair, hosts.pair.mirror)
                try mirror.write(0x72, mirror.uri, at: 8)
                try pair.north.kill()
                try pair.south.waitUntilSourceIsGone()
                try pair.south.controls("set", Mirror.pair, "Failover")
                try mirror.write(0x73, pair.copyURI, at: 9)
                try pair.startNorth()
                try pair.waitForReplica(on: pair.north)
                try pair.north.waitForCopyState("Suspended", of: ThreeHosts.other)
                #expect(try pair.north.stop() == .exited(0))
                try pair.startNorth()
                #expect(try !pair.isVolumeExported(), "a replica is nobody's")
                #expect(try pair.north.pair(ThreeHosts.other).copyState.name == "Suspended")
                try pair.north.waitForPeer("south")
                try pair.north.waitForPeer("west")
                try pair.set("Failback", "Synchronized", on: pair.south)
                try pair.north.waitForCopyState("Synchronized", of: ThreeHosts.other)
                #expect(try mirror.holds(0x72, mirror.uri, at: 8))
                #expect(try mirror.holds(0x73, mirror.uri, at: 9))
                try pair.expectEqual("both are equal again")
                try hosts.expectOtherEqual("and so is the third")
            }
        }

        @Test("get a new pair where they are, which rests when they leave and goes on when they return")
        func pairsOfTheOtherHost() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.set("Failover", "Failedover", on: hosts.north)
                let element = try bed.file("second", byteCount: 64 * mebibyte)
                let arguments = ["--source", HostPair.copy, "--target", element, "--name", ThreeHosts.other, "--wait"]
                let made = try hosts.south.control(["pair", "create"] + arguments)
                #expect(made.isSuccess, "\(made)")
                try hosts.mirror.write(0x76, hosts.copyURI, at: 12)
                try hosts.set("Failback", "Synchronized", on: hosts.south)
                #expect(try hosts.south.pair(ThreeHosts.other).copyState.name == "Suspended")
                try hosts.mirror.write(0x77, hosts.mirror.uri, at: 13)
                try hosts.set("ReverseRoles", "Synchronized", on: hosts.north)
                try hosts.south.waitForCopyState("Synchronized", of: ThreeHosts.other)
                for offset in [12, 13] as [UInt64] {
                    #expect(try hosts.mirror.holds(offset == 12 ? 0x76 : 0x77, hosts.copyURI, at: offset))
                }
                try hosts.expectEqual("the pair that moved")
                let outcome = try bed.run("cmp", [hosts.mirror.target, element])
                #expect(outcome.isSuccess, "the pair that rested: \(outcome)")
            }
        }
    }
}

/// Two hosts with their pair, and a third one, `west`, with the target of a pair of the same volume.
private struct ThreeHosts {
    static let other = "q"
    let pair: HostPair
    let west: Daemon
    private let element: String

    init(_ bed: TestBed) throws {
        pair = try HostPair(bed)
        try pair.create()
        element = try bed.file("third", byteCount: 64 * mebibyte)
        west = try Daemon(bed: bed, name: "west")
        let address = pair.southAddress.replacing(":7734", with: ":7735")
        try west.start(["--peer-listen", address])
        try west.controls("volume", "add", "third", "--element", element)
        try west.controls("peer", "add", "north", "--address", pair.northAddress, "--key-file", pair.keyFile)
        try pair.north.controls("peer", "add", "west", "--address", address, "--key-file", pair.keyFile)
        try pair.north.waitForPeer("west")
        try west.waitForPeer("north")
        let arguments = ["--source", Mirror.volume, "--target", "repl://west/third", "--name", Self.other, "--wait"]
        let outcome = try pair.north.control(["pair", "create"] + arguments)
        #expect(outcome.isSuccess, "\(outcome)")
    }

    func expectOtherEqual(_ words: String) throws {
        let outcome = try pair.bed.run("cmp", [pair.mirror.source, element])
        #expect(outcome.isSuccess, "\(words): \(outcome)")
    }
}
