import Foundation
import RepldControl
import Synchronization

/// Kills daemons at one moment of a move: what is durable then is all that their next start finds, and nobody hears of them meanwhile.
final class Kill: Sendable {
    enum Host: String, Sendable, CaseIterable { case north, south }

    /// A moment in one of the two daemons.
    enum Moment: Hashable, Sendable {
        /// Before the data plane is asked; by the name of the call.
        case call(String)
        /// In the first write of the registry after such a call.
        case registry(DurableFile.Step, after: String)
    }

    private let directories = Mutex<[Host: TemporaryDirectory]>([:])
    private let strikes: AsyncStream<Void>
    private let struck: AsyncStream<Void>.Continuation

    /// Waits for the moment in `host`, and kills `victims` in it.
    init(_ victims: [Host], at moment: Moment, of host: Host, _ hosts: TwoHosts) async {
        (strikes, struck) = AsyncStream.makeStream(of: Void.self)
        let fixtures = victims.map { ($0, hosts.fixture(of: $0)) }
        let observed = hosts.fixture(of: host)
        let link = hosts.link
        switch moment {
        case .call(let name):
            observed.plane.beforeEachCall { [self] call in
                if "\(call)".hasPrefix(name) { strike(fixtures, link) }
            }
        case .registry(let step, let name):
            let plane = observed.plane
            let count = plane.calls.count
            await observed.service.observeRegistryWrites { [self] found in
                let isBegun = plane.calls[count...].contains { "\($0)".hasPrefix(name) }
                if found == step, isBegun { strike(fixtures, link) }
            }
        }
    }

    private func strike(_ victims: [(Host, ServiceFixture)], _ link: FakeLink) {
        directories.withLock { directories in
            guard directories.isEmpty else { return }
            for (name, fixture) in victims {
                link.kill(fixture.plane)
                guard let copy = try? TemporaryDirectory() else { continue }
                let path = fixture.directory.file("state")
                try? FileManager.default.copyItem(atPath: path, toPath: copy.file("state"))
                directories[name] = copy
            }
        }
        struck.finish()
    }

    /// Returns when it has happened.
    func happened() async { for await _ in strikes {} }

    /// What a daemon that was killed has left; `nil` for one that was not.
    func directory(of host: Host) -> TemporaryDirectory? { directories.withLock { $0[host] } }
}

extension TwoHosts {
    func fixture(of host: Kill.Host) -> ServiceFixture { host == .north ? north : south }
}
