import RepldCore
import RepldEngine
import RepldSimulation
import Testing

/// What connections of the simulated network do while nothing goes wrong.
@Suite struct NetworkStreamTests {
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func bytesArriveInOrderAndComplete(seed: UInt64) throws {
        let world = ScriptedWorld(seed: seed)
        world.network.adopt(NetworkFaults(seed: seed))
        world.network.settings.connectLimitNanoseconds = 60_000_000_000
        world.first.chunkByteCount = 1 + Int(world.world.random.below(50_000))
        world.second.listen()
        let pair = try #require(world.makeConnection())
        let out = ScriptedWorld.pattern(120_000, seed: seed)
        let back = ScriptedWorld.pattern(70_000, seed: seed + 1000)
        world.first.send(out, on: pair.client)
        world.second.send(back, on: pair.server)
        world.run { pair.server.received.count >= out.count && pair.client.received.count >= back.count }
        #expect(pair.server.received == out)
        #expect(pair.client.received == back)
        #expect(pair.server.pieces.count > 1)
    }

    @Test func bytesComeInPiecesOfManySizes() throws {
        let world = ScriptedWorld(seed: 3)
        world.second.listen()
        let pair = try #require(world.makeConnection())
        world.first.chunkByteCount = 5000
        world.first.send(ScriptedWorld.pattern(500_000), on: pair.client)
        world.run { pair.server.received.count == 500_000 }
        #expect(Set(pair.server.pieces).count > 6)
        #expect(pair.server.pieces.contains { $0 < 64 } && pair.server.pieces.contains { $0 >= 5000 })
    }

    @Test func sameSeedSameRun() throws {
        var traces: [[String]] = []
        for _ in 0..<2 {
            let world = ScriptedWorld(seed: 4711, hostCount: 3)
            var faults = NetworkFaults(seed: 4711)
            faults.partitionOneIn = 40
            faults.cutOneIn = 60
            faults.muteOneIn = 100
            world.network.adopt(faults)
            for host in world.hosts { host.listen() }
            for step in 0..<3000 {
                if step % 50 == 0 {
                    let other = world.hosts[1 + step / 50 % 2]
                    world.first.connect(to: other)
                }
                if step % 7 == 0, let socket = world.first.connected.last, !socket.isLost, !socket.hasEnded {
                    world.first.send(ScriptedWorld.pattern(1000), on: socket)
                }
                if step % 1000 == 999 {
                    world.second.crash()
                    world.second.restart()
                    world.second.listen()
                }
                _ = world.network.inject(faults)
                guard let host = world.world.nextHost() else { continue }
                world.hosts[host.index].turn()
            }
            traces.append(world.trace)
        }
        #expect(traces[0] == traces[1])
        #expect(traces[0].count > 300)
    }

    @Test func anotherSeedAnotherRun() throws {
        let traces = [UInt64(1), 2].map { seed in
            let world = ScriptedWorld(seed: seed)
            world.second.listen()
            if let pair = world.makeConnection() { world.first.send(ScriptedWorld.pattern(100_000), on: pair.client) }
            world.run()
            return world.trace
        }
        #expect(traces[0] != traces[1])
    }

