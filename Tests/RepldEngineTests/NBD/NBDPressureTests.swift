import RepldCore
import RepldFrontends
import Testing

@testable import RepldEngine

/// A client that does at random what clients do, and knows what its part of the volume must hold.
final class NBDRandomClient {
    static let unit = 512
    let client: NBDTestClient
    let base: UInt64
    private var model: [UInt8]
    /// How many requests in flight read, and whether one writes, each unit.
    private var readers: [Int]
    private var isWritten: [Bool]
    private var expected: [UInt64: (command: NBDCommand, range: Range<Int>, data: [UInt8])] = [:]
    private(set) var answered = 0
    var knowsContents = true

    /// Its part of the volume is `byteCount` bytes from `base`.
    init(_ client: NBDTestClient, base: UInt64, byteCount: Int) {
        self.client = client
        self.base = base
        model = Array(repeating: 0, count: byteCount)
        readers = Array(repeating: 0, count: byteCount / Self.unit)
        isWritten = Array(repeating: false, count: byteCount / Self.unit)
    }

    var inFlightCount: Int { expected.count }

    /// Sends one request that does not meet another one in flight.
    func act(_ random: inout RandomSource, longest: Int) {
        let units = 1 + Int(random.below(UInt64(random.chance(oneIn: 4) ? longest / Self.unit : 32)))
        let length = min(units, readers.count) * Self.unit
        let start = Int(random.below(UInt64(model.count - length) / UInt64(Self.unit) + 1)) * Self.unit
        let range = start..<start + length
        let blocks = start / Self.unit..<range.upperBound / Self.unit
        guard !isWritten[blocks].contains(true) else { return }
        let offset = base + UInt64(start)
        if random.chance(oneIn: 2) {
            let cookie = client.request(.read, offset, UInt32(length))
            for block in blocks { readers[block] += 1 }
            expected[cookie] = (.read, range, Array(model[range]))
            return
        }
        guard readers[blocks].allSatisfy({ $0 == 0 }) else { return }
        for block in blocks { isWritten[block] = true }
        if random.chance(oneIn: 4) {
            let cookie = client.request(.writeZeroes, offset, UInt32(length), random.chance(oneIn: 2) ? .noHole : [])
            expected[cookie] = (.writeZeroes, range, Array(repeating: 0, count: length))
        } else {
            let data = NBDServerTests.pattern(length, random.next())
            let cookie = client.request(.write, offset, UInt32(length), payload: data)
            expected[cookie] = (.write, range, data)
        }
    }

    /// Checks the answers that have come.
    func check() {
        client.parse()
        for (cookie, answer) in client.takeAnswers() {
            guard let (command, range, data) = expected.removeValue(forKey: cookie) else { continue }
            answered += 1
            #expect(answer.error == nil)
            let blocks = range.lowerBound / Self.unit..<range.upperBound / Self.unit
            if command == .read {
                #expect(!knowsContents || answer.data == data, "a read brings what was written")
                for block in blocks { readers[block] -= 1 }
            } else {
                model.replaceSubrange(range, with: data)
                for block in blocks { isWritten[block] = false }
            }
        }
    }
}

/// Many clients on a small pool, cut anywhere.
@Suite("An NBD server under pressure")
struct NBDPressureTests {
    static let share = 1 << 20

    static func clients(_ host: NBDHost, _ count: Int) -> [NBDRandomClient] {
        (0..<count).map { index in
            let client = NBDTestClient(host, isStructured: index % 2 == 0)
            return NBDRandomClient(client, base: UInt64(index * share), byteCount: share)
        }
    }

    @Test("answers every request of every client", arguments: 1...4 as ClosedRange<UInt64>)
    func everyAnswer(seed: UInt64) {
        let host = NBDHost(seed: seed, byteCount: 16 << 20)
        var random = RandomSource(seed: seed)
        let clients = Self.clients(host, 16)
        for client in clients where random.chance(oneIn: 2) {
            client.client.socket.receiveLimit = 1 + Int(random.below(5000))
        }
        var actions = 600
        let isDone = host.run {
            if actions > 0 {
                actions -= 1
                clients[Int(random.below(16))].act(&random, longest: 700 << 10)
            }
            for client in clients { client.check() }
            return actions == 0 && clients.allSatisfy { $0.inFlightCount == 0 }
        }
        #expect(isDone, "nobody waits for ever: \(clients.map(\.inFlightCount))")
        for client in clients { client.client.request(.disconnect) }
        #expect(host.run { clients.allSatisfy { $0.client.socket.isClosed } })
        host.expectIdle()
    }

