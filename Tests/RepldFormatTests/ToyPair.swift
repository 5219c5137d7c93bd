import RepldCore
import RepldFormat

/// A pair in miniature: two sides with three blocks each that do what `SideRecord` says a side must do, hosts that write
/// numbered versions, and whatever can come between.
///
/// It knows nothing of how decisions are made: it follows the decision that it is given, and looks at the blocks.
struct ToyPair {
    typealias Decide = (SideRecord, SideRecord) -> HandshakeDecision

    static let blockCount = 3
    static let all: UInt8 = (1 << UInt8(blockCount)) - 1

    struct Side {
        var record: SideRecord
        /// Version of each block; 0 before anything was written.
        var blocks = [Int](repeating: 0, count: ToyPair.blockCount)
        /// Durable bits of blocks that may differ from the peer, with those of writes under way.
        var dirty: UInt8 = 0
        /// The current generation was drawn since the last meeting, and no other is before the next; durable.
        var hasDrawn = false
        var isUp = true
        var isServing = false
        /// What really is there is half of one image and half of another, whatever the record says.
        var isMixed = false
        /// Its record is of an older day; hosts are let in only after it was filled.
        var isRestored = false
        /// Metadata of an older day.
        var backup: (record: SideRecord, dirty: UInt8)?
    }

    enum Session: Equatable {
        case none
        /// Both have the same, and writes go from the side to the other.
        case mirroring
        /// What remains is copied from the side.
        case filling(from: Int)
    }

    enum Violation: Error, Hashable {
        case acknowledgedWriteLost
        case declaredEqual
        case unequalAfterResync
        case overwrittenByInconsistent
        case servesInconsistent
    }

    /// A rule of `SideRecord` that is not kept.
    enum BrokenRule: CaseIterable {
        case drawsNoGeneration, recordsNoFilling, takesNoBitsOver, recordsNoLoneAcknowledgement,
            marksNothingForAComparison
        case endsOnTheSourceFirst
    }

    var sides: [Side]
    var broken: BrokenRule?
    var session = Session.none
    let isAsync: Bool
    private let decide: Decide
    private var lastGeneration: UInt64 = 1
    /// The version that each version was written over; versions count from 1.
    private var parents: [Int] = [0]
    /// Acknowledged versions of each block that no acknowledged write was written over.
    private var promised: [[Int]]
    private(set) var counts: [String: Int] = [:]

    /// A new pair, or one that is in sync.
    init(isAsync: Bool, isInSync: Bool, decide: @escaping Decide) {
        self.isAsync = isAsync
        self.decide = decide
        let pair = PairID(high: 1, low: 1)
        sides = [PairRole.source, .target].map { Side(record: SideRecord(pair: pair, volumeByteCount: 3, role: $0)) }
        sides[0].record.current = Generation(1)
        promised = [[Int]](repeating: [], count: Self.blockCount)
        guard isInSync else { return }
        sides[1].record.current = Generation(1)
        for index in 0..<2 {
            sides[index].record.meeting = 1
            sides[index].record.isMeetingConfirmed = true
        }
        session = .mirroring
    }

    mutating func count(_ words: String) { counts[words, default: 0] += 1 }

    // MARK: - Writes

    /// Whether `version` of a block was written over `ancestor`, or is it.
    private func descends(_ version: Int, from ancestor: Int) -> Bool {
        var version = version
        while version > ancestor { version = parents[version] }
        return version == ancestor
    }

    private mutating func newVersion(over version: Int) -> Int {
        parents.append(version)
        return parents.count - 1
    }

    private mutating func acknowledge(_ version: Int, block: Int) {
        promised[block] = promised[block].filter { !descends(version, from: $0) } + [version]
    }

    /// Rule 1 of `SideRecord`.
    private mutating func part(_ index: Int) {
        let record = sides[index].record
        sides[index].record.wasServing = true
        if broken == .drawsNoGeneration { return }
        guard !sides[index].hasDrawn else { return }
        lastGeneration += 1
        sides[index].record.history.push(record.current)
        if record.base.isNone { sides[index].record.base = record.current }
        sides[index].record.current = Generation(lastGeneration)
        sides[index].hasDrawn = true
    }

