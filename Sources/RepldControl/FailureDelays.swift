/// How long the answer to a wrong password is held back: longer with each by the same name or from the same peer.
///
/// Names that no user has are counted like those of users, so that the time does not tell one from the other. Right
/// passwords are never held back: else anybody could keep a user out.
package struct FailureDelays: Sendable {
    package static var first: Duration { .milliseconds(250) }
    package static var longest: Duration { .seconds(4) }
    /// After this long without a failure the next one is the first.
    package static var forgottenAfter: Duration { .seconds(600) }
    /// How many names and peers are remembered; beyond, the one that failed longest ago is forgotten.
    package static var trackedMax: Int { 1024 }

    private enum Key: Hashable { case user(String), peer(ControlPeer) }

    private struct Entry {
        var count: Int
        var lastAt: Duration
    }

    private var entries: [Key: Entry] = [:]

    package init() {}

    /// How many names and peers are remembered now.
    package var trackedCount: Int { entries.count }

    /// Counts a failure at time `now`, and says how long to hold back its answer.
    package mutating func delay(afterFailureOf user: String, from peer: ControlPeer, at now: Duration) -> Duration {
        max(count(.user(user), at: now), count(.peer(peer), at: now))
    }

    /// Forgets the failures by a name, because its owner has come.
    package mutating func succeeded(_ user: String) { entries[.user(user)] = nil }

    private mutating func count(_ key: Key, at now: Duration) -> Duration {
        var entry = entries[key] ?? Entry(count: 0, lastAt: now)
        if now - entry.lastAt >= Self.forgottenAfter { entry.count = 0 }
        if entries[key] == nil, entries.count >= Self.trackedMax { forgetOldest() }
        entry.count += 1
        entry.lastAt = now
        entries[key] = entry
        return Self.delay(failureCount: entry.count)
    }

    private mutating func forgetOldest() {
        if let oldest = entries.min(by: { $0.value.lastAt < $1.value.lastAt })?.key { entries[oldest] = nil }
    }

    /// Twice as long each time, up to `longest`.
    private static func delay(failureCount: Int) -> Duration {
        failureCount > 8 ? longest : min(longest, first * (1 << (failureCount - 1)))
    }
}

/// The time, and waiting for it; in tests both are turned by hand.
package struct Timekeeper: Sendable {
    /// Since some moment that does not change.
    package var now: @Sendable () -> Duration
    /// Returns after that long, or throws when cancelled.
    package var wait: @Sendable (Duration) async throws -> Void

    package init(
        now: @escaping @Sendable () -> Duration,
        wait: @escaping @Sendable (Duration) async throws -> Void
    ) {
        self.now = now
        self.wait = wait
    }

    /// The clock of this host, which goes on while it is suspended.
    package static var real: Timekeeper {
        let start = ContinuousClock.now
        return Timekeeper(now: { ContinuousClock.now - start }, wait: { try await Task.sleep(for: $0) })
    }
}
