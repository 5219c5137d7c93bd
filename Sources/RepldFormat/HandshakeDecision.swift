package import RepldCore

/// One of the two sides of a pair, as its element came to it: not a role, which may move.
package enum PairSide: UInt8, Hashable, Sendable, CaseIterable, BitwiseCopyable {
    case first = 0
    case second = 1

    package var other: PairSide { self == .first ? .second : .first }
}

/// What the two sides' records say of their histories, together.
///
/// It says where the data is that counts, not that anything moves: whether a resync starts by itself is for the copy state, the
/// recovery mode and the operator. Nor does any of it clear a bit of a map: bits go by durable acknowledgement only.
package enum HandshakeDecision: Hashable, Sendable, BitwiseCopyable {
    /// Equal: nothing is to be moved.
    case inSync(HandshakeRule)
    /// What the maps of *both* sides name is to be copied (or compared) from the side.
    case resync(from: PairSide, HandshakeRule)
    /// All of the volume is to be compared, and what differs copied, from the side.
    case compareAll(from: PairSide, HandshakeRule)
    /// Nobody but an operator can decide: the pair is Invalid, unless it is in a state that has both sides written
    /// (Fractured, Split, Failedover) and stays in it.
    case stop(HandshakeConflict)

    /// The same for the two sides in the other order.
    package var mirrored: HandshakeDecision {
        switch self {
        case .inSync: self
        case .resync(let side, let rule): .resync(from: side.other, rule)
        case .compareAll(let side, let rule): .compareAll(from: side.other, rule)
        case .stop(let conflict): .stop(conflict.mirrored)
        }
    }
}

/// Which row of the table decided.
package enum HandshakeRule: UInt8, Hashable, Sendable, CaseIterable, BitwiseCopyable {
    /// One side never had data of this pair.
    case firstCopy
    /// A resync was broken off in the middle, and goes on.
    case brokenOffResync
    /// A resync's end was recorded by the filled side and not by the other.
    case missedEnd
    /// A resync's end was recorded by the other side and not by the filled one.
    case missedEndOfFilled
    /// Only the link was lost.
    case linkLost
    /// The side that served hosts was not closed, the other was not interrupted.
    case crashedSource
    /// The side that did not serve was not closed, the other was not interrupted.
    case crashedTarget
    /// Neither was closed.
    case commonPowerFailure
    /// One side went on alone, the other has nothing that it lacks.
    case wentOnAlone
    /// One side went on alone, and the other's end of the resync before was not recorded there.
    case wentOnAfterMissedEnd
}

/// Why two histories cannot be put together without an operator.
package enum HandshakeConflict: Hashable, Sendable, BitwiseCopyable {
    case otherPair
    case otherSize
    /// Both have acknowledged writes that the other lacks, or may have.
    case bothWritten
    /// The side's record is older than one that it once had: what it has written since is not known.
    case olderMetadata(of: PairSide)
    /// Both are half overwritten: there is no usable image.
    case bothInconsistent
    /// No generation in common.
    case unrelated
    /// Something differs, and neither roles nor service say which side counts.
    case noSideCounts

    var mirrored: HandshakeConflict {
        if case .olderMetadata(let side) = self { .olderMetadata(of: side.other) } else { self }
    }

    /// What an operator reads.
    package var words: String {
        switch self {
        case .otherPair: "the peer's metadata belongs to another pair"
        case .otherSize: "the two sides are of different sizes"
        case .bothWritten: "both sides have acknowledged writes that the other lacks, or may have"
        case .olderMetadata(let side):
            "the metadata of the \(side) side is older than what it once was: what was written there since is not known"
        case .bothInconsistent: "both sides are half overwritten"
        case .unrelated: "the two sides have no history in common"
        case .noSideCounts: "the two sides differ, and neither served hosts nor is the only source"
        }
    }

    /// What an operator can do about it.
    package var waysOut: String {
        switch self {
        case .otherPair: "Detach here, and create the pair anew"
        case .otherSize: "grow the smaller element, or Detach"
        case .bothWritten, .olderMetadata, .unrelated, .noSideCounts, .bothInconsistent:
            "ResyncReplica --force keeps the source's data, RestoreFromReplica --force the target's, Detach keeps both apart"
        }
    }
}

