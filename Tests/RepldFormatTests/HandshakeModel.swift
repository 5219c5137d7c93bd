import RepldCore
import RepldFormat

/// A pair between two hosts in miniature: two sides with four blocks each that do what `SideRecord` says a side must do, hosts that
/// write numbered versions, and whatever can come between.
///
/// It knows nothing of how decisions are made: it follows the decision that it is given, and looks at the blocks.
struct HandshakeModel {
    static let blockCount = 4

    struct Side {
        /// What is durable of the pair; as its holder, or as it was told.
        var record: SideRecord
        /// Version of each block; 0 before anything was written.
        var blocks = [Int](repeating: 0, count: HandshakeModel.blockCount)
        /// Blocks that may differ from the peer's, durable; of the one that has the pair.
        var dirty: Set<Int> = []
        /// Taken over, and the former source has not told yet.
        var awaitsMeeting = false
        /// Hosts have been let in since it was taken over, or for ever.
        var serves = false
    }

    /// Which of the rules is not kept: each makes a model that fails.
    enum Fault: CaseIterable {
        case believesAnySequence, ignoresConfirmed, believesAnyRun, believesAnyFormer, drawsNoGeneration
    }

    enum Violation: Error, Hashable {
        /// The two are in step, and do not hold the same.
        case unequal
        /// A copy overwrote what a host was told is written.
        case acknowledgedWriteLost
    }

    var sides: [Side]
    var isConnected = false
    /// Of each block, the last version that a host was told of by the side that has the pair rightly.
    private var acknowledged = [Int](repeating: 0, count: blockCount)
    private var backups: [Side?] = [nil, nil]
    private var hasRestored = false
    private var random: RandomSource
    private var lastVersion = 0
    private var lastGeneration: UInt64 = 0
    private let fault: Fault?
    private(set) var decisions: [HandshakeDecision: Int] = [:]
    private(set) var disbeliefs = 0
    /// Only an operator could go on.
    private(set) var isStopped = false

    init(seed: UInt64, fault: Fault? = nil) {
        random = RandomSource(seed: seed)
        self.fault = fault
        let pair = PairID(high: 1, low: 1)
        sides = [true, false].map { Side(record: SideRecord(pair: pair, volumeByteCount: 4096, hasPair: $0)) }
        sides[0].serves = true
        sides[0].dirty = Set(0..<Self.blockCount)
        beginRun(0)
    }

    // MARK: - What a side does

    /// A new run of the side that has the pair: its first record is durable before anything else.
    private mutating func beginRun(_ side: Int) {
        lastGeneration += 1
        let drawn = fault == .drawsNoGeneration ? Generation(1) : Generation(lastGeneration)
        sides[side].record.lineage.begin(drawn, after: sides[side].record.sequence)
        writeRecord(side)
    }

    private mutating func writeRecord(_ side: Int) { sides[side].record.sequence += 1 }

    /// The peer is told of the latest record, and most often heard to have it.
    private mutating func tell(from side: Int, isHeard: Bool = false) {
        let peer = 1 - side
        if !sides[side].record.lineage.isTold {
            sides[side].record.lineage.isTold = true
            writeRecord(side)
        }
        var told = sides[side].record
        told.hasPair = false
        sides[peer].record = told
        if isHeard || !random.chance(oneIn: 4) { sides[side].record.lineage.confirmedSequence = told.sequence }
    }

    /// The side that has the pair, and whose writes count: of two the one with the later term.
    private var holder: Int? {
        let holders = [0, 1].filter { sides[$0].record.hasPair }
        return holders.max { sides[$0].record.term < sides[$1].record.term }
    }

    private mutating func disconnect() {
        guard isConnected, let holder else { return }
        isConnected = false
        writeRecord(holder)
    }

    private mutating func write(on side: Int) {
        guard sides[side].record.hasPair, sides[side].serves else { return }
        lastVersion += 1
        let block = Int(random.below(UInt64(Self.blockCount)))
        sides[side].blocks[block] = lastVersion
        if isConnected, side == holder {
            sides[1 - side].blocks[block] = lastVersion
        } else {
            sides[side].dirty.insert(block)
        }
        if side == holder { acknowledged[block] = lastVersion }
    }

    /// The replica takes the pair over: planned, when both are in step, or because the other does not answer.
    private mutating func takeOver() {
        guard let former = holder, !sides[1 - former].record.hasPair, sides[1 - former].record.sequence > 0 else {
            return
        }
        let taker = 1 - former
        let isPlanned = isConnected
        if isPlanned {
            writeRecord(former)
            tell(from: former)
        }
        isConnected = false
        let last = sides[taker].record
        sides[taker].record.hasPair = true
        sides[taker].record.term += 1
        sides[taker].record.lineage.takenOverAt = HistoryPoint(last.lineage.generation, last.sequence)
        sides[taker].record.lineage.confirmedSequence = last.sequence
        sides[taker].dirty = []
        sides[taker].awaitsMeeting = true
        sides[taker].serves = true
        beginRun(taker)
        if isPlanned { sides[former].serves = false }
        // Whatever else the former was told of, an operator has given up; unless he did so on a side that was put back.
        if holder == taker { acknowledged = sides[taker].blocks }
    }