    @Test("gets everything back from clients that are lost anywhere", arguments: 1...6 as ClosedRange<UInt64>)
    func losses(seed: UInt64) {
        let host = NBDHost(seed: seed, byteCount: 16 << 20)
        var random = RandomSource(seed: seed &* 77)
        var clients = Self.clients(host, 12)
        var actions = 500
        let isDone = host.run {
            for _ in 0..<3 where actions > 0 {
                actions -= 1
                clients[Int(random.below(12))].act(&random, longest: 700 << 10)
            }
            for client in clients { client.check() }
            if random.chance(oneIn: 40) {
                let index = Int(random.below(12))
                let socket = clients[index].client.socket
                switch random.below(4) {
                case 0: socket.isLost = true
                case 1: socket.hasEnded = true
                case 2: socket.isReading = false
                default: socket.toServer.append(contentsOf: Array(repeating: 7, count: 40))
                }
                // What it had in flight may still be written: its successor cannot know what it reads.
                let client = NBDTestClient(host, isStructured: random.chance(oneIn: 2))
                clients[index] = NBDRandomClient(client, base: UInt64(index * Self.share), byteCount: Self.share)
                clients[index].knowsContents = false
            }
            return actions == 0
        }
        #expect(isDone)
        for socket in host.world.sockets where !socket.isClosed { socket.isLost = true }
        #expect(host.run { host.world.sockets.allSatisfy(\.isClosed) })
        host.settle()
        host.expectIdle()
        #expect(NBDTestClient(host, isStructured: true).ask(.read, 0, 512)?.error == nil)
    }

    @Test("stops while clients work, and answers what is in flight", arguments: 1...4 as ClosedRange<UInt64>)
    func stopping(seed: UInt64) {
        let host = NBDHost(seed: seed, byteCount: 16 << 20)
        var random = RandomSource(seed: seed &* 3)
        let clients = Self.clients(host, 8)
        for _ in 0..<200 {
            clients[Int(random.below(8))].act(&random, longest: 300 << 10)
            host.turn()
        }
        if random.chance(oneIn: 2) { clients[0].client.socket.isReading = false }
        let stopped = EventLog()
        host.send(.stop { stopped.append(EngineEvent(volume: nil, pair: nil, kind: .clientConnected(0))) })
        host.run { host.hasEnded }
        #expect(host.hasEnded)
        #expect(host.world.sockets.allSatisfy { $0.isClosed })
        #expect(host.world.operations.isEmpty)
        host.expectIdle()
    }

