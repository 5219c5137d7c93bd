package import RepldCore

/// What the records of the two sides of a pair say together, when the one that has the pair opens it at the other.
///
/// It says what may be believed, not that anything moves: whether a copy starts by itself is for the copy state, the recovery mode
/// and the operator. Nor does any of it clear a bit of a map: bits go by durable acknowledgement only.
package enum HandshakeDecision: Hashable, Sendable, BitwiseCopyable {
    /// The replica is at a point of the chain: the maps name all that may differ.
    case follow
    /// What the replica holds is not known, and nothing on it counts: all of the volume is compared, and what differs copied.
    case compareAll(HandshakeRule)
    /// The peer has taken the pair over: this side lets nobody in, tells where it may differ, and becomes the replica.
    case giveWay
    /// This side has taken the pair over, and the peer has not heard of it yet: it will ask.
    case awaitPeer
    /// Nobody but an operator can decide: the pair is Invalid.
    case stop(HandshakeConflict)
}

/// Why everything is compared.
package enum HandshakeRule: UInt8, Hashable, Sendable, CaseIterable, BitwiseCopyable {
    /// The replica has never had a record of the pair.
    case firstCopy
    /// It had one, and has none now.
    case lostRecord
    /// It once had a later one than it has now.
    case olderReplica
    /// It was away for longer than runs are remembered.
    ///
    /// Starts without contact do not count. What is left: a replica put back behind eight runs that it was told of, runs whose first
    /// record was sent and never kept, and histories of records before version 7, which have untold runs as well.
    case longAway

    /// What an operator reads.
    package var words: String {
        switch self {
        case .firstCopy: "the replica holds nothing of this pair yet"
        case .lostRecord: "the replica has lost what it kept of this pair: everything is compared"
        case .olderReplica:
            "the replica is older than it once was, as if restored from a backup: everything is compared"
        case .longAway: "the replica was away for longer than is remembered here: everything is compared"
        }
    }
}

/// Why two histories cannot be put together without an operator.
package enum HandshakeConflict: UInt8, Hashable, Sendable, CaseIterable, BitwiseCopyable {
    case otherPair
    case otherSize
    /// Both daemons have the pair, in the same term.
    case bothHaveIt
    /// The replica has had a record that is not known here: what was written here since then, or is on this element at all, is not known.
    case olderMetadata
    /// The two come from different runs.
    case unrelated

    /// What an operator reads.
    package var words: String {
        switch self {
        case .otherPair: "the peer's metadata belongs to another pair"
        case .otherSize: "the peer's metadata is of a larger volume than this one"
        case .bothHaveIt:
            "both hosts have the pair, as if one had been restored from a backup: both may have been written"
        case .olderMetadata:
            "the metadata here is older than what the peer has heard, as if restored from a backup: what was written here since is not known"
        case .unrelated: "the peer's metadata comes from a history that is not known here"
        }
    }

    /// What an operator can do about it.
    package var waysOut: String {
        switch self {
        case .otherPair, .otherSize: "Detach here, and create the pair anew"
        case .bothHaveIt:
            "Detach --force on the host whose data is to be given up, then create the pair anew on the other"
        case .olderMetadata, .unrelated:
            "ResyncReplica --force keeps the source's data, RestoreFromReplica --force the replica's, Detach keeps both apart"
        }
    }
}

/// Why a pair is Invalid, with what each side has.
package struct HandshakeStop: Hashable, Sendable, BitwiseCopyable {
    /// What is told of a side: its histories are long, and this is a part of what machines hand about with each request.
    private struct Side: Hashable, Sendable, BitwiseCopyable {
        var generation: Generation
        var sequence: UInt64
        var term: UInt32

        init(_ record: SideRecord) {
            generation = record.lineage.generation
            sequence = record.sequence
            term = record.term
        }

        var words: String {
            sequence > 0 ? "record \(sequence) of run \(generation) in term \(term)" : "no record"
        }
    }

    package let conflict: HandshakeConflict
    private let own: Side
    private let peer: Side

    package init(_ conflict: HandshakeConflict, own: SideRecord, peer: SideRecord) {
        self.conflict = conflict
        self.own = Side(own)
        self.peer = Side(peer)
    }

    /// What an operator reads.
    package var words: String { "\(conflict.words). Here: \(own.words); at the peer: \(peer.words)" }
}

