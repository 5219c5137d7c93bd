package import RepldCore

/// The durable record of one pair: which pair it is, where its copy stood, and whether it was closed cleanly.
///
/// The area has two blocks of 4096 bytes. A record with sequence n is written to block n mod 2, so that the record
/// before it is still whole while it is written; recovery takes the valid block with the greater sequence. All numbers
/// are little-endian:
///
///     offset  size  field
///          0     8  magic "REPLPAIR"
///          8     4  version, 1
///         12     4  CRC-32C of the 4096 bytes, with these four taken as zero
///         16     8  sequence, from 1
///         24    16  pair id (high, low)
///         40     8  size of the volume in bytes
///         48     1  copy state, the standard's number
///         49     1  flags: bit 0 the pair was closed cleanly
///         50    46  zero
///         96  4000  zero
///
/// Meaning of "closed cleanly": everything acknowledged is durable on the source and, when the state is Synchronized, on
/// the target, and nothing has been written to either since. Without it, and without a finer map, any byte of the pair
/// may differ. So a pair that is opened first writes a record without the flag, and only then touches an element.
package struct PairRecord: Hashable, Sendable, BitwiseCopyable {
    package var sequence: UInt64
    package var pair: PairID
    package var volumeByteCount: UInt64
    /// The raw number of the copy state; `RepldPair` knows its meaning.
    package var copyState: UInt8
    package var isClosedCleanly: Bool

    package static var blockByteCount: Int { 4096 }
    package static var areaByteCount: Int { 2 * blockByteCount }

    package init(
        sequence: UInt64,
        pair: PairID,
        volumeByteCount: UInt64,
        copyState: UInt8,
        isClosedCleanly: Bool
    ) {
        self.sequence = sequence
        self.pair = pair
        self.volumeByteCount = volumeByteCount
        self.copyState = copyState
        self.isClosedCleanly = isClosedCleanly
    }

    /// Where in the area the record is written.
    package var areaOffset: UInt64 { (sequence & 1) * UInt64(Self.blockByteCount) }
}
