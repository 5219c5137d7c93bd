import ArgumentParser
import RepldControlAPI

/// The daemon's command line.
@main
struct Repld: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "repld",
        abstract: "Keeps two copies of a block volume equal while applications write to it.",
        discussion: """
            Without a subcommand it runs the daemon. Hosts use its volumes over NBD; 'replctl' makes and watches \
            volumes and pairs. 'repld run --help' lists the daemon's options, 'repld systemd-unit' prints a unit \
            file for it.

            Exit codes: 0 stopped cleanly, 64 wrong usage, 65 damaged registry or users, 69 an address or the state directory is \
            in use, 70 internal failure, 71 the system refused, 77 no permission, 78 wrong configuration.
            """,
        version: "repld \(Version.text)",
        subcommands: [Run.self, RunDemo.self, CheckConfig.self, PrintSystemdUnit.self],
        defaultSubcommand: Run.self
    )
}
