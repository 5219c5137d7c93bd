import CAllocationCount
import Glibc
import RepldCore

/// The engine alone, the dirty map alone, the digests of a verify: nanoseconds, allocations and retains.
///
/// `repld-benchmark [--smoke]`. Times are printed and not judged. Counts are judged: a write that allocates or retains
/// ends the program with 1.
@main
struct EngineBenchmark {
    /// One cell of the write table, with its measurements in the order of the rounds.
    private struct Series {
        var name: String
        var targetCount: Int
        var depth: Int
        var nanoseconds: [Double] = []
        var allocationCount: UInt64 = 0
        var retainCount: UInt64 = 0
        var writeCount = 0
        var metadataWriteCount = 0

        mutating func append(_ cost: WriteBenchmark.Cost) {
            nanoseconds.append(cost.nanosecondsPerWrite)
            allocationCount += cost.allocationCount
            retainCount += cost.retainCount
            writeCount += cost.writeCount
            metadataWriteCount += cost.metadataWriteCount
        }
    }

    static func main() {
        let arguments = CommandLine.arguments.dropFirst()
        guard arguments.allSatisfy({ $0 == "--smoke" }) else {
            print("usage: repld-benchmark [--smoke]")
            exit(EX_USAGE)
        }
        let isSmoke = !arguments.isEmpty
        checkCounters()
        let isClean = measureWrites(roundCount: isSmoke ? 1 : 9, writeCount: isSmoke ? 20_000 : 200_000)
        measureDirtyMap(roundCount: isSmoke ? 1 : 9, count: isSmoke ? 100_000 : 2_000_000)
        measureDigests(roundCount: isSmoke ? 1 : 9, byteCount: isSmoke ? 256 << 20 : 2 << 30)
        guard isClean else {
            print("\nFAILED: a synchronous write allocates or retains")
            exit(1)
        }
    }

    /// A counter that counts nothing would let everything pass.
    private static func checkCounters() {
        let allocations = repld_allocation_count()
        let retains = repld_retain_count()
        let boxes = makeBoxes()
        invariant(repld_allocation_count() >= allocations + 2, "the counter sees what Swift code allocates")
        invariant(repld_retain_count() > retains, "the counter sees what Swift code retains")
        withExtendedLifetime(boxes) {}
    }

    private final class Box { var value = 0 }

    @inline(never)
    private static func makeBoxes() -> [Box] {
        let box = Box()
        return [box, box, box]
    }

    private static func measureWrites(roundCount: Int, writeCount: Int) -> Bool {
        var series = [
            Series(name: "-", targetCount: 0, depth: 1), Series(name: "-", targetCount: 0, depth: 32),
            Series(name: "hot", targetCount: 1, depth: 1), Series(name: "hot", targetCount: 1, depth: 32),
            Series(name: "cold", targetCount: 1, depth: 1), Series(name: "cold", targetCount: 1, depth: 32),
        ]
        var alone = WriteBenchmark(targetCount: 0)
        var hot = WriteBenchmark(targetCount: 1)
        // Sixteen times what the log holds: 15 of 16 writes are to an extent that is not active.
        var cold = WriteBenchmark(targetCount: 1, volumeByteCount: 64 << 30)
        // The first round of each is for warming up.
        for round in 0...roundCount {
            for index in series.indices {
                let depth = series[index].depth
                let cost =
                    switch series[index].name {
                    case "hot": hot.measure(depth: depth, writeCount: writeCount)
                    case "cold": cold.measure(depth: depth, writeCount: writeCount)
                    default: alone.measure(depth: depth, writeCount: writeCount)
                    }
                if round > 0 { series[index].append(cost) }
            }
        }
        print("engine alone, 4 KiB writes, processor time; median of \(roundCount) rounds of \(writeCount)")
        print("targets  extents  depth  ns/write  [least .. most]  allocations  retains  metadata writes  of writes")
        for one in series {
            let sorted = one.nanoseconds.sorted()
            let cells = [
                pad("\(one.targetCount)", 7), pad(one.name, 7), pad("\(one.depth)", 5), pad(text(median(sorted)), 8),
                pad("[\(text(sorted[0])) .. \(text(sorted[sorted.count - 1]))]", 15),
                pad("\(one.allocationCount)", 11), pad("\(one.retainCount)", 7), pad("\(one.metadataWriteCount)", 15),
                pad("\(one.writeCount)", 9),
            ]
            print(cells.joined(separator: "  "))
        }
        return series.allSatisfy { $0.allocationCount == 0 && $0.retainCount == 0 }
    }

    private static func measureDirtyMap(roundCount: Int, count: Int) {
        var benchmark = DirtyMapBenchmark()
        var marks: [Double] = []
        var finds: [Double] = []
        for round in 0...roundCount {
            let mark = benchmark.markHot(count: count)
            let find = benchmark.findNext(count: count / 10)
            guard round > 0 else { continue }
            marks.append(mark)
            finds.append(find)
        }
        print("\ndirty map of 16 TiB in granules of 64 KiB: \(benchmark.memoryByteCount >> 10) KiB")
        for (name, values) in [("mark in a hot extent", marks.sorted()), ("find next, nearly clean", finds.sorted())] {
            let spread = "[\(text(values[0])) .. \(text(values[values.count - 1]))]"
            print("\(name): \(text(median(values))) ns \(spread)")
        }
    }

    private static func measureDigests(roundCount: Int, byteCount: Int) {
        var benchmark = DigestBenchmark()
        var digests: [Double] = []
        var comparisons: [Double] = []
        for round in 0...roundCount {
            let digest = benchmark.digest(byteCount: byteCount)
            let comparison = benchmark.compare(byteCount: byteCount)
            guard round > 0 else { continue }
            digests.append(digest)
            comparisons.append(comparison)
        }
        print("\ndigest of a verify: \(BlockDigest.name), on one core")
        for (name, values) in [("digested", digests.sorted()), ("compared, both sides digested", comparisons.sorted())]
        {
            let spread = "[\(text(values[0])) .. \(text(values[values.count - 1]))]"
            print("\(name): \(text(median(values))) GiB/s \(spread)")
        }
    }

    private static func median(_ sorted: [Double]) -> Double { sorted[sorted.count / 2] }

    private static func text(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return value < 100 ? "\(tenths / 10).\(tenths % 10)" : "\((tenths + 5) / 10)"
    }

    private static func pad(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: max(0, width - text.count)) + text
    }
}

/// The processor time of this thread.
///
/// Nothing here waits, so that on an idle machine it is the time of the clock on the wall; on a busy one it is still ours.
func processorNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
