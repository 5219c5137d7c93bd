import CAllocationCount
import RepldCore
import RepldEngine
import RepldFormat
import RepldPair

/// 4 KiB writes, submitted to a real engine as an embedder does, `depth` at a time, to a volume with `targetCount`
/// synchronous targets.
///
/// With as many extents in the volume as its activity log holds, every write after the first ones is a hot one. With
/// more, most writes wait for a record of the log, and take more turns.
///
/// A round is `depth` submissions, the turn that takes their completions from the platform, and the turn that hands
/// them to the machine and brings the answers.
struct WriteBenchmark: ~Copyable {
    struct Cost {
        var nanosecondsPerWrite: Double
        var allocationCount: UInt64
        var retainCount: UInt64
        var writeCount: Int
        var metadataWriteCount: Int
    }

    private static var blockByteCount: UInt64 { 4096 }

    private var engine: Engine<ImmediatePlatform>
    private let volume: Int
    private let targetCount: Int
    private let volumeByteCount: UInt64
    private var random = RandomSource(seed: 1)

    init(targetCount: Int, volumeByteCount: UInt64 = 1 << 30) {
        let mailbox = Mailbox<ImmediatePlatform>()
        engine = Engine(platform: ImmediatePlatform(), mailbox: mailbox) { _ in }
        self.targetCount = targetCount
        self.volumeByteCount = volumeByteCount
        let id = VolumeID(rawValue: 1)
        let source = Self.element(byteCount: volumeByteCount)
        let volumeSpec = VolumeSpec<ImmediatePlatform>(id: id, name: "v", isReadOnly: false, source: source)
        var isTaken = mailbox.send(.addVolume(volumeSpec) { check($0) })
        for target in 0..<targetCount {
            isTaken =
                isTaken && mailbox.send(.addPair(Self.pair(target, of: id, byteCount: volumeByteCount)) { check($0) })
        }
        invariant(isTaken, "an engine that runs takes commands")
        for _ in 0..<16 { _ = engine.turn() }
        guard let volume = engine.volumeIndex(id) else { invariantFailed("the volume has been added") }
        self.volume = volume
        for target in 0..<targetCount {
            invariant(engine.copyState(of: Self.pairID(target)) == .synchronized, "the pair mirrors what is written")
        }
    }

    private static func pairID(_ target: Int) -> PairID { PairID(high: 1, low: UInt64(target)) }

    private static func element(byteCount: UInt64, holdsMetadata: Bool = false) -> ElementSpec<ImmediatePlatform> {
        let geometry = ElementGeometry(
            byteCount: byteCount,
            logicalBlockByteCount: 512,
            physicalBlockByteCount: 4096,
            isReadOnly: false,
            canDiscard: true,
            canZeroFast: true,
            isDirect: true
        )
        return ElementSpec(
            handle: ImmediateElement(holdsMetadata: holdsMetadata),
            geometry: geometry,
            name: "immediate"
        )
    }

    /// A pair that was closed cleanly, and so is Synchronized from the start.
    private static func pair(_ target: Int, of volume: VolumeID, byteCount: UInt64) -> PairSpec<ImmediatePlatform> {
        let record = PairRecord(
            sequence: 1,
            pair: pairID(target),
            volumeByteCount: byteCount,
            copyState: CopyState.synchronized.rawValue,
            isClosedCleanly: true
        )
        return PairSpec(
            volume: volume,
            pair: pairID(target),
            name: "p\(target)",
            target: .local(element(byteCount: byteCount)),
            metadata: element(
                byteCount: MetadataLayout(volumeByteCount: byteCount, granuleByteCount: 64 << 10).areaByteCount,
                holdsMetadata: true
            ),
            record: record,
            maps: .unknown(because: nil),
            isNew: false,
            settings: PairSettings()
        )
    }

    /// Writes `writeCount` times, rounded down to whole rounds, and returns what one write cost.
    mutating func measure(depth: Int, writeCount: Int) -> Cost {
        let roundCount = max(writeCount / depth, 1)
        let elementWritesBefore = engine.platform.writeCount
        let metadataWritesBefore = engine.platform.metadataWriteCount
        let allocations = repld_allocation_count()
        let retains = repld_retain_count()
        let start = processorNanoseconds()
        for _ in 0..<roundCount { writeRound(depth: depth) }
        let nanoseconds = processorNanoseconds() - start
        let cost = Cost(
            nanosecondsPerWrite: Double(nanoseconds) / Double(roundCount * depth),
            allocationCount: repld_allocation_count() - allocations,
            retainCount: repld_retain_count() - retains,
            writeCount: roundCount * depth,
            metadataWriteCount: engine.platform.metadataWriteCount - metadataWritesBefore
        )
        let elementWrites = engine.platform.writeCount - elementWritesBefore
        invariant(elementWrites == cost.writeCount * (1 + targetCount), "every write went to every copy")
        return cost
    }

    private mutating func writeRound(depth: Int) {
        for request in 0..<depth {
            guard let buffer = engine.takeHostBuffer(byteCount: Int(Self.blockByteCount)) else {
                invariantFailed("the pool holds more than a round")
            }
            let block = random.next() % (volumeByteCount / Self.blockByteCount)
            let host = HostRequest(
                operation: .write,
                extent: Extent(offset: block * Self.blockByteCount, length: Self.blockByteCount),
                buffer: buffer,
                origin: RequestOrigin(client: RequestOrigin.embedder, request: UInt32(request))
            )
            let isTaken = engine.submit(host, to: volume)
            invariant(isTaken, "a volume takes a round of requests")
        }
        // Two writes of one block go one after the other, which takes more turns.
        var answerCount = 0
        while answerCount < depth {
            let isRunning = engine.turn()
            invariant(isRunning, "an engine that nobody stops goes on")
            while let answer = engine.embedderAnswers.popFirst() {
                invariant(answer.failure == nil, "writes succeed on this platform")
                answerCount += 1
            }
        }
    }
}

private func check(_ result: Result<Void, EngineRefusal>) {
    guard case .success = result else { invariantFailed("volume and pairs are accepted") }
}
