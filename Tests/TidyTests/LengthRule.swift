/// No function is longer than 60 lines and no file longer than 500, unless it is listed here with a reason.
struct LengthRule {
    static let functionLineCountMax = 60
    static let fileLineCountMax = 500

    /// `path` of a file, or `path:function`, and why it may be longer.
    static let exceptions: [String: String] = [
        "Sources/RepldUring/UringPlatform.swift:init":
            "a noncopyable type gives all its fields a value in one place, and half of the steps can fail"
    ]

    var exceptions = LengthRule.exceptions

    /// One declaration with a body.
    struct Function: Equatable {
        var name: String
        var firstLine: Int
        var lastLine: Int
        var lineCount: Int { lastLine - firstLine + 1 }
    }

    func violations(in sources: [SourceText]) -> [Violation] {
        var found: [Violation] = []
        var unused = Set(exceptions.keys)
        for source in sources {
            if source.lineCount > Self.fileLineCountMax, unused.remove(source.path) == nil {
                let words = "\(source.lineCount) lines: split the file, or list it in LengthRule with a reason"
                found.append(Violation(path: source.path, line: 0, words: words))
            }
            for function in Self.functions(in: source) where function.lineCount > Self.functionLineCountMax {
                guard unused.remove("\(source.path):\(function.name)") == nil else { continue }
                let words = "\(function.name) has \(function.lineCount) lines: split it, or list it in LengthRule"
                found.append(Violation(path: source.path, line: function.firstLine, words: words))
            }
        }
        for key in unused.sorted() {
            found.append(Violation(path: key, line: 0, words: "is listed in LengthRule and is not too long (any more)"))
        }
        return found
    }

    /// Every function, initializer, subscript and computed property that has a body of its own.
    static func functions(in source: SourceText) -> [Function] {
        var walk = BraceWalk(lines: source.codeLines)
        return source.codeLines.indices.compactMap { line in
            guard let name = declaredName(in: source.codeLines[line]) else { return nil }
            guard let last = walk.lastLine(ofBodyDeclaredAt: line) else { return nil }
            return Function(name: name, firstLine: line + 1, lastLine: last + 1)
        }
    }

    /// The name that a line declares, when it is the beginning of something with a body that is run.
    static func declaredName(in line: String) -> String? {
        let words = line.split { $0 == " " || $0 == "(" || $0 == "<" || $0 == ":" || $0 == "{" || $0 == "?" }
        for (index, word) in words.enumerated() {
            switch word {
            case "func": return index + 1 < words.count ? String(words[index + 1]) : nil
            case "init", "deinit", "subscript": return String(word)
            case "var":
                let opens = line.last == "{" && !line.contains(" = ")
                return opens && index + 1 < words.count ? String(words[index + 1]) : nil
            default:
                guard word.hasPrefix("@") || modifiers.contains(String(word)) else { return nil }
            }
        }
        return nil
    }

    private static let modifiers: Set<String> = [
        "public", "package", "internal", "fileprivate", "private", "static", "class", "final", "override", "mutating",
        "nonmutating", "consuming", "borrowing", "nonisolated", "isolated", "convenience", "required", "lazy",
        "package(set)", "set)", "unsafe)", "private(set)", "internal(set)", "async", "distributed", "indirect",
    ]
}

/// Finds where the body of a declaration ends, in code whose strings and comments are blanked.
struct BraceWalk {
    let lines: [[UInt8]]

    init(lines: [String]) { self.lines = lines.map { Array($0.utf8) } }

    /// The line of the closing brace; `nil` when the declaration has no body, as in a protocol.
    mutating func lastLine(ofBodyDeclaredAt first: Int) -> Int? {
        var braces = 0
        var brackets = 0
        for line in first..<lines.count {
            if line > first && braces == 0 && brackets == 0 && !continues(at: line) { return nil }
            for byte in lines[line] {
                switch byte {
                case UInt8(ascii: "("), UInt8(ascii: "["): brackets += 1
                case UInt8(ascii: ")"), UInt8(ascii: "]"): brackets -= 1
                case UInt8(ascii: "{") where brackets == 0: braces += 1
                case UInt8(ascii: "}") where brackets == 0:
                    braces -= 1
                    if braces == 0 { return line }
                    if braces < 0 { return nil }
                default: break
                }
            }
        }
        return nil
    }

    /// Whether a line goes on with the signature of the line before it.
    private func continues(at line: Int) -> Bool {
        let text = String(decoding: lines[line], as: UTF8.self).drop { $0 == " " }
        let before = String(decoding: lines[line - 1], as: UTF8.self)
        let openers = ["->", "where ", "where\n", "{", "throws", "async", "rethrows", ")"]
        return text == "where" || openers.contains { text.hasPrefix($0) } || before.hasSuffix("where")
            || before.hasSuffix(",") || before.hasSuffix("->")
    }
}
