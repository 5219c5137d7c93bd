/// Words that do not belong where they stand, each with what to write instead.
struct BannedWordRule {
    /// Modules in which a request is on its way: no task, no hashed container, no box.
    static let dataPath: Set<String> = [
        "RepldCore", "RepldFormat", "RepldWire", "RepldPair", "RepldFrontends", "RepldEngine", "RepldUring",
    ]
    static let executables: Set<String> = ["repld", "replctl", "repld-simulate"]

    struct Word: Sendable {
        let spelling: String
        let replacement: String
        /// Whether a member of that name, `something.word`, is meant too.
        var includesMembers = true
        let applies: @Sendable (SourceText) -> Bool
    }

    static let words: [Word] = everywhere + inDataPath + inTests

    private static let everywhere: [Word] = [
        Word(spelling: "try!", replacement: "handle the error, or say with invariant() why it cannot be") { _ in true },
        Word(spelling: "as!", replacement: "use as? and say what to do otherwise, or a type that fits") { _ in true },
        Word(spelling: "fatalError(", replacement: "use invariant() or invariantFailed()") {
            $0.path != "Sources/RepldCore/Invariant.swift"
        },
        Word(
            spelling: "print(",
            replacement: "log, or return the text to the executable",
            includesMembers: false,
            applies: isOutsideExecutables
        ),
        Word(
            spelling: "Swift.print(",
            replacement: "log, or return the text to the executable",
            applies: isOutsideExecutables
        ),
    ]

    private static let inDataPath: [Word] = [
        Word(spelling: "Task {", replacement: "return an effect", applies: isDataPath),
        Word(spelling: "Task.detached", replacement: "return an effect", applies: isDataPath),
        Word(spelling: "Dictionary", replacement: "use a FixedArray or a SlotTable", applies: isDataPath),
        Word(spelling: "any ", replacement: "use a generic parameter or an enum", applies: isDataPath),
        Word(spelling: "precondition(", replacement: "use invariant(), which keeps its words", applies: isDataPath),
        Word(spelling: "preconditionFailure(", replacement: "use invariantFailed()", applies: isDataPath),
        Word(spelling: "assert(", replacement: "use invariant(), which stays in release", applies: isDataPath),
        Word(spelling: "assertionFailure(", replacement: "use invariantFailed()", applies: isDataPath),
    ]

    private static let inTests: [Word] = ["sleep(", "usleep(", "nanosleep(", "sleepForTimeInterval("].map { spelling in
        Word(spelling: spelling, replacement: "wait for the event itself, with a deadline") { $0.isTest }
    }

    @Sendable private static func isDataPath(_ source: SourceText) -> Bool {
        source.module.map(dataPath.contains) ?? false
    }

    @Sendable private static func isOutsideExecutables(_ source: SourceText) -> Bool {
        guard let module = source.module else { return source.isTest }
        return !executables.contains(module)
    }

    /// Notes to oneself, spelled apart so that this file may be read by its own rule.
    static let notes = ["TO" + "DO", "FIX" + "ME", "X" + "XX"]

    static func violations(in source: SourceText) -> [Violation] {
        var found: [Violation] = []
        let words = words.filter { $0.applies(source) }
        for (index, line) in source.codeLines.enumerated() {
            for word in words where contains(line, word.spelling, includesMembers: word.includesMembers) {
                let text = "\(word.spelling) is not used here: \(word.replacement)"
                found.append(Violation(path: source.path, line: index + 1, words: text))
            }
            if isDataPath(source), hasDictionaryType(line) {
                let text = "a dictionary is not used here: use a FixedArray or a SlotTable"
                found.append(Violation(path: source.path, line: index + 1, words: text))
            }
        }
        return found + noteViolations(path: source.path, lines: source.rawLines) + shellSleeps(in: source)
    }

    /// Notes to oneself, in any file of text.
    static func noteViolations(path: String, lines: [String]) -> [Violation] {
        lines.enumerated().flatMap { index, line in
            notes.filter { containsWholeWord(line, $0) }.map {
                Violation(path: path, line: index + 1, words: "\($0): do it now, or write an issue")
            }
        }
    }

    /// A shell's sleep in a command that a test runs.
    static func shellSleeps(in source: SourceText) -> [Violation] {
        guard source.isTest, !source.path.hasPrefix("Tests/TidyTests/") else { return [] }
        return source.rawLines.enumerated().compactMap { index, line in
            guard line.contains(/\bsleep [0-9.$]/) || line.contains("\"sleep\"") else { return nil }
            let words = "sleep is not used in tests: wait for the event itself, with a deadline"
            return Violation(path: source.path, line: index + 1, words: words)
        }
    }

    /// Whether a type `[Key: Value]` is spelled out on the line.
    static func hasDictionaryType(_ line: String) -> Bool {
        line.contains("[") && line.contains(/\[\s*[A-Z][A-Za-z0-9_.<>]*\s*:\s*[\[(A-Z]/)
    }

    /// Whether `word` stands on the line as a word of its own.
    static func contains(_ line: String, _ word: String, includesMembers: Bool) -> Bool {
        for range in line.ranges(of: word) {
            guard range.lowerBound > line.startIndex else { return true }
            let before = line[line.index(before: range.lowerBound)]
            let isMember = before == "." && !line[..<range.lowerBound].hasSuffix("..")
            if before.isLetter || before.isNumber || before == "_" || before == "`" { continue }
            if isMember && !includesMembers { continue }
            return true
        }
        return false
    }

    private static func containsWholeWord(_ line: String, _ word: String) -> Bool {
        line.split { !($0.isLetter || $0.isNumber || $0 == "_") }.contains { $0 == word }
    }
}
