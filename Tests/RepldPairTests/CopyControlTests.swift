import RepldCore
import Testing

@testable import RepldPair

/// The mover beside busy hosts, in a model of devices with queues: see `CopyModel`.
@Suite struct CopyControlTests {
    private static let mebibyte: UInt64 = 1 << 20

    @Test func besideIdleHostsItRunsAtTheSpeedOfTheElements() {
        let model = CopyModel()
        model.activate()
        let rate = model.run(seconds: 2)
        // 1 MiB each: 50 us and the transfer, on an element that does one thing at a time.
        #expect(rate > 900 * Self.mebibyte)
        #expect(model.status?.limit == .elements)
        #expect(model.status?.allowedByteRate == nil)
    }

    /// Loads from light to half of what the elements do.
    @Test(arguments: [500, 2000, 8000] as [UInt64])
    func besideBusyHostsTheirP99Holds(perSecond: UInt64) throws {
        let model = CopyModel(pairs: [CopySettings(floorByteRate: 1 << 20)])
        model.run(seconds: 4, .open(perSecond: perSecond))
        let before = model.takeP99()
        model.activate()
        model.run(seconds: 4)
        _ = model.takeP99()
        let rate = model.run(seconds: 6)
        let during = model.takeP99()
        #expect(Double(during) <= 1.5 * Double(before), "\(during) ns against \(before)")
        #expect(rate >= Self.mebibyte, "and the copy goes on: \(rate)")
        let status = try #require(model.status)
        let reference = try #require(status.undisturbedP99Nanoseconds)
        #expect(reference > before / 2 && reference < before * 3 / 2, "\(reference) ns against \(before)")
    }

    @Test func withoutATargetTheSameLoadSuffers() {
        let model = CopyModel(pairs: [CopySettings(floorByteRate: 1 << 20, latencyTargetPercent: 10_000)])
        model.run(seconds: 5, .open(perSecond: 2000))
        let before = model.takeP99()
        model.activate()
        model.run(seconds: 3)
        _ = model.takeP99()
        model.run(seconds: 1)
        #expect(model.takeP99() > 4 * before, "the model knows what a mover does to hosts")
    }

    @Test(arguments: [1, 16, 64])
    func theFloorHoldsBesideHostsThatLeaveNothing(depth: Int) throws {
        let model = CopyModel()
        model.devices[0].operationNanoseconds = 500_000
        model.run(seconds: 3, .closed(depth: depth))
        model.activate()
        model.run(seconds: 2)
        let rate = model.run(seconds: 10)
        #expect(Double(rate) > 0.95 * Double(16 * Self.mebibyte), "\(rate) bytes per second")
    }

    @Test(arguments: [CopyModel.Load.idle, .open(perSecond: 1000)], [1, 7, 50, 200] as [UInt64])
    func theCapIsExact(load: CopyModel.Load, mebibytes: UInt64) {
        let cap = mebibytes << 20
        let model = CopyModel(pairs: [CopySettings(capByteRate: cap, latencyTargetPercent: 10_000)])
        model.run(seconds: 3, load)
        model.activate()
        model.run(seconds: load == .idle ? 0.5 : 6)
        let rate = Double(model.run(seconds: 8))
        #expect(abs(rate - Double(cap)) < 0.05 * Double(cap), "\(rate) bytes per second for \(cap)")
        #expect(model.status?.limit == .cap)
    }

    @Test func aCapBelowTheFloorCounts() {
        let model = CopyModel(pairs: [CopySettings(capByteRate: 2 << 20, floorByteRate: 32 << 20)])
        model.activate()
        let rate = Double(model.run(seconds: 5, .open(perSecond: 1000)))
        #expect(abs(rate - Double(2 << 20)) < 0.1 * Double(2 << 20))
    }

