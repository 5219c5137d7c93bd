internal import RepldControlAPI
internal import Yams

/// A mapping of a YAML file whose every refusal names file, line and column.
struct YAMLSection {
    private let node: Node.Mapping
    private let file: String
    /// The key that leads here, `nbd.`; empty at the top.
    private let prefix: String

    /// The top of a file; `nil` when it is empty.
    static func root(of text: String, file: String) throws(ConfigurationError) -> YAMLSection? {
        if aliasCount(in: text) > aliasCountMax {
            throw ConfigurationError(file: file, message: "found more than \(aliasCountMax) aliases such as '*name'")
        }
        let node: Node?
        do {
            node = try Yams.compose(yaml: text)
        } catch let error as YamlError {
            throw refusal(of: error, file: file)
        } catch {
            throw ConfigurationError(file: file, message: "\(error)")
        }
        guard let node, node.null == nil else { return nil }
        guard let mapping = node.mapping else {
            throw error(at: node, file: file, "found \(words(for: node)), expected keys such as 'state-dir: PATH'")
        }
        return YAMLSection(node: mapping, file: file, prefix: "")
    }

    /// Aliases of aliases multiply, and with more of them a file of a few lines would take hours.
    private static var aliasCountMax: Int { 8 }

    /// At least how many aliases a text has; 0 where it has nothing that they could stand for.
    private static func aliasCount(in text: String) -> Int {
        let bytes = Array(text.utf8)
        func count(_ mark: UInt8) -> Int {
            zip(bytes, bytes.dropFirst()).count { $0 == mark && $1 > UInt8(ascii: " ") && $1 != mark }
        }
        return count(UInt8(ascii: "&")) > 0 ? count(UInt8(ascii: "*")) : 0
    }

    /// Refuses keys that are not known, with the nearest that is.
    func checkKeys(_ known: [String]) throws(ConfigurationError) {
        for key in node.keys {
            let name = key.string ?? ""
            if known.contains(name) { continue }
            let place = prefix.isEmpty ? "" : " in '\(prefix.dropLast())'"
            let hint = Suggestion.nearest(to: name, among: known).map { "; did you mean '\($0)'?" } ?? "."
            throw Self.error(
                at: key,
                file: file,
                "found the unknown key '\(name)'\(place)\(hint) Known are \(known.joined(separator: ", "))"
            )
        }
    }

    /// The section under a key, its keys checked; `nil` when it is not there or empty.
    func section(_ key: String, keys: [String]) throws(ConfigurationError) -> YAMLSection? {
        guard let child = node[key], child.null == nil else { return nil }
        guard let mapping = child.mapping else {
            let expected = "the keys \(keys.joined(separator: ", ")) under '\(prefix)\(key)'"
            throw Self.error(at: child, file: file, "found \(Self.words(for: child)), expected \(expected)")
        }
        let section = YAMLSection(node: mapping, file: file, prefix: "\(prefix)\(key).")
        try section.checkKeys(keys)
        return section
    }

    /// The single value of a key; `nil` when it is not there.
    func scalar(_ key: String) throws(ConfigurationError) -> YAMLScalar? {
        guard let child = node[key] else { return nil }
        return try scalar(child, key)
    }

    /// The values of a key that takes one or a list.
    func scalars(_ key: String) throws(ConfigurationError) -> [YAMLScalar] {
        guard let child = node[key] else { return [] }
        guard let list = child.sequence else { return [try scalar(child, key)] }
        var values: [YAMLScalar] = []
        for element in list { values.append(try scalar(element, key)) }
        return values
    }

    private func scalar(_ node: Node, _ key: String) throws(ConfigurationError) -> YAMLScalar {
        guard let scalar = node.scalar, node.null == nil else {
            throw Self.error(
                at: node,
                file: file,
                "\(prefix)\(key): found \(Self.words(for: node)), expected a single value"
            )
        }
        guard !scalar.string.utf8.contains(0) else {
            throw Self.error(at: node, file: file, "\(prefix)\(key): found a zero byte, which no value has")
        }
        return YAMLScalar(
            text: scalar.string,
            key: "\(prefix)\(key)",
            file: file,
            line: node.mark?.line ?? 0,
            column: node.mark?.column ?? 0
        )
    }

    private static func error(at node: Node, file: String, _ message: String) -> ConfigurationError {
        ConfigurationError(file: file, line: node.mark?.line ?? 0, column: node.mark?.column ?? 0, message: message)
    }

    private static func words(for node: Node) -> String {
        switch node {
        case .scalar(let scalar): scalar.string.isEmpty || node.null != nil ? "nothing" : "'\(scalar.string)'"
        case .mapping: "a mapping"
        case .sequence: "a list"
        case .alias: "an alias"
        }
    }

    private static func refusal(of error: YamlError, file: String) -> ConfigurationError {
        switch error {
        case .scanner(let context, let problem, let mark, _), .parser(let context, let problem, let mark, _),
            .composer(let context, let problem, let mark, _):
            let during = context.map { " \($0.text)" } ?? ""
            let message = "not valid YAML: \(problem)\(during)"
            return ConfigurationError(file: file, line: mark.line, column: mark.column, message: message)
        case .duplicatedKeysInMapping(let duplicates, let context):
            return ConfigurationError(
                file: file,
                line: context.mark.line,
                column: context.mark.column,
                message: "the key '\(duplicates.joined(separator: "', '"))' is given twice"
            )
        default:
            return ConfigurationError(file: file, message: "not valid YAML: \(error)")
        }
    }
}

/// A single value with its place.
struct YAMLScalar {
    let text: String
    let key: String
    let file: String
    let line: Int
    let column: Int

    /// What `convert` makes of the text; a refusal with what was expected when it makes nothing.
    func read<Value>(_ expected: String, _ convert: (String) -> Value?) throws(ConfigurationError) -> Value {
        guard let value = convert(text) else {
            throw refusal("found '\(text)', expected \(expected)")
        }
        return value
    }

    /// A refusal of this value at its place.
    func refusal(_ words: String) -> ConfigurationError {
        ConfigurationError(file: file, line: line, column: column, message: "\(key): \(words)")
    }

    func absolutePath() throws(ConfigurationError) -> String {
        try read("an absolute path") { $0.hasPrefix("/") ? $0 : nil }
    }

    func socketPath() throws(ConfigurationError) -> String {
        let limit = ControlListening.socketPathByteLimit
        return try read("an absolute path of at most \(limit) bytes") { text in
            text.hasPrefix("/") && text.utf8.count <= limit ? text : nil
        }
    }

    func fileMode() throws(ConfigurationError) -> UInt32 {
        try read("permission bits in octal and quotes such as \"0660\"") { text in
            guard text.hasPrefix("0"), let mode = UInt32(text, radix: 8), mode <= 0o777 else { return nil }
            return mode
        }
    }

    func hostPort() throws(ConfigurationError) -> HostPort { try read(HostPort.expectation) { HostPort($0) } }

    func word<Word: CaseIterable & RawRepresentable>(
        among type: Word.Type
    ) throws(ConfigurationError) -> Word where Word.RawValue == String {
        let known = Word.allCases.map(\.rawValue).joined(separator: ", ")
        return try read("one of \(known)") { Word(rawValue: $0) }
    }
}
