internal import RepldCore
package import RepldFrontends

/// The volumes as NBD clients see them: those that are served, in the order of their places.
extension Engine: NBDExportDirectory where P: ~Copyable {
    /// Volumes that clients can choose now.
    package var exportCount: Int {
        var count = 0
        for index in 0..<volumes.count where volumes[index].isExported { count += 1 }
        return count
    }

    private func volumeIndex(ofExport place: Int) -> Int {
        var remaining = place
        for index in 0..<volumes.count where volumes[index].isExported {
            if remaining == 0 { return index }
            remaining -= 1
        }
        invariantFailed("an export's place lies inside the directory")
    }

    package func exportName(at index: Int) -> String { volumes[volumeIndex(ofExport: index)].name }

    package func export(at index: Int) -> NBDExport {
        let volume = volumeIndex(ofExport: index)
        let geometry = volumes[volume].geometry
        let block = geometry.logicalBlockByteCount
        let isPowerOfTwo = geometry.physicalBlockByteCount.nonzeroBitCount == 1
        let physical = isPowerOfTwo ? min(geometry.physicalBlockByteCount, 1 << 20) : 4096
        // A long simple read collects its buffers: it must not need more than hosts can have (see `NBDServer`).
        let largeCount = max(1, pool.largestBufferCount - Self.copyReserve - 1)
        let collectable = UInt64(largeCount) * UInt64(pool.largestByteCount)
        let preferred = max(physical, 4096, block)
        let maximum = UInt32(min(UInt64(NBDLimit.payloadByteCount), collectable))
        var flags: NBDTransmissionFlags = [.sendFlush, .sendFUA, .sendCache, .canMultiConnect]
        if volumes[volume].isReadOnly {
            flags.insert(.readOnly)
        } else {
            flags.insert(.sendWriteZeroes)
            if volumes[volume].canZeroFast { flags.insert(.sendFastZero) }
            if volumes[volume].canDiscard { flags.insert(.sendTrim) }
        }
        return NBDExport(
            identity: volumes[volume].id.rawValue,
            byteCount: geometry.byteCount,
            minimumBlockByteCount: block,
            preferredBlockByteCount: min(preferred, maximum),
            maximumPayloadByteCount: maximum,
            flags: flags
        )
    }
}

extension HostedVolume {
    /// Whether clients may choose the volume; a name that the protocol cannot carry cannot be chosen.
    var isExported: Bool {
        isInUse && !isRemoving && !name.isEmpty && name.utf8.count <= NBDLimit.stringByteCount
    }
}