    @Test("removes a volume under its clients", arguments: 1...4 as ClosedRange<UInt64>)
    func removing(seed: UInt64) {
        let host = NBDHost(seed: seed, byteCount: 16 << 20)
        var random = RandomSource(seed: seed &* 5)
        let clients = Self.clients(host, 8)
        for _ in 0..<150 {
            let client = clients[Int(random.below(8))]
            client.act(&random, longest: 300 << 10)
            if client.client.isStructured && random.chance(oneIn: 3) { client.client.request(.blockStatus, 0, 1 << 20) }
            host.turn()
        }
        host.send(.removeVolume(NBDHost.volume, isForced: true) { #expect((try? $0.get()) != nil) })
        #expect(host.run { host.engine.volumeIndex(NBDHost.volume) == nil && host.engine.nbd.openConnectionCount == 0 })
        #expect(host.events.disconnections.allSatisfy { $0 == NBDEndReason.volumeRemoved.words })
        host.expectIdle()
    }

    @Test("frees the buffers of a client that reads nothing once others wait for them")
    func stuckReaders() {
        let host = NBDHost(byteCount: 16 << 20)
        let stuck = (0..<6).map { _ in NBDTestClient(host, isStructured: true) }
        for client in stuck {
            client.socket.isReading = true
            host.run {
                client.parse()
                return client.isInTransmission
            }
            client.socket.isReading = false
            for place in 0..<40 { client.request(.read, UInt64(place) * 65536, 65536) }
        }
        host.settle()
        #expect(stuck.allSatisfy { !$0.socket.isClosed }, "nobody waits for their buffers yet")
        let other = NBDTestClient(host, isStructured: false)
        #expect(other.ask(.read, 0, 300 << 10)?.error == nil)
        #expect(host.events.disconnections.contains(NBDEndReason.heldBuffersTooLong.words))
    }

    @Test("serves short requests while long ones wait for long buffers")
    func shortPassesLong() {
        let host = NBDHost(byteCount: 16 << 20)
        let long = (0..<3).map { _ in NBDTestClient(host, isStructured: true) }
        for client in long {
            host.run {
                client.parse()
                return client.isInTransmission
            }
            client.socket.isReading = false
            for place in 0..<20 { client.request(.read, UInt64(place) * 65536, 65536) }
        }
        host.run { host.engine.nbd.waiterCount > 0 }
        let short = NBDTestClient(host, isStructured: false)
        #expect(short.ask(.read, 0, 512)?.error == nil)
        #expect(host.events.disconnections.isEmpty)
    }

    @Test("keeps a removed volume's element until its queries are over")
    func removingWithQueries() {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: true)
        host.run {
            client.parse()
            return client.isInTransmission
        }
        host.disk.holdsQueries = true
        client.request(.blockStatus, 0, 4096)
        host.settle()
        host.send(.removeVolume(NBDHost.volume, isForced: true) { #expect((try? $0.get()) != nil) })
        host.settle()
        #expect(host.engine.volumeIndex(NBDHost.volume) != nil)
        host.disk.holdsQueries = false
        #expect(host.run { client.socket.isClosed && host.engine.volumeIndex(NBDHost.volume) == nil })
        host.expectIdle()
    }

    @Test("keeps a buffer that a receive is in flight to until that completes")
    func orphan() {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: true)
        host.run {
            client.parse()
            return client.isInTransmission
        }
        client.request(.write, 0, 64 << 10, payload: [1])
        host.settle()
        client.socket.holdsReceive = true
        host.send(.removeVolume(NBDHost.volume, isForced: true) { #expect((try? $0.get()) != nil) })
        host.settle()
        #expect(host.engine.pool.takenCount == host.idleBuffers + 1 && !client.socket.isClosed)
        client.socket.holdsReceive = false
        #expect(host.run { client.socket.isClosed })
        host.expectIdle()
    }

    @Test("lets one client hold no more than its share of the buffers")
    func share() {
        let classes = [
            BufferPool.SizeClass(byteCount: 4 << 10, count: 16), BufferPool.SizeClass(byteCount: 1 << 20, count: 40),
        ]
        let host = NBDHost(byteCount: 32 << 20, classes: classes)
        let client = NBDTestClient(host, isStructured: true)
        host.run {
            client.parse()
            return client.isInTransmission
        }
        client.socket.isReading = false
        for place in 0..<30 { client.request(.read, UInt64(place) << 20, 1 << 20) }
        host.settle()
        #expect(host.engine.pool.takenCount - host.idleBuffers == NBDServer.heldByteLimit >> 20)
        client.socket.isReading = true
        #expect(
            host.run {
                client.parse()
                return client.answers.count == 30
            }
        )
    }

    @Test("lets nobody pass an earlier one that waits for the same")
    func queueing() {
        var server = NBDServer()
        server.connections[1].wantedByteCount = 65536
        server.connections[1].volume = 3
        server.connections[2].volume = 3
        server.connections[4].volume = 4
        server.wait(1, for: .buffer)
        var answers = [4096, 65536, 1 << 20].map { server.mustQueue(2, for: .buffer, byteCount: $0) }
        #expect(answers == [false, true, true])
        answers = [
            server.mustQueue(1, for: .buffer, byteCount: 65536), server.mustQueue(2, for: .table),
            server.mustQueue(2, for: .volume),
        ]
        #expect(answers == [false, false, false])
        server.wait(2, for: .buffer)
        server.wait(1, for: .volume)
        answers = [
            server.mustQueue(2, for: .volume), server.mustQueue(1, for: .volume), server.mustQueue(4, for: .volume),
            server.mustQueue(1, for: .buffer, byteCount: 1 << 20), server.mustQueue(4, for: .buffer, byteCount: 0),
        ]
        #expect(answers == [true, false, false, false, true])
        server.stopWaiting(1)
        let first = server.waiters[0]
        let count = server.waiterCount
        #expect(first == 2 && count == 1)
    }

    @Test("does not keep the place of a client that leaves without taking its last replies")
    func stuckAtEnd() {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: true)
        host.run {
            client.parse()
            return client.isInTransmission
        }
        client.socket.isReading = false
        client.request(.read, 0, 4096)
        client.request(.disconnect)
        #expect(host.run { client.socket.isClosed })
        #expect(host.events.disconnections == [NBDEndReason.lastRepliesTimedOut.words])
        host.expectIdle()
    }

    @Test("lets clients with long simple reads collect their buffers one after the other")
    func collecting() {
        let host = NBDHost(byteCount: 16 << 20)
        let clients = (0..<8).map { _ in NBDTestClient(host, isStructured: false) }
        for client in clients { for _ in 0..<4 { client.request(.read, 0, 768 << 10) } }
        #expect(
            host.run {
                for client in clients { client.parse() }
                return clients.allSatisfy { $0.answers.count == 4 }
            }
        )
    }

    @Test("parses no more of a client than it may have in flight")
    func requestLimit() {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: false)
        host.run {
            client.parse()
            return client.isInTransmission
        }
        host.disk.isStuck = true
        for _ in 0..<1000 { client.request(.flush) }
        host.settle()
        let parsedCount = host.engine.nbd.pendings.takenCount
        #expect(parsedCount <= NBDServer.requestLimit && parsedCount > 0)
        host.disk.isStuck = false
        #expect(
            host.run {
                client.parse()
                return client.answers.count == 1000
            }
        )
    }
}
