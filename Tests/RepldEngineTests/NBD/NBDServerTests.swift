import RepldCore
import RepldFrontends
import Testing

@testable import RepldEngine

/// The driver, request by request.
@Suite("An NBD server")
struct NBDServerTests {
    static func pattern(_ count: Int, _ seed: UInt64 = 3) -> [UInt8] {
        var random = RandomSource(seed: seed)
        var bytes = [UInt8](repeating: 0, count: count)
        bytes.withUnsafeMutableBytes { memory in
            for place in stride(from: 0, to: count - 7, by: 8) {
                memory.storeBytes(of: random.next(), toByteOffset: place, as: UInt64.self)
            }
        }
        return bytes
    }

    /// Lengths around every border: copied or sent from the buffer, received directly, one piece or more.
    static let lengths: [Int] = [
        512, 4096, 8192, 16 << 10, (16 << 10) + 512, 60 << 10, 64 << 10, (64 << 10) + 512, 128 << 10, 300 << 10,
        768 << 10,
    ]

    @Test("gives back what was written, whatever the length", arguments: lengths, [true, false])
    func roundTrip(length: Int, isStructured: Bool) {
        for receiveLimit in [Int.max, 1000] {
            let host = NBDHost()
            let client = NBDTestClient(host, isStructured: isStructured)
            client.socket.receiveLimit = receiveLimit
            let data = Self.pattern(length)
            #expect(client.ask(.write, 512, UInt32(length), payload: data) == .init(error: nil))
            #expect(Array(host.disk.bytes[512..<512 + length]) == data)
            #expect(client.ask(.read, 512, UInt32(length)) == .init(error: nil, data: data))
            client.request(.disconnect)
            #expect(host.run { client.socket.isClosed })
            #expect(host.events.disconnections == [nil])
            host.expectIdle()
        }
    }