    /// The former source gives way: it tells where it may differ, and becomes the replica.
    private mutating func meet(former: Int, by taker: Int) {
        var isBelieved = HandshakeDecision.isBelievable(former: sides[former].record, by: sides[taker].record)
        if !isBelieved { disbeliefs += 1 }
        if fault == .believesAnyFormer { isBelieved = true }
        sides[taker].record.lineage.isTold = true
        writeRecord(taker)
        sides[taker].dirty.formUnion(isBelieved ? sides[former].dirty : Set(0..<Self.blockCount))
        sides[taker].awaitsMeeting = false
        sides[former].dirty = []
        sides[former].serves = false
        sides[former].record = sides[taker].record
        sides[former].record.hasPair = false
    }

    // MARK: - What comes between

    /// A side is put back to what it was, metadata and blocks.
    ///
    /// Where the peer has heard of nothing later, nobody can see that: that is left out. Once: what may still be expected after several of them is nothing that a model could say.
    private mutating func restore(_ side: Int) {
        guard let backup = backups[side], !hasRestored else { return }
        let peer = sides[1 - side]
        if backup.record.hasPair {
            let hasHeard = !peer.record.hasPair && peer.record.sequence > backup.record.sequence
            let isParted = peer.record.hasPair && peer.record.term > backup.record.term
            guard hasHeard || isParted && peer.record.lineage.takenOverAt.sequence != backup.record.sequence else {
                return
            }
        } else {
            guard peer.record.hasPair, peer.record.lineage.confirmedSequence > backup.record.sequence else { return }
        }
        hasRestored = true
        disconnect()
        let isLastTermLost = sides[side].record.term > max(backup.record.term, peer.record.term)
        sides[side] = backup
        // What is on neither side any more, nobody can keep; nor what a term has written of which nobody knows any more.
        for block in 0..<Self.blockCount {
            let newest = max(sides[0].blocks[block], sides[1].blocks[block])
            acknowledged[block] = isLastTermLost ? 0 : min(acknowledged[block], newest)
        }
        if backup.record.hasPair { beginRun(side) }
    }

    private mutating func connect() throws(Violation) {
        guard !isConnected, let opener = [0, 1].shuffled(using: &random).first(where: { sides[$0].record.hasPair })
        else {
            return
        }
        let peer = 1 - opener
        let decision = decide(sides[opener].record, sides[peer].record)
        decisions[decision, default: 0] += 1
        switch decision {
        case .giveWay: meet(former: opener, by: peer)
        case .awaitPeer: break
        case .stop: isStopped = true
        case .compareAll: try copy(Set(0..<Self.blockCount), from: opener)
        case .follow:
            guard !sides[opener].awaitsMeeting else { return }
            try copy(sides[opener].dirty, from: opener)
        }
    }

    private func decide(_ own: SideRecord, _ peer: SideRecord) -> HandshakeDecision {
        var own = own
        let decision = HandshakeDecision.decide(own, peer)
        switch fault {
        case .ignoresConfirmed:
            own.lineage.confirmedSequence = 0
            return .decide(own, peer)
        case .believesAnySequence:
            return decision == .stop(.olderMetadata) && knowsRun(own, peer) ? .follow : decision
        case .believesAnyRun:
            return decision == .stop(.olderMetadata) && !knowsRun(own, peer) ? .follow : decision
        case .believesAnyFormer, .drawsNoGeneration, nil: return decision
        }
    }

    private func knowsRun(_ own: SideRecord, _ peer: SideRecord) -> Bool {
        let run = peer.lineage.generation
        return run == own.lineage.generation || own.lineage.history.last(of: run) != nil
    }

    private mutating func copy(_ blocks: Set<Int>, from side: Int) throws(Violation) {
        for block in blocks { sides[1 - side].blocks[block] = sides[side].blocks[block] }
        guard (0..<Self.blockCount).allSatisfy({ sides[side].blocks[$0] >= acknowledged[$0] }) else {
            throw .acknowledgedWriteLost
        }
        guard sides[0].blocks == sides[1].blocks else { throw .unequal }
        sides[side].dirty = []
        sides[side].awaitsMeeting = false
        writeRecord(side)
        tell(from: side, isHeard: true)
        isConnected = true
    }

    /// One thing that may happen.
    mutating func step() throws(Violation) {
        let side = Int(random.below(2))
        switch random.below(20) {
        case 0..<6: write(on: side)
        case 6..<8:
            guard let holder else { return }
            writeRecord(holder)
            if isConnected { tell(from: holder) }
        case 8..<10: disconnect()
        case 10..<12:
            guard sides[side].record.hasPair else { return }
            disconnect()
            // Now and then without contact, more often than runs are remembered.
            for _ in 0..<(random.chance(oneIn: 4) ? 10 : 1) { beginRun(side) }
        case 12: takeOver()
        case 13: backups[side] = sides[side]
        case 14: restore(side)
        default: try connect()
        }
    }
}
