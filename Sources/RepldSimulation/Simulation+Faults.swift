internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// What goes wrong in the world.
extension Simulation {
    func injectFaults() {
        injectTargetFaults()
        injectPrimaryFaults()
        if world.random.chance(oneIn: options.metadataFailureOneIn) {
            let pair = pick()
            let isFailing = pairs[pair].metadata.faults.failure != nil
            pairs[pair].metadata.faults.failure = isFailing ? nil : .inputOutput
            pairs[pair].hasMetadataFailed = true
            noteMetadataTrouble()
            note("\(pairs[pair].metadata.name) \(isFailing ? "heals" : "fails")")
            excuseRequests()
        }
        injectUndoFaults()
    }

    /// A crash follows within a few turns, of those seeds that aim.
    func aimCrash(oneIn: UInt64, within turns: UInt64) {
        guard options.crashesWhereItHurts, crashAtTurn == nil, aimed.strikes(oneIn: oneIn) else { return }
        crashAtTurn = turnCount + 1 + aimed.random.below(turns)
        note("a crash is aimed at turn \(crashAtTurn ?? 0)")
    }

    private func injectTargetFaults() {
        if options.targetFailureOneIn > 0, aimed.strikes(oneIn: 60) {
            let disk = other(pick(&aimed.random))
            disk.faults.failsNextFlush = true
            note("the next flush of \(disk.name) fails")
            excuseRequests()
        }
        if world.random.chance(oneIn: options.examinerStuckOneIn) {
            host.isExaminerStuck.toggle()
            note("examinations stuck: \(host.isExaminerStuck)")
        }
        if world.random.chance(oneIn: options.targetFailureOneIn) {
            let disk = other(pick())
            let isFailing = disk.faults.failure != nil
            let failures: [IOFailure] = [.inputOutput, .noSpace, .gone]
            disk.faults.failure = isFailing ? nil : failures[Int(world.random.below(3))]
            note("\(disk.name) \(isFailing ? "heals" : "fails")")
            excuseRequests()
        }
        if world.random.chance(oneIn: options.targetStuckOneIn) {
            let disk = other(pick())
            disk.faults.isStuck.toggle()
            note("\(disk.name) stuck: \(disk.faults.isStuck)")
        }
    }

    private func injectPrimaryFaults() {
        if world.random.chance(oneIn: options.sourceBadSectorOneIn) {
            let sector = Int(world.random.below(UInt64(primary.sectorCount)))
            primary.spoil(sector: sector)
            note("\(primary.name) sector \(sector) goes bad")
            excuseRequests()
        }
        if options.sourceFlakyOneIn > 0, world.random.chance(oneIn: 100) {
            let disk = primary
            disk.faults.failsOneIn = disk.faults.failsOneIn == 0 ? options.sourceFlakyOneIn : 0
            note("\(disk.name) fails once in \(disk.faults.failsOneIn)")
            excuseRequests()
        }
        if world.random.chance(oneIn: options.sourceStuckOneIn) {
            primary.faults.isStuck.toggle()
            note("\(primary.name), the primary, stuck: \(primary.faults.isStuck)")
            excuseRequests()
        }
    }

    /// An element that has failed and is the primary now fails requests of hosts; so does one with a bad sector, and a
    /// metadata area that cannot be written.
    func mayFail(_ host: HostOperation) -> Bool {
        let disk = host.pair.map { pairs[$0].isAttached ? other($0) : volumeDisk } ?? primary
        if disk.faults.failure != nil || disk.faults.failsOneIn > 0 || disk.faults.isStuck { return true }
        if host.operation == .read { return disk.isBad(host.sectors) }
        return isMetadataInTrouble && host.operation != .flush
    }

    /// What is in flight while something is wrong may fail.
    func excuseRequests() {
        for place in inFlight.indices {
            guard let host = inFlight[place], !host.isExcused, mayFail(host) else { continue }
            inFlight[place]?.isExcused = true
        }
    }

    var isMetadataInTrouble: Bool {
        world.now <= metadataTroubleUntil || pairs.contains { $0.isAttached && $0.metadata.faults.failure != nil }
    }

    /// A record that failed is tried again at the next tick.
    func noteMetadataTrouble() { metadataTroubleUntil = world.now + 3_000_000_000 }

    func healAll() {
        if pairs.contains(where: { $0.metadata.faults.failure != nil }) { noteMetadataTrouble() }
        for disk in allDisks {
            disk.faults.failure = nil
            disk.faults.failsOneIn = 0
            disk.faults.isStuck = false
            disk.faults.failsNextFlush = false
        }
        host.isExaminerStuck = false
    }

    /// Hosts wait for their own element as long as it takes: one that hangs answers again.
    func releaseHosts() {
        primary.faults.isStuck = false
        // A copy holds its lock until what it has read is examined.
        host.isExaminerStuck = false
        for index in pairs.indices where inFlight.contains(where: { $0?.pair == index }) {
            other(index).faults.isStuck = false
        }
    }
}
