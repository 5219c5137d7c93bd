package import Foundation

/// Where a pair's metadata is.
package enum MetadataKind: String, Codable, Hashable, Sendable, CaseIterable {
    /// A file in the daemon's state directory.
    case external
    /// The end of the volume's own element, behind the volume.
    case `internal`
}

/// Where a pair's metadata is, and where in it.
package struct MetadataReply: Codable, Hashable, Sendable {
    package var kind: MetadataKind
    package var path: String
    package var offset: UInt64

    package init(kind: MetadataKind, path: String, offset: UInt64) {
        self.kind = kind
        self.path = path
        self.offset = offset
    }
}

/// Asks for a pair: `POST /v1/pairs`.
///
/// What is not given comes from the daemon's `pair-defaults`.
package struct PairCreateRequest: StrictRequest, Hashable {
    package var sourceVolume: String
    /// The file or block device that becomes the copy, or a peer's volume: `repl://PEER/VOLUME`.
    package var targetPath: String
    /// By default the volume's name with `-mirror` and, where that is taken, a number.
    package var name: String?
    /// Makes the target: a sparse file as large as the volume, which must not exist yet.
    package var createsTarget: Bool?
    /// Whether the first copy starts at once (the default) or waits for Activate.
    package var activates: Bool?
    package var granuleByteCount: UInt32?
    package var targetTimeoutSeconds: Double?
    package var copyDepth: UInt8?
    /// Whether copies keep what they overwrite on a target that is a usable image.
    package var keepsUndo: Bool?
    /// How the copies are to get along with hosts and with each other.
    package var resync: ResyncRequest?
    /// By default external.
    package var metadata: MetadataKind?
    /// Internal metadata is written over that of a pair which the daemon does not know.
    package var overwritesMetadata: Bool?
    /// When hosts are told that a write is done: Synchronous, as by default, or, for a peer's volume, Asynchronous.
    package var mode: NumberOrName?
    /// How old what a peer's volume lacks may become in Asynchronous mode before the pair is Skewed; 0 for no limit, as by default.
    package var recoveryPointSeconds: Double?
    /// Whether the pair mirrors again by itself when a link that was lost is back: for a peer's volume Automatic, as by default, or
    /// Manual.
    package var copyRecoveryMode: NumberOrName?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case sourceVolume, targetPath, name, createsTarget, activates
        case granuleByteCount, targetTimeoutSeconds, copyDepth, keepsUndo, resync, metadata, overwritesMetadata
        case mode, recoveryPointSeconds, copyRecoveryMode
    }

    package init(
        sourceVolume: String,
        targetPath: String,
        name: String? = nil,
        createsTarget: Bool? = nil,
        activates: Bool? = nil,
        granuleByteCount: UInt32? = nil,
        targetTimeoutSeconds: Double? = nil,
        copyDepth: UInt8? = nil,
        keepsUndo: Bool? = nil,
        resync: ResyncRequest? = nil,
        metadata: MetadataKind? = nil,
        overwritesMetadata: Bool? = nil,
        mode: NumberOrName? = nil,
        recoveryPointSeconds: Double? = nil,
        copyRecoveryMode: NumberOrName? = nil
    ) {
        self.sourceVolume = sourceVolume
        self.targetPath = targetPath
        self.name = name
        self.createsTarget = createsTarget
        self.activates = activates
        self.granuleByteCount = granuleByteCount
        self.targetTimeoutSeconds = targetTimeoutSeconds
        self.copyDepth = copyDepth
        self.keepsUndo = keepsUndo
        self.resync = resync
        self.metadata = metadata
        self.overwritesMetadata = overwritesMetadata
        self.mode = mode
        self.recoveryPointSeconds = recoveryPointSeconds
        self.copyRecoveryMode = copyRecoveryMode
    }
}

/// Says what becomes of a pair whose link was lost and is back: `POST /v1/pairs/{name}/ConfigureRecovery`.
package struct RecoveryRequest: StrictRequest, Hashable {
    /// Automatic or Manual.
    package var copyRecoveryMode: NumberOrName

    package enum CodingKeys: String, CodingKey, CaseIterable { case copyRecoveryMode }

    package init(copyRecoveryMode: NumberOrName) { self.copyRecoveryMode = copyRecoveryMode }
}

