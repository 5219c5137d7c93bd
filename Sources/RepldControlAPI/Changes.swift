/// Where the elements of a pair may differ, from an offset on: `GET /v1/pairs/{name}/changes?from=…&limit=…&side=…`.
///
/// The side is `source`, `target` or `both` (the default): whose changes. One answer has at most `runLimit` runs, in disk
/// order; `nextOffset` is the `from` of the next question. Each answer is of a moment of its own.
package struct PairChangesReply: Codable, Hashable, Sendable {
    /// The most runs in one answer.
    package static var runLimit: Int { 1000 }

    package var name: String
    package var side: String
    package var copyState: Enumerated
    /// Size of the volume.
    package var byteCount: UInt64
    /// Differences are remembered in whole granules of this size.
    package var granuleByteCount: UInt64
    package var runs: [ChangedRun]
    /// The sum of the runs here.
    package var changedByteCount: UInt64
    /// Where the next run begins, or one that was cut goes on; absent when there is none.
    package var nextOffset: UInt64?

    package init(
        name: String,
        side: String,
        copyState: Enumerated,
        byteCount: UInt64,
        granuleByteCount: UInt64,
        runs: [ChangedRun],
        nextOffset: UInt64?
    ) {
        self.name = name
        self.side = side
        self.copyState = copyState
        self.byteCount = byteCount
        self.granuleByteCount = granuleByteCount
        self.runs = runs
        self.changedByteCount = runs.reduce(0) { $0 + $1.length }
        self.nextOffset = nextOffset
    }
}

/// Bytes that follow each other and may all differ.
package struct ChangedRun: Codable, Hashable, Sendable {
    package var offset: UInt64
    package var length: UInt64

    package init(offset: UInt64, length: UInt64) {
        self.offset = offset
        self.length = length
    }

    package var end: UInt64 { offset + length }
}
