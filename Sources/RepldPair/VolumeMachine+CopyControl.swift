package import RepldCore

/// When the mover may begin a chunk, and how long it may be.
///
/// In this order: a pair that is paused or comes after another one begins nothing. Nor does any while hosts are measured
/// (`CopyController`). An idle host leaves the mover alone with the cap. With a busy one, the pair's pace decides
/// (`CopyPace`): the rate that the hosts' latency allows, at least the floor, at most the cap. A pair that does not flow
/// forward but back, for a restore or a failback, obeys the same rules.
///
/// **The mover makes progress under any host load.** Whatever hosts do, every refusal of `copyPermit` ends:
/// - `later` sets `copyWakeAt`, and the machine is woken then, or earlier by a chunk that ends.
/// - A measurement has an end: 200 ms at most for what is in flight, and 101 ms for the hosts; two seconds lie between two.
/// - A pace puts a chunk of n bytes off by at most n / floor from when the one before was due, because the rate is never
///   under the floor; a cap below the floor is a rate that the operator has chosen, and is never 0.
/// - Being paused or waiting for another pair is what the operator asked for; a pair that cannot copy holds nobody up, and the
///   pair with the smallest number waits for nobody.
/// Where a chunk has begun, it waits for buffers that are kept for movers, and for its lock behind the writes that were before
/// it: both end as before. So a pass ends at the latest after dirty bytes / floor, made up for by what measurements took.
extension VolumeMachine {
    enum CopyPermit: BitwiseCopyable {
        /// So many bytes at most.
        case start(UInt64)
        /// `copyWakeAt` says when.
        case later
        /// Not before the operator, or another pair's end, lets it.
        case never
    }

    mutating func copyPermit(_ index: Int) -> CopyPermit {
        if pairs[index].settings.copy.isPaused || pairs[index].waitsFor != nil || pairs[index].awaitsOrder {
            return .never
        }
        copyControl.work(at: now, isMoving: isMoving, requestCount: hostRequestCount)
        if copyControl.isWindowFull(at: now) { regulate() }
        let isFree = copyControl.isIdle
        if copyControl.isMeasuring { return wait(until: copyControl.lookAt(now)) }
        let settings = pairs[index].settings
        guard let byteRate = byteRate(of: index) else {
            pairs[index].pace.runsFreely(at: now)
            return .start(UInt64(settings.copyChunkByteCount))
        }
        let startsAt = pairs[index].pace.startsAt
        if startsAt > now {
            let isCap = byteRate == settings.copy.capByteRate
            pairs[index].pace.hold(
                isCap ? .cap : pairs[index].pace.isAtFloor ? .floor : .hostLatency,
                at: now
            )
            if !isCap { pairs[index].pace.wasHeld = true }
            return wait(until: isFree ? startsAt : min(startsAt, max(copyControl.idleAt, copyControl.lookAt(now))))
        }
        return .start(min(UInt64(settings.copyChunkByteCount), chunkLimit(index, byteRate)))
    }

    /// The longest chunk while something paces the mover.
    ///
    /// One that is behind at its floor has as many chunks in flight as it may, and only longer ones bring it up again.
    private func chunkLimit(_ index: Int, _ byteRate: UInt64) -> UInt64 {
        if copyControl.isIdle { return 256 << 10 }
        let isBehind = byteRate <= copyFloor(of: index) && pairs[index].pace.isBehind(at: now)
        return isBehind ? UInt64(UInt32.max) : copyControl.busyChunkByteCount
    }

    private mutating func wait(until moment: Instant) -> CopyPermit {
        copyWakeAt = min(copyWakeAt, moment)
        return .later
    }

    /// Whether the mover stops here, with nothing in flight, or has something to finish first.
    func isHeldBack(_ index: Int, _ permit: CopyPermit) -> Bool {
        switch permit {
        case .start: false
        // What follows a pass waits for nothing.
        case .later: pairs[index].nextRunToCopy(from: pairs[index].cursor, limit: 1) != nil && !isFull(index)
        // What it has copied is made durable, so that a restart does not find it different.
        case .never: pairs[index].copied.isEmpty && !pairs[index].hasNothingToCopy
        }
    }

    private func isFull(_ index: Int) -> Bool { pairs[index].copied.count >= Pair.copiedExtentLimit }

    /// Bytes per second that the mover may begin; `nil` for as many as the elements take.
    private func byteRate(of index: Int) -> UInt64? {
        let settings = pairs[index].settings.copy
        let cap = settings.capByteRate == 0 ? nil : settings.capByteRate
        if copyControl.isIdle { return cap }
        let rate = max(pairs[index].pace.rate, copyFloor(of: index))
        return min(rate, cap ?? rate)
    }

    private func copyFloor(of index: Int) -> UInt64 {
        pairs[index].settings.copy.floorByteRate
            ?? CopySettings.automaticFloor(leftByteCount: pairs[index].leftToCopyByteCount)
    }

    /// A chunk begins: the next one is due later.
    mutating func paceChunk(_ index: Int, byteCount: UInt64) {
        guard let byteRate = byteRate(of: index) else { return }
        pairs[index].pace.started(byteCount: byteCount, byteRate: byteRate, at: now)
    }

    /// A copy begins, or goes on after a start.
    mutating func beginPacing(_ index: Int) {
        pairs[index].pace = CopyPace()
        pairs[index].pace.raise(toFloor: copyFloor(of: index))
        // Whether another one comes first is the engine's to know, in the same turn.
        pairs[index].awaitsOrder = pairs[index].settings.copy.order > 0
    }

