package import RepldCore
package import RepldDataPlane
package import RepldEngine
package import RepldFormat
internal import RepldPair
internal import RepldUring

/// Pairs that move between two hosts to the daemon of their other element
extension UringDataPlane {
    package func withhold(_ id: VolumeID) async throws(DataPlaneError) {
        try await ask("volume \(id.rawValue)") { .link(.handover(.withhold(id, answer: $0))) }
    }

    package func keepAway(_ id: VolumeID) async throws(DataPlaneError) {
        try await ask("volume \(id.rawValue)") { .link(.handover(.keepAway(id, answer: $0))) }
    }

    package func release(_ id: VolumeID) async throws(DataPlaneError) {
        try await ask("volume \(id.rawValue)") { .link(.handover(.release(id, answer: $0))) }
    }

    package func settle(_ id: PairID) async throws(DataPlaneError) -> PairRecord {
        try await ask("pair \(id)") { .link(.handover(.settle(id, answer: $0))) }
    }

    package func claimReplica(_ id: PairID, sequence: UInt64?) async throws(DataPlaneError) -> PairRecord {
        try await ask("replica \(id)") { .link(.handover(.claimReplica(id, sequence: sequence, answer: $0))) }
    }

    package func takeBack(_ id: PairID) async throws(DataPlaneError) -> PairRecord {
        try await ask("replica \(id)") { .link(.handover(.takeBack(id, answer: $0))) }
    }

    package func unclaimReplica(_ id: PairID) async throws(DataPlaneError) {
        try await ask("replica \(id)") { .link(.handover(.unclaimReplica(id, answer: $0))) }
    }

    package func prepareTakeOver(_ pair: PairOpening, _ record: PairRecord) async throws(DataPlaneError) {
        let layout = MetadataLayout(
            volumeByteCount: record.volumeByteCount,
            granuleByteCount: UInt64(pair.settings.granuleByteCount)
        )
        try await onWorker { () throws(DataPlaneError) in
            do {
                try PairMetadata.beginBoth(record, in: pair.metadata)
            } catch {
                throw DataPlaneError(.metadata, "cannot write the pair metadata \(pair.metadata)", underlying: error)
            }
            _ = try MetadataFile.prepare(pair.metadata, record, layout, isNew: true)
        }
    }

    package func takeOver(_ pair: PairOpening, isEqual: Bool) async throws(DataPlaneError) {
        let served = try await status().volumes.first { $0.id == pair.volume }
        guard let served else {
            throw DataPlaneError(.refused, "its volume is not served", refusal: .noSuchVolume)
        }
        let (record, _) = try Self.record(of: pair, volumeByteCount: served.byteCount)
        let target = try await open(pair.target)
        let layout = MetadataLayout(
            volumeByteCount: served.byteCount,
            granuleByteCount: UInt64(pair.settings.granuleByteCount)
        )
        // What the area has behind the record says nothing yet.
        let (metadata, _) = try await openMetadata(pair, record, layout, isNew: true)
        var spec = PairSpec<UringPlatform>(
            volume: pair.volume,
            pair: pair.id,
            name: pair.name,
            target: target,
            metadata: metadata,
            record: record,
            maps: isEqual ? .nothingDiffers : .unknown(because: nil),
            isNew: false,
            settings: pair.settings
        )
        spec.generation = .fresh()
        try await ask("pair '\(pair.name)'") { [spec] in .link(.handover(.takeOver(spec, answer: $0))) }
    }

    package func meet(
        _ id: PairID,
        by former: PairRecord,
        _ extents: [Extent],
        isAhead: Bool,
        isFirst: Bool
    ) async throws(DataPlaneError) -> PairRecord {
        try await ask("pair \(id)") {
            .link(.handover(.meet(id, by: former, extents, isAhead: isAhead, isFirst: isFirst, answer: $0)))
        }
    }
}
