import RepldTestSupport

/// What clients of a database were told of their transactions, in the order in which they asked and were answered.
///
/// A transaction that was acknowledged before another one began is before it in the order of commits. Two that overlapped may have
/// been committed either way.
struct CommitJournal {
    enum Entry: Hashable {
        case begun(Int)
        case acknowledged(Int)
    }

    let entries: [Entry]

    /// How many transactions were acknowledged.
    var acknowledgedCount: Int {
        entries.count { if case .acknowledged = $0 { true } else { false } }
    }

    /// Reads the lines that `Clients/transactions.py` writes.
    init(_ text: String) throws {
        entries = try text.split(separator: "\n").map { line in
            let words = line.split(separator: " ")
            guard words.count == 2, let number = Int(words[1]) else {
                throw Outcome.Failed(description: "a journal has no line '\(line)'")
            }
            switch words[0] {
            case "begun": return .begun(number)
            case "acknowledged": return .acknowledged(number)
            default: throw Outcome.Failed(description: "a journal has no line '\(line)'")
            }
        }
    }

    /// The acknowledged transactions that a database does not have, in the order in which they were acknowledged.
    func missing(in survivors: Set<Int>) -> [Int] {
        entries.compactMap { entry in
            guard case .acknowledged(let number) = entry, !survivors.contains(number) else { return nil }
            return number
        }
    }

    /// Why the transactions of a database are no prefix of those that were committed; nothing when they are one.
    func holes(in survivors: Set<Int>) -> [String] {
        var findings: [String] = []
        var begun: Set<Int> = []
        var firstMissing: Int?
        for entry in entries {
            switch entry {
            case .begun(let number):
                begun.insert(number)
                if let firstMissing, survivors.contains(number) {
                    findings.append(
                        "\(number) is there, and \(firstMissing) is not, which was acknowledged before it began"
                    )
                }
            case .acknowledged(let number):
                if firstMissing == nil && !survivors.contains(number) { firstMissing = number }
            }
        }
        return findings + survivors.subtracting(begun).sorted().map { "\($0) is there, and was never begun" }
    }
}
