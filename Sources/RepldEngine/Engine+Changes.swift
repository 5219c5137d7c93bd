internal import RepldCore
internal import RepldPair

/// What has changed since a pair's elements were equal.
extension Engine where P: ~Copyable {
    /// The next runs in which a pair's elements may differ.
    func changes(_ id: PairID, _ query: ChangesQuery) -> Result<PairChanges, EngineRefusal> {
        guard let (volume, pair) = findPair(id), volumes[volume].detachingPairs[pair] == nil else {
            return .failure(.noSuchPair)
        }
        let changes = volumes[volume].machine.withPair(pair) { $0.changes(query) }
        return changes.map { .success($0) } ?? .failure(.noSuchPair)
    }
}

extension Pair {
    /// One answer, within its limits.
    func changes(_ query: ChangesQuery) -> PairChanges {
        let byteCount = dirty.volumeByteCount
        let granule = dirty.granuleByteCount
        var changes = PairChanges(copyState: copyState, volumeByteCount: byteCount, granuleByteCount: granule)
        let runLimit = min(max(query.runLimit, 1), PairChanges.runLimit)
        var granulesLeft = PairChanges.granuleLimit
        var offset = query.offset
        while let start = nextDifference(from: offset, by: query.side) {
            guard changes.runs.count < runLimit, granulesLeft > 0 else {
                changes.nextOffset = start
                break
            }
            let furthest = granulesLeft * granule
            let limit = byteCount - start > furthest ? start / granule * granule + furthest : byteCount
            offset = endOfDifference(from: start, upTo: limit, by: query.side)
            invariant(offset > start, "a difference has a length")
            changes.runs.append(Extent(offset: start, length: offset - start))
            granulesLeft -= min(granulesLeft, (offset - 1) / granule - start / granule + 1)
        }
        return changes
    }
}
