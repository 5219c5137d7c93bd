internal import Foundation
internal import Glibc
internal import RepldControlAPI
internal import RepldControlClient

/// A real daemon, this very program as a child process, with its state in the demo's directory.
final class DemoDaemon: @unchecked Sendable {
    private let process = Process()
    private let client: ControlClient
    let nbdSocket: String
    let logFile: String

    /// Starts the daemon; `waitUntilReady` waits for it.
    init(executable: String, directory: String) throws {
        nbdSocket = "\(directory)/nbd.sock"
        logFile = "\(directory)/repld.log"
        let control = "\(directory)/control.sock"
        client = ControlClient(socketPath: control)
        guard FileManager.default.createFile(atPath: logFile, contents: nil) else {
            throw DemoError("cannot create \(logFile)")
        }
        process.executableURL = URL(filePath: executable)
        process.arguments = [
            "run", "--state-dir", "\(directory)/state", "--control", control, "--nbd-socket", nbdSocket,
        ]
        let log = try FileHandle(forWritingTo: URL(filePath: logFile))
        process.standardOutput = log
        process.standardError = log
        try process.run()
    }

    /// Waits until the control socket answers; throws with the log when the daemon ends instead.
    func waitUntilReady() async throws {
        let deadline = ContinuousClock.now + .seconds(20)
        while ContinuousClock.now < deadline {
            guard process.isRunning else { throw DemoError("the daemon did not start:\n\(log)") }
            if (try? await client.bytes(.get, "/v1/daemon")) != nil { return }
            try await Task.sleep(for: .milliseconds(20))
        }
        throw DemoError("the daemon does not answer:\n\(log)")
    }

    var log: String { (try? String(contentsOfFile: logFile, encoding: .utf8)) ?? "" }

    func addVolume(_ name: String, element: String) async throws {
        let request = VolumeAddRequest(name: name, elementPath: element)
        let _: VolumeReply = try await client.call(.post, "/v1/volumes", body: request)
    }

    func createPair(_ name: String, source: String, target: String) async throws {
        let request = PairCreateRequest(sourceVolume: source, targetPath: target, name: name)
        _ = try await client.bytes(.post, "/v1/pairs", body: request)
    }

    func pair(_ name: String) async throws -> PairReply {
        try await client.call(.get, "/v1/pairs/\(name)")
    }

    func set(_ pair: String, _ operation: String) async throws {
        let request = SetReplicationRelationshipRequest(operation: .name(operation))
        _ = try await client.bytes(.post, "/v1/pairs/\(pair)/SetReplicationRelationship", body: request)
    }

    /// Waits until a pair's copy state is `state`.
    func wait(_ name: String, until state: String, seconds: Int = 60) async throws -> PairReply {
        let deadline = ContinuousClock.now + .seconds(seconds)
        while true {
            let reply = try await pair(name)
            if reply.copyState.name == state { return reply }
            guard ContinuousClock.now < deadline else {
                throw DemoError(
                    "pair \(name) is \(reply.copyState.name), not \(state), after \(seconds) s: \(reply.reason ?? "")"
                )
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    /// Asks the daemon to stop, and waits for its clean end.
    func stop() throws {
        process.terminate()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw DemoError("the daemon ended with status \(process.terminationStatus):\n\(log)")
        }
    }

    /// Ends the daemon, whatever it is doing.
    func kill() {
        guard process.isRunning else { return }
        Glibc.kill(process.processIdentifier, SIGKILL)
        process.waitUntilExit()
    }
}
