import RepldCore
import RepldFormat
import RepldPair

/// A metadata area in memory: what a machine had written to it when it was killed.
struct MetadataAreaModel {
    private var bytes: [UInt8]

    init(volumeByteCount: UInt64, granuleByteCount: UInt64) {
        let layout = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount)
        bytes = Array(repeating: 0, count: Int(layout.areaByteCount))
    }

    /// Writes a block that `build` fills.
    mutating func write(at offset: UInt64, _ build: (inout MutableRawSpan) -> Void) {
        let range = Int(offset)..<Int(offset) + MetadataLayout.blockByteCount
        unsafe bytes.withUnsafeMutableBytes { buffer in
            var span = unsafe MutableRawSpan(_unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: buffer[range]))
            build(&span)
        }
    }

    /// A block on its way to the area.
    struct Block {
        var offset: UInt64
        var bytes: [UInt8]
    }

    /// Builds a block of which it is known only then where it goes.
    static func block(_ build: (inout MutableRawSpan) -> UInt64) -> Block {
        var block = [UInt8](repeating: 0, count: MetadataLayout.blockByteCount)
        let offset = unsafe block.withUnsafeMutableBytes { buffer in
            var span = unsafe MutableRawSpan(_unsafeBytes: buffer)
            return build(&span)
        }
        return Block(offset: offset, bytes: block)
    }

    mutating func write(_ block: Block) {
        bytes.replaceSubrange(Int(block.offset)..<Int(block.offset) + block.bytes.count, with: block.bytes)
    }

    /// The record that counts.
    var record: PairRecord? {
        let size = PairRecord.blockByteCount
        let first = Array(bytes[..<size])
        let second = Array(bytes[size..<2 * size])
        switch unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes) {
        case .found(let record), .older(let record, _): return record
        case .blank, .lost: return nil
        }
    }

    func maps(_ record: PairRecord, granuleByteCount: UInt64) -> RecoveredMaps {
        unsafe RecoveredMaps.read(bytes.span.bytes, record, granuleByteCount: granuleByteCount)
    }
}
