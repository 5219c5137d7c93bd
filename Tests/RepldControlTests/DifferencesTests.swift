import Foundation
import RepldControlAPI
import RepldCore
import RepldEngine
import RepldFormat
import RepldPair
import Testing

@testable import RepldControl

/// Where the elements of a pair may differ, told exactly from one host to the other.
@Suite struct DifferencesTests {
    private static let unit: UInt64 = 65536

    private func extents(_ units: [(UInt64, UInt64)]) -> [Extent] {
        units.map { Extent(offset: $0 * Self.unit, length: $1 * Self.unit) }
    }

    /// What the other side makes of the messages, each of which is a message.
    private func told(_ extents: [Extent], unit: UInt64 = unit) throws -> (heard: [Extent], pieces: [DifferencesPiece])
    {
        var packer = DifferencesPacker(extents, unitByteCount: unit)
        var telling = DifferencesTelling(number: 1, unitByteCount: unit)
        var pieces: [DifferencesPiece] = []
        while let piece = packer.next() {
            pieces.append(piece)
            let message = DifferencesMessage(pair: PairID(high: 1, low: 2), telling: .max, piece)
            let read = try PeerMessages.decode(try PeerMessages.encode(message))
            #expect(read == .differences(message))
            let isTaken = telling.take(try #require(message.extents))
            #expect(isTaken)
        }
        #expect(telling.differingUnitCount == packer.differingUnitCount)
        #expect(packer.next() == nil)
        return (telling.extents, pieces)
    }

    @Test func extentsComeAsTheyAre() throws {
        #expect(try told([]).pieces.isEmpty)
        let cases: [[(UInt64, UInt64)]] = [
            [(0, 1)], [(7, 1)], [(0, 8)], [(3, 5), (9, 1), (11, 1000)], [(1 << 40, 1)], [(0, 1), (1 << 28, 3)],
            [(0, 1 << 22)], [((1 << 20) - 1, 2), (1 << 21, 1)],
        ]
        for units in cases {
            let extents = extents(units)
            #expect(try told(extents).heard == extents, "\(units)")
        }
    }

    /// Far more than one message has, and none of it is told as more than it is.
    @Test(arguments: [1, 2, 3])
    func scatteredExtentsComeAsTheyAre(seed: UInt64) throws {
        var random = RandomSource(seed: seed)
        var units: [(UInt64, UInt64)] = []
        var unit: UInt64 = 0
        for _ in 0..<20_000 {
            unit += 1 + random.below(seed == 1 ? 2 : 200)
            let length = 1 + random.below(3)
            units.append((unit, length))
            unit += length + 1
        }
        let extents = extents(units)
        #expect(try told(extents).heard == extents)
    }

    /// Bits that nothing compresses still fit into messages.
    @Test func noiseComesInSmallerPieces() throws {
        var random = RandomSource(seed: 7)
        let units = (0..<(UInt64(1) << 19)).filter { _ in random.below(2) == 0 }
        let extents = CoarseExtents.joined(extents(units.map { ($0, 1) }), limit: .max)
        let (heard, pieces) = try told(extents)
        #expect(heard.reduce(0) { $0 + $1.length } == UInt64(units.count) * Self.unit)
        #expect(heard.allSatisfy { heard in heard.length > 0 } && pieces.count > 1)
        #expect(pieces.contains { !$0.isCompressed })
    }

    @Test func aNearlyCleanVolumeIsOneSmallPiece() throws {
        let pieces = try told(extents([(5, 1), (900_000, 2)])).pieces
        #expect(pieces.count == 1 && pieces[0].isCompressed && pieces[0].bytes.count < 1024)
    }

    /// The last granule may be a part of one: it is told as a whole.
    @Test func theEndOfAVolumeIsAWholeUnit() throws {
        let heard = try told([Extent(offset: 2 * Self.unit, length: 4096)]).heard
        #expect(heard == extents([(2, 1)]))
    }

    @Test func piecesOutOfOrderAreRefused() {
        var telling = DifferencesTelling(number: 1, unitByteCount: Self.unit)
        let taken = [
            telling.take(extents([(4, 1)])), telling.take(extents([(4, 1)])), telling.take(extents([(0, 1)])),
            telling.take([]), telling.take(extents([(5, 1), (7, 1)])),
        ]
        #expect(taken == [true, false, false, false, true])
        #expect(telling.extents == extents([(4, 2), (7, 1)]) && telling.differingUnitCount == 3)
    }

    /// Memory does not grow with what a peer says.
    @Test func aTellingHasAnEnd() {
        var telling = DifferencesTelling(number: 1, unitByteCount: 4096)
        var unit: UInt64 = 0
        var isTaken = true
        while isTaken, telling.extents.count <= DifferencesTelling.extentLimit {
            let piece = (0..<(UInt64(1) << 18)).map { Extent(offset: (unit + 2 * $0) * 4096, length: 4096) }
            isTaken = telling.take(piece)
            unit += 1 << 19
        }
        #expect(!isTaken && telling.extents.count == DifferencesTelling.extentLimit)
    }

    /// Twice as many extents as one message used to have, and the other side marks these and no more.
    @Test func aFormerSourceTellsExactlyWhatDiffers() async throws {
        try await TwoHosts.moving { hosts in
            let changed = (0..<UInt64(4000)).map { Extent(offset: 2 * $0 * Self.unit, length: Self.unit) }
            try await hosts.returnTaken(changed)
            #expect(hosts.south.plane.calls.contains(.meet(changed, isAhead: true, isFirst: true)))
        }
    }

    /// The first attempt ends with its first piece: what was told until then counts for nothing.
    @Test(arguments: [FakeLink.Loss.message, .answer])
    func aTellingThatIsLostIsBegunAnew(loss: FakeLink.Loss) async throws {
        try await TwoHosts.moving { hosts in
            let changed = [Extent(offset: 0, length: Self.unit), Extent(offset: Self.unit << 24, length: Self.unit)]
            try await hosts.returnTaken(changed, losing: loss)
            let meetings = hosts.south.plane.calls.filter { if case .meet = $0 { true } else { false } }
            #expect(meetings == [.meet(changed, isAhead: true, isFirst: true)])
        }
    }

    @Test func aMeetingOfWhichAPieceIsMissingIsRefused() async throws {
        try await TwoHosts.moving { hosts in
            hosts.link.cut()
            _ = try await hosts.south.set(.name("Failover"))
            let entry = try #require(await hosts.south.service.registry.content.pairs.first)
            var packer = DifferencesPacker(extents([(0, 1), (1 << 22, 1)]), unitByteCount: Self.unit)
            let pieces = [packer.next(), packer.next()].compactMap(\.self)
            let messages = pieces.map { DifferencesMessage(pair: entry.id, telling: 5, $0) }
            try #require(messages.count == 2)
            let record = PairRecord(
                sequence: 1,
                pair: entry.id,
                volumeByteCount: 1 << 20,
                copyState: 4,
                isClosedCleanly: true
            )
            let geometry = try #require(entry.remote?.geometry)
            var meet = MeetMessage(
                record: record,
                isAhead: false,
                telling: 5,
                differingUnitCount: 2,
                geometry: geometry
            )
            let words = "not all of what differs has come"
            hosts.link.mend()
            #expect(try await hosts.answer(to: PeerMessages.encode(messages[0])).refusal == nil)
            #expect(try await hosts.words(of: meet).contains(words))
            meet.telling = 6
            #expect(try await hosts.answer(to: PeerMessages.encode(messages[1])).refusal == nil)
            #expect(try await hosts.words(of: meet).contains(words))
            #expect(!hosts.south.plane.calls.contains { if case .meet = $0 { true } else { false } })
            meet.telling = 5
            #expect(try await hosts.words(of: meet).isEmpty)
            #expect(hosts.south.plane.calls.contains { if case .meet = $0 { true } else { false } })
        }
    }
}

extension TwoHosts {
    /// Fails over without the source, which comes back with these changes and becomes the replica.
    ///
    /// With a loss, its first attempt to tell of them fails.
    fileprivate func returnTaken(_ changed: [Extent], losing loss: FakeLink.Loss? = nil) async throws {
        link.cut()
        _ = try await south.set(.name("Failover"))
        north.plane.setChanges(changed)
        north.plane.setFacts { $0.isSourceAhead = true }
        link.mend()
        if let loss {
            link.lose(loss)
            north.plane.tell(.takenOver)
            let service = north.service
            try await service.wait { await service.events(after: 0).contains { $0.kind == "pair-not-moved" } }
        }
        north.plane.tell(.takenOver)
        try await north.service.waitForReplica("m1")
    }

    /// Why `south` refuses a meeting; empty where it does not.
    fileprivate func words(of meeting: MeetMessage) async throws -> String {
        try await answer(to: PeerMessages.encode(meeting)).refusal?.extendedStatus?.message ?? ""
    }
}
