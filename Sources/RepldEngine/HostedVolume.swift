internal import RepldCore
internal import RepldFormat
internal import RepldFrontends
internal import RepldPair

/// A volume that the engine serves: its machine, and the elements behind the machine's legs.
struct HostedVolume: ~Copyable {
    var isInUse = false
    var id = VolumeID(rawValue: 0)
    var name = ""
    var isReadOnly = false
    var isRemoving = false
    /// A peer writes it, and nobody else may.
    var isReplica = false
    /// Hosts are kept away; how many peers have to be asked before they may come.
    var isWithheld = false
    /// Pairs with `awaitsPeer` that have not been added yet.
    var expectedPeerCount = 0
    /// It becomes a replica, or is about to be taken away: whatever peers say, no host may come.
    var isSealed = false
    /// A peer serves it: nothing but becoming its replica lets it be used again.
    var isTakenOver = false
    /// Writes that begin now belong to it; whether one does already.
    var epoch: UInt64 = 1
    var isEpochInUse = false
    /// The machine has drained, flushed and recorded; only operations that a target does not give back may be in flight.
    var isClosed = false
    var geometry: ElementGeometry
    var machine: VolumeMachine
    /// The elements: the one that the volume was opened with, then those of the pairs, then their undo areas, where they have
    /// them.
    private var elements: FixedArray<ElementID?>
    /// The place in `elements` of each leg: as they stand, until a pair's elements change places.
    ///
    /// Operations carry the place, not the leg: one that is in flight when legs change places still belongs to its element.
    private var places: FixedArray<UInt8>
    /// Allocation queries in flight, by place: an element is not closed before they are over.
    var queryCounts: FixedArray<Int>
    /// Elements whose pair is gone, and which wait for the end of their queries, by place: the pair.
    var waitsForQueries: FixedArray<Int?>
    /// The metadata element of each pair.
    var metadata: FixedArray<ElementID?>
    var pairNames: [String]
    /// What clients know the pairs by that asked for their differences, and the number given last: none is used twice.
    ///
    /// A pair has none from the moment that its detaching begins: nothing is remembered of it any more.
    var pairNumbers = NBDPairSet()
    var lastPairNumber: UInt32 = 0
    /// Pairs whose detaching is under way.
    var detachingPairs: [PairID?]
    var blocks: MetadataBlocks
    /// Where each pair's area begins in its metadata element.
    var metadataOffsets: FixedArray<UInt64>
    /// Where in each pair's undo area the volume's first byte is.
    var undoHeads: FixedArray<UInt64>
    /// Per slot and leg: how far the writing out of zeroes has come.
    var fillProgress: FixedArray<UInt64>
    /// Clients of the volume's own export.
    var connectionCount = 0
    /// Clients of the own exports of the pairs' targets.
    var targetConnectionCounts: FixedArray<Int>
    var counters = Counters()

    struct Counters: BitwiseCopyable {
        var readCount: UInt64 = 0
        var readByteCount: UInt64 = 0
        var writeCount: UInt64 = 0
        var writeByteCount: UInt64 = 0
        var flushCount: UInt64 = 0
        var failedRequestCount: UInt64 = 0
    }

    /// Leg 0, the pairs' elements, and their undo areas.
    static var legLimit: Int { 2 * VolumeMachine.pairLimit + 1 }

