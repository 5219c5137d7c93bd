/// How fast a copy goes: bytes done over the last seconds, so that a stall shows soon and a burst does not mislead.
package struct CopyRate: Sendable {
    private struct Sample: Sendable {
        var instant: ContinuousClock.Instant
        var doneByteCount: UInt64
    }

    /// How far back a rate looks.
    package static var window: Duration { .seconds(10) }
    /// A rate over less time would be noise.
    package static var shortest: Duration { .milliseconds(500) }

    private var samples: [Sample] = []

    package init() {}

    /// Takes note of a reading; a count that went back is a new copy.
    package mutating func note(doneByteCount: UInt64, at instant: ContinuousClock.Instant) {
        if let last = samples.last {
            if doneByteCount < last.doneByteCount { samples.removeAll() }
            if last.instant.duration(to: instant) < .milliseconds(100), samples.count > 1 { return }
        }
        samples.append(Sample(instant: instant, doneByteCount: doneByteCount))
        while samples.count > 2, samples[1].instant.duration(to: instant) >= Self.window { samples.removeFirst() }
    }

    /// Forgets all readings.
    package mutating func reset() { samples.removeAll() }

    /// Bytes in a second; `nil` until the readings span enough time.
    package var bytesPerSecond: UInt64? {
        guard let first = samples.first, let last = samples.last else { return nil }
        let span = first.instant.duration(to: last.instant)
        guard span >= Self.shortest else { return nil }
        return UInt64(Double(last.doneByteCount - first.doneByteCount) / (span / .seconds(1)))
    }
}
