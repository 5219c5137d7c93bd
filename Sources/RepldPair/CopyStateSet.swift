/// A set of copy states, as a word of bits: cheap enough for the machines, and in the order of the standard's numbers.
package struct CopyStateSet: Hashable, Sendable, BitwiseCopyable, ExpressibleByArrayLiteral {
    private var bits: UInt32

    package init(arrayLiteral states: CopyState...) {
        bits = 0
        for state in states { bits |= 1 << UInt32(state.rawValue) }
    }

    package static var none: CopyStateSet { [] }
    /// Every state that a pair, and not only a group, can have.
    package static var all: CopyStateSet {
        var all: CopyStateSet = []
        for state in CopyState.allCases where state != .mixed { all.bits |= 1 << UInt32(state.rawValue) }
        return all
    }

    package var isEmpty: Bool { bits == 0 }

    package func contains(_ state: CopyState) -> Bool { bits & (1 << UInt32(state.rawValue)) != 0 }

    package func union(_ other: CopyStateSet) -> CopyStateSet {
        var result = self
        result.bits |= other.bits
        return result
    }

    /// The states in the order of their numbers.
    package var states: [CopyState] { CopyState.allCases.filter { contains($0) } }
}
