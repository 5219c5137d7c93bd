import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// Moves between two hosts whose elements differ, and moves in whose middle a daemon is killed.
    @Suite(
        "A move between two hosts",
        .requires(
            .root,
            .product("repld"),
            .product("replctl"),
            .tool("ip"),
            .tool("fio"),
            .tool("nbdinfo"),
            .tool("qemu-io"),
            .pythonModule("nbd")
        )
    )
    struct MoveTests {
        /// How a pair came to have a replica that lacks writes.
        enum Stop: String, CaseIterable {
            case suspended = "Suspended"
            case inactive = "Inactive"
            case split = "Split"
            case fractured = "Fractured"

            var operation: String {
                switch self {
                case .suspended: "Suspend"
                case .inactive: "Deactivate"
                case .split: "Split"
                case .fractured: "Fracture"
                }
            }
        }

        @Test(
            "of a pair that was stopped needs force, and a Failback takes hosts to what they wrote there",
            arguments: Stop.allCases
        )
        func stopped(_ stop: Stop) throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                try hosts.mirror.write(0x11, hosts.mirror.uri, at: 1)
                try hosts.set(stop.operation, stop.rawValue, on: hosts.north)
                try hosts.mirror.write(0x12, hosts.mirror.uri, at: 2)
                let refused = try hosts.north.control(["set", Mirror.pair, "Failover"])
                #expect(!refused.isSuccess && refused.errors.contains("force"), "\(refused)")
                try hosts.set("Failover", "Failedover", on: hosts.north, isForced: true)
                #expect(try hosts.isCopyExported() && !hosts.isVolumeExported())
                #expect(try hosts.mirror.holds(0x11, hosts.copyURI, at: 1))
                #expect(try !hosts.mirror.holds(0x12, hosts.copyURI, at: 2), "it never came here")
                try hosts.mirror.write(0x13, hosts.copyURI, at: 3)
                let lost = try hosts.south.control(["set", Mirror.pair, "Failback"])
                #expect(!lost.isSuccess && lost.errors.contains("force"), "\(lost)")
                try hosts.set("Failback", "Synchronized", on: hosts.south, isForced: true)
                #expect(try hosts.isVolumeExported() && !hosts.isCopyExported())
                #expect(try hosts.mirror.holds(0x11, hosts.mirror.uri, at: 1))
                #expect(try !hosts.mirror.holds(0x12, hosts.mirror.uri, at: 2), "given up by force")
                #expect(try hosts.mirror.holds(0x13, hosts.mirror.uri, at: 3))
                try hosts.expectEqual("both are equal again")
                let pair = try hosts.pair()
                #expect((pair.copy?.totalByteCount ?? 0) < 16 * mebibyte, "\(pair)")
            }
        }

        @Test("of a pair that is stopped under load, at once, waits for what is under way and is not refused")
        func stoppedUnderLoad() throws {
            try withTestBed { bed in
                let hosts = try HostPair(bed)
                try hosts.create()
                for stop in [Stop.suspended, .fractured, .inactive] {
                    let fio = try hosts.mirror.startFio(byteCount: 32 * mebibyte, writesPerSecond: 2000)
                    let count = try hosts.north.activity(Mirror.volume).writeCount
                    try hosts.mirror.waitForWrites(count + 200)
                    try hosts.set(stop.operation, stop.rawValue, on: hosts.north)
                    try hosts.set("Failover", "Failedover", on: hosts.north, isForced: true)
                    // It does not always notice that its server is gone.
                    fio.send(SIGKILL)
                    _ = try fio.wait(atMost: .hang)
                    try hosts.set("Failback", "Synchronized", on: hosts.south, isForced: true)
                    try hosts.expectEqual("equal after \(stop)")
                }
            }
        }

        @Test("in whose middle daemons are killed loses no acknowledged write, and hosts are served on one side")
        func killed() throws {
            try Torture.run("kill during a move") { bed, torture in
                let hosts = try HostPair(bed)
                let writes = try hosts.numberedWrites()
                for round in 1...2 * Torture.roundCount {
                    let server = try hosts.stableServer()
                    let (operation, state) =
                        hosts.isNorth(server) ? ("Failover", "Failedover") : ("Failback", "Synchronized")
                    let words = "round \(round), \(operation)"
                    let writer = try hosts.startWriting(writes, on: server, &torture)
                    try hosts.kill(duringA: operation, on: server, words, &torture)
                    var now = try hosts.stableServer()
                    try writes.finish(writer)
                    torture.say("\(words): \(hosts.name(now)) serves")
                    try hosts.writes(writes, on: now).check(words)
                    #expect(try hosts.isVolumeExported() != hosts.isCopyExported(), "\(words): exactly one serves")
                    guard now === server else { continue }
                    try hosts.set(operation, state, on: server)
                    now = try hosts.stableServer()
                    #expect(now !== server, "\(words): asked for again")
                    try hosts.writes(writes, on: now).check("\(words), asked for again")
                }
                let server = try hosts.stableServer()
                if !hosts.isNorth(server) { try hosts.set("Failback", "Synchronized", on: server) }
                try writes.check("back at the first host")
                try hosts.expectEqual("both are equal in the end")
            }
        }
    }
}

