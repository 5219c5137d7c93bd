internal import RepldCore

/// The metadata contexts of an export that a client can select.
///
/// - `base:allocation`: where the export has holes.
/// - `repld:dirty`: where the elements of any of its pairs may differ.
/// - `repld:dirty:NAME`: where those of the pair of that name may.
///
/// In a list, `base:`, `repld:` and `repld:dirty:` stand for all that begin so; a selection takes whole names only.
package struct NBDMetadataContexts: OptionSet, Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    package static let allocation = NBDMetadataContexts(rawValue: 1 << 0)
    package static let difference = NBDMetadataContexts(rawValue: 1 << 1)
    /// The differences of the pair at a place of the export's `NBDPairSet`.
    package static func difference(ofPair place: Int) -> NBDMetadataContexts {
        invariant(place >= 0 && place < NBDPairSet.limit, "a pair has one of the places")
        return NBDMetadataContexts(rawValue: 1 << UInt8(2 + place))
    }

    /// Every context has one bit.
    package static var limit: Int { 2 + NBDPairSet.limit }

    /// The contexts one by one, in the order of their numbers.
    package static func context(at index: Int) -> NBDMetadataContexts {
        invariant(index >= 0 && index < limit, "there are so many contexts")
        return NBDMetadataContexts(rawValue: 1 << UInt8(index))
    }

    package var count: Int { rawValue.nonzeroBitCount }

    /// The number that stands for a single context in a BLOCK_STATUS chunk; the client learns it when it selects it.
    package var id: UInt32 {
        invariant(count == 1, "a number stands for one context")
        return UInt32(rawValue.trailingZeroBitCount) + 1
    }

    /// The place of the pair that a single context is about; `nil` when it is not about one alone.
    package var place: Int? {
        let index = rawValue.trailingZeroBitCount
        return count == 1 && index >= 2 && index < Self.limit ? index - 2 : nil
    }

    package static let allocationName: StaticString = "base:allocation"
    package static let differenceName: StaticString = "repld:dirty"
    /// What stands before the pair's name in the name of its own context.
    package static let pairDifferencePrefix: StaticString = "repld:dirty:"
}

/// The pairs whose differences an export tells: for each of their places a number, or `noPair`.
///
/// While the export is served no number is used again, so that a client which has selected a pair is not told of another
/// one in its place.
package struct NBDPairSet: Hashable, Sendable, BitwiseCopyable {
    package static var limit: Int { 4 }
    package static var noPair: UInt32 { 0 }

    private var numbers = SIMD4<UInt32>()

    package init() {}

    package subscript(_ place: Int) -> UInt32 {
        get {
            invariant(place >= 0 && place < Self.limit, "a pair has one of the places")
            return numbers[place]
        }
        set {
            invariant(place >= 0 && place < Self.limit, "a pair has one of the places")
            numbers[place] = newValue
        }
    }

    package var isEmpty: Bool { self == NBDPairSet() }

    /// Whether `other` has every pair of this set, and at the same place.
    package func isSubset(of other: NBDPairSet) -> Bool {
        for place in 0..<Self.limit where self[place] != Self.noPair && self[place] != other[place] { return false }
        return true
    }
}

extension NBDExportDirectory where Self: ~Copyable {
    /// The contexts that a client of the export can select now.
    func contexts(ofExport index: Int) -> NBDMetadataContexts {
        let pairs = pairs(ofExport: index)
        var offered: NBDMetadataContexts = pairs.isEmpty ? .allocation : [.allocation, .difference]
        for place in 0..<NBDPairSet.limit where pairs[place] != NBDPairSet.noPair {
            let byteCount = pairName(ofExport: index, place: place).utf8.count
            if byteCount > 0 && byteCount <= NBDLimit.pairNameByteCount { offered.insert(.difference(ofPair: place)) }
        }
        return offered
    }

    /// The contexts that one query names; in a list it may name several by how they begin.
    func contexts(ofExport index: Int, named query: borrowing RawSpan, isListing: Bool) -> NBDMetadataContexts {
        let offered = contexts(ofExport: index)
        var matched: NBDMetadataContexts = []
        if query.holds(NBDMetadataContexts.allocationName, isWhole: true) { matched.insert(.allocation) }
        if query.holds(NBDMetadataContexts.differenceName, isWhole: true) { matched.insert(.difference) }
        if isListing && query.holds("base:", isWhole: true) { matched.insert(.allocation) }
        if isListing && query.holds("repld:", isWhole: true) { matched.formUnion(offered.subtracting(.allocation)) }
        let prefix = NBDMetadataContexts.pairDifferencePrefix
        if query.holds(prefix, isWhole: false) {
            let name = query.extracting(droppingFirst: prefix.utf8CodeUnitCount)
            for place in 0..<NBDPairSet.limit where offered.contains(.difference(ofPair: place)) {
                let isNamed = name.holds(pairName(ofExport: index, place: place))
                if isNamed || isListing && name.byteCount == 0 { matched.insert(.difference(ofPair: place)) }
            }
        }
        return matched.intersection(offered)
    }
}