/// A pair as `GET /v1/pairs/{name}` shows it: `CIM_StorageSynchronized` in JSON.
package struct PairReply: Codable, Hashable, Sendable {
    package var name: String
    /// 32 hexadecimal digits that name the pair for good.
    package var id: String
    /// Of a replica, the peer's volume.
    package var sourceVolume: String
    /// What this host has of a pair between two hosts; absent where both elements are here.
    package var role: PairRole?
    /// The other host; absent where both elements are here.
    package var peer: PairPeerReply?
    /// The elements by their roles now.
    package var sourcePath: String
    package var targetPath: String
    /// The element of the two that serves hosts; after a failover it is the target.
    package var servingPath: String?
    /// The target's own export is open.
    package var isTargetExported: Bool?
    package var mode: Enumerated
    /// How old what the other element lacks is: 0 while it has everything that hosts were answered for.
    ///
    /// Absent where nobody knows: the pair has not been in step since the daemon took it in, a verify has found differences, or
    /// the source is a peer's.
    package var exposureSeconds: Double?
    /// How old that may become in Asynchronous mode before the pair is Skewed; absent where there is no limit.
    package var recoveryPointSeconds: Double?
    package var syncType: Enumerated
    /// What CopyState was before there was CopyState.
    package var syncState: Enumerated
    package var replicaType: Enumerated
    package var copyMethodology: Enumerated
    /// Whether the pair mirrors again by itself after its link was lost; one that an error has stopped never does.
    ///
    /// Manual where both elements are on one host, absent where the source is a peer's.
    package var copyRecoveryMode: Enumerated?
    /// Whether hosts are refused writes when the copy fails.
    package var failedCopyStopsHostIO: Bool
    /// Whether what is written to the source is written to the target now.
    package var syncMaintained: Bool
    package var copyState: Enumerated
    package var requestedCopyState: Enumerated
    package var progressStatus: Enumerated
    /// The operation under way; absent when there is none.
    package var operation: Enumerated?
    /// Why it is Broken, or what it waits for; absent when there is nothing to say.
    package var reason: String?
    /// Changes with every change of the pair.
    package var revision: UInt64
    package var byteCount: UInt64?
    /// Bytes that may differ, in whole granules; absent while the pair is not attached.
    package var dirtyByteCount: UInt64?
    /// Of those, bytes that a verify has found different; absent where there are none.
    package var verifyMarkedByteCount: UInt64?
    /// Bytes that a copy has overwritten and Failover would bring back; absent where no copy can be taken back.
    package var undoByteCount: UInt64?
    /// Whether a copy can keep what it overwrites; absent while the pair is not attached.
    package var hasUndoArea: Bool?
    /// Bytes known to be equal, of 100; never 100 while anything differs.
    package var percentSynced: Int?
    package var copy: CopyProgress?
    /// What limits the copy that runs; absent when none does.
    package var resync: ResyncReply?
    /// The job that runs on it, or ran last.
    package var job: JobReply?
    /// Of a replica the granule counts; the rest is the source's business.
    package var settings: PairSettingsReply
    package var metadata: MetadataReply?
    package var createdAt: Date
    package var whenEstablished: Date
    /// The point in time that the target holds: it is kept equal since, or it was equal until.
    package var whenSynced: Date?
    package var whenSynchronized: Date?
    package var whenActivated: Date?
    package var whenDeactivated: Date?
    package var whenSuspended: Date?

    package init(
        name: String,
        id: String,
        sourceVolume: String,
        sourcePath: String,
        targetPath: String,
        copyState: Enumerated,
        requestedCopyState: Enumerated = .notApplicable,
        progressStatus: Enumerated,
        reason: String? = nil,
        revision: UInt64,
        byteCount: UInt64? = nil,
        dirtyByteCount: UInt64? = nil,
        percentSynced: Int? = nil,
        copy: CopyProgress? = nil,
        job: JobReply? = nil,
        settings: PairSettingsReply,
        createdAt: Date
    ) {
        self.name = name
        self.id = id
        self.sourceVolume = sourceVolume
        self.sourcePath = sourcePath
        self.targetPath = targetPath
        self.mode = Enumerated(ReplicationMode.synchronous)
        self.syncType = .mirrorSyncType
        self.syncState = Enumerated(SyncState.unknown)
        self.replicaType = .fullCopyReplicaType
        self.copyMethodology = .incrementalCopyMethodology
        self.failedCopyStopsHostIO = false
        self.syncMaintained = false
        self.copyState = copyState
        self.requestedCopyState = requestedCopyState
        self.progressStatus = progressStatus
        self.reason = reason
        self.revision = revision
        self.byteCount = byteCount
        self.dirtyByteCount = dirtyByteCount
        self.percentSynced = percentSynced
        self.copy = copy
        self.job = job
        self.settings = settings
        self.createdAt = createdAt
        self.whenEstablished = createdAt
    }
}

/// How far the copy that runs, or ran last, has come.
package struct CopyProgress: Codable, Hashable, Sendable {
    package var totalByteCount: UInt64
    package var doneByteCount: UInt64
    /// Of the bytes done: written to the target, found zero and punched, found equal and left.
    package var writtenByteCount: UInt64
    package var zeroByteCount: UInt64
    package var equalByteCount: UInt64
    /// Over the last seconds; absent until there is something to measure, and when no copy runs.
    package var bytesPerSecond: UInt64?
    package var secondsLeft: UInt64?

    package init(
        totalByteCount: UInt64,
        doneByteCount: UInt64,
        writtenByteCount: UInt64,
        zeroByteCount: UInt64,
        equalByteCount: UInt64,
        bytesPerSecond: UInt64? = nil,
        secondsLeft: UInt64? = nil
    ) {
        self.totalByteCount = totalByteCount
        self.doneByteCount = doneByteCount
        self.writtenByteCount = writtenByteCount
        self.zeroByteCount = zeroByteCount
        self.equalByteCount = equalByteCount
        self.bytesPerSecond = bytesPerSecond
        self.secondsLeft = secondsLeft
    }
}

/// What is set about a pair.
package struct PairSettingsReply: Codable, Hashable, Sendable {
    package var granuleByteCount: UInt32
    package var targetTimeoutSeconds: Double
    package var copyDepth: UInt8
    package var keepsUndo: Bool
    package var resync: ResyncSettingsReply?

    package init(
        granuleByteCount: UInt32,
        targetTimeoutSeconds: Double,
        copyDepth: UInt8,
        keepsUndo: Bool,
        resync: ResyncSettingsReply? = nil
    ) {
        self.granuleByteCount = granuleByteCount
        self.targetTimeoutSeconds = targetTimeoutSeconds
        self.copyDepth = copyDepth
        self.keepsUndo = keepsUndo
        self.resync = resync
    }
}

/// All pairs, by name.
package struct PairListReply: Codable, Hashable, Sendable {
    package var pairs: [PairReply]
    package init(pairs: [PairReply]) { self.pairs = pairs }
}