    @Test func bandwidthIsKeptByAllConnectionsTogether() throws {
        let world = ScriptedWorld(seed: 5)
        world.link(0, 1).bytesPerSecond = 1_000_000
        world.second.listen()
        let pairs = try [#require(world.makeConnection()), #require(world.makeConnection())]
        let start = world.world.now
        for pair in pairs { world.first.send(ScriptedWorld.pattern(500_000), on: pair.client) }
        var isFair = true
        world.run {
            let counts = pairs.map(\.server.received.count)
            // Neither waits for the other.
            if counts[0] == 500_000, counts[1] < 250_000 { isFair = false }
            if counts[1] == 500_000, counts[0] < 250_000 { isFair = false }
            return counts == [500_000, 500_000]
        }
        let seconds = Double(world.world.now - start) / 1e9
        #expect((1.0...1.05).contains(seconds), "1 MB at 1 MB a second")
        #expect(isFair)
        // The other direction is a link of its own.
        let backStart = world.world.now
        world.second.send(ScriptedWorld.pattern(500_000), on: pairs[0].server)
        world.run { pairs[0].client.received.count == 500_000 }
        #expect(world.world.now - backStart < 100_000_000)
        #expect(world.link(0, 1).byteCount == 1_000_000)
    }

    @Test func fullBufferDelaysTheSend() throws {
        let world = ScriptedWorld(seed: 6)
        world.network.settings.sendBufferByteCount = 10_000
        world.network.settings.receiveBufferByteCount = 5000
        world.second.receivesAtOnce = false
        world.second.listen()
        let pair = try #require(world.makeConnection())
        world.first.chunkByteCount = 1000
        world.first.send(ScriptedWorld.pattern(30_000), on: pair.client)
        world.run()
        #expect(pair.client.sentByteCount == 15_000, "what both buffers hold")
        #expect(pair.client.isSending)
        world.second.receive(on: pair.server)
        world.run { pair.server.received.count == 30_000 }
        #expect(pair.server.received == ScriptedWorld.pattern(30_000))
        #expect(pair.client.sentByteCount == 30_000)
    }

    @Test func endOfTheStreamComesBehindAllBytes() throws {
        let world = ScriptedWorld(seed: 7)
        world.second.listen()
        let pair = try #require(world.makeConnection())
        world.first.send(ScriptedWorld.pattern(90_000), on: pair.client)
        world.run { pair.client.sentByteCount == 90_000 }
        #expect(pair.server.received.count < 90_000, "what is sent is still on its way")
        world.first.shutDown(pair.client)
        world.run { pair.client.hasEnded || pair.client.isLost }
        world.first.close(pair.client)
        world.run { pair.server.hasEnded }
        #expect(pair.server.received == ScriptedWorld.pattern(90_000))
        #expect(!pair.server.isLost)
        world.second.close(pair.server)
        world.run()
        #expect(world.network.connectionCount == 0)
    }

    @Test func shutdownEndsWhatIsInFlight() throws {
        let world = ScriptedWorld(seed: 8)
        world.network.settings.sendBufferByteCount = 1000
        world.second.receivesAtOnce = false
        world.network.settings.receiveBufferByteCount = 1000
        world.second.listen()
        let pair = try #require(world.makeConnection())
        world.first.send(ScriptedWorld.pattern(5000), on: pair.client)
        world.run()
        #expect(pair.client.isSending && pair.client.isReceiving)
        let start = world.world.now
        world.first.shutDown(pair.client)
        world.run { !pair.client.isSending && !pair.client.isReceiving }
        #expect(pair.client.sendFailure == .gone)
        #expect(pair.client.hasEnded || pair.client.receiveFailure == .cancelled)
        #expect(world.world.now - start < 1_000_000)
    }

    @Test func bytesForAClosedSocketAreAnsweredWithAReset() throws {
        let world = ScriptedWorld(seed: 9)
        world.second.listen()
        world.second.receivesAtOnce = false
        let pair = try #require(world.makeConnection())
        world.second.close(pair.server)
        world.run { pair.client.hasEnded }
        world.first.send([1, 2, 3], on: pair.client)
        world.run { pair.client.sentByteCount == 3 }
        world.run()
        world.first.send([4], on: pair.client)
        world.run()
        #expect(pair.client.sendFailure == .gone)
    }

    @Test func manyConnectionsKeepTheirBytesApart() throws {
        let world = ScriptedWorld(seed: 10, hostCount: 3)
        world.second.listen()
        world.hosts[2].listen()
        for count in 0..<120 { world.first.connect(to: world.hosts[1 + count % 2]) }
        world.run { world.first.connected.count == 120 && world.second.accepted.count == 60 }
        #expect(world.network.connectionCount == 120)
        for (number, socket) in world.first.connected.enumerated() {
            world.first.send(ScriptedWorld.pattern(3000, seed: UInt64(number)), on: socket)
        }
        let servers = world.second.accepted + world.hosts[2].accepted
        world.run { servers.allSatisfy { $0.received.count == 3000 } }
        let expected = (0..<120).map { ScriptedWorld.pattern(3000, seed: UInt64($0)) }
        #expect(Set(servers.map(\.received)) == Set(expected))
    }

    @Test func dataIsCompressedAndExpandedAwayFromTheLoop() throws {
        let world = ScriptedWorld(seed: 11)
        world.first.host.examinationLimitNanoseconds = 1_000_000
        let plain = UnsafeMutableRawBufferPointer.allocate(byteCount: 65536, alignment: 16)
        let packed = UnsafeMutableRawBufferPointer.allocate(byteCount: 65536, alignment: 16)
        let again = UnsafeMutableRawBufferPointer.allocate(byteCount: 65536, alignment: 16)
        defer { for memory in [plain, packed, again] { memory.deallocate() } }
        for index in plain.indices { plain[index] = UInt8(index / 1000) }
        let start = world.world.now
        world.first.recode(DataRecoding(.compress, UnsafeRawBufferPointer(plain), into: packed))
        #expect(world.first.workCounts.isEmpty)
        world.run { world.first.workCounts.count == 1 }
        #expect(world.world.now > start)
        let count = Int(world.first.workCounts[0])
        #expect((1..<10_000).contains(count))
        let source = UnsafeRawBufferPointer(rebasing: packed[..<count])
        world.first.recode(DataRecoding(.expand, source, into: again))
        world.run { world.first.workCounts.count == 2 }
        #expect(world.first.workCounts[1] == 65536)
        #expect(Array(again) == Array(plain))
    }

    @Test func aloneInItsWorldAHostTalksToItself() throws {
        let world = ScriptedWorld(seed: 12, hostCount: 1)
        let host = world.first
        host.deadline = 1_000_000_000
        host.listen()
        host.connect(to: host)
        while world.world.now < host.deadline {
            host.turn()
            if let socket = host.connected.first, socket.sentByteCount == 0, !socket.isSending {
                host.send(ScriptedWorld.pattern(1000), on: socket)
            }
        }
        #expect(host.accepted.map(\.received) == [ScriptedWorld.pattern(1000)])
    }

    @Test func memoryThatChangesWhileItIsUsedStopsTheProcess() async {
        await #expect(processExitsWith: .failure) {
            let world = ScriptedWorld(seed: 13)
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)
            memory.initializeMemory(as: UInt8.self, repeating: 0)
            let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)
            world.first.recode(DataRecoding(.compress, UnsafeRawBufferPointer(memory), into: room))
            memory[7] = 1
            world.run()
        }
        await #expect(processExitsWith: .failure) {
            let world = ScriptedWorld(seed: 14)
            world.second.listen()
            guard let pair = world.makeConnection() else { return }
            world.first.send(ScriptedWorld.pattern(1000), on: pair.client)
            world.first.spoilSends()
            world.run()
        }
    }
}
