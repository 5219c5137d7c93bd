internal import RepldCore

/// What the movers of one volume know of its hosts: how long requests take while something is copied, how long they take
/// otherwise, and whether there are any.
///
/// **Undisturbed** is what arrived while no mover had anything in flight: while nothing is copied, and in short measurements
/// while hosts are busy: every two seconds the movers stop, wait until what they had in flight has ended, let hosts have the
/// elements for some tens of milliseconds, and go on. All volumes of a daemon do so at the same moments of its clock, so that
/// the movers of one do not disturb the measurement of another. What is old weighs less with each measurement, so that the
/// reference follows what hosts do.
///
/// **Windows** of 100 ms gather everything else. One with few requests is widened to a second; fewer than 20 in a second say
/// nothing, and nothing is done about them.
///
/// **Idle** is a host that asked for nothing for 10 ms; the movers then run freely. One that comes back soon each time has not
/// been idle: the 10 ms become longer, up to a quarter of a second, until the guess is right.
///
/// Phases: `resting → working ⇄ draining → measuring → working`, and `resting` from anywhere when nothing is copied.
///
/// Belongs to the machine of its volume. Allocates nothing after it was made.
struct CopyController: ~Copyable {
    static var windowNanoseconds: UInt64 { 100_000_000 }
    static var windowLimitNanoseconds: UInt64 { 1_000_000_000 }
    static var idleNanoseconds: UInt64 { 10_000_000 }
    static var idleLimitNanoseconds: UInt64 { 250_000_000 }
    static var measureEveryNanoseconds: UInt64 { 2_000_000_000 }
    static var measureNanoseconds: UInt64 { 100_000_000 }
    static var measureStepNanoseconds: UInt64 { 20_000_000 }
    static var drainLimitNanoseconds: UInt64 { 200_000_000 }
    /// What a mover leaves behind in the elements' queues is over by then.
    static var settleNanoseconds: UInt64 { 1_000_000 }
    /// Requests that are enough for a measurement.
    static var measureCount: Int { 1000 }
    /// Requests that a p99 needs to be worth anything.
    static var leastCount: Int { 20 }
    /// Requests of the past that are kept when new ones come.
    static var memoryCount: Int { 1024 }
    /// A p99 from which on an element seeks, or is far away: short chunks would cost it more than they spare hosts.
    static var slowNanoseconds: UInt64 { 2_000_000 }

    enum Phase: UInt8, BitwiseCopyable { case resting, working, draining, measuring }

    private(set) var undisturbed = LatencyHistogram()
    private(set) var window = LatencyHistogram()
    /// The last windows, for people.
    private(set) var recent = LatencyHistogram()
    private(set) var phase = Phase.resting
    /// Requests that arrived from here on are undisturbed.
    private var quietSince = Instant(nanoseconds: 0)
    private var windowBegan = Instant(nanoseconds: 0)
    private var measureAt = Instant(nanoseconds: 0)
    private var phaseEnds = Instant(nanoseconds: 0)
    private var countBefore = 0

    /// When a host asked for something last; 0, which is no moment, before the first.
    private var lastArrival = Instant(nanoseconds: 0)
    private(set) var isIdle = true
    private var idleSince = Instant(nanoseconds: 0)
    private(set) var idleAfter = Self.idleNanoseconds

    // MARK: - What hosts do

    @inline(__always)
    mutating func arrived(at now: Instant) { lastArrival = now }

    /// A host's request has been answered: the whole of what the data plane costs per request.
    @inline(__always)
    mutating func answered(arrivedAt: Instant, at now: Instant) {
        let latency = now.nanoseconds(since: arrivedAt)
        if arrivedAt >= quietSince { undisturbed.add(latency) } else { window.add(latency) }
    }

    /// What a host counts to its latency at p99 and the data plane does not see: its socket, and waking up.
    ///
    /// With fio on a unix socket, on two cores, that is about 50 us.
    static var unseenNanoseconds: UInt64 { 30_000 }

    /// Longer than this is too long, in percent of what hosts have to wait undisturbed; `nil` while too little was seen.
    ///
    /// Of the whole latency, as the host sees it: otherwise a host whose requests take 10 us here, and 50 us until it has the
    /// answer, would be spared what it cannot notice.
    func threshold(percent: UInt16) -> UInt64? {
        undisturbedP99.map { ($0 + Self.unseenNanoseconds) / 100 * UInt64(max(percent, 100)) - Self.unseenNanoseconds }
    }

