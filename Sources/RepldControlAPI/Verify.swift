/// Asks for a verify: `POST /v1/pairs/{name}/Verify`.
package struct VerifyRequest: StrictRequest, Hashable {
    /// The first byte; by default that of the volume.
    package var offset: UInt64?
    /// How many bytes; by default all up to the volume's end.
    package var length: UInt64?

    package enum CodingKeys: String, CodingKey, CaseIterable { case offset, length }

    package init(offset: UInt64? = nil, length: UInt64? = nil) {
        self.offset = offset
        self.length = length
    }
}

/// What a verify has come to, or how far it is.
package struct VerifyReply: Codable, Hashable, Sendable {
    /// A range of the volume, in bytes.
    package struct Range: Codable, Hashable, Sendable {
        package var offset: UInt64
        package var length: UInt64

        package init(offset: UInt64, length: UInt64) {
            self.offset = offset
            self.length = length
        }
    }

    /// What the blocks were compared by.
    package var digest: String
    /// The range that was asked for.
    package var offset: UInt64
    package var length: UInt64
    /// Bytes that are decided: equal, or different.
    package var comparedByteCount: UInt64
    /// Bytes of the blocks that differ.
    package var differentByteCount: UInt64
    /// The ranges that differ, in disk order; absent where many jobs are listed, and while it runs.
    package var ranges: [Range]?
    /// Ranges that differ and are not in the list, which has its limit.
    package var unlistedRangeCount: UInt64
    /// Chunks, and their bytes, that were passed over at first, because hosts wrote there meanwhile.
    package var skippedCount: UInt64
    package var skippedByteCount: UInt64
    /// How often such chunks were looked at again.
    package var recheckCount: UInt64
    /// How many of them were compared under a lock in the end.
    package var lockedCount: UInt64

    package init(digest: String, offset: UInt64, length: UInt64) {
        self.digest = digest
        self.offset = offset
        self.length = length
        comparedByteCount = 0
        differentByteCount = 0
        unlistedRangeCount = 0
        skippedCount = 0
        skippedByteCount = 0
        recheckCount = 0
        lockedCount = 0
    }
}
