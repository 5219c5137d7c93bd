internal import Logging
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair
internal import RepldUring
internal import Synchronization

/// The elements that the loop has, or had: for metadata in an element that is open already, and is held.
final class OpenElements: Sendable {
    private struct Entry: Sendable { weak let element: OpenElement? }

    private let entries = Mutex<[Entry]>([])

    func note(_ element: OpenElement) {
        entries.withLock { entries in
            entries.removeAll { $0.element == nil }
            entries.append(Entry(element: element))
        }
    }

    /// The open element that a path leads to; `nil` when it is not open.
    func find(_ path: String) -> OpenElement? {
        entries.withLock { $0.compactMap(\.element) }.first { $0.isSame(asPath: path) }
    }
}

/// The metadata area of a pair, before the loop has it
extension UringDataPlane {
    /// The file or element that has a pair's area, and what the area says.
    func openMetadata(
        _ pair: PairOpening,
        _ record: PairRecord,
        _ layout: MetadataLayout,
        isNew: Bool
    ) async throws(DataPlaneError) -> (metadata: ElementSpec<UringPlatform>, maps: RecoveredMaps) {
        let name = "\(pair.metadata)"
        if pair.metadata.isInternal {
            let element = try await elementWithMetadata(pair, layout)
            let maps = try await prepareMetadata(pair.metadata, record, layout, isNew: isNew)
            // It may have grown since it was opened, and the area lie in what it has been given.
            var geometry = element.geometry
            let byteCount = element.currentByteCount ?? geometry.byteCount
            geometry.byteCount = byteCount - byteCount % UInt64(geometry.logicalBlockByteCount)
            return (ElementSpec(handle: element, geometry: geometry, name: name), maps)
        }
        // A file has its size before it is opened.
        let maps = try await prepareMetadata(pair.metadata, record, layout, isNew: isNew)
        let file = try await open(pair.metadata.path, isReadOnly: false)
        return (ElementSpec(handle: file, geometry: file.geometry, name: name), maps)
    }

    /// The element that has a pair's area, where that fits behind the volume.
    ///
    /// One that a volume or a pair has open is not opened again: it is held exclusively. The same handle serves both.
    private func elementWithMetadata(
        _ pair: PairOpening,
        _ layout: MetadataLayout
    ) async throws(DataPlaneError) -> OpenElement {
        let place = pair.metadata
        let volumeByteCount = layout.volumeByteCount
        guard place.offset >= volumeByteCount, place.offset % UInt64(MetadataLayout.blockByteCount) == 0 else {
            throw DataPlaneError(
                .metadata,
                "the metadata at \(place) would lie inside the volume, which has \(volumeByteCount) bytes"
            )
        }
        var found = openElements.find(place.path)
        if found == nil {
            if pair.isNew {
                throw DataPlaneError(.metadata, "\(place.path) is not the element that the volume is served from")
            }
            found = try await open(place.path, isReadOnly: false)
        }
        guard let element = found, !element.geometry.isReadOnly else {
            throw DataPlaneError(.metadata, "\(place.path) takes no writes, and has the metadata of the pair")
        }
        let byteCount = element.currentByteCount ?? 0
        guard byteCount >= place.offset, byteCount - place.offset >= layout.areaByteCount else {
            throw DataPlaneError(
                .metadata,
                "\(place.path) has \(byteCount) bytes: the metadata at \(place) needs \(layout.areaByteCount) and does not fit"
            )
        }
        return element
    }

    /// What a record of another size says of a volume of this one.
    private static func fit(_ record: inout PairRecord, to volumeByteCount: UInt64) {
        guard record.volumeByteCount != volumeByteCount else { return }
        // Nobody knows which of the two sizes its undo area was laid out for.
        record.hasUndo = false
        // Of a volume that has grown the rest of it is as true as it was.
        guard record.volumeByteCount > volumeByteCount else { return }
        record.volumeByteCount = volumeByteCount
        record.isClosedCleanly = false
        record.mapTrust = .none
    }

    /// What the metadata says of a pair, or what is to be assumed when it says nothing.
    static func record(
        of pair: PairOpening,
        volumeByteCount: UInt64
    ) throws(DataPlaneError) -> (record: PairRecord, isNew: Bool) {
        func assumed(_ state: CopyState) -> PairRecord {
            PairRecord(
                sequence: 0,
                pair: pair.id,
                volumeByteCount: volumeByteCount,
                copyState: state.rawValue,
                isClosedCleanly: false
            )
        }
        let recovery: PairRecordRecovery
        do {
            recovery = try PairMetadata.read(pair.metadata)
        } catch {
            throw DataPlaneError(.metadata, "\(error)")
        }
        if pair.isNew {
            var record = assumed(.initialized)
            // Behind the one that says that there is a pair, so that it stays whole while the next is written.
            if case .found(let first) = recovery, first.pair == pair.id { record.sequence = first.sequence }
            return (record, true)
        }
        switch recovery {
        case .found(var record), .older(var record, _):
            guard record.pair == pair.id else {
                throw DataPlaneError(
                    .metadata,
                    "\(pair.metadata) belongs to pair \(record.pair), not to \(pair.id)"
                )
            }
            Self.fit(&record, to: volumeByteCount)
            return (record, false)
        case .blank:
            throw DataPlaneError(
                .metadata,
                """
                the records in \(pair.metadata) are all zeroes, and once were not: nobody can say which element has the newer \
                data
                """
            )
        case .lost(let first, let second):
            throw DataPlaneError(
                .metadata,
                """
                neither record in \(pair.metadata) can be read (\(first.words); \(second.words)): \
                nobody can say which element has the newer data
                """
            )
        }
    }

    /// Reads a metadata area on a thread that may wait for a slow device.
    func prepareMetadata(
        _ place: MetadataPlace,
        _ record: PairRecord,
        _ layout: MetadataLayout,
        isNew: Bool
    ) async throws(DataPlaneError) -> RecoveredMaps {
        let maps = try await onWorker { () throws(DataPlaneError) in
            try MetadataFile.prepare(place, record, layout, isNew: isNew)
        }
        if let distrust = maps.distrust {
            logger.warning(
                "everything is compared: what the metadata says of a pair's differences cannot be relied on",
                metadata: ["area": "\(place)", "reason": "\(distrust)"]
            )
        }
        if maps.damagedSectorCount > 0 {
            logger.warning(
                "bitmap sectors are damaged; what they stood for is compared",
                metadata: ["area": "\(place)", "sectors": "\(maps.damagedSectorCount)"]
            )
        }
        return maps
    }
}
