internal import RepldCore

/// How fast one pair's mover may go: the rate that the hosts' latency lets it have, and when the next chunk is due.
///
/// **The rate** follows how many of the hosts' requests took longer than the target lets them: one in a hundred may, which is
/// what "p99 under the target" says. Counting them, and not comparing two quantiles, makes each request a vote, so that few
/// requests move the rate little and noise averages out. More than that: the rate falls by a fifth for each hundredth too
/// many, at most by half in a window. Fewer: it rises by up to a fifth, or by a half until the first time that it was too
/// high. It rises only where it was what held the mover back, so that it does not run away from what the elements do.
///
/// **The schedule.** A chunk of n bytes puts the next one off by n / rate from when this one was *due*, not from when it began:
/// late wake-ups lose nothing. What a pause for a measurement held back is made up for, at most a quarter faster than the
/// rate; what lies further back than that is forgotten, so that no burst follows a standstill.
struct CopyPace: BitwiseCopyable {
    /// What may be made up for.
    static var debtLimitNanoseconds: UInt64 { 400_000_000 }
    /// How far a chunk that comes late may bring the next one nearer.
    static var burstNanoseconds: UInt64 { 10_000_000 }
    private static var rateLimit: Int64 { 1 << 40 }
    /// Requests in a window that a full step takes.
    private static var sampleCount: Int64 { 400 }

    /// What the hosts' latency allows, in bytes per second; never under the floor that it was last regulated with.
    private(set) var rate: UInt64 = 0
    /// It was never too high yet.
    private(set) var isStarting = true
    /// Hosts would have wanted less than the floor in the last window.
    private(set) var isAtFloor = false
    /// The rate has put a chunk off since it was last regulated.
    var wasHeld = false
    private var dueAt = Instant(nanoseconds: 0)
    private var notBefore = Instant(nanoseconds: 0)

    /// What held the mover back last, and when.
    private(set) var limit = CopyLimit.elements
    private(set) var limitedAt = Instant(nanoseconds: 0)

    /// Whether a chunk may begin; the moment at which it may.
    var startsAt: Instant { max(dueAt, notBefore) }

    /// More is due than a measurement could have held back: the elements, or what waits for them, are too slow.
    func isBehind(at now: Instant) -> Bool {
        dueAt.nanoseconds > 0 && now.nanoseconds(since: dueAt) > Self.debtLimitNanoseconds - Self.burstNanoseconds * 5
    }

    mutating func hold(_ limit: CopyLimit, at now: Instant) {
        self.limit = limit
        limitedAt = now
    }

    /// A chunk begins that is paced.
    mutating func started(byteCount: UInt64, byteRate: UInt64, at now: Instant) {
        let interval = byteCount * 1_000_000_000 / max(byteRate, 1)
        let oldest = Instant(nanoseconds: now.nanoseconds - min(now.nanoseconds, Self.debtLimitNanoseconds))
        dueAt = max(dueAt, oldest).advanced(byNanoseconds: interval)
        let recent = Instant(nanoseconds: now.nanoseconds - min(now.nanoseconds, Self.burstNanoseconds))
        notBefore = max(notBefore, recent).advanced(byNanoseconds: interval / 5 * 4)
    }

    /// Nothing paces the mover now: what follows owes nothing, and is owed nothing.
    mutating func runsFreely(at now: Instant) {
        dueAt = now
        notBefore = now
    }

    /// Goes on from a rate of its own, at least the floor.
    mutating func raise(toFloor floor: UInt64) { rate = max(rate, floor) }

    /// Takes in what a window said: of `count` requests, `exceededCount` took longer than the target.
    mutating func regulate(count: Int, exceededCount: Int, floor: UInt64) {
        // Signed from here on: an excess below 0 is the good news.
        let excess = Int64(exceededCount) * 100 - Int64(count)
        let weight = max(Int64(count), Self.sampleCount)
        var permille = -200 * excess / weight
        if isStarting {
            if excess > 0 {
                if exceededCount >= 3 { isStarting = false }
            } else if count >= 50 {
                permille = 500
            }
        }
        permille = min(max(permille, -500), isStarting ? 500 : 200)
        if permille > 0, !wasHeld { permille = 0 }
        wasHeld = false
        let least = Int64(min(floor, UInt64(Self.rateLimit)))
        let old = Int64(min(rate, UInt64(Self.rateLimit)))
        let wanted = old + old / 1000 * permille
        isAtFloor = wanted <= least && excess > 0 || isAtFloor && wanted <= least
        rate = UInt64(min(max(wanted, least), Self.rateLimit))
    }
}
