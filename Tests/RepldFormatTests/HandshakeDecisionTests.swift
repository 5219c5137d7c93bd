import RepldCore
import Testing

@testable import RepldFormat

@Suite struct HandshakeDecisionTests {
    /// A side of a pair: generations as small numbers, 0 for none.
    static func side(
        _ role: PairRole,
        _ current: UInt64,
        base: UInt64 = 0,
        history: [UInt64] = [],
        filling: UInt64 = 0
    ) -> SideRecord {
        var record = SideRecord(pair: PairID(high: 1, low: 1), volumeByteCount: 1 << 30, role: role)
        record.current = Generation(current)
        record.base = Generation(base)
        record.filling = Generation(filling)
        for number in history.reversed() { record.history.push(Generation(number)) }
        record.meeting = 5
        record.isMeetingConfirmed = true
        return record
    }

    private func expect(
        _ first: SideRecord,
        _ second: SideRecord,
        _ decision: HandshakeDecision,
        _ location: SourceLocation = #_sourceLocation
    ) {
        #expect(HandshakeDecision.decide(first, second) == decision, sourceLocation: location)
        #expect(HandshakeDecision.decide(second, first) == decision.mirrored, sourceLocation: location)
    }

    @Test func firstCopy() {
        var (source, target) = (Self.side(.source, 1), Self.side(.target, 0))
        expect(source, target, .compareAll(from: .first, .firstCopy))
        expect(Self.side(.source, 0), Self.side(.target, 0), .compareAll(from: .first, .firstCopy))
        expect(Self.side(.source, 0), Self.side(.target, 1), .stop(.unrelated))
        expect(Self.side(.target, 0), Self.side(.target, 1), .stop(.noSideCounts))
        target.pair = PairID(high: 1, low: 2)
        expect(source, target, .stop(.otherPair))
        target.pair = source.pair
        source.volumeByteCount = 2 << 30
        expect(source, target, .stop(.otherSize))
    }

    @Test func linkLostAndCrashes() {
        var (source, target) = (Self.side(.source, 7), Self.side(.target, 7))
        source.wasServing = true
        expect(source, target, .inSync(.linkLost))
        source.isDirty = true
        expect(source, target, .resync(from: .first, .linkLost))
        source.hasCrashed = true
        expect(source, target, .resync(from: .first, .crashedSource))
        target.hasCrashed = true
        expect(source, target, .resync(from: .first, .commonPowerFailure))
        source.hasCrashed = false
        expect(source, target, .resync(from: .first, .crashedTarget))
        target.isMapKnown = false
        expect(source, target, .compareAll(from: .first, .crashedTarget))
        // Who served counts, not who is called the source.
        (source.wasServing, target.wasServing) = (false, true)
        expect(source, target, .compareAll(from: .second, .crashedSource))
        source.wasServing = true
        expect(source, target, .stop(.noSideCounts))
        (source.acknowledgesAlone, target.isMapKnown) = (true, true)
        expect(source, target, .resync(from: .first, .crashedSource))
        target.acknowledgesAlone = true
        expect(source, target, .stop(.bothWritten))
    }

    @Test func ends() {
        var (source, target) = (Self.side(.source, 7, base: 3, history: [3]), Self.side(.target, 7, history: [3]))
        expect(source, target, .inSync(.missedEnd))
        source.isDirty = true
        source.wasServing = true
        expect(source, target, .resync(from: .first, .missedEnd))
        // The source went on alone before it recorded the end.
        source = Self.side(.source, 9, base: 3, history: [7, 3])
        expect(source, target, .resync(from: .first, .wentOnAfterMissedEnd))
        // A link that flaps pushes the base out of the history.
        let flapped = Self.side(.source, 12, base: 3, history: [11, 10, 9, 7])
        expect(flapped, Self.side(.target, 9, history: [7, 3]), .resync(from: .first, .wentOnAfterMissedEnd))
        target = Self.side(.target, 3, filling: 7)
        source = Self.side(.source, 7, base: 3, history: [3])
        expect(source, target, .resync(from: .first, .brokenOffResync))
        source = Self.side(.source, 9, base: 3, history: [7, 3])
        expect(source, target, .resync(from: .first, .brokenOffResync))
        source = Self.side(.source, 7, history: [3])
        expect(source, target, .compareAll(from: .first, .missedEndOfFilled))
        expect(Self.side(.source, 8, history: [3]), target, .stop(.unrelated))
        expect(Self.side(.source, 3, filling: 9), target, .stop(.bothInconsistent))
    }

