/// One place that breaks a rule, with what to write instead.
struct Violation: Hashable, CustomStringConvertible {
    let path: String
    /// Counted from 1; 0 when the whole file is meant.
    let line: Int
    let words: String

    var description: String { line > 0 ? "\(path):\(line): \(words)" : "\(path): \(words)" }
}
