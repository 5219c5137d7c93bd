import Foundation

/// One run of this program as a process of its own, so that an invariant that ends a process is seen as what it is.
struct ChildRun {
    var output: String
    /// What it complained of.
    var errors: String
    var status: Int32
    /// It died of an invariant, or of something else that ends a process.
    var isDead: Bool

    init(_ arguments: [String]) throws {
        let process = Process()
        process.executableURL = URL(
            filePath: try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        )
        process.arguments = arguments
        let output = Pipe()
        let errors = Pipe()
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        let complaints = ComplaintReader(errors.fileHandleForReading)
        self.output = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        self.errors = complaints.text()
        status = process.terminationStatus
        isDead = process.terminationReason == .uncaughtSignal
    }

    /// The first line that says what broke.
    var complaint: String {
        let lines = errors.split(separator: "\n")
        let found = lines.first { $0.contains("invariant") || $0.contains("Fatal") } ?? lines.first
        return found.map(String.init) ?? "died silently"
    }

    /// The invariant that it died of; `nil` when it did not, or died of something else.
    var brokenInvariant: String? {
        guard isDead, let words = complaint.firstRange(of: "invariant broken: ") else { return nil }
        return String(complaint[words.lowerBound...])
    }

    /// What follows a word at the beginnings of lines.
    func lines(beginningWith word: String) -> [String] {
        output.split(separator: "\n").compactMap { line in
            line.hasPrefix(word + " ") ? String(line.dropFirst(word.count + 1)) : nil
        }
    }
}

/// Reads what a process complains of while its output is read elsewhere, so that neither pipe fills up.
private final class ComplaintReader: @unchecked Sendable {
    private let lock = NSLock()
    private let done = DispatchSemaphore(value: 0)
    private var data = Data()

    init(_ handle: FileHandle) {
        DispatchQueue.global().async { [self] in
            let read = handle.readDataToEndOfFile()
            lock.withLock { data = read }
            done.signal()
        }
    }

    func text() -> String {
        done.wait()
        return String(decoding: lock.withLock { data }, as: UTF8.self)
    }
}
