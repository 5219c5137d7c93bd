import RepldCore
import Testing

@testable import RepldWire

@Suite struct CompressionTests {
    private func compress(_ plain: [UInt8], room: Int? = nil) -> (outcome: Compression.Outcome, block: [UInt8]) {
        var outcome = Compression.Outcome.plain
        let buffer = written(room ?? plain.count) { outcome = Compression.compress(plain.span.bytes, into: &$0) }
        guard case .compressed(let count) = outcome else { return (outcome, []) }
        return (outcome, Array(buffer[..<count]))
    }

    private func expand(_ block: [UInt8], to count: Int) -> (isWhole: Bool, plain: [UInt8]) {
        var isWhole = false
        let plain = written(count) { isWhole = Compression.expand(block.span.bytes, into: &$0) }
        return (isWhole, plain)
    }

    /// Bytes of which only a part is random.
    private func data(_ count: Int, randomOneIn: UInt64, seed: UInt64) -> [UInt8] {
        var random = RandomSource(seed: seed)
        return (0..<count).map { _ in random.chance(oneIn: randomOneIn) ? UInt8(random.below(256)) : 7 }
    }

    @Test(arguments: [64, 512, 4096, 4097, 65536, 131_072])
    func roundTrip(count: Int) {
        let plain = data(count, randomOneIn: 16, seed: UInt64(count))
        let (outcome, block) = compress(plain)
        guard case .compressed(let compressedCount) = outcome else {
            Issue.record("data that shrinks was not compressed")
            return
        }
        #expect(compressedCount <= Compression.byteCountMaximum(of: count))
        let expanded = expand(block, to: count)
        #expect(expanded.isWhole && expanded.plain == plain)
        for wrong in [count - 1, count + 1] where wrong <= WireLimits.pieceByteCountCeiling {
            #expect(!expand(block, to: wrong).isWhole)
        }
    }

    @Test func dataThatDoesNotShrinkIsLeftAsItIs() {
        for count in [1, 2, 15, 512, 65536] {
            #expect(compress(data(count, randomOneIn: 1, seed: 3)).outcome == .plain)
        }
        #expect(compress([]).outcome == .plain)
        #expect(compress(data(4096, randomOneIn: 16, seed: 3), room: 8).outcome == .plain)
        #expect(compress(data(4096, randomOneIn: 16, seed: 3), room: 0).outcome == .plain)
    }

    @Test func zeroesAreAFlag() {
        for count in [1, 8, 9, 4096, 131_072] {
            var plain = [UInt8](repeating: 0, count: count)
            #expect(compress(plain).outcome == .zeroes)
            for place in [0, count / 2, count - 1] {
                plain[place] = 1
                #expect(compress(plain).outcome != .zeroes)
                plain[place] = 0
            }
        }
    }

    /// Blocks that were damaged, cut or made up neither write outside of their place nor stop the process.
    @Test func badBlocks() {
        let count = 4096
        let plain = data(count, randomOneIn: 8, seed: 9)
        let block = compress(plain).block
        #expect(!expand([], to: count).isWhole)
        for cut in 0..<block.count { #expect(!expand(Array(block[..<cut]), to: count).isWhole) }
        var random = RandomSource(seed: 4)
        for _ in 0..<5000 {
            var bad = block
            for _ in 0...random.below(4) { bad[Int(random.below(UInt64(bad.count)))] = UInt8(random.below(256)) }
            var guarded = [UInt8](repeating: 0xEE, count: count + 64)
            guarded.withUnsafeMutableBytes { buffer in
                var span = MutableRawSpan(
                    _unsafeBytes: UnsafeMutableRawBufferPointer(rebasing: buffer[32..<32 + count])
                )
                _ = Compression.expand(bad.span.bytes, into: &span)
            }
            #expect(guarded[..<32].allSatisfy { $0 == 0xEE } && guarded[(32 + count)...].allSatisfy { $0 == 0xEE })
        }
    }
}

@Suite struct CompressionPolicyTests {
    /// A policy that has seen its link full, and samples of a class.
    private func policy(
        link: UInt64,
        compressor: UInt64,
        ratioPercent: UInt64,
        setting: CompressionSetting = .auto
    ) -> CompressionPolicy {
        var policy = CompressionPolicy(setting: setting)
        policy.carried(byteCount: link, nanoseconds: 1_000_000_000, wasFull: true)
        sample(&policy, compressor: compressor, ratioPercent: ratioPercent, times: 100)
        return policy
    }

    private func sample(_ policy: inout CompressionPolicy, compressor: UInt64, ratioPercent: UInt64, times: Int) {
        for _ in 0..<times {
            policy.compressed(
                .copy,
                plainByteCount: 100_000,
                sentByteCount: 1000 * ratioPercent,
                nanoseconds: 100_000 * 1_000_000_000 / compressor
            )
        }
    }

