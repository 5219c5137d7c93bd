package import RepldCore
package import RepldPair

/// What is asked about the changes of a pair.
package struct ChangesQuery: Hashable, Sendable, BitwiseCopyable {
    package var side: ChangedSide
    /// Where to begin, in bytes.
    package var offset: UInt64
    /// The most runs to answer with; no more than `PairChanges.runLimit` are.
    package var runLimit: Int

    package init(side: ChangedSide = .both, offset: UInt64 = 0, runLimit: Int = PairChanges.runLimit) {
        self.side = side
        self.offset = offset
        self.runLimit = runLimit
    }
}

/// Where the elements of a pair may differ, in disk order: one answer of several, each from a moment of its own.
package struct PairChanges: Hashable, Sendable {
    /// Runs in one answer, so that a question holds the loop up for a bounded time.
    package static var runLimit: Int { 1000 }
    /// Granules of runs in one answer: half a MiB of each map is read for them.
    package static var granuleLimit: UInt64 { 1 << 22 }

    package var copyState: CopyState
    package var volumeByteCount: UInt64
    package var granuleByteCount: UInt64
    /// Whole granules, but for the ends of the question and of the volume.
    package var runs: [Extent]
    /// Where to ask on: the end of this answer, where the next run begins; `nil` when there is none.
    ///
    /// A run that was cut by the limit goes on there.
    package var nextOffset: UInt64?

    package init(
        copyState: CopyState,
        volumeByteCount: UInt64,
        granuleByteCount: UInt64,
        runs: [Extent] = [],
        nextOffset: UInt64? = nil
    ) {
        self.copyState = copyState
        self.volumeByteCount = volumeByteCount
        self.granuleByteCount = granuleByteCount
        self.runs = runs
        self.nextOffset = nextOffset
    }
}
