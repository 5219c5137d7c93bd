import RepldCore
import RepldFormat
import Testing

/// Decisions against histories that were lived through: a simulation that knows what was acknowledged, and where it is.
@Suite struct HandshakeHistoryTests {
    /// Lives through histories; returns how often each decision was made, and the first violation.
    private static func live(
        _ seeds: Range<UInt64>,
        isAsync: Bool,
        backups: Bool,
        broken: ToyPair.BrokenRule? = nil,
        decide: @escaping ToyPair.Decide
    ) -> (counts: [String: Int], violation: ToyPair.Violation?, seed: UInt64) {
        var counts: [String: Int] = [:]
        for seed in seeds {
            var random = RandomSource(seed: seed)
            var pair = ToyPair(isAsync: isAsync, isInSync: seed % 4 != 0, decide: decide)
            pair.broken = broken
            do throws(ToyPair.Violation) {
                for _ in 0..<120 { try pair.step(&random, backups: backups) }
            } catch {
                return (counts, error, seed)
            }
            counts.merge(pair.counts) { $0 + $1 }
        }
        return (counts, nil, 0)
    }

    @Test(arguments: [false, true], [false, true])
    func noHistoryLosesWhatWasAcknowledged(isAsync: Bool, backups: Bool) {
        let result = Self.live(1..<12001, isAsync: isAsync, backups: backups, decide: HandshakeDecision.decide)
        #expect(result.violation == nil, "seed \(result.seed)")
        let reached = [
            "in sync, linkLost", "in sync, crashedSource", "in sync, crashedTarget", "in sync, commonPowerFailure",
            "in sync, missedEnd", "resync, crashedSource", "resync, linkLost", "resync, brokenOffResync",
            "resync, wentOnAlone", "resync, wentOnAfterMissedEnd", "compare all, firstCopy", "stop, bothWritten",
            "finished",
        ]
        for kind in reached { #expect(result.counts[kind, default: 0] > 0, "\(kind) was not reached") }
        #expect((result.counts["stop, olderMetadata", default: 0] > 0) == backups)
        // What cannot be without a record that is not the newest.
        if !backups {
            let impossible = ["stop, unrelated", "stop, bothInconsistent", "compare all, missedEndOfFilled"]
            for kind in impossible { #expect(result.counts[kind, default: 0] == 0, "\(kind)") }
        }
    }

    /// Each change makes one decision wrong in one way; the histories find all of them.
    enum Mutation: CaseIterable {
        case believesTheSourcesMapOnly, ignoresBits, ignoresUnknownMaps, ignoresMeetings,
            overwritesWhatAcknowledgesAlone
        case prefersTheTarget, choosesAmongBothWritten, prefersTheHalfOverwritten, prefersTheOneWithoutCrash

        func apply(_ first: SideRecord, _ second: SideRecord) -> HandshakeDecision {
            var (first, second) = (first, second)
            switch self {
            case .believesTheSourcesMapOnly:
                second.isDirty = false
                if !first.wasServing { first.isDirty = false }
            case .ignoresBits: (first.isDirty, second.isDirty) = (false, false)
            case .ignoresUnknownMaps: (first.isMapKnown, second.isMapKnown) = (true, true)
            case .ignoresMeetings: (first.meeting, second.meeting) = (0, 0)
            case .overwritesWhatAcknowledgesAlone: (first.acknowledgesAlone, second.acknowledgesAlone) = (false, false)
            case .prefersTheTarget, .choosesAmongBothWritten, .prefersTheHalfOverwritten, .prefersTheOneWithoutCrash:
                break
            }
            let decision = HandshakeDecision.decide(first, second)
            switch (self, decision) {
            case (.prefersTheTarget, .resync(let side, .wentOnAlone)): return .resync(from: side.other, .wentOnAlone)
            case (.prefersTheHalfOverwritten, .resync(let side, .brokenOffResync)):
                return .resync(from: side.other, .brokenOffResync)
            case (.choosesAmongBothWritten, .stop(.bothWritten)): return .compareAll(from: .first, .wentOnAlone)
            case (.prefersTheOneWithoutCrash, .resync(let side, .crashedSource)):
                return .resync(from: side.other, .crashedSource)
            default: return decision
            }
        }
    }

    @Test(arguments: Mutation.allCases)
    func wrongDecisionsAreFound(mutation: Mutation) {
        let result = Self.live(1..<2001, isAsync: true, backups: true, decide: mutation.apply)
        #expect(result.violation != nil)
    }

    /// A side that does not do what `SideRecord` says it must is found out: the rules are needed, all of them.
    @Test(arguments: ToyPair.BrokenRule.allCases)
    func brokenRulesAreFound(rule: ToyPair.BrokenRule) {
        // What is taken over matters where the old source may not be ahead.
        let isAsync = rule != .takesNoBitsOver
        let result = Self.live(
            1..<2001,
            isAsync: isAsync,
            backups: false,
            broken: rule,
            decide: HandshakeDecision.decide
        )
        guard rule == .endsOnTheSourceFirst else {
            #expect(result.violation != nil, "\(result.counts)")
            return
        }
        // This one costs a full comparison and no data, which is why the table has a row for it.
        #expect(result.violation == nil, "seed \(result.seed)")
        #expect(result.counts["compare all, missedEndOfFilled", default: 0] > 0)
    }
}
