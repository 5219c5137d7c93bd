import Foundation
import Testing

/// The rules of the house, checked on the tree as it is.
@Suite("The tree")
struct TreeTests {
    private static let tree = Tree.ofThisPackage()

    private static func words(_ violations: [Violation]) -> String {
        violations.map(\.description).joined(separator: "\n")
    }

    @Test("is the one that these rules are part of")
    func isFound() throws {
        let paths = try Self.tree.swiftSources().map(\.path)
        #expect(paths.contains("Package.swift"))
        #expect(paths.contains("Sources/RepldCore/Invariant.swift"))
        #expect(paths.contains("Tests/TidyTests/TreeTests.swift"))
        #expect(!paths.contains { $0.contains("/.build/") })
    }

    @Test("has short functions and short files")
    func lengths() throws {
        let violations = LengthRule().violations(in: try Self.tree.swiftSources())
        #expect(violations.isEmpty, "\(Self.words(violations))")
    }

    @Test("uses no word where it does not belong")
    func bannedWords() throws {
        let violations = try Self.tree.swiftSources().flatMap(BannedWordRule.violations)
        #expect(violations.isEmpty, "\(Self.words(violations))")
    }

    @Test("has no note to oneself in any other file of text")
    func notes() throws {
        let others = Self.tree.files().filter { !$0.hasSuffix(".swift") } + ["README.md", ".ci/run"]
        var violations: [Violation] = []
        for path in others {
            guard let text = try? Self.tree.text(of: path) else { continue }
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
            violations += BannedWordRule.noteViolations(path: path, lines: lines)
        }
        #expect(others.contains { $0.hasPrefix("CSupport/") })
        #expect(violations.isEmpty, "\(Self.words(violations))")
    }

    @Test("imports downwards only")
    func imports() throws {
        let violations = try Self.tree.swiftSources().flatMap(ImportRule.violations)
        #expect(violations.isEmpty, "\(Self.words(violations))")
    }

    @Test("has nothing at its top that does not belong there")
    func topLevel() throws {
        let paths = try Self.tree.gitFiles(includesUntracked: true)
        #expect(paths.contains("Package.swift"))
        #expect(Tree.strayEntries(among: paths) == [])
    }

    @Test("has no Swift file that git ignores, and in CI none that it does not track")
    func tracked() throws {
        let isCI = ProcessInfo.processInfo.environment["CI"] == "true"
        let known = try Self.tree.gitFiles(includesUntracked: !isCI)
        let unknown = Self.tree.files().filter { $0.hasSuffix(".swift") && !known.contains($0) }
        #expect(unknown == [], isCI ? "git does not track these" : "git ignores these")
    }
}
