internal import RepldCore

/// How long requests took: counts in buckets that are log-spaced, 16 to an octave, from 256 ns to more than a quarter of an hour.
///
/// A value is known to 6 %; below 4 us to 256 ns. Allocates nothing after it was made.
struct LatencyHistogram: ~Copyable {
    /// Values of fewer units are buckets of their own; from here on each octave has as many.
    private static var stepsPerOctave: UInt64 { 16 }
    private static var stepShift: UInt64 { 4 }
    private static var unitShift: UInt64 { 8 }
    private static var largestUnitCount: UInt64 { 1 << 32 - 1 }
    static var bucketCount: Int { 464 }

    private var counts = FixedArray<UInt32>(repeating: 0, count: Self.bucketCount)
    private(set) var total = 0

    @inline(__always)
    static func bucket(of nanoseconds: UInt64) -> Int {
        let units = min(nanoseconds &>> unitShift, largestUnitCount)
        guard units >= stepsPerOctave else { return Int(units) }
        let exponent = UInt64(63 - units.leadingZeroBitCount)
        let step = (units &>> (exponent &- stepShift)) & (stepsPerOctave &- 1)
        return Int((exponent &- stepShift &+ 1) &* stepsPerOctave &+ step)
    }

    /// The least value of a bucket.
    static func lowerBound(of bucket: Int) -> UInt64 {
        let number = UInt64(bucket)
        guard number >= stepsPerOctave else { return number << unitShift }
        let octave = number / stepsPerOctave - 1
        return (stepsPerOctave + number % stepsPerOctave) << (octave + unitShift)
    }

    @inline(__always)
    mutating func add(_ nanoseconds: UInt64) {
        counts[Self.bucket(of: nanoseconds)] &+= 1
        total &+= 1
    }

    /// The latency that 99 of 100 requests stay under; `nil` without any.
    var p99: UInt64? {
        guard total > 0 else { return nil }
        // How many lie above it, in hundredths of a request: exact without floating point.
        var above = 0
        for bucket in stride(from: Self.bucketCount - 1, through: 0, by: -1) where counts[bucket] > 0 {
            let count = Int(counts[bucket])
            if (above + count) * 100 > total {
                let inside = UInt64(above + count) - UInt64(total) / 100
                let low = Self.lowerBound(of: bucket)
                let width = Self.lowerBound(of: bucket + 1) - low
                return low + width * min(inside, UInt64(count)) / UInt64(count)
            }
            above += count
        }
        return 0
    }

    /// How many requests took longer; a bucket that the limit lies in counts by its share.
    func count(above nanoseconds: UInt64) -> Int {
        let limit = Self.bucket(of: nanoseconds)
        var found = 0
        for bucket in limit + 1..<max(limit + 1, Self.bucketCount) { found += Int(counts[bucket]) }
        let low = Self.lowerBound(of: limit)
        let width = Self.lowerBound(of: limit + 1) - low
        let upper = width - min(width, nanoseconds - min(nanoseconds, low))
        return found + Int(UInt64(counts[limit]) * upper / width)
    }

    /// Lets what was counted so far weigh half as much.
    mutating func halve() {
        total = 0
        for bucket in 0..<Self.bucketCount {
            counts[bucket] /= 2
            total += Int(counts[bucket])
        }
    }

    mutating func add(_ other: borrowing LatencyHistogram) {
        for bucket in 0..<Self.bucketCount { counts[bucket] &+= other.counts[bucket] }
        total += other.total
    }

    mutating func removeAll() {
        guard total > 0 else { return }
        for bucket in 0..<Self.bucketCount { counts[bucket] = 0 }
        total = 0
    }
}
