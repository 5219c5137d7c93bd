internal import RepldCore
internal import RepldFormat

/// The references that writes have on the active extents of a pair's log.
extension Pair {
    /// A write that needs an extent which is not active cannot have it.
    ///
    /// Also where no page can be written because the record does not get there that has to go before it.
    var isLogImpossible: Bool {
        let lacksRecord = hasRecordFailed || isRecordStuck
        return store.isLogImpossible || (lacksRecord && store.durableTrust.rawValue > store.trust.rawValue)
    }

    /// The keys of the extents that a write touches.
    func logKeys(of extent: Extent, isTargetSide: Bool) -> ClosedRange<UInt32> {
        let side = isTargetSide ? ActivityLog.targetSide : 0
        let first = UInt32(extent.offset >> UInt64(store.extentShift))
        let last = UInt32((extent.end - 1) >> UInt64(store.extentShift))
        return first | side...last | side
    }

    /// Takes references on the extents of a write; false when one of them is not active: it has been asked for.
    mutating func enterLog(_ keys: ClosedRange<UInt32>) -> Bool {
        if keys.lowerBound == keys.upperBound {
            if store.log.acquire(keys.lowerBound) { return true }
            _ = store.log.want(keys.lowerBound)
            return false
        }
        var areActive = true
        for key in keys where !store.log.touch(key) {
            areActive = false
            _ = store.log.want(key)
        }
        guard areActive else { return false }
        for key in keys { _ = store.log.acquire(key) }
        return true
    }

    /// Takes references on as many extents as are active, one after the other; true when it has them all.
    mutating func enterLogByParts(_ keys: ClosedRange<UInt32>) -> Bool {
        while preferredKeyCount < keys.count, store.log.acquire(keys.lowerBound + UInt32(preferredKeyCount)) {
            preferredKeyCount += 1
        }
        guard preferredKeyCount < keys.count else { return true }
        for key in keys.dropFirst(preferredKeyCount) where !store.log.touch(key) {
            _ = store.log.want(key, isPreferred: true)
        }
        return false
    }

    /// Gives the references of a write back.
    mutating func leaveLog(_ keys: ClosedRange<UInt32>, wasMirrored: Bool) {
        let epoch = wasMirrored ? store.writeEpoch : nil
        if keys.lowerBound == keys.upperBound { return store.log.release(keys.lowerBound, epoch: epoch) }
        for key in keys { store.log.release(key, epoch: epoch) }
    }
}