    /// The place of a pair's undo area: it never changes.
    static func undoPlace(ofPair pair: Int) -> UInt8 { UInt8(VolumeMachine.pairLimit + 1 + pair) }

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
        places = FixedArray(count: Self.legLimit) { UInt8($0) }
        queryCounts = FixedArray(repeating: 0, count: Self.legLimit)
        waitsForQueries = FixedArray(count: Self.legLimit) { _ in nil }
        targetConnectionCounts = FixedArray(repeating: 0, count: VolumeMachine.pairLimit)
        metadata = FixedArray(count: VolumeMachine.pairLimit) { _ in nil }
        detachingPairs = Array(repeating: nil, count: VolumeMachine.pairLimit)
        pairNames = Array(repeating: "", count: VolumeMachine.pairLimit)
        blocks = MetadataBlocks()
        metadataOffsets = FixedArray(repeating: 0, count: VolumeMachine.pairLimit)
        undoHeads = FixedArray(repeating: 0, count: VolumeMachine.pairLimit)
        fillProgress = FixedArray(repeating: 0, count: machine.slotCapacity * Self.legLimit)
    }

    /// What front ends may offer: the source's abilities.
    var canDiscard: Bool { geometry.canDiscard && !isReadOnly }
    var canZeroFast: Bool { geometry.canZeroFast && !isReadOnly }

    // Inlined, because each call for an operation would copy the volume as bytes, with its machine.

    /// The place of a leg's element.
    @inline(__always)
    func place(ofLeg leg: UInt8) -> UInt8 { places[Int(leg)] }

    /// The leg that an element is now.
    @inline(__always)
    func leg(atPlace place: UInt8) -> UInt8 {
        for leg in 0..<Self.legLimit where places[leg] == place { return UInt8(leg) }
        invariantFailed("every place is a leg's")
    }

    /// What lies before the volume's first byte in the element at a place.
    @inline(__always)
    func headByteCount(atPlace place: UInt8) -> UInt64 {
        let firstUndo = Self.undoPlace(ofPair: 0)
        return place < firstUndo ? 0 : undoHeads[Int(place - firstUndo)]
    }

    func hasUndoArea(_ pair: Int) -> Bool { elements[Int(Self.undoPlace(ofPair: pair))] != nil }

    @inline(__always)
    func element(leg: UInt8) -> ElementID { element(atPlace: place(ofLeg: leg)) }

    @inline(__always)
    func element(atPlace place: UInt8) -> ElementID {
        guard let element = elements[Int(place)] else {
            invariantFailed("an operation goes to a leg that has an element")
        }
        return element
    }

    /// Puts an element behind a leg.
    mutating func setElement(_ element: ElementID, leg: UInt8) {
        invariant(elements[Int(place(ofLeg: leg))] == nil, "a leg has one element")
        elements[Int(place(ofLeg: leg))] = element
    }

    /// Takes the element at a place out, to be closed.
    mutating func takeElement(atPlace place: UInt8) -> ElementID? {
        let element = elements[Int(place)]
        elements[Int(place)] = nil
        return element
    }

    /// The primary and the element of a pair change places.
    mutating func swapLegs(pair: Int) {
        let primary = places[0]
        places[0] = places[pair + 1]
        places[pair + 1] = primary
    }

    var hasQueriesInFlight: Bool {
        for place in 0..<Self.legLimit where queryCounts[place] > 0 { return true }
        return false
    }
}

/// Aligned blocks in which the metadata of each pair is built, and from which it is written.
@safe
struct MetadataBlocks: ~Copyable {
    enum Use {
        case record, log, page(Int), undoPage(Int)

        var place: Int {
            switch self {
            case .record: 0
            case .log: 1
            case .page(let place): 2 + place
            case .undoPage(let place): 2 + VolumeMachine.pageWriteLimit + place
            }
        }
    }

    private static var blocksPerPair: Int { 2 + VolumeMachine.pageWriteLimit + VolumeMachine.undoPageWriteLimit }
    private let memory: UnsafeMutableRawBufferPointer

    init() {
        unsafe memory = .allocate(
            byteCount: VolumeMachine.pairLimit * Self.blocksPerPair * MetadataLayout.blockByteCount,
            alignment: BufferPool.alignment
        )
    }

    deinit { unsafe memory.deallocate() }

    /// A block; its content stays as it is until the next use of the same kind.
    func memory(of use: Use, pair: Int) -> UnsafeMutableRawBufferPointer {
        let start = (pair * Self.blocksPerPair + use.place) * MetadataLayout.blockByteCount
        return unsafe UnsafeMutableRawBufferPointer(rebasing: memory[start..<start + MetadataLayout.blockByteCount])
    }
}