    /// On exactly where the slower of compressor and link is faster than the link alone, by an eighth.
    @Test(arguments: [
        // link, compressor (MB/s), ratio in percent
        (100, 500, 50, true), (100, 500, 80, true), (100, 500, 88, true), (100, 500, 90, false), (100, 500, 100, false),
        (1000, 500, 50, false), (400, 500, 50, true), (450, 500, 10, false), (443, 500, 10, true),
    ])
    func decidesByTheSlower(figures: (UInt64, UInt64, UInt64, Bool)) {
        let (link, compressor, ratio, isOn) = figures
        let policy = policy(link: link * 1_000_000, compressor: compressor * 1_000_000, ratioPercent: ratio)
        #expect(policy.isOn(.copy) == isOn)
        #expect(!policy.isOn(.smallWrite))
    }

    /// Between the two bounds it stays as it is, from either side.
    @Test func hysteresis() {
        var policy = policy(link: 100_000_000, compressor: 500_000_000, ratioPercent: 50)
        #expect(policy.isOn(.copy))
        sample(&policy, compressor: 500_000_000, ratioPercent: 93, times: 200)
        #expect(policy.isOn(.copy), "a twelfth is less than what begins, and enough to stay")
        sample(&policy, compressor: 500_000_000, ratioPercent: 99, times: 200)
        #expect(!policy.isOn(.copy))
        sample(&policy, compressor: 500_000_000, ratioPercent: 93, times: 200)
        #expect(!policy.isOn(.copy), "a twelfth does not begin it")
        sample(&policy, compressor: 500_000_000, ratioPercent: 50, times: 200)
        #expect(policy.isOn(.copy))
    }

    /// A ratio that wavers around what begins switches once.
    @Test func waveringDoesNotSwitch() {
        var policy = policy(link: 100_000_000, compressor: 500_000_000, ratioPercent: 80)
        var changes = 0
        var wasOn = policy.isOn(.copy)
        for turn in 0..<1000 {
            sample(&policy, compressor: 500_000_000, ratioPercent: turn % 2 == 0 ? 85 : 93, times: 1)
            if policy.isOn(.copy) != wasOn { changes += 1 }
            wasOn = policy.isOn(.copy)
        }
        #expect(changes == 0 && wasOn)
    }

    @Test func linkDecides() {
        var policy = CompressionPolicy()
        sample(&policy, compressor: 500_000_000, ratioPercent: 30, times: 10)
        #expect(!policy.isOn(.copy) && policy.gain(.copy) == 0, "the link was never seen to be full")
        policy.carried(byteCount: 50_000_000, nanoseconds: 1_000_000_000, wasFull: false)
        #expect(!policy.isOn(.copy) && policy.linkBytesPerSecond == 0)
        policy.carried(byteCount: 50_000_000, nanoseconds: 1_000_000_000, wasFull: true)
        #expect(policy.isOn(.copy))
        // It carries more than was thought, although nothing waited for it.
        policy.carried(byteCount: 5_000_000_000, nanoseconds: 1_000_000_000, wasFull: false)
        #expect(!policy.isOn(.copy))
        policy.carried(byteCount: 1, nanoseconds: 1_000_000_000, wasFull: false)
        #expect(policy.linkBytesPerSecond == 5_000_000_000)
    }

    @Test func samplesWhileOff() {
        var policy = policy(link: 100_000_000, compressor: 500_000_000, ratioPercent: 100)
        let chosen = (0..<640).count { _ in policy.choose(.copy) }
        #expect(chosen == 10)
        sample(&policy, compressor: 500_000_000, ratioPercent: 40, times: 20)
        #expect((0..<640).count { _ in policy.choose(.copy) } == 640)
        #expect((0..<640).count { _ in policy.choose(.largeWrite) } == 10, "the other classes have their own samples")
    }

    @Test func settingsOverride() {
        var off = policy(link: 100_000_000, compressor: 500_000_000, ratioPercent: 10, setting: .off)
        #expect(!off.isOn(.copy) && (0..<200).allSatisfy { _ in !off.choose(.copy) })
        var always = policy(link: 1 << 40, compressor: 1000, ratioPercent: 100, setting: .always)
        #expect(always.isOn(.copy) && (0..<200).allSatisfy { _ in always.choose(.smallWrite) })
        off.setting = .auto
        #expect(off.isOn(.copy), "what was measured meanwhile counts")
    }

    /// Figures without sense change nothing that matters, and stop nothing.
    @Test func extremeFigures() {
        var policy = CompressionPolicy()
        let extremes: [UInt64] = [0, 1, 1 << 30, 1 << 31, .max]
        for first in extremes {
            for second in extremes {
                policy.carried(byteCount: first, nanoseconds: second, wasFull: true)
                for third in extremes {
                    policy.compressed(.copy, plainByteCount: first, sentByteCount: second, nanoseconds: third)
                    _ = policy.gain(.copy)
                }
            }
        }
        #expect(policy.linkBytesPerSecond <= 1 << 40 && policy.ratio(.copy) <= 4096)
    }
}
