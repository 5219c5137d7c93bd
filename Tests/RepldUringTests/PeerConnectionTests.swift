import Glibc
import RepldCore
import RepldEngine
import RepldUring
import Testing

/// Encrypted connections between peers: what goes through them, and how they end.
@Suite struct PeerConnectionTests {
    static let multishot = [UringPlatform.Acceleration.all, []]

    @Test(
        "Bytes go both ways, whatever the lengths of sends and receives",
        arguments: [1, 2, 100, 4136, 16383, 16384, 16385, 65535, 65536, 200_000, 1 << 20, 3_000_001],
        [0, 1, 40]
    )
    func lengths(count: Int, headCount: Int) throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key])
        let (client, server) = try pair.connect(key)
        let memory = Memory((count + 7) & ~7, seed: UInt64(count))
        let sent = Memory(count)
        sent.bytes.copyMemory(from: UnsafeRawBufferPointer(memory.slice(0, count)))
        for room in [1, 1000, 16384, 1 << 22] where count / room < 5000 {
            let there = pair.desk.transfer(sent, headCount: min(headCount, count), from: client, to: server, room: room)
            #expect(there?.equals(sent) == true)
            let back = pair.desk.transfer(sent, headCount: min(headCount, count), from: server, to: client, room: room)
            #expect(back?.equals(sent) == true)
        }
        pair.close(client, server)
        pair.end()
    }

    @Test("Several connections at once, with and without the kernel's shortcuts", arguments: multishot)
    func several(allowed: UringPlatform.Acceleration) throws {
        let keys = [try PeerKey.fresh(), try PeerKey.fresh()]
        var options = UringPlatform.Options()
        options.allowed = allowed
        var pair = try PeerDesk(keys, options)
        let memory = Memory(100_000, seed: 3)
        for _ in 0..<3 {
            let first = try pair.connect(keys[0])
            let second = try pair.connect(keys[1])
            let identities = [first.client, first.server, second.client, second.server].map { socket in
                pair.desk.platform.keyIdentity(of: socket)
            }
            #expect(identities == [keys[0].identity, keys[0].identity, keys[1].identity, keys[1].identity])
            for ends in [first, second] {
                let there = pair.desk.transfer(memory, headCount: 40, from: ends.client, to: ends.server, room: 30_000)
                #expect(there?.equals(memory) == true)
            }
            pair.close(first.client, second.server, first.server, second.client)
        }
        pair.end()
    }

    @Test("The end that was said is an end; the end of the network is a failure")
    func ends() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key])
        let (client, server) = try pair.connect(key)
        pair.close(client)
        let end = pair.desk.receiveOnce(server)
        #expect(end?.succeeded(0) == true)
        let again = pair.desk.receiveOnce(server)
        #expect(again?.succeeded(0) == true)
        pair.close(server)

        let proxy = try Proxy(to: pair.listener, .cut(4000, toListener: true))
        let torn = try pair.connect(key, via: proxy.port)
        let memory = Memory(16384, seed: 1)
        let received = pair.desk.transfer(memory, headCount: 0, from: torn.client, to: torn.server, room: 1 << 16)
        #expect(received == nil)
        let failure = pair.desk.receiveOnce(torn.server)?.failure
        #expect(failure == .gone)
        pair.close(torn.client, torn.server)
        proxy.join()
        pair.end()
    }

    @Test("Our own shutdown ends a receive in flight, and the other end sees an end")
    func ownShutdown() throws {
        let key = try PeerKey.fresh()
        var pair = try PeerDesk([key])
        let (client, server) = try pair.connect(key)
        let memory = Memory(4096)
        pair.desk.platform.receive(client, into: memory.bytes, token: Token(rawValue: 1))
        pair.desk.platform.wait(until: .soon(0), into: &pair.desk.completions)
        pair.desk.platform.shutdown(client)
        let own = pair.desk.next()
        #expect(own?.token.rawValue == 1 && own?.failure == .gone)
        let other = pair.desk.receiveOnce(server)
        #expect(other?.succeeded(0) == true)
        pair.close(client, server)
        pair.end()
    }

    @Test(
        "A byte changed on the way ends the connection, and no byte that was not sent arrives",
        arguments: [0, 1, 5, 9, 60, 150, 250, 300, 400, 500, 600, 1500, 9000, 16000, 30_000],
        [true, false]
    )
    func changed(place: Int, toListener: Bool) throws {
        let key = try PeerKey.fresh()
        // A changed length has a side wait for bytes that do not come.
        var options = UringPlatform.Options()
        options.admissionTimeNanoseconds = 300_000_000
        var pair = try PeerDesk([key], options)
        let proxy = try Proxy(to: pair.listener, .flip(place, toListener: toListener))
        let address = PeerDesk.address(port: proxy.port, key)
        pair.desk.platform.connect(address, token: PeerDesk.connectToken)
        var ends: [Token: SocketID] = [:]
        var failure: IOFailure?
        // The side that was to be let in may believe that it is; the listener's words tell.
        while failure == nil && ends.count < 2 && pair.listener.trouble?.note.words == nil {
            pair.desk.platform.wait(until: .soon(10), into: &pair.desk.completions)
            while let completion = pair.desk.completions.popFirst() {
                failure = failure ?? completion.failure
                if completion.failure == nil { ends[completion.token] = SocketID(index: UInt16(completion.count)) }
            }
        }
        if let client = ends[PeerDesk.connectToken], let server = ends[SocketTests.acceptToken], failure == nil {
            let memory = Memory(1 << 16, seed: 7)
            let (source, target) = toListener ? (client, server) : (server, client)
            let arrived = expectPrefix(of: memory, from: source, to: target, &pair)
            #expect(arrived < memory.bytes.count)
            pair.close(client, server)
        } else {
            #expect(address.trouble.note.words != nil || pair.listener.trouble?.note.words != nil)
            // The attempt may still be under way when the listener's end is known.
            if failure == nil, ends[PeerDesk.connectToken] == nil, let late = pair.desk.next(), late.failure == nil {
                ends[late.token] = SocketID(index: UInt16(late.count))
            }
            for socket in ends.values { pair.desk.platform.close(socket) }
        }
        proxy.join()
        pair.end()
    }

    /// Sends all of it; how much arrived before the failure, all of it as it was sent.
    private func expectPrefix(of memory: Memory, from source: SocketID, to target: SocketID, _ pair: inout PeerDesk)
        -> Int
    {
        let total = memory.bytes.count
        let received = Memory(total)
        pair.desk.platform.send(
            source,
            UnsafeRawBufferPointer(memory.slice(0, 8)),
            UnsafeRawBufferPointer(memory.slice(8, total - 8)),
            token: Token(rawValue: 2)
        )
        var done = 0
        var (isSending, isReceiving) = (true, true)
        pair.desk.platform.receive(target, into: received.bytes, token: Token(rawValue: 1))
        while isSending || isReceiving, let completion = pair.desk.next() {
            if completion.token.rawValue == 2 {
                isSending = false
                // A header whose length was changed has the other side wait for more than was sent.
                pair.desk.platform.shutdown(source)
                continue
            }
            guard completion.token.rawValue == 1 else { continue }
            done += Int(completion.count)
            isReceiving = completion.failure == nil && completion.count > 0 && done < total
            if isReceiving {
                pair.desk.platform.receive(target, into: received.slice(done, total - done), token: Token(rawValue: 1))
            } else if isSending {
                pair.desk.platform.shutdown(source)
            }
        }
        #expect(received.slice(0, done).elementsEqual(memory.slice(0, done)))
        return done
    }
}
