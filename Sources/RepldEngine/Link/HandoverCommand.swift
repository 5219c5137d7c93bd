package import RepldCore
package import RepldFormat

/// One step of moving a pair between two hosts to the daemon of its other element.
///
/// `VolumeMachine+Handover` has the whole of it. The steps are the control planes': what is moved is in their registries.
///
///     source's daemon                                     replica's daemon
///     withhold, settle ──────── record, in a message ───> claimReplica, takeOver
///     keepAway, detachPair,
///     addReplica  <────────────── its record ──────────── (serves hosts)
///
/// A source that was not asked hears of it when it is back (`EngineEvent.Kind.takenOver`): it tells what its element has that
/// the other has not (`meet` there), and becomes the replica.
package enum HandoverCommand<P: Platform & ~Copyable>: Sendable {
    /// Keeps hosts away from a volume; answered when the last of them is gone.
    ///
    /// Refused where they are kept away already because of a peer: `release` would undo that as well.
    case withhold(VolumeID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Lets hosts come, whether or not peers have been asked. Refused where a peer serves the volume.
    case release(VolumeID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Keeps hosts away from a volume whatever its peers say: until it is a replica, or taken away, or `release`.
    case keepAway(VolumeID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Brings a pair of a withheld volume to the point at which its peer can take it over, and answers with the record that both
    /// sides have of that point.
    ///
    /// Of a pair that does not flow, that is the record that both have now. From the answer on, only what the peer says when it is
    /// asked again lets hosts come, or `release`.
    case settle(PairID, answer: @Sendable (Result<PairRecord, EngineRefusal>) -> Void)
    /// The peer's answer to a takeover is lost: makes a new session with it, which begins with asking who has the pair.
    ///
    /// `EngineEvent.Kind.released` or `takenOver` follows.
    case askAgain(PairID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Takes a replica from its source, which cannot open it any more; answers with the last record that was told of.
    ///
    /// With a sequence, only if that is the record's; without one, only while the source is not connected. Nothing is durable.
    case claimReplica(
        PairID,
        sequence: UInt64?,
        answer: @Sendable (Result<PairRecord, EngineRefusal>) -> Void
    )
    /// The source may open it again.
    case unclaimReplica(PairID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Brings a claimed replica back to what it held before a copy overwrote it; answers with the record that it then has.
    ///
    /// Refused where nothing was kept. From here on the source cannot go on with it without comparing everything.
    case takeBack(PairID, answer: @Sendable (Result<PairRecord, EngineRefusal>) -> Void)
    /// Makes a claimed replica a pair of this host, with its own volume as the element that serves hosts.
    ///
    /// The replica's metadata element is closed when it answers; also when it is refused, the claim stays.
    case takeOver(PairSpec<P>, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// The former source, with its last record, has told where its element may differ; answers with the record that it begins with as
    /// the replica.
    case meet(
        PairID,
        by: PairRecord,
        [Extent],
        isAhead: Bool,
        isFirst: Bool,
        answer: @Sendable (Result<PairRecord, EngineRefusal>) -> Void
    )
}
