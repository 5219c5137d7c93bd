import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// Hosts are answered before the other host has their writes; what that has is a point in time all the same.
    @Suite(
        "An asynchronous pair between two hosts",
        .requires(
            .root,
            .product("repld"),
            .product("replctl"),
            .tool("ip"),
            .tool("tc"),
            .pythonModule("nbd")
        )
    )
    struct AsynchronousTests {
        @Test("leaves a point in time on its copy when the source's daemon, or both, are killed under load")
        func killed() throws {
            try Torture.run("kill of an asynchronous pair") { bed, torture in
                let hosts = try HostPair(bed)
                try hosts.createAsynchronous()
                let writes = OrderedWrites(hosts: hosts)
                for round in 1...Torture.roundCount {
                    let killsBoth = round % 2 == 0
                    let count = torture.number(1...3000)
                    let writer = try writes.start(
                        killsBoth ? .max >> 1 : count,
                        seed: torture.nextSeed(),
                        kills: !killsBoth
                    )
                    if killsBoth {
                        try hosts.mirror.waitForWrites(count)
                        // In the middle of what it applies.
                        try hosts.south.kill()
                        try hosts.north.kill()
                    } else {
                        _ = try hosts.north.process.wait(atMost: .hang)
                        #expect(try hosts.south.stop() == .exited(0))
                    }
                    try writes.finish(writer)
                    torture.say(try writes.check(hosts.mirror.target, "round \(round)"))
                    try hosts.startSouth()
                    try hosts.startNorth()
                    try hosts.waitForCopyState("Synchronized")
                    #expect(try hosts.pair().mode.name == "Asynchronous")
                    try hosts.expectEqual("round \(round), synchronized again")
                }
                try writes.check(hosts.mirror.target, "the last of it")
                for (way, words) in OrderedWrites.spoilings {
                    #expect(
                        try writes.findings(inSpoilt: way).contains(words),
                        "the check sees an image that is none: \(way)"
                    )
                }
            }
        }

        enum End: CaseIterable {
            case sourceKilled
            case linkLost
        }

        @Test(
            "over a slow link answers hosts at once, and leaves a point in time that is behind",
            arguments: End.allCases
        )
        func behind(_ end: End) throws {
            try Torture.run("asynchronous pair that is behind") { bed, torture in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.createAsynchronous()
                let writes = OrderedWrites(hosts: hosts)
                try network.limit(megabitsPerSecond: 3)
                let started = ContinuousClock.now
                // About 9 KiB each: 24 s of what the link carries, and less than may be on its way.
                try writes.finish(try writes.start(1000, seed: torture.nextSeed()))
                let taken = ContinuousClock.now - started
                #expect(taken < .seconds(15), "hosts wait for no link: \(taken)")
                #expect(try hosts.pair().copyState.name == "Synchronized")
                try torture.pause(atMostMicroseconds: 500_000)
                switch end {
                case .sourceKilled: try hosts.north.kill()
                case .linkLost:
                    try network.setSilent(true)
                    try hosts.waitForCopyState("Partitioned")
                }
                #expect(try hosts.south.stop() == .exited(0))
                #expect(try !bed.areEqual(hosts.mirror.source, hosts.mirror.target), "the copy is behind")
                torture.say(try writes.check(hosts.mirror.target, "\(end)"))
                try network.unlimit()
                switch end {
                case .sourceKilled: try hosts.startNorth()
                case .linkLost: try network.setSilent(false)
                }
                try hosts.startSouth()
                try hosts.waitForCopyState("Synchronized")
                try hosts.expectEqual("synchronized again")
                try writes.check(hosts.mirror.target, "synchronized again")
            }
        }

        @Test("whose copy becomes older than it may is Skewed, says how old, and catches up")
        func recoveryPoint() throws {
            try withTestBed { bed in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.connect()
                let limit = 0.5
                let asynchronous = ["--mode", "async", "--rpo", "500ms"]
                let outcome = try hosts.north.control(HostPair.createArguments + asynchronous + ["--wait"])
                #expect(outcome.isSuccess, "\(outcome)")
                let made = try hosts.pair()
                #expect(made.mode.name == "Asynchronous" && made.recoveryPointSeconds == limit)
                #expect(made.exposureSeconds == 0)
                let writes = OrderedWrites(hosts: hosts)
                try network.limit(megabitsPerSecond: 4)
                // About 9 KiB each: 9 s of what the link carries, and less than may be on its way.
                try writes.finish(try writes.start(500, seed: 51))
                try hosts.north.wait(for: "the copy is older than it may be") {
                    try hosts.pair().exposureSeconds.map { $0 > limit } ?? false
                }
                try hosts.north.wait(for: "the pair was Skewed") {
                    try hosts.north.process.errors().contains("Skewed")
                }
                #expect(try hosts.pair().copyState.name != "Synchronized")
                let shown = try hosts.north.controls("pair", "show", Mirror.pair)
                #expect(shown.contains("Exposure") && shown.contains("Skewed from 0.5 s on"), "\(shown)")
                try network.unlimit()
                try hosts.waitForCopyState("Synchronized")
                try hosts.north.wait(for: "nothing is on its way") { try hosts.pair().exposureSeconds == 0 }
                try hosts.expectEqual("synchronized again")
                try hosts.north.controls("set", Mirror.pair, "ResetToAsync", "--rpo", "none")
                #expect(try hosts.pair().recoveryPointSeconds == nil)
                try hosts.north.controls("peer", "set", "south", "--compress", "always")
                #expect(try hosts.north.peer("south").compression == "always")
            }
        }
    }
}

