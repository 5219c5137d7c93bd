internal import Dispatch
internal import Foundation
package import Logging
package import RepldCore
package import RepldDataPlane
package import RepldEngine
internal import RepldFormat
package import RepldPair
internal import RepldUring

/// The real data plane: one thread with one ring that drives the engine, reached through its mailbox.
package final class UringDataPlane: DataPlane {
    /// Events that may wait for the control plane.
    private static var eventLimit: Int { 8192 }

    /// Messages of peers that may wait for the control plane; more are not answered.
    private static var messageLimit: Int { 64 }

    /// How long an element may take to open; disks that stand still take their time.
    private static var openLimit: Duration { .seconds(20) }
    /// How long an element may be held by nobody who can be named.
    private static var nobodyLimit: Duration { .seconds(5) }

    package let events: AsyncStream<EngineEvent>
    package let messages: AsyncStream<PeerMessage>
    private let openings = BlockingCalls(limit: openLimit)
    let mailbox: Mailbox<UringPlatform>
    private let thread: LoopThread
    private let end: LoopEnd
    let logger: Logger
    let peers = OpenPeers()
    let openElements = OpenElements()

    /// Starts the thread; answers when its ring works.
    ///
    /// `host` is what the daemon calls itself to peers.
    package static func start(logger: Logger, host: PairID) async throws(DataPlaneError) -> UringDataPlane {
        let queue = EventQueue(limit: eventLimit)
        let (messages, messageSink) = AsyncStream.makeStream(
            of: PeerMessage.self,
            bufferingPolicy: .bufferingOldest(messageLimit)
        )
        let mailbox = Mailbox<UringPlatform>()
        let end = LoopEnd()
        var thread: LoopThread?
        let failure: (any Error)? = await withCheckedContinuation { ready in
            do {
                thread = try LoopThread(name: "repld-loop-0") {
                    runLoop(
                        mailbox,
                        logger,
                        host,
                        ready: ready,
                        messageSink: { messageSink.yield($0) },
                        eventSink: { queue.send($0) },
                        atEnd: {
                            queue.finish()
                            messageSink.finish()
                            end.reached()
                        }
                    )
                }
            } catch {
                ready.resume(returning: error)
            }
        }
        guard let thread, failure == nil else {
            throw DataPlaneError(.stopped, "the data plane cannot start", underlying: failure)
        }
        return UringDataPlane(queue.stream, messages, mailbox, thread, end, logger)
    }

    private init(
        _ events: AsyncStream<EngineEvent>,
        _ messages: AsyncStream<PeerMessage>,
        _ mailbox: Mailbox<UringPlatform>,
        _ thread: LoopThread,
        _ end: LoopEnd,
        _ logger: Logger
    ) {
        self.logger = logger
        self.events = events
        self.messages = messages
        self.mailbox = mailbox
        self.thread = thread
        self.end = end
    }

    /// The body of the thread: platform and engine are made, used and gone there.
    private static func runLoop(
        _ mailbox: Mailbox<UringPlatform>,
        _ logger: Logger,
        _ host: PairID,
        ready: CheckedContinuation<(any Error)?, Never>,
        messageSink: @escaping @Sendable (PeerMessage) -> Void,
        eventSink: @escaping @Sendable (EngineEvent) -> Void,
        atEnd: () -> Void
    ) {
        defer { atEnd() }
        do {
            let platform = try UringPlatform()
            var engine = Engine(
                platform: platform,
                mailbox: mailbox,
                host: host,
                messageSink: messageSink,
                eventSink: eventSink
            )
            // Not before: the engine's memory is registered when the engine is made.
            let features = "\(engine.platform.features)"
            logger.info("data plane runs", metadata: ["features": "\(features)"])
            ready.resume(returning: nil)
            engine.run()
            if engine.hasStuckOperations {
                // The kernel may still use the engine's memory: it goes with the process.
                logger.warning("a target does not give back its last operations; they end with the process")
                atEnd()
                while true { pause() }
            }
        } catch {
            ready.resume(returning: error)
        }
    }

    package func addVolume(_ volume: VolumeOpening) async throws(DataPlaneError) -> ElementGeometry {
        let element = try await open(volume.path, isReadOnly: volume.isReadOnly)
        let geometry = try Self.geometry(of: volume, on: element.geometry)
        var spec = VolumeSpec<UringPlatform>(
            id: volume.id,
            name: volume.name,
            isReadOnly: volume.isReadOnly,
            source: ElementSpec(handle: element, geometry: geometry, name: volume.path)
        )
        spec.awaitedPeerCount = volume.awaitedPeerCount
        spec.isReplica = volume.isReplica
        try await ask("volume '\(volume.name)'") { [spec] in .addVolume(spec, answer: $0) }
        return geometry
    }

    /// The volume's geometry on an element that may be larger, or have smaller blocks.
    private static func geometry(
        of volume: VolumeOpening,
        on element: ElementGeometry
    ) throws(DataPlaneError) -> ElementGeometry {
        var geometry = element
        if let byteCount = volume.byteCount {
            guard byteCount > 0, byteCount <= element.byteCount else {
                throw DataPlaneError(
                    .element,
                    "\(volume.path) has \(element.byteCount) bytes, the volume needs \(byteCount)"
                )
            }
            geometry.byteCount = byteCount
        }
        if let blockByteCount = volume.blockByteCount, blockByteCount != element.logicalBlockByteCount {
            let isPossible = blockByteCount.nonzeroBitCount == 1 && blockByteCount > element.logicalBlockByteCount
            guard isPossible, geometry.byteCount % UInt64(blockByteCount) == 0 else {
                throw DataPlaneError(
                    .element,
                    "\(volume.path) has blocks of \(element.logicalBlockByteCount) bytes, the volume of \(blockByteCount)"
                )
            }
            geometry.logicalBlockByteCount = blockByteCount
            geometry.physicalBlockByteCount = max(geometry.physicalBlockByteCount, blockByteCount)
        }
        return geometry
    }

    package func removeVolume(_ id: VolumeID, isForced: Bool) async throws(DataPlaneError) {
        try await ask("volume \(id.rawValue)") { .removeVolume(id, isForced: isForced, answer: $0) }
    }

    package func addPair(_ pair: PairOpening) async throws(DataPlaneError) {
        let served = try await status().volumes.first { $0.id == pair.volume }
        guard let served else {
            throw DataPlaneError(.refused, "its volume is not served", refusal: .noSuchVolume)
        }
        let (record, isNew) = try Self.record(of: pair, volumeByteCount: served.byteCount)
        let target = try await open(pair.target)
        let layout = MetadataLayout(
            volumeByteCount: served.byteCount,
            granuleByteCount: UInt64(pair.settings.granuleByteCount)
        )
        let (metadata, maps) = try await openMetadata(pair, record, layout, isNew: isNew)
        var undo = UndoFile()
        // A peer keeps what is overwritten there.
        if case .local = target {
            var layoutOfNow = record
            layoutOfNow.volumeByteCount = served.byteCount
            undo = try await prepareUndo(pair.undo, layoutOfNow, blockByteCount: served.blockByteCount)
        }
        var spec = PairSpec<UringPlatform>(
            volume: pair.volume,
            pair: pair.id,
            name: pair.name,
            target: target,
            metadata: metadata,
            record: record,
            maps: maps,
            isNew: isNew,
            settings: pair.settings,
            undoArea: undo.element.map { ElementSpec(handle: $0, geometry: $0.geometry, name: pair.undoPath) },
            undo: undo.undo
        )
        spec.metadataOffset = pair.metadata.offset
        spec.awaitsPeer = pair.awaitsPeer
        if case .remote = target { spec.generation = .fresh() }
        try await ask("pair '\(pair.name)'") { [spec] in .addPair(spec, answer: $0) }
    }

    package func detachPair(_ id: PairID) async throws(DataPlaneError) {
        try await ask("pair \(id)") { .detachPair(id, answer: $0) }
    }

    package func operate(
        _ id: PairID,
        _ operation: ReplicationOperation,
        isForced: Bool,
        keepsUndo: Bool
    ) async throws(DataPlaneError) -> OperationStart {
        try await ask("pair \(id)") {
            .operate(id, operation, isForced: isForced, keepsUndo: keepsUndo, answer: $0)
        }
    }

    package func holdPlace(_ id: PairID, isHeld: Bool) async throws(DataPlaneError) -> Bool {
        try await ask("pair \(id)") { .holdPlace(id, isHeld: isHeld, answer: $0) }
    }

    package func cancelOperation(_ id: PairID) async throws(DataPlaneError) {
        try await ask("pair \(id)") { .cancelOperation(id, answer: $0) }
    }

    package func changes(_ id: PairID, _ query: ChangesQuery) async throws(DataPlaneError) -> PairChanges {
        try await ask("pair \(id)") { .changes(id, query, answer: $0) }
    }

    package func configureCopy(_ id: PairID, _ settings: CopySettings) async throws(DataPlaneError) {
        try await ask("pair \(id)") { .configureCopy(id, settings, answer: $0) }
    }

    package func verify(_ id: PairID, _ extent: Extent) async throws(DataPlaneError) {
        try await ask("pair \(id)") { .verify(id, extent, answer: $0) }
    }

    package func cancelVerify(_ id: PairID) async throws(DataPlaneError) {
        try await ask("pair \(id)") { .cancelVerify(id, answer: $0) }
    }

    package func prepareGrowth(
        _ id: VolumeID,
        to byteCount: UInt64?,
        _ areas: [MetadataArea]
    ) async throws(DataPlaneError) -> VolumeGrowth {
        let growth: VolumeGrowth = try await ask("volume \(id.rawValue)") {
            .checkGrowth(id, byteCount, answer: $0)
        }
        guard growth.toByteCount > growth.fromByteCount else { return growth }
        try await onWorker { () throws(DataPlaneError) in
            for area in areas {
                let granule = UInt64(area.granuleByteCount)
                let layout = MetadataLayout(volumeByteCount: growth.toByteCount, granuleByteCount: granule)
                if let path = area.path { try MetadataFile.enlarge(path, layout) }
                let undo = UndoLayout(volumeByteCount: growth.toByteCount, granuleByteCount: granule)
                try UndoFile.enlarge(area.undoPath, undo)
            }
        }
        return growth
    }

    package func grow(_ id: VolumeID, to byteCount: UInt64) async throws(DataPlaneError) {
        try await ask("volume \(id.rawValue)") { .grow(id, byteCount, answer: $0) }
    }

    package func status() async throws(DataPlaneError) -> EngineStatus {
        let status: EngineStatus? = await withCheckedContinuation { continuation in
            if !mailbox.send(.status { continuation.resume(returning: $0) }) { continuation.resume(returning: nil) }
        }
        guard var status else { throw DataPlaneError(.stopped, "the data plane has stopped") }
        peers.explain(&status.peers)
        return status
    }

    package func listen(at address: FrontEndAddress) async throws(DataPlaneError) -> FrontEndAddress {
        let listener = try Self.listener(at: address)
        try await ask("\(address)") { .listen(listener, answer: $0) }
        switch address {
        case .nbdUnix: return address
        case .nbdTCP(let host, _): return .nbdTCP(host: host, port: listener.boundPort)
        }
    }

    package func stop() async {
        _ = mailbox.send(.stop {})
        await end.wait()
    }

    /// Makes an undo area ready, and reads what it says.
    func prepareUndo(
        _ area: UndoOpening,
        _ record: PairRecord,
        blockByteCount: UInt32
    ) async throws(DataPlaneError) -> UndoFile {
        let file = try await onWorker { () throws(DataPlaneError) in
            try UndoFile.prepare(
                area.path,
                record,
                granuleByteCount: UInt64(area.granuleByteCount),
                isKept: area.isKept,
                blockByteCount: blockByteCount
            )
        }
        if let remark = file.remark {
            logger.warning("\(remark)", metadata: ["pair": "\(area.pair)", "file": "\(area.path)"])
        }
        return file
    }

    /// Does work on a thread that may wait for a slow device.
    func onWorker<Answer: Sendable>(
        _ work: @escaping @Sendable () throws(DataPlaneError) -> Answer
    ) async throws(DataPlaneError) -> Answer {
        let result: Result<Answer, DataPlaneError> = await withCheckedContinuation { continuation in
            DispatchQueue.global().async { continuation.resume(returning: Result(catching: work)) }
        }
        return try result.get()
    }

    /// Opens an element on a thread that may wait for a slow device; one that hangs keeps nobody else waiting.
    func open(_ path: String, isReadOnly: Bool) async throws(DataPlaneError) -> OpenElement {
        let result: Result<OpenElement, ElementOpenError>? = await openings.call(on: path) {
            Result { () throws(ElementOpenError) in
                try OpenElement.open(path: path, readOnly: isReadOnly, waitingForNobody: Self.nobodyLimit)
            }
        }
        switch result {
        case .success(let element):
            openElements.note(element)
            return element
        case .failure(let error): throw DataPlaneError(.element, "\(error)")
        case nil:
            throw DataPlaneError(.element, "\(path) does not answer: opening it takes longer than \(Self.openLimit)")
        }
    }

    private static func listener(at address: FrontEndAddress) throws(DataPlaneError) -> Listener {
        do {
            switch address {
            case .nbdUnix(let path, let mode):
                try FileManager.default.createDirectory(
                    atPath: URL(filePath: path).deletingLastPathComponent().path(percentEncoded: false),
                    withIntermediateDirectories: true,
                    attributes: [.posixPermissions: 0o755]
                )
                return try Listener.unix(path: path, mode: mode)
            case .nbdTCP(let host, let port):
                return try Listener.tcp(host: host, port: port)
            }
        } catch {
            throw DataPlaneError(.listener, "\(error)")
        }
    }

    /// Sends a command and waits for its answer.
    func ask<Answer: Sendable>(
        _ subject: String,
        _ command: (@escaping @Sendable (Result<Answer, EngineRefusal>) -> Void) -> EngineCommand<UringPlatform>
    ) async throws(DataPlaneError) -> Answer {
        let result: Result<Answer, EngineRefusal> = await withCheckedContinuation { continuation in
            if !mailbox.send(command { continuation.resume(returning: $0) }) {
                continuation.resume(returning: .failure(.stopping))
            }
        }
        switch result {
        case .success(let answer): return answer
        case .failure(let refusal): throw DataPlaneError(.refused, "\(subject): \(refusal)", refusal: refusal)
        }
    }
}

/// The undo area of a pair, or of a replica.
struct UndoOpening: Sendable {
    /// The pair's name.
    var pair: String
    var path: String
    var granuleByteCount: UInt32
    var isKept: Bool
}

extension PairOpening {
    fileprivate var undo: UndoOpening {
        UndoOpening(
            pair: name,
            path: undoPath,
            granuleByteCount: settings.granuleByteCount,
            isKept: settings.keepsUndo
        )
    }
}