    @Test func aPauseStopsChunksAndNothingElse() {
        let model = CopyModel(byteCount: 256 << 20)
        model.activate()
        model.run(seconds: 0.1)
        model.configure { $0.isPaused = true }
        model.run(seconds: 0.1, .open(perSecond: 1000))
        let begun = model.chunks.count
        let left = model.dirty()
        #expect(left < model.byteCount && left > 0, "what was copied before is flushed and clean")
        model.run(seconds: 5)
        #expect(model.chunks.count == begun && model.dirty() == left)
        #expect(model.state() == .unsynchronized && model.progress() == .pending)
        #expect(model.status?.limit == .paused)
        #expect(model.latencies.count > 4000, "hosts go on")
        model.configure { $0.isPaused = false }
        #expect(model.runToEnd(within: 30) != nil)
        #expect(model.dirty() == 0)
    }

    /// Every load, and one that changes all the time: the copy ends within what the floor promises.
    @Test(
        arguments: [
            CopyModel.Load.open(perSecond: 20), .open(perSecond: 19_000), .closed(depth: 1), .closed(depth: 200),
            .every(nanoseconds: 3_000_000), .every(nanoseconds: 15_000_000), .every(nanoseconds: 60_000_000),
        ]
    )
    func everyCopyEnds(load: CopyModel.Load) {
        let model = CopyModel(byteCount: 128 << 20, pairs: [CopySettings(latencyTargetPercent: 105)])
        model.devices[1].operationNanoseconds = 400_000
        model.run(seconds: 1, load)
        model.activate()
        #expect(model.runToEnd(within: 8 * 1.1 + 1) != nil)
    }

    @Test func aHostThatComesAndGoesIsNotTakenForIdle() {
        let model = CopyModel()
        model.run(seconds: 10, .every(nanoseconds: 30_000_000))
        let before = model.takeP99()
        model.activate()
        model.run(seconds: 10)
        _ = model.takeP99()
        model.run(seconds: 10)
        #expect(Double(model.takeP99()) <= 4 * Double(before), "30 ms are no idleness for a host that does that always")
    }

    @Test func anIdleHostGivesTheElementsBackAtOnce() {
        let model = CopyModel(pairs: [CopySettings(floorByteRate: 1 << 20)])
        model.devices[0].operationNanoseconds = 300_000
        model.run(seconds: 2, .closed(depth: 8))
        model.activate()
        #expect(model.run(seconds: 3) < 400 * Self.mebibyte)
        let rate = model.run(seconds: 1, .idle)
        #expect(rate > 600 * Self.mebibyte, "\(rate)")
    }

    /// A peer throttled exactly when it was losing ground: hosts dirty more than is copied, and the rate goes to nothing.
    @Test func losingGroundDoesNotSlowItDown() {
        let floor: UInt64 = 16 << 20
        var pace = CopyPace()
        pace.raise(toFloor: floor)
        for _ in 0..<1000 {
            pace.wasHeld = true
            pace.regulate(count: 1000, exceededCount: 1000, floor: floor)
            #expect(pace.rate == floor)
        }
        #expect(pace.isAtFloor)
        // What is left grows, and the floor with it.
        pace.regulate(count: 1000, exceededCount: 1000, floor: 4 * floor)
        #expect(pace.rate == 4 * floor)
        for _ in 0..<10_000 {
            pace.wasHeld = true
            pace.regulate(count: 1000, exceededCount: 0, floor: floor)
        }
        #expect(pace.rate == 1 << 40, "and it has an upper end")
        #expect(!pace.isAtFloor)
    }

    @Test func theAutomaticFloorEndsWithinADay() {
        #expect(CopySettings.automaticFloor(leftByteCount: 0) == 16 << 20)
        #expect(CopySettings.automaticFloor(leftByteCount: 1 << 40) == 16 << 20)
        #expect(CopySettings.automaticFloor(leftByteCount: 16 << 40) * 86_400 > 15 << 40)
    }

