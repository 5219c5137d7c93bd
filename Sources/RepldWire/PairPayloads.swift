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
