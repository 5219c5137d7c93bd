import RepldCore
import RepldFormat

@testable import RepldPair

/// A machine on model devices with queues and a clock of its own: what hosts and the mover do to each other in time.
///
/// Each element serves one operation after the other: a fixed time for each, and its bytes at a fixed speed. Hosts ask for
/// 4 KiB writes, open (at random moments of a mean rate) or closed (so many in flight at all times).
final class CopyModel {
    enum Load: Hashable, Sendable {
        case idle
        case open(perSecond: UInt64)
        case closed(depth: Int)
        /// One at a time, so long after each other.
        case every(nanoseconds: UInt64)
    }

    struct Device {
        var operationNanoseconds: UInt64 = 50_000
        var bytesPerSecond: UInt64 = 1 << 30
        var freeAt: UInt64 = 0
    }

    struct Completion {
        var at: UInt64
        var operation: ElementOperation
    }

    static var second: UInt64 { 1_000_000_000 }

    let byteCount: UInt64
    var machine: VolumeMachine
    var now: UInt64 = CopyModel.second
    var load = Load.idle
    var devices = [Device(), Device(), Device()]
    /// Latencies of what was answered, since it was emptied last.
    var latencies: [UInt64] = []
    /// Moments and bytes of the chunks that began.
    var chunks: [(at: UInt64, byteCount: UInt64)] = []
    private var random = RandomSource(seed: 42)
    private var completions: [Completion] = []
    private var arrivals: [UInt32: UInt64] = [:]
    private var nextRequest: UInt32 = 1
    private var nextArrival: UInt64 = .max
    private var nextTick: UInt64 = CopyModel.second
    private var nextBuffer: UInt32 = 1 << 20

    init(byteCount: UInt64 = 4 << 30, pairs: [CopySettings] = [CopySettings()]) {
        self.byteCount = byteCount
        machine = VolumeMachine(byteCount: byteCount, blockByteCount: 512)
        machine.advance(to: Instant(nanoseconds: now))
        for (index, copy) in pairs.enumerated() {
            let record = PairRecord(
                sequence: 0,
                pair: PairID(high: 1, low: UInt64(index)),
                volumeByteCount: byteCount,
                copyState: CopyState.initialized.rawValue,
                isClosedCleanly: false
            )
            var settings = PairSettings()
            settings.copy = copy
            _ = machine.addPair(record, .unknown(because: nil), isNew: true, settings: settings)
            settle()
        }
    }

    // MARK: - What a test asks

    func activate(_ pair: Int = 0) {
        _ = machine.operate(pair, .activate, machine.facts(of: pair), isForced: true)
        settle()
    }

    /// What the mover has dealt with so far.
    func copied(_ pair: Int = 0) -> UInt64 { machine.withPair(pair) { $0.copyDoneByteCount } ?? 0 }
    func dirty(_ pair: Int = 0) -> UInt64 { machine.withPair(pair) { $0.dirty.dirtyByteCount } ?? 0 }
    func state(_ pair: Int = 0) -> CopyState? { machine.withPair(pair) { $0.copyState } }
    func progress(_ pair: Int = 0) -> ProgressStatus? { machine.withPair(pair) { $0.progress } }

    var status: CopyControlStatus? { machine.copyStatus(0) }
    func order(_ pair: Int) -> UInt16? { machine.copyOrder(pair) }

    func configure(_ pair: Int = 0, _ change: (inout CopySettings) -> Void) {
        var settings = machine.withPair(pair) { $0.settings.copy } ?? CopySettings()
        change(&settings)
        machine.configureCopy(pair, settings)
        settle()
    }

    /// Lets time pass; the bytes that were copied meanwhile, per second.
    @discardableResult
    func run(seconds: Double, _ load: Load? = nil) -> UInt64 {
        if let load { begin(load) }
        let before = copied()
        let end = now + UInt64(seconds * 1e9)
        while step(until: end) {}
        return UInt64(Double(copied() - before) / seconds)
    }