    /// The host of a side writes a block; `stops` says after how many of the steps the side crashes.
    mutating func write(_ index: Int, block: Int, crashAfter step: Int) {
        guard sides[index].isUp, sides[index].isServing, sides[index].record.filling.isNone else { return }
        let other = 1 - index
        let isMirrored = session == .mirroring || session == .filling(from: index)
        if step == 0 { return crash(index) }
        if isMirrored {
            if isAsync && broken != .recordsNoLoneAcknowledgement { sides[index].record.acknowledgesAlone = true }
            sides[index].record.wasServing = true
        } else {
            part(index)
        }
        let wasDirty = sides[index].dirty & 1 << UInt8(block) != 0
        sides[index].dirty |= 1 << UInt8(block)
        if step == 1 { return crash(index) }
        let version = newVersion(over: sides[index].blocks[block])
        guard isMirrored else {
            sides[index].blocks[block] = version
            if step == 2 { return crash(index) }
            return acknowledge(version, block: block)
        }
        // A synchronous write reaches the two in either order.
        if step == 2 && !isAsync { sides[other].blocks[block] = version } else { sides[index].blocks[block] = version }
        if step == 2 || step == 3 && !isAsync { return crash(index) }
        if isAsync { return acknowledge(version, block: block) }
        sides[other].blocks[block] = version
        if !wasDirty { sides[index].dirty &= ~(1 << UInt8(block)) }
        acknowledge(version, block: block)
    }

    /// A mirrored write under way when the link goes: it is acknowledged alone, once that is recorded.
    mutating func writeWhileLinkIsLost(_ index: Int, block: Int, reachesPeer: Bool, isAcknowledged: Bool) {
        guard session == .mirroring || session == .filling(from: index) else { return }
        guard sides[index].isUp, sides[index].isServing, sides[index].record.filling.isNone else { return }
        sides[index].record.wasServing = true
        sides[index].dirty |= 1 << UInt8(block)
        let version = newVersion(over: sides[index].blocks[block])
        sides[index].blocks[block] = version
        if reachesPeer { sides[1 - index].blocks[block] = version }
        session = .none
        guard isAcknowledged else { return }
        part(index)
        acknowledge(version, block: block)
    }

    /// What an asynchronous pair sends later; the acknowledgement may not come back.
    mutating func deliver(from index: Int, block: Int, isAcknowledged: Bool) {
        guard session == .mirroring, sides[index].dirty & 1 << UInt8(block) != 0 else { return }
        sides[1 - index].blocks[block] = sides[index].blocks[block]
        if isAcknowledged { sides[index].dirty &= ~(1 << UInt8(block)) }
    }

    // MARK: - What comes between

    mutating func crash(_ index: Int) {
        guard sides[index].isUp else { return }
        sides[index].isUp = false
        sides[index].isServing = false
        sides[index].record.hasCrashed = true
        session = .none
    }

    mutating func loseLink() { session = .none }

    mutating func start(_ index: Int) { sides[index].isUp = true }

    /// A host is let in: on the source, or by an operator who fails over; never to a side that is half overwritten.
    mutating func serve(_ index: Int) throws(Violation) {
        guard sides[index].isUp, sides[index].record.filling.isNone, !sides[index].record.current.isNone else { return }
        guard !sides[index].isRestored else { return }
        guard !sides[index].isMixed else { throw .servesInconsistent }
        switch session {
        case .none: sides[index].isServing = true
        case .filling(let source): if source == index { sides[index].isServing = true }
        case .mirroring:
            // Planned: what is under way is drained first.
            let other = 1 - index
            guard sides[other].dirty == 0 else { return }
            if sides[other].isServing || sides[other].record.wasServing {
                sides[other].isServing = false
                sides[other].record.wasServing = false
                sides[other].record.acknowledgesAlone = false
            }
            sides[index].isServing = true
        }
    }

