package import RepldCore

/// What one side shows of a pair when a stream is opened: its record, and how it is set up.
///
///     offset  size  field
///          0    16  pair id (high, low)
///         16     8  size of the volume in bytes
///         24     4  term: how often the pair has moved to the other daemon
///         28     1  flags: bit 0 this side has the pair; otherwise it is the replica; of a replica's, bit 1 it can keep what a copy
///                   overwrites, 2 its record counts on what was kept, and that is gone, 3 what it holds is a usable image
///         29     1  copy state, the standard's number
///         30     1  mode, the standard's number: 2 synchronous, 3 asynchronous
///         31     1  log2 of the map's granule in bytes
///         32     4  block size of the volume in bytes
///         36     4  zero
///         40     8  sequence of the latest record; 0 for none
///         48     8  generation: the run that wrote it; 0 when not known
///         56     8  sequence of the latest record that the other side is known to have had
///         64    16  generation and sequence of the record by which this side took the pair over
///         80   128  the runs before, newest first: generation and sequence of the last record of each of eight
package struct PairOpening: FramePayload, BitwiseCopyable {
    package var record: SideRecord
    package var copyState: UInt8
    package var mode: UInt8
    package var blockByteCount: UInt32
    package var granuleShift: UInt8
    /// The replica can keep what a copy overwrites.
    package var keepsUndo = false
    /// What the replica has kept cannot be relied on any more.
    package var isUndoLost = false
    /// What the replica holds is a usable image, by the record that it has.
    package var isImage = false

    package static var byteCount: Int { 208 }

    package init(record: SideRecord, copyState: UInt8, mode: UInt8, blockByteCount: UInt32, granuleShift: UInt8) {
        self.record = record
        self.copyState = copyState
        self.mode = mode
        self.blockByteCount = blockByteCount
        self.granuleShift = granuleShift
    }

    package func encode(into bytes: inout MutableRawSpan) {
        bytes.storeLittleEndian(record.pair.high, at: 0)
        bytes.storeLittleEndian(record.pair.low, at: 8)
        bytes.storeLittleEndian(record.volumeByteCount, at: 16)
        bytes.storeLittleEndian(record.term, at: 24)
        bytes.storeLittleEndian(flags, at: 28)
        bytes.storeLittleEndian(copyState, at: 29)
        bytes.storeLittleEndian(mode, at: 30)
        bytes.storeLittleEndian(granuleShift, at: 31)
        bytes.storeLittleEndian(blockByteCount, at: 32)
        bytes.storeLittleEndian(UInt32(0), at: 36)
        bytes.storeLittleEndian(record.sequence, at: 40)
        bytes.storeLittleEndian(record.lineage.generation.rawValue, at: 48)
        bytes.storeLittleEndian(record.lineage.confirmedSequence, at: 56)
        bytes.storeLittleEndian(record.lineage.takenOverAt.generation.rawValue, at: 64)
        bytes.storeLittleEndian(record.lineage.takenOverAt.sequence, at: 72)
        for age in 0..<GenerationHistory.capacity {
            bytes.storeLittleEndian(record.lineage.history[age].generation.rawValue, at: 80 + 16 * age)
            bytes.storeLittleEndian(record.lineage.history[age].sequence, at: 88 + 16 * age)
        }
    }

    private var flags: UInt8 {
        (record.hasPair ? 1 : 0) | (keepsUndo ? 2 : 0) | (isUndoLost ? 4 : 0) | (isImage ? 8 : 0)
    }

    package static func decode(_ bytes: borrowing RawSpan) throws(PayloadError) -> PairOpening {
        try checkSize(bytes)
        let flags: UInt8 = bytes.loadLittleEndian(at: 28)
        guard flags < 16 else { throw .impossible("flags") }
        guard bytes.loadLittleEndian(at: 36, as: UInt32.self) == 0 else { throw .impossible("bytes that are zero") }
        var record = SideRecord(
            pair: PairID(high: bytes.loadLittleEndian(at: 0), low: bytes.loadLittleEndian(at: 8)),
            volumeByteCount: bytes.loadLittleEndian(at: 16),
            hasPair: flags & 1 != 0
        )
        record.term = bytes.loadLittleEndian(at: 24)
        record.sequence = bytes.loadLittleEndian(at: 40)
        record.lineage.generation = Generation(bytes.loadLittleEndian(at: 48))
        record.lineage.confirmedSequence = bytes.loadLittleEndian(at: 56)
        record.lineage.takenOverAt = HistoryPoint(
            Generation(bytes.loadLittleEndian(at: 64)),
            bytes.loadLittleEndian(at: 72)
        )
        for age in 0..<GenerationHistory.capacity {
            record.lineage.history.generations[age] = bytes.loadLittleEndian(at: 80 + 16 * age)
            record.lineage.history.sequences[age] = bytes.loadLittleEndian(at: 88 + 16 * age)
        }
        var opening = PairOpening(
            record: record,
            copyState: bytes.loadLittleEndian(at: 29),
            mode: bytes.loadLittleEndian(at: 30),
            blockByteCount: bytes.loadLittleEndian(at: 32),
            granuleShift: bytes.loadLittleEndian(at: 31)
        )
        opening.keepsUndo = flags & 2 != 0
        opening.isUndoLost = flags & 4 != 0
        opening.isImage = flags & 8 != 0
        try opening.check()
        return opening
    }

    private func check() throws(PayloadError) {
        // What the kernel counts in is signed.
        guard record.volumeByteCount <= UInt64(Int64.max) else { throw .impossible("size of the volume") }
        guard mode == 2 || mode == 3 else { throw .impossible("mode") }
        guard (12...20).contains(granuleShift) else { throw .impossible("granule") }
        guard blockByteCount >= 512, blockByteCount <= 1 << 20, blockByteCount.nonzeroBitCount == 1 else {
            throw .impossible("block size")
        }
    }
}

