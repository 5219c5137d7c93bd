/// How often each decision of the handshake was made since the daemon began: a row for each decision and reason, and two for whether
/// a former source was believed.
package struct HandshakeCounts: Sendable {
    private var counts = [UInt64](repeating: 0, count: rowNames.count)
    /// All together.
    package private(set) var total: UInt64 = 0

    /// Every row, named as the code names the decision.
    package static var rowNames: [String] {
        var names = ["follow"]
        names += HandshakeRule.allCases.map { "compare all, \($0)" }
        names += ["give way", "await the peer"]
        names += HandshakeConflict.allCases.map { "stop, \($0)" }
        return names + ["former source believed", "former source not believed"]
    }

    package init() {}

    package subscript(row: Int) -> UInt64 { counts[row] }

    package mutating func count(_ decision: HandshakeDecision) {
        let ruleCount = HandshakeRule.allCases.count
        switch decision {
        case .follow: count(row: 0)
        case .compareAll(let rule): count(row: 1 + Int(rule.rawValue))
        case .giveWay: count(row: 1 + ruleCount)
        case .awaitPeer: count(row: 2 + ruleCount)
        case .stop(let conflict): count(row: 3 + ruleCount + Int(conflict.rawValue))
        }
    }

    package mutating func count(isBelieved: Bool) { count(row: counts.count - (isBelieved ? 2 : 1)) }

    private mutating func count(row: Int) {
        counts[row] += 1
        total += 1
    }
}
