import RepldCore
import RepldFormat

@testable import RepldPair

/// Goes through the states that a `PairWorld` can reach, by replaying sequences of events from the beginning.
struct Explorer {
    /// What was found, with the events that lead to it.
    struct Finding: CustomStringConvertible {
        var violation: String
        var events: [WorldEvent]

        var description: String {
            "\(violation), after:\n" + events.map { "    \($0)" }.joined(separator: "\n")
        }
    }

    struct Coverage {
        var stateCount = 0
        var copyStates: Set<CopyState> = []
        var operations: Set<ReplicationOperation> = []
        /// Copies that were taken back with an undo.
        var rollbackCount = 0
    }

    var shape = PairWorld.Shape()
    /// Hears of each sequence before it happens: a broken invariant of the machine stops the process, and says no more.
    var listener: ([WorldEvent]) -> Void = { _ in }

    /// A world in which the events have happened; `nil` with the finding when one of them broke a rule.
    func replay(_ events: [WorldEvent]) -> (world: PairWorld, violation: String?) {
        listener(events)
        let world = PairWorld(shape)
        for event in events {
            guard world.violation == nil else { break }
            _ = world.apply(event)
        }
        if world.violation == nil { world.check() }
        return (world, world.violation)
    }

    /// Breadth-first from where `start` leads, as far as `stateLimit` states go.
    func explore(from start: [WorldEvent], stateLimit: Int, _ coverage: inout Coverage) -> Finding? {
        var seen: Set<[Int]> = []
        var frontier = [start]
        var next = 0
        while next < frontier.count, seen.count < stateLimit {
            let path = frontier[next]
            next += 1
            let (world, violation) = replay(path)
            if let violation { return shorten(Finding(violation: violation, events: path)) }
            guard seen.insert(world.signature).inserted else { continue }
            note(world, &coverage)
            for event in world.possibleEvents { frontier.append(path + [event]) }
            listener(path + [.playOut])
            if !world.apply(.playOut) || world.violation != nil {
                return shorten(Finding(violation: world.violation ?? "", events: path + [.playOut]))
            }
        }
        return nil
    }

    private func note(_ world: PairWorld, _ coverage: inout Coverage) {
        coverage.stateCount += 1
        for pair in world.pairs.indices where world.machine.pairs[pair].isInUse {
            coverage.copyStates.insert(world.machine.pairs[pair].copyState)
            if let operation = world.machine.pairs[pair].operation { coverage.operations.insert(operation) }
        }
    }

    /// Long ways through the states of one pair and of two, with records written at once and not; the findings in words.
    static func walkShapes(
        seeds: ClosedRange<UInt64>,
        keepsUndo: Bool = false,
        isRemote: Bool = false,
        mayFollow: Bool = false,
        _ coverage: inout Coverage
    ) -> [String] {
        var findings: [String] = []
        for (pairCount, writesRecordsAtOnce) in [(1, true), (1, false), (2, true), (2, false)] {
            var explorer = Explorer()
            explorer.shape.keepsUndo = keepsUndo
            explorer.shape.isRemote = isRemote
            explorer.shape.mayFollow = mayFollow
            explorer.shape.pairCount = pairCount
            explorer.shape.granuleCount = 3
            explorer.shape.copyDepth = 2
            explorer.shape.writesRecordsAtOnce = writesRecordsAtOnce
            for seed in seeds {
                let finding = explorer.walk(seed: seed, stepCount: 1500, &coverage)
                if let finding { findings.append("seed \(seed): \(finding)") }
            }
        }
        return findings
    }

    /// One long way through the states, chosen by a seed.
    func walk(seed: UInt64, stepCount: Int, _ coverage: inout Coverage) -> Finding? {
        var random = RandomSource(seed: seed)
        let world = PairWorld(shape)
        var events: [WorldEvent] = []
        for _ in 0..<stepCount {
            let choices = world.possibleEvents
            guard let event = world.choose(&random, choices) else { continue }
            events.append(event)
            listener(events)
            _ = world.apply(event)
            if world.violation == nil { world.check() }
            if let violation = world.violation { return shorten(Finding(violation: violation, events: events)) }
            note(world, &coverage)
        }
        coverage.rollbackCount += world.rollbackCount
        return nil
    }

    /// Leaves out whatever the finding does not need.
    private func shorten(_ finding: Finding) -> Finding {
        var best = finding
        var length = max(finding.events.count / 2, 1)
        while length > 0 {
            var first = 0
            while first < best.events.count {
                var events = best.events
                events.removeSubrange(first..<min(first + length, events.count))
                if let violation = replay(events).violation {
                    best = Finding(violation: violation, events: events)
                } else {
                    first += length
                }
            }
            length /= 2
        }
        return best
    }
}

extension PairWorld {
    private static let operations: [ReplicationOperation] = [
        .abort, .activate, .deactivate, .failover, .failback, .fracture, .resyncReplica, .restoreFromReplica, .resume,
        .reverseRoles, .split, .suspend, .prepare,
    ]

