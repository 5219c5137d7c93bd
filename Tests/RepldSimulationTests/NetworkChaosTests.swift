import RepldCore
import RepldEngine
import RepldSimulation
import Testing

/// Connections under every fault at once, with crashes of hosts among them.
@Suite struct NetworkChaosTests {
    /// What a connection carries: its number, and then a pattern of its own.
    private static func stream(_ number: UInt8) -> [UInt8] {
        [number] + ScriptedWorld.pattern(40_000, seed: UInt64(number))
    }

    /// Whatever goes wrong, what has arrived is a beginning of what was sent; when all is well again, all arrives.
    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func whatArrivesIsABeginningOfWhatWasSent(seed: UInt64) throws {
        let world = ScriptedWorld(seed: seed, hostCount: 3)
        let faults = NetworkFaults(seed: seed)
        world.network.adopt(faults)
        for host in world.hosts { host.listen() }
        var streamed: [ObjectIdentifier: UInt8] = [:]
        for step in 0..<4000 {
            if step % 100 == 0 {
                let pick = Int(world.world.random.below(3))
                world.hosts[pick].connect(to: world.hosts[(pick + 1) % 3])
            }
            for host in world.hosts {
                for socket in host.connected where streamed[ObjectIdentifier(socket)] == nil {
                    let number = UInt8(truncatingIfNeeded: streamed.count)
                    streamed[ObjectIdentifier(socket)] = number
                    host.send(Self.stream(number), on: socket)
                }
            }
            if world.world.random.chance(oneIn: 500) { crash(world) }
            if step % 10 == 0 { _ = world.network.inject(faults) }
            if let host = world.world.nextHost() { world.hosts[host.index].turn() }
        }
        #expect(streamed.count > 0)
        for host in world.hosts {
            for socket in host.accepted where !socket.received.isEmpty {
                let sent = Self.stream(socket.received[0])
                #expect(socket.received == Array(sent.prefix(socket.received.count)))
            }
        }
        try settle(world, faults)
    }

    private func crash(_ world: ScriptedWorld) {
        let host = world.hosts[Int(world.world.random.below(3))]
        host.crash()
        host.restart()
        host.listen()
    }

    private func settle(_ world: ScriptedWorld, _ faults: NetworkFaults) throws {
        world.network.healAll(faults)
        world.run(forNanoseconds: 3600_000_000_000)
        for host in world.hosts {
            for socket in host.sockets {
                #expect(socket.isLost || socket.hasEnded || !socket.isSending, "nothing is left half done")
            }
        }
        let pair = try #require(world.makeConnection())
        world.first.send(Self.stream(7), on: pair.client)
        #expect(world.run { pair.server.received.count == 40_001 })
        #expect(pair.server.received == Self.stream(7))
        for host in world.hosts {
            for socket in host.sockets { host.shutDown(socket) }
        }
        world.run { world.hosts.allSatisfy { $0.sockets.allSatisfy { !$0.isSending && !$0.isReceiving } } }
        for host in world.hosts {
            for socket in host.sockets { host.close(socket) }
        }
        world.run(forNanoseconds: 10_000_000_000)
        #expect(world.network.connectionCount == 0, "nothing is kept of what no host knows of")
    }
}
