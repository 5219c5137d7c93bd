import RepldCore
import RepldFormat
import RepldPair

/// A machine with the world played by hand: effects are sorted into lists, and completions are given in any order.
final class MachineHarness {
    static var volumeByteCount: UInt64 { 1 << 20 }

    /// A peer that has heard of more than there is here.
    static var anyConflict: HandshakeStop {
        let side = SideRecord(pair: PairID(high: 1, low: 1), volumeByteCount: volumeByteCount, hasPair: true)
        return HandshakeStop(.olderMetadata, own: side, peer: side)
    }

    var machine = VolumeMachine(byteCount: MachineHarness.volumeByteCount, blockByteCount: 512, hostSlotLimit: 32)
    var operations: [ElementOperation] = []
    /// Everything that was ever asked of an element.
    var performed: [ElementOperation] = []
    var answers: [(request: UInt32, failure: IOFailure?)] = []
    var records: [(pair: Int, record: PairRecord)] = []
    var recycled: [BufferID] = []
    var events: [VolumeEvent] = []
    var detached: [Int] = []
    var ended: [(operation: ReplicationOperation, failure: OperationFailure?)] = []
    var swapped: [Int] = []
    var closedExports: [Int] = []
    var disconnections = 0
    var grownCount = 0
    var settled: [OperationFailure?] = []
    var isClosed = false
    /// Records of the activity log and bitmap pages are written at once; otherwise the test answers them.
    var writesLogs = true
    var logWrites: [Int] = []
    /// The metadata area of the first pair, as far as its writes were answered at once.
    var area = MetadataAreaModel(volumeByteCount: MachineHarness.volumeByteCount, granuleByteCount: 4096)
    var pageWrites: [(pair: Int, place: Int)] = []
    /// Bitmap pages of the first pair are on their way to the area until the test ends them.
    var delaysPages = false
    var delayedPages: [(place: Int, block: MetadataAreaModel.Block)] = []
    /// Pages of undo areas are written at once; otherwise the test answers them.
    var writesUndoPages = true
    var undoPages: [(pair: Int, place: Int)] = []
    var emptiedUndos: [Int] = []
    /// Records are written at once; otherwise the test answers them.
    var writesRecords = true
    /// The mover gets its buffers at once.
    var grantsBuffers = true
    /// Where the elements differ, when the machine has them searched.
    var differences: [Extent] = []
    private var nextBuffer: UInt32 = 1000

    func settle() {
        while let effect = machine.nextEffect() {
            switch effect {
            case .perform(let operation):
                operations.append(operation)
                performed.append(operation)
            case .answer(let origin, let failure): answers.append((origin.request, failure))
            case .recycle(let buffer): recycled.append(buffer)
            case .needBuffers(let slot, _, let isPair):
                guard grantsBuffers else { continue }
                nextBuffer += 2
                machine.buffersGranted(
                    slot,
                    BufferID(rawValue: nextBuffer),
                    second: isPair ? BufferID(rawValue: nextBuffer + 1) : .none
                )
            case .locateDifference(let slot, let offset):
                machine.differenceLocated(
                    slot,
                    nextDifference(from: offset, before: machine.operands(of: slot).extent.end)
                )
            case .persist(let pair):
                let record = machine.recordInFlight(pair: pair)
                records.append((pair, record))
                if pair == 0 { area.write(at: record.areaOffset) { record.encode(into: &$0) } }
                if writesRecords { machine.recordWritten(pair: pair, nil) }
            case .writeLog(let pair):
                logWrites.append(pair)
                if pair == 0 {
                    area.write(at: machine.logOffset(pair: pair)) { machine.encodeLog(pair: pair, into: &$0) }
                }
                if writesLogs { machine.logWritten(pair: pair, nil) }
            case .writePage(let pair, let place):
                beginPage(place, pair: pair)
            case .writeUndoPage(let pair, let place):
                undoPages.append((pair, place))
                if writesUndoPages { machine.undoPageWritten(pair: pair, place: place, nil) }
            case .emptyUndo(let pair):
                emptiedUndos.append(pair)
                machine.undoEmptied(pair: pair)
            case .announce:
                let event = machine.nextEvent()
                if case .operationEnded(_, let operation, let failure) = event { ended.append((operation, failure)) }
                events.append(event)
            case .swapLegs(let pair):
                swapped.append(pair)
                moveOperations(betweenLegsOf: pair)
            case .closeTargetExport(let pair): closedExports.append(pair)
            case .disconnectHosts: disconnections += 1
            case .settled(_, let failure): settled.append(failure)
            case .pairDetached(let pair): detached.append(pair)
            case .grown: grownCount += 1
            case .closed: isClosed = true
            }
        }
        machine.checkInvariants()
    }

