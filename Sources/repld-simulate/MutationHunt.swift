import ArgumentParser
import Foundation
import RepldCore
import RepldSimulation

/// Lets the engine make each known mistake, one after the other, and sees whether the simulator finds it with the seeds that are
/// stated for it.
struct MutationHunt {
    let jobs: Int

    /// What was found of one mutation.
    struct Finding: Sendable {
        var mutation: Mutation
        /// Seeds that were run, the one that found it included.
        var seedCount = 0
        /// What found it; `nil` when nothing did.
        var words: String?
        /// What is wrong besides.
        var trouble: String?
    }

    /// The table of what can be looked for.
    static func list() {
        print(row("mutation", "rule", "kind", "seeds"))
        for mutation in Mutation.allCases { print(row(of: mutation, "\(mutation.seedBudget)")) }
    }

    private static func row(of mutation: Mutation, _ seeds: String) -> String {
        row(mutation.rawValue, "\(mutation.rule)", mutation.kind.rawValue, seeds)
    }

    private static func row(_ name: String, _ rule: String, _ kind: String, _ seeds: String) -> String {
        func padded(_ text: String, _ width: Int) -> String {
            text + String(repeating: " ", count: max(0, width - text.count))
        }
        return padded(name, 26) + padded(rule, 6) + padded(kind, 7) + padded(seeds, 10)
    }

    /// Prints the table of what was found; fails when a mutation was not.
    func run() throws {
        let findings = FindingList()
        let queue = OperationQueue()
        queue.maxConcurrentOperationCount = jobs
        // The long ones first, so that no core waits for the others in the end.
        for mutation in Mutation.allCases.sorted(by: { $0.seedBudget > $1.seedBudget }) {
            queue.addOperation { findings.add(Self.find(mutation)) }
        }
        queue.waitUntilAllOperationsAreFinished()
        let all = Mutation.allCases.compactMap { mutation in findings.all.first { $0.mutation == mutation } }
        print(Self.row("mutation", "rule", "kind", "seeds") + "found by")
        for finding in all {
            let seeds = "\(finding.seedCount)/\(finding.mutation.seedBudget)"
            print(Self.row(of: finding.mutation, seeds) + (finding.words ?? "NOT FOUND \(finding.trouble ?? "")"))
        }
        let missed = all.filter { $0.words == nil }
        print("\(all.count - missed.count) of \(Mutation.allCases.count) mutations found")
        guard all.count == Mutation.allCases.count, missed.isEmpty else { throw ExitCode(1) }
    }

    private static func find(_ mutation: Mutation) -> Finding {
        var finding = Finding(mutation: mutation)
        do {
            let child = try ChildRun([
                "--seeds", "1..\(mutation.seedBudget)", "--jobs", "1", "--kind", mutation.kind.rawValue, "--mutation",
                mutation.rawValue, "--until-failure",
            ])
            finding.seedCount = child.lines(beginningWith: "seed").count
            // Another death may have nothing to do with what was looked for.
            finding.words = child.brokenInvariant ?? child.lines(beginningWith: "failed").first
            if child.isDead || child.status > 1 { finding.trouble = child.complaint }
        } catch {
            finding.trouble = "\(error)"
        }
        return finding
    }
}

/// Collects what was found; each search is a thread.
private final class FindingList: @unchecked Sendable {
    private let lock = NSLock()
    private var findings: [MutationHunt.Finding] = []

    var all: [MutationHunt.Finding] { lock.withLock { findings } }

    func add(_ finding: MutationHunt.Finding) { lock.withLock { findings.append(finding) } }
}
