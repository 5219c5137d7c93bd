/// Little-endian numbers in raw bytes, bounds-checked: the only way formats and frames read and write integers.
extension RawSpan {
    /// The number at `offset`; the caller has checked that it lies inside.
    @inlinable
    package func loadLittleEndian<Number: FixedWidthInteger & BitwiseCopyable>(
        at offset: Int,
        as type: Number.Type = Number.self
    ) -> Number {
        invariant(
            offset >= 0 && offset + MemoryLayout<Number>.size <= byteCount,
            "a field lies inside its block"
        )
        return unsafe Number(littleEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: Number.self))
    }
}

extension MutableRawSpan {
    /// Stores `number` at `offset`, which the caller knows to lie inside.
    @inlinable
    package mutating func storeLittleEndian<Number: FixedWidthInteger & BitwiseCopyable>(
        _ number: Number,
        at offset: Int
    ) {
        invariant(
            offset >= 0 && offset + MemoryLayout<Number>.size <= byteCount,
            "a field lies inside its block"
        )
        storeBytes(of: number.littleEndian, toByteOffset: offset, as: Number.self)
    }
}
