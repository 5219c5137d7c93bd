import Foundation
import Glibc
import RepldTestSupport
import Testing

extension SystemTests {
    /// What happens to the cable between two hosts, under load.
    @Suite(
        "A link between two hosts",
        RequirementTrait(requirements: HostPair.requirements + [.tool("fio"), .tool("qemu-io")])
    )
    struct LinkLossTests {
        enum Loss: CaseIterable {
            /// Both hosts see that the cable is out.
            case unplugged
            /// Nothing arrives, and nobody is told.
            case silent
            /// The copy's host hears the source's, and is not heard.
            case answersLost
            /// The source's host hears the copy's, and is not heard.
            case requestsLost

            func set(_ isLost: Bool, _ network: TestNetwork) throws {
                switch self {
                case .unplugged: try network.setUnplugged(isLost)
                case .silent: try network.setSilent(isLost)
                case .answersLost: try network.setSilent(network.south, isLost)
                case .requestsLost: try network.setSilent(network.north, isLost)
                }
            }
        }

        @Test(
            "that is lost stops hosts no longer than its silence may last, and the pair comes back by itself",
            arguments: Loss.allCases
        )
        func lost(_ loss: Loss) throws {
            try withTestBed { bed in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.create()
                let fio = try hosts.mirror.startFio(byteCount: 16 * mebibyte, writesPerSecond: 2000)
                try hosts.mirror.waitForWrites(1000)
                try loss.set(true, network)
                try hosts.waitForCopyState("Partitioned")
                try hosts.mirror.write(0x6c, hosts.mirror.uri, at: 60)
                #expect(try hosts.pair().reason?.isEmpty == false, "the pair says why")
                try loss.set(false, network)
                try hosts.waitForCopyState("Synchronized")
                try hosts.expectNoError(fio, byteCount: 16 * mebibyte)
                #expect(try hosts.pair().dirtyByteCount == 0)
                try hosts.expectEqual("both elements are equal again")
            }
        }

        @Test("that comes and goes fails no write, and leaves equal elements when it stays")
        func flapping() throws {
            try Torture.run("flapping link") { bed, torture in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.create()
                let fio = try hosts.mirror.startFio(byteCount: 16 * mebibyte, writesPerSecond: 1500)
                try hosts.mirror.waitForWrites(200)
                for _ in 0..<4 * Torture.roundCount {
                    let loss = torture.choice(Loss.allCases)
                    try loss.set(true, network)
                    try torture.pause(atMostMicroseconds: 400_000)
                    try loss.set(false, network)
                    try torture.pause(atMostMicroseconds: 400_000)
                }
                // Long enough to be noticed, once at least.
                try network.setSilent(true)
                try hosts.waitForCopyState("Partitioned")
                try network.setSilent(false)
                try hosts.waitForCopyState("Synchronized")
                try hosts.expectNoError(fio, byteCount: 16 * mebibyte)
                try hosts.waitForCopyState("Synchronized")
                try hosts.expectEqual("both elements are equal")
            }
        }

        @Test("that is back leaves a pair with manual recovery Suspended, and its replica as it was, until Resume")
        func manualRecovery() throws {
            try withTestBed { bed in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.create()
                #expect(try hosts.pair().copyRecoveryMode?.name == "Automatic")
                try hosts.north.controls("pair", "recovery", Mirror.pair, "manual")
                #expect(try hosts.pair().copyRecoveryMode?.name == "Manual")
                try hosts.mirror.write(0x60, hosts.mirror.uri, at: 20)
                for round in UInt8(1)...2 {
                    try network.setSilent(true)
                    try hosts.waitForCopyState("Partitioned")
                    try hosts.mirror.write(0x60 + round, hosts.mirror.uri, at: 20)
                    try network.setSilent(false)
                    try hosts.waitForCopyState("Suspended")
                    let pair = try hosts.pair()
                    #expect(pair.progressStatus.name == "Requires resume" && pair.reason?.contains("Resume") == true)
                    #expect(pair.dirtyByteCount == mebibyte)
                    #expect(try bed.holds(0x60 + round - 1, hosts.mirror.target, at: 20), "the replica is what it was")
                    // Each of the two connects by itself.
                    try hosts.south.waitForPeer("north")
                    try hosts.set("Resume", "Synchronized", on: hosts.south)
                    try hosts.expectEqual("both elements are equal again")
                    #expect(try hosts.north.stop() == .exited(0))
                    try hosts.startNorth()
                    // A start is no lost link.
                    try hosts.waitForCopyState("Synchronized")
                    #expect(try hosts.pair().copyRecoveryMode?.name == "Manual", "over a start")
                }
                try hosts.set("Failover", "Failedover", on: hosts.north)
                #expect(try hosts.south.pair(Mirror.pair).copyRecoveryMode?.name == "Manual", "and over a move")
            }
        }

