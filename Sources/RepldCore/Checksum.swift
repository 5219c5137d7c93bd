internal import CRepldCRC32C

/// CRC-32C (Castagnoli), the checksum of every metadata block and wire frame.
///
/// Source: RFC 3720 appendix B.4.
package enum Checksum {
    /// The checksum of `bytes`, continuing from `checksum` (0 to start).
    package static func crc32c(_ bytes: borrowing RawSpan, continuing checksum: UInt32 = 0) -> UInt32 {
        unsafe bytes.withUnsafeBytes { buffer in
            guard let base = buffer.baseAddress else { return checksum }
            return unsafe repld_crc32c(checksum, base, buffer.count)
        }
    }
}
