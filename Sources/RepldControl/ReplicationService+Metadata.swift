internal import RepldControlAPI
internal import RepldCore
internal import RepldDataPlane
internal import RepldEngine
internal import RepldFormat
internal import RepldPair

/// Metadata in an element, behind the volume
extension ReplicationService {
    /// How much of its element a new volume takes; `nil` for all of it.
    func byteCount(for request: VolumeAddRequest, _ path: String) throws(ControlError) -> UInt64? {
        let isReserving = request.reservesMetadata ?? false
        guard request.byteCount != nil || isReserving else { return nil }
        guard let element = ElementMark.find(path)?.byteCount else {
            throw ControlError(.elementUnavailable, "there is no file or block device at \(path)")
        }
        if let byteCount = request.byteCount {
            guard !isReserving else {
                throw ControlError(
                    .invalidRequest,
                    "a volume has the size that it is given, or one that leaves room for metadata: not both",
                    suggestion: "leave out one of --size and --reserve-metadata"
                )
            }
            guard byteCount > 0, byteCount % MetadataPlacing.alignment == 0 else {
                throw ControlError(
                    .invalidSettings,
                    "the size of a volume is \(byteCount) bytes; expected a multiple of 4KiB"
                )
            }
            guard byteCount <= element else {
                throw ControlError(
                    .elementUnavailable,
                    "\(path) has \(OperationWords.bytes(element)), and the volume is to have \(OperationWords.bytes(byteCount))",
                    suggestion: "enlarge it first, or ask for no more with --size"
                )
            }
            return byteCount
        }
        let granule = UInt64(settings.pairDefaults.granuleByteCount)
        guard let byteCount = MetadataPlacing.volumeByteCount(on: element, granuleByteCount: granule) else {
            throw ControlError(
                .elementUnavailable,
                "\(path) has \(OperationWords.bytes(element)): nothing is left of it beside metadata"
            )
        }
        return byteCount
    }

    /// The place for a new pair's metadata in the element of its volume, which serves hosts.
    func internalPlace(
        for entry: PairEntry,
        of volume: VolumeEntry,
        overwrites: Bool
    ) async throws(ControlError) -> InternalMetadata {
        if volume.isReadOnly {
            throw ControlError(
                .invalidRequest,
                "volume '\(volume.name)' is read-only: metadata cannot be written to \(volume.elementPath)",
                suggestion: "leave out '--metadata internal'"
            )
        }
        guard let now = ElementMark.find(volume.elementPath), volume.mark?.isSame(as: now) ?? true else {
            throw ControlError(
                .elementUnavailable,
                "at \(volume.elementPath) is not what volume '\(volume.name)' is served from any more"
            )
        }
        guard let served = try await planeStatus().volumes.first(where: { $0.id == volume.id }) else {
            throw ControlError(.volumeNotServed, "volume '\(volume.name)' is not served")
        }
        let layout = MetadataLayout(
            volumeByteCount: served.byteCount,
            granuleByteCount: UInt64(entry.settings.granuleByteCount)
        )
        let taken = registry.content.pairs.compactMap(\.internalMetadata).filter { area in
            ElementIdentity.key(of: area.elementPath) == ElementIdentity.key(of: volume.elementPath)
        }
        let offset = MetadataPlacing.offset(
            ofArea: layout.areaByteCount,
            elementByteCount: now.byteCount,
            volumeByteCount: served.byteCount,
            taken: taken
        )
        guard let offset else { throw noRoomBehind(volume, served.byteCount, now.byteCount, layout, taken) }
        let place = InternalMetadata(
            elementPath: volume.elementPath,
            offset: offset,
            byteCount: layout.areaByteCount
        )
        if !overwrites { try checkNoRecords(in: place, behind: served.byteCount, now.byteCount) }
        return place
    }

    private func noRoomBehind(
        _ volume: VolumeEntry,
        _ volumeByteCount: UInt64,
        _ elementByteCount: UInt64,
        _ layout: MetadataLayout,
        _ taken: [InternalMetadata]
    ) -> ControlError {
        let room = elementByteCount - min(volumeByteCount, elementByteCount)
        let others =
            taken.isEmpty
            ? "" : ", in part taken by the metadata of \(taken.count) other pair\(taken.count == 1 ? "" : "s")"
        return ControlError(
            .notEnoughResources,
            """
            the metadata needs \(OperationWords.bytes(layout.areaByteCount)) behind volume '\(volume.name)', and \
            \(volume.elementPath) has \(OperationWords.bytes(room)) there\(others)
            """,
            suggestion: """
                leave out '--metadata internal', and it is kept in the state directory; or make the volume smaller while it has \
                no pairs: 'replctl volume rm \(volume.name)', then 'replctl volume add \(volume.name) --element \
                \(volume.elementPath) --reserve-metadata'
                """
        )
    }

    /// How far in front of an area it is looked for others that reach into it, and into the area itself.
    private static var scanByteCount: UInt64 { 16 << 20 }

    /// Refuses a place in which another pair's records are, or that another pair's area reaches into.
    private func checkNoRecords(
        in place: InternalMetadata,
        behind volumeByteCount: UInt64,
        _ elementByteCount: UInt64
    ) throws(ControlError) {
        let firstBlock = (volumeByteCount + MetadataPlacing.alignment - 1) / MetadataPlacing.alignment
        let start = max(
            firstBlock * MetadataPlacing.alignment,
            place.offset - min(place.offset, Self.scanByteCount)
        )
        let end = min(place.end, place.offset + Self.scanByteCount)
        var scan = MetadataScan()
        do {
            let part = try ElementPart(path: place.elementPath, isForWriting: false)
            let bytes = try part.read(from: start, byteCount: Int(end - start))
            unsafe scan.add(bytes.span.bytes, from: start)
        } catch {
            throw ControlError(
                .elementUnavailable,
                "cannot look at the place of the metadata in \(place.elementPath)",
                underlying: error
            )
        }
        let known = Set(registry.content.pairs.filter { $0.internalMetadata != nil }.map(\.id))
        let found = scan.areas.first { area in
            !known.contains(area.record.pair) && area.offset < place.end && place.offset < area.end
        }
        guard let found else { return }
        throw ControlError(
            .elementInUse,
            """
            \(place.elementPath) has metadata of pair \(found.record.pair) at offset \(found.offset), which this daemon does not \
            know: another daemon's, or left by a pair that was given up
            """,
            suggestion: """
                'replctl metadata dump \(place.elementPath) --offset \(found.offset)' says whose it is, while nobody uses it; \
                if nobody needs it, say --overwrite-metadata
                """
        )
    }
}
