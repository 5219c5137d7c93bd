/// Names one run of a pair: a random number, drawn each time that a daemon begins to have it.
///
/// That is when the pair is made, when the daemon is started, and when it takes the pair over from its peer.
package struct Generation: Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    package let rawValue: UInt64

    package init(_ rawValue: UInt64) { self.rawValue = rawValue }

    /// Not known: the record was written before there were generations, or there is none.
    package static var none: Generation { Generation(0) }

    package var isNone: Bool { rawValue == 0 }

    /// Draws one.
    ///
    /// By the system's generator: a simulation draws its own.
    package static func fresh() -> Generation { Generation(.random(in: 1 ... .max)) }

    /// Hexadecimal digits, or "none".
    package var description: String { isNone ? "none" : String(rawValue, radix: 16) }
}

/// A point of a pair's history: a record, named by the run that wrote it and its sequence.
package struct HistoryPoint: Hashable, Sendable, BitwiseCopyable {
    package var generation: Generation
    /// Of the last record that is meant.
    package var sequence: UInt64

    package init(_ generation: Generation, _ sequence: UInt64) {
        self.generation = generation
        self.sequence = sequence
    }

    package static var none: HistoryPoint { HistoryPoint(.none, 0) }
}

/// The runs before the present one, the newest first, each with the last record that is known of it; eight of them.
///
/// Runs of which the peer can have heard: the others take no place (`Lineage`).
package struct GenerationHistory: Hashable, Sendable, BitwiseCopyable {
    package var generations: SIMD8<UInt64>
    package var sequences: SIMD8<UInt64>

    package static var capacity: Int { 8 }

    package init(generations: SIMD8<UInt64> = SIMD8(), sequences: SIMD8<UInt64> = SIMD8()) {
        self.generations = generations
        self.sequences = sequences
    }

    package subscript(_ age: Int) -> HistoryPoint {
        HistoryPoint(Generation(generations[age]), sequences[age])
    }

    package mutating func push(_ point: HistoryPoint) {
        for age in (1..<Self.capacity).reversed() {
            generations[age] = generations[age - 1]
            sequences[age] = sequences[age - 1]
        }
        generations[0] = point.generation.rawValue
        sequences[0] = point.sequence
    }

    /// Forgets the newest.
    package mutating func dropNewest() {
        for age in 1..<Self.capacity {
            generations[age - 1] = generations[age]
            sequences[age - 1] = sequences[age]
        }
        generations[Self.capacity - 1] = 0
        sequences[Self.capacity - 1] = 0
    }

    /// The last record of a run; `nil` when it is none of these.
    package func last(of generation: Generation) -> UInt64? {
        guard !generation.isNone else { return nil }
        return (0..<Self.capacity).first { generations[$0] == generation.rawValue }.map { sequences[$0] }
    }

    /// The oldest run that is remembered, when there may have been others before it.
    package var forgottenBefore: HistoryPoint? {
        let oldest = self[Self.capacity - 1]
        return oldest.generation.isNone ? nil : oldest
    }
}

/// Which records lie behind one: what identifies the history of a side of a pair between two hosts.
///
/// A run is *untold* when it begins, and *told* from the moment on in which the peer may have heard of a record of it:
///
///     untold ── about to be told the first record ──> told (durable) ── the record is sent, or answered
///
/// - Told is durable before anything is sent: the first record of a run that the peer gets says itself that its run is told. What
///   is not known to be untold is told: a record of before this was written down, and one that stands in for a damaged one.
/// - Only a told run takes a place in the history when the next one begins. The peer has no record of an untold one, and never
///   gets one: nobody will look for it. So a daemon may be started without contact as often as it likes, and forgets nothing of
///   the run in which the two were parted.
/// - Told too early (a crash, or a lost link, before the peer has the record) costs a place in the history and no more. Told too late
///   would make a run that the peer has a record of an unknown one: the pair would be Invalid, not wrong.
package struct Lineage: Hashable, Sendable, BitwiseCopyable {
    /// The present run.
    package var generation = Generation.none
    /// The peer may have been told a record of it.
    package var isTold = true
    package var history = GenerationHistory()
    /// The sequence of the latest record that the peer is known to have had; 0 for none.
    package var confirmedSequence: UInt64 = 0
    /// The record of the peer by which this side took the pair over; none in the pair's first term.
    package var takenOverAt = HistoryPoint.none

    package init() {}

    /// Begins a run, behind the record with the sequence.
    package mutating func begin(_ fresh: Generation, after sequence: UInt64) {
        guard !fresh.isNone else { return }
        if !generation.isNone, isTold { history.push(HistoryPoint(generation, sequence)) }
        generation = fresh
        isTold = false
    }

    /// The history as far as the peer can know it: the present run is the last one that was told.
    package var toldPart: Lineage {
        guard !isTold else { return self }
        var part = self
        part.generation = history[0].generation
        part.history.dropNewest()
        part.isTold = true
        return part
    }

    /// Whether both know of one run.
    package func shares(_ other: Lineage) -> Bool {
        other.knows(generation) || (0..<GenerationHistory.capacity).contains { other.knows(history[$0].generation) }
    }

    private func knows(_ run: Generation) -> Bool {
        !run.isNone && (run == generation || history.last(of: run) != nil)
    }

    /// Whether this history goes through a point of another one.
    package func contains(_ point: HistoryPoint, upTo sequence: UInt64) -> Bool {
        guard !point.generation.isNone else { return false }
        if point.generation == generation { return point.sequence <= sequence }
        return history.last(of: point.generation).map { point.sequence <= $0 } ?? false
    }
}

/// What one side of a pair between two hosts durably knows of its history; the two of a pair are compared before a byte is moved.
///
/// One side *has* the pair: its daemon runs it, keeps the maps of what may differ, and serves hosts, or lets nobody in. The other is
/// its replica, and has of each record what it was told. So there is one chain of records, and each side is at a point of it:
///
/// 1. A record is told to the peer only when it is durable on the side that has the pair. The peer is therefore never ahead.
/// 2. A run begins with a record of its own, before anything is told or moved. So two daemons that were started from one record (a
///    backup, a clone) do not write the same one twice.
/// 3. Of what its maps say, the side that has the pair forgets nothing while its records go on: whatever the peer lacks since the
///    peer's record is under a bit of them.
/// 4. Whoever takes a pair over begins a new term behind the last record that he was told (`Lineage.takenOverAt`).
/// 5. Every run of which the peer may have a record is remembered, up to eight; no other one is (`Lineage`).
///
/// A peer comes to have a record in three ways: a record frame, the answer to the one that asks it to take the pair over, and the
/// answer to the former source that has told what differs there. What a pair is opened with is looked at, and not kept.
///
/// What this cannot see: a side that was put back to a moment behind the last record that the peer has heard of, or had. Between two
/// records only the elements and the maps change.
package struct SideRecord: Hashable, Sendable, BitwiseCopyable {
    package var pair: PairID
    package var volumeByteCount: UInt64
    /// This side has the pair; otherwise it is the replica.
    package var hasPair: Bool
    /// How often the pair has moved to the other daemon.
    package var term: UInt32 = 0
    /// Of the latest record; 0 when this side never had one.
    package var sequence: UInt64 = 0
    package var lineage = Lineage()

    package init(pair: PairID, volumeByteCount: UInt64, hasPair: Bool) {
        self.pair = pair
        self.volumeByteCount = volumeByteCount
        self.hasPair = hasPair
    }
}
