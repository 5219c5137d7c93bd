import ArgumentParser
import Foundation
import RepldControl

/// `repld check-config FILE`: reads a configuration file and says what is wrong with it.
struct CheckConfig: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-config",
        abstract: "Check a configuration file; exit code 78 when it would be refused."
    )

    @Argument(help: "Configuration file.", completion: .file(extensions: ["yaml", "yml"]))
    var file: String

    func run() throws {
        do {
            _ = try Configuration.load(file: file)
            print("\(file): no fault found")
        } catch {
            FileHandle.standardError.write(Data("\(error)\n".utf8))
            throw ExitCode(ExitStatus.code(for: error))
        }
    }
}
