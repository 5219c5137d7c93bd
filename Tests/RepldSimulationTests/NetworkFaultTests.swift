import RepldCore
import RepldEngine
import RepldSimulation
import Testing

/// What goes wrong in the simulated network, and who learns of it.
@Suite struct NetworkFaultTests {
    private static var second: UInt64 { 1_000_000_000 }

    private func connected(seed: UInt64) throws -> (ScriptedWorld, ScriptedSocket, ScriptedSocket) {
        let world = ScriptedWorld(seed: seed)
        world.second.listen()
        let pair = try #require(world.makeConnection())
        return (world, pair.client, pair.server)
    }

    // MARK: - Partitions

    @Test func nothingPassesAPartitionUntilItHeals() throws {
        let (world, client, server) = try connected(seed: 1)
        world.network.partition(world.first.host, world.second.host)
        world.first.send(ScriptedWorld.pattern(50_000), on: client)
        world.run(forNanoseconds: 100 * Self.second)
        #expect(server.received.isEmpty)
        #expect(client.sentByteCount == 50_000 && !client.isLost, "nobody has told the sender")
        world.network.heal(world.first.host, world.second.host)
        world.run(forNanoseconds: 2 * Self.second) { server.received.count == 50_000 }
        #expect(server.received == ScriptedWorld.pattern(50_000))
    }

    @Test func partitionHoldsWhatIsOnItsWay() throws {
        let (world, client, server) = try connected(seed: 2)
        world.link(0, 1).delayNanoseconds = Self.second...Self.second
        world.first.send([1, 2, 3], on: client)
        world.run(forNanoseconds: Self.second / 2)
        world.network.setPartitioned(true, from: world.first.host, to: world.second.host)
        world.run(forNanoseconds: 10 * Self.second)
        #expect(server.received.isEmpty)
        world.network.setPartitioned(false, from: world.first.host, to: world.second.host)
        world.run(forNanoseconds: 2 * Self.second)
        #expect(server.received == [1, 2, 3])
    }

    @Test func partitionOfOneDirectionLeavesTheOther() throws {
        let (world, client, server) = try connected(seed: 3)
        world.network.settings.sendBufferByteCount = 10_000
        world.network.setPartitioned(true, from: world.second.host, to: world.first.host)
        world.second.send([9], on: server)
        world.first.chunkByteCount = 1000
        world.first.send(ScriptedWorld.pattern(30_000), on: client)
        world.run(forNanoseconds: 100 * Self.second)
        #expect(client.received.isEmpty)
        #expect(server.received == Array(ScriptedWorld.pattern(30_000)[..<10_000]), "no more without word of it")
        world.network.setPartitioned(false, from: world.second.host, to: world.first.host)
        world.run(forNanoseconds: 3 * Self.second)
        #expect(client.received == [9] && server.received == ScriptedWorld.pattern(30_000))
    }

    @Test func silenceHasALimit() throws {
        let (world, client, server) = try connected(seed: 4)
        world.network.settings.silenceLimitNanoseconds = 15 * Self.second
        world.network.partition(world.first.host, world.second.host)
        world.run(forNanoseconds: 100 * Self.second)
        #expect(!client.isLost, "who sends nothing notices nothing")
        let start = world.world.now
        world.first.send([1], on: client)
        world.run { client.isLost }
        #expect(client.receiveFailure == .timedOut)
        #expect((14 * Self.second...16 * Self.second).contains(world.world.now - start))
        #expect(!server.isLost, "the other end has sent nothing")
    }

    @Test func connectRunsOutOfTimeInAPartition() throws {
        let world = ScriptedWorld(seed: 5)
        world.second.listen()
        world.network.partition(world.first.host, world.second.host)
        world.first.connect(to: world.second)
        let start = world.world.now
        world.run { !world.first.connectFailures.isEmpty }
        #expect(world.first.connectFailures == [.timedOut])
        let limit = world.network.settings.connectLimitNanoseconds
        #expect((limit...limit + 1_000_000).contains(world.world.now - start))
        #expect(world.second.accepted.isEmpty)
    }

    @Test func connectGetsThroughAPartitionThatHealsInTime() throws {
        let world = ScriptedWorld(seed: 6)
        world.second.listen()
        world.network.partition(world.first.host, world.second.host)
        world.first.connect(to: world.second)
        world.run(forNanoseconds: 2 * Self.second)
        world.network.heal(world.first.host, world.second.host)
        #expect(world.run { world.first.connected.count == 1 && world.second.accepted.count == 1 })
    }

    // MARK: - Half-open connections

