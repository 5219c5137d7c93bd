import Foundation

/// The package as it lies on disk, and as git knows it.
struct Tree {
    let root: URL

    /// What may stand at the top of the tree beside dot-files.
    static let topLevelEntries: Set<String> = [
        "Package.swift", "Package.resolved", "README.md", "LICENSE", "Sources", "CSupport", "Tests", "Benchmarks",
    ]

    struct GitFailed: Error, CustomStringConvertible {
        let description: String
    }

    /// The package that this file belongs to.
    static func ofThisPackage(file: String = #filePath) -> Tree {
        Tree(
            root: URL(filePath: file).deletingLastPathComponent().deletingLastPathComponent()
                .deletingLastPathComponent()
        )
    }

    /// Paths from the root of all files under the folders of the tree; what begins with a dot is passed over.
    func files(under folders: [String] = ["Sources", "CSupport", "Tests", "Benchmarks"]) -> [String] {
        let options: FileManager.DirectoryEnumerationOptions = [.skipsHiddenFiles]
        let prefix = root.path(percentEncoded: false)
        return folders.flatMap { folder -> [String] in
            let start = root.appending(path: folder)
            let walk = FileManager.default.enumerator(at: start, includingPropertiesForKeys: nil, options: options)
            let urls = walk?.compactMap { $0 as? URL } ?? []
            return urls.filter { !$0.hasDirectoryPath }.map { url in
                String(
                    url.path(percentEncoded: false).dropFirst(prefix.hasSuffix("/") ? prefix.count : prefix.count + 1)
                )
            }
        }.sorted()
    }

    func text(of path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    /// All Swift files, as the rules see them.
    func swiftSources() throws -> [SourceText] {
        let paths = ["Package.swift"] + files().filter { $0.hasSuffix(".swift") }
        return try paths.map { SourceText(path: $0, text: try text(of: $0)) }
    }

    /// What git lists: the files that it tracks, and with `includesUntracked` those that it would take.
    func gitFiles(includesUntracked: Bool) throws -> Set<String> {
        let process = Process()
        let output = Pipe()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments =
            ["git", "-c", "safe.directory=*", "-C", root.path(percentEncoded: false), "ls-files", "-z", "--cached"]
            + (includesUntracked ? ["--others", "--exclude-standard"] : [])
        process.standardOutput = output
        try process.run()
        let bytes = try output.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw GitFailed(description: "git ls-files ended with \(process.terminationStatus) in \(root.path)")
        }
        return Set(String(decoding: bytes, as: UTF8.self).split(separator: "\0").map(String.init))
    }

    /// Entries at the top of the tree that have no business there, out of the paths that git lists.
    static func strayEntries(among paths: Set<String>) -> [String] {
        Set(paths.compactMap { $0.split(separator: "/").first.map(String.init) })
            .filter { !$0.hasPrefix(".") && !topLevelEntries.contains($0) }.sorted()
    }
}
