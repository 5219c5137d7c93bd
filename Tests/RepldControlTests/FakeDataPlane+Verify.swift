import RepldCore
import RepldDataPlane
import RepldEngine
import RepldPair
import Synchronization

/// Verify, as far as the control plane can see it
extension FakeDataPlane {
    func beginVerify(of id: PairID, _ extent: Extent, _ state: inout State) -> EngineRefusal? {
        if let refusal = state.refusal {
            state.refusal = nil
            return refusal
        }
        guard let status = state.pairs[id]?.status else { return .noSuchPair }
        if status.verify != nil { return .verifyRefused(.alreadyRunning) }
        guard status.copyState == .synchronized else { return .verifyRefused(.state(status.copyState)) }
        var counts = VerifyCounts()
        counts.extent = extent
        state.pairs[id]?.status.verify = counts
        return nil
    }

    /// Moves the only pair's verify on.
    func progressVerify(_ change: (inout VerifyCounts) -> Void) {
        state.withLock { state in
            for id in state.pairs.keys {
                guard var counts = state.pairs[id]?.status.verify else { continue }
                change(&counts)
                state.pairs[id]?.status.verify = counts
            }
        }
    }

    /// The only pair's verify ends, having found `ranges`; false where none runs.
    @discardableResult
    func endVerify(_ failure: VerifyFailure? = nil, ranges: [Extent] = []) -> Bool {
        let event = state.withLock { state -> EngineEvent? in
            guard let id = state.pairs.keys.first, let pair = state.pairs[id], var counts = pair.status.verify else {
                return nil
            }
            counts.differentByteCount = ranges.reduce(0) { $0 + $1.length }
            if failure == nil { counts.doneByteCount = counts.extent.length }
            state.pairs[id]?.status.verify = nil
            state.pairs[id]?.status.facts.verifyMarkedByteCount += counts.differentByteCount
            let report = VerifyReport(counts: counts, ranges: ranges)
            return EngineEvent(volume: pair.opening.volume, pair: id, kind: .verifyEnded(report, failure))
        }
        if let event { continuation.yield(event) }
        return event != nil
    }
}
