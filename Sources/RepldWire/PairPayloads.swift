package import RepldCore

/// What one side shows of a pair when a stream is opened: its record, and how it is set up.
///
///     offset  size  field
///          0    16  pair id (high, low)
///         16     8  size of the volume in bytes
///         24     8  current generation
///         32     8  base
///         40     8  what it is being filled from
///         48    32  history, newest first
///         80     8  meeting
///         88     1  flags: bit 0 meeting confirmed, 1 was serving, 2 has crashed, 3 acknowledges alone, 4 map known, 5 dirty
///         89     1  role: 0 source, 1 target
///         90     1  copy state, the standard's number
///         91     1  mode, the standard's number: 2 synchronous, 3 asynchronous
///         92     4  block size of the volume in bytes
///         96     1  log2 of the map's granule in bytes
///         97     7  zero
package struct PairOpening: FramePayload, BitwiseCopyable {
    package var record: SideRecord
    package var copyState: UInt8
    package var mode: UInt8
    package var blockByteCount: UInt32
    package var granuleShift: UInt8

    package static var byteCount: Int { 104 }

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
        bytes.storeLittleEndian(record.current.rawValue, at: 24)
        bytes.storeLittleEndian(record.base.rawValue, at: 32)
        bytes.storeLittleEndian(record.filling.rawValue, at: 40)
        for index in 0..<GenerationHistory.capacity {
            bytes.storeLittleEndian(record.history.numbers[index], at: 48 + index * 8)
        }
        bytes.storeLittleEndian(record.meeting, at: 80)
        bytes.storeLittleEndian(flags, at: 88)
        bytes.storeLittleEndian(record.role.rawValue, at: 89)
        bytes.storeLittleEndian(copyState, at: 90)
        bytes.storeLittleEndian(mode, at: 91)
        bytes.storeLittleEndian(blockByteCount, at: 92)
        bytes.storeLittleEndian(UInt64(granuleShift), at: 96)
    }

    private var flags: UInt8 {
        (record.isMeetingConfirmed ? 1 : 0) | (record.wasServing ? 2 : 0) | (record.hasCrashed ? 4 : 0)
            | (record.acknowledgesAlone ? 8 : 0) | (record.isMapKnown ? 16 : 0) | (record.isDirty ? 32 : 0)
    }

    package static func decode(_ bytes: borrowing RawSpan) throws(PayloadError) -> PairOpening {
        try checkSize(bytes)
        guard let role = PairRole(rawValue: bytes.loadLittleEndian(at: 89)) else { throw .impossible("role") }
        var record = SideRecord(
            pair: PairID(high: bytes.loadLittleEndian(at: 0), low: bytes.loadLittleEndian(at: 8)),
            volumeByteCount: bytes.loadLittleEndian(at: 16),
            role: role
        )
        record.current = Generation(bytes.loadLittleEndian(at: 24))
        record.base = Generation(bytes.loadLittleEndian(at: 32))
        record.filling = Generation(bytes.loadLittleEndian(at: 40))
        for index in 0..<GenerationHistory.capacity {
            record.history.numbers[index] = bytes.loadLittleEndian(at: 48 + index * 8)
        }
        record.meeting = bytes.loadLittleEndian(at: 80)
        let flags: UInt8 = bytes.loadLittleEndian(at: 88)
        guard flags < 64 else { throw .impossible("flags") }
        record.isMeetingConfirmed = flags & 1 != 0
        record.wasServing = flags & 2 != 0
        record.hasCrashed = flags & 4 != 0
        record.acknowledgesAlone = flags & 8 != 0
        record.isMapKnown = flags & 16 != 0
        record.isDirty = flags & 32 != 0
        let granule: UInt64 = bytes.loadLittleEndian(at: 96)
        guard (12...20).contains(granule) else { throw .impossible("granule") }
        let opening = PairOpening(
            record: record,
            copyState: bytes.loadLittleEndian(at: 90),
            mode: bytes.loadLittleEndian(at: 91),
            blockByteCount: bytes.loadLittleEndian(at: 92),
            granuleShift: UInt8(granule)
        )
        try opening.check()
        return opening
    }

    private func check() throws(PayloadError) {
        // What the kernel counts in is signed.
        guard record.volumeByteCount <= UInt64(Int64.max) else { throw .impossible("size of the volume") }
        guard mode == 2 || mode == 3 else { throw .impossible("mode") }
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
