import RepldCore
import RepldFormat
import RepldFrontends
import RepldPair
import Synchronization
import Testing

@testable import RepldEngine

extension NBDHost {
    static let granule: UInt64 = 64 << 10

    /// Pairs the volume with a new disk, and waits until both are equal.
    @discardableResult
    func mirror(_ name: String, number: UInt64, granuleByteCount: UInt32 = 64 << 10) -> PairID {
        let id = PairID(high: 0, low: number)
        let target = NBDTestDisk(byteCount: disk.bytes.count)
        let metadata = NBDTestDisk(byteCount: 1 << 20)
        let spec = PairSpec<NBDTestPlatform>(
            volume: Self.volume,
            pair: id,
            name: name,
            target: .local(
                ElementSpec(handle: NBDTestElement(disk: target), geometry: target.geometry, name: "target")
            ),
            metadata: ElementSpec(
                handle: NBDTestElement(disk: metadata),
                geometry: metadata.geometry,
                name: "metadata"
            ),
            record: PairRecord(
                sequence: 0,
                pair: id,
                volumeByteCount: UInt64(disk.bytes.count),
                copyState: CopyState.initialized.rawValue,
                isClosedCleanly: false
            ),
            maps: .unknown(because: nil),
            isNew: true,
            settings: PairSettings(granuleByteCount: granuleByteCount, copyChunkByteCount: 64 << 10)
        )
        send(.addPair(spec) { #expect((try? $0.get()) != nil) })
        operate(id, .activate, to: .synchronized)
        return id
    }

    func operate(_ id: PairID, _ operation: ReplicationOperation, to state: CopyState) {
        send(.operate(id, operation, isForced: false) { #expect((try? $0.get()) != nil) })
        let isThere = run { engine.copyState(of: id) == state }
        #expect(isThere, "\(operation) leads to \(state)")
        settle()
    }

    func detach(_ id: PairID) {
        send(.detachPair(id) { #expect((try? $0.get()) != nil) })
        let isGone = run { engine.copyState(of: id) == nil }
        #expect(isGone)
        settle()
    }

    /// What the engine answers to a question about changes.
    func changes(_ id: PairID, _ query: ChangesQuery = ChangesQuery()) -> Result<PairChanges, EngineRefusal>? {
        let answer = AnswerBox()
        send(.changes(id, query) { answer.put($0) })
        run { answer.value != nil }
        return answer.value
    }

    private final class AnswerBox: Sendable {
        private let box = Mutex<Result<PairChanges, EngineRefusal>?>(nil)
        var value: Result<PairChanges, EngineRefusal>? { box.withLock { $0 } }
        func put(_ answer: Result<PairChanges, EngineRefusal>) { box.withLock { $0 = answer } }
    }
}

/// BLOCK_STATUS in the contexts that tell where the elements of pairs may differ, and the command that tells the same.
@Suite("An NBD server's differences")
struct NBDDifferenceTests {
    static let granule = UInt32(NBDHost.granule)
    static let size = UInt32(8 << 20)
    /// The numbers of `repld:dirty`, and of the context of the first and of the second pair.
    static let any: UInt32 = 2
    static let near: UInt32 = 3
    static let far: UInt32 = 4

    private func client(_ host: NBDHost, _ queries: [String], export: String = "db1") -> NBDTestClient {
        NBDTestClient(host, isStructured: true, export: export, queries: queries)
    }

    private func write(_ host: NBDHost, at offset: UInt64, export: String = "db1") {
        let writer = client(host, [], export: export)
        #expect(writer.ask(.write, offset, 512, payload: NBDServerTests.pattern(512))?.error == nil)
        // A target that stops being mirrored lacks whatever it had not flushed.
        #expect(writer.ask(.flush)?.error == nil)
        writer.request(.disconnect)
        host.run { writer.socket.isClosed }
    }

    @Test("are what was written since mirroring stopped, in whole granules")
    func suspended() {
        let host = NBDHost()
        let id = host.mirror("near", number: 1)
        let client = client(host, ["repld:dirty"])
        #expect(client.ask(.blockStatus, 0, Self.size)?.differences == [Self.any: [[Self.size, 0]]])
        host.operate(id, .suspend, to: .suspended)
        write(host, at: NBDHost.granule + 4096)
        write(host, at: 3 * NBDHost.granule)
        let granule = Self.granule
        let extents = [[granule, 0], [granule, 1], [granule, 0], [granule, 1], [Self.size - 4 * granule, 0]]
        #expect(client.ask(.blockStatus, 0, Self.size)?.differences == [Self.any: extents])
        let part = client.ask(.blockStatus, NBDHost.granule + 512, granule, .requestOne)
        #expect(part?.differences == [Self.any: [[granule - 512, 1]]])
        let changes = try? host.changes(id)?.get()
        #expect(changes?.runs == [1, 3].map { Extent(offset: $0 * NBDHost.granule, length: NBDHost.granule) })
        #expect(changes?.nextOffset == nil && changes?.copyState == .suspended)
        host.operate(id, .resume, to: .synchronized)
        #expect(client.ask(.blockStatus, 0, Self.size)?.differences == [Self.any: [[Self.size, 0]]])
        client.request(.disconnect)
        #expect(host.run { client.socket.isClosed })
        host.expectIdle()
    }

    @Test("are told beside the holes, a chunk for each context")
    func besideAllocation() {
        let host = NBDHost()
        let id = host.mirror("near", number: 1)
        host.operate(id, .suspend, to: .suspended)
        write(host, at: 0)
        let client = client(host, ["repld:dirty:near", "base:allocation", "repld:dirty", "repld:dirty:none", "x:"])
        let answer = client.ask(.blockStatus, 0, Self.granule * 2)
        #expect(answer?.extents == [[4096, 0], [Self.granule * 2 - 4096, 3]])
        let extents = [[Self.granule, 1], [Self.granule, 0]]
        #expect(answer?.differences == [Self.any: extents, Self.near: extents])
        let one = client.ask(.blockStatus, 0, Self.granule * 2, .requestOne)
        #expect(one?.extents == [[4096, 0]])
        #expect(one?.differences == [Self.any: [[Self.granule, 1]], Self.near: [[Self.granule, 1]]])
        host.disk.lacksQuery = true
        let untold = client.ask(.blockStatus, 0, Self.granule * 2)
        #expect(untold?.extents == [[Self.granule * 2, 0]] && untold?.differences == answer?.differences)
    }

    @Test("need no element: they are told while that hangs")
    func withoutElement() {
        let host = NBDHost()
        let id = host.mirror("near", number: 1)
        host.operate(id, .suspend, to: .suspended)
        let client = client(host, ["repld:dirty"])
        #expect(client.ask(.blockStatus, 0, 512)?.differences == [Self.any: [[512, 0]]])
        host.disk.isStuck = true
        #expect(client.ask(.blockStatus, 0, 4096)?.differences == [Self.any: [[4096, 0]]])
    }

    @Test("of several pairs are those of any, and of each alone", arguments: [4096, 64 << 10] as [UInt32])
    func union(secondGranule: UInt32) {
        let host = NBDHost()
        let near = host.mirror("near", number: 1)
        let far = host.mirror("far", number: 2, granuleByteCount: secondGranule)
        host.operate(near, .suspend, to: .suspended)
        write(host, at: 0)
        host.operate(far, .suspend, to: .suspended)
        write(host, at: 2 * NBDHost.granule)
        let client = client(host, ["repld:dirty", "repld:dirty:near", "repld:dirty:far"])
        let answer = client.ask(.blockStatus, 0, Self.size)
        let granule = Self.granule
        let all = [[granule, 0], [granule, 1], [Self.size - 3 * granule, 0]]
        #expect(answer?.differences[Self.near] == [[granule, 1]] + all)
        #expect(answer?.differences[Self.any] == answer?.differences[Self.near])
        let rest = Self.size - 2 * granule - secondGranule
        #expect(answer?.differences[Self.far] == [[2 * granule, 0], [secondGranule, 1], [rest, 0]])
    }

    @Test("of a pair that is detached are everything, also when another one takes its place")
    func detached() {
        let host = NBDHost()
        let near = host.mirror("near", number: 1)
        let far = host.mirror("far", number: 2)
        let all = client(host, ["repld:dirty", "repld:dirty:near", "repld:dirty:far"])
        let clean = [[Self.size, UInt32(0)]]
        let dirty = [[Self.size, UInt32(1)]]
        #expect(all.ask(.blockStatus, 0, Self.size)?.differences == [2: clean, 3: clean, 4: clean])
        host.detach(near)
        #expect(all.ask(.blockStatus, 0, Self.size)?.differences == [2: dirty, 3: dirty, 4: clean])
        let left = client(host, ["repld:dirty", "repld:dirty:near", "repld:dirty:far"])
        #expect(left.ask(.blockStatus, 0, Self.size)?.differences == [2: clean, 4: clean])
        host.mirror("near", number: 3)
        #expect(all.ask(.blockStatus, 0, Self.size)?.differences == [2: dirty, 3: dirty, 4: clean])
        let new = client(host, ["repld:dirty:near"])
        #expect(new.ask(.blockStatus, 0, Self.size)?.differences == [3: clean])
        host.detach(far)
        #expect(all.ask(.blockStatus, 0, Self.size)?.differences == [2: dirty, 3: dirty, 4: dirty])
        #expect(host.changes(near) == .failure(.noSuchPair))
    }

    @Test("of a pair that comes later are in what any pair differs by")
    func late() {
        let host = NBDHost()
        host.mirror("near", number: 1)
        let client = client(host, ["repld:dirty"])
        let far = host.mirror("far", number: 2)
        host.operate(far, .suspend, to: .suspended)
        write(host, at: 0)
        let extents = [[Self.granule, 1], [Self.size - Self.granule, 0]]
        #expect(client.ask(.blockStatus, 0, Self.size)?.differences == [Self.any: extents])
    }

    @Test(
        "asked for by a client that takes no replies wait for it, and hold nothing meanwhile",
        arguments: [true, false]
    )
    func slowClient(asksForAllocation: Bool) {
        let host = NBDHost()
        let id = host.mirror("near", number: 1)
        host.operate(id, .suspend, to: .suspended)
        write(host, at: 0)
        let queries = ["repld:dirty", "repld:dirty:near"] + (asksForAllocation ? ["base:allocation"] : [])
        let client = client(host, queries)
        #expect(client.ask(.blockStatus, 0, 4096)?.differences.count == 2)
        client.socket.isReading = false
        let cookies = (0..<400).map { _ in client.request(.blockStatus, 0, Self.size) }
        host.settle()
        #expect(host.engine.nbd.connections[0].requestCount <= NBDServer.requestLimit)
        if !asksForAllocation { #expect(host.engine.pool.takenCount == host.idleBuffers) }
        client.socket.isReading = true
        host.run {
            client.parse()
            return client.answers.count == cookies.count + 1
        }
        let extents = [[Self.granule, 1], [Self.size - Self.granule, 0]]
        for cookie in cookies { #expect(client.answers[cookie]?.differences == [2: extents, 3: extents]) }
        client.request(.disconnect)
        #expect(host.run { client.socket.isClosed })
        host.expectIdle()
    }

    @Test("of a volume without pairs cannot be asked for")
    func unpaired() {
        let host = NBDHost()
        let client = client(host, ["repld:dirty"])
        #expect(client.ask(.blockStatus, 0, 4096)?.error == 22)
    }

    @Test("are told on a target's own export too, of its pair alone, with what its own hosts wrote")
    func targetExport() {
        let host = NBDHost()
        let near = host.mirror("near", number: 1)
        let far = host.mirror("far", number: 2)
        host.operate(near, .suspend, to: .suspended)
        write(host, at: 0)
        host.operate(far, .split, to: .split)
        write(host, at: NBDHost.granule)
        write(host, at: 2 * NBDHost.granule, export: "far/target")
        let client = client(host, ["repld:dirty", "repld:dirty:far", "repld:dirty:near"], export: "far/target")
        let extents = [[Self.granule, 0], [2 * Self.granule, 1], [Self.size - 3 * Self.granule, 0]]
        #expect(client.ask(.blockStatus, 0, Self.size)?.differences == [Self.any: extents, Self.far: extents])
        for (side, granule) in [(ChangedSide.source, UInt64(1)), (.target, 2)] {
            let changes = try? host.changes(far, ChangesQuery(side: side))?.get()
            #expect(changes?.runs == [Extent(offset: granule * NBDHost.granule, length: NBDHost.granule)])
        }
    }

    @Test("of many runs are told as far as fits, and by the command in answers that continue each other")
    func many() {
        let host = NBDHost()
        let id = host.mirror("near", number: 1, granuleByteCount: 4096)
        host.operate(id, .suspend, to: .suspended)
        for place in stride(from: UInt64(0), to: 2048, by: 2) { write(host, at: place * 4096) }
        let client = client(host, ["base:allocation", "repld:dirty", "repld:dirty:near"])
        let answer = client.ask(.blockStatus, 0, Self.size)
        #expect(answer?.extents.count == NBDLimit.statusExtentCount)
        #expect(answer?.differences.mapValues(\.count) == [2: 256, 3: 256])
        var found: [Extent] = []
        var offset: UInt64? = 0
        var answerCount = 0
        while let from = offset, let changes = try? host.changes(id, ChangesQuery(offset: from))?.get() {
            #expect(changes.runs.count <= PairChanges.runLimit)
            found += changes.runs
            offset = changes.nextOffset
            answerCount += 1
        }
        #expect(answerCount == 2)
        #expect(found == (0..<1024).map { Extent(offset: $0 * 8192, length: 4096) })
        let three = try? host.changes(id, ChangesQuery(offset: 8192 + 512, runLimit: 3))?.get()
        #expect(three?.runs.first == Extent(offset: 8192 + 512, length: 4096 - 512))
        #expect(three?.runs.count == 3 && three?.nextOffset == 4 * 8192)
        let behind = try? host.changes(id, ChangesQuery(offset: .max))?.get()
        #expect(behind?.runs.isEmpty == true && behind?.nextOffset == nil)
    }
}
