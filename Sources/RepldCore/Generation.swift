/// Names what a side of a pair holds: a random number, drawn anew before it goes ahead of its peer.
///
/// Two sides of one generation hold the same, but for what their maps say.
package struct Generation: Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    package let rawValue: UInt64

    package init(_ rawValue: UInt64) { self.rawValue = rawValue }

    /// No data of this pair yet.
    package static var none: Generation { Generation(0) }

    package var isNone: Bool { rawValue == 0 }

    /// Hexadecimal digits, or "none".
    package var description: String { isNone ? "none" : String(rawValue, radix: 16) }
}

/// The generations that a side held before its current one, the newest first; four of them.
package struct GenerationHistory: Hashable, Sendable, BitwiseCopyable {
    package var numbers: SIMD4<UInt64>

    package static var capacity: Int { 4 }

    package init(numbers: SIMD4<UInt64> = SIMD4()) { self.numbers = numbers }

    package mutating func push(_ generation: Generation) {
        numbers = SIMD4(generation.rawValue, numbers[0], numbers[1], numbers[2])
    }

    /// How many generations ago it was held, from 0; `nil` when it was not, or too long ago, or is none.
    package func age(of generation: Generation) -> Int? {
        guard !generation.isNone else { return nil }
        return (0..<Self.capacity).first { numbers[$0] == generation.rawValue }
    }

    package func contains(_ generation: Generation) -> Bool { age(of: generation) != nil }

    package func shares(_ other: GenerationHistory) -> Bool {
        (0..<Self.capacity).contains { contains(Generation(other.numbers[$0])) }
    }
}

/// Which side of a pair an element is.
package enum PairRole: UInt8, Hashable, Sendable, CaseIterable, BitwiseCopyable {
    case source = 0
    case target = 1
}

/// What one side of a pair durably knows about the two histories; the two of a pair are compared before a byte is moved.
///
/// What a side must do, or the comparison says nothing. "Record" means: durable before anything that is named after it.
///
/// 1. **Parting.** Before a host's write is acknowledged that the peer may not have, and that is the first such since this side
///    last confirmed a meeting (or it does not know whether it is): draw a new `current`, push the old one to `history`, set
///    `base` to the old one if there is none, set `wasServing`, and record. The peer may have taken over the generation before,
///    whatever the meeting's number. The element that a volume becomes the source of a new pair with has drawn one as well.
/// 2. **Mirroring** changes neither side's generation. A side that acknowledges before the peer has the write (asynchronous mode)
///    records `acknowledgesAlone` before the first such acknowledgement, and takes it back only when it was drained and nothing is
///    dirty.
/// 3. **Serving moves** under a connection: the old side records that it does not serve, then the new one that it does.
/// 4. **Meeting.** After the comparison and before any data: both record the meeting's number (`nextMeeting`) as not
///    confirmed; once the peer has said that it did, each records it as confirmed. Data is taken only after that.
/// 5. **Filling** (resync, restore, first copy). The side that is to be overwritten records `filling`, the other's `current`. It
///    acknowledges nothing alone until it is filled. The other side first takes over the peer's dirty bits into its own map, and
///    for a full comparison marks everything and sets `base` to its own `current` if there is none; both are recorded before `filling` is.
/// 6. **Filled.** First the overwritten side records, in one record, the other's `current` and `history`, no `base`, no
///    `filling`, not serving, no `acknowledgesAlone`, no crash. Then the other records no `base` and no crash.
/// 7. **In sync** after a comparison: no `base` and no crash, on both; the side that serves keeps that it does. Hosts that were
///    let in on the other while the two were parted, and have not written, are turned away before a write is mirrored.
/// 8. A bit of a map is cleared for a durable acknowledgement of its range, and for nothing else.
package struct SideRecord: Hashable, Sendable, BitwiseCopyable {
    package var pair: PairID
    package var volumeByteCount: UInt64
    package var role: PairRole
    /// What the element holds; none when it never had data of this pair.
    package var current = Generation.none
    /// What the peer held when the two parted; none while nothing was acknowledged that it lacks.
    package var base = Generation.none
    /// While the element is half overwritten and no usable image: what it is being filled from; otherwise none.
    package var filling = Generation.none
    package var history = GenerationHistory()
    /// How often the two have met.
    package var meeting: UInt64 = 0
    /// The peer has recorded the meeting as well.
    package var isMeetingConfirmed = false
    /// Hosts have written through this side, and through no other since.
    package var wasServing = false
    /// Since the two were in sync this side was started without having been closed.
    package var hasCrashed = false
    /// Hosts may have been told of writes that the peer has not, without a new generation.
    package var acknowledgesAlone = false
    /// The map, with the extents that were active, says all that may differ from the peer.
    package var isMapKnown = true
    /// Something in the map says that it may differ; not meaningful without `isMapKnown`.
    package var isDirty = false

    package init(pair: PairID, volumeByteCount: UInt64, role: PairRole) {
        self.pair = pair
        self.volumeByteCount = volumeByteCount
        self.role = role
    }

    /// The number of the meeting that two records lead to.
    ///
    /// A number that only one of them has is one that was broken off before any data moved: it is tried again. So the numbers of
    /// two records are at most one apart, and a confirmed one is never greater than the peer's, unless a record is older than what
    /// its side once had.
    package static func nextMeeting(_ first: SideRecord, _ second: SideRecord) -> UInt64 {
        let greater = max(first.meeting, second.meeting)
        return first.meeting == second.meeting && greater < .max ? greater + 1 : greater
    }
}
