import RepldTestSupport
import Testing

/// How much a copy may look at after a restart, in one place.
enum CopyBound {
    /// Bytes of an extent of the activity log.
    static let extentByteCount = 4 * mebibyte

    /// Bytes that the resync after a kill under load may compare or copy, where hosts have written to so many bytes at the
    /// volume's beginning only: the extents of those, and one more.
    static func afterKill(hotByteCount: UInt64) -> UInt64 {
        (hotByteCount + extentByteCount - 1) / extentByteCount * extentByteCount + extentByteCount
    }

    /// Bytes that a copy after a clean stop may compare or copy: there is nothing to find out.
    static let afterCleanStop: UInt64 = 0

    /// The copy that ran last, as `replctl pair show --json` has it, kept within the bound for a kill.
    static func expectHeld(_ mirror: Mirror, hotByteCount: UInt64, _ words: String) throws {
        let copied = try mirror.daemon.copiedByteCounts(Mirror.pair)
        let bound = afterKill(hotByteCount: hotByteCount)
        #expect(copied.examined <= bound, "\(words): \(copied) with at most \(bound) bytes to look at")
    }
}

extension Daemon {
    /// What the last copy of a pair did since the daemon was started: bytes looked at, and of those written and zeroed.
    func copiedByteCounts(_ pair: String) throws -> (examined: UInt64, written: UInt64, zeroed: UInt64) {
        guard let copy = try self.pair(pair).copy else { return (0, 0, 0) }
        return (copy.totalByteCount, copy.writtenByteCount, copy.zeroByteCount)
    }
}