extension HandshakeDecision {
    /// Compares two histories: the only place where that is done.
    ///
    /// It relies on what `SideRecord` says a side must do. The first row that fits decides. `a` and `b` stand for the two sides in
    /// either order; "by map" is a resync over both maps, and becomes a comparison of everything where one of them is not known.
    ///
    ///     0   pair ids or sizes differ                      stop
    ///         Nothing else in the records means anything then.
    ///     1   a's confirmed meeting is greater than b's,    stop, older metadata of b
    ///         or a's meeting by more than one
    ///         A meeting is confirmed only when both have recorded it. So b has had a record that it has no more, and may have
    ///         drawn generations and acknowledged writes, and lost bits, of which its record says nothing. This goes before all
    ///         rows that would believe b, and holds for blank records too.
    ///     2   both are being filled                         stop, no usable image
    ///         b is being filled from a's current            by map
    ///         b is being filled from one of a's history     by map
    ///         A filled side acknowledges nothing alone, so nothing can be lost there; who overwrites it was decided when the
    ///         filling began. a took over b's bits before, and adds to its own map what it writes: the maps name all that differs.
    ///         Where a has no base, and the two had not one generation, a took the filling for ended and emptied its map (missed
    ///         end of the filled side): everything is compared.
    ///         b is being filled from what a does not know   stop, unrelated
    ///     3   both have no generation                       first copy from the only source
    ///         a has one, and b, the target, none            first copy from a
    ///         A side draws a generation before it acknowledges. One without has nothing that was ever promised. A *source* without
    ///         one has lost its metadata: what it holds is not known, and nothing is copied over it.
    ///     4   equal generations
    ///         both acknowledge alone                        stop, both written
    ///         no bit on either side, both maps known        in sync
    ///         Whatever one has and the other lacks is under a bit of one of them. Whether a link was lost, a power failure or a
    ///         resync's unrecorded end lies behind it makes no difference.
    ///         one acknowledges alone                        by map from it
    ///         It may have told hosts of writes that the other never had.
    ///         one served hosts                              by map from it
    ///         Neither has acknowledged anything alone: each has all that was acknowledged. Hosts may have read from the one that
    ///         served what they were never told to be written, so it goes on.
    ///         both served                                   stop: by rule 3 of `SideRecord` it cannot be
    ///         none served                                   by map from the only source; else stop
    ///     5   b's current is a's base, not the other way    by map from a; both written if b acknowledges alone
    ///         a parted from what b still holds. Had b acknowledged anything since, it would have drawn a generation.
    ///         b's current is in a's history, and a's        by map from a; both written if b acknowledges alone
    ///         base is older, or no more in its history
    ///         The end of a resync was recorded by b only, and a went on alone. a's map began before that resync and lost
    ///         bits only for what b acknowledged.
    ///     6   b's current is in a's history otherwise       stop, older metadata of b
    ///         a has recorded that it was equal with something newer than b's.
    ///     7   a generation in common in base or history     stop, both written
    ///     8   none                                          stop, unrelated
    package static func decide(_ first: SideRecord, _ second: SideRecord) -> HandshakeDecision {
        guard first.pair == second.pair else { return .stop(.otherPair) }
        guard first.volumeByteCount == second.volumeByteCount else { return .stop(.otherSize) }
        if first.hasForgotten(against: second) { return .stop(.olderMetadata(of: .first)) }
        if second.hasForgotten(against: first) { return .stop(.olderMetadata(of: .second)) }
        if !first.filling.isNone || !second.filling.isNone {
            guard first.filling.isNone || second.filling.isNone else { return .stop(.bothInconsistent) }
            return second.filling.isNone
                ? filling(of: first, from: second).mirrored
                : filling(of: second, from: first)
        }
        if first.current.isNone || second.current.isNone { return firstCopy(first, second) }
        guard first.current != second.current else { return sameGeneration(first, second) }
        if let decision = ahead(first, of: second) { return decision }
        if let decision = ahead(second, of: first) { return decision.mirrored }
        return .stop(first.hasAncestor(inCommonWith: second) ? .bothWritten : .unrelated)
    }

    /// By map from the first side, where both maps are known; otherwise all of it.
    private static func move(_ source: SideRecord, _ target: SideRecord, _ rule: HandshakeRule) -> HandshakeDecision {
        source.isMapKnown && target.isMapKnown ? .resync(from: .first, rule) : .compareAll(from: .first, rule)
    }

