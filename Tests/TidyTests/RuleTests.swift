import Testing

/// Each rule, shown on a text that breaks it and on one that looks as if it did.
@Suite("The rules")
struct RuleTests {
    private static func source(_ text: String, at path: String = "Sources/RepldPair/Sample.swift") -> SourceText {
        SourceText(path: path, text: text)
    }

    // MARK: What is code

    @Test(
        "see code, and neither comments nor strings",
        arguments: [
            ("let a = 1 // try!", "let a = 1        "),
            ("a /* x /* y */ z */ b", "a                   b"),
            (#"f("try!")"#, #"f("    ")"#),
            (#"f("a\"b") + c"#, #"f("    ") + c"#),
            (##"f(#"a"b"#) + c"##, ##"f(#"   "#) + c"##),
            (#"f("x\(g(1)) y")"#, #"f(" \(g(1))  ")"#),
            (#"f("\(g("try!"))")"#, #"f("\(g("    "))")"#),
            ("a\n\"\"\"\nx \"y\" z\n\"\"\"\nb", "a\n\"\"\"\n       \n\"\"\"\nb"),
        ]
    )
    func blanking(text: String, code: String) {
        #expect(Self.source(text).codeLines.joined(separator: "\n") == code)
    }

    // MARK: Lengths

    private static func function(bodyLineCount: Int, head: String = "    func long() {") -> String {
        "struct A {\n\(head)\n" + String(repeating: "        step()\n", count: bodyLineCount) + "    }\n}\n"
    }

    @Test("let a function have 60 lines and not 61", arguments: [(58, 0), (59, 1)])
    func functionLength(bodyLineCount: Int, violationCount: Int) {
        let source = Self.source(Self.function(bodyLineCount: bodyLineCount))
        #expect(LengthRule(exceptions: [:]).violations(in: [source]).count == violationCount)
    }

    @Test(
        "measure whatever has a body that is run",
        arguments: [
            ("    package mutating func f(_ a: Int) -> Int {", "f"), ("    init?(_ text: String) {", "init"),
            ("    deinit {", "deinit"), ("    subscript(_ index: Int) -> Int {", "subscript"),
            ("    package var count: Int {", "count"), ("    @inlinable static func g<T>(_ t: T) {", "g"),
            ("    func f(\n        a: Int\n    ) throws(Failure) -> [Int: Int]\n    where T: A {", "f"),
            ("    package private(set) var x: Int {", "x"),
        ]
    )
    func functionHeads(head: String, name: String) {
        let source = Self.source(Self.function(bodyLineCount: 70, head: head))
        let functions = LengthRule.functions(in: source)
        #expect(functions.map(\.name) == [name])
        #expect(functions.first?.lineCount == 71 + head.split(separator: "\n").count)
        #expect(LengthRule(exceptions: [:]).violations(in: [source]).count == 1)
    }

    @Test("do not take a requirement of a protocol for a long function")
    func requirements() {
        let text =
            "protocol P {\n    func a(_ x: Int) -> Int\n    init()\n\n    func b()\n}\nstruct S {\n    let c = 1\n}\n"
        #expect(LengthRule.functions(in: Self.source(text)) == [])
    }

    @Test("let a file have 500 lines and not 501", arguments: [(500, 0), (501, 1)])
    func fileLength(lineCount: Int, violationCount: Int) {
        let source = Self.source(String(repeating: "let a = 1\n", count: lineCount))
        #expect(LengthRule(exceptions: [:]).violations(in: [source]).count == violationCount)
    }

    @Test("let a listed function be long, and want the list to be true")
    func exceptions() {
        let source = Self.source(Self.function(bodyLineCount: 70))
        let listed = LengthRule(exceptions: ["Sources/RepldPair/Sample.swift:long": "one table"])
        #expect(listed.violations(in: [source]) == [])
        let stale = LengthRule(exceptions: ["Sources/RepldPair/Sample.swift": "was long once"])
        #expect(stale.violations(in: [Self.source("let a = 1\n")]).count == 1)
        #expect(LengthRule.exceptions.values.allSatisfy { $0.count > 10 }, "each exception has its reason")
    }

    // MARK: Words

    @Test(
        "find a word where it does not belong",
        arguments: [
            ("let a = try! f()", "Sources/RepldControl/A.swift"), ("let a = b as! C", "Tests/XTests/A.swift"),
            ("fatalError(\"no\")", "Sources/RepldCore/Extent.swift"), ("print(a)", "Sources/RepldControl/A.swift"),
            ("Swift.print(a)", "Sources/RepldControl/A.swift"), ("    print(a)", "Tests/XTests/A.swift"),
            ("Task { await f() }", "Sources/RepldEngine/A.swift"), ("Task.detached {", "Sources/RepldUring/A.swift"),
            ("var a: Dictionary<Int, Int>", "Sources/RepldPair/A.swift"),
            ("var a: [UInt64: Pair] = [:]", "Sources/RepldPair/A.swift"),
            ("var a: [Int: [Int]]", "Sources/RepldFormat/A.swift"), ("var a: any P", "Sources/RepldFrontends/A.swift"),
            ("func f() throws(any Error) {", "Sources/RepldCore/A.swift"),
            ("precondition(a)", "Sources/RepldCore/A.swift"), ("assert(a)", "Sources/RepldPair/A.swift"),
            ("preconditionFailure()", "Sources/RepldCore/A.swift"),
            ("assertionFailure()", "Sources/RepldPair/A.swift"),
            ("try await Task.sleep(for: .seconds(1))", "Tests/XTests/A.swift"), ("usleep(1)", "Tests/XTests/A.swift"),
            ("nanosleep(&a, nil)", "Tests/XTests/A.swift"),
            ("run(\"sh\", \"-c\", \"sleep 1\")", "Tests/XTests/A.swift"),
            ("run(\"sleep\", \"1\")", "Tests/XTests/A.swift"), ("// TO" + "DO: later", "Sources/RepldControl/A.swift"),
            ("// FIX" + "ME", "Tests/XTests/A.swift"), ("f(\"\\(try! g())\")", "Sources/RepldControl/A.swift"),
        ]
    )
    func findsWord(text: String, path: String) {
        let violations = BannedWordRule.violations(in: Self.source(text, at: path))
        #expect(violations.count == 1, "\(text) in \(path)")
        #expect(violations.first?.line == 1)
    }

    @Test(
        "leave alone what only looks like it",
        arguments: [
            ("let a = try? f()", "Sources/RepldControl/A.swift"), ("// never try! this", "Sources/RepldCore/A.swift"),
            ("fatalError(\"no\")", "Sources/RepldCore/Invariant.swift"), ("print(a)", "Sources/replctl/A.swift"),
            ("sprint(a)", "Sources/RepldControl/A.swift"), ("printer.print(a)", "Sources/RepldControl/A.swift"),
            ("Task { await f() }", "Sources/RepldControl/A.swift"), ("let anyOf = many ", "Sources/RepldPair/A.swift"),
            ("var a: [Int: Int]", "Sources/RepldControl/A.swift"), ("f(a[b]: c)", "Sources/RepldPair/A.swift"),
            ("case .a: [First, Second]", "Sources/RepldPair/A.swift"),
            ("let a = isTrue ? [Left] : Right", "Sources/RepldPair/A.swift"),
            ("Thread.sleep(forTimeInterval: 1)", "Sources/RepldControl/A.swift"),
            ("let asleep = 1", "Tests/XTests/A.swift"), ("let word = \"try!\"", "Sources/RepldPair/A.swift"),
            ("let XX" + "XL = 1", "Sources/RepldPair/A.swift"),
            ("mkdtemp(\"a-XX" + "XXXX\")", "Tests/XTests/A.swift"),
        ]
    )
    func leavesWord(text: String, path: String) {
        #expect(BannedWordRule.violations(in: Self.source(text, at: path)) == [])
    }

    @Test("find a note to oneself in a file of another language")
    func notesElsewhere() {
        let lines = ["int a; /* all is well */", "# FIX" + "ME: not yet"]
        #expect(BannedWordRule.noteViolations(path: "CSupport/a.c", lines: lines).map(\.line) == [2])
    }

    // MARK: Imports

    @Test(
        "find an import that points up or out",
        arguments: [
            ("import RepldEngine", "Sources/RepldPair/A.swift"),
            ("package import RepldUring", "Sources/RepldEngine/A.swift"),
            ("import CLiburing", "Sources/RepldEngine/A.swift"),
            ("internal import CLiburing", "Sources/RepldControl/A.swift"),
            ("import Foundation", "Sources/RepldCore/A.swift"), ("import Foundation", "Sources/RepldUring/A.swift"),
            ("import Glibc", "Sources/RepldEngine/A.swift"),
            ("import struct Foundation.Data", "Sources/RepldPair/A.swift"),
            ("@preconcurrency import Foundation", "Sources/RepldFormat/A.swift"),
            ("import RepldPair", "Sources/RepldCore/A.swift"), ("import RepldEngine", "Sources/replctl/A.swift"),
            ("import Glibc", "Sources/RepldNew/A.swift"), ("import Foundation", "Sources/RepldEngine/Locked.swift"),
        ]
    )
    func findsImport(text: String, path: String) {
        #expect(ImportRule.violations(in: Self.source(text, at: path)).count == 1)
    }

    @Test(
        "leave alone an import that points down",
        arguments: [
            ("package import RepldCore", "Sources/RepldPair/A.swift"),
            ("import CLiburing", "Sources/RepldUring/A.swift"),
            ("import Logging", "Sources/RepldControl/A.swift"), ("import Glibc", "Sources/RepldEngine/Locked.swift"),
            ("// import Foundation", "Sources/RepldCore/A.swift"),
            ("import RepldUring", "Tests/RepldUringTests/A.swift"), ("let importer = 1", "Sources/RepldCore/A.swift"),
        ]
    )
    func leavesImport(text: String, path: String) {
        #expect(ImportRule.violations(in: Self.source(text, at: path)) == [])
    }

    @Test("hold the data path to a list of imports, every module of it")
    func dataPathIsListed() {
        for module in BannedWordRule.dataPath {
            let allowed = ImportRule.modules[module]
            #expect(allowed?.foreign?.contains("Foundation") == false, "\(module)")
        }
    }

    // MARK: The top of the tree

    @Test("find what does not belong at the top of the tree")
    func strayEntries() {
        let paths: Set<String> = ["Package.swift", ".ci/run", "Sources/A/B.swift", "notes.txt", "Docs/a.md"]
        #expect(Tree.strayEntries(among: paths) == ["Docs", "notes.txt"])
    }
}