    @Test func senderOfAMutedConnectionNoticesNothingUntilTheBufferIsFull() throws {
        let (world, client, server) = try connected(seed: 7)
        world.network.settings.sendBufferByteCount = 20_000
        world.network.mute(from: world.first.host, to: world.second.host)
        world.first.chunkByteCount = 1000
        world.first.send(ScriptedWorld.pattern(30_000), on: client)
        world.run(forNanoseconds: 100 * Self.second)
        #expect(client.sentByteCount == 20_000)
        #expect(client.isSending && !client.isLost)
        #expect(server.received.isEmpty && !server.isLost)
        // A new connection is not concerned.
        let pair = try #require(world.makeConnection())
        world.first.send([7], on: pair.client)
        world.run(forNanoseconds: Self.second)
        #expect(pair.server.received == [7])
        world.network.cut(world.first.host, world.second.host)
        world.run(forNanoseconds: Self.second)
        #expect(client.isLost && server.isLost && server.received.isEmpty)
    }

    @Test func cutOnOneSideIsNoticedByTheOtherWhenItSends() throws {
        let (world, client, server) = try connected(seed: 8)
        world.network.cut(world.first.host, world.second.host, .first)
        world.run(forNanoseconds: 100 * Self.second)
        #expect(client.receiveFailure == .gone)
        #expect(!server.isLost && !server.hasEnded)
        world.second.send([1], on: server)
        world.run(forNanoseconds: Self.second)
        #expect(server.receiveFailure == .gone)
    }

    @Test func lostConnectionIsToldOnce() throws {
        let (world, client, _) = try connected(seed: 9)
        world.network.cut(world.first.host, world.second.host)
        world.run(forNanoseconds: Self.second)
        #expect(client.receiveFailure == .gone)
        client.receiveFailure = nil
        world.first.receive(on: client)
        world.run(forNanoseconds: Self.second)
        #expect(client.hasEnded && client.receiveFailure == nil)
        client.hasEnded = false
        world.first.send([1], on: client)
        world.run(forNanoseconds: Self.second)
        #expect(client.sendFailure == .gone)
    }

    // MARK: - Crashes of hosts

    /// Whether the peer of a host that crashes is told.
    private func isTold(seed: UInt64) throws -> Bool {
        let (world, client, server) = try connected(seed: seed)
        world.first.send(ScriptedWorld.pattern(1000), on: client)
        world.run { server.received.count == 1000 }
        world.second.crash()
        world.run(forNanoseconds: 100 * Self.second)
        #expect(!client.hasEnded)
        return client.isLost
    }

    @Test func peerOfACrashedHostIsToldOrNotAsTheSeedSays() throws {
        let told = try (1...20 as ClosedRange<UInt64>).filter { try isTold(seed: $0) }
        #expect((1..<20).contains(told.count))
        #expect(try isTold(seed: told[0]), "the same seed says the same")
    }

    @Test func restartedHostAnswersWhatIsSentToItsOldConnectionsWithAReset() throws {
        for seed in 1...10 as ClosedRange<UInt64> {
            let (world, client, _) = try connected(seed: seed)
            world.second.crash()
            world.run(forNanoseconds: 10 * Self.second)
            if !client.isLost { world.first.send([1], on: client) }
            world.run(forNanoseconds: 10 * Self.second)
            let wasTold = client.isLost
            world.second.restart()
            world.second.listen()
            world.run(forNanoseconds: 10 * Self.second)
            #expect(client.isLost, "told before: \(wasTold)")
            world.first.close(client)
            #expect(world.makeConnection() != nil)
        }
    }

    @Test func theOthersGoOnWhileAHostIsDown() throws {
        let world = ScriptedWorld(seed: 12, hostCount: 3)
        world.second.listen()
        world.hosts[2].listen()
        world.first.connect(to: world.second)
        world.run { world.first.connected.count == 1 }
        world.second.crash()
        let turns = world.second.turnCount
        world.first.connect(to: world.hosts[2])
        world.run { world.first.connected.count == 2 && world.hosts[2].accepted.count == 1 }
        world.first.send([1, 2], on: world.first.connected[1])
        world.run(forNanoseconds: Self.second)
        #expect(world.hosts[2].accepted[0].received == [1, 2])
        #expect(world.second.turnCount == turns)
    }

    // MARK: - Connects

