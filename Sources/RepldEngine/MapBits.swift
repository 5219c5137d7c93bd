internal import RepldWire

/// Bits of a dirty map as control planes tell them: one LZ4 block, where that is smaller.
package enum MapBits {
    /// `nil` where it is not worth it, as `Compression` sees it, and for bits none of which is set.
    package static func compressed(_ bits: [UInt8]) -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: bits.count)
        var span = buffer.mutableSpan
        var room = unsafe span.mutableBytes
        guard case .compressed(let byteCount) = unsafe Compression.compress(bits.span.bytes, into: &room) else {
            return nil
        }
        return Array(buffer.prefix(byteCount))
    }

    /// `nil` where the block does not stand for exactly so many bytes.
    package static func expanded(_ block: [UInt8], byteCount: Int) -> [UInt8]? {
        guard byteCount > 0 else { return nil }
        var bits = [UInt8](repeating: 0, count: byteCount)
        var span = bits.mutableSpan
        var target = unsafe span.mutableBytes
        return unsafe Compression.expand(block.span.bytes, into: &target) ? bits : nil
    }
}
