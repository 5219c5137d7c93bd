/// A moment of a platform's monotonic clock, in nanoseconds from a start of its own.
///
/// Never wall-clock time.
@usableFromInline
package struct Instant: Hashable, Comparable, Sendable, BitwiseCopyable {
    @usableFromInline
    package var nanoseconds: UInt64

    @inlinable
    package init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    @inlinable
    package static func < (left: Instant, right: Instant) -> Bool { left.nanoseconds < right.nanoseconds }

    /// The moment `nanoseconds` later; the end of time stays the end of time.
    @inlinable
    package func advanced(byNanoseconds nanoseconds: UInt64) -> Instant {
        let (sum, overflow) = self.nanoseconds.addingReportingOverflow(nanoseconds)
        return Instant(nanoseconds: overflow ? .max : sum)
    }

    /// Nanoseconds since `earlier`, and 0 when that is not earlier.
    @inlinable
    package func nanoseconds(since earlier: Instant) -> UInt64 {
        nanoseconds > earlier.nanoseconds ? nanoseconds &- earlier.nanoseconds : 0
    }
}