    @Test func sameEventsGiveTheSameChunks() {
        let runs = (0..<2).map { _ -> [UInt64] in
            let model = CopyModel(byteCount: 64 << 20)
            model.run(seconds: 1, .open(perSecond: 3000))
            model.activate()
            model.run(seconds: 4)
            return model.chunks.flatMap { [$0.at, $0.byteCount] }
        }
        #expect(runs[0] == runs[1])
    }
}

/// What comes first among several pairs, as the machine carries it out.
@Suite struct CopyOrderTests {
    @Test func aPairWithAnOrderNumberWaitsForTheDecision() {
        let model = CopyModel(byteCount: 64 << 20, pairs: [CopySettings(order: 3)])
        model.activate()
        model.run(seconds: 2)
        #expect(model.chunks.isEmpty)
        let first = PairID(high: 9, low: 9)
        model.machine.setOrder(0, waitsFor: first)
        model.run(seconds: 2)
        #expect(model.chunks.isEmpty && model.progress() == .pending)
        #expect(model.status?.limit == .order && model.status?.waitsFor == first)
        model.machine.setOrder(0, waitsFor: nil)
        #expect(model.runToEnd(within: 2) != nil)
    }

    @Test func aPairThatCannotCopyHasNoOrder() {
        let model = CopyModel(pairs: [CopySettings(order: 1), CopySettings(isPaused: true, order: 2)])
        #expect(model.order(0) == nil, "it copies nothing yet")
        model.activate(0)
        model.activate(1)
        #expect(model.order(0) == 1 && model.order(1) == nil)
        model.configure(1) { $0.isPaused = false }
        #expect(model.order(1) == 2)
    }

    @Test func sideBySideBothPairsGetTheirFloor() {
        let model = CopyModel(pairs: [CopySettings(), CopySettings()])
        model.devices[0].operationNanoseconds = 300_000
        model.run(seconds: 2, .closed(depth: 16))
        model.activate(0)
        model.activate(1)
        model.run(seconds: 2)
        let before = (model.copied(0), model.copied(1))
        model.run(seconds: 5)
        #expect(model.copied(0) - before.0 > 75 << 20)
        #expect(model.copied(1) - before.1 > 75 << 20)
    }
}

/// The histogram that latencies are counted in.
@Suite struct LatencyHistogramTests {
    @Test func everyValueLiesInItsBucket() {
        var value: UInt64 = 0
        var last = -1
        while value < 1 << 39 {
            let bucket = LatencyHistogram.bucket(of: value)
            #expect(bucket >= last && bucket < LatencyHistogram.bucketCount)
            #expect(LatencyHistogram.lowerBound(of: bucket) <= value)
            #expect(LatencyHistogram.lowerBound(of: bucket + 1) > value)
            last = bucket
            value += max(1, value / 37)
        }
        #expect(LatencyHistogram.bucket(of: .max) == LatencyHistogram.bucketCount - 1)
    }

    @Test func p99IsThatOfTheValues() {
        var histogram = LatencyHistogram()
        let nothing = histogram.p99
        #expect(nothing == nil)
        for value in 1...10_000 as ClosedRange<UInt64> { histogram.add(value * 1000) }
        let p99 = histogram.p99 ?? 0
        #expect(p99 > 9_700_000 && p99 < 10_100_000, "\(p99)")
        let above = histogram.count(above: 9_000_000)
        #expect(above > 900 && above < 1100, "\(above)")
        histogram.halve()
        let total = histogram.total
        #expect(total > 4500 && total <= 5000)
    }

    @Test func oneOutlierInAHundredIsNotTheP99() {
        var histogram = LatencyHistogram()
        for _ in 0..<995 { histogram.add(100_000) }
        for _ in 0..<5 { histogram.add(50_000_000) }
        let p99 = histogram.p99 ?? 0
        #expect(p99 < 110_000)
        let above = histogram.count(above: 125_000)
        #expect(above == 5)
    }
}
