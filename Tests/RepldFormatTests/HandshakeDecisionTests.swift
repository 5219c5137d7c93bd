import RepldCore
import RepldFormat
import Testing

/// The one place where two histories are compared.
@Suite("A handshake") struct HandshakeDecisionTests {
    static let pair = PairID(high: 1, low: 2)
    static let size: UInt64 = 1 << 20

    /// A side at the record `sequence` of the last of its runs; the others are given with their last records, the oldest first.
    static func side(
        _ sequence: UInt64,
        _ runs: [(generation: UInt64, last: UInt64)],
        hasPair: Bool = false,
        term: UInt32 = 0,
        confirmed: UInt64 = 0
    ) -> SideRecord {
        var side = SideRecord(pair: pair, volumeByteCount: size, hasPair: hasPair)
        side.term = term
        side.sequence = sequence
        side.lineage.confirmedSequence = confirmed
        for run in runs.dropLast() {
            side.lineage.history.push(HistoryPoint(Generation(run.generation), run.last))
        }
        side.lineage.generation = Generation(runs.last?.generation ?? 0)
        return side
    }

    private func decide(_ own: SideRecord, _ peer: SideRecord) -> HandshakeDecision { .decide(own, peer) }

    // MARK: - Cases with names

    @Test("of a pair that was just made copies everything")
    func firstCopy() {
        let own = Self.side(3, [(7, 3)], hasPair: true)
        #expect(decide(own, Self.side(0, [])) == .compareAll(.firstCopy))
    }

    @Test(
        "after a lost link, a crashed source, a crashed target, or a power failure of both goes on where the maps say"
    )
    func follows() {
        let linkLost = Self.side(6, [(7, 6)], hasPair: true, confirmed: 4)
        #expect(decide(linkLost, Self.side(5, [(7, 5)])) == .follow)
        let crashedSource = Self.side(6, [(7, 5), (8, 6)], hasPair: true, confirmed: 5)
        #expect(decide(crashedSource, Self.side(5, [(7, 5)])) == .follow)
        // A target keeps nothing but the record: that it was killed changes nothing.
        let crashedTarget = Self.side(5, [(7, 5)], hasPair: true, confirmed: 5)
        #expect(decide(crashedTarget, Self.side(5, [(7, 5)])) == .follow)
    }

    @Test(
        "after a resync whose end the target was not told of, or the source did not hear of, goes on where the maps say"
    )
    func missedEnd() {
        let notTold = Self.side(9, [(7, 9)], hasPair: true, confirmed: 8)
        #expect(decide(notTold, Self.side(8, [(7, 8)])) == .follow)
        let notHeard = Self.side(9, [(7, 9)], hasPair: true, confirmed: 8)
        #expect(decide(notHeard, Self.side(9, [(7, 9)])) == .follow)
    }

