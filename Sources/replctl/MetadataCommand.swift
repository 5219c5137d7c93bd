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
    @Option(help: "Where the area begins, in bytes; by default 0.") var offset: UInt64?
    @Flag(help: "Find the area in the last GiB of an element, by its records.") var `internal` = false
    @Flag(help: "Read it while somebody holds it: what is printed may be half written.") var force = false
    @Flag(help: "Print JSON for programs.") var json = false

    func validate() throws {
        if `internal`, offset != nil {
            throw ValidationError("--internal, --offset: the place is looked for, or given")
        }
    }

    func run() throws {
        let file = try MetadataFile(path: path, isForced: force)
        let place = `internal` ? try MetadataDump.find(in: file) : offset ?? 0
        let dump = try MetadataDump.read(file, offset: place)
        print(json ? String(decoding: try ControlJSON.encode(dump, isPretty: true), as: UTF8.self) : dump.text)
    }
}
