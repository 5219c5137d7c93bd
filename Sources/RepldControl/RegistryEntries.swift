package import Foundation
package import RepldControlAPI
package import RepldCore
package import RepldEngine
package import RepldPair

/// A volume as the registry keeps it.
package struct VolumeEntry: Codable, Hashable, Sendable {
    /// Never used again for another volume.
    package var number: UInt64
    package var name: String
    package var elementPath: String
    package var isReadOnly: Bool
    package var createdAt: Date
    /// The volume's size in bytes and block size where they are not the element's: it came from another element, or has grown.
    package var byteCount: UInt64?
    package var blockByteCount: UInt32?
    /// What its own element was when it was last open; an older daemon has not written it.
    package var mark: ElementMark?

    package init(
        number: UInt64,
        name: String,
        elementPath: String,
        isReadOnly: Bool,
        createdAt: Date,
        byteCount: UInt64? = nil,
        blockByteCount: UInt32? = nil
    ) {
        self.number = number
        self.name = name
        self.elementPath = elementPath
        self.isReadOnly = isReadOnly
        self.createdAt = createdAt
        self.byteCount = byteCount
        self.blockByteCount = blockByteCount
    }

    package var id: VolumeID { VolumeID(rawValue: number) }
}

/// Where a pair's metadata area is that lies in an element, as the registry keeps it.
///
/// Fixed when the pair is made: neither an element that grows nor roles that change move it.
package struct InternalMetadata: Codable, Hashable, Sendable {
    package var elementPath: String
    package var offset: UInt64
    /// The size of the area: no other one is placed in it.
    package var byteCount: UInt64

    package init(elementPath: String, offset: UInt64, byteCount: UInt64) {
        self.elementPath = elementPath
        self.offset = offset
        self.byteCount = byteCount
    }

    package var end: UInt64 { offset + byteCount }
}

