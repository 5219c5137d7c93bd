/// Looks at data that the mover has read, 64 bytes at a time.
package enum DataExamination {
    /// Whether every byte is zero; ends at the first 64 bytes that are not.
    package static func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
        var offset = 0
        while offset + 64 <= bytes.count {
            let word = unsafe bytes.loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt64>.self)
            if word != .zero { return false }
            offset += 64
        }
        while offset < bytes.count {
            if unsafe bytes[offset] != 0 { return false }
            offset += 1
        }
        return true
    }

    /// Whether two buffers hold the same.
    package static func isEqual(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
        guard left.count == right.count else { return false }
        var offset = 0
        while offset + 64 <= left.count {
            let leftWord = unsafe left.loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt64>.self)
            let rightWord = unsafe right.loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt64>.self)
            if leftWord != rightWord { return false }
            offset += 64
        }
        while offset < left.count {
            if unsafe left[offset] != right[offset] { return false }
            offset += 1
        }
        return true
    }
}
