import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// Hosts move from one host to the other and back: two daemons on a network of their own.
    @Suite(
        "Hosts of a pair between two hosts",
        RequirementTrait(requirements: HostPair.requirements + [.tool("fio"), .tool("nbdinfo"), .tool("qemu-io")])
    )
    struct HandoverTests {
        @Test("move under load to the other host with all that was written, and back")
        func planned() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                let fio = try hosts.mirror.startFio(byteCount: 48 * mebibyte, writesPerSecond: 1500)
                try hosts.mirror.waitForWrites(500)
                try hosts.set("Failover", "Failedover", on: hosts.north)
                // It does not always notice that its server is gone.
                fio.send(SIGKILL)
                _ = try fio.wait(atMost: .hang)
                try hosts.expectEqual("the other host has every byte")
                #expect(try hosts.isCopyExported() && !hosts.isVolumeExported())
                try hosts.mirror.write(0x41, hosts.copyURI, at: 50)
                for daemon in [hosts.north, hosts.south] {
                    let list = try daemon.controls("pair", "ls")
                    #expect(list.contains("Failedover"), "\(list)")
                }
                try hosts.set("Failback", "Synchronized", on: hosts.north)
                #expect(try hosts.isVolumeExported() && !hosts.isCopyExported())
                #expect(try hosts.mirror.holds(0x41, hosts.mirror.uri, at: 50))
                try hosts.expectEqual("both hosts have what was written on the other")
                #expect(try hosts.pair().role == "source")
            }
        }

        @Test("whose source's host was killed are served by the other, and are not let in when it is back")
        func unplanned() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.mirror.write(0x40, hosts.mirror.uri, at: 49)
                let fio = try hosts.mirror.startFio(byteCount: 48 * mebibyte, writesPerSecond: 1500)
                try hosts.mirror.waitForWrites(500)
                try hosts.north.kill()
                // It does not always notice that its server is gone.
                fio.send(SIGKILL)
                _ = try fio.wait(atMost: .hang)
                try hosts.south.waitUntilSourceIsGone()
                let outcome = try hosts.south.control(["set", Mirror.pair, "Failover"])
                #expect(outcome.isSuccess, "it was Synchronized: \(outcome)")
                #expect(try hosts.mirror.holds(0x40, hosts.copyURI, at: 49), "what was acknowledged is there")
                try hosts.mirror.write(0x41, hosts.copyURI, at: 50)
                let early = try hosts.south.control(["set", Mirror.pair, "Failback"])
                #expect(!early.isSuccess && early.errors.contains("has not told yet"), "\(early)")
                try hosts.startNorth()
                #expect(try !hosts.isVolumeExported(), "what is there is older")
                try hosts.waitForReplica(on: hosts.north)
                #expect(try !hosts.isVolumeExported(), "and a replica is nobody's")
                try hosts.set("Failback", "Synchronized", on: hosts.south)
                #expect(try hosts.isVolumeExported() && !hosts.isCopyExported())
                #expect(try hosts.mirror.holds(0x41, hosts.mirror.uri, at: 50))
                #expect(try hosts.mirror.holds(0x40, hosts.mirror.uri, at: 49))
                try hosts.expectEqual("both are equal again")
            }
        }

        @Test(
            "whose source's host was cut off and went on are sent away there, and lose what only that had by force alone"
        )
        func cutOff() throws {
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
                let fio = try hosts.mirror.startFio(byteCount: 48 * mebibyte, writesPerSecond: 1000)
                try hosts.mirror.waitForWrites(100)
                #expect(fio.isRunning)
                try network.setSilent(false)
                try hosts.waitForReplica(on: hosts.north)
                #expect(try hosts.north.activity(Mirror.volume).connectionCount == 0, "its clients are sent away")
                #expect(try !hosts.isVolumeExported())
                // What it makes of that is its own business.
                fio.send(SIGKILL)
                _ = try fio.wait(atMost: .hang)
                let refused = try hosts.south.control(["set", Mirror.pair, "Failback"])
                #expect(!refused.isSuccess && refused.errors.contains("force"), "\(refused)")
                try hosts.set("Failback", "Synchronized", on: hosts.south, isForced: true)
                #expect(try hosts.mirror.holds(0x62, hosts.mirror.uri, at: 41))
                #expect(try !hosts.mirror.holds(0x61, hosts.mirror.uri, at: 40), "given up by force")
                try hosts.expectEqual("both are equal again")
            }
        }

        @Test("stay with the host that serves them when both daemons are started again")
        func restarted() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.set("Failover", "Failedover", on: hosts.south)
                try hosts.mirror.write(0x51, hosts.copyURI, at: 5)
                for daemon in [hosts.north, hosts.south] { #expect(try daemon.stop() == .exited(0)) }
                try hosts.startSouth()
                #expect(try !hosts.isCopyExported(), "the other host might have taken them back")
                let words = try hosts.south.controls("volume", "show", HostPair.copy)
                #expect(words.contains("withheld: waiting for peer 'north'"), "\(words)")
                try hosts.startNorth()
                try hosts.south.waitUntilServed(HostPair.copy)
                try hosts.mirror.write(0x52, hosts.copyURI, at: 6)
                #expect(try !hosts.isVolumeExported())
                try hosts.set("Failback", "Synchronized", on: hosts.south)
                #expect(try hosts.mirror.holds(0x51, hosts.mirror.uri, at: 5))
                #expect(try hosts.mirror.holds(0x52, hosts.mirror.uri, at: 6))
                try hosts.expectEqual("both are equal again")
            }
        }

        @Test("move with the roles, and the pair stays Synchronized")
        func rolesReversed() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.mirror.write(0x31, hosts.mirror.uri, at: 1)
                try hosts.set("ReverseRoles", "Synchronized", on: hosts.north)
                #expect(try hosts.isCopyExported() && !hosts.isVolumeExported())
                try hosts.mirror.write(0x32, hosts.copyURI, at: 2)
                try hosts.set("ReverseRoles", "Synchronized", on: hosts.north)
                #expect(try hosts.isVolumeExported() && !hosts.isCopyExported())
                #expect(try hosts.mirror.holds(0x31, hosts.mirror.uri, at: 1))
                #expect(try hosts.mirror.holds(0x32, hosts.mirror.uri, at: 2))
                try hosts.expectEqual("both are equal")
            }
        }
    }
}

