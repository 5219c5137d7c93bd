internal import RepldCore
internal import RepldFormat
internal import RepldPair

/// A volume that the engine serves: its machine, and the elements behind the machine's legs.
struct HostedVolume: ~Copyable {
    var isInUse = false
    var id = VolumeID(rawValue: 0)
    var name = ""
    var isReadOnly = false
    var isRemoving = false
    /// The machine has drained, flushed and recorded; only operations that a target does not give back may be in flight.
    var isClosed = false
    var geometry: ElementGeometry
    var machine: VolumeMachine
    /// The element of each leg: the source, then the targets.
    var elements: FixedArray<ElementID?>
    /// The metadata element of each pair.
    var metadata: FixedArray<ElementID?>
    var pairNames: [String]
    /// Pairs whose detaching is under way.
    var detachingPairs: [PairID?]
    var records: RecordMemory
    /// Per slot and leg: how far the writing out of zeroes has come.
    var fillProgress: FixedArray<UInt64>
    var connectionCount = 0
    /// Allocation queries of front ends on the source; its element is not closed before they are over.
    var queriesInFlight = 0
    var counters = Counters()

    struct Counters: BitwiseCopyable {
        var readCount: UInt64 = 0
        var readByteCount: UInt64 = 0
        var writeCount: UInt64 = 0
        var writeByteCount: UInt64 = 0
        var flushCount: UInt64 = 0
        var failedRequestCount: UInt64 = 0
    }

    static var legLimit: Int { VolumeMachine.pairLimit + 1 }

    /// A place that no volume uses.
    init() {
        self.init(
            geometry: ElementGeometry(
                byteCount: 512,
                logicalBlockByteCount: 512,
                physicalBlockByteCount: 512,
                isReadOnly: true,
                canDiscard: false,
                canZeroFast: false,
                isDirect: false
            ),
            hostSlotLimit: 1
        )
    }

    init(geometry: ElementGeometry, hostSlotLimit: Int) {
        self.geometry = geometry
        machine = VolumeMachine(
            byteCount: geometry.byteCount,
            blockByteCount: geometry.logicalBlockByteCount,
            hostSlotLimit: hostSlotLimit
        )
        elements = FixedArray(count: Self.legLimit) { _ in nil }
        metadata = FixedArray(count: VolumeMachine.pairLimit) { _ in nil }
        detachingPairs = Array(repeating: nil, count: VolumeMachine.pairLimit)
        pairNames = Array(repeating: "", count: VolumeMachine.pairLimit)
        records = RecordMemory()
        fillProgress = FixedArray(repeating: 0, count: machine.slotCapacity * Self.legLimit)
    }

    /// What front ends may offer: the source's abilities.
    var canDiscard: Bool { geometry.canDiscard && !isReadOnly }
    var canZeroFast: Bool { geometry.canZeroFast && !isReadOnly }

    func element(leg: UInt8) -> ElementID {
        guard let element = elements[Int(leg)] else {
            invariantFailed("an operation goes to a leg that has an element")
        }
        return element
    }
}

/// One aligned metadata block per pair, in which records are encoded before they are written.
@safe
struct RecordMemory: ~Copyable {
    private let memory: UnsafeMutableRawBufferPointer

    init() {
        unsafe memory = .allocate(
            byteCount: VolumeMachine.pairLimit * PairRecord.blockByteCount,
            alignment: BufferPool.alignment
        )
    }

    deinit { unsafe memory.deallocate() }

    /// Encodes a record; the memory stays as it is until the next record of the same pair.
    mutating func encode(_ record: PairRecord, pair: Int) -> UnsafeRawBufferPointer {
        let start = pair * PairRecord.blockByteCount
        let block = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + PairRecord.blockByteCount])
        var span = unsafe MutableRawSpan(_unsafeBytes: block)
        record.encode(into: &span)
        return UnsafeRawBufferPointer(block)
    }
}
