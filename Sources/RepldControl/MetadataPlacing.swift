internal import RepldCore
internal import RepldFormat

/// Where the metadata areas of pairs lie in an element, behind the volume: from its end down, none over another.
package enum MetadataPlacing {
    package static var alignment: UInt64 { 4096 }

    /// What a volume takes of an element that keeps room for the area of one pair with that granule.
    ///
    /// The room is that of a volume as large as the element. `nil` where nothing would be left.
    package static func volumeByteCount(on elementByteCount: UInt64, granuleByteCount: UInt64) -> UInt64? {
        let layout = MetadataLayout(volumeByteCount: elementByteCount, granuleByteCount: granuleByteCount)
        let end = aligned(elementByteCount)
        return end > layout.areaByteCount ? end - layout.areaByteCount : nil
    }

    /// Where an area of that size begins: as near to the end of the element as other areas let it.
    ///
    /// `nil` where it would reach into the volume.
    package static func offset(
        ofArea byteCount: UInt64,
        elementByteCount: UInt64,
        volumeByteCount: UInt64,
        taken: [InternalMetadata]
    ) -> UInt64? {
        var end = aligned(elementByteCount)
        for area in taken.sorted(by: { $0.offset > $1.offset }) {
            if end >= byteCount, end - byteCount >= area.end { break }
            end = min(end, aligned(area.offset))
        }
        return end >= byteCount && end - byteCount >= volumeByteCount ? end - byteCount : nil
    }

    /// What is wrong with the place of a pair's metadata, in words; `nil` when nothing is.
    static func fault(of pair: PairEntry, in content: RegistryContent) -> String? {
        guard let area = pair.internalMetadata else { return nil }
        guard area.elementPath.hasPrefix("/") else { return "the element of its metadata is no absolute path" }
        let isPossible = area.byteCount > 0 && area.byteCount <= UInt64(Int64.max) && area.offset <= UInt64(Int64.max)
        guard isPossible, area.offset % alignment == 0 else {
            return "its metadata is at offset \(area.offset), expected a multiple of \(alignment)"
        }
        if let volume = content.volumes.first(where: { $0.elementPath == area.elementPath }) {
            guard let byteCount = volume.byteCount, byteCount <= area.offset else {
                return "its metadata is at offset \(area.offset) of \(area.elementPath), inside volume '\(volume.name)'"
            }
        }
        let other = content.pairs.first { other in
            guard other.id != pair.id, let taken = other.internalMetadata else { return false }
            // The other one's end may be none yet: its turn to be checked has not come.
            let isBehind = taken.offset <= area.offset && area.offset - taken.offset >= taken.byteCount
            return taken.elementPath == area.elementPath && taken.offset < area.end && !isBehind
        }
        return other.map { "its metadata lies over that of pair '\($0.name)'" }
    }

    private static func aligned(_ byteCount: UInt64) -> UInt64 { byteCount / alignment * alignment }
}
