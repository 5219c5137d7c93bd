internal import RepldCore
package import RepldFrontends
internal import RepldPair

/// What NBD clients can choose: the volumes that are served, in the order of their places, each followed by the targets
/// of its pairs that are open to hosts (Fractured, Split), under the name `PAIR/target`.
extension Engine: NBDExportDirectory where P: ~Copyable {
    /// Exports that clients can choose now.
    package var exportCount: Int {
        var count = 0
        for index in 0..<volumes.count where volumes[index].isExported {
            count += 1
            for pair in 0..<VolumeMachine.pairLimit where isTargetExported(pair, of: index) { count += 1 }
        }
        return count
    }

    /// The volume of an export, and its side: 0 for the volume's own, n for the target of pair n-1.
    private func placeOfExport(_ place: Int) -> (volume: Int, side: UInt8) {
        var remaining = place
        for index in 0..<volumes.count where volumes[index].isExported {
            if remaining == 0 { return (index, 0) }
            remaining -= 1
            for pair in 0..<VolumeMachine.pairLimit where isTargetExported(pair, of: index) {
                if remaining == 0 { return (index, UInt8(pair + 1)) }
                remaining -= 1
            }
        }
        invariantFailed("an export's place lies inside the directory")
    }

    func isTargetExported(_ pair: Int, of volume: Int) -> Bool {
        let nameByteCount = volumes[volume].pairNames[pair].utf8.count + Self.targetSuffix.utf8.count
        guard nameByteCount > Self.targetSuffix.utf8.count, nameByteCount <= NBDLimit.stringByteCount else {
            return false
        }
        return volumes[volume].machine.isTargetOpen(pair)
    }

    /// What follows the pair's name in the name of its target's own export.
    package static var targetSuffix: String { "/target" }

    /// An export's identity carries the volume and, in its upper byte, the side.
    private static var sideShift: UInt64 { 56 }

    /// The volume and the side of an export, by its identity.
    static func exported(_ identity: UInt64) -> (volume: VolumeID, side: UInt8) {
        (VolumeID(rawValue: identity & (1 << sideShift - 1)), UInt8(identity >> sideShift))
    }

    package func exportName(at index: Int) -> String {
        let (volume, side) = placeOfExport(index)
        return side == 0 ? volumes[volume].name : volumes[volume].pairNames[Int(side) - 1] + Self.targetSuffix
    }

    /// A volume's own export tells the differences of all its pairs, that of a target those of its pair.
    package func pairs(ofExport index: Int) -> NBDPairSet {
        let (volume, side) = placeOfExport(index)
        return volumes[volume].pairs(ofSide: side)
    }

    package func pairName(ofExport index: Int, place: Int) -> String {
        volumes[placeOfExport(index).volume].pairNames[place]
    }

    package func export(at index: Int) -> NBDExport {
        let (volume, side) = placeOfExport(index)
        let geometry = volumes[volume].geometry
        let block = geometry.logicalBlockByteCount
        let isPowerOfTwo = geometry.physicalBlockByteCount.nonzeroBitCount == 1
        let physical = isPowerOfTwo ? min(geometry.physicalBlockByteCount, 1 << 20) : 4096
        // A long simple read collects its buffers: it must not need more than hosts can have (see `NBDServer`).
        let largeCount = max(1, pool.largestBufferCount - Self.copyReserve - peerReserve - 1)
        let collectable = UInt64(largeCount) * UInt64(pool.largestByteCount)
        let preferred = max(physical, 4096, block)
        let maximum = UInt32(min(UInt64(NBDLimit.payloadByteCount), collectable))
        var flags: NBDTransmissionFlags = [.sendFlush, .sendFUA, .sendCache, .canMultiConnect]
        if volumes[volume].isReadOnly {
            flags.insert(.readOnly)
        } else {
            flags.insert(.sendWriteZeroes)
            if volumes[volume].canZeroFast, side == 0 { flags.insert(.sendFastZero) }
            if volumes[volume].canDiscard { flags.insert(.sendTrim) }
        }
        return NBDExport(
            identity: volumes[volume].id.rawValue | UInt64(side) << Self.sideShift,
            byteCount: geometry.byteCount,
            minimumBlockByteCount: block,
            preferredBlockByteCount: min(preferred, maximum),
            maximumPayloadByteCount: maximum,
            flags: flags
        )
    }
}

extension HostedVolume {
    /// The numbers of the pairs that the export of a side is about.
    func pairs(ofSide side: UInt8) -> NBDPairSet {
        guard side > 0 else { return pairNumbers }
        var pairs = NBDPairSet()
        pairs[Int(side) - 1] = pairNumbers[Int(side) - 1]
        return pairs
    }

    /// Whether clients may choose the volume; a name that the protocol cannot carry cannot be chosen.
    var isExported: Bool {
        isInUse && !isRemoving && !isReplica && !isWithheld && !name.isEmpty
            && name.utf8.count <= NBDLimit.stringByteCount
    }
}
