package import RepldCore
package import RepldPair

/// What a verify has found, when it has ended.
package struct VerifyReport: Hashable, Sendable {
    package var counts: VerifyCounts
    /// The ranges that differ, in disk order; those that touch are one.
    package var ranges: [Extent]

    package init(counts: VerifyCounts = VerifyCounts(), ranges: [Extent] = []) {
        self.counts = counts
        self.ranges = ranges
    }
}

/// The online verify of a pair.
extension Engine where P: ~Copyable {
    mutating func beginVerify(_ id: PairID, _ extent: Extent?) -> Result<Void, EngineRefusal> {
        guard let (volume, pair) = findPair(id) else { return .failure(.noSuchPair) }
        let refusal = volumes[volume].machine.beginVerify(pair, extent)
        carryOut(volume)
        return refusal.map { .failure(.verifyRefused($0)) } ?? .success(())
    }

    mutating func cancelVerify(_ id: PairID) -> Result<Void, EngineRefusal> {
        guard let (volume, pair) = findPair(id) else { return .failure(.noSuchPair) }
        let isCancelled = volumes[volume].machine.cancelVerify(pair)
        carryOut(volume)
        return isCancelled ? .success(()) : .failure(.noVerifyRunning)
    }

    /// What the verify of a pair has come to; of a pair that is gone nothing is known.
    func verifyReport(_ id: PairID, volume: Int) -> VerifyReport {
        guard let pair = volumes[volume].machine.pairIndex(id) else { return VerifyReport() }
        var report = VerifyReport(counts: volumes[volume].machine.verifyCounts(pair))
        volumes[volume].machine.forEachVerifiedRange(pair) { report.ranges.append($0) }
        return report
    }
}
