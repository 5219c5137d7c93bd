import ArgumentParser
import Foundation
import RepldControl

/// `repld systemd-unit`: prints a unit file for this daemon.
struct PrintSystemdUnit: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "systemd-unit",
        abstract: "Print a hardened systemd unit for the daemon."
    )

    @Option(help: "Configuration file that the unit names.", completion: .file(extensions: ["yaml", "yml"]))
    var config: String?

    @Option(help: "The daemon's path; by default this program's own.", completion: .file())
    var executable: String?

    func run() throws {
        let own = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let path = config.map { URL(filePath: $0).path(percentEncoded: false) }
        print(SystemdUnit.text(executable: executable ?? own ?? "/usr/bin/repld", configuration: path), terminator: "")
    }
}
