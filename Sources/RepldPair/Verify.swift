package import RepldCore

/// Why a verify is not begun.
package enum VerifyRefusal: Hashable, Sendable, BitwiseCopyable {
    /// Only a pair that is Synchronized is to be equal everywhere.
    case state(CopyState)
    case alreadyRunning
    /// The pair is about to be detached, or the volume to be closed.
    case ending
    /// The range is empty, not in whole blocks, or not inside the volume.
    case outsideVolume(byteCount: UInt64, blockByteCount: UInt32)
}

/// Why a verify ended before it had looked at everything.
///
/// What it has marked by then stays.
package enum VerifyFailure: Hashable, Sendable, BitwiseCopyable {
    case cancelled
    case leftSynchronized(CopyState)
    case detached
    case closing
    case sourceReadFailed(IOFailure, Extent)
    case targetReadFailed(IOFailure, Extent)
    /// It looked at everything, and what it found could not be made durable.
    case recordFailed(IOFailure)

    /// Words for the operator.
    package var words: String {
        switch self {
        case .cancelled: "cancelled"
        case .leftSynchronized(let state): "the pair became \(state.name), and only a Synchronized one is verified"
        case .detached: "the pair is being detached"
        case .closing: "the volume was closed"
        case .sourceReadFailed(let failure, let extent):
            "the source failed a read of \(extent.length) bytes at byte \(extent.offset): \(failure.words)"
        case .targetReadFailed(let failure, let extent):
            "the target failed a read of \(extent.length) bytes at byte \(extent.offset): \(failure.words)"
        case .recordFailed(let failure):
            "the differences are marked, but the pair's metadata could not be written: \(failure.words)"
        }
    }
}

/// What a verify has done so far.
package struct VerifyCounts: Hashable, Sendable, BitwiseCopyable {
    /// The range that was asked for.
    package var extent = Extent(offset: 0, length: 0)
    /// Bytes that are decided: equal, or different.
    package var doneByteCount: UInt64 = 0
    /// Bytes of the blocks that differ.
    package var differentByteCount: UInt64 = 0
    /// Ranges that differ and are not in the list, which has its limit.
    package var unlistedRangeCount: UInt64 = 0
    /// Chunks that were passed over at first, because hosts wrote there meanwhile.
    package var skippedCount: UInt64 = 0
    package var skippedByteCount: UInt64 = 0
    /// How often such chunks were looked at again.
    package var recheckCount: UInt64 = 0
    /// How many of them hosts would not let go of, so that they were compared under a lock in the end.
    package var lockedCount: UInt64 = 0

    package init() {}
}

/// A piece of the volume that is to be compared, or is being compared.
struct VerifyChunk: BitwiseCopyable {
    var extent: Extent
    /// How often a host's write has spoiled it.
    var attemptCount: UInt8 = 0
    /// Compared under the interval lock, piece by piece.
    var isLocked = false

    static var none: VerifyChunk { VerifyChunk(extent: Extent(offset: 0, length: 0)) }
}

/// One of the chunks that may be in flight.
struct VerifyLane: BitwiseCopyable {
    var chunk = VerifyChunk.none
    /// A slot works on it.
    var isBusy = false
    /// A host has written there since the comparison began: it proves nothing.
    var isDisturbed = false
    /// The piece that is being compared: the chunk, or the beginning of it under a lock.
    var piece = Extent(offset: 0, length: 0)

    var isIdle: Bool { !isBusy && chunk.extent.isEmpty }
}

/// The verify of a pair that runs, or ran last.
///
/// `idle → running → (recording) → idle`. While it is recording, everything has been compared, and the end is told when the
/// marks are durable.
struct PairVerify: ~Copyable {
    enum Stage: UInt8, BitwiseCopyable { case idle, running, recording }

    /// Chunks in flight: few, because hosts come first.
    static var laneCount: Int { 2 }
    /// Bytes compared at once without a lock, and under one: hosts' writes wait for the latter.
    static var chunkByteLimit: UInt64 { 256 << 10 }
    static var lockedByteLimit: UInt64 { 64 << 10 }
    /// Chunks that wait to be looked at again; when that many wait, the oldest is next.
    static var postponedLimit: Int { 64 }
    /// How often a chunk that hosts write to is compared without a lock.
    static var attemptLimit: UInt8 { 3 }
    /// Ranges that are kept with their places; of more only the number is known.
    static var rangeLimit: Int { 1000 }
    /// Ranges that are told at once, each by an event.
    static var announcedLimit: UInt64 { 16 }

    var stage = Stage.idle
    /// Tells the slots of this run from those that an earlier one has left in flight.
    var run: UInt32 = 0
    /// Slots that are in use, of whichever run.
    var slotCount = 0
    var cursor: UInt64 = 0
    var counts = VerifyCounts()
    var hasUnrecordedMarks = false
    var announcedCount: UInt64 = 0
    var lanes: FixedArray<VerifyLane>
    var postponed: BoundedQueue<VerifyChunk>
    /// The ranges that differ, in disk order; those that touch are one.
    var ranges: FixedArray<Extent>
    var rangeCount = 0

    /// `isInUse` false: the place of a verify that was never asked for takes next to no memory.
    init(isInUse: Bool = false) {
        lanes = FixedArray(repeating: VerifyLane(), count: Self.laneCount)
        postponed = BoundedQueue(capacity: isInUse ? Self.postponedLimit : 1, blank: .none)
        ranges = FixedArray(repeating: Extent(offset: 0, length: 0), count: isInUse ? Self.rangeLimit : 1)
    }

    var isRunning: Bool { stage != .idle }

    /// Adds a range that was found different and is not in the list.
    mutating func insert(_ extent: Extent) {
        var place = rangeCount
        while place > 0, ranges[place - 1].offset > extent.offset { place -= 1 }
        if place > 0, ranges[place - 1].end == extent.offset {
            ranges[place - 1].length += extent.length
            if place < rangeCount, ranges[place - 1].end == ranges[place].offset { closeGap(before: place) }
        } else if place < rangeCount, extent.end == ranges[place].offset {
            ranges[place] = Extent(offset: extent.offset, length: extent.length + ranges[place].length)
        } else if rangeCount == ranges.count {
            counts.unlistedRangeCount += 1
        } else {
            var last = rangeCount
            while last > place {
                ranges[last] = ranges[last - 1]
                last -= 1
            }
            ranges[place] = extent
            rangeCount += 1
        }
    }

    /// The ranges at `place` and before it have become one.
    private mutating func closeGap(before place: Int) {
        ranges[place - 1].length += ranges[place].length
        for index in place..<rangeCount - 1 { ranges[index] = ranges[index + 1] }
        rangeCount -= 1
    }
}
