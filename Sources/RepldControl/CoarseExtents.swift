package import RepldCore

/// Extents in so small a number that whoever is told of them can hold them.
package enum CoarseExtents {
    /// At most `limit` extents that cover all of these, in disk order; what lies between neighbours is taken in where the gap is
    /// smallest.
    ///
    /// The given ones are in disk order and do not overlap. To say too much is safe: it costs a comparison.
    package static func joined(_ extents: [Extent], limit: Int) -> [Extent] {
        invariant(limit > 0, "something is left of what is joined")
        guard extents.count > limit else { return extents }
        let gaps = zip(extents, extents.dropFirst()).map { $1.offset - $0.end }
        // Of equal gaps the first are closed.
        let order = gaps.indices.sorted { (gaps[$0], $0) < (gaps[$1], $1) }
        let closed = Set(order.prefix(extents.count - limit))
        var found: [Extent] = []
        for (index, extent) in extents.enumerated() {
            if index > 0, closed.contains(index - 1), let last = found.popLast() {
                found.append(Extent(offset: last.offset, length: extent.end - last.offset))
            } else {
                found.append(extent)
            }
        }
        return found
    }
}
