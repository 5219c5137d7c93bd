internal import RepldCore
internal import RepldFormat
internal import RepldPair

/// A pair's metadata, from the machine to its area: the record, the activity log, the bitmap pages.
///
/// Every block is built in memory of its own when the effect is carried out, and written durably (FUA).
extension Engine where P: ~Copyable {
    mutating func persist(pair: Int, volume: Int) {
        let record = volumes[volume].machine.recordInFlight(pair: pair)
        let block = unsafe volumes[volume].blocks.memory(of: .record, pair: pair)
        var span = unsafe MutableRawSpan(_unsafeBytes: block)
        record.encode(into: &span)
        if let target = remoteTarget(ofPair: pair, volume: volume) { links.targets[target].recordInFlight = record }
        unsafe write(block, at: record.areaOffset, .record, pair: pair, slot: 0, volume: volume)
    }

    mutating func writeLog(pair: Int, volume: Int) {
        let block = unsafe volumes[volume].blocks.memory(of: .log, pair: pair)
        var span = unsafe MutableRawSpan(_unsafeBytes: block)
        volumes[volume].machine.encodeLog(pair: pair, into: &span)
        let offset = volumes[volume].machine.logOffset(pair: pair)
        unsafe write(block, at: offset, .log, pair: pair, slot: 0, volume: volume)
    }

    mutating func writePage(_ place: Int, pair: Int, volume: Int) {
        let block = unsafe volumes[volume].blocks.memory(of: .page(place), pair: pair)
        var span = unsafe MutableRawSpan(_unsafeBytes: block)
        let offset = volumes[volume].machine.encodePage(pair: pair, place: place, into: &span)
        unsafe write(block, at: offset, .page, pair: pair, slot: place, volume: volume)
    }

    mutating func writeUndoPage(_ place: Int, pair: Int, volume: Int) {
        let block = unsafe volumes[volume].blocks.memory(of: .undoPage(place), pair: pair)
        var span = unsafe MutableRawSpan(_unsafeBytes: block)
        let offset = volumes[volume].machine.encodeUndoPage(pair: pair, place: place, into: &span)
        let slot = SlotID(index: UInt32(place), generation: 0)
        unsafe platform.write(
            volumes[volume].element(atPlace: HostedVolume.undoPlace(ofPair: pair)),
            at: offset,
            from: UnsafeRawBufferPointer(block),
            isDurable: true,
            token: token(.undoPage, volume: volume, leg: UInt8(pair), slot: slot)
        )
    }

    /// Gives the room of an undo area back; where the file system cannot, it stays as it is.
    mutating func emptyUndo(pair: Int, volume: Int) {
        let layout = undoLayout(ofPair: pair, volume: volume)
        platform.zero(
            volumes[volume].element(atPlace: HostedVolume.undoPlace(ofPair: pair)),
            Extent(offset: 0, length: layout.areaByteCount),
            .discard,
            isDurable: false,
            token: token(.undoEmptied, volume: volume, leg: UInt8(pair), slot: SlotID(index: 0, generation: 0))
        )
    }

    private mutating func write(
        _ block: UnsafeMutableRawBufferPointer,
        at offset: UInt64,
        _ kind: TokenKind,
        pair: Int,
        slot: Int,
        volume: Int
    ) {
        guard let element = volumes[volume].metadata[pair] else { invariantFailed("a pair has a metadata area") }
        unsafe platform.write(
            element,
            at: volumes[volume].metadataOffsets[pair] + offset,
            from: UnsafeRawBufferPointer(block),
            isDurable: true,
            token: token(kind, volume: volume, leg: UInt8(pair), slot: SlotID(index: UInt32(slot), generation: 0))
        )
    }

    /// A record of the log, or a page, or what concerns the undo area, is durable, or could not be written.
    mutating func metadataCompleted(_ kind: TokenKind, pair: Int, _ place: Int, _ failure: IOFailure?, volume: Int) {
        switch kind {
        case .log: volumes[volume].machine.logWritten(pair: pair, failure)
        case .undoPage: volumes[volume].machine.undoPageWritten(pair: pair, place: place, failure)
        case .undoEmptied: volumes[volume].machine.undoEmptied(pair: pair)
        default: volumes[volume].machine.pageWritten(pair: pair, place: place, failure)
        }
        carryOut(volume)
        if volumes[volume].isClosed { finishVolumeIfIdle(volume) }
    }
}
