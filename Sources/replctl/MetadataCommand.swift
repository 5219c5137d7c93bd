import ArgumentParser
import Foundation
import RepldControlAPI
import RepldInspection

/// `replctl metadata`: the metadata of pairs, without the daemon.
struct MetadataCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metadata",
        abstract: "Look at the metadata of a pair that no daemon uses.",
        subcommands: [MetadataDumpCommand.self]
    )
}

/// `replctl metadata dump`: what an area says.
struct MetadataDumpCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump",
        abstract: "Print what a metadata area says: its records, activity log and bitmaps, and what is damaged."
    )

    @Argument(help: "File or device that has the area.", completion: .file()) var path: String
    @Option(help: "Where the area begins, in bytes.") var offset: UInt64 = 0
    @Flag(help: "Read it while somebody holds it: what is printed may be half written.") var force = false
    @Flag(help: "Print JSON for programs.") var json = false

    func run() throws {
        let file = try MetadataFile(path: path, isForced: force)
        let dump = try MetadataDump.read(file, offset: offset)
        print(json ? String(decoding: try ControlJSON.encode(dump, isPretty: true), as: UTF8.self) : dump.text)
    }
}