    @Test("carries every command out", arguments: [true, false])
    func commands(isStructured: Bool) {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: isStructured)
        let data = Self.pattern(64 << 10)
        #expect(client.ask(.write, 0, 64 << 10, .forceUnitAccess, payload: data)?.error == nil)
        #expect(host.disk.durableWriteCount == 1)
        #expect(client.ask(.flush)?.error == nil)
        #expect(host.disk.flushCount == 1)
        #expect(client.ask(.writeZeroes, 4096, 4096, [.noHole, .forceUnitAccess])?.error == nil)
        #expect(host.disk.keptAllocatedCount == 1)
        #expect(client.ask(.writeZeroes, 8192, 4096, .fastZero)?.error == nil)
        #expect(client.ask(.trim, 16384, 8192)?.error == nil)
        #expect(client.ask(.cache, 0, 8 << 20)?.error == nil)
        var expected = data
        for range in [4096..<12288, 16384..<24576] {
            expected.replaceSubrange(range, with: Array(repeating: 0, count: range.count))
        }
        #expect(client.ask(.read, 0, 64 << 10)?.data == expected)
        if isStructured {
            let extents: [[UInt32]] = [[8192, 0], [4096, 3], [4096, 0], [8192, 3], [40960, 0], [8192, 3]]
            #expect(client.ask(.blockStatus, 0, 72 << 10)?.extents == extents)
            #expect(client.ask(.blockStatus, 4096, 72 << 10, .requestOne)?.extents == [[4096, 0]])
        }
        #expect(client.ask(.trim, 0, 8 << 20)?.error == nil)
        #expect(host.disk.bytes.allSatisfy { $0 == 0 })
    }

    @Test("answers a status of more runs than fit with as many as fit")
    func longStatus() {
        let host = NBDHost()
        for block in stride(from: 0, to: 2048, by: 2) { host.disk.isHole[block] = false }
        let client = NBDTestClient(host, isStructured: true)
        #expect(client.ask(.blockStatus, 0, 8 << 20)?.extents.count == NBDLimit.statusExtentCount)
        host.disk.lacksQuery = true
        #expect(client.ask(.blockStatus, 0, 8 << 20)?.extents == [[8 << 20, 0]])
    }

    @Test("refuses what it must, and goes on with the next request", arguments: [true, false])
    func refusals(isStructured: Bool) {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: isStructured)
        let size = UInt64(8 << 20)
        let payload = Self.pattern(200_192)
        #expect(client.ask(.write, size - 512, 200_192, payload: payload)?.error == 28)
        #expect(client.ask(.write, 100, 512, payload: Self.pattern(512))?.error == 22)
        #expect(client.ask(.read, size, 512)?.error == 22)
        #expect(client.ask(.read, 0, 0)?.error == 22)
        #expect(client.ask(.read, 0, 1 << 20)?.error == (isStructured ? 75 : 22))
        if isStructured { #expect(client.ask(.read, 0, 128 << 10, .doNotFragment)?.error == 75) }
        host.disk.lacksZeroing = true
        #expect(client.ask(.writeZeroes, 0, 4096, .fastZero)?.error == 95)
        #expect(client.ask(.writeZeroes, 0, 4096)?.error == nil)
        #expect(client.ask(.read, 0, 512)?.error == nil)
        client.request(.disconnect)
        #expect(host.run { client.socket.isClosed })
        host.expectIdle()
    }

    @Test("protects a read-only volume")
    func readOnly() {
        let host = NBDHost(isReadOnly: true)
        let client = NBDTestClient(host, isStructured: true)
        #expect(client.ask(.write, 0, 512, payload: Self.pattern(512))?.error == 1)
        #expect(client.ask(.trim, 0, 512)?.error == 1)
        #expect(client.ask(.read, 0, 512)?.error == nil)
    }

    @Test("tells the first failure of a long request", arguments: [true, false], [0, 64 << 10, 256 << 10] as [UInt64])
    func failures(isStructured: Bool, place: UInt64) {
        let host = NBDHost(seed: place + 1)
        host.disk.failingRanges = [place..<place + 512]
        let client = NBDTestClient(host, isStructured: isStructured)
        #expect(client.ask(.read, 0, 300 << 10)?.error == 5)
        #expect(client.ask(.write, 0, 300 << 10, payload: Self.pattern(300 << 10))?.error == 28)
        #expect(client.ask(.read, 400 << 10, 4096)?.error == nil)
        client.request(.disconnect)
        #expect(host.run { client.socket.isClosed })
        host.expectIdle()
    }

    @Test("sends many replies at once, and parses many requests of one receive")
    func batching() {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: false)
        host.run {
            client.parse()
            return client.isInTransmission
        }
        host.disk.isStuck = true
        for place in 0..<16 { client.request(.read, UInt64(place) * 4096, 512) }
        host.settle()
        let receives = host.world.receiveCount
        let sends = host.world.sendCount
        host.disk.isStuck = false
        client.socket.isReading = true
        host.run {
            client.parse()
            return client.answers.count == 16
        }
        #expect(host.world.sendCount - sends <= 8)
        #expect(host.world.receiveCount - receives <= 1)
    }

    @Test("answers what is in flight before it follows a disconnect")
    func disconnect() {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: true)
        host.disk.isStuck = true
        let read = client.request(.read, 0, 64 << 10)
        let write = client.request(.write, 0, 512, payload: Self.pattern(512))
        client.request(.disconnect)
        host.settle()
        #expect(!client.socket.isClosed)
        host.disk.isStuck = false
        #expect(host.run { client.socket.isClosed })
        client.parse()
        #expect(client.answers[read]?.error == nil && client.answers[write]?.error == nil)
        #expect(client.answers.count == 2)
        host.expectIdle()
    }

    @Test("says why it ended a connection")
    func reasons() {
        let host = NBDHost()
        let bad = NBDTestClient(host, isStructured: true)
        bad.socket.toServer += Array(repeating: 1, count: 28)
        #expect(host.run { bad.socket.isClosed })
        let long = NBDTestClient(host, isStructured: true)
        long.request(.write, 0, NBDLimit.skippedPayloadByteCount + 512)
        #expect(host.run { long.socket.isClosed })
        let cut = NBDTestClient(host, isStructured: true)
        cut.request(.write, 0, 4096, payload: [1, 2, 3])
        cut.socket.hasEnded = true
        #expect(host.run { cut.socket.isClosed })
        let unknown = NBDTestClient(host, isStructured: false, export: "nope")
        #expect(host.run { unknown.socket.isClosed })
        #expect(
            host.events.disconnections == [
                NBDCloseReason.badRequestMagic.words, NBDCloseReason.writePayloadTooLong.words,
                NBDEndReason.endedInsideMessage.words, NBDCloseReason.unknownExport.words,
            ]
        )
        host.expectIdle()
    }

    @Test("does not wait for ever for a client to choose")
    func handshakeTime() {
        let host = NBDHost()
        let client = NBDTestClient(host, isStructured: true, startsAtOnce: false)
        #expect(host.run { client.socket.isClosed })
        #expect(host.events.disconnections == [NBDEndReason.handshakeTimedOut.words])
        host.expectIdle()
    }

    @Test("takes as many clients as it has places for, and a new one when one has gone")
    func places() {
        let host = NBDHost()
        let clients = (0..<NBDServer.connectionLimit).map { _ in NBDTestClient(host, isStructured: false) }
        host.settle()
        let late = NBDTestClient(host, isStructured: false)
        #expect(host.run { late.socket.isClosed })
        #expect(host.events.disconnections == [NBDEndReason.tooManyClients.words])
        clients[5].socket.hasEnded = true
        #expect(host.run { clients[5].socket.isClosed })
        #expect(NBDTestClient(host, isStructured: false).ask(.read, 0, 512)?.error == nil)
    }
}