    /// p99 of what is not disturbed; `nil` while too little was seen.
    var undisturbedP99: UInt64? { undisturbed.total >= Self.leastCount ? undisturbed.p99 : nil }

    // MARK: - Phases

    /// No chunk may begin: hosts are to have the elements for themselves.
    var isMeasuring: Bool { phase == .draining || phase == .measuring }

    /// When to look again: at the end of the phase, or when hosts may have gone idle.
    func lookAt(_ now: Instant) -> Instant {
        let step = now.advanced(byNanoseconds: Self.measureStepNanoseconds)
        return isMeasuring ? min(max(phaseEnds, now), step) : step
    }

    /// When the host counts as idle if nothing comes.
    var idleAt: Instant { lastArrival.advanced(byNanoseconds: idleAfter) }

    /// Something is copied, or could be; `isMoving` when a mover has something in flight.
    mutating func work(at now: Instant, isMoving: Bool, requestCount: Int) {
        lookForHosts(at: now, requestCount: requestCount)
        if phase == .resting {
            enter(.working, at: now)
            measureAt = undisturbed.total >= 5 * Self.leastCount ? measureAt : now
        }
        if phase == .working, !isIdle, now >= measureAt { enter(.draining, at: now) }
        if phase == .draining {
            if isIdle || now >= phaseEnds {
                enter(.working, at: now)
            } else if !isMoving {
                enter(.measuring, at: now)
            }
        }
        if phase == .measuring, isIdle || now >= phaseEnds || hasMeasuredEnough { enter(.working, at: now) }
    }

    /// Nothing is copied.
    mutating func rest(at now: Instant) {
        if phase != .resting { enter(.resting, at: now) }
        while undisturbed.total > 8 * Self.memoryCount { undisturbed.halve() }
    }

    private var hasMeasuredEnough: Bool { undisturbed.total - countBefore >= Self.measureCount }

    private mutating func enter(_ next: Phase, at now: Instant) {
        if phase == .measuring {
            let added = undisturbed.total - countBefore
            while undisturbed.total > max(4 * added, Self.memoryCount) { undisturbed.halve() }
        }
        phase = next
        switch next {
        case .resting:
            quietSince = now.advanced(byNanoseconds: Self.settleNanoseconds)
        case .working:
            quietSince = Instant(nanoseconds: .max)
            let turn = now.nanoseconds / Self.measureEveryNanoseconds
            measureAt = Instant(nanoseconds: (turn + 1) * Self.measureEveryNanoseconds)
            beginWindow(at: now)
        case .draining:
            phaseEnds = now.advanced(byNanoseconds: Self.drainLimitNanoseconds)
        case .measuring:
            quietSince = now.advanced(byNanoseconds: Self.settleNanoseconds)
            phaseEnds = quietSince.advanced(byNanoseconds: Self.measureNanoseconds)
            countBefore = undisturbed.total
        }
    }

    private mutating func lookForHosts(at now: Instant, requestCount: Int) {
        let wasIdle = isIdle
        isIdle = lastArrival.nanoseconds == 0 || requestCount == 0 && now >= idleAt
        if isIdle, !wasIdle { idleSince = now }
        if !isIdle, wasIdle {
            let isWrong = now.nanoseconds(since: idleSince) < 8 * idleAfter
            idleAfter =
                isWrong ? min(2 * idleAfter, Self.idleLimitNanoseconds) : max(idleAfter / 2, Self.idleNanoseconds)
            beginWindow(at: now)
        }
    }

    // MARK: - Windows

    private mutating func beginWindow(at now: Instant) {
        window.removeAll()
        windowBegan = now
    }

    /// Whether the window says enough to be acted upon.
    func isWindowFull(at now: Instant) -> Bool {
        guard phase == .working, !isIdle else { return false }
        let age = now.nanoseconds(since: windowBegan)
        if age >= Self.windowNanoseconds, window.total >= 5 * Self.leastCount { return true }
        return age >= Self.windowLimitNanoseconds && window.total >= Self.leastCount
    }

    /// The window has been acted upon.
    mutating func closeWindow(at now: Instant) {
        if recent.total > Self.memoryCount { recent.halve() }
        recent.add(window)
        beginWindow(at: now)
    }

    /// The longest chunk while hosts are busy: so long that locks and elements are held for a short time only.
    var busyChunkByteCount: UInt64 {
        guard let p99 = undisturbedP99, p99 < Self.slowNanoseconds else { return 256 << 10 }
        return 64 << 10
    }
}
