internal import RepldCore
internal import RepldFormat

/// What a control plane and the checkers read from a disk.
extension SimulatedDisk {
    /// The first word of a sector, which has the number of the write that filled it.
    func word(_ sector: Int) -> UInt64 {
        let start = sector * Self.sectorByteCount
        return bytes(start..<start + 8).enumerated().reduce(0) { $0 | UInt64($1.element) << UInt64(8 * $1.offset) }
    }

    var words: [UInt64] { (0..<sectorCount).map { word($0) } }

    /// What a metadata area says; `nil` where it was never written.
    var pairRecord: PairRecord? {
        let block = PairRecord.blockByteCount
        let first = bytes(0..<block)
        let second = bytes(block..<2 * block)
        switch unsafe PairRecordRecovery.decide(first.span.bytes, second.span.bytes) {
        case .found(let record), .older(let record, _): return record
        case .blank, .lost: return nil
        }
    }

    /// The block of a metadata area, 0 or 1, that has this record.
    func block(of record: PairRecord) -> Int {
        let second = bytes(PairRecord.blockByteCount..<2 * PairRecord.blockByteCount)
        let found = try? unsafe PairRecord.decode(second.span.bytes)
        return found?.sequence == record.sequence ? 1 : 0
    }

    /// Makes this disk a metadata area that says nothing but a record.
    func lay(_ record: PairRecord) {
        var block = [UInt8](repeating: 0, count: PairRecord.blockByteCount)
        var span = block.mutableSpan
        var raw = unsafe span.mutableBytes
        record.encode(into: &raw)
        overwrite([UInt8](repeating: 0, count: byteCount), at: 0)
        overwrite(block, at: Int(record.areaOffset))
    }
}
