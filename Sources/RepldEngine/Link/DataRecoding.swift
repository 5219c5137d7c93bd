internal import RepldCore
internal import RepldWire

/// Bulk data that is to be compressed for a link, or was.
@safe
package struct DataRecoding: BitwiseCopyable {
    package enum Direction: UInt8, Sendable, BitwiseCopyable, CaseIterable {
        case compress
        case expand
    }

    package var direction: Direction
    package var source: UnsafeRawBufferPointer
    package var destination: UnsafeMutableRawBufferPointer

    /// Names what is to be done; source and destination do not overlap.
    package init(
        _ direction: Direction,
        _ source: UnsafeRawBufferPointer,
        into destination: UnsafeMutableRawBufferPointer
    ) {
        self.direction = direction
        unsafe self.source = source
        unsafe self.destination = destination
    }

    /// Does it; the bytes written, 0 where the data does not shrink or does not expand to exactly the destination.
    package func carryOut() -> Int {
        let bytes = unsafe source.bytes
        var room = unsafe destination.mutableBytes
        switch direction {
        case .compress:
            guard case .compressed(let count) = Compression.compress(bytes, into: &room) else { return 0 }
            return count
        case .expand:
            return Compression.expand(bytes, into: &room) ? room.byteCount : 0
        }
    }
}
