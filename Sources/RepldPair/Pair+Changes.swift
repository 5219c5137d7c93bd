internal import RepldCore

/// Whose changes are asked about.
///
/// The sides are roles: where roles were reversed, the second element is the source. Once a copy has begun, what the target
/// had changed counts as the source's: it is to be overwritten with the rest.
package enum ChangedSide: UInt8, Sendable, BitwiseCopyable, CaseIterable { case source, target, both }

/// Where the two elements of a pair may differ: what a copy would look at, in whole granules, cut at the volume's end.
extension Pair {
    /// The first byte at or behind `offset` that may differ by what a side changed; `nil` when there is none.
    package func nextDifference(from offset: UInt64, by side: ChangedSide = .both) -> UInt64? {
        guard offset < dirty.volumeByteCount else { return nil }
        let shift = UInt64(dirty.granuleShift)
        let granule = offset >> shift
        let found: UInt64? =
            switch side {
            case .source: dirty.nextDirty(from: granule)
            case .target: targetChanged.nextDirty(from: granule)
            case .both:
                switch (dirty.nextDirty(from: granule), targetChanged.nextDirty(from: granule)) {
                case (let source?, let target?): min(source, target)
                case (let source, let target): source ?? target
                }
            }
        return found.map { max($0 << shift, offset) }
    }

    /// Up to where everything from `offset` on may differ, at most `end`; `offset` itself where that byte does not.
    package func endOfDifference(from offset: UInt64, upTo end: UInt64, by side: ChangedSide = .both) -> UInt64 {
        invariant(offset < end && end <= dirty.volumeByteCount, "a difference lies inside the volume")
        let shift = UInt64(dirty.granuleShift)
        let first = offset >> shift
        let limit = ((end - 1) >> shift) + 1
        let found =
            switch side {
            case .source: dirty.endOfRun(from: first, limit: limit, joining: dirty)
            case .target: targetChanged.endOfRun(from: first, limit: limit, joining: targetChanged)
            case .both: dirty.endOfRun(from: first, limit: limit, joining: targetChanged)
            }
        return found == first ? offset : min(found << shift, end)
    }
}