        @Test("that is slow slows hosts down, and is not taken for one that is lost")
        func slow() throws {
            try withTestBed { bed in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, network: network)
                try hosts.create()
                try network.limit(megabitsPerSecond: 16)
                // 8 MiB at 16 Mbit/s are more than 4 s, and what is on its way is half a second of it.
                let started = ContinuousClock.now
                let fio = try hosts.mirror.startFio(byteCount: 8 * mebibyte, blockByteCount: 65536)
                try hosts.expectNoError(fio, byteCount: 8 * mebibyte)
                #expect(ContinuousClock.now - started > .seconds(3), "all went over the slow link")
                #expect(try hosts.pair().copyState.name == "Synchronized")
                #expect(try !hosts.north.process.errors().contains("Partitioned"), "the link was not lost")
                try hosts.expectEqual("both elements are equal")
            }
        }

        @Test("that was lost for a moment costs a copy of what was written meanwhile")
        func difference() throws {
            try withTestBed { bed in
                let network = try TestNetwork(bed: bed)
                let hosts = try HostPair(bed, byteCount: 256 * mebibyte, network: network)
                try bed.fill(hosts.mirror.source, mebibytes: 64, at: 100)
                try hosts.create()
                try hosts.mirror.write(0x60, hosts.mirror.uri, at: 20)
                try network.setSilent(true)
                try hosts.waitForCopyState("Partitioned")
                let sentBefore = try hosts.north.peer("south").sentByteCount
                try hosts.mirror.write(0x61, hosts.mirror.uri, at: 30)
                try hosts.mirror.write(0x62, hosts.mirror.uri, at: 120)
                #expect(try hosts.pair().dirtyByteCount == 2 * mebibyte, "what was flushed before counts no more")
                try network.setSilent(false)
                try hosts.waitForCopyState("Synchronized")
                let pair = try hosts.pair()
                #expect(pair.copy?.totalByteCount == 2 * mebibyte, "\(String(describing: pair.copy))")
                let sent = try hosts.north.peer("south").sentByteCount - sentBefore
                #expect(sent < 3 * mebibyte, "\(sent) bytes were sent")
                try hosts.expectEqual("both elements are equal again")
            }
        }
    }
}

extension Torture {
    /// Lets a time of the seed's choice pass, in which nothing in particular has to happen.
    mutating func pause(atMostMicroseconds limit: UInt64) throws {
        var nothing: [pollfd] = []
        _ = try Deadline(after: .microseconds(Int64(number(0...limit)))).poll(&nothing)
    }
}

extension TestBed {
    /// Whether a MiB of a file holds nothing but `byte`.
    fileprivate func holds(_ byte: UInt8, _ path: String, at mebibyteOffset: UInt64) throws -> Bool {
        let file = try FileHandle(forReadingFrom: URL(filePath: path))
        defer { try? file.close() }
        try file.seek(toOffset: mebibyteOffset * mebibyte)
        return try file.read(upToCount: Int(mebibyte)) == Data(repeating: byte, count: Int(mebibyte))
    }
}
