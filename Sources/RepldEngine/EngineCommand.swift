package import RepldCore
package import RepldFormat
package import RepldPair

/// Names a volume to the engine; given by the control plane, never used again for another volume.
package struct VolumeID: Hashable, Sendable, BitwiseCopyable {
    package let rawValue: UInt64
    package init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// An element opened by the control plane, with what was found out about it.
package struct ElementSpec<P: Platform & ~Copyable>: Sendable {
    package var handle: P.ElementHandle
    package var geometry: ElementGeometry
    /// The path or name that people know it by.
    package var name: String

    package init(handle: P.ElementHandle, geometry: ElementGeometry, name: String) {
        self.handle = handle
        self.geometry = geometry
        self.name = name
    }
}

/// A volume to serve.
package struct VolumeSpec<P: Platform & ~Copyable>: Sendable {
    package var id: VolumeID
    /// The name that front ends export it under.
    package var name: String
    package var isReadOnly: Bool
    /// The element that serves hosts; its geometry has the volume's size and block size.
    package var source: ElementSpec<P>
    /// Hosts are kept away until so many pairs with `awaitsPeer` have been opened by their peers.
    package var awaitedPeerCount = 0
    /// It is a peer's replica, from its first moment on; `LinkCommand.addReplica` follows.
    package var isReplica = false

    package init(id: VolumeID, name: String, isReadOnly: Bool, source: ElementSpec<P>) {
        self.id = id
        self.name = name
        self.isReadOnly = isReadOnly
        self.source = source
    }
}

/// A target to pair with a volume that is already served.
package struct PairSpec<P: Platform & ~Copyable>: Sendable {
    package var volume: VolumeID
    package var pair: PairID
    /// The name that people know the pair by.
    package var name: String
    package var target: TargetSpec<P>
    /// Where the pair's metadata is kept.
    package var metadata: ElementSpec<P>
    /// Where the area begins in that element, in bytes: a multiple of 4096.
    package var metadataOffset: UInt64 = 0
    /// What that area said when it was opened, or a fresh record for a new pair.
    package var record: PairRecord
    package var maps: RecoveredMaps
    /// The pair has just been made: everything is to be copied, and nothing is worth comparing.
    package var isNew: Bool
    package var settings: PairSettings
    /// Where the pair keeps what a copy overwrites, of `UndoLayout.areaByteCount` bytes at least; `nil` where it keeps nothing.
    package var undoArea: ElementSpec<P>?
    /// What the pages of that area said when it was opened.
    package var undo: RecoveredUndo?
    /// The peer may have taken the pair over while this daemon was away: hosts are kept away until it has said.
    package var awaitsPeer = false
    /// Drawn for the run that begins; none for a pair of one host.
    package var generation = Generation.none

    package init(
        volume: VolumeID,
        pair: PairID,
        name: String,
        target: TargetSpec<P>,
        metadata: ElementSpec<P>,
        record: PairRecord,
        maps: RecoveredMaps,
        isNew: Bool,
        settings: PairSettings,
        undoArea: ElementSpec<P>? = nil,
        undo: RecoveredUndo? = nil
    ) {
        self.volume = volume
        self.pair = pair
        self.name = name
        self.target = target
        self.metadata = metadata
        self.record = record
        self.maps = maps
        self.isNew = isNew
        self.settings = settings
        self.undoArea = undoArea
        self.undo = undo
    }
}

/// Why the engine refused a command.
package enum EngineRefusal: Error, Hashable, Sendable {
    case noSuchVolume
    case noSuchPair
    case nameInUse
    /// The volume still has pairs; detach them first.
    case volumeHasPairs
    /// Front-end clients are still connected; how many.
    case volumeInUse(connectionCount: Int)
    /// A fixed table is full; which.
    case tableFull(String)
    /// The target is smaller than the source.
    case targetTooSmall(sourceByteCount: UInt64, targetByteCount: UInt64)
    /// The target's blocks are larger than the source's.
    case blockSizeMismatch(source: UInt32, target: UInt32)
    case targetReadOnly
    /// The dirty maps of so large a volume need more memory than a pair may take; a larger granule needs less.
    case dirtyMapTooLarge(byteCount: UInt64, limit: UInt64)
    /// The undo area is too small for the volume, or has larger blocks.
    case undoAreaUnusable(byteCount: UInt64, needed: UInt64)
    /// The metadata area is too small for the volume.
    case metadataTooSmall(byteCount: UInt64, needed: UInt64)
    /// The operations table does not let it happen: what it says, and about what.
    case operationRefused(OperationVerdict, PairFacts)
    /// The operation began and failed.
    case operationFailed(OperationFailure)
    /// Nothing is under way that can be cancelled.
    case cannotCancel(ReplicationOperation?)
    /// A verify was not begun; why not.
    case verifyRefused(VerifyRefusal)
    case noVerifyRunning
    /// Both elements are of this host: nothing is asynchronous between them.
    case notRemote
    /// A peer serves the volume, and this host's element is older.
    case takenOver
    /// The two elements of the pair differ, or something is under way.
    case notSettled
    /// The replica has heard of something later than what it was to be taken over with.
    case recordMismatch
    /// The source is connected: it has to be asked.
    case sourceConnected
    /// What the peer has sent is still being carried out.
    case replicaBusy
    /// What a copy has overwritten on the replica was not kept, or is gone.
    case nothingKept
    /// The volume does not take another size; why not.
    case growthRefused(GrowthRefusal)
    case stopping
}

/// How far an operation has come when it is answered.
package enum OperationStart: Sendable, Hashable {
    /// Done, and durable.
    case done
    /// The result held already.
    case held
    /// Under way; the event `operationEnded` tells the end.
    case started
}

/// The size that a volume has, and the one that it can take; the same where there is nothing to do.
package struct VolumeGrowth: Hashable, Sendable {
    package var fromByteCount: UInt64
    package var toByteCount: UInt64

    package init(fromByteCount: UInt64, toByteCount: UInt64) {
        self.fromByteCount = fromByteCount
        self.toByteCount = toByteCount
    }
}

/// One thing that the control plane asks of a data-plane thread.
///
/// `answer` is called on the loop thread and must not block.
package enum EngineCommand<P: Platform & ~Copyable>: Sendable {
    case addVolume(VolumeSpec<P>, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Refused while clients are connected, unless `isForced`: then they are disconnected.
    case removeVolume(VolumeID, isForced: Bool, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    case addPair(PairSpec<P>, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Ends the association; the answer comes when nothing is in flight to the target and its element is closed.
    case detachPair(PairID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Begins an operation of the table; those that start no job are answered when their result is durable.
    case operate(
        PairID,
        ReplicationOperation,
        isForced: Bool,
        keepsUndo: Bool = true,
        answer: @Sendable (Result<OperationStart, EngineRefusal>) -> Void
    )
    /// Keeps the places of the pair's elements as they are, or lets them move again; answers whether the second serves.
    case holdPlace(PairID, isHeld: Bool, answer: @Sendable (Result<Bool, EngineRefusal>) -> Void)
    /// Gives up the operation that is under way.
    case cancelOperation(PairID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Changes how the pair's mover gets along with hosts and other movers, at once.
    case configureCopy(PairID, CopySettings, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Begins to compare the two elements of a pair over an extent, or all of the volume; the event `verifyEnded` tells the end.
    case verify(PairID, Extent?, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    case cancelVerify(PairID, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Which size a volume can take, up to that of its smallest element where none is asked for; changes nothing.
    case checkGrowth(VolumeID, UInt64?, answer: @Sendable (Result<VolumeGrowth, EngineRefusal>) -> Void)
    /// Gives a volume and its pairs a larger size; answered when hosts see it. From the call on, a start has to open it with that size.
    case grow(VolumeID, UInt64, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    case listen(P.ListenerHandle, answer: @Sendable (Result<Void, EngineRefusal>) -> Void)
    /// Where a pair's elements may differ now.
    case changes(PairID, ChangesQuery, answer: @Sendable (Result<PairChanges, EngineRefusal>) -> Void)
    /// What concerns peers and what they write here.
    case link(LinkCommand<P>)
    case status(answer: @Sendable (EngineStatus) -> Void)
    /// Drains, flushes, records every pair as cleanly closed, then ends the loop. The answer is its last act.
    case stop(answer: @Sendable () -> Void)
}

/// What a volume is doing.
package struct VolumeStatus: Sendable {
    package var id: VolumeID
    package var name: String
    package var byteCount: UInt64
    package var blockByteCount: UInt32
    package var isReadOnly: Bool
    package var connectionCount: Int
    package var requestsInFlight: Int
    package var readCount: UInt64 = 0
    package var readByteCount: UInt64 = 0
    package var writeCount: UInt64 = 0
    package var writeByteCount: UInt64 = 0
    package var flushCount: UInt64 = 0
    package var failedRequestCount: UInt64 = 0
    /// Reads that the source could not serve and a target did.
    package var readsServedByTarget: UInt64 = 0
    package var pairs: [PairStatus] = []
    /// Hosts are kept away: because peers have to be asked first (how many), or because one of them serves the volume.
    package var isWithheld = false
    package var awaitedPeerCount = 0
    package var isTakenOver = false
    /// How often another element has come to serve hosts.
    package var servingEpoch: UInt32 = 0

    package init(
        id: VolumeID,
        name: String,
        byteCount: UInt64,
        blockByteCount: UInt32,
        isReadOnly: Bool,
        connectionCount: Int,
        requestsInFlight: Int
    ) {
        self.id = id
        self.name = name
        self.byteCount = byteCount
        self.blockByteCount = blockByteCount
        self.isReadOnly = isReadOnly
        self.connectionCount = connectionCount
        self.requestsInFlight = requestsInFlight
    }
}

/// What a pair is doing.
///
/// Bytes are upper bounds: whole granules of the dirty map.
package struct PairStatus: Sendable {
    package var id: PairID
    package var name: String
    package var copyState: CopyState
    package var progress: ProgressStatus
    /// What the operations table would be asked about it now.
    package var facts: PairFacts
    /// Roles are reversed: the second element is the source.
    package var isSecondSource: Bool
    /// Hosts are served by the second element.
    package var isSecondPrimary: Bool
    /// The target's own export is open.
    package var isTargetExported: Bool
    /// Why it is Broken, or what it waits for; empty when there is nothing to say.
    package var reason: String
    /// What a copy would look at.
    package var dirtyByteCount: UInt64
    /// Of the copy that runs or ran last: bytes it had to look at, and bytes it has dealt with so far.
    package var copyTotalByteCount: UInt64
    package var copyDoneByteCount: UInt64
    /// Of those, bytes written to the target, bytes found zero and punched, bytes found equal and left.
    package var copyWrittenByteCount: UInt64
    package var copyZeroByteCount: UInt64
    package var copyEqualByteCount: UInt64
    /// It has an undo area, and keeps there what a copy overwrites on a usable target.
    package var keepsUndo = false
    /// What holds the mover back, and what it costs hosts; `nil` while it has nothing to do.
    package var copyControl: CopyControlStatus?
    /// How far the verify has come that runs; `nil` when none does.
    package var verify: VerifyCounts?
    /// The peer that has the target; `nil` where it is an element of this host.
    package var peer: PeerID?
    /// The peer has taken the pair over, as it said when it was last asked.
    package var isTakenOver = false
    /// Hosts wait until the peer has said whether it has.
    package var isAwaited = false
    /// How old what the other element lacks is, in nanoseconds: 0 while it has everything, `nil` where nobody knows.
    package var exposureNanoseconds: UInt64?

    package init(
        id: PairID,
        name: String,
        copyState: CopyState,
        progress: ProgressStatus,
        facts: PairFacts,
        isSecondSource: Bool,
        isSecondPrimary: Bool,
        isTargetExported: Bool,
        reason: String,
        dirtyByteCount: UInt64,
        copyTotalByteCount: UInt64,
        copyDoneByteCount: UInt64,
        copyWrittenByteCount: UInt64,
        copyZeroByteCount: UInt64,
        copyEqualByteCount: UInt64
    ) {
        self.id = id
        self.name = name
        self.copyState = copyState
        self.progress = progress
        self.facts = facts
        self.isSecondSource = isSecondSource
        self.isSecondPrimary = isSecondPrimary
        self.isTargetExported = isTargetExported
        self.reason = reason
        self.dirtyByteCount = dirtyByteCount
        self.copyTotalByteCount = copyTotalByteCount
        self.copyDoneByteCount = copyDoneByteCount
        self.copyWrittenByteCount = copyWrittenByteCount
        self.copyZeroByteCount = copyZeroByteCount
        self.copyEqualByteCount = copyEqualByteCount
    }
}

/// A reading of everything the engine does, taken between two turns of the loop.
package struct EngineStatus: Sendable {
    package var volumes: [VolumeStatus]
    package var connectionCount: Int
    package var buffersTaken: Int
    package var peers: [PeerStatus] = []
    package var replicas: [ReplicaStatus] = []

    package init(volumes: [VolumeStatus], connectionCount: Int, buffersTaken: Int) {
        self.volumes = volumes
        self.connectionCount = connectionCount
        self.buffersTaken = buffersTaken
    }
}

/// Something that happened on the data plane that an operator may want to know.
package struct EngineEvent: Sendable {
    package enum Kind: Sendable, Hashable {
        case copyStateChanged(from: CopyState, to: CopyState)
        /// An operation came to its end, or failed to.
        case operationEnded(ReplicationOperation, OperationFailure?)
        /// Source and target are other elements now: whether the second element is the source.
        case rolesReversed(isSecondSource: Bool)
        /// The pair stopped because of an error; the words say which.
        case pairBroken(String)
        /// A read of the source failed and was served by a target; whether the source could be rewritten from it.
        case sourceReadServedByTarget(Extent, isRepaired: Bool)
        case sourceWriteFailed(Extent, IOFailure)
        /// The pair's metadata record could not be written.
        case recordFailed(IOFailure)
        /// A verify has found the two elements different here; the first ranges are told one by one.
        case verifyFound(Extent)
        case verifyEnded(VerifyReport, VerifyFailure?)
        case clientConnected(UInt32)
        /// A client went away, with the reason when the protocol was broken.
        case clientDisconnected(UInt32, reason: String?)
        /// More happened than the queue could hold; how many events are missing.
        case eventsLost(UInt64)
        /// What a peer has kept of a pair does not say what its element lacks: everything is compared.
        case historyCompared(HandshakeRule)
        /// A failback to a peer has nothing left to copy: the peer can take the pair over.
        case caughtUp
        /// What a peer has kept of what a copy has overwritten is gone.
        case undoLost
        /// The peer says that it has taken the pair over; hosts are kept away.
        ///
        /// Told when the last of them is gone, again and again.
        case takenOver
        /// Every peer that had to be asked has been: hosts may come.
        case released
    }

    package var volume: VolumeID?
    package var pair: PairID?
    package var kind: Kind

    package init(volume: VolumeID?, pair: PairID?, kind: Kind) {
        self.volume = volume
        self.pair = pair
        self.kind = kind
    }
}