    mutating func loseMap(_ index: Int) {
        sides[index].record.isMapKnown = false
        sides[index].dirty = 0
        crash(index)
    }

    mutating func takeBackup(_ index: Int) { sides[index].backup = (sides[index].record, sides[index].dirty) }

    /// Metadata of an older day, from before the last meeting: of the same day nobody could tell.
    mutating func restoreBackup(_ index: Int) {
        guard let backup = sides[index].backup, !sides[index].isUp else { return }
        let peer = sides[1 - index].record
        guard peer.isMeetingConfirmed, peer.meeting > backup.record.meeting else { return }
        sides[index].record = backup.record
        sides[index].isRestored = true
        sides[index].record.hasCrashed = true
        sides[index].dirty = backup.dirty
        count("restored")
    }

    // MARK: - Meeting

    /// The two meet; broken off after so many of the steps of rule 4, and of 5.
    mutating func meet(breakOffAfter step: Int, force: Int?) throws(Violation) {
        guard session == .none, sides[0].isUp, sides[1].isUp else { return }
        for index in 0..<2 { sides[index].record.isDirty = sides[index].dirty != 0 }
        let decision = decide(sides[0].record, sides[1].record)
        try check(decision)
        count("\(decision.kind)")
        let next = SideRecord.nextMeeting(sides[0].record, sides[1].record)
        switch decision {
        case .inSync:
            guard meetingIsRecorded(next, breakOffAfter: step) else { return }
            for index in 0..<2 {
                sides[index].record.base = .none
                sides[index].record.hasCrashed = false
                if step == 4 + index { return }
            }
            // Hosts may have been let in on both sides while they were parted, and have written through one at most.
            let kept = sides[1].record.wasServing ? 1 : 0
            sides[1 - kept].isServing = false
            session = .mirroring
        case .resync(let side, _):
            guard meetingIsRecorded(next, breakOffAfter: step) else { return }
            fill(from: Int(side.rawValue), everything: false, step)
        case .compareAll(let side, _):
            guard meetingIsRecorded(next, breakOffAfter: step) else { return }
            fill(from: Int(side.rawValue), everything: true, step)
        case .stop:
            guard let force, sides[force].record.filling.isNone, !sides[force].record.current.isNone else { return }
            // The operator gives up what only the other side has, and takes this one as it is.
            sides[force].isMixed = false
            for block in 0..<Self.blockCount {
                let kept = sides[force].blocks[block]
                promised[block] = promised[block].filter { descends(kept, from: $0) }
            }
            guard meetingIsRecorded(next, breakOffAfter: 9) else { return }
            fill(from: force, everything: true, 9)
        }
    }

    private mutating func meetingIsRecorded(_ number: UInt64, breakOffAfter step: Int) -> Bool {
        for half in 0..<4 {
            if half == step { return false }
            let index = half & 1
            if half >= 2 {
                sides[index].record.isMeetingConfirmed = true
                sides[index].hasDrawn = false
            } else if sides[index].record.meeting != number {
                sides[index].record.meeting = number
                sides[index].record.isMeetingConfirmed = false
            }
        }
        return true
    }

    private mutating func fill(from source: Int, everything: Bool, _ step: Int) {
        let target = 1 - source
        sides[target].isServing = false
        let marked = everything && broken != .marksNothingForAComparison ? Self.all : sides[target].dirty
        if broken != .takesNoBitsOver || everything { sides[source].dirty |= marked }
        if everything {
            sides[source].record.isMapKnown = true
            if sides[source].record.base.isNone { sides[source].record.base = sides[source].record.current }
        }
        if step == 4 { return }
        if broken != .recordsNoFilling { sides[target].record.filling = sides[source].record.current }
        if step == 5 { return }
        session = .filling(from: source)
    }

    mutating func copy(block: Int) {
        guard case .filling(let source) = session, sides[source].dirty & 1 << UInt8(block) != 0 else { return }
        sides[1 - source].blocks[block] = sides[source].blocks[block]
        sides[1 - source].isMixed = true
        sides[source].dirty &= ~(1 << UInt8(block))
    }