    @Test func partings() {
        let ahead = Self.side(.source, 7, base: 3, history: [3])
        var behind = Self.side(.target, 3)
        expect(ahead, behind, .resync(from: .first, .wentOnAlone))
        // The old source comes back after the target was failed over to.
        behind.hasCrashed = true
        behind.wasServing = true
        expect(ahead, behind, .resync(from: .first, .wentOnAlone))
        behind.acknowledgesAlone = true
        expect(ahead, behind, .stop(.bothWritten))
        expect(ahead, Self.side(.target, 8, base: 3, history: [3]), .stop(.bothWritten))
        expect(Self.side(.source, 9, base: 3, history: [7, 3]), Self.side(.target, 8, base: 7), .stop(.bothWritten))
        expect(ahead, Self.side(.target, 8), .stop(.unrelated))
    }

    @Test func olderMetadata() {
        let source = Self.side(.source, 7, history: [3])
        expect(source, Self.side(.target, 3), .stop(.olderMetadata(of: .second)))
        var target = Self.side(.target, 7, history: [3])
        target.meeting = 4
        expect(source, target, .stop(.olderMetadata(of: .second)))
        // Blank again: nobody knows what it held.
        expect(
            source,
            SideRecord(pair: source.pair, volumeByteCount: 1 << 30, role: .target),
            .stop(.olderMetadata(of: .second))
        )
        // A meeting that the target has not recorded yet.
        var unconfirmed = source
        unconfirmed.isMeetingConfirmed = false
        expect(unconfirmed, target, .inSync(.linkLost))
        #expect(SideRecord.nextMeeting(unconfirmed, target) == 5)
        target.meeting = 3
        expect(unconfirmed, target, .stop(.olderMetadata(of: .second)))
        #expect(SideRecord.nextMeeting(source, source) == 6)
    }

    @Test func words() {
        let conflicts: [HandshakeConflict] = [
            .otherPair, .otherSize, .bothWritten, .olderMetadata(of: .first), .olderMetadata(of: .second),
            .bothInconsistent, .unrelated, .noSideCounts,
        ]
        #expect(Set(conflicts.map(\.words)).count == conflicts.count)
        for conflict in conflicts { #expect(conflict.waysOut.contains("Detach")) }
    }
}

/// All pairs of small records: what no decision may do, whatever the records say.
@Suite struct HandshakeEnumerationTests {
    /// Generations 0 to 3, bases and fillings of fewer, histories of one or none, and all flags that matter.
    static let records: [SideRecord] = {
        var records: [SideRecord] = []
        for current in UInt64(0)...3 {
            for base in UInt64(0)...2 {
                for filling in UInt64(0)...1 {
                    for history in [[], [1], [2, 1]] as [[UInt64]] {
                        for flags in 0..<16 {
                            var record = HandshakeDecisionTests.side(
                                .source,
                                current,
                                base: base,
                                history: history,
                                filling: filling
                            )
                            record.wasServing = flags & 1 != 0
                            record.acknowledgesAlone = flags & 2 != 0
                            record.isDirty = flags & 4 != 0
                            record.isMapKnown = flags & 8 != 0
                            records.append(record)
                        }
                    }
                }
            }
        }
        return records
    }()

    private static func isSound(_ first: SideRecord, _ second: SideRecord, _ decision: HandshakeDecision) -> Bool {
        switch decision {
        case .stop: return true
        case .inSync:
            return first.current == second.current && first.isMapKnown && second.isMapKnown && !first.isDirty
                && !second.isDirty && first.filling.isNone && second.filling.isNone && !first.current.isNone
        case .resync(let side, _):
            return first.isMapKnown && second.isMapKnown && isMoveSound(first, second, from: side)
        case .compareAll(let side, _): return isMoveSound(first, second, from: side)
        }
    }

    /// The source is a usable image, and the target has promised nothing that the source does not know of.
    private static func isMoveSound(_ first: SideRecord, _ second: SideRecord, from side: PairSide) -> Bool {
        let source = side == .first ? first : second
        let target = side == .first ? second : first
        guard source.filling.isNone, target.filling.isNone || !target.acknowledgesAlone else { return false }
        if target.current.isNone && target.filling.isNone { return source.role == .source }
        if target.filling.isNone && target.acknowledgesAlone { return false }
        let known = [source.current, source.base] + (0..<4).map { Generation(source.history.numbers[$0]) }
        return known.contains(target.filling.isNone ? target.current : target.filling)
    }

    @Test func everyPair() {
        var unsound = 0
        var asymmetric = 0
        var decisions: Set<HandshakeDecision> = []
        for first in Self.records {
            for var second in Self.records {
                second.role = .target
                let decision = HandshakeDecision.decide(first, second)
                if !Self.isSound(first, second, decision) { unsound += 1 }
                if HandshakeDecision.decide(second, first) != decision.mirrored { asymmetric += 1 }
                decisions.insert(decision)
            }
        }
        #expect(Self.records.count == 1152)
        #expect(unsound == 0 && asymmetric == 0)
        #expect(decisions.count > 15)
    }
}