    /// Lets time pass until the pair is Synchronized; the seconds that took, or `nil` when it takes longer than that.
    func runToEnd(within seconds: Double) -> Double? {
        let begun = now
        let end = now + UInt64(seconds * 1e9)
        while state() != .synchronized { if !step(until: end) { return nil } }
        return Double(now - begun) / 1e9
    }

    /// p99 of the latencies since it was asked for last.
    func takeP99() -> UInt64 {
        let ordered = latencies.sorted()
        latencies = []
        return ordered.isEmpty ? 0 : ordered[min(ordered.count * 99 / 100, ordered.count - 1)]
    }

    // MARK: - The world

    private func begin(_ load: Load) {
        self.load = load
        nextArrival = .max
        switch load {
        case .idle: break
        case .open, .every: nextArrival = now + interval()
        case .closed(let depth): while arrivals.count < depth { submit() }
        }
    }

    private func interval() -> UInt64 {
        switch load {
        case .open(let rate): 1 + random.below(2 * Self.second / rate)
        case .every(let nanoseconds): nanoseconds
        case .idle, .closed: .max
        }
    }

    private func step(until end: UInt64) -> Bool {
        let next = completions.indices.min { completions[$0].at < completions[$1].at }
        let completionAt = next.map { completions[$0].at } ?? .max
        let moment = min(completionAt, nextArrival, nextTick, machine.copyWakeAt.nanoseconds)
        guard moment <= end else {
            now = end
            machine.advance(to: Instant(nanoseconds: now))
            return false
        }
        now = max(now, moment)
        machine.advance(to: Instant(nanoseconds: now))
        if let next, completionAt == moment {
            let operation = completions.remove(at: next).operation
            machine.completed(operation.slot, leg: operation.leg, OperationOutcome(failure: nil))
        } else if nextArrival == moment {
            nextArrival = now + interval()
            submit()
        } else if nextTick == moment {
            nextTick += Self.second
            machine.tick()
        } else {
            machine.wake()
        }
        settle()
        return true
    }

    private func submit() {
        guard machine.hasRoom() else { return }
        let block = random.below(byteCount / 4096)
        let request = HostRequest(
            operation: .write,
            extent: Extent(offset: block * 4096, length: 4096),
            buffer: BufferID(rawValue: nextRequest),
            origin: RequestOrigin(client: 0, request: nextRequest)
        )
        arrivals[nextRequest] = now
        nextRequest += 1
        _ = machine.begin(request)
        settle()
    }

    private func settle() {
        while let effect = machine.nextEffect() {
            switch effect {
            case .perform(let operation): perform(operation)
            case .answer(let origin, _):
                if let arrival = arrivals.removeValue(forKey: origin.request) { latencies.append(now - arrival) }
                if case .closed = load { submit() }
            case .needBuffers(let slot, let byteCount, let isPair):
                guard machine.awaitsBuffers(slot) else { continue }
                chunks.append((now, UInt64(byteCount)))
                nextBuffer += 2
                let second = isPair ? BufferID(rawValue: nextBuffer + 1) : .none
                machine.buffersGranted(slot, BufferID(rawValue: nextBuffer), second: second)
            case .persist(let pair): machine.recordWritten(pair: pair, nil)
            case .writeLog(let pair): machine.logWritten(pair: pair, nil)
            case .writePage(let pair, let place): machine.pageWritten(pair: pair, place: place, nil)
            case .writeUndoPage(let pair, let place): machine.undoPageWritten(pair: pair, place: place, nil)
            case .emptyUndo(let pair): machine.undoEmptied(pair: pair)
            case .locateDifference(let slot, _): machine.differenceLocated(slot, nil)
            case .announce: _ = machine.nextEvent()
            case .recycle, .swapLegs, .disconnectHosts, .closeTargetExport, .grown, .settled, .pairDetached,
                .closed:
                break
            }
        }
    }

    private func perform(_ operation: ElementOperation) {
        let leg = Int(operation.leg)
        let transfer = operation.extent.length * Self.second / devices[leg].bytesPerSecond
        devices[leg].freeAt = max(devices[leg].freeAt, now) + devices[leg].operationNanoseconds + transfer
        completions.append(Completion(at: devices[leg].freeAt, operation: operation))
    }
}
