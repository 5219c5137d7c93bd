internal import Foundation
package import RepldControlAPI
package import RepldCore
internal import RepldDataPlane
package import RepldFormat
package import RepldPair

/// What a pair takes with it to the daemon that it moves to.
package struct MovingPair: Codable, Hashable, Sendable {
    /// The volume that it leaves, and that becomes its other element there.
    package var volume: String
    package var geometry: RemoteGeometry
    package var mode: ReplicationMode
    package var times: PairTimes
    package var granuleByteCount: UInt32
    package var targetTimeoutNanoseconds: UInt64
    package var copyDepth: UInt8
    package var copyChunkByteCount: UInt32
    package var resyncIsPaused: Bool
    package var resyncCapByteRate: UInt64
    package var resyncFloorByteRate: UInt64?
    package var resyncLatencyTargetPercent: UInt16
    package var resyncOrder: UInt16
    /// Absent for no limit.
    package var recoveryPointNanoseconds: UInt64?
    /// Absent for Automatic, of a daemon that knows no other.
    package var recoversByItself: Bool?

    package init(_ entry: PairEntry, volume: String, geometry: RemoteGeometry) {
        self.volume = volume
        self.geometry = geometry
        mode = entry.mode
        times = entry.times
        granuleByteCount = entry.settings.granuleByteCount
        targetTimeoutNanoseconds = entry.settings.targetTimeoutNanoseconds
        copyDepth = entry.settings.copyDepth
        copyChunkByteCount = entry.settings.copyChunkByteCount
        resyncIsPaused = entry.settings.copy.isPaused
        resyncCapByteRate = entry.settings.copy.capByteRate
        resyncFloorByteRate = entry.settings.copy.floorByteRate
        resyncLatencyTargetPercent = entry.settings.copy.latencyTargetPercent
        resyncOrder = entry.settings.copy.order
        recoveryPointNanoseconds = entry.recoveryPointNanoseconds
        recoversByItself = entry.settings.recoversByItself
    }

    package var settings: PairSettings {
        var settings = PairSettings(
            granuleByteCount: granuleByteCount,
            targetTimeoutNanoseconds: targetTimeoutNanoseconds,
            copyDepth: copyDepth,
            copyChunkByteCount: copyChunkByteCount
        )
        settings.copy.isPaused = resyncIsPaused
        settings.copy.capByteRate = resyncCapByteRate
        settings.copy.floorByteRate = resyncFloorByteRate
        settings.copy.latencyTargetPercent = resyncLatencyTargetPercent
        settings.copy.order = resyncOrder
        settings.recoversByItself = recoversByItself ?? true
        return settings
    }

    var fault: String? {
        ObjectName.fault(of: volume) ?? geometry.fault ?? PairSettingsRule.fault(of: settings)
            ?? recoveryPointNanoseconds.flatMap { RecoveryPointRule.fault(ofNanoseconds: $0) }
    }
}

/// Asks that the replica's host take a pair over: it serves hosts from then on.
///
/// The same again, after it was done, is answered as before: the first answer may have been lost.
package struct TakeOverMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.takeOver.rawValue
    package var pair: String
    /// Of all messages of one move the same: what was refused once is not done when it comes again, late.
    package var attempt: UInt64
    /// Nothing is done, and answered is whether it would be.
    package var isCheck: Bool
    package var operation: NumberOrName
    /// Of the record that both hosts have, and by which alone the pair may be taken over; 0 with `isCheck`.
    package var sequence: UInt64
    package var isEqual: Bool
    /// Hosts were told here of writes that the replica has not.
    package var isAhead: Bool
    package var moving: MovingPair

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case version, kind, pair, attempt, isCheck, operation, sequence, isEqual, isAhead, moving
    }

    package init(
        pair: PairID,
        attempt: UInt64,
        isCheck: Bool = false,
        operation: ReplicationOperation,
        sequence: UInt64,
        isEqual: Bool,
        isAhead: Bool,
        moving: MovingPair
    ) {
        self.pair = pair.description
        self.attempt = attempt
        self.isCheck = isCheck
        self.operation = .number(Int(operation.rawValue))
        self.sequence = sequence
        self.isEqual = isEqual
        self.isAhead = isAhead
        self.moving = moving
    }

    var fault: String? { PeerMessages.fault(of: pair) ?? moving.fault }
}

/// Tells the host that has taken a pair over that the former source is there, after all of a telling: `DifferencesMessage`.
package struct MeetMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.meet.rawValue
    package var pair: String
    /// The last record here, as `PeerMessages.text(of:)` has it: how far what is told can be believed.
    package var record: String
    /// Hosts were told here of writes that are not there.
    package var isAhead: Bool
    /// Of the pieces that said where its element may differ; no piece has come where nothing does.
    package var telling: UInt64
    /// Units that differ, in all pieces together: none of them was lost.
    package var differingUnitCount: UInt64
    package var geometry: RemoteGeometry
    /// Of the pair, as it was set there; absent for no limit.
    package var recoveryPointNanoseconds: UInt64?
    /// The same; absent for Automatic, of a daemon that knows no other.
    package var recoversByItself: Bool?

    package enum CodingKeys: String, CodingKey, CaseIterable {
        case version, kind, pair, record, isAhead, telling, differingUnitCount, geometry, recoveryPointNanoseconds
        case recoversByItself
    }

    package init(
        record: PairRecord,
        isAhead: Bool,
        telling: UInt64,
        differingUnitCount: UInt64,
        geometry: RemoteGeometry
    ) {
        pair = record.pair.description
        self.record = PeerMessages.text(of: record)
        self.isAhead = isAhead
        self.telling = telling
        self.differingUnitCount = differingUnitCount
        self.geometry = geometry
    }

    var fault: String? {
        if let fault = PeerMessages.fault(of: pair) ?? geometry.fault { return fault }
        if let id = PairID(pair), PeerMessages.record(in: record, of: id) == nil {
            return "record: expected one of the pair, whole, in Base64"
        }
        return recoveryPointNanoseconds.flatMap { RecoveryPointRule.fault(ofNanoseconds: $0) }
    }
}

/// Tells the replica's host when hosts are answered: what may be lost with the source depends on it.
package struct ModeMessage: StrictRequest, Hashable {
    package var version = PeerMessages.version
    package var kind = PeerMessages.Kind.mode.rawValue
    package var pair: String
    package var mode: ReplicationMode

    package enum CodingKeys: String, CodingKey, CaseIterable { case version, kind, pair, mode }

    package init(pair: PairID, mode: ReplicationMode) {
        self.pair = pair.description
        self.mode = mode
    }
}

extension PeerMessages {
    /// A record as it travels: its block, which has a checksum, in Base64.
    static func text(of record: PairRecord) -> String {
        Data(PairMetadata.block(with: record)).base64EncodedString()
    }

    /// Reads one of `pair`; `nil` for what is none.
    static func record(in text: String, of pair: PairID) -> PairRecord? {
        guard let bytes = Data(base64Encoded: text), bytes.count == PairRecord.blockByteCount else { return nil }
        let record = unsafe try? PairRecord.decode(Array(bytes).span.bytes)
        return record?.pair == pair ? record : nil
    }
}
