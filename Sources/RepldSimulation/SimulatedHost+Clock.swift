internal import RepldEngine

/// What a host takes for the time, and time in which it gets no core.
extension SimulatedHost {
    /// What its clock shows now.
    package var clockReading: UInt64 { clock.reading(at: world.now) }

    /// Its clock is so many nanoseconds ahead of what it was a moment ago.
    package func leapClock(by nanoseconds: UInt64) { clock.leap(nanoseconds, at: world.now) }

    /// Its clock goes on at so many 1024ths of the world's.
    package func setClockRate(_ rate: UInt64) { clock.setRate(rate, at: world.now) }

    /// It is not up, and its clock will show this when it is; it starts again from there.
    package func resetClock(showing reading: UInt64) { clock.boot(showing: reading, at: world.now) }

    /// Its loop gets no core for so many nanoseconds of the world; its clock and its kernel go on.
    package func pause(for nanoseconds: UInt64) {
        pausedUntil = max(pausedUntil, world.now + nanoseconds)
    }
}
