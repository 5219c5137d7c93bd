import RepldCore
import RepldFormat

@testable import RepldPair

/// A machine in a world of model disks, in which hosts, disks, operators and crashes do one thing at a time.
///
/// Everything that happens is a `WorldEvent`; the same events give the same world. What must never be is checked after each
/// event; the first thing found wrong is `violation`.
final class PairWorld {
    static var granuleByteCount: UInt64 { 4096 }
    static var timeLimit: UInt64 { 1_000_000_000 }
    /// Buffers of the mover are numbered from here on; a host's buffer has the number of its request.
    static var firstMoverBuffer: UInt32 { 1 << 20 }

    struct Shape: Hashable, Sendable {
        var granuleCount = 2
        var pairCount = 1
        var copyDepth: UInt8 = 1
        /// Requests that hosts have in flight at most.
        var hostLimit = 2
        var writesRecordsAtOnce = true
        /// Each pair has an undo area: an element behind those of all pairs.
        var keepsUndo = false
        /// The targets are behind peers.
        var isRemote = false
        /// The volume becomes the replica of a peer's pair now and then; what the peer writes are the hosts' requests here.
        var mayFollow = false
    }

    /// An operation on an element that has not ended.
    struct InFlight {
        var operation: ElementOperation
        var element: Int
        var isCopy: Bool
        /// Of a flush: what the cache held when it began.
        var snapshot: [ModelDisk.Cell]
    }

    /// One block of a pair's metadata area.
    enum Block: Hashable { case blank, valid(PairRecord) }

    /// What the world knows of one pair beside the machine.
    struct Association {
        var blocks: [Block] = [.blank, .blank]
        var recordInFlight: PairRecord?
        /// Operations that were accepted and have not been told to have ended, the older first.
        var outstanding: [ReplicationOperation] = []
        /// The next change of places gives hosts another point in time, by the operator's will.
        var expectsRebase = false
        /// Hosts wrote on the target, and nobody has allowed to overwrite that.
        var isTargetOwned = false
        var isGone = false
        var undo = UndoArea()
        /// How far a restore over a link had come when it was last looked at.
        var linkRestore = LinkRestore.none
    }

    let shape: Shape
    var machine: VolumeMachine
    var disks: [ModelDisk]
    /// The element behind each leg, now and when no pair is misplaced.
    var places: [Int]
    var home: [Int]
    /// Elements that are not known to be a point in time: a copy was in the middle of them.
    var halfCopied: Set<Int> = []
    var inFlight: [InFlight] = []
    var pairs: [Association]
    var buffers: [UInt32: [Int]] = [:]
    var history: HostHistory
    /// What hosts were allowed to see before the places last changed, should the change be forgotten.
    var beforeSwap: (places: [Int], history: HostHistory)?
    var beforeRestore: HostHistory?
    var isClosed = false
    /// The volume is a replica, by what outlives the machine.
    var isReplica = false
    var time: UInt64 = 0
    var violation: String?
    /// Copies that were taken back, with the target as it was.
    var rollbackCount = 0
    private var nextNumber = 1000
    private var nextBuffer = PairWorld.firstMoverBuffer

    init(_ shape: Shape) {
        self.shape = shape
        machine = Self.makeMachine(shape)
        // The first granule of the source is zero, so that zeroes are punched, and the last is equal on all.
        disks = (0...shape.pairCount).map { element in
            ModelDisk(
                versions: (0..<shape.granuleCount).map { granule in
                    if element == 0 && granule == 0 { return 0 }
                    return granule == 2 ? 7 : 100 * element + 10 + granule
                }
            )
        }
        if shape.keepsUndo {
            let blank = ModelDisk(versions: Array(repeating: -1, count: shape.granuleCount))
            disks += Array(repeating: blank, count: shape.pairCount)
        }
        places = Array(0...shape.pairCount)
        home = places
        pairs = Array(repeating: Association(), count: shape.pairCount)
        history = HostHistory(versions: disks[0].versions(0..<shape.granuleCount))
        for pair in 0..<shape.pairCount {
            halfCopied.insert(pair + 1)
            addPair(pair)
        }
        settle()
    }

    static func makeMachine(_ shape: Shape) -> VolumeMachine {
        VolumeMachine(
            byteCount: UInt64(shape.granuleCount) * granuleByteCount,
            blockByteCount: 512,
            hostSlotLimit: shape.hostLimit
        )
    }

