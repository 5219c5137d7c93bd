internal import Foundation
package import Logging
internal import RepldControlAPI
internal import RepldCore
package import RepldDataPlane
internal import RepldEngine
package import RepldPair
internal import SystemPackage

/// The volumes and pairs of this host, and everything that can be asked of them.
///
/// Invariants:
/// - What a reply calls done is durable: in the registry, and on the data plane when that runs.
/// - A volume is served without one of its pairs only after that pair's metadata no longer says "closed cleanly", so that
///   no host write is ever unknown to a pair that looks clean.
/// - One operation at a time on each volume and each pair; another is refused, not queued.
///
/// The commit point of each change is one write of the registry. What comes before can be forgotten by a crash, what
/// comes after is done again at the next start:
///
///     volume add     element made · opened and served · REGISTRY
///     volume remove  closed · REGISTRY
///     pair create    target made · blank metadata written · attached · REGISTRY · copy started
///     pair detach    REGISTRY · detached · metadata removed
package actor ReplicationService {
    /// What the service is told when it is made.
    package struct Settings: Sendable {
        package var pairDefaults: PairSettings
        package var frontEnds: [FrontEndAddress]
        package var controlSocket: String
        package var version: String

        package init(
            pairDefaults: PairSettings = PairSettings(),
            frontEnds: [FrontEndAddress] = [],
            controlSocket: String = "",
            version: String = ""
        ) {
            self.pairDefaults = pairDefaults
            self.frontEnds = frontEnds
            self.controlSocket = controlSocket
            self.version = version
        }
    }

    /// What is known of a volume besides its registry entry.
    struct VolumeRuntime {
        /// Why it is not served; `nil` when it is.
        var failure: String?
    }

    /// What is known of a pair besides its registry entry.
    struct PairRuntime {
        /// Why it is not attached; `nil` when it is.
        var failure: String?
        var revision: UInt64
        var job: JobReply?
        var rate = CopyRate()
    }

    let plane: any DataPlane
    let state: StateDirectory
    let settings: Settings
    let logger: Logger
    let startedAt: Date
    var registry: Registry
    var volumes: [UInt64: VolumeRuntime] = [:]
    var pairs: [PairID: PairRuntime] = [:]
    var log = EventLog()
    var frontEnds: [FrontEndAddress] = []
    /// What is under way, by what it is done to: `volume db1`.
    private var inProgress: [String: String] = [:]

    /// Reads the registry and touches nothing; `start` does the rest.
    package init(
        plane: any DataPlane,
        state: consuming StateDirectory,
        settings: Settings,
        logger: Logger
    ) throws(ControlError) {
        self.plane = plane
        self.registry = try Registry(path: state.registryPath)
        self.state = state
        self.settings = settings
        self.logger = logger
        self.startedAt = Date()
    }

    /// Opens what the registry lists, then lets hosts connect.
    ///
    /// What cannot be opened is shown as failed and does not stop the start; an address that cannot be taken does.
    package func start() async throws(ControlError) {
        try reserveRevisions()
        for entry in registry.content.volumes { try await open(entry) }
        for address in settings.frontEnds {
            do {
                frontEnds.append(try await plane.listen(at: address))
            } catch {
                throw ControlError(.socket, "cannot listen on \(address)", underlying: error)
            }
        }
        logger.info(
            "volumes and pairs opened",
            metadata: [
                "volumes": "\(registry.content.volumes.count)", "pairs": "\(registry.content.pairs.count)",
                "frontends": "\(frontEnds.map(\.description).joined(separator: " "))",
            ]
        )
    }

    /// Takes note of what happens on the data plane, until that stops.
    package func followDataPlane() async {
        for await event in plane.events { note(event) }
    }

    /// Closes everything cleanly.
    ///
    /// Nothing can be asked of the service afterwards.
    package func stop() async {
        await plane.stop()
        log.finish()
    }

    /// Replaces what is told of each registry write; for tests.
    package func observeRegistryWrites(_ atStep: @escaping @Sendable (DurableFile.Step) throws -> Void) {
        registry.atStep = atStep
    }

    /// Claims a volume or a pair for one operation; every claim is given back with `end`.
    func begin(_ what: String, on subject: String) throws(ControlError) {
        if let other = inProgress[subject] {
            throw ControlError(
                .operationInProgress,
                "'\(what)' on \(subject) has to wait: '\(other)' is under way on it",
                suggestion: "try again when that is done"
            )
        }
        inProgress[subject] = what
    }

    func end(on subject: String) { inProgress[subject] = nil }
}

