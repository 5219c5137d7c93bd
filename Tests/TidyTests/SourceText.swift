/// A Swift file as the rules see it: its lines as written, and the same lines with comments and string contents blanked.
///
/// Blanked bytes become spaces, so that lines and columns stay where they are. Code inside a string interpolation is
/// code and is kept.
struct SourceText {
    /// From the package root, with `/`.
    let path: String
    let rawLines: [String]
    let codeLines: [String]

    init(path: String, text: String) {
        self.path = path
        rawLines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        var scanner = Scanner(bytes: Array(text.utf8))
        scanner.blankAll()
        codeLines = String(decoding: scanner.bytes, as: UTF8.self)
            .split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    }

    /// The module that the file belongs to, by its folder; `nil` outside `Sources`.
    var module: String? {
        let parts = path.split(separator: "/")
        return parts.count >= 3 && parts[0] == "Sources" ? String(parts[1]) : nil
    }

    var isTest: Bool { path.hasPrefix("Tests/") }

    /// Number of lines, not counting the empty piece behind the last newline.
    var lineCount: Int { rawLines.last == "" ? rawLines.count - 1 : rawLines.count }
}

extension SourceText {
    /// Walks the bytes once and blanks what is not code.
    private struct Scanner {
        var bytes: [UInt8]
        var position = 0

        /// Where the walk is: in code (with the number of open parentheses since an interpolation began), or in a string.
        enum Place {
            case code(openParentheses: Int)
            case string(hashCount: Int, isMultiline: Bool)
        }

        init(bytes: [UInt8]) { self.bytes = bytes }

        mutating func blankAll() {
            var places: [Place] = [.code(openParentheses: 0)]
            while position < bytes.count, let place = places.last {
                switch place {
                case .code(let open): stepThroughCode(open, &places)
                case .string(let hashCount, let isMultiline): stepThroughString(hashCount, isMultiline, &places)
                }
            }
        }

        private mutating func stepThroughCode(_ open: Int, _ places: inout [Place]) {
            if starts("//") {
                while position < bytes.count, bytes[position] != UInt8(ascii: "\n") { blank() }
            } else if starts("/*") {
                blankNestedComment()
            } else if let hashCount = openingQuote() {
                let isMultiline = starts("\"\"\"", from: position + hashCount)
                position += hashCount + (isMultiline ? 3 : 1)
                places.append(.string(hashCount: hashCount, isMultiline: isMultiline))
            } else {
                let change = bytes[position] == UInt8(ascii: "(") ? 1 : bytes[position] == UInt8(ascii: ")") ? -1 : 0
                position += 1
                if places.count > 1 && open + change == 0 {
                    places.removeLast()
                } else {
                    places[places.count - 1] = .code(openParentheses: open + change)
                }
            }
        }

        private mutating func stepThroughString(_ hashCount: Int, _ isMultiline: Bool, _ places: inout [Place]) {
            let hashes = String(repeating: "#", count: hashCount)
            let end = (isMultiline ? "\"\"\"" : "\"") + hashes
            if starts(end) {
                position += end.utf8.count
                places.removeLast()
            } else if starts("\\" + hashes + "(") {
                position += 2 + hashCount
                places.append(.code(openParentheses: 1))
            } else if starts("\\" + hashes) {
                for _ in 0..<(2 + hashCount) where position < bytes.count { blank() }
            } else if !isMultiline && bytes[position] == UInt8(ascii: "\n") {
                places.removeLast()
            } else {
                blank()
            }
        }

        private mutating func blankNestedComment() {
            var depth = 0
            repeat {
                if starts("/*") {
                    depth += 1
                    blank()
                } else if starts("*/") {
                    depth -= 1
                    blank()
                }
                if position < bytes.count { blank() }
            } while depth > 0 && position < bytes.count
        }

        /// How many `#` stand before a quotation mark here; `nil` when no string begins here.
        private func openingQuote() -> Int? {
            var ahead = position
            while ahead < bytes.count, bytes[ahead] == UInt8(ascii: "#") { ahead += 1 }
            return ahead < bytes.count && bytes[ahead] == UInt8(ascii: "\"") ? ahead - position : nil
        }

        private func starts(_ text: String, from start: Int? = nil) -> Bool {
            bytes[(start ?? position)...].starts(with: text.utf8)
        }

        private mutating func blank() {
            if bytes[position] != UInt8(ascii: "\n") { bytes[position] = UInt8(ascii: " ") }
            position += 1
        }
    }
}
