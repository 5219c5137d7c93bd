/// The monotonic clock of one host: what its engine takes for the time, against the time of the world.
///
/// - It shows any number when a host boots, and goes at a rate of its own from there on.
/// - It may leap forward while the host is up, as that of a virtual machine does which was paused.
/// - It never goes back while the host is up: `CLOCK_MONOTONIC`, which the engine reads, does not, whatever sets the time of day.
///   After a loss of power it may show less than before; so nothing that it showed means anything to the next daemon.
struct SimulatedClock {
    /// A rate of so many is the world's own.
    static var unit: UInt64 { 1024 }

    private var shown: UInt64 = 0
    private var since: UInt64 = 0
    private(set) var rate = unit

    /// What it shows at a moment of the world.
    func reading(at moment: UInt64) -> UInt64 {
        let passed = moment - since
        return shown + (rate == Self.unit ? passed : passed * rate / Self.unit)
    }

    /// The first moment of the world at which it shows `reading`, or one that has passed.
    func moment(of reading: UInt64) -> UInt64 {
        guard reading > shown else { return since }
        let (scaled, overflow) = (reading - shown).multipliedReportingOverflow(by: Self.unit)
        if overflow { return .max }
        let (moment, isNever) = since.addingReportingOverflow((scaled + rate - 1) / rate)
        return isNever ? .max : moment
    }

    /// Goes on from what it shows, at another rate.
    mutating func setRate(_ rate: UInt64, at moment: UInt64) {
        self = SimulatedClock(shown: reading(at: moment), since: moment, rate: rate)
    }

    mutating func leap(_ nanoseconds: UInt64, at moment: UInt64) {
        self = SimulatedClock(shown: reading(at: moment) + nanoseconds, since: moment, rate: rate)
    }

    /// Begins anew.
    mutating func boot(showing reading: UInt64, at moment: UInt64) {
        self = SimulatedClock(shown: reading, since: moment, rate: rate)
    }

    init() {}

    private init(shown: UInt64, since: UInt64, rate: UInt64) {
        (self.shown, self.since, self.rate) = (shown, since, rate)
    }
}
