/// What an operator may set about a pair.
package struct PairSettings: Hashable, Sendable, BitwiseCopyable {
    /// Granule of the dirty map in bytes: a power of two from 4 KiB to 1 MiB.
    package var granuleByteCount: UInt32
    /// How long an operation on the target may take before the target counts as failed, in nanoseconds.
    package var targetTimeoutNanoseconds: UInt64
    /// How many chunks the mover has in flight.
    package var copyDepth: UInt8
    /// Bytes that the mover reads at once: a multiple of the granule, at most the largest buffer.
    package var copyChunkByteCount: UInt32
    /// Extent of the activity log in bytes: a power of two, from one granule to 1024.
    package var logExtentByteCount: UInt32
    /// Extents of the activity log that may be active at once.
    package var logExtentCount: UInt16
    /// The pair has an undo area, and keeps there what a copy overwrites on a target that is a usable image.
    package var keepsUndo: Bool
    /// Whether a pair that was Partitioned mirrors again by itself when its peer is back (CopyRecoveryMode Automatic), or is Suspended
    /// until somebody resumes it (Manual).
    package var recoversByItself = true
    /// How the mover gets along with hosts and with other movers; may change at any time.
    package var copy: CopySettings

    package init(
        granuleByteCount: UInt32 = 64 << 10,
        targetTimeoutNanoseconds: UInt64 = 30_000_000_000,
        copyDepth: UInt8 = 4,
        copyChunkByteCount: UInt32 = 1 << 20,
        logExtentByteCount: UInt32 = 4 << 20,
        logExtentCount: UInt16 = 1024,
        keepsUndo: Bool = false,
        copy: CopySettings = CopySettings()
    ) {
        self.granuleByteCount = granuleByteCount
        self.targetTimeoutNanoseconds = targetTimeoutNanoseconds
        self.copyDepth = copyDepth
        self.copyChunkByteCount = copyChunkByteCount
        self.logExtentByteCount = logExtentByteCount
        self.logExtentCount = logExtentCount
        self.keepsUndo = keepsUndo
        self.copy = copy
    }
}
