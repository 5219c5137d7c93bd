internal import Foundation
package import Logging
internal import SystemPackage

/// One line for each log message on standard error, for journald, a terminal or a collector of JSON.
package struct DaemonLogHandler: LogHandler {
    package var logLevel: Logger.Level
    package var metadata: Logger.Metadata = [:]
    package var metadataProvider: Logger.MetadataProvider?
    private let format: Configuration.LogFormat
    /// Whether journald reads standard error: then it adds the time, and takes the priority from a prefix.
    private let isJournal: Bool
    private let write: @Sendable (String) -> Void

    package init(
        level: Logger.Level,
        format: Configuration.LogFormat,
        isJournal: Bool = ProcessInfo.processInfo.environment["JOURNAL_STREAM"] != nil,
        write: @escaping @Sendable (String) -> Void = { _ = try? FileDescriptor.standardError.writeAll($0.utf8) }
    ) {
        logLevel = level
        self.format = format
        self.isJournal = isJournal
        self.write = write
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        let fields = metadata.merging(event.metadata ?? [:]) { _, newer in newer }
            .map { (key: $0.key, value: "\($0.value)") }
            .sorted { $0.key < $1.key }
        switch format {
        case .text: write(text(event, fields))
        case .json: write(json(event, fields))
        }
    }

    private func text(_ event: LogEvent, _ fields: [(key: String, value: String)]) -> String {
        var line = isJournal ? "<\(Self.priority(of: event.level))>" : "\(Self.now) \(event.level.rawValue): "
        line += Self.oneLine(event.message.description)
        for field in fields { line += " \(field.key)=\(Self.quoted(field.value))" }
        return line + "\n"
    }

    private func json(_ event: LogEvent, _ fields: [(key: String, value: String)]) -> String {
        var object = Dictionary(fields.map { ($0.key, $0.value) }) { first, _ in first }
        object["time"] = Self.now
        object["level"] = event.level.rawValue
        object["message"] = event.message.description
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let text = (try? encoder.encode(object)).map { String(decoding: $0, as: UTF8.self) } ?? "{}"
        return (isJournal ? "<\(Self.priority(of: event.level))>" : "") + text + "\n"
    }

    private static var now: String { Date().formatted(Date.ISO8601FormatStyle(includingFractionalSeconds: true)) }

    /// The levels of syslog(3).
    private static func priority(of level: Logger.Level) -> Int {
        switch level {
        case .critical: 2
        case .error: 3
        case .warning: 4
        case .notice: 5
        case .info: 6
        case .debug, .trace: 7
        }
    }

    private static func quoted(_ text: String) -> String {
        let isPlain = !text.isEmpty && !text.contains { $0 == " " || $0 == "\"" || $0 == "=" || $0.isNewline }
        return isPlain ? text : "\"" + oneLine(text).replacing("\"", with: "\\\"") + "\""
    }

    private static func oneLine(_ text: String) -> String { text.replacing("\n", with: "\\n") }
}
