internal import RepldCore

/// Where things are in the undo area of a pair: a sparse file with the old content of what a copy overwrites on the target.
///
///     offset        size        what
///          0        4 KiB each  pages (`BitmapSector`): one bit for each granule whose old content is here
///     head + n      as volume   the old content of byte n of the volume
///
/// The head is a whole number of MiB, so that granules stay aligned. The pages carry the generation of the area, which the
/// pair's record names: a page of an earlier undo is not taken for one of this. All of them are written, blank, before the
/// record says that there is an undo; so one that is not valid is damage, and then nobody knows what would have to be taken
/// back: the area as a whole says nothing.
package struct UndoLayout: Hashable, Sendable, BitwiseCopyable {
    package let volumeByteCount: UInt64
    package let pageCount: UInt64

    package init(volumeByteCount: UInt64, granuleByteCount: UInt64) {
        self.volumeByteCount = volumeByteCount
        pageCount = MetadataLayout(volumeByteCount: volumeByteCount, granuleByteCount: granuleByteCount).pageCount
    }

    package static func pageOffset(_ page: UInt64) -> UInt64 { page * UInt64(MetadataLayout.blockByteCount) }

    /// Where the old content of the volume's first byte is.
    package var headByteCount: UInt64 {
        let mebibyte: UInt64 = 1 << 20
        return (Self.pageOffset(pageCount) + mebibyte - 1) / mebibyte * mebibyte
    }

    /// The apparent size of the file.
    package var areaByteCount: UInt64 { headByteCount + volumeByteCount }
}

/// What the pages of an undo area say, where all of them could be read.
package struct RecoveredUndo: Sendable, Hashable {
    package var generation: UInt32
    /// Words of 64 granules whose old content is in the area.
    package var saved: [UInt64]

    /// Reads the pages, trusting nothing in them.
    ///
    /// - Parameters:
    ///   - head: the area's first bytes, as far as they could be read.
    ///   - record: what the pair's record says.
    ///   - granuleByteCount: the granule that is wanted; an area of another one is not used.
    /// - Returns: what is saved; `nil` when there is no undo, or when it cannot be relied on.
    package static func read(
        _ head: borrowing RawSpan,
        _ record: PairRecord,
        granuleByteCount: UInt64
    ) -> RecoveredUndo? {
        guard record.hasUndo, UInt64(1) << UInt64(record.granuleShift) == granuleByteCount else { return nil }
        let layout = UndoLayout(volumeByteCount: record.volumeByteCount, granuleByteCount: granuleByteCount)
        guard UInt64(head.byteCount) >= UndoLayout.pageOffset(layout.pageCount) else { return nil }
        var undo = RecoveredUndo(generation: record.undoGeneration, saved: [])
        for page in 0..<layout.pageCount {
            let start = Int(UndoLayout.pageOffset(page))
            let block = head.extracting(start..<start + MetadataLayout.blockByteCount)
            let isValid = BitmapSector.decodeUndoPage(
                page,
                block,
                generation: record.undoGeneration,
                record.pair,
                into: &undo.saved
            )
            guard isValid else { return nil }
        }
        return undo
    }
}