extension HandshakeDecision {
    /// Compares two histories: the only place where that is done.
    ///
    /// It relies on what `SideRecord` says of the chain of records. The first row that fits decides. `own` has the pair. A run is known when it
    /// is the present one of `own`, or in its history: how often a side was started without contact changes nothing of that.
    ///
    ///     0   pair ids differ                                 stop
    ///         Nothing else in the records means anything then.
    ///     1   the peer has the pair as well
    ///           in a later term                               give way
    ///           in an earlier one                             await the peer
    ///           in the same                                   stop
    ///         A term is begun by a replica that was told a record of the one before: two daemons never begin the same one, unless
    ///         one of them forgot that it had it.
    ///     2   the peer has no record, and never had           compare all, first copy
    ///         it had one, by what is confirmed here           compare all, lost record
    ///         its record is of a larger volume than here      stop
    ///         A volume that has grown is larger than the peer has heard, and the maps name the new range as they name
    ///         everything; but nothing shrinks.
    ///     3   the peer's term is later than this side's       stop, older metadata
    ///         A replica has its term from the side that has the pair. So this one had it, and has it no more.
    ///     4   one of them is of before there were generations
    ///           the peer's sequence is greater                stop, older metadata
    ///     5   the peer's record is of a run that is known
    ///           and later than the last one known of it       stop, older metadata
    ///         Rule 1 of `SideRecord`: the peer was told of a record that was durable here.
    ///     6   it is of a run that is not known
    ///           and from before all that are remembered       compare all, long away
    ///           and the two know of one run                   stop, older metadata
    ///           and they do not                               stop, unrelated
    ///         What the peer was told then was told by this side, which knows of it no more; or by another one.
    ///     7   the peer once had a later record                compare all, older replica
    ///         It is at a point of the chain that it has left before: its element may be as old as its record.
    ///     8   otherwise                                       follow
    package static func decide(_ own: SideRecord, _ peer: SideRecord) -> HandshakeDecision {
        invariant(own.hasPair, "a pair is opened by the side that has it")
        guard own.pair == peer.pair else { return .stop(.otherPair) }
        if peer.hasPair {
            guard own.term != peer.term else { return .stop(.bothHaveIt) }
            return own.term < peer.term ? .giveWay : .awaitPeer
        }
        guard peer.sequence > 0 else {
            return .compareAll(own.lineage.confirmedSequence == 0 ? .firstCopy : .lostRecord)
        }
        guard peer.volumeByteCount <= own.volumeByteCount else { return .stop(.otherSize) }
        guard peer.term <= own.term else { return .stop(.olderMetadata) }
        if own.lineage.generation.isNone || peer.lineage.generation.isNone {
            guard peer.sequence <= own.sequence else { return .stop(.olderMetadata) }
        } else if let last = own.last(of: peer.lineage.generation) {
            guard peer.sequence <= last else { return .stop(.olderMetadata) }
        } else {
            guard let oldest = own.lineage.history.forgottenBefore, peer.sequence < oldest.sequence else {
                return .stop(own.lineage.shares(peer.lineage) ? .olderMetadata : .unrelated)
            }
            return .compareAll(.longAway)
        }
        guard peer.sequence >= own.lineage.confirmedSequence else { return .compareAll(.olderReplica) }
        return .follow
    }

    /// Whether the maps of a side from which a pair was taken over name all that it has changed since.
    ///
    /// `own` has taken over. The other side had the pair when its record was the one by which that was done, and must still know of it: a
    /// record that is older than that has lost what its maps had named. And what it knows that `own` once had must not be later than
    /// that record: one that was put back to an older day before it took over lacks what no map names. Nor has the other side been the replica of
    /// `own` since: then it was put back to the day on which it had the pair, behind what was copied to it.
    package static func isBelievable(former: SideRecord, by own: SideRecord) -> Bool {
        guard former.pair == own.pair, former.term < own.term else { return false }
        // It may have grown since it was heard of here.
        guard former.volumeByteCount >= own.volumeByteCount else { return false }
        let parting = own.lineage.takenOverAt
        guard former.lineage.confirmedSequence <= parting.sequence else { return false }
        guard own.lineage.confirmedSequence <= parting.sequence else { return false }
        // Of before there were generations: the sequence is all that there is.
        if parting.generation.isNone || former.lineage.generation.isNone {
            return former.sequence >= parting.sequence
        }
        return former.lineage.contains(parting, upTo: former.sequence)
    }
}

extension SideRecord {
    /// The last record that is known of a run, the present one included.
    fileprivate func last(of generation: Generation) -> UInt64? {
        generation == lineage.generation ? sequence : lineage.history.last(of: generation)
    }
}
