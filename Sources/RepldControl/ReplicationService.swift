internal import Foundation
package import Logging
internal import RepldControlAPI
internal import RepldCore
package import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
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
///     pair create    target made · metadata written with a first record · attached · REGISTRY · copy started
///     pair detach    REGISTRY · detached · metadata removed
///     replica add    metadata written · attached · REGISTRY · the peer is answered
///     replica end    REGISTRY · the volume is the host's own again · metadata removed
///     failover       JOB · hosts kept away · the peer: metadata written · REGISTRY · takes hosts · here: metadata written ·
///                    REGISTRY · detached · replica attached
///     peer add       told to the data plane · REGISTRY
///     volume grow    metadata enlarged · REGISTRY · records of the pairs · hosts see the size
///     operation      JOB in its own file · handed to the data plane · its end in the file
///
/// A pair whose second element serves hosts is detached in one write as well: that removes the pair, and makes the second
/// element the volume's own, with the size and block size that hosts know. Before it the pair's record says which element
/// serves, after it the volume's entry does, and no moment lies between in which a start would take the other one.
package actor ReplicationService {
    /// What the service is told when it is made.
    package struct Settings: Sendable {
        package var pairDefaults: PairSettings
        package var frontEnds: [FrontEndAddress]
        package var controlSocket: String
        package var version: String
        /// Where peers connect; `nil` where they cannot.
        package var peerListening: PeerListening?
        /// Between two attempts to take a replica whose source has sent something last.
        package var claimPause = Duration.milliseconds(50)

        package init(
            pairDefaults: PairSettings = PairSettings(keepsUndo: true),
            frontEnds: [FrontEndAddress] = [],
            controlSocket: String = "",
            version: String = "",
            peerListening: PeerListening? = nil
        ) {
            self.pairDefaults = pairDefaults
            self.frontEnds = frontEnds
            self.controlSocket = controlSocket
            self.version = version
            self.peerListening = peerListening
        }
    }

    /// What is known of a volume besides its registry entry.
    struct VolumeRuntime {
        /// Why it is not served; `nil` when it is.
        var failure: String?
        /// It is not served because the element could not be opened that has the newer data.
        var isServingElementLost = false
        /// It is not served because its own element, whose data counts, could not be opened.
        var isOwnElementLost = false
        /// It is not served because its element is another one than it was, or too small; in words.
        var replacement: String?
        /// Of the element that serves it, as the data plane has found it.
        var geometry: ElementGeometry?
    }

    /// What is known of a pair besides its registry entry.
    struct PairRuntime {
        /// Why it is not attached; `nil` when it is.
        var failure: String?
        var revision: UInt64
        var rate = CopyRate()
        /// What lies in its target's place, in words, where that is not the target.
        var replacement: String?
        /// What its metadata said when its volume was opened; for as long as it is not attached.
        var recovery: PairRecordRecovery?
        /// What the former source has said so far of where it differs.
        var telling: DifferencesTelling?
    }

    let plane: any DataPlane
    let state: StateDirectory
    let settings: Settings
    let logger: Logger
    let startedAt: Date
    /// What the daemon calls itself to peers.
    let hostID: PairID
    var registry: Registry
    var jobs: JobLog
    /// Jobs with lower numbers are of earlier runs.
    let firstJobNumber: UInt64
    var volumes: [UInt64: VolumeRuntime] = [:]
    var pairs: [PairID: PairRuntime] = [:]
    /// Why peers could not be told to the data plane, by their numbers.
    var peerFailures: [UInt64: String] = [:]
    /// Messages of peers that are being answered.
    var messagesUnderWay = 0
    /// Where peers connect, as it came out.
    var peerListening: PeerListening?
    var log = EventLog()
    var frontEnds: [FrontEndAddress] = []
    /// Pairs that are about to move to their peer, or to become its replica.
    var moves: Set<PairID> = []
    /// Why pairs that their peers have taken over cannot become replicas; told once.
    var moveTroubles: [PairID: String] = [:]
    /// Pairs of which was told that their peers have taken them over.
    var takenOverPairs: Set<PairID> = []
    /// The attempts of peers to move a pair here that were refused last.
    var refusedAttempts: [PairID: UInt64] = [:]
    /// Nothing is begun any more.
    var isStopped = false
    /// Areas in elements whose pairs, by name, have left the registry, and which are about to be blanked.
    var endingMetadata: [(String, InternalMetadata?)] = []
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
        self.jobs = try JobLog(path: state.jobsPath)
        self.firstJobNumber = jobs.nextNumber
        self.hostID = try state.hostID()
        self.state = state
        self.settings = settings
        self.logger = logger
        self.startedAt = Date()
    }

    /// Opens what the registry lists, then lets hosts connect.
    ///
    /// What cannot be opened is shown as failed and does not stop the start; an address that cannot be taken does.
    package func start() async throws(ControlError) {
        reserveRevisions()
        for id in registry.content.replicas.compactMap(\.id) { try state.renameReplica(id) }
        sweepMetadata()
        if let damage = jobs.damage { record("jobs-damaged", message: damage, level: .error) }
        for peer in registry.content.peers { await open(peer) }
        for entry in registry.content.volumes { try await open(entry) }
        try await reviewJobs(because: Self.interruptedWords)
        try await listenToPeers()
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
        for await event in plane.events { await note(event) }
    }

    /// Closes everything cleanly.
    ///
    /// Nothing can be asked of the service afterwards.
    package func stop() async {
        isStopped = true
        await plane.stop()
        log.finish()
    }

    /// Replaces what is told of each registry write; for tests.
    package func observeRegistryWrites(_ atStep: @escaping @Sendable (DurableFile.Step) throws -> Void) {
        registry.atStep = atStep
    }

    /// Replaces what is told of each write of the jobs; for tests.
    package func observeJobWrites(_ atStep: @escaping @Sendable (DurableFile.Step) throws -> Void) {
        jobs.atStep = atStep
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

/// Revisions
extension ReplicationService {
    /// Gives every pair revisions that no earlier run has shown.
    ///
    /// Where the registry cannot be written (its file system is full), the daemon starts all the same: the revisions of this
    /// run then begin at the milliseconds since 1970, which no other run begins at and which are far above what runs that
    /// could reserve count up to. So none is shown twice, and the first write that succeeds reserves above them.
    func reserveRevisions() {
        for entry in registry.content.pairs {
            pairs[entry.id] = PairRuntime(revision: entry.revisionLimit)
        }
        guard !registry.content.pairs.isEmpty else { return }
        do {
            try registry.commit { content in
                for index in content.pairs.indices { content.pairs[index].revisionLimit += Self.revisionBlock }
            }
        } catch {
            let start = UInt64(max(startedAt.timeIntervalSince1970 * 1000, 0))
            for entry in registry.content.pairs { pairs[entry.id]?.revision = max(entry.revisionLimit, start) }
            record("registry-not-written", message: "\(error); the daemon goes on without", level: .error)
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
                content.pairs[index].revisionLimit = revision + 1 + Self.revisionBlock
            }
        } catch {
            logger.error("revisions cannot be reserved", metadata: ["reason": "\(error)"])
        }
    }
}
