internal import RepldCore
internal import RepldFormat
internal import RepldPair

/// A larger size for a volume whose elements have grown.
extension Engine where P: ~Copyable {
    /// Whether a volume can take a size, or which it can take; looks at its elements as they are now.
    func checkGrowth(_ id: VolumeID, _ wanted: UInt64?) -> Result<VolumeGrowth, EngineRefusal> {
        guard let volume = volumeIndex(id), !volumes[volume].isRemoving else { return .failure(.noSuchVolume) }
        let former = volumes[volume].machine.byteCount
        let smallest = smallestElement(of: volume)
        let block = UInt64(volumes[volume].geometry.logicalBlockByteCount)
        let size = wanted ?? smallest.byteCount / block * block
        // The smallest element is short of what the volume has: that is no wish to shrink.
        let isTooSmall = size > smallest.byteCount || wanted == nil && size < former
        if let refusal = volumes[volume].machine.growthRefusal(to: wanted ?? max(size, former)) {
            return .failure(.growthRefused(refusal))
        }
        if size > former, let pair = replicaWithUndo(volume) {
            return .failure(.growthRefused(.pair(pair, .undoKept)))
        }
        guard !isTooSmall else {
            let refusal = GrowthRefusal.elementTooSmall(
                pair: smallest.pair,
                byteCount: smallest.byteCount,
                wanted: max(size, former)
            )
            return .failure(.growthRefused(refusal))
        }
        if size > former, let pair = pairWithMetadataBehind(volume) {
            return .failure(.growthRefused(.pair(pair, .metadataBehind)))
        }
        if let refusal = mapRefusal(volume, size) { return .failure(refusal) }
        return .success(VolumeGrowth(fromByteCount: former, toByteCount: size))
    }

    /// A pair whose area is a part of an element, where a larger volume might take it.
    private func pairWithMetadataBehind(_ volume: Int) -> PairID? {
        for pair in 0..<VolumeMachine.pairLimit where volumes[volume].metadataOffsets[pair] > 0 {
            if let id = volumes[volume].machine.withPair(pair, { $0.id }) { return id }
        }
        return nil
    }

    /// The pair of which the volume is the replica, where what its peer has overwritten can be taken back.
    private func replicaWithUndo(_ volume: Int) -> PairID? {
        for place in 0..<Links.replicaLimit where links.replicas[place].isInUse {
            let isOfVolume = links.replicas[place].volume == volume
            if isOfVolume, links.replicas[place].undo.pages.stage != .none { return links.replicas[place].pair }
        }
        return nil
    }

    /// The element that limits the volume: of a pair, or the one that serves.
    ///
    /// One that a peer has is the peer's to look at: whoever asks for the size has asked it before.
    private func smallestElement(of volume: Int) -> (pair: PairID?, byteCount: UInt64) {
        var smallest: (pair: PairID?, byteCount: UInt64) =
            (nil, byteCount(ofLeg: 0, volume: volume) ?? volumes[volume].machine.byteCount)
        for pair in 0..<VolumeMachine.pairLimit {
            guard let id = volumes[volume].machine.withPair(pair, { $0.id }) else { continue }
            guard let byteCount = byteCount(ofLeg: UInt8(pair + 1), volume: volume) else { continue }
            if byteCount < smallest.byteCount { smallest = (id, byteCount) }
        }
        return smallest
    }

    /// How large an element is now; `nil` for one that a peer has.
    private func byteCount(ofLeg leg: UInt8, volume: Int) -> UInt64? {
        let element = volumes[volume].element(leg: leg)
        return element.remoteTarget == nil ? platform.byteCount(of: element) : nil
    }

    /// Whether the maps of a pair would be too large.
    private func mapRefusal(_ volume: Int, _ byteCount: UInt64) -> EngineRefusal? {
        for pair in 0..<VolumeMachine.pairLimit {
            guard let settings = volumes[volume].machine.withPair(pair, { $0.settings }) else { continue }
            let granule = UInt64(settings.granuleByteCount)
            let needed = Pair.mapByteCount(volumeByteCount: byteCount, granuleByteCount: granule)
            let isValid = MetadataLayout.isValid(
                extentByteCount: UInt64(settings.logExtentByteCount),
                granuleByteCount: granule,
                volumeByteCount: byteCount
            )
            guard needed <= Self.mapByteLimit, isValid else {
                return .dirtyMapTooLarge(byteCount: needed, limit: Self.mapByteLimit)
            }
        }
        return nil
    }

    /// Whether a pair's metadata or undo area has no room for a volume of this size.
    private func areaRefusal(_ volume: Int, _ byteCount: UInt64) -> EngineRefusal? {
        for pair in 0..<VolumeMachine.pairLimit {
            guard let settings = volumes[volume].machine.withPair(pair, { $0.settings }) else { continue }
            guard let element = volumes[volume].metadata[pair] else { continue }
            let layout = MetadataLayout(
                volumeByteCount: byteCount,
                granuleByteCount: UInt64(settings.granuleByteCount)
            )
            let found = platform.byteCount(of: element)
            let room = found - min(volumes[volume].metadataOffsets[pair], found)
            guard room >= layout.areaByteCount else {
                return .metadataTooSmall(byteCount: room, needed: layout.areaByteCount)
            }
            guard volumes[volume].hasUndoArea(pair) else { continue }
            let area = platform.byteCount(of: volumes[volume].element(atPlace: HostedVolume.undoPlace(ofPair: pair)))
            let undo = UndoLayout(volumeByteCount: byteCount, granuleByteCount: UInt64(settings.granuleByteCount))
            guard area >= undo.areaByteCount else {
                return .undoAreaUnusable(byteCount: area, needed: undo.areaByteCount)
            }
        }
        for place in 0..<Links.replicaLimit where links.replicas[place].isInUse {
            guard links.replicas[place].volume == volume, let area = links.replicas[place].undo.area else { continue }
            let needed = links.replicas[place].undo.areaByteCount(ofVolume: byteCount)
            let found = platform.byteCount(of: area)
            guard found >= needed else { return .undoAreaUnusable(byteCount: found, needed: needed) }
        }
        return nil
    }

    mutating func grow(
        _ id: VolumeID,
        to wanted: UInt64,
        _ answer: @escaping @Sendable (Result<Void, EngineRefusal>) -> Void
    ) {
        // What was found when it was checked may no longer hold.
        if case .failure(let refusal) = checkGrowth(id, wanted) { return answer(.failure(refusal)) }
        guard let volume = volumeIndex(id) else { return answer(.failure(.noSuchVolume)) }
        if let refusal = areaRefusal(volume, wanted) { return answer(.failure(refusal)) }
        guard growAnswers[id] == nil else { return answer(.failure(.stopping)) }
        growAnswers[id] = answer
        volumes[volume].machine.grow(to: wanted)
        for pair in 0..<VolumeMachine.pairLimit where volumes[volume].hasUndoArea(pair) {
            setUndoHead(ofPair: pair, volume: volume)
        }
        for place in 0..<Links.replicaLimit where links.replicas[place].isInUse {
            if links.replicas[place].volume == volume { links.replicas[place].undo.grow(to: wanted) }
        }
        carryOut(volume)
    }

    /// Clients that come now see the new size; the others keep theirs, because the protocol has no words for it.
    mutating func volumeGrown(_ volume: Int) {
        volumes[volume].geometry.byteCount = volumes[volume].machine.byteCount
        if let answer = growAnswers.removeValue(forKey: volumes[volume].id) { answer(.success(())) }
    }
}
