/// A contiguous range of bytes of a volume or an element, never empty past the end of a 64-bit address.
@usableFromInline
package struct Extent: Hashable, Sendable, BitwiseCopyable, CustomStringConvertible {
    /// First byte.
    @usableFromInline
    package var offset: UInt64
    /// Length in bytes.
    @usableFromInline
    package var length: UInt64

    @inlinable
    package init(offset: UInt64, length: UInt64) {
        invariant(offset.addingReportingOverflow(length).overflow == false, "an extent ends inside 64 bits")
        self.offset = offset
        self.length = length
    }

    /// First byte behind the extent.
    @inlinable
    package var end: UInt64 { offset &+ length }
    @inlinable
    package var isEmpty: Bool { length == 0 }

    /// Whether the two share a byte; an empty extent shares none.
    @inlinable
    package func overlaps(_ other: Extent) -> Bool {
        max(offset, other.offset) < min(end, other.end)
    }

    @inlinable
    package func contains(_ other: Extent) -> Bool {
        offset <= other.offset && other.end <= end
    }

    /// Whether both ends lie on multiples of `blockSize`, a power of two.
    @inlinable
    package func isAligned(to blockSize: UInt64) -> Bool {
        (offset | length) & (blockSize &- 1) == 0
    }

    @usableFromInline
    package var description: String { "[\(offset), +\(length))" }
}