    private func beginPage(_ place: Int, pair: Int) {
        pageWrites.append((pair, place))
        let block = MetadataAreaModel.block { machine.encodePage(pair: pair, place: place, into: &$0) }
        if delaysPages { return delayedPages.append((place, block)) }
        if pair == 0 { area.write(block) }
        if writesLogs { machine.pageWritten(pair: pair, place: place, nil) }
    }

    /// A delayed page reaches the area, the `nth` of those on their way.
    func endPage(_ nth: Int) {
        let (place, block) = delayedPages.remove(at: nth)
        area.write(block)
        machine.pageWritten(pair: 0, place: place, nil)
        settle()
    }

    private func nextDifference(from offset: UInt64, before end: UInt64) -> Extent? {
        let found = differences.lazy.compactMap { difference -> Extent? in
            let start = max(offset, difference.offset)
            let stop = min(end, difference.end)
            return start < stop ? Extent(offset: start, length: stop - start) : nil
        }
        return found.first
    }

    /// What is in flight to an element goes with it when its leg changes.
    private func moveOperations(betweenLegsOf pair: Int) {
        let leg = UInt8(pair + 1)
        for index in operations.indices {
            if operations[index].leg == 0 {
                operations[index].leg = leg
            } else if operations[index].leg == leg {
                operations[index].leg = 0
            }
        }
    }

    /// Has the first pair brought to where its peer can take it over; false where that cannot be.
    func settlePair() -> Bool {
        let isBegun = machine.settle(0)
        settle()
        return isBegun
    }

    /// Asks for an operation of the table, with what the machine knows of the pair.
    @discardableResult
    func ask(
        _ operation: ReplicationOperation,
        _ pair: Int = 0,
        isForced: Bool = false,
        keepsUndo: Bool = true
    ) -> OperationVerdict {
        let facts = machine.facts(of: pair)
        let verdict = machine.operate(pair, operation, facts, isForced: isForced, keepsUndo: keepsUndo)
        settle()
        return verdict
    }

    /// Starts the copy from wherever the pair stands; whether it was accepted.
    @discardableResult
    func start(_ pair: Int) -> Bool {
        for operation in [ReplicationOperation.activate, .resume, .resyncReplica] {
            switch ask(operation, pair) {
            case .accepted, .holds: return true
            case .needsForce, .refused: continue
            }
        }
        return false
    }

    func request(
        _ operation: HostOperation,
        _ number: UInt32,
        at offset: UInt64 = 0,
        length: UInt64 = 4096,
        isDurable: Bool = false,
        mustBeFast: Bool = false,
        side: UInt8 = 0
    ) -> Bool {
        let extent = operation == .flush ? Extent(offset: 0, length: 0) : Extent(offset: offset, length: length)
        let hasData = operation == .read || operation == .write
        let isTaken = machine.begin(
            HostRequest(
                operation: operation,
                extent: extent,
                buffer: hasData ? BufferID(rawValue: number) : .none,
                origin: RequestOrigin(client: 0, request: number),
                isDurable: isDurable,
                mustBeFast: mustBeFast,
                side: side
            )
        )
        settle()
        return isTaken
    }