    private var settings: PairSettings {
        PairSettings(
            granuleByteCount: UInt32(Self.granuleByteCount),
            targetTimeoutNanoseconds: Self.timeLimit,
            copyDepth: shape.copyDepth,
            copyChunkByteCount: UInt32(Self.granuleByteCount),
            keepsUndo: shape.keepsUndo
        )
    }

    /// Takes a pair in by what its metadata area says.
    func addPair(_ pair: Int) {
        let found = recovered(pair)
        let record =
            found
            ?? PairRecord(
                sequence: 0,
                pair: PairID(high: 1, low: UInt64(pair) + 1),
                volumeByteCount: machine.byteCount,
                copyState: CopyState.initialized.rawValue,
                isClosedCleanly: false
            )
        var maps = RecoveredMaps.unknown(because: nil)
        if record.isClosedCleanly, record.copyState == CopyState.synchronized.rawValue { maps.trust = .exact }
        let undo = recoveredUndo(pair, record)
        let place = machine.addPair(
            record,
            maps,
            isNew: found == nil,
            settings: settings,
            undo: undo,
            isRemote: shape.isRemote
        )
        if place != pair { violation = "pair \(pair) got place \(String(describing: place))" }
        pairs[pair].outstanding = machine.pairs[pair].operation.map { [$0] } ?? []
    }

    /// What a start reads from the two blocks; `nil` when nothing was ever written.
    func recovered(_ pair: Int) -> PairRecord? {
        switch (pairs[pair].blocks[0], pairs[pair].blocks[1]) {
        case (.blank, .blank): return nil
        case (.valid(let left), .valid(let right)): return left.sequence > right.sequence ? left : right
        case (.valid(var record), .blank), (.blank, .valid(var record)):
            if record.sequence != 1 { record.isClosedCleanly = false }
            return record
        }
    }

    func granules(_ extent: Extent) -> Range<Int> {
        Int(extent.offset / Self.granuleByteCount)..<Int(extent.end / Self.granuleByteCount)
    }

    func fail(_ words: String) { if violation == nil { violation = words } }

    func takeNumber() -> Int {
        nextNumber += 1
        return nextNumber
    }

    // MARK: - Effects

    /// Carries out what the machine wants.
    func settle() {
        while let effect = machine.nextEffect() {
            switch effect {
            case .perform(let operation): begin(operation)
            case .answer(let origin, let failure): answered(origin, failure)
            case .recycle(let buffer): buffers[buffer.rawValue] = nil
            case .needBuffers(let slot, _, let isPair): grant(slot, isPair: isPair)
            case .locateDifference(let slot, _): machine.differenceLocated(slot, nil)
            case .persist(let pair):
                if pairs[pair].recordInFlight != nil { fail("two records of a pair are on their way") }
                pairs[pair].recordInFlight = machine.recordInFlight(pair: pair)
                if shape.writesRecordsAtOnce { recordEnds(pair, isWritten: true) }
            // What the maps on disk are worth is the simulator's business: here they are written, and never read.
            case .writeLog(let pair): machine.logWritten(pair: pair, nil)
            case .writePage(let pair, let place): machine.pageWritten(pair: pair, place: place, nil)
            case .writeUndoPage(let pair, let place): beginUndoPage(pair, place)
            case .emptyUndo(let pair): emptyUndo(pair)
            case .announce: announced(machine.nextEvent())
            case .swapLegs(let pair): swapLegs(pair)
            case .closeTargetExport, .disconnectHosts: break
            case .pairDetached(let pair): pairs[pair].isGone = true
            case .grown, .settled: break
            case .closed: isClosed = true
            }
        }
        noteLinkRestores()
        noteUndos()
        noteImages()
    }

    private func begin(_ operation: ElementOperation) {
        let buffer = operation.buffer
        let isCopy = buffer != .none && buffer.rawValue >= Self.firstMoverBuffer
        let element = element(ofLeg: operation.leg)
        checkBegin(operation, element: element, isCopy: isCopy)
        inFlight.append(
            InFlight(operation: operation, element: element, isCopy: isCopy, snapshot: disks[element].cached)
        )
    }

    private func grant(_ slot: SlotID, isPair: Bool) {
        guard machine.awaitsBuffers(slot) else { return }
        nextBuffer += 2
        let second = isPair ? BufferID(rawValue: nextBuffer + 1) : .none
        machine.buffersGranted(slot, BufferID(rawValue: nextBuffer), second: second)
    }

