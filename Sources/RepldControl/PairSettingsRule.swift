package import RepldPair

/// The bounds of what may be set about a pair.
package enum PairSettingsRule {
    /// What is wrong with the settings; `nil` when nothing is.
    package static func fault(of settings: PairSettings) -> String? {
        if !isPowerOfTwo(settings.granuleByteCount) || !(4096...(1 << 20)).contains(settings.granuleByteCount) {
            return "the granule is \(settings.granuleByteCount) bytes; expected a power of two from 4KiB to 1MiB"
        }
        if !(1_000_000_000...3_600_000_000_000).contains(settings.targetTimeoutNanoseconds) {
            return "the target timeout is out of range; expected 1s to 1h"
        }
        if !(1...64).contains(settings.copyDepth) {
            return "the copy depth is \(settings.copyDepth); expected 1 to 64"
        }
        let chunk = settings.copyChunkByteCount
        if chunk < settings.granuleByteCount || chunk > 1 << 20 || chunk % settings.granuleByteCount != 0 {
            return "the copy chunk is \(chunk) bytes; expected a multiple of the granule up to 1MiB"
        }
        return fault(of: settings.copy)
    }

    /// What is wrong with what is set about copies; `nil` when nothing is.
    package static func fault(of settings: CopySettings) -> String? {
        let rates: ClosedRange<UInt64> = CopySettings.leastByteRate...(1 << 40)
        if settings.capByteRate != 0, !rates.contains(settings.capByteRate) {
            return "the cap is \(settings.capByteRate) bytes per second; expected none, or 64KiB to 1TiB"
        }
        if let floor = settings.floorByteRate, !rates.contains(floor) {
            return "the floor is \(floor) bytes per second; expected 64KiB to 1TiB"
        }
        if !(105...10_000).contains(settings.latencyTargetPercent) {
            return "the latency target is \(settings.latencyTargetPercent) percent; expected 105 to 10000"
        }
        return nil
    }

    private static func isPowerOfTwo(_ number: UInt32) -> Bool { number.nonzeroBitCount == 1 }
}
