/// Dependencies point down only: what each module may import.
///
/// The compiler does not check this by itself, because a module can import whatever its dependencies were built with.
struct ImportRule {
    struct Allowed {
        /// Modules of this package, Swift or C.
        var own: Set<String>
        /// Modules from elsewhere; `nil` for any, at the rim where packages live.
        var foreign: Set<String>? = []
    }

    static let modules: [String: Allowed] = [
        "RepldCore": Allowed(own: ["CRepldCRC32C"]),
        "RepldFormat": Allowed(own: ["RepldCore"]),
        "RepldWire": Allowed(own: ["RepldCore", "CLZ4"]),
        "RepldPair": Allowed(own: ["RepldCore", "RepldFormat"]),
        "RepldFrontends": Allowed(own: ["RepldCore"]),
        "RepldEngine": Allowed(
            own: ["RepldCore", "RepldFormat", "RepldPair", "RepldFrontends", "RepldWire"],
            foreign: ["Synchronization"]
        ),
        "RepldUring": Allowed(
            own: ["RepldCore", "RepldEngine", "CLiburing", "CRepldLinux", "CRepldTLS"],
            foreign: ["Glibc", "Synchronization"]
        ),
        "RepldSimulation": Allowed(
            own: ["RepldCore", "RepldFormat", "RepldPair", "RepldFrontends", "RepldEngine"]
        ),
        "RepldInspection": Allowed(
            own: ["RepldCore", "RepldFormat", "RepldPair", "CRepldLinux"],
            foreign: ["Glibc"]
        ),
        // The words of copy states are RepldPair's; they are not written down a second time.
        "RepldControlAPI": Allowed(own: ["RepldPair"], foreign: ["Foundation", "FoundationEssentials"]),
        "RepldControlClient": Allowed(own: ["RepldControlAPI"], foreign: nil),
        "RepldDataPlane": Allowed(
            own: ["RepldCore", "RepldFormat", "RepldPair", "RepldEngine", "CRepldLinux"],
            foreign: ["Dispatch", "Glibc", "Synchronization"]
        ),
        "RepldUringDataPlane": Allowed(
            own: [
                "RepldCore", "RepldFormat", "RepldPair", "RepldEngine", "RepldUring", "RepldDataPlane", "CRepldLinux",
            ],
            foreign: nil
        ),
        "RepldControl": Allowed(
            own: [
                "RepldControlAPI", "RepldCore", "RepldFormat", "RepldPair", "RepldFrontends", "RepldEngine",
                "RepldDataPlane", "CRepldLinux", "CCrypt",
            ],
            foreign: nil
        ),
        "RepldDemo": Allowed(
            own: ["RepldCore", "RepldControlAPI", "RepldControlClient"],
            foreign: ["Foundation", "Glibc", "Synchronization"]
        ),
        "repld": Allowed(
            own: ["RepldDemo", "RepldControl", "RepldControlAPI", "RepldCore", "RepldEngine", "RepldUringDataPlane"],
            foreign: nil
        ),
        "replctl": Allowed(
            own: ["RepldControlAPI", "RepldControlClient", "RepldInspection", "RepldPair"],
            foreign: nil
        ),
        "repld-simulate": Allowed(own: ["RepldSimulation", "RepldCore"], foreign: nil),
    ]

    /// Single files that import more, each with its reason.
    static let exceptions: [String: (module: String, reason: String)] = [
        "Sources/RepldEngine/Locked.swift": ("Glibc", "the one lock between threads stands on pthread_mutex")
    ]

    private static let cModules: Set<String> = [
        "CLiburing", "CLZ4", "CCrypt", "CRepldLinux", "CRepldCRC32C", "CRepldTLS",
    ]

    static func violations(in source: SourceText) -> [Violation] {
        guard let module = source.module else { return [] }
        guard let allowed = modules[module] else {
            let words = "module \(module) is not in ImportRule: say there what it may import"
            return [Violation(path: source.path, line: 0, words: words)]
        }
        return source.codeLines.enumerated().compactMap { index, line in
            guard let name = importedModule(in: line), name != "Swift" else { return nil }
            let isOwn = cModules.contains(name) || modules.keys.contains(name)
            let isAllowed = isOwn ? allowed.own.contains(name) : allowed.foreign?.contains(name) ?? true
            guard !isAllowed && exceptions[source.path]?.module != name else { return nil }
            let list = allowed.own.union(allowed.foreign ?? ["packages"]).sorted().joined(separator: ", ")
            let words = "\(module) does not import \(name), only: \(list.isEmpty ? "nothing" : list)"
            return Violation(path: source.path, line: index + 1, words: words)
        }
    }

    /// The module that a line imports: `package import A`, `import struct A.B`, `@testable import A`.
    static func importedModule(in line: String) -> String? {
        var words = line.split(separator: " ")[...]
        while let word = words.first, word != "import" {
            guard word.hasPrefix("@") || accessLevels.contains(String(word)) else { return nil }
            words = words.dropFirst()
        }
        words = words.dropFirst()
        if let kind = words.first, kinds.contains(String(kind)) { words = words.dropFirst() }
        return words.first?.split(separator: ".").first.map(String.init)
    }

    private static let accessLevels: Set<String> = ["public", "package", "internal", "fileprivate", "private"]
    private static let kinds: Set<String> = ["struct", "class", "enum", "protocol", "func", "var", "let", "typealias"]
}
