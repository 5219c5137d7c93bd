/// The operator's word about compression.
package enum CompressionSetting: UInt8, Sendable, CaseIterable, BitwiseCopyable {
    /// On while it makes the pair faster.
    case auto
    case always
    case off
}

/// What an extent is, as far as that says something about how well it shrinks and what it costs.
package enum ExtentClass: UInt8, Sendable, CaseIterable, BitwiseCopyable {
    /// A host's write of less than 16 KiB: databases, journals.
    case smallWrite
    /// A larger write of a host: files, logs.
    case largeWrite
    /// What the mover copies.
    case copy
}

/// Decides for one connection which extents are compressed, from what was measured on it.
///
/// Compression and sending overlap, so a byte of a host takes as long as the slower of them: without compression 1/link, with
/// it the greater of 1/compressor and ratio/link. Compression is on for a class while that makes it faster by at least an
/// eighth, and off again only when less than a thirty-second is left: between the two it stays as it is, so that a figure that
/// wavers does not switch it with every sample. Until the link was seen to be full at least once it is not what holds the pair
/// up, and compression is off.
///
/// Where it is off, one extent in 64 of the class is compressed all the same: without samples nobody would notice that the
/// data has changed. All figures are whole numbers and every step is arithmetic: same measurements, same decisions.
package struct CompressionPolicy: Sendable, BitwiseCopyable {
    /// What is known of one class.
    private struct Sampled: Sendable, BitwiseCopyable {
        /// Compressed bytes for each 4096 plain ones; what does not shrink counts 4096.
        var ratio: UInt64 = 4096
        /// Plain bytes that a second of the compressor takes; 0 before the first sample.
        var bytesPerSecond: UInt64 = 0
        var isOn = false
        var extentsToSample: UInt32 = 0
    }

    package var setting: CompressionSetting
    /// Bytes that the link carries in a second; 0 before it was seen to be full.
    package private(set) var linkBytesPerSecond: UInt64 = 0
    private var smallWrite = Sampled()
    private var largeWrite = Sampled()
    private var copy = Sampled()

    package static var sampleInterval: UInt32 { 64 }
    /// Gains in 4096ths: what switches it on, and what is needed for it to stay on.
    static var gainToBegin: UInt64 { 4096 + 512 }
    static var gainToStay: UInt64 { 4096 + 128 }
    /// What nothing exceeds: 1 TiB/s, so that no product overflows.
    private static var rateMaximum: UInt64 { 1 << 40 }

    package init(setting: CompressionSetting = .auto) { self.setting = setting }

    private subscript(_ extentClass: ExtentClass) -> Sampled {
        get {
            switch extentClass {
            case .smallWrite: smallWrite
            case .largeWrite: largeWrite
            case .copy: copy
            }
        }
        set {
            switch extentClass {
            case .smallWrite: smallWrite = newValue
            case .largeWrite: largeWrite = newValue
            case .copy: copy = newValue
            }
        }
    }

    /// Whether compression is on for a class, but for samples.
    package func isOn(_ extentClass: ExtentClass) -> Bool {
        switch setting {
        case .always: true
        case .off: false
        case .auto: self[extentClass].isOn
        }
    }

    /// Compressed bytes for each 4096 plain ones, as the samples have it.
    package func ratio(_ extentClass: ExtentClass) -> UInt64 { self[extentClass].ratio }

    /// Whether the next extent of a class is to be compressed.
    package mutating func choose(_ extentClass: ExtentClass) -> Bool {
        guard setting == .auto else { return setting == .always }
        guard !self[extentClass].isOn else { return true }
        guard self[extentClass].extentsToSample > 0 else {
            self[extentClass].extentsToSample = Self.sampleInterval - 1
            return true
        }
        self[extentClass].extentsToSample -= 1
        return false
    }

    /// Takes up what compressing one extent gave and cost.
    ///
    /// - Parameters:
    ///   - extentClass: what the extent is.
    ///   - plainByteCount: what went in; an extent of zeroes is not a sample, because it is never sent.
    ///   - sentByteCount: what came out, or `plainByteCount` where it did not shrink.
    ///   - nanoseconds: time of the compressing thread.
    package mutating func compressed(
        _ extentClass: ExtentClass,
        plainByteCount: UInt64,
        sentByteCount: UInt64,
        nanoseconds: UInt64
    ) {
        guard plainByteCount > 0, plainByteCount <= 1 << 30 else { return }
        var sampled = self[extentClass]
        let ratio = min(sentByteCount, plainByteCount) * 4096 / plainByteCount
        let rate = Self.rate(plainByteCount, nanoseconds)
        sampled.ratio = sampled.bytesPerSecond == 0 ? ratio : Self.blend(sampled.ratio, ratio)
        sampled.bytesPerSecond = sampled.bytesPerSecond == 0 ? rate : Self.blend(sampled.bytesPerSecond, rate)
        self[extentClass] = sampled
        decide(extentClass)
    }

    /// Takes up what the link has carried in a while.
    ///
    /// - Parameters:
    ///   - byteCount: bytes on the wire, after compression.
    ///   - nanoseconds: how long it took.
    ///   - wasFull: something waited for the link all the time; otherwise the figure is only a lower bound.
    package mutating func carried(byteCount: UInt64, nanoseconds: UInt64, wasFull: Bool) {
        guard nanoseconds > 0, byteCount > 0 else { return }
        let rate = Self.rate(byteCount, nanoseconds)
        if wasFull {
            linkBytesPerSecond = linkBytesPerSecond == 0 ? rate : Self.blend(linkBytesPerSecond, rate)
        } else if linkBytesPerSecond > 0, rate > linkBytesPerSecond {
            linkBytesPerSecond = rate
        } else {
            return
        }
        for extentClass in ExtentClass.allCases { decide(extentClass) }
    }

    /// How much faster a class is with compression, in 4096ths; 0 while too little is known.
    package func gain(_ extentClass: ExtentClass) -> UInt64 {
        let sampled = self[extentClass]
        guard linkBytesPerSecond > 0, sampled.bytesPerSecond > 0 else { return 0 }
        // How the compressor compares with the link, and how the link with itself when it carries less.
        let byCompressor = sampled.bytesPerSecond * 4096 / linkBytesPerSecond
        let byLink = 4096 * 4096 / max(sampled.ratio, 1)
        return min(byCompressor, byLink)
    }

    private mutating func decide(_ extentClass: ExtentClass) {
        let needed = self[extentClass].isOn ? Self.gainToStay : Self.gainToBegin
        self[extentClass].isOn = gain(extentClass) >= needed
    }

    private static func rate(_ byteCount: UInt64, _ nanoseconds: UInt64) -> UInt64 {
        let (product, overflow) = byteCount.multipliedReportingOverflow(by: 1_000_000_000)
        guard !overflow else { return rateMaximum }
        return min(max(product / max(nanoseconds, 1), 1), rateMaximum)
    }

    /// A new figure counts an eighth.
    private static func blend(_ old: UInt64, _ new: UInt64) -> UInt64 { (old * 7 + new) / 8 }
}