extension HostPair {
    fileprivate func isNorth(_ daemon: Daemon) -> Bool { daemon === north }
    fileprivate func name(_ daemon: Daemon) -> String { isNorth(daemon) ? "north" : "south" }

    /// The same numbered writes for the hosts of that daemon, which has the same data.
    fileprivate func writes(_ writes: NumberedWrites, on daemon: Daemon) -> NumberedWrites {
        if isNorth(daemon) { return writes }
        let mirror = Mirror(bed: bed, daemon: south, source: self.mirror.target, target: self.mirror.source)
        return NumberedWrites(mirror: mirror, export: Self.copy, model: writes.model)
    }

    /// Starts to write, and returns when hosts are being answered.
    fileprivate func startWriting(
        _ writes: NumberedWrites,
        on server: Daemon,
        _ torture: inout Torture
    ) throws -> Child {
        let volume = isNorth(server) ? Mirror.volume : Self.copy
        let before = try server.activity(volume).writeCount
        let writer = try self.writes(writes, on: server).start(torture.number(2000...20000), seed: torture.nextSeed())
        try server.wait(for: "a write") { try server.activity(volume).writeCount > before }
        return writer
    }

    /// Asks for a move, kills one daemon or both a moment after it has begun, and starts them again.
    fileprivate func kill(
        duringA operation: String,
        on server: Daemon,
        _ words: String,
        _ torture: inout Torture
    ) throws {
        let beginning = "\(operation) accepted"
        let count = try server.process.errors().ranges(of: beginning).count
        let arguments = ["set", Mirror.pair, operation, "--control", server.controlSocket]
        let asked = try bed.start(Product.path("replctl"), arguments)
        try server.wait(for: beginning) { try server.process.errors().ranges(of: beginning).count > count }
        try torture.pause(atMostMicroseconds: torture.choice([2000, 50000, 400_000]))
        let victims = torture.choice([[north], [south], [north, south]])
        for victim in victims { try victim.kill() }
        torture.say("\(words): \(victims.map(name).joined(separator: " and ")) killed")
        // Whether it has heard that the move has begun does not matter.
        _ = try asked.wait(atMost: .hang)
        for victim in victims { try isNorth(victim) ? startNorth() : startSouth() }
    }

    /// Waits until nothing is under way, and returns the daemon whose hosts are served.
    fileprivate func stableServer() throws -> Daemon {
        var found: Daemon?
        try north.wait(for: "one host to serve, and nothing to be under way", atMost: .hang) {
            for (daemon, other, volume) in [(north, south, Mirror.volume), (south, north, Self.copy)] {
                let pair = try daemon.replica(Mirror.pair)
                guard pair.role == "source", try other.replica(Mirror.pair).role == "replica" else { continue }
                let isAtRest = ["Synchronized", "Failedover"].contains(pair.copyState.name) && pair.operation == nil
                let hasEnded = pair.job.map { $0.endedAt != nil } ?? true
                let isServed = try !daemon.controls("volume", "show", volume).contains("withheld")
                if isAtRest, hasEnded, isServed { found = daemon }
            }
            return found != nil
        }
        guard let found else { throw Outcome.Failed(description: "nobody serves") }
        return found
    }
}
