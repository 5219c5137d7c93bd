/// What was found out about an element when it was opened.
package struct ElementGeometry: Hashable, Sendable {
    package var byteCount: UInt64
    /// Smallest unit of direct I/O in bytes, a power of two.
    package var logicalBlockByteCount: UInt32
    /// Unit that the medium writes without read-modify-write, in bytes.
    package var physicalBlockByteCount: UInt32
    package var isReadOnly: Bool
    /// Whether a discarded range is deallocated and then reads as zeroes.
    package var canDiscard: Bool
    /// Whether a range can be zeroed, deallocated or not, without moving data.
    package var canZeroFast: Bool
    /// Whether I/O bypasses the page cache.
    package var isDirect: Bool

    package init(
        byteCount: UInt64,
        logicalBlockByteCount: UInt32,
        physicalBlockByteCount: UInt32,
        isReadOnly: Bool,
        canDiscard: Bool,
        canZeroFast: Bool,
        isDirect: Bool
    ) {
        self.byteCount = byteCount
        self.logicalBlockByteCount = logicalBlockByteCount
        self.physicalBlockByteCount = physicalBlockByteCount
        self.isReadOnly = isReadOnly
        self.canDiscard = canDiscard
        self.canZeroFast = canZeroFast
        self.isDirect = isDirect
    }
}
