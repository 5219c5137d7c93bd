/// Metadata areas of which nobody says where they begin: found by their records.
package struct MetadataScan: Sendable {
    /// One area, by the newest of its records that were found.
    package struct Area: Hashable, Sendable {
        package let offset: UInt64
        package fileprivate(set) var record: PairRecord

        /// Where the area ends, by its record.
        package var end: UInt64 {
            let granule = UInt64(1) << UInt64(record.granuleShift)
            let layout = MetadataLayout(volumeByteCount: record.volumeByteCount, granuleByteCount: granule)
            return offset + layout.areaByteCount
        }
    }

    /// What was found, by offset.
    package private(set) var areas: [Area] = []

    package init() {}

    /// Looks for records in a part of an element that begins at `start`, a multiple of 4096; what is behind its last whole
    /// block is not looked at.
    package mutating func add(_ bytes: borrowing RawSpan, from start: UInt64) {
        let size = PairRecord.blockByteCount
        for block in 0..<bytes.byteCount / size {
            let place = start + UInt64(block * size)
            guard let record = try? PairRecord.decode(bytes.extracting(block * size..<(block + 1) * size)) else {
                continue
            }
            // A record says by its sequence in which of the two blocks of its area it is.
            guard place >= record.areaOffset else { continue }
            note(record, offset: place - record.areaOffset)
        }
    }

    private mutating func note(_ record: PairRecord, offset: UInt64) {
        guard let index = areas.firstIndex(where: { $0.offset >= offset }) else {
            return areas.append(Area(offset: offset, record: record))
        }
        if areas[index].offset > offset {
            areas.insert(Area(offset: offset, record: record), at: index)
        } else if areas[index].record.sequence < record.sequence {
            areas[index].record = record
        }
    }
}