    /// Acts upon a window.
    private mutating func regulate() {
        for index in 0..<pairs.count where pairs[index].isInUse && isCopying(index) {
            let percent = pairs[index].settings.copy.latencyTargetPercent
            guard let threshold = copyControl.threshold(percent: percent) else { continue }
            let floor = copyFloor(of: index)
            pairs[index].pace.regulate(
                count: copyControl.window.total,
                exceededCount: copyControl.window.count(above: threshold),
                floor: floor
            )
        }
        copyControl.closeWindow(at: now)
    }

    private var isMoving: Bool {
        for index in 0..<pairs.count where pairs[index].isInUse && isCopying(index) {
            if pairs[index].copiesInFlight > 0 || pairs[index].isCopyFlushInFlight { return true }
        }
        return false
    }

    // MARK: - Time

    /// `copyWakeAt` is reached.
    package mutating func wake() {
        copyWakeAt = Instant(nanoseconds: .max)
        // One that has nothing left was not put off, and ends when it is its time.
        for index in 0..<pairs.count where pairs[index].isInUse && !pairs[index].hasNothingToCopy { pumpCopies(index) }
        finishEvent()
    }

    /// Once per tick.
    mutating func tickMovers() {
        var mayCopy = false
        for index in 0..<pairs.count where mayCopyNow(index) { mayCopy = true }
        if !mayCopy, !isMoving { copyControl.rest(at: now) }
        for index in 0..<pairs.count where pairs[index].isInUse { pumpCopies(index) }
    }

    // MARK: - The operator's wishes

    /// Changes how a pair's mover gets along with hosts and other movers.
    package mutating func configureCopy(_ index: Int, _ settings: CopySettings) {
        invariant(pairs[index].isInUse, "a pair that is set up exists")
        pairs[index].settings.copy = settings
        pairs[index].awaitsOrder = settings.order > 0
        if settings.order == 0 { pairs[index].waitsFor = nil }
        pairs[index].pace.raise(toFloor: copyFloor(of: index))
        pairs[index].pace.runsFreely(at: now)
        pumpCopies(index)
        finishEvent()
    }

    /// Whether a pair copies, or would if no other came first.
    package func wantsToCopy(_ index: Int) -> Bool {
        pairs[index].isInUse && isCopying(index) && !pairs[index].settings.copy.isPaused
    }

    private func mayCopyNow(_ index: Int) -> Bool {
        wantsToCopy(index) && pairs[index].waitsFor == nil && !pairs[index].awaitsOrder
    }

    /// The order number of a pair that wants to copy; `nil` for others.
    package func copyOrder(_ index: Int) -> UInt16? { wantsToCopy(index) ? pairs[index].settings.copy.order : nil }

    /// The engine has decided who comes first: another pair, or nobody.
    package mutating func setOrder(_ index: Int, waitsFor other: PairID?) {
        guard pairs[index].isInUse, pairs[index].awaitsOrder || pairs[index].waitsFor != other else { return }
        pairs[index].awaitsOrder = false
        pairs[index].waitsFor = other
        guard other == nil else { return }
        pairs[index].pace.runsFreely(at: now)
        pumpCopies(index)
        finishEvent()
    }

    /// What an operator may want to know of a pair's mover; `nil` while it has nothing to do.
    package func copyStatus(_ index: Int) -> CopyControlStatus? {
        guard pairs[index].isInUse, isCopying(index) else { return nil }
        let pace = pairs[index].pace
        let isFresh = now.nanoseconds(since: pace.limitedAt) < 1_000_000_000 && pace.limitedAt.nanoseconds > 0
        var limit = isFresh ? pace.limit : .elements
        if pairs[index].waitsFor != nil { limit = .order }
        if pairs[index].settings.copy.isPaused { limit = .paused }
        return CopyControlStatus(
            limit: limit,
            waitsFor: limit == .order ? pairs[index].waitsFor : nil,
            allowedByteRate: byteRate(of: index),
            floorByteRate: copyFloor(of: index),
            undisturbedP99Nanoseconds: copyControl.undisturbedP99,
            p99Nanoseconds: copyControl.recent.total > 0 ? copyControl.recent.p99 : nil
        )
    }
}

/// What holds a mover back, and what it costs hosts.
package struct CopyControlStatus: Hashable, Sendable, BitwiseCopyable {
    package var limit: CopyLimit
    /// The pair that comes first.
    package var waitsFor: PairID?
    /// Bytes per second that the mover may begin; `nil` for as many as the elements take.
    package var allowedByteRate: UInt64?
    package var floorByteRate: UInt64
    /// p99 of the hosts' requests while nothing was in flight for a mover, and while something was; `nil` for too few.
    package var undisturbedP99Nanoseconds: UInt64?
    package var p99Nanoseconds: UInt64?

    package init(
        limit: CopyLimit,
        waitsFor: PairID?,
        allowedByteRate: UInt64?,
        floorByteRate: UInt64,
        undisturbedP99Nanoseconds: UInt64?,
        p99Nanoseconds: UInt64?
    ) {
        self.limit = limit
        self.waitsFor = waitsFor
        self.allowedByteRate = allowedByteRate
        self.floorByteRate = floorByteRate
        self.undisturbedP99Nanoseconds = undisturbedP99Nanoseconds
        self.p99Nanoseconds = p99Nanoseconds
    }
}