    private func answered(_ origin: RequestOrigin, _ failure: IOFailure?) {
        let number = Int(origin.request)
        // Hosts of a target's own export.
        if origin.client > 0 {
            guard failure == nil, origin.client > 10 else { return }
            let pair = Int(origin.client) - 11
            // What was in flight when the operator gave the target up is given up with it.
            if machine.pairs[pair].operation == nil { pairs[pair].isTargetOwned = true }
            return
        }
        let content = buffers[origin.request]?.first
        if let words = history.answered(number, isSuccess: failure == nil, content: content) { fail(words) }
    }

    func recordEnds(_ pair: Int, isWritten: Bool) {
        guard let record = pairs[pair].recordInFlight else { return }
        pairs[pair].recordInFlight = nil
        if isWritten { pairs[pair].blocks[Int(record.sequence & 1)] = .valid(record) }
        machine.recordWritten(pair: pair, isWritten ? nil : .inputOutput)
    }

    private func swapLegs(_ pair: Int) {
        beforeSwap = (places, history)
        places.swapAt(0, pair + 1)
        history.servingElementChanged()
        if pairs[pair].expectsRebase {
            pairs[pair].expectsRebase = false
            history.rebase(on: disks[places[0]])
        }
    }

    private func announced(_ event: VolumeEvent) {
        guard case .operationEnded(let id, let operation, let failure) = event else { return }
        let pair = Int(id.low) - 1
        guard pairs[pair].outstanding.first == operation else {
            return fail("\(operation.name) ended, but under way was \(pairs[pair].outstanding.map(\.name))")
        }
        pairs[pair].outstanding.removeFirst()
        if pairs[pair].outstanding.isEmpty { pairs[pair].expectsRebase = false }
        if failure == nil { checkEndIsDurable(operation, pair) }
    }

    // MARK: - Completions

    /// An operation on an element ends, with what it does to the disk.
    func end(_ index: Int, _ outcome: WorldEvent.Outcome) {
        let ending = inFlight.remove(at: index)
        let operation = ending.operation
        guard let leg = leg(ofElement: ending.element) else { return fail("an element has no leg") }
        if outcome != .failed { apply(ending) }
        if outcome == .lostCache {
            disks[ending.element].loseCache()
            // What is lost cannot become durable any more.
            for other in inFlight.indices where inFlight[other].element == ending.element {
                inFlight[other].snapshot = disks[ending.element].cached
            }
            if leg == 0 { history.allowLossOfCache(isHostTold: machine.slots[operation.slot].purpose == .hostFlush) }
        }
        let failure: IOFailure? = outcome == .done ? nil : .inputOutput
        let isMatch = failure == nil && examine(operation)
        machine.completed(operation.slot, leg: UInt8(leg), OperationOutcome(failure: failure, isMatch: isMatch))
    }

    /// What an operation does to its disk and its buffers.
    func apply(_ ending: InFlight) {
        let operation = ending.operation
        let range = granules(operation.extent)
        let isDurable = operation.isDurable
        switch operation.kind {
        case .read, .readAndCheckZero:
            buffers[operation.buffer.rawValue] = disks[ending.element].versions(range)
        case .readAndCompare:
            buffers[operation.secondBuffer.rawValue] = disks[ending.element].versions(range)
        case .write:
            guard let versions = buffers[operation.buffer.rawValue] else { return fail("a write has no data") }
            disks[ending.element].write(versions, at: range.lowerBound, isDurable: isDurable)
        case .save:
            guard let versions = buffers[operation.secondBuffer.rawValue] else { return fail("nothing is saved") }
            disks[ending.element].write(versions, at: range.lowerBound, isDurable: isDurable)
        case .discard, .zeroMayDeallocate, .zeroKeepAllocated:
            let zeroes = Array(repeating: 0, count: range.count)
            disks[ending.element].write(zeroes, at: range.lowerBound, isDurable: isDurable)
        case .flush:
            disks[ending.element].makeDurable(ending.snapshot)
        }
    }

    private func examine(_ operation: ElementOperation) -> Bool {
        switch operation.kind {
        case .readAndCheckZero: return buffers[operation.buffer.rawValue]?.allSatisfy { $0 == 0 } ?? false
        case .readAndCompare: return buffers[operation.buffer.rawValue] == buffers[operation.secondBuffer.rawValue]
        default: return false
        }
    }
}