    @Test("with a source whose metadata is of an older day stops")
    func olderSource() {
        // In the same run; in one that it does not know; in one that went on; in a later term.
        #expect(
            decide(Self.side(5, [(7, 5)], hasPair: true), Self.side(6, [(7, 6)])) == .stop(.olderMetadata)
        )
        #expect(
            decide(Self.side(9, [(7, 5), (9, 9)], hasPair: true), Self.side(8, [(7, 6), (8, 8)]))
                == .stop(.olderMetadata)
        )
        #expect(
            decide(Self.side(9, [(7, 5), (9, 9)], hasPair: true), Self.side(6, [(7, 6)])) == .stop(.olderMetadata)
        )
        #expect(
            decide(Self.side(9, [(7, 9)], hasPair: true), Self.side(6, [(7, 6)], term: 1)) == .stop(.olderMetadata)
        )
        #expect(decide(Self.side(9, [(7, 9)], hasPair: true), Self.side(6, [(8, 6)])) == .stop(.unrelated))
    }

    @Test("with a target whose metadata is of an older day, or gone, compares everything")
    func olderTarget() {
        let own = Self.side(9, [(7, 9)], hasPair: true, confirmed: 8)
        #expect(decide(own, Self.side(7, [(7, 7)])) == .compareAll(.olderReplica))
        #expect(decide(own, Self.side(0, [])) == .compareAll(.lostRecord))
    }

    @Test("with a target that was away for more starts than are remembered compares everything, and never a later one")
    func longAway() {
        let runs = (1...9).map { (generation: UInt64($0), last: UInt64(10 * $0)) }
        let own = Self.side(90, runs, hasPair: true)
        #expect(decide(own, Self.side(10, [(1, 10)])) == .follow)
        let older = Self.side(100, Array(runs.dropFirst()) + [(10, 100)], hasPair: true)
        #expect(decide(older, Self.side(10, [(1, 10)])) == .compareAll(.longAway))
        #expect(decide(older, Self.side(20, [(1, 20)])) == .stop(.unrelated))
    }

    @Test("of two daemons that both have the pair lets the later term have it, and stops in the same")
    func bothHaveIt() {
        let earlier = Self.side(9, [(7, 9)], hasPair: true)
        let later = Self.side(6, [(7, 5), (8, 6)], hasPair: true, term: 1)
        #expect(decide(earlier, later) == .giveWay && decide(later, earlier) == .awaitPeer)
        #expect(decide(earlier, earlier) == .stop(.bothHaveIt))
    }

    @Test("with another pair, or another size, stops")
    func otherPair() {
        let own = Self.side(9, [(7, 9)], hasPair: true)
        var other = Self.side(9, [(7, 9)])
        other.pair = PairID(high: 1, low: 3)
        #expect(decide(own, other) == .stop(.otherPair))
        var larger = Self.side(9, [(7, 9)])
        larger.volumeByteCount *= 2
        #expect(decide(own, larger) == .stop(.otherSize))
        larger.sequence = 0
        #expect(decide(own, larger) == .compareAll(.firstCopy))
    }

    @Test("with a peer that has not heard yet that the volume has grown goes on as with any other")
    func grown() {
        var own = Self.side(9, [(7, 9)], hasPair: true)
        let peer = Self.side(9, [(7, 9)])
        own.volumeByteCount = 2 * peer.volumeByteCount
        #expect(decide(own, peer) == .follow)
        let taken = Self.side(10, [(7, 9), (8, 10)], hasPair: true, term: 1)
        #expect(decide(own, taken) == .giveWay, "it has taken over what it had heard of")
        #expect(decide(taken, own) == .awaitPeer)
    }

    @Test("of records of before there were generations goes by their sequences")
    func withoutGenerations() {
        let own = Self.side(9, [(0, 9)], hasPair: true)
        #expect(decide(own, Self.side(9, [(0, 9)])) == .follow)
        #expect(decide(own, Self.side(10, [(0, 10)])) == .stop(.olderMetadata))
        let begun = Self.side(10, [(7, 10)], hasPair: true)
        #expect(decide(begun, Self.side(9, [(0, 9)])) == .follow)
    }

    @Test("believes a former source that knows of the record at which it was parted from, and no older one")
    func believes() {
        var own = Self.side(8, [(7, 5), (9, 8)], hasPair: true, term: 1)
        own.lineage.takenOverAt = HistoryPoint(Generation(7), 5)
        func isBelieved(_ former: SideRecord) -> Bool { HandshakeDecision.isBelievable(former: former, by: own) }
        #expect(isBelieved(Self.side(5, [(7, 5)], hasPair: true)))
        #expect(isBelieved(Self.side(9, [(7, 6), (8, 9)], hasPair: true)))
        var resized = Self.side(9, [(7, 6), (8, 9)], hasPair: true)
        resized.volumeByteCount = 2 * own.volumeByteCount
        #expect(isBelieved(resized), "it has grown since it was heard of")
        resized.volumeByteCount = own.volumeByteCount / 2
        #expect(!isBelieved(resized), "nothing shrinks")
        #expect(!isBelieved(Self.side(4, [(7, 4)], hasPair: true)), "of an older day")
        #expect(!isBelieved(Self.side(6, [(7, 4), (8, 6)], hasPair: true)), "of an older day, and started since")
        #expect(!isBelieved(Self.side(6, [(3, 6)], hasPair: true)), "of something else")
        #expect(!isBelieved(Self.side(6, [(7, 6)], hasPair: true, term: 1)), "of no earlier term")
    }

    // MARK: - All of them

    /// Sides at every point of a few small histories.
    private static var sides: [SideRecord] {
        let histories: [[(generation: UInt64, last: UInt64)]] = [
            [(0, 0)], [(7, 0)], [(7, 3), (8, 0)], [(7, 4), (8, 0)], [(7, 3), (9, 0)], [(6, 2), (7, 4), (8, 0)],
            (11...19).map { ($0, $0 - 8) },
        ]
        return histories.flatMap { runs in
            (0...6).flatMap { sequence in
                [false, true].flatMap { hasPair in
                    (0...1).flatMap { term in
                        [0, 3, 5].map { side(sequence, runs, hasPair: hasPair, term: term, confirmed: $0) }
                    }
                }
            }
        }
    }

    /// The last record that a side knows of a run, by looking at all that it has.
    private func last(_ side: SideRecord, _ generation: Generation) -> UInt64? {
        if generation == side.lineage.generation { return side.sequence }
        return (0..<GenerationHistory.capacity).map { side.lineage.history[$0] }
            .first { $0.generation == generation && !generation.isNone }?.sequence
    }

    @Test(
        "of any two records believes the maps only where the peer is at a known point, and in no doubt overwrites nothing"
    )
    func enumeration() {
        var counts: [HandshakeDecision: Int] = [:]
        for own in Self.sides where own.hasPair && own.sequence > 0 {
            for peer in Self.sides where peer.sequence > 0 || !peer.hasPair {
                let decision = decide(own, peer)
                counts[decision, default: 0] += 1
                let isKnown = last(own, peer.lineage.generation).map { peer.sequence <= $0 }
                let hasNoGeneration = own.lineage.generation.isNone || peer.lineage.generation.isNone
                switch decision {
                case .follow:
                    #expect(!peer.hasPair && peer.sequence >= own.lineage.confirmedSequence && peer.term <= own.term)
                    #expect(hasNoGeneration ? peer.sequence <= own.sequence : isKnown == true)
                case .compareAll:
                    #expect(!peer.hasPair && (peer.sequence == 0 || peer.term <= own.term))
                    #expect(peer.sequence == 0 || isKnown != false || hasNoGeneration)
                case .giveWay: #expect(peer.hasPair && decide(peer, own) == .awaitPeer)
                case .awaitPeer: #expect(peer.hasPair && decide(peer, own) == .giveWay)
                case .stop(.bothHaveIt): #expect(decide(peer, own) == decision)
                case .stop: #expect(!peer.hasPair)
                }
            }
        }
        let rules = HandshakeRule.allCases.map { HandshakeDecision.compareAll($0) }
        let conflicts = [HandshakeConflict.bothHaveIt, .olderMetadata, .unrelated].map { HandshakeDecision.stop($0) }
        for decision in [.follow, .giveWay, .awaitPeer] + rules + conflicts {
            #expect(counts[decision] ?? 0 > 0, "\(decision) is reached")
        }
    }

    @Test("that stops has words and a way out")
    func words() {
        for conflict in HandshakeConflict.allCases {
            let stop = HandshakeStop(conflict, own: Self.side(4, [(7, 4)], hasPair: true), peer: Self.side(0, []))
            #expect(stop.words.contains("record 4 of run 7 in term 0") && stop.words.contains("no record"))
            #expect(!conflict.waysOut.isEmpty)
        }
        for rule in HandshakeRule.allCases { #expect(!rule.words.isEmpty) }
    }
}
