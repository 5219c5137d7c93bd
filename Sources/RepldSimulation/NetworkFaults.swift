internal import RepldCore

/// How the network of one run behaves, drawn from its seed: some kinds of faults off, the others with wild weights.
package struct NetworkFaults: Sendable {
    package var settings = SimulatedNetwork.Settings()
    package var delayNanoseconds: ClosedRange<UInt64>
    package var bytesPerSecond: UInt64?
    package var answerDelayLimitNanoseconds: UInt64
    /// Each happens once in so many steps; 0 is never.
    ///
    /// What is switched on is switched off again in the same way.
    package var partitionOneIn: UInt64
    package var cutOneIn: UInt64
    package var muteOneIn: UInt64
    package var slowLinkOneIn: UInt64
    package var refusalOneIn: UInt64

    /// What a link carries while it is slow.
    package static var slowBytesPerSecond: UInt64 { 16 << 10 }

    /// Draws the behaviour of a seed.
    package init(seed: UInt64) {
        var random = RandomSource(seed: seed ^ 0x11EE_0F0D_D500)
        func pick<Value>(_ values: [Value]) -> Value { values[Int(random.below(UInt64(values.count)))] }
        settings.sendBufferByteCount = pick([4 << 10, 64 << 10, 1 << 20])
        settings.receiveBufferByteCount = pick([4 << 10, 64 << 10, 1 << 20])
        settings.pieceByteCountMaximum = pick([100, 1448, 64 << 10])
        settings.connectLimitNanoseconds = pick([1_000_000_000, 5_000_000_000, 20_000_000_000])
        settings.silenceLimitNanoseconds = pick([nil, 2_000_000_000, 15_000_000_000, 900_000_000_000])
        settings.tellsUnreachable = random.chance(oneIn: 2)
        delayNanoseconds = pick([1_000...20_000, 20_000...500_000, 1_000_000...40_000_000, 0...300_000_000])
        bytesPerSecond = pick([nil, nil, 1 << 20, 100 << 20])
        answerDelayLimitNanoseconds = pick([0, 0, 100_000_000, 30_000_000_000])
        partitionOneIn = pick([0, 50, 200, 500])
        cutOneIn = pick([0, 50, 200, 500])
        muteOneIn = pick([0, 0, 200, 500])
        slowLinkOneIn = pick([0, 0, 200])
        refusalOneIn = pick([0, 0, 200])
    }
}

extension SimulatedNetwork {
    /// Behaves as `faults` says from now on, as far as no fault is on.
    package func adopt(_ faults: NetworkFaults) {
        settings = faults.settings
        forEachPair { first, second in
            let link = link(from: first, to: second)
            link.delayNanoseconds = faults.delayNanoseconds
            link.bytesPerSecond = faults.bytesPerSecond
            link.answerDelayLimitNanoseconds = faults.answerDelayLimitNanoseconds
            link.answersLateOneIn = 4
        }
    }

    /// Perhaps something goes wrong between two hosts, or right again; what, in words, for a trace.
    package func inject(_ faults: NetworkFaults) -> String? {
        guard world.hosts.count > 1 else { return nil }
        let first = world.hosts[Int(world.random.below(UInt64(world.hosts.count)))]
        let others = world.hosts.filter { $0 !== first }
        let second = others[Int(world.random.below(UInt64(others.count)))]
        let link = link(from: first, to: second)
        let way = "from \(first.name) to \(second.name)"
        if world.random.chance(oneIn: faults.partitionOneIn) {
            let isPartitioned = !link.isPartitioned
            setPartitioned(isPartitioned, from: first, to: second)
            // Most are so in both directions.
            if !world.random.chance(oneIn: 4) { setPartitioned(isPartitioned, from: second, to: first) }
            return "partitioned \(way): \(isPartitioned)"
        }
        if world.random.chance(oneIn: faults.cutOneIn) {
            let side = CutSide.allCases[Int(world.random.below(UInt64(CutSide.allCases.count)))]
            cut(first, second, side)
            return "cut \(way), \(side)"
        }
        if world.random.chance(oneIn: faults.muteOneIn) {
            mute(from: first, to: second)
            return "muted \(way)"
        }
        if world.random.chance(oneIn: faults.slowLinkOneIn) {
            let isSlow = link.bytesPerSecond == NetworkFaults.slowBytesPerSecond
            link.bytesPerSecond = isSlow ? faults.bytesPerSecond : NetworkFaults.slowBytesPerSecond
            return "slow \(way): \(!isSlow)"
        }
        if world.random.chance(oneIn: faults.refusalOneIn) {
            link.refusesConnects.toggle()
            return "connects refused \(way): \(link.refusesConnects)"
        }
        return nil
    }

    /// Every fault that `inject` may have switched on is off, and connections that one end wrongly believes in are cut.
    package func healAll(_ faults: NetworkFaults) {
        adopt(faults)
        healLinks()
    }

    /// Everything passes between all hosts; what was set about delays and bandwidth stays.
    package func healLinks() {
        forEachPair { first, second in
            let link = link(from: first, to: second)
            link.refusesConnects = false
            link.answerDelayLimitNanoseconds = 0
            setPartitioned(false, from: first, to: second)
        }
        cutHalfOpen()
    }

    private func forEachPair(_ body: (SimulatedHost, SimulatedHost) -> Void) {
        for first in world.hosts {
            for second in world.hosts where first !== second { body(first, second) }
        }
    }
}
