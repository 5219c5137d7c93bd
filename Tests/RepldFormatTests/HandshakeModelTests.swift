import RepldCore
import RepldFormat
import Testing

/// What decisions lead to, in pairs in miniature that do whatever may happen.
@Suite("Histories of two sides") struct HandshakeModelTests {
    private static let seeds: ClosedRange<UInt64> = 1...1500

    /// What is violated first, in walks of so many seeds; `nil` for nothing.
    private func walk(
        _ fault: HandshakeModel.Fault?,
        _ look: (HandshakeModel) -> Void = { _ in }
    ) -> HandshakeModel.Violation? {
        for seed in Self.seeds {
            var model = HandshakeModel(seed: seed, fault: fault)
            for _ in 0..<120 where !model.isStopped {
                do throws(HandshakeModel.Violation) { try model.step() } catch { return error }
            }
            look(model)
        }
        return nil
    }

    @Test("never end in step and unequal, nor lose what a host was told is written")
    func decisionsAreRight() {
        var decisions: [HandshakeDecision: Int] = [:]
        var disbeliefs = 0
        let violation = walk(nil) { model in
            decisions.merge(model.decisions) { $0 + $1 }
            disbeliefs += model.disbeliefs
        }
        #expect(violation == nil)
        let rules = [HandshakeRule.firstCopy, .olderReplica].map { HandshakeDecision.compareAll($0) }
        for decision in [.follow, .giveWay, .awaitPeer, .stop(.olderMetadata)] + rules {
            #expect(decisions[decision] ?? 0 > 20, "\(decision) is reached: \(decisions[decision] ?? 0)")
        }
        #expect(disbeliefs > 20, "former sources that are older than the parting: \(disbeliefs)")
    }

    @Test("end badly when any of the rules is not kept", arguments: HandshakeModel.Fault.allCases)
    func eachRuleIsNeeded(fault: HandshakeModel.Fault) {
        #expect(walk(fault) != nil, "the walks find nothing wrong without it")
    }
}
