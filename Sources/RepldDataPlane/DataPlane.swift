package import RepldCore
package import RepldEngine
package import RepldFormat
package import RepldPair

/// A volume that the data plane is to open and serve.
package struct VolumeOpening: Hashable, Sendable {
    package var id: VolumeID
    package var name: String
    /// An absolute path of a file or block device.
    package var path: String
    package var isReadOnly: Bool
    /// The volume's size in bytes where that is not the element's: another element of a pair may be larger.
    package var byteCount: UInt64?
    /// The volume's block size in bytes where that is not the element's logical one.
    package var blockByteCount: UInt32?
    /// Hosts are kept away until the peers of so many of its pairs have said that they have not taken them over.
    package var awaitedPeerCount = 0
    /// It is a peer's replica from its first moment on; `addReplica` follows.
    package var isReplica = false

    package init(
        id: VolumeID,
        name: String,
        path: String,
        isReadOnly: Bool,
        byteCount: UInt64? = nil,
        blockByteCount: UInt32? = nil
    ) {
        self.id = id
        self.name = name
        self.path = path
        self.isReadOnly = isReadOnly
        self.byteCount = byteCount
        self.blockByteCount = blockByteCount
    }
}

/// A pair that the data plane is to open and attach to a volume.
///
/// The volume was opened with the element that serves hosts; the pair's metadata says which that is.
package struct PairOpening: Hashable, Sendable {
    package var id: PairID
    package var name: String
    package var volume: VolumeID
    /// The element of the two that does not serve hosts.
    package var target: TargetOpening
    /// Has a record at least; the data plane gives a file the size of a whole metadata area.
    package var metadata: MetadataPlace
    /// The file of the undo area; made where the settings ask for one and it is missing.
    package var undoPath: String
    package var settings: PairSettings
    /// Whether the pair is being made; otherwise its metadata says where it stood.
    package var isNew: Bool
    /// Its peer may have taken it over while this daemon was away, and counts among those that the volume waits for.
    package var awaitsPeer = false

    package init(
        id: PairID,
        name: String,
        volume: VolumeID,
        target: TargetOpening,
        metadata: MetadataPlace,
        undoPath: String,
        settings: PairSettings,
        isNew: Bool
    ) {
        self.id = id
        self.name = name
        self.volume = volume
        self.target = target
        self.metadata = metadata
        self.undoPath = undoPath
        self.settings = settings
        self.isNew = isNew
    }
}

/// The metadata area of a pair that has a file of its own, and its undo area, as far as their size goes.
package struct MetadataArea: Hashable, Sendable {
    /// `nil` for a replica's, which has a record and no maps.
    package var path: String?
    package var undoPath: String
    package var granuleByteCount: UInt32

    package init(path: String?, undoPath: String, granuleByteCount: UInt32) {
        self.path = path
        self.undoPath = undoPath
        self.granuleByteCount = granuleByteCount
    }
}

/// Where hosts connect.
package enum FrontEndAddress: Hashable, Sendable, CustomStringConvertible {
    /// NBD on a unix socket, made with these permission bits.
    case nbdUnix(path: String, mode: UInt32)
    /// NBD on TCP; port 0 takes a free one.
    case nbdTCP(host: String, port: UInt16)

    /// The URI without an export name, as NBD clients take it.
    package var description: String {
        switch self {
        case .nbdUnix(let path, _): "nbd+unix:///?socket=\(path)"
        case .nbdTCP(let host, let port): host.contains(":") ? "nbd://[\(host)]:\(port)" : "nbd://\(host):\(port)"
        }
    }
}

/// Why the data plane could not do what was asked.
package struct DataPlaneError: Error, Sendable, CustomStringConvertible {
    /// What kind of error it is; more kinds may come.
    package struct Code: Hashable, Sendable {
        private enum Value { case element, metadata, listener, refused, stopped }
        private let value: Value

        /// An element could not be opened, is held by somebody else, or is no file or block device.
        package static var element: Code { Code(value: .element) }
        /// The pair's metadata area could not be read or written, or belongs to another pair.
        package static var metadata: Code { Code(value: .metadata) }
        /// A front end's address could not be taken.
        package static var listener: Code { Code(value: .listener) }
        /// The engine refused; `refusal` says why.
        package static var refused: Code { Code(value: .refused) }
        /// The data plane has stopped, or never started.
        package static var stopped: Code { Code(value: .stopped) }
    }

    package let code: Code
    /// What was wrong and where, in plain words.
    package let message: String
    package let refusal: EngineRefusal?
    package let underlying: (any Error)?

    package init(_ code: Code, _ message: String, refusal: EngineRefusal? = nil, underlying: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.refusal = refusal
        self.underlying = underlying
    }

    package var description: String { underlying.map { "\(message): \($0)" } ?? message }
}