    /// Rule 6 of `SideRecord`, broken off between the two or not.
    mutating func finish(breakOff: Bool) throws(Violation) {
        guard case .filling(let source) = session, sides[source].dirty == 0 else { return }
        let target = 1 - source
        guard sides[0].blocks == sides[1].blocks else { throw .unequalAfterResync }
        if broken == .endsOnTheSourceFirst {
            sides[source].record.base = .none
            if breakOff { return loseLink() }
        }
        var filled = sides[target].record
        filled.current = sides[source].record.current
        filled.history = sides[source].record.history
        (filled.base, filled.filling) = (.none, .none)
        (filled.wasServing, filled.hasCrashed, filled.acknowledgesAlone) = (false, false, false)
        filled.isMapKnown = true
        sides[target].record = filled
        sides[target].dirty = 0
        sides[target].isMixed = false
        sides[target].isRestored = false
        count("finished")
        if breakOff { return loseLink() }
        sides[source].record.base = .none
        sides[source].record.hasCrashed = false
        session = .mirroring
    }

    // MARK: - Checks

    /// Nothing acknowledged is given up, nothing that differs is called equal, nothing half overwritten is a source.
    private func check(_ decision: HandshakeDecision) throws(Violation) {
        let source: Int
        switch decision {
        case .inSync:
            guard sides[0].blocks == sides[1].blocks else { throw .declaredEqual }
            source = 0
        case .resync(let side, _):
            source = Int(side.rawValue)
            let named = sides[0].dirty | sides[1].dirty
            for block in 0..<Self.blockCount where named & 1 << UInt8(block) == 0 {
                guard sides[0].blocks[block] == sides[1].blocks[block] else { throw .unequalAfterResync }
            }
        case .compareAll(let side, _): source = Int(side.rawValue)
        case .stop: return
        }
        guard !sides[source].isMixed else { throw .overwrittenByInconsistent }
        for block in 0..<Self.blockCount {
            guard promised[block].allSatisfy({ descends(sides[source].blocks[block], from: $0) }) else {
                throw .acknowledgedWriteLost
            }
        }
    }
}

extension HandshakeDecision {
    /// The decision without its direction.
    var kind: String {
        switch self {
        case .inSync(let rule): "in sync, \(rule)"
        case .resync(_, let rule): "resync, \(rule)"
        case .compareAll(_, let rule): "compare all, \(rule)"
        case .stop(.olderMetadata): "stop, olderMetadata"
        case .stop(let conflict): "stop, \(conflict)"
        }
    }
}

extension ToyPair {
    /// One step of whatever may happen, drawn from a seed.
    mutating func step(_ random: inout RandomSource, backups: Bool) throws(Violation) {
        let index = Int(random.below(2))
        let block = Int(random.below(UInt64(Self.blockCount)))
        switch random.below(backups ? 24 : 21) {
        case 0...3: write(index, block: block, crashAfter: random.chance(oneIn: 4) ? Int(random.below(4)) : 9)
        case 4:
            writeWhileLinkIsLost(
                index,
                block: block,
                reachesPeer: random.chance(oneIn: 2),
                isAcknowledged: random.chance(oneIn: 2)
            )
        case 5, 6: if isAsync { deliver(from: index, block: block, isAcknowledged: random.chance(oneIn: 2)) }
        case 7: if random.chance(oneIn: 3) { crash(index) }
        case 8: if random.chance(oneIn: 2) { loseLink() }
        case 9, 10: start(index)
        case 11, 12: try serve(index)
        case 13...15:
            let force = random.chance(oneIn: 4) ? index : nil
            try meet(breakOffAfter: random.chance(oneIn: 4) ? Int(random.below(6)) : 9, force: force)
        case 16, 17:
            copy(block: block)
            for rest in 0..<Self.blockCount where !random.chance(oneIn: 3) { copy(block: rest) }
        case 18, 19: try finish(breakOff: random.chance(oneIn: 3))
        case 20: if random.chance(oneIn: 8) { loseMap(index) }
        case 21: takeBackup(index)
        default: restoreBackup(index)
        }
    }
}