/// Opening and attaching
extension ReplicationService {
    /// Opens a volume and attaches its pairs, and notes what failed.
    ///
    /// Only before hosts can connect, or after its pairs no longer count as cleanly closed: between the two steps a host could
    /// write what a pair never hears of.
    ///
    /// Throws when a volume that must not be served cannot be taken away again.
    func open(_ entry: VolumeEntry) async throws(ControlError) {
        do {
            let opening = VolumeOpening(
                id: entry.id,
                name: entry.name,
                path: entry.elementPath,
                isReadOnly: entry.isReadOnly
            )
            _ = try await plane.addVolume(opening)
            volumes[entry.number] = VolumeRuntime()
        } catch {
            fail(entry, "\(error)")
            return
        }
        for pair in registry.content.pairs(of: entry) {
            do {
                try await attach(pair)
            } catch {
                guard try await serveWithout(pair, of: entry, because: "\(error)") else { return }
            }
        }
    }

    /// Attaches a pair whose volume is served; a copy that was running goes on by itself.
    func attach(_ entry: PairEntry) async throws(ControlError) {
        try state.makeMetadataIfMissing(of: entry.id)
        do {
            try await plane.addPair(opening(of: entry, isNew: false))
        } catch {
            throw Self.controlError(error, "cannot attach pair '\(entry.name)' to \(entry.targetPath)")
        }
        pairs[entry.id]?.failure = nil
    }

    func opening(of entry: PairEntry, isNew: Bool) -> PairOpening {
        PairOpening(
            id: entry.id,
            name: entry.name,
            volume: VolumeID(rawValue: entry.volumeNumber),
            targetPath: entry.targetPath,
            metadataPath: state.metadataPath(of: entry.id).string,
            settings: entry.settings,
            isNew: isNew
        )
    }

    /// Keeps a volume served whose pair could not be attached, and answers true; when that cannot be made safe, takes the
    /// volume and the pairs that were attached already away again.
    private func serveWithout(
        _ pair: PairEntry,
        of entry: VolumeEntry,
        because reason: String
    ) async throws(ControlError) -> Bool {
        do {
            try state.forgetCleanClose(of: pair.id)
            pairs[pair.id]?.failure = reason
            record("pair-not-attached", volume: entry.name, pair: pair.name, message: reason, level: .error)
            return true
        } catch {
            let reason = "\(error); without that, writes would be unknown to pair '\(pair.name)'"
            try await takeAway(entry, because: reason)
            fail(entry, reason)
            return false
        }
    }

    /// Takes a volume away that hosts have not met yet; it has to go, or hosts must not be let in at all.
    private func takeAway(_ entry: VolumeEntry, because reason: String) async throws(ControlError) {
        do {
            let attached = try await plane.status().volumes.first { $0.id == entry.id }?.pairs ?? []
            for pair in attached { try await plane.detachPair(pair.id) }
            try await plane.removeVolume(entry.id, isForced: true)
        } catch {
            throw Self.controlError(
                error,
                "volume '\(entry.name)' must not be served (\(reason)), and does not go away"
            )
        }
    }

    /// Marks a volume as not served, and its pairs with it.
    private func fail(_ entry: VolumeEntry, _ reason: String) {
        volumes[entry.number] = VolumeRuntime(failure: reason)
        for pair in registry.content.pairs(of: entry) {
            pairs[pair.id]?.failure = "volume '\(entry.name)' is not served: \(reason)"
        }
        record("volume-not-served", volume: entry.name, message: reason, level: .error)
    }

    /// Gives every pair revisions that no earlier run has shown.
    private func reserveRevisions() throws(ControlError) {
        for entry in registry.content.pairs {
            pairs[entry.id] = PairRuntime(revision: entry.revisionLimit)
        }
        guard !registry.content.pairs.isEmpty else { return }
        try registry.commit { content in
            for index in content.pairs.indices { content.pairs[index].revisionLimit += Self.revisionBlock }
        }
    }

    /// How many revisions are reserved at once.
    static var revisionBlock: UInt64 { 1000 }

    /// Counts a change of a pair.
    func countRevision(of id: PairID) {
        guard let revision = pairs[id]?.revision else { return }
        pairs[id]?.revision = revision + 1
        guard let entry = registry.content.pair(id), revision + 1 >= entry.revisionLimit else { return }
        do {
            try registry.commit { content in
                guard let index = content.pairs.firstIndex(where: { $0.id == id }) else { return }
                content.pairs[index].revisionLimit += Self.revisionBlock
            }
        } catch {
            logger.error("revisions may repeat after a restart", metadata: ["reason": "\(error)"])
        }
    }
}