    @Test func connectToAHostThatIsDownFailsInTime() throws {
        let world = ScriptedWorld(seed: 13)
        world.second.listen()
        world.second.crash()
        world.first.connect(to: world.second)
        #expect(world.run(forNanoseconds: 6 * Self.second) { !world.first.connectFailures.isEmpty })
        #expect(world.first.connectFailures == [.timedOut])
        world.network.settings.tellsUnreachable = true
        for _ in 0..<20 { world.first.connect(to: world.second) }
        world.run(forNanoseconds: 6 * Self.second) { world.first.connectFailures.count == 21 }
        #expect(Set(world.first.connectFailures) == [.timedOut, .gone])
    }

    @Test func connectWhereNobodyListensIsRefused() throws {
        let world = ScriptedWorld(seed: 14)
        world.second.listen(port: 1)
        world.first.connect(to: world.second, port: 2)
        world.run(forNanoseconds: Self.second)
        #expect(world.first.connectFailures == [.gone])
        world.link(0, 1).refusesConnects = true
        world.first.connect(to: world.second, port: 1)
        world.run(forNanoseconds: Self.second)
        #expect(world.first.connectFailures == [.gone, .gone])
        world.link(0, 1).refusesConnects = false
        world.first.connect(to: world.second, port: 1)
        world.run(forNanoseconds: Self.second)
        #expect(world.first.connected.count == 1 && world.second.accepted.count == 1)
        world.second.stopListening(port: 1)
        world.first.connect(to: world.second, port: 1)
        world.run(forNanoseconds: Self.second)
        #expect(world.second.acceptFailures == [.cancelled])
        #expect(world.first.connectFailures.count == 3)
    }

    @Test func lateAnswerFindsNobodyAndTheListenerIsTold() throws {
        let world = ScriptedWorld(seed: 15)
        world.second.listen()
        world.network.settings.connectLimitNanoseconds = Self.second
        world.link(0, 1).answerDelayLimitNanoseconds = 30 * Self.second
        for _ in 0..<10 { world.first.connect(to: world.second) }
        world.run(forNanoseconds: 40 * Self.second)
        let failedCount = world.first.connectFailures.count
        #expect(failedCount >= 5 && failedCount + world.first.connected.count == 10)
        #expect(world.first.connectFailures.allSatisfy { $0 == .timedOut })
        #expect(world.second.accepted.count == 10, "the listener has heard of all")
        #expect(world.second.accepted.filter(\.isLost).count == failedCount)
    }

    @Test func fullTableOfSocketsTurnsConnectionsAway() throws {
        let world = ScriptedWorld(seed: 16)
        world.second.host.socketLimit = 2
        world.second.listen()
        for _ in 0..<3 { world.first.connect(to: world.second) }
        world.run(forNanoseconds: 10 * Self.second)
        #expect(world.second.accepted.count == 2)
        #expect(world.second.acceptFailures == [.noResources])
        #expect(world.first.connected.count == 3)
        #expect(world.first.connected.filter(\.isLost).count == 1)
    }

    // MARK: - Time

    @Test func nobodySleepsThroughTheEventsOfOthers() throws {
        let world = ScriptedWorld(seed: 17)
        world.second.listen()
        world.first.deadline = 3600 * Self.second
        let pair = try #require(world.makeConnection())
        #expect(world.world.now < Self.second)
        world.second.send([1], on: pair.server)
        world.run { pair.client.received == [1] }
        #expect(world.world.now < Self.second)
        world.run(forNanoseconds: 7200 * Self.second) { world.world.now >= 3600 * Self.second }
        #expect(world.world.now == 3600 * Self.second, "the deadline is the next thing to happen")
    }

    @Test func frozenHostIsNotTurnedAndItsKernelGoesOn() throws {
        let (world, client, server) = try connected(seed: 18)
        world.second.host.isFrozen = true
        let turns = world.second.turnCount
        world.first.send(ScriptedWorld.pattern(100_000), on: client)
        world.run(forNanoseconds: 100 * Self.second)
        #expect(client.sentByteCount == 100_000)
        #expect(world.second.turnCount == turns)
        world.second.host.isFrozen = false
        world.run { server.received.count == 100_000 }
        #expect(server.received == ScriptedWorld.pattern(100_000))
    }

    @Test func lateHostFindsMoreAtOnce() throws {
        func turnCount(lateness: UInt64) throws -> Int {
            let world = ScriptedWorld(seed: 19)
            world.second.listen()
            world.second.host.latenessLimitNanoseconds = lateness
            for _ in 0..<50 { world.first.connect(to: world.second) }
            world.run { world.second.accepted.count == 50 }
            return world.second.turnCount
        }
        #expect(try turnCount(lateness: 5_000_000) * 3 < turnCount(lateness: 0))
    }
}
