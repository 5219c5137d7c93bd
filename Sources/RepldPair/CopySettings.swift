/// What an operator may set about the mover of a pair, at any time.
///
/// The defaults need no tuning: an idle host leaves the mover all that the elements can do, a busy host's p99 latency is
/// held, and the copy ends.
package struct CopySettings: Hashable, Sendable, BitwiseCopyable {
    /// The mover rests; what hosts write is mirrored all the same.
    package var isPaused: Bool
    /// The most bytes that the mover begins in a second; 0 is no cap.
    package var capByteRate: UInt64
    /// Bytes in a second under which no host load brings the mover; `nil` is `automaticFloor`.
    ///
    /// A cap below it counts for more.
    package var floorByteRate: UInt64?
    /// What the p99 latency of the hosts may become while something is copied, in percent of what it is undisturbed.
    package var latencyTargetPercent: UInt16
    /// Pairs of one daemon with a larger number wait for those with a smaller one.
    package var order: UInt16

    package init(
        isPaused: Bool = false,
        capByteRate: UInt64 = 0,
        floorByteRate: UInt64? = nil,
        latencyTargetPercent: UInt16 = 125,
        order: UInt16 = 0
    ) {
        self.isPaused = isPaused
        self.capByteRate = capByteRate
        self.floorByteRate = floorByteRate
        self.latencyTargetPercent = latencyTargetPercent
        self.order = order
    }

    /// The least that a cap or a floor may be: a slower mover would take a month for 64 GiB.
    package static var leastByteRate: UInt64 { 64 << 10 }

    /// The floor where none is set: 16 MiB/s, or what brings the copy to an end within a day.
    package static func automaticFloor(leftByteCount: UInt64) -> UInt64 { max(16 << 20, leftByteCount / 86_400) }
}

/// What holds the mover of a pair back.
package enum CopyLimit: UInt8, Hashable, Sendable, BitwiseCopyable, CaseIterable {
    /// Nothing does: it runs at the speed of the slower element.
    case elements
    /// Hosts would wait longer than the latency target lets them.
    case hostLatency
    /// Hosts wait longer than that, and the floor keeps the copy going.
    case floor
    case cap
    case paused
    /// A pair with a smaller order number copies, or could.
    case order

    /// Words for the operator; the pair that is waited for is not named.
    package var words: String {
        switch self {
        case .elements: "elements"
        case .hostLatency: "host latency"
        case .floor: "host latency, held at the floor"
        case .cap: "cap"
        case .paused: "paused"
        case .order: "waits for another pair"
        }
    }
}