/// What the control plane asks of the threads that move data: the async face of `EngineCommand`.
///
/// Elements and metadata areas are opened and closed behind it. Every method may be called from any task, and is
/// answered in the order in which the data plane gets to it. A method that throws has changed nothing.
package protocol DataPlane: Sendable {
    /// What happens, in order; one consumer. Ends after `stop`.
    var events: AsyncStream<EngineEvent> { get }
    /// What peers' control planes ask of ours; one consumer, which replies to each. Ends after `stop`.
    var messages: AsyncStream<PeerMessage> { get }

    /// Opens the element, holds it exclusively, and serves it.
    func addVolume(_ volume: VolumeOpening) async throws(DataPlaneError) -> ElementGeometry
    /// Stops serving it and closes its element. Refused while clients are connected, unless forced.
    func removeVolume(_ id: VolumeID, isForced: Bool) async throws(DataPlaneError)

    /// Opens target and metadata and attaches the pair, in the copy state that its metadata says (Initialized when new).
    ///
    /// A copy that was running when the metadata was written goes on; no other is started. When it answers, every later host
    /// write is mirrored or remembered, as the state says.
    func addPair(_ pair: PairOpening) async throws(DataPlaneError)
    /// Ends the association; nothing is in flight to the target, and its element is closed, when it answers.
    func detachPair(_ id: PairID) async throws(DataPlaneError)
    /// Begins an operation of the table, or refuses it with the table's words.
    ///
    /// A copy that it begins keeps in the undo area what it overwrites on a usable target, unless `keepsUndo` is false. Not for
    /// Detach, Dissolve, ResetToSync and ResetToAsync: those are the control plane's.
    func operate(
        _ id: PairID,
        _ operation: ReplicationOperation,
        isForced: Bool,
        keepsUndo: Bool
    ) async throws(DataPlaneError) -> OperationStart
    /// Keeps the places of the pair's elements as they are, so that it can be written down which one serves before the pair
    /// is detached, or lets them move again.
    ///
    /// What would move them is given up. Answers whether the second element serves.
    func holdPlace(_ id: PairID, isHeld: Bool) async throws(DataPlaneError) -> Bool
    /// Gives up the operation that is under way; `operationEnded` follows.
    ///
    /// A forward copy ends Suspended, a failback Failedover, a Split that waits leaves the copy running. A restore cannot
    /// be cancelled.
    func cancelOperation(_ id: PairID) async throws(DataPlaneError)

    /// Where the pair's elements may differ now, from an offset on and in a bounded number of runs.
    func changes(_ id: PairID, _ query: ChangesQuery) async throws(DataPlaneError) -> PairChanges
    /// Changes how the pair's mover gets along with hosts and with other movers, at once.
    func configureCopy(_ id: PairID, _ settings: CopySettings) async throws(DataPlaneError)
    /// Begins to compare the two elements of a Synchronized pair, while hosts go on; the event `verifyEnded` follows.
    func verify(_ id: PairID, _ extent: Extent) async throws(DataPlaneError)
    /// Gives up the verify that runs; `verifyEnded` follows.
    func cancelVerify(_ id: PairID) async throws(DataPlaneError)

    /// Whether a volume can take a size, by default that of its smallest element, and makes room for it in the metadata and
    /// undo areas of its pairs.
    ///
    /// Nothing else changes, and what changes does no harm if the volume does not grow.
    func prepareGrowth(
        _ id: VolumeID,
        to byteCount: UInt64?,
        _ areas: [MetadataArea]
    ) async throws(DataPlaneError) -> VolumeGrowth
    /// Gives a volume the size that was prepared; when it answers, hosts that connect see it.
    ///
    /// The caller has made durable before that the volume is to be opened with that size. It was not taken where this is
    /// refused, except by a data plane that stops: that may have taken it.
    func grow(_ id: VolumeID, to byteCount: UInt64) async throws(DataPlaneError)

    func status() async throws(DataPlaneError) -> EngineStatus
    /// Lets hosts connect there; answers with the address as it came out.
    func listen(at address: FrontEndAddress) async throws(DataPlaneError) -> FrontEndAddress

    /// Keeps a connection to the peer from now on; answers before there is one. Its key opens the way in as well.
    func addPeer(_ peer: PeerOpening) async throws(DataPlaneError)
    /// Gives the connection up, and takes its key back. Refused while a pair's target is there.
    func removePeer(_ id: PeerID) async throws(DataPlaneError)
    /// Changes how the link to a peer behaves, at once.
    func configurePeer(_ id: PeerID, _ settings: LinkSettings) async throws(DataPlaneError)
    /// Lets peers connect there; answers with the address as it came out.
    func listenToPeers(at address: PeerListening) async throws(DataPlaneError) -> PeerListening
    /// Lets a peer write a volume that is served, and closes its exports. Refused while it has hosts or pairs.
    func addReplica(_ replica: ReplicaOpening) async throws(DataPlaneError)
    /// The volume is this host's own again; nothing of the peer is in flight when it answers.
    func removeReplica(_ id: PairID) async throws(DataPlaneError)
    /// Whether hosts are answered before the target of a pair with a peer has their writes, and how old what it lacks may become
    /// before the pair is Skewed, 0 for no limit; at once.
    func setMode(
        _ id: PairID,
        isAsynchronous: Bool,
        recoveryPointNanoseconds: UInt64
    ) async throws(DataPlaneError)
    /// Whether a pair with a peer mirrors again by itself when that is back, or is Suspended; from the next time on.
    func setRecovery(_ id: PairID, isAutomatic: Bool) async throws(DataPlaneError)

    /// Keeps hosts away from a volume; when it answers, the last of them is gone.
    func withhold(_ id: VolumeID) async throws(DataPlaneError)
    /// Lets hosts come, whether or not peers have been asked. Refused where a peer serves the volume.
    func release(_ id: VolumeID) async throws(DataPlaneError)
    /// Keeps hosts away from a volume whatever its peers say: until it is a replica, or taken away, or `release`.
    func keepAway(_ id: VolumeID) async throws(DataPlaneError)
    /// Brings a pair of a withheld volume to the point at which its peer can take it over; answers with the record of that
    /// point, which both sides have.
    func settle(_ id: PairID) async throws(DataPlaneError) -> PairRecord
    /// Takes a replica from its source, which cannot open it any more; answers with the last record that was told of.
    ///
    /// With a sequence only where that is the record's, without one only while the source is not connected. Nothing is durable.
    func claimReplica(_ id: PairID, sequence: UInt64?) async throws(DataPlaneError) -> PairRecord
    /// Brings a claimed replica back to what it held before a copy; answers with its record, which calls it a usable image then.
    ///
    /// Refused with `nothingKept` where that was not kept. The source has to compare everything if it opens it again.
    func takeBack(_ id: PairID) async throws(DataPlaneError) -> PairRecord
    /// The source may open it again.
    func unclaimReplica(_ id: PairID) async throws(DataPlaneError)
    /// Makes the metadata area of a pair that is about to be taken over, durably, with this record in it.
    ///
    /// It takes all the space that it will need. The replica's own area is left alone.
    func prepareTakeOver(_ pair: PairOpening, _ record: PairRecord) async throws(DataPlaneError)
    /// Makes a claimed replica a pair of this host, as its area says; `isEqual` where nothing differs.
    func takeOver(_ pair: PairOpening, isEqual: Bool) async throws(DataPlaneError)
    /// The former source has told where its element may differ; answers with the record that it begins with as the replica.
    ///
    /// `former`: the last record that it had. `isAhead`: hosts were told there of writes that are not here. `isFirst`: before,
    /// everything counted as different.
    func meet(
        _ id: PairID,
        by former: PairRecord,
        _ extents: [Extent],
        isAhead: Bool,
        isFirst: Bool
    ) async throws(DataPlaneError) -> PairRecord

    /// Asks a peer's control plane something, in at most `PeerMessage.byteCountMaximum` bytes.
    func send(_ bytes: [UInt8], to peer: PeerID) async throws(MessageFailure) -> [UInt8]
    /// Answers a message of `messages`; where its connection is gone, the answer is dropped.
    func reply(to token: UInt64, with bytes: [UInt8])

    /// Drains, flushes, records every pair as cleanly closed and ends. May be called again.
    func stop() async
}

extension DataPlane {
    /// The same, with an undo where the pair's settings ask for one.
    package func operate(
        _ id: PairID,
        _ operation: ReplicationOperation,
        isForced: Bool
    ) async throws(DataPlaneError) -> OperationStart {
        try await operate(id, operation, isForced: isForced, keepsUndo: true)
    }
}
