/// A small repeatable random generator (SplitMix64; Steele, Lea, Flood, OOPSLA 2014): same seed, same numbers, on any machine.
///
/// For simulation, tests and jitter. Not for secrets.
package struct RandomSource: RandomNumberGenerator, Sendable, BitwiseCopyable {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
        return value ^ (value >> 31)
    }

    /// A number in `0..<bound`, without the bias of a plain remainder being of any consequence here.
    package mutating func below(_ bound: UInt64) -> UInt64 {
        invariant(bound > 0, "a random number needs a range")
        return next().multipliedFullWidth(by: bound).high
    }

    /// True once in `oneIn` on average; never when `oneIn` is 0.
    package mutating func chance(oneIn: UInt64) -> Bool {
        oneIn > 0 && below(oneIn) == 0
    }
}