/// A pair as the registry keeps it.
package struct PairEntry: Codable, Hashable, Sendable {
    package var id: PairID
    package var name: String
    package var volumeNumber: UInt64
    /// Of a peer's volume, how people write it (`RemoteTarget.text`).
    package var targetPath: String
    /// The peer's volume that is its other element; `nil` for an element of this host.
    package var remote: RemoteTarget?
    package var settings: PairSettings
    package var createdAt: Date
    /// Revisions below this may have been shown; the next start of the daemon begins here.
    package var revisionLimit: UInt64
    /// When hosts are told that a write is done.
    package var mode = ReplicationMode.synchronous
    /// How old what its target lacks may become in asynchronous mode, in nanoseconds; `nil` for no limit.
    package var recoveryPointNanoseconds: UInt64?
    package var times = PairTimes()
    /// What its second element was when it was last open; an older daemon has not written it.
    package var mark: ElementMark?
    /// Where its metadata is; `nil` for a file in the state directory.
    package var internalMetadata: InternalMetadata?
    /// Why it is Broken, where another element lay in its target's place; `nil` as soon as it is not.
    package var replacement: String?
    /// Of a pair with a peer: the element that is here is its second; the pair has been taken over from the peer.
    package var isSecondHere = false
    /// Whether the peer has told what its element has that this one has not, since the pair was taken over from it.
    ///
    /// Until then everything may differ, and the peer cannot have taken the pair back.
    package var isPeerMet = true
    /// It rests because its volume has become a replica, and goes on when that is a source again.
    package var isResting = false

    package init(
        id: PairID,
        name: String,
        volumeNumber: UInt64,
        targetPath: String,
        settings: PairSettings,
        createdAt: Date,
        revisionLimit: UInt64
    ) {
        self.id = id
        self.name = name
        self.volumeNumber = volumeNumber
        self.targetPath = targetPath
        self.settings = settings
        self.createdAt = createdAt
        self.revisionLimit = revisionLimit
    }

    private enum CodingKeys: String, CodingKey {
        case id, name, volumeNumber, targetPath, remote, createdAt, revisionLimit
        case granuleByteCount, targetTimeoutNanoseconds, copyDepth, copyChunkByteCount
        case keepsUndo, mode, recoveryPointNanoseconds, times, mark, internalMetadata, replacement
        case isSecondHere, isPeerMet, recoversByItself, isResting
        case resyncIsPaused, resyncCapByteRate, resyncFloorByteRate, resyncLatencyTargetPercent, resyncOrder
    }

    package init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        let text = try container.decode(String.self, forKey: .id)
        guard let id = PairID(text) else {
            throw DecodingError.dataCorruptedError(
                forKey: .id,
                in: container,
                debugDescription: "found '\(text)', expected 32 lower-case hexadecimal digits"
            )
        }
        self.id = id
        name = try container.decode(String.self, forKey: .name)
        volumeNumber = try container.decode(UInt64.self, forKey: .volumeNumber)
        remote = try container.decodeIfPresent(RemoteTarget.self, forKey: .remote)
        targetPath = try remote?.text ?? container.decode(String.self, forKey: .targetPath)
        createdAt = try container.decode(Date.self, forKey: .createdAt)
        revisionLimit = try container.decode(UInt64.self, forKey: .revisionLimit)
        settings = PairSettings(
            granuleByteCount: try container.decode(UInt32.self, forKey: .granuleByteCount),
            targetTimeoutNanoseconds: try container.decode(UInt64.self, forKey: .targetTimeoutNanoseconds),
            copyDepth: try container.decode(UInt8.self, forKey: .copyDepth),
            copyChunkByteCount: try container.decode(UInt32.self, forKey: .copyChunkByteCount)
        )
        settings.keepsUndo = try container.decodeIfPresent(Bool.self, forKey: .keepsUndo) ?? true
        settings.copy = try Self.copySettings(in: container)
        mode = try container.decodeIfPresent(ReplicationMode.self, forKey: .mode) ?? .synchronous
        recoveryPointNanoseconds = try container.decodeIfPresent(UInt64.self, forKey: .recoveryPointNanoseconds)
        times = try container.decodeIfPresent(PairTimes.self, forKey: .times) ?? PairTimes()
        mark = try container.decodeIfPresent(ElementMark.self, forKey: .mark)
        internalMetadata = try container.decodeIfPresent(InternalMetadata.self, forKey: .internalMetadata)
        replacement = try container.decodeIfPresent(String.self, forKey: .replacement)
        isSecondHere = try container.decodeIfPresent(Bool.self, forKey: .isSecondHere) ?? false
        isPeerMet = try container.decodeIfPresent(Bool.self, forKey: .isPeerMet) ?? true
        isResting = try container.decodeIfPresent(Bool.self, forKey: .isResting) ?? false
        settings.recoversByItself = try container.decodeIfPresent(Bool.self, forKey: .recoversByItself) ?? true
    }

    /// An older daemon has not written them.
    private static func copySettings(in container: KeyedDecodingContainer<CodingKeys>) throws -> CopySettings {
        var copy = CopySettings()
        copy.isPaused = try container.decodeIfPresent(Bool.self, forKey: .resyncIsPaused) ?? copy.isPaused
        copy.capByteRate = try container.decodeIfPresent(UInt64.self, forKey: .resyncCapByteRate) ?? copy.capByteRate
        copy.floorByteRate = try container.decodeIfPresent(UInt64.self, forKey: .resyncFloorByteRate)
        copy.latencyTargetPercent =
            try container.decodeIfPresent(UInt16.self, forKey: .resyncLatencyTargetPercent) ?? copy.latencyTargetPercent
        copy.order = try container.decodeIfPresent(UInt16.self, forKey: .resyncOrder) ?? copy.order
        return copy
    }

    package func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(id.description, forKey: .id)
        try container.encode(name, forKey: .name)
        try container.encode(volumeNumber, forKey: .volumeNumber)
        if remote == nil { try container.encode(targetPath, forKey: .targetPath) }
        try container.encodeIfPresent(remote, forKey: .remote)
        try container.encode(createdAt, forKey: .createdAt)
        try container.encode(revisionLimit, forKey: .revisionLimit)
        try container.encode(settings.granuleByteCount, forKey: .granuleByteCount)
        try container.encode(settings.targetTimeoutNanoseconds, forKey: .targetTimeoutNanoseconds)
        try container.encode(settings.copyDepth, forKey: .copyDepth)
        try container.encode(settings.copyChunkByteCount, forKey: .copyChunkByteCount)
        try container.encode(settings.keepsUndo, forKey: .keepsUndo)
        try container.encode(settings.copy.isPaused, forKey: .resyncIsPaused)
        try container.encode(settings.copy.capByteRate, forKey: .resyncCapByteRate)
        try container.encodeIfPresent(settings.copy.floorByteRate, forKey: .resyncFloorByteRate)
        try container.encode(settings.copy.latencyTargetPercent, forKey: .resyncLatencyTargetPercent)
        try container.encode(settings.copy.order, forKey: .resyncOrder)
        try container.encode(mode, forKey: .mode)
        try container.encodeIfPresent(recoveryPointNanoseconds, forKey: .recoveryPointNanoseconds)
        try container.encode(times, forKey: .times)
        try container.encodeIfPresent(mark, forKey: .mark)
        try container.encodeIfPresent(internalMetadata, forKey: .internalMetadata)
        try container.encodeIfPresent(replacement, forKey: .replacement)
        if isResting { try container.encode(true, forKey: .isResting) }
        guard remote != nil else { return }
        try container.encode(isSecondHere, forKey: .isSecondHere)
        try container.encode(isPeerMet, forKey: .isPeerMet)
        try container.encode(settings.recoversByItself, forKey: .recoversByItself)
    }
}

/// What is left of a pair that was dissolved: `CIM_SynchronizationAspect`.
///
/// A later pair of the same two elements, whichever of them is its target, compares them and copies what differs.
package struct SynchronizationAspect: Codable, Hashable, Sendable {
    /// Of the pair that was.
    package var pair: String
    package var name: String
    package var sourcePath: String
    package var targetPath: String
    package var dissolvedAt: Date
    /// The standard's number of the copy state that the pair had.
    package var copyState: UInt8
    /// The target was a usable image.
    package var isTargetConsistent: Bool
    package var byteCount: UInt64

    package init(
        pair: PairID,
        name: String,
        sourcePath: String,
        targetPath: String,
        dissolvedAt: Date,
        copyState: CopyState,
        isTargetConsistent: Bool,
        byteCount: UInt64
    ) {
        self.pair = pair.description
        self.name = name
        self.sourcePath = sourcePath
        self.targetPath = targetPath
        self.dissolvedAt = dissolvedAt
        self.copyState = copyState.rawValue
        self.isTargetConsistent = isTargetConsistent
        self.byteCount = byteCount
    }
}
