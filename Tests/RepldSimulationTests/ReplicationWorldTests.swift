import RepldCore
import RepldEngine
import RepldPair
import RepldSimulation
import Testing

/// Two real engines in one simulated world.
@Suite struct ReplicationWorldTests {
    private static var volume: VolumeID { VolumeID(rawValue: 1) }

    /// Both hosts serve a volume of their own.
    private func serving(_ world: ReplicationWorld) throws {
        for host in world.hosts {
            let disk = host.makeDisk("disk of \(host.name)", byteCount: 1 << 20)
            try #require(world.addVolume(Self.volume, named: "volume", on: disk, of: host))
        }
    }

    @Test func twoIdleEnginesTurnAndStop() {
        let world = ReplicationWorld(seed: 1)
        let minute: UInt64 = 60_000_000_000
        #expect(world.run { world.world.now > minute })
        #expect(world.stepCount < 1000, "idle engines sleep")
        #expect(world.stop(world.hosts[0]))
        #expect(world.hosts[1].isUp)
        let stepCount = world.stepCount
        #expect(world.run(steps: 100) { world.stepCount == stepCount + 20 }, "the other one goes on")
        #expect(world.stop(world.hosts[1]))
        #expect(!world.run { false }, "nobody is left to be turned")
    }

    @Test func bothEnginesServeTheirHostsAtOnce() throws {
        let world = ReplicationWorld(seed: 2)
        try serving(world)
        for number in 0..<40 {
            for host in world.hosts {
                let value = UInt64(number + 1)
                _ = try #require(host.submit(.write, number..<number + 1, value: value, to: Self.volume))
            }
        }
        #expect(world.run { world.hosts.allSatisfy { $0.requests.allSatisfy(\.isAnswered) } })
        for host in world.hosts {
            let number = try #require(host.submit(.read, 0..<40, to: Self.volume))
            #expect(world.run { host.requests[number].isAnswered })
            #expect(host.requests[number].values == (1...40).map(UInt64.init))
            #expect(host.requests.allSatisfy { $0.failure == nil })
        }
    }

    @Test func oneCrashesAndComesBackWhileTheOtherGoesOn() throws {
        let world = ReplicationWorld(seed: 3)
        try serving(world)
        let (first, second) = (world.hosts[0], world.hosts[1])
        let durable = try #require(first.submit(.write, 0..<8, value: 7, isDurable: true, to: Self.volume))
        #expect(world.run { first.requests[durable].isAnswered })
        _ = try #require(first.submit(.write, 8..<16, value: 8, to: Self.volume))
        first.crash()
        let write = try #require(second.submit(.write, 0..<8, value: 9, to: Self.volume))
        #expect(world.run { second.requests[write].isAnswered })
        #expect(second.requests[write].failure == nil)
        first.start()
        try #require(world.addVolume(Self.volume, named: "volume", on: first.disks[0], of: first))
        let read = try #require(first.submit(.read, 0..<8, to: Self.volume))
        #expect(world.run { first.requests[read].isAnswered })
        #expect(first.requests[read].values == Array(repeating: 7, count: 8))
        #expect(world.stop(first) && world.stop(second))
    }

    @Test func sameSeedSameRun() throws {
        var traces: [[String]] = []
        for _ in 0..<2 {
            var trace: [String] = []
            let world = ReplicationWorld(seed: 4) { trace.append($0) }
            world.faults = NetworkFaults(seed: 4)
            world.faults?.partitionOneIn = 20
            try serving(world)
            for number in 0..<30 {
                let host = world.hosts[number % 2]
                _ = try #require(host.submit(.write, number..<number + 4, value: 1, to: Self.volume))
                _ = world.run { host.requests.allSatisfy(\.isAnswered) }
                trace.append("\(host.name) has written at \(world.world.now)")
            }
            traces.append(trace)
        }
        #expect(traces[0] == traces[1])
        #expect(traces[0].contains { $0.contains("partitioned") })
    }
}
