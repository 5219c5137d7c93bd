package import Foundation

/// Asks for a pair: `POST /v1/pairs`.
///
/// What is not given comes from the daemon's `pair-defaults`.
package struct PairCreateRequest: StrictRequest, Hashable {
    package var sourceVolume: String
    /// The file or block device that becomes the copy.
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

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case sourceVolume, targetPath, name, createsTarget, activates
        case granuleByteCount, targetTimeoutSeconds, copyDepth
    }

    package init(
        sourceVolume: String,
        targetPath: String,
        name: String? = nil,
        createsTarget: Bool? = nil,
        activates: Bool? = nil,
        granuleByteCount: UInt32? = nil,
        targetTimeoutSeconds: Double? = nil,
        copyDepth: UInt8? = nil
    ) {
        self.sourceVolume = sourceVolume
        self.targetPath = targetPath
        self.name = name
        self.createsTarget = createsTarget
        self.activates = activates
        self.granuleByteCount = granuleByteCount
        self.targetTimeoutSeconds = targetTimeoutSeconds
        self.copyDepth = copyDepth
    }
}

/// A pair as `GET /v1/pairs/{name}` shows it: `CIM_StorageSynchronized` in JSON.
package struct PairReply: Codable, Hashable, Sendable {
    package var name: String
    /// 32 hexadecimal digits that name the pair for good.
    package var id: String
    package var sourceVolume: String
    package var sourcePath: String
    package var targetPath: String
    package var mode: Enumerated
    package var syncType: Enumerated
    package var copyState: Enumerated
    package var requestedCopyState: Enumerated
    package var progressStatus: Enumerated
    /// Why it is Broken, or what it waits for; absent when there is nothing to say.
    package var reason: String?
    /// Changes with every change of the pair.
    package var revision: UInt64
    package var byteCount: UInt64?
    /// Bytes that may differ, in whole granules; absent while the pair is not attached.
    package var dirtyByteCount: UInt64?
    /// Bytes known to be equal, of 100; never 100 while anything differs.
    package var percentSynced: Int?
    package var copy: CopyProgress?
    package var job: JobReply?
    package var settings: PairSettingsReply
    package var createdAt: Date

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
        self.mode = .synchronousMode
        self.syncType = .mirrorSyncType
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

/// The work that the last accepted operation of a pair started.
package struct JobReply: Codable, Hashable, Sendable {
    package var id: String
    package var operation: Enumerated
    package var state: Enumerated
    package var startedAt: Date

    package init(id: String, operation: Enumerated, state: Enumerated, startedAt: Date) {
        self.id = id
        self.operation = operation
        self.state = state
        self.startedAt = startedAt
    }
}

/// The settings that a pair was made with.
package struct PairSettingsReply: Codable, Hashable, Sendable {
    package var granuleByteCount: UInt32
    package var targetTimeoutSeconds: Double
    package var copyDepth: UInt8

    package init(granuleByteCount: UInt32, targetTimeoutSeconds: Double, copyDepth: UInt8) {
        self.granuleByteCount = granuleByteCount
        self.targetTimeoutSeconds = targetTimeoutSeconds
        self.copyDepth = copyDepth
    }
}

/// All pairs, by name.
package struct PairListReply: Codable, Hashable, Sendable {
    package var pairs: [PairReply]
    package init(pairs: [PairReply]) { self.pairs = pairs }
}