    /// Whatever can happen now, operations that would be refused left out.
    var possibleEvents: [WorldEvent] {
        var events: [WorldEvent] = []
        for pair in pairs.indices { events += possibleCommands(pair) }
        if !machine.isClosing {
            if history.pendingCount < shape.hostLimit {
                events += (0..<shape.granuleCount).map { .write($0) }
                events += [.flush, .read(0)]
            }
            events.append(.close)
            if shape.mayFollow, isReplica || machine.canFollow { events.append(.follow(!isReplica)) }
        }
        for element in disks.indices {
            let candidates = inFlight.filter { $0.element == element }
            for nth in candidates.indices {
                events.append(.end(element: element, nth: nth, .done))
                events.append(.end(element: element, nth: nth, .failed))
            }
            events += possibleLosses(element, candidates)
        }
        for pair in pairs.indices where pairs[pair].recordInFlight != nil {
            events += [.record(pair: pair, isWritten: true), .record(pair: pair, isWritten: false)]
        }
        for pair in pairs.indices where pairs[pair].undo.pageInFlight != nil {
            events += [.undoPage(pair: pair, isWritten: true), .undoPage(pair: pair, isWritten: false)]
        }
        return events + [.tick] + possibleCrashes
    }

    private func possibleCommands(_ pair: Int) -> [WorldEvent] {
        guard machine.pairs[pair].isInUse, !machine.isClosing else { return [] }
        var events: [WorldEvent] = []
        let facts = machine.facts(of: pair)
        for operation in Self.operations {
            switch OperationTable.verdict(operation, facts, isForced: false) {
            case .accepted: events.append(.operate(pair, operation, isForced: false))
            case .needsForce: events.append(.operate(pair, operation, isForced: true))
            case .holds, .refused: break
            }
        }
        if machine.pairs[pair].operation != nil { events.append(.cancel(pair)) }
        if machine.isTargetOpen(pair), inFlight.count < 6 {
            events += (0..<shape.granuleCount).map { .targetWrite(pair: pair, granule: $0) }
            events.append(.targetFlush(pair: pair))
        }
        if !machine.pairs[pair].wantsDetach { events.append(.detach(pair)) }
        if !machine.pairs[pair].isReachable {
            events.append(.linkRestored(pair: pair))
        } else if machine.pairs[pair].isRemote {
            events += WorldEvent.Fate.allCases.map { .linkLost(pair: pair, $0) }
        }
        return events
    }

    /// An element that is no longer to be trusted says so by failing a flush, a target by failing anything.
    private func possibleLosses(_ element: Int, _ candidates: [InFlight]) -> [WorldEvent] {
        var events: [WorldEvent] = []
        for (nth, candidate) in candidates.enumerated() {
            let kind = candidate.operation.kind
            if kind == .write { events.append(.end(element: element, nth: nth, .failedAfterEffect)) }
            let isServing = places[0] == element
            let mayLose = kind == .flush || (!isServing && kind == .write)
            if mayLose { events.append(.end(element: element, nth: nth, .lostCache)) }
        }
        return events
    }

    /// Kills of the daemon and losses of power; with several elements, each of one kind on all of them and on the first only.
    private var possibleCrashes: [WorldEvent] {
        var events: [WorldEvent] = []
        let hasRecord = pairs.contains { $0.recordInFlight != nil || $0.undo.pageInFlight != nil }
        for isRecordWritten in hasRecord ? [false, true] : [false] {
            for fate in WorldEvent.Fate.allCases {
                events.append(.crash(Array(repeating: fate, count: disks.count), isRecordWritten: isRecordWritten))
                guard fate != .kept else { continue }
                var fates: [WorldEvent.Fate] = Array(repeating: .kept, count: disks.count)
                fates[0] = fate
                events.append(.crash(fates, isRecordWritten: isRecordWritten))
                fates = Array(repeating: fate, count: disks.count)
                fates[0] = .kept
                events.append(.crash(fates, isRecordWritten: isRecordWritten))
            }
        }
        return events
    }

    /// One event, so that a long walk is not all crashes: most are ends of operations and requests of hosts.
    func choose(_ random: inout RandomSource, _ choices: [WorldEvent]) -> WorldEvent? {
        let weighted = choices.filter { event in
            switch event {
            case .crash, .linkLost: random.chance(oneIn: 40)
            case .close, .detach: random.chance(oneIn: 60)
            case .follow: random.chance(oneIn: 25)
            case .tick: random.chance(oneIn: 8)
            case .end(_, _, .done), .record(_, isWritten: true), .undoPage(_, isWritten: true): true
            case .end, .record, .undoPage: random.chance(oneIn: 12)
            case .operate: random.chance(oneIn: 6)
            case .cancel: random.chance(oneIn: 10)
            case .write, .read, .flush, .targetWrite, .targetFlush: random.chance(oneIn: 2)
            case .playOut, .linkRestored: true
            }
        }
        if random.chance(oneIn: 50) { return .playOut }
        guard !weighted.isEmpty else { return nil }
        return weighted[Int(random.below(UInt64(weighted.count)))]
    }
}