/// An operation on a pair, from the side it was asked of to the side that decides, or agreed between both.
///
/// A forwarded operation is one frame and its reply. One that both sides have to record is prepared first: the asked side
/// answers with a return code and holds the pair as it is until it hears commit or abort, or the session ends, which is abort.
///
///     offset  size  field
///          0     2  operation, the standard's number
///          2     1  phase: 0 forward, 1 prepare, 2 commit, 3 abort
///          3     1  flags: bit 0 force, 1 a plan only
///          4     1  copy state in which it was asked
///          5     1  copy state that it leads to; 0 when the other side decides
///          6     2  zero
///          8     8  revision of the pair that the asker knows
///         16     8  generation that the new state begins with; 0 for none
package struct StateChange: FramePayload, BitwiseCopyable {
    package enum Phase: UInt8, Sendable, CaseIterable, BitwiseCopyable {
        case forward = 0
        case prepare = 1
        case commit = 2
        case abort = 3
    }

    package var operation: UInt16
    package var phase: Phase
    package var isForced: Bool
    package var isPlan: Bool
    package var fromState: UInt8
    package var toState: UInt8
    package var revision: UInt64
    package var generation: Generation

    package static var byteCount: Int { 24 }

    package init(
        operation: UInt16,
        phase: Phase,
        isForced: Bool = false,
        isPlan: Bool = false,
        fromState: UInt8,
        toState: UInt8 = 0,
        revision: UInt64,
        generation: Generation = .none
    ) {
        self.operation = operation
        self.phase = phase
        self.isForced = isForced
        self.isPlan = isPlan
        self.fromState = fromState
        self.toState = toState
        self.revision = revision
        self.generation = generation
    }

    package func encode(into bytes: inout MutableRawSpan) {
        bytes.storeLittleEndian(operation, at: 0)
        bytes.storeLittleEndian(phase.rawValue, at: 2)
        bytes.storeLittleEndian(UInt8((isForced ? 1 : 0) | (isPlan ? 2 : 0)), at: 3)
        bytes.storeLittleEndian(fromState, at: 4)
        bytes.storeLittleEndian(toState, at: 5)
        bytes.storeLittleEndian(UInt16(0), at: 6)
        bytes.storeLittleEndian(revision, at: 8)
        bytes.storeLittleEndian(generation.rawValue, at: 16)
    }

    package static func decode(_ bytes: borrowing RawSpan) throws(PayloadError) -> StateChange {
        try checkSize(bytes)
        guard let phase = Phase(rawValue: bytes.loadLittleEndian(at: 2)) else { throw .impossible("phase") }
        let flags: UInt8 = bytes.loadLittleEndian(at: 3)
        guard flags < 4, bytes.loadLittleEndian(at: 6, as: UInt16.self) == 0 else { throw .impossible("flags") }
        return StateChange(
            operation: bytes.loadLittleEndian(at: 0),
            phase: phase,
            isForced: flags & 1 != 0,
            isPlan: flags & 2 != 0,
            fromState: bytes.loadLittleEndian(at: 4),
            toState: bytes.loadLittleEndian(at: 5),
            revision: bytes.loadLittleEndian(at: 8),
            generation: Generation(bytes.loadLittleEndian(at: 16))
        )
    }
}

/// Where the pair stands after an operation was asked for; the return code, the standard's number, is the frame's detail.
///
///     offset  size  field
///          0     1  copy state
///          1     7  zero
///          8     8  revision of the pair
///         16     8  bytes that the operation would lose, or that it has to move
///         24     8  job, in the numbering of the side that answers; 0 for none
package struct StateChangeResult: FramePayload, BitwiseCopyable {
    package var copyState: UInt8
    package var revision: UInt64
    package var bytesAtStake: UInt64
    package var job: UInt64

    package static var byteCount: Int { 32 }

    package init(copyState: UInt8, revision: UInt64, bytesAtStake: UInt64 = 0, job: UInt64 = 0) {
        self.copyState = copyState
        self.revision = revision
        self.bytesAtStake = bytesAtStake
        self.job = job
    }

    package func encode(into bytes: inout MutableRawSpan) {
        bytes.storeLittleEndian(UInt64(copyState), at: 0)
        bytes.storeLittleEndian(revision, at: 8)
        bytes.storeLittleEndian(bytesAtStake, at: 16)
        bytes.storeLittleEndian(job, at: 24)
    }

    package static func decode(_ bytes: borrowing RawSpan) throws(PayloadError) -> StateChangeResult {
        try checkSize(bytes)
        let copyState: UInt64 = bytes.loadLittleEndian(at: 0)
        guard copyState <= UInt64(UInt8.max) else { throw .impossible("copy state") }
        return StateChangeResult(
            copyState: UInt8(copyState),
            revision: bytes.loadLittleEndian(at: 8),
            bytesAtStake: bytes.loadLittleEndian(at: 16),
            job: bytes.loadLittleEndian(at: 24)
        )
    }
}