    private static func firstCopy(_ first: SideRecord, _ second: SideRecord) -> HandshakeDecision {
        guard first.role != second.role else { return .stop(.noSideCounts) }
        let target = first.role == .source ? second : first
        guard target.current.isNone else { return .stop(.unrelated) }
        return .compareAll(from: first.role == .source ? .first : .second, .firstCopy)
    }

    /// `target` is half overwritten; the decision has `source` as its first side.
    private static func filling(of target: SideRecord, from source: SideRecord) -> HandshakeDecision {
        let isKnown = target.filling == source.current || source.history.contains(target.filling)
        guard isKnown else { return .stop(.unrelated) }
        guard !target.acknowledgesAlone else { return .stop(.bothWritten) }
        let isMapped = !source.base.isNone || target.current == source.current
        guard isMapped else { return .compareAll(from: .first, .missedEndOfFilled) }
        return move(source, target, .brokenOffResync)
    }

    private static func sameGeneration(_ first: SideRecord, _ second: SideRecord) -> HandshakeDecision {
        guard !(first.acknowledgesAlone && second.acknowledgesAlone) else { return .stop(.bothWritten) }
        let isMapped = first.isMapKnown && second.isMapKnown
        guard !isMapped || first.isDirty || second.isDirty else { return .inSync(interruption(first, second)) }
        guard let side = countingSide(first, second) else { return .stop(.noSideCounts) }
        guard side == .first else { return move(second, first, interruption(second, first)).mirrored }
        return move(first, second, interruption(first, second))
    }

    /// Of two sides with the same generation, the one whose data goes on where they differ.
    private static func countingSide(_ first: SideRecord, _ second: SideRecord) -> PairSide? {
        if first.acknowledgesAlone != second.acknowledgesAlone { return first.acknowledgesAlone ? .first : .second }
        guard !(first.wasServing && second.wasServing) else { return nil }
        if first.wasServing != second.wasServing { return first.wasServing ? .first : .second }
        guard first.role != second.role else { return nil }
        return first.role == .source ? .first : .second
    }

    /// What lies behind it that two sides of one generation have to meet again; the same in either order.
    private static func interruption(_ source: SideRecord, _ target: SideRecord) -> HandshakeRule {
        if !source.base.isNone || !target.base.isNone { return .missedEnd }
        guard source.hasCrashed || target.hasCrashed else { return .linkLost }
        guard source.hasCrashed != target.hasCrashed else { return .commonPowerFailure }
        let (crashed, other) = source.hasCrashed ? (source, target) : (target, source)
        let isSource = crashed.wasServing || !other.wasServing && crashed.role == .source
        return isSource ? .crashedSource : .crashedTarget
    }

    /// Rows 5 and 6, for `first` as the side that went on; `nil` when they do not fit.
    private static func ahead(_ first: SideRecord, of second: SideRecord) -> HandshakeDecision? {
        guard second.base != first.current, !second.history.contains(first.current) else { return nil }
        var rule = HandshakeRule.wentOnAlone
        if second.current != first.base {
            guard let age = first.history.age(of: second.current) else { return nil }
            // A base is an ancestor: one that the history has no more is older than all that it has.
            let baseAge = first.history.age(of: first.base) ?? GenerationHistory.capacity
            guard !first.base.isNone, first.base != first.current, baseAge > age else {
                return .stop(.olderMetadata(of: .second))
            }
            rule = .wentOnAfterMissedEnd
        }
        guard !second.acknowledgesAlone else { return .stop(.bothWritten) }
        return move(first, second, rule)
    }
}

extension SideRecord {
    /// Whether the other side proves that this one has had a newer record.
    fileprivate func hasForgotten(against other: SideRecord) -> Bool {
        guard other.meeting > meeting else { return false }
        return other.isMeetingConfirmed || other.meeting - meeting > 1
    }

    fileprivate func hasAncestor(inCommonWith other: SideRecord) -> Bool {
        let isBase = !base.isNone && (base == other.base || base == other.current || other.history.contains(base))
        let isOtherBase = !other.base.isNone && (other.base == current || history.contains(other.base))
        return isBase || isOtherBase || history.shares(other.history)
            || history.contains(other.current) || other.history.contains(current)
    }
}