extension HostPair {
    var copyURI: String { south.uri(Self.copy) }

    /// Whether hosts of the source's own host can choose it.
    func isVolumeExported() throws -> Bool { try bed.run("nbdinfo", ["--size", mirror.uri]).isSuccess }

    /// Carries an operation out and waits for the copy state that it leads to.
    func set(_ operation: String, _ state: String, on daemon: Daemon, isForced: Bool = false) throws {
        let outcome = try daemon.control(
            ["set", Mirror.pair, operation, "--wait", state] + (isForced ? ["--force"] : [])
        )
        #expect(outcome.isSuccess, "\(outcome)")
    }

    func waitForReplica(on daemon: Daemon) throws {
        try daemon.wait(for: "the pair to have moved", atMost: .hang) {
            try daemon.replica(Mirror.pair).role == "replica"
        }
    }
}

extension Daemon {
    /// Waits until the replica here has lost the connection of its source, which is not the one that this daemon makes to that host.
    func waitUntilSourceIsGone() throws {
        try wait(for: "the source is gone", atMost: .hang) {
            try replica(Mirror.pair).peer?.isConnected == false
        }
    }

    /// Waits until the peers have been asked that a volume waits for.
    func waitUntilServed(_ volume: String) throws {
        try wait(for: "hosts may use volume \(volume)", atMost: .hang) {
            try !controls("volume", "show", volume).contains("withheld")
        }
    }
}
