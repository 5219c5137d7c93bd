internal import CLZ4
internal import RepldCore

/// LZ4 blocks as payloads: one block for one frame, with nothing around it, because the header has both sizes.
package enum Compression {
    /// What can be done with the bytes of a frame before they are sent.
    package enum Outcome: Hashable, Sendable, BitwiseCopyable {
        /// All zero: a flag, and no payload.
        case zeroes
        /// So many bytes were written, and are the payload.
        case compressed(Int)
        /// It does not shrink: the bytes are the payload as they are.
        case plain
    }

    /// The most that a block may take of what it stands for: less gain is not worth the other side's work.
    static func byteCountMaximum(of plainByteCount: Int) -> Int { plainByteCount - plainByteCount / 16 - 1 }

    /// Compresses `plain` to the front of `buffer`, which need not be larger than `plain`.
    ///
    /// The compressor gives up as soon as its output would not be worth it, so that data that does not shrink costs the
    /// least. It works on its stack, 16 KiB, and allocates nothing.
    package static func compress(_ plain: borrowing RawSpan, into buffer: inout MutableRawSpan) -> Outcome {
        invariant(plain.byteCount <= WireLimits.pieceByteCountCeiling, "a payload is at most one piece")
        if isZero(plain) { return plain.byteCount > 0 ? .zeroes : .plain }
        let room = min(buffer.byteCount, byteCountMaximum(of: plain.byteCount))
        guard room > 0 else { return .plain }
        let written = unsafe plain.withUnsafeBytes { source in
            unsafe buffer.withUnsafeMutableBytes { target in
                guard let from = source.baseAddress, let to = target.baseAddress else { return 0 }
                let (input, output) = unsafe (
                    from.assumingMemoryBound(to: CChar.self), to.assumingMemoryBound(to: CChar.self)
                )
                return unsafe Int(LZ4_compress_default(input, output, CInt(source.count), CInt(room)))
            }
        }
        return written > 0 ? .compressed(written) : .plain
    }

    /// Expands a block over all of `plain`, which it has to fill exactly; false when it does not.
    ///
    /// After a failure `plain` holds anything.
    /// `LZ4_decompress_safe` reads only inside of the block and writes only inside of `plain`, whatever the block says.
    package static func expand(_ block: borrowing RawSpan, into plain: inout MutableRawSpan) -> Bool {
        let isInside = block.byteCount > 0 && block.byteCount <= WireLimits.pieceByteCountCeiling
        guard isInside, plain.byteCount > 0, plain.byteCount <= WireLimits.pieceByteCountCeiling else { return false }
        let expected = plain.byteCount
        let written = unsafe block.withUnsafeBytes { source in
            unsafe plain.withUnsafeMutableBytes { target in
                guard let from = source.baseAddress, let to = target.baseAddress else { return -1 }
                let (input, output) = unsafe (
                    from.assumingMemoryBound(to: CChar.self), to.assumingMemoryBound(to: CChar.self)
                )
                return unsafe Int(LZ4_decompress_safe(input, output, CInt(source.count), CInt(target.count)))
            }
        }
        return written == expected
    }

    /// Whether all bytes are zero; most data says no in its first words.
    package static func isZero(_ bytes: borrowing RawSpan) -> Bool {
        let wordCount = bytes.byteCount / 8
        for word in 0..<wordCount where bytes.loadLittleEndian(at: word * 8, as: UInt64.self) != 0 { return false }
        for index in wordCount * 8..<bytes.byteCount where bytes.loadLittleEndian(at: index, as: UInt8.self) != 0 {
            return false
        }
        return true
    }
}
