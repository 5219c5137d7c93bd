package import RepldControlAPI

/// Where the elements of a pair may differ, asked for answer by answer, so that no list of it all is held in memory.
package struct ChangedRuns: Sendable {
    /// What a listing came to.
    package struct Summary: Hashable, Sendable {
        package var runCount: UInt64 = 0
        /// The sum of the runs that were handed on.
        package var byteCount: UInt64 = 0
        /// There are more than were wanted.
        package var hasMore = false
    }

    let client: ControlClient
    let path: String
    let limit: UInt64?

    /// Up to `limit` runs of the pair at `pairPath`, which is `/v1/pairs/NAME`; all without one.
    package init(_ client: ControlClient, pairPath: String, side: String, limit: UInt64? = nil) {
        self.client = client
        self.path = "\(pairPath)/changes?side=\(side)"
        self.limit = limit
    }

    /// Hands on the first answer, for what it says of the pair, and then each run, as soon as it is whole.
    package func forEach(
        _ begin: (PairChangesReply) throws -> Void,
        _ onRun: (ChangedRun) throws -> Void
    ) async throws -> Summary {
        var summary = Summary()
        // The answer's limit may have cut a run in two: what follows it without a gap belongs to it.
        var open: ChangedRun?
        var offset: UInt64? = 0
        while let from = offset {
            let reply: PairChangesReply = try await client.call(.get, "\(path)&from=\(from)")
            if from == 0 { try begin(reply) }
            for run in reply.runs {
                if let last = open, last.end == run.offset {
                    open = ChangedRun(offset: last.offset, length: last.length + run.length)
                    continue
                }
                if let last = open {
                    try onRun(last)
                    summary.add(last)
                }
                guard summary.runCount < limit ?? .max else {
                    summary.hasMore = true
                    return summary
                }
                open = run
            }
            // An answer that goes back would be asked for ever.
            offset = reply.nextOffset.flatMap { $0 > from ? $0 : nil }
        }
        if let last = open {
            try onRun(last)
            summary.add(last)
        }
        return summary
    }
}

extension ChangedRuns.Summary {
    fileprivate mutating func add(_ run: ChangedRun) {
        runCount += 1
        byteCount += run.length
    }
}
