import ArgumentParser
import Foundation
import RepldControlAPI
import RepldControlClient
import RepldPair

/// Follows a pair and shows how far it is: one line that is redrawn on a terminal, a line a second elsewhere.
///
/// With `--json` each line is the pair as a JSON object.
struct PairWatch {
    let common: CommonOptions
    let name: String

    private var isTerminal: Bool { isatty(STDOUT_FILENO) == 1 && !common.json }

    /// Returns when the pair has the state, or with none, when nothing is under way; exits with a code otherwise.
    func follow(until wanted: CopyState?, timeout: Double?) async throws {
        let deadline = timeout.map { ContinuousClock.now.advanced(by: .seconds($0)) }
        var lastLine = ""
        while true {
            let pair: PairReply = try await common.client.call(.get, "/v1/pairs/\(Arguments.escaped(name))")
            let isOver = hasEnded(pair, wanted)
            lastLine = try draw(pair, after: lastLine, isLast: isOver)
            if isOver {
                guard !hasFailed(pair, wanted) else {
                    let reason = pair.reason.map { ": \($0)" } ?? ""
                    Failure.tell("pair \(name) is \(pair.copyState.name)\(reason)")
                    throw ExitCode(Failure.refused)
                }
                return
            }
            if let deadline, ContinuousClock.now >= deadline {
                if isTerminal { print() }
                Failure.tell("pair \(name) is still \(pair.copyState.name) and the time is up; the work goes on")
                throw ExitCode(Failure.timeout)
            }
            try await Task.sleep(for: isTerminal ? .milliseconds(250) : .seconds(1))
        }
    }

    /// Runs `work`, which waits on the daemon's side, and shows the pair: how far it is meanwhile, on a terminal, and how it
    /// is in the end.
    func showing<Result: Sendable>(_ work: () async throws -> Result) async throws -> Result {
        let result = try await withThrowingTaskGroup(of: Void.self) { group in
            if isTerminal { group.addTask { await self.drawUntilCancelled() } }
            defer { group.cancelAll() }
            return try await work()
        }
        let pair: PairReply = try await common.client.call(.get, "/v1/pairs/\(Arguments.escaped(name))")
        _ = try draw(pair, after: "", isLast: true)
        return result
    }

    private func drawUntilCancelled() async {
        while !Task.isCancelled {
            let path = "/v1/pairs/\(Arguments.escaped(name))"
            if let pair: PairReply = try? await common.client.call(.get, path) {
                _ = try? draw(pair, after: "", isLast: false)
            }
            try? await Task.sleep(for: .milliseconds(250))
        }
    }

    private func hasEnded(_ pair: PairReply, _ wanted: CopyState?) -> Bool {
        if let wanted, pair.copyState == Enumerated(wanted) { return true }
        if hasFailed(pair, wanted) { return true }
        return wanted == nil && pair.requestedCopyState == .notApplicable
    }

    private func hasFailed(_ pair: PairReply, _ wanted: CopyState?) -> Bool {
        if let wanted, pair.copyState == Enumerated(wanted) { return false }
        let state = CopyState(text: pair.copyState.name)
        if state == .broken || state == .invalid || state == .aborted { return true }
        return state == .suspended && wanted != nil
    }

    private func draw(_ pair: PairReply, after lastLine: String, isLast: Bool) throws -> String {
        if common.json {
            let line = String(decoding: try ControlJSON.encode(pair), as: UTF8.self)
            if line != lastLine { emit(line + "\n") }
            return line
        }
        let line = Text.progressLine(pair, barWidth: isTerminal ? 24 : nil)
        if isTerminal {
            emit("\r\u{1B}[K" + line + (isLast ? "\n" : ""))
        } else if line != lastLine {
            emit(line + "\n")
        }
        return line
    }

    /// Past the buffer of standard output, so that a pipe sees each line when it is made.
    private func emit(_ text: String) { FileHandle.standardOutput.write(Data(text.utf8)) }
}
