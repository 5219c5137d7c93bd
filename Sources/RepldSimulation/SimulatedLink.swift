internal import RepldCore

/// What the network does with everything that one host sends to another: one direction between two hosts.
package final class SimulatedLink {
    /// How long a piece is on its way once the link has taken it, drawn for each.
    package var delayNanoseconds: ClosedRange<UInt64> = 20_000...500_000
    /// What the link carries, all connections together; `nil` where that is no limit.
    package var bytesPerSecond: UInt64?
    /// Nobody gets through to the listeners at the other end: connects are refused.
    package var refusesConnects = false
    /// Connects are answered up to this much later, in nanoseconds: perhaps when nobody waits for the answer any more.
    package var answerDelayLimitNanoseconds: UInt64 = 0
    /// One in so many is.
    package var answersLateOneIn: UInt64 = 1
    /// Nothing passes.
    ///
    /// What is on its way waits, and is sent again when the partition has healed.
    package internal(set) var isPartitioned = false
    /// Bytes of streams that the link has taken so far.
    package private(set) var byteCount: UInt64 = 0
    /// The link is busy up to then.
    private var busyUntil: UInt64 = 0

    /// Takes a piece of a stream; the moment at which it has left.
    func take(byteCount count: Int, at now: UInt64) -> UInt64 {
        byteCount += UInt64(count)
        guard let bytesPerSecond else { return now }
        invariant(bytesPerSecond > 0, "a link that carries nothing is partitioned")
        let time = (UInt64(count) * 1_000_000_000 + bytesPerSecond - 1) / bytesPerSecond
        busyUntil = max(busyUntil, now) + time
        return busyUntil
    }

    func delay(_ random: inout RandomSource) -> UInt64 {
        delayNanoseconds.lowerBound + random.below(delayNanoseconds.upperBound - delayNanoseconds.lowerBound + 1)
    }
}
