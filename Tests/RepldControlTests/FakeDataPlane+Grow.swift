import Foundation
import RepldControl
import RepldCore
import RepldDataPlane
import RepldEngine
import RepldPair
import Synchronization

/// Growth, as the real one answers it: elements are files, and the records have the size.
extension FakeDataPlane {
    func prepareGrowth(
        _ id: VolumeID,
        to byteCount: UInt64?,
        _ areas: [MetadataArea]
    ) async throws(DataPlaneError) -> VolumeGrowth {
        note(.prepareGrowth(byteCount))
        return try state.withLock { state throws(DataPlaneError) in
            guard let volume = state.volumes[id], let opening = state.openings[id] else {
                throw DataPlaneError(.refused, "refused", refusal: .noSuchVolume)
            }
            var sizes: [(pair: PairID?, byteCount: UInt64)] = [(nil, Self.size(of: opening.path))]
            for pair in state.pairs.values where pair.opening.volume == id {
                // One that a peer has is the peer's to look at.
                if let path = pair.opening.target.path { sizes.append((pair.opening.id, Self.size(of: path))) }
            }
            let smallest = sizes.reduce(sizes[0]) { $1.byteCount < $0.byteCount ? $1 : $0 }
            let wanted = byteCount ?? smallest.byteCount
            if let byteCount, byteCount < volume.byteCount {
                throw Self.refused(.shrink(byteCount: volume.byteCount, wanted: byteCount))
            }
            guard wanted <= smallest.byteCount, wanted >= volume.byteCount else {
                let needed = max(wanted, volume.byteCount)
                throw Self.refused(
                    .elementTooSmall(pair: smallest.pair, byteCount: smallest.byteCount, wanted: needed)
                )
            }
            return VolumeGrowth(fromByteCount: volume.byteCount, toByteCount: wanted)
        }
    }

    func grow(_ id: VolumeID, to byteCount: UInt64) async throws(DataPlaneError) {
        note(.grow(byteCount))
        try state.withLock { state throws(DataPlaneError) in
            if let refusal = state.refusal {
                state.refusal = nil
                throw DataPlaneError(.refused, "refused", refusal: refusal)
            }
            state.volumes[id]?.byteCount = byteCount
            for pair in state.pairs.keys where state.pairs[pair]?.opening.volume == id {
                store(state.pairs[pair], byteCount: byteCount)
            }
        }
    }

    private static func refused(_ refusal: GrowthRefusal) -> DataPlaneError {
        DataPlaneError(.refused, "refused", refusal: .growthRefused(refusal))
    }

    private static func size(of path: String) -> UInt64 {
        (try? FileManager.default.attributesOfItem(atPath: path)[.size]) as? UInt64 ?? 0
    }
}
