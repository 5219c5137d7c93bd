internal import RepldCore

/// A question about data that the mover or a verify has read.
@safe
package struct DataExamination: BitwiseCopyable {
    package enum Kind: UInt8, Sendable, BitwiseCopyable, CaseIterable {
        /// Whether every byte of the first buffer is zero; there is no second.
        case isZero
        case isEqual
        case haveEqualDigests
    }

    package var kind: Kind
    package var first: UnsafeRawBufferPointer
    package var second: UnsafeRawBufferPointer

    package init(_ kind: Kind, _ first: UnsafeRawBufferPointer, _ second: UnsafeRawBufferPointer) {
        self.kind = kind
        unsafe self.first = first
        unsafe self.second = second
    }

    /// The answer, for which all of the data may be looked at.
    package var isMatch: Bool {
        switch kind {
        case .isZero: unsafe Self.isZero(first)
        case .isEqual: unsafe Self.isEqual(first, second)
        case .haveEqualDigests: unsafe Self.haveEqualDigests(first, second)
        }
    }

    /// As much as the loop looks at itself: less than handing it to another thread takes.
    package static var glanceByteCount: Int { 4096 }

    /// The answer, where it is known after the first few bytes; `nil` where the rest has to be looked at.
    ///
    /// Most data that is to be copied is not zero, and says so at once. Digests are of what is most often equal: no look at the
    /// beginning saves the rest.
    package var answerAtAGlance: Bool? {
        if unsafe first.count <= Self.glanceByteCount { return isMatch }
        let beginning = 0..<Self.glanceByteCount
        switch kind {
        case .haveEqualDigests: return nil
        case .isZero:
            let isZero = unsafe Self.isZero(UnsafeRawBufferPointer(rebasing: first[beginning]))
            if isZero, Mutation.isOn(.takesDataForZeroes) { return true }
            return isZero ? nil : false
        case .isEqual:
            let isSame = unsafe Self.isEqual(
                UnsafeRawBufferPointer(rebasing: first[beginning]),
                UnsafeRawBufferPointer(rebasing: second[beginning])
            )
            return isSame ? nil : false
        }
    }

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

    /// Whether the blocks of two buffers have the same digests; ends at the first that has not.
    ///
    /// What a verify across hosts sees of the other side is its digests: a local one goes by the same.
    package static func haveEqualDigests(_ left: UnsafeRawBufferPointer, _ right: UnsafeRawBufferPointer) -> Bool {
        guard left.count == right.count else { return false }
        var offset = 0
        while offset < left.count {
            let range = offset..<min(offset + BlockDigest.blockByteCount, left.count)
            let leftDigest = unsafe BlockDigest.digest(UnsafeRawBufferPointer(rebasing: left[range]))
            let rightDigest = unsafe BlockDigest.digest(UnsafeRawBufferPointer(rebasing: right[range]))
            if leftDigest != rightDigest { return false }
            offset = range.upperBound
        }
        return true
    }

    /// The first run of blocks, at or behind `offset`, in which two buffers differ.
    package static func nextDifference(
        _ left: UnsafeRawBufferPointer,
        _ right: UnsafeRawBufferPointer,
        from offset: Int,
        blockByteCount: Int
    ) -> Range<Int>? {
        invariant(left.count == right.count && left.count % blockByteCount == 0, "whole blocks are compared")
        var first: Int?
        var place = offset
        while place < left.count {
            let block = place..<place + blockByteCount
            let isSame = unsafe isEqual(
                UnsafeRawBufferPointer(rebasing: left[block]),
                UnsafeRawBufferPointer(rebasing: right[block])
            )
            if isSame, let first { return first..<place }
            if !isSame, first == nil { first = place }
            place = block.upperBound
        }
        return first.map { $0..<left.count }
    }
}