    /// Completes the oldest operation on a leg; the operation, or `nil` when there is none.
    @discardableResult
    func complete(leg: UInt8, _ failure: IOFailure? = nil, isMatch: Bool = false) -> ElementOperation? {
        guard let index = operations.firstIndex(where: { $0.leg == leg }) else { return nil }
        let operation = operations.remove(at: index)
        machine.completed(operation.slot, leg: leg, OperationOutcome(failure: failure, isMatch: isMatch))
        settle()
        return operation
    }

    /// Completes one operation that is in flight.
    func end(_ operation: ElementOperation, isMatch: Bool = false) {
        operations.removeAll { $0.slot == operation.slot && $0.leg == operation.leg }
        machine.completed(operation.slot, leg: operation.leg, OperationOutcome(failure: nil, isMatch: isMatch))
        settle()
    }

    /// Completes everything that is or comes in flight.
    func completeAll() {
        while let operation = operations.first { complete(leg: operation.leg) }
    }

    /// Completes everything that is or comes in flight on other legs.
    func completeAll(besides leg: UInt8) {
        while let operation = operations.first(where: { $0.leg != leg }) { complete(leg: operation.leg) }
    }

    /// What is left of a pair, one that was in sync unless told otherwise.
    static func record(_ state: CopyState = .synchronized, isClosedCleanly: Bool = true) -> PairRecord {
        PairRecord(
            sequence: 7,
            pair: PairID(high: 1, low: 1),
            volumeByteCount: volumeByteCount,
            copyState: state.rawValue,
            isClosedCleanly: isClosedCleanly
        )
    }

    /// Takes in a pair that was in sync and closed cleanly.
    func addSynchronizedPair(_ settings: PairSettings = PairSettings(granuleByteCount: 4096)) -> Int {
        let index = machine.addPair(Self.record(), .unknown(because: nil), isNew: false, settings: settings) ?? -1
        settle()
        return index
    }

    /// Takes in a pair whose target is behind a peer that has not been reached yet.
    func addRemotePair(
        _ record: PairRecord = record(),
        _ maps: RecoveredMaps = .unknown(because: nil),
        _ settings: PairSettings = PairSettings(granuleByteCount: 4096, copyChunkByteCount: 65536)
    ) {
        _ = machine.addPair(record, maps, isNew: false, settings: settings, isRemote: true)
        settle()
    }

    /// The peer is reached, and what follows from that comes to its end.
    func restoreLink() {
        machine.linkRestored(pair: 0)
        settle()
        completeAll()
    }

    /// What the link took with it comes back as failed.
    func loseLink() {
        machine.linkLost(pair: 0)
        settle()
        while complete(leg: 1, .gone) != nil {}
    }

    func addNewPair(_ settings: PairSettings = PairSettings(granuleByteCount: 4096)) -> Int {
        let record = PairRecord(
            sequence: 0,
            pair: PairID(high: 2, low: 2),
            volumeByteCount: Self.volumeByteCount,
            copyState: CopyState.initialized.rawValue,
            isClosedCleanly: false
        )
        let index = machine.addPair(record, .unknown(because: nil), isNew: true, settings: settings) ?? -1
        settle()
        return index
    }

    var state: CopyState? { machine.withPair(0) { $0.copyState } }
    var dirtyByteCount: UInt64? { machine.withPair(0) { $0.dirty.dirtyByteCount } }
    var progress: ProgressStatus? { machine.withPair(0) { $0.progress } }
    var zeroByteCount: UInt64? { machine.withPair(0) { $0.copyZeroByteCount } }
    var isIdle: Bool { machine.isIdle }
    var isTargetOpen: Bool { machine.isTargetOpen(0) }
    var reason: BreakReason? { machine.withPair(0) { $0.reason } ?? nil }
    var hasRoom: Bool { machine.hasRoom(side: 0) }
    var facts: PairFacts { machine.facts(of: 0) }
    var canFollow: Bool { machine.canFollow }

    func canTakeIn(_ record: PairRecord, isRemote: Bool) -> Bool { machine.canTakeIn(record, isRemote: isRemote) }
    var readsServedByTarget: UInt64 { machine.readsServedByTarget }
    var legs: [UInt8] { operations.map(\.leg) }
}
