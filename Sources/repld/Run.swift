import ArgumentParser
import Foundation
import Logging
import RepldControl
import RepldControlAPI
import RepldUringDataPlane

/// `repld run`: the daemon.
struct Run: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Run the daemon in the foreground (the default).")

    @Option(
        help: ArgumentHelp(
            "Configuration file.",
            discussion: "Without it, \(Configuration.defaultFile) is read when it is there."
        ),
        completion: .file(extensions: ["yaml", "yml"])
    )
    var config: String?

    @Option(help: "Directory for what must outlive the daemon.", completion: .directory)
    var stateDir: String?

    @Option(help: "Unix socket for replctl.", completion: .file())
    var control: String?

    @Option(
        help: ArgumentHelp(
            "Loopback TCP address for replctl; may be repeated.",
            discussion: "Whoever comes over TCP needs a user name and a password: see 'replctl user'.",
            valueName: "host:port"
        )
    )
    var controlListen: [String] = []

    @Option(help: "Unix socket for NBD clients, or 'none'.", completion: .file())
    var nbdSocket: String?

    @Option(help: ArgumentHelp("TCP address for NBD clients; may be repeated.", valueName: "host:port"))
    var nbdListen: [String] = []

    @Option(
        help: ArgumentHelp(
            "TCP address for peers; without it, none can connect.",
            discussion: "Peers prove by a key that they are known: see 'replctl peer'.",
            valueName: "host[:port]"
        )
    )
    var peerListen: String?

    @Option(help: "One of trace, debug, info, notice, warning, error, critical.", completion: .list(Self.levels))
    var logLevel: String?

    private static var levels: [String] { Logger.Level.allCases.map(\.rawValue) }

    func run() async throws {
        do {
            let configuration = try merged()
            let logger = Logger(label: "repld") { _ in
                DaemonLogHandler(level: configuration.logLevel, format: configuration.logFormat)
            }
            let daemon = Daemon(configuration: configuration, version: Version.text, logger: logger)
            try await daemon.run { try await UringDataPlane.start(logger: logger, host: $0) }
        } catch let error as ValidationError {
            throw error
        } catch {
            FileHandle.standardError.write(Data("repld: \(error)\n".utf8))
            throw ExitCode(ExitStatus.code(for: error))
        }
    }

    /// The file, and over it what the command line says.
    private func merged() throws -> Configuration {
        var merged = try Configuration.load(file: config)
        if let stateDir { merged.stateDirectory = absolute(stateDir) }
        if let control { merged.control.socketPath = absolute(control) }
        if !controlListen.isEmpty {
            merged.control.tcp = try controlListen.map { try ControlListening.checked(address($0, "--control-listen")) }
        }
        if let nbdSocket { merged.nbdSocket = nbdSocket == "none" ? nil : absolute(nbdSocket) }
        if !nbdListen.isEmpty {
            merged.nbdListen = try nbdListen.map { try address($0, "--nbd-listen") }
        }
        if let peerListen {
            guard let address = HostPort(peerAddress: peerListen) else {
                let expected = "HOST or HOST:PORT such as 0.0.0.0:7733 or [::]"
                throw ValidationError("--peer-listen: found '\(peerListen)', expected \(expected)")
            }
            merged.peerListen = address
        }
        if let logLevel {
            guard let level = Logger.Level(rawValue: logLevel) else {
                let known = Self.levels.joined(separator: ", ")
                throw ValidationError("--log-level: found '\(logLevel)', expected one of \(known)")
            }
            merged.logLevel = level
        }
        return merged
    }

    private func address(_ text: String, _ option: String) throws -> HostPort {
        guard let address = HostPort(text) else {
            throw ValidationError("\(option): found '\(text)', expected \(HostPort.expectation)")
        }
        return address
    }

    private func absolute(_ path: String) -> String { URL(filePath: path).path(percentEncoded: false) }
}