/// Numbered writes by `Clients/ordered.py`, whose journal tells in which order they were submitted and acknowledged.
struct OrderedWrites {
    let hosts: HostPair

    /// How an image is spoilt, and what the check says of it.
    static let spoilings = [
        ("lose", "blocks of writes acknowledged before"),
        ("tear", "blocks hold what was never written"),
        ("invent", "blocks hold what was never written"),
    ]

    private var journal: String { hosts.bed.path("ordered.json") }
    private static let blockCount = 4096

    /// Starts to write; with `kills` the source's daemon is killed when so many writes are acknowledged.
    func start(_ count: UInt64, seed: UInt64, kills: Bool = false) throws -> Child {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().path(percentEncoded: false)
        let victim = kills ? Int(try hosts.north.process.pid) : 0
        let numbers = [String(seed), String(count), String(victim), String(Self.blockCount)]
        let arguments = [hosts.north.nbdSocket, Mirror.volume, journal] + numbers
        return try hosts.bed.start("/usr/bin/python3", ["-B", folder + "/Clients/ordered.py", "write"] + arguments)
    }

    func finish(_ writer: Child) throws {
        #expect(try writer.wait(atMost: .hang) == .exited(0), "\(writer.tail())")
    }

    /// The image is a point in time; how much of it there is.
    @discardableResult
    func check(_ image: String, _ words: String) throws -> String {
        let outcome = try hosts.bed.runClient("ordered.py", ["check", image, journal])
        guard outcome.isSuccess else { throw Outcome.Failed(description: "\(words): \(outcome)") }
        return "\(words): \(outcome.output.split(separator: "\n").first ?? "")"
    }

    /// What the check says of the copy's image when that is spoilt: nothing when it finds nothing.
    func findings(inSpoilt way: String) throws -> String {
        let image = hosts.bed.path("spoilt-\(way)")
        try FileManager.default.copyItem(atPath: hosts.mirror.target, toPath: image)
        let spoilt = try hosts.bed.runClient("ordered.py", ["spoil", image, journal, way])
        #expect(spoilt.isSuccess, "\(spoilt)")
        let outcome = try hosts.bed.runClient("ordered.py", ["check", image, journal])
        return outcome.isSuccess ? "" : outcome.output
    }
}

extension HostPair {
    func createAsynchronous() throws {
        try create()
        try north.controls("set", Mirror.pair, "ResetToAsync")
        try north.wait(for: "the pair is asynchronous") { try pair().mode.name == "Asynchronous" }
    }
}
