package import RepldCore
package import RepldEngine
internal import RepldFormat
package import RepldPair

/// One host of a `ReplicationWorld`: its disks, the engine that lives on it now, the way to that, and what it has told.
///
/// Disks outlive engines; mailbox, requests and what a crash leaves unanswered do not.
package final class ReplicationHost {
    /// A request of a host application that was submitted here.
    package struct Request {
        package var operation: HostOperation
        package var sectors: Range<Int>
        var buffer: BufferID
        package var isAnswered = false
        package var failure: IOFailure?
        /// Of a read: the first word of each sector.
        package var values: [UInt64] = []
    }

    /// Collects what an engine tells: its sink must be sendable, and all of this is on one thread.
    private final class EventLog: @unchecked Sendable {
        var events: [EngineEvent] = []
        var messages: [PeerMessage] = []
        var trace: ((String) -> Void)?
    }

    package static var bufferClasses: [BufferPool.SizeClass] {
        [
            BufferPool.SizeClass(byteCount: 4096, count: 64),
            BufferPool.SizeClass(byteCount: 65536, count: 48),
        ]
    }

    package let host: SimulatedHost
    /// `nil` while the host is down.
    package private(set) var engine: Engine<SimulatedPlatform>?
    package private(set) var mailbox = Mailbox<SimulatedPlatform>()
    package private(set) var disks: [SimulatedDisk] = []
    /// By number, since the engine was started.
    package private(set) var requests: [Request] = []
    /// The numbers of those that were answered, in the order of the answers, until `takeAnswered`.
    private var answered: [Int] = []
    private let log = EventLog()
    /// What its engines have decided of pairs so far, by the rows of `HandshakeCounts`.
    private(set) var handshakeCounts = [Int](repeating: 0, count: HandshakeCounts.rowNames.count)
    private var seenHandshakes = HandshakeCounts()

    init(_ host: SimulatedHost, trace: ((String) -> Void)?) {
        self.host = host
        log.trace = trace
    }

    package var name: String { host.name }
    package var isUp: Bool { engine != nil }
    package var takenBufferCount: Int { engine?.pool.takenCount ?? 0 }
    /// What its engines have told so far.
    package var events: [EngineEvent] { log.events }
    /// Where it listens to peers, and what they connect to.
    package var peerPlace: SimulatedPlace { SimulatedPlace(host) }

    package func makeDisk(_ name: String, byteCount: Int) -> SimulatedDisk {
        let disk = SimulatedDisk(name: name, byteCount: byteCount)
        disks.append(disk)
        return disk
    }

    /// A disk as the control plane hands it to the engine.
    package func element(_ disk: SimulatedDisk) -> ElementSpec<SimulatedPlatform> {
        ElementSpec(handle: SimulatedElement(disk), geometry: disk.geometry, name: disk.name)
    }

    // MARK: - Life and death

    /// Starts an engine that knows of nothing yet.
    package func start() {
        invariant(engine == nil, "a host runs one engine")
        mailbox = Mailbox()
        requests = []
        answered = []
        log.messages = []
        seenHandshakes = HandshakeCounts()
        engine = Engine(
            platform: SimulatedPlatform(host: host),
            mailbox: mailbox,
            bufferClasses: Self.bufferClasses,
            messageSink: { [log] message in log.messages.append(message) },
            eventSink: { [log] event in
                log.events.append(event)
                log.trace?("event: \(event.pair.map { "\($0.low) " } ?? "")\(event.kind)")
            }
        )
        log.trace?("starts")
    }

    /// The host loses its power, and stays down until it is started.
    package func crash() {
        log.trace?("crashes")
        host.crash(disks: disks)
        engine = nil
    }

    /// One turn, with every check that holds at all times; the host is down when its engine has ended.
    func turn() {
        defer { countHandshakes() }
        guard engine?.turn() == true else {
            log.trace?("has ended")
            host.crash(disks: disks)
            engine = nil
            return
        }
        engine?.checkInvariants()
        while let answer = engine?.embedderAnswers.popFirst() { answered(answer) }
    }

    /// An engine's counts go with it.
    private func countHandshakes() {
        guard let now = engine?.handshakes, now.total != seenHandshakes.total else { return }
        for row in handshakeCounts.indices { handshakeCounts[row] += Int(now[row] - seenHandshakes[row]) }
        seenHandshakes = now
    }

    // MARK: - Requests of host applications

    /// Submits a request; its number, or `nil` where the engine has no room now.
    ///
    /// Writes fill their sectors with `value`.
    package func submit(
        _ operation: HostOperation,
        _ sectors: Range<Int>,
        value: UInt64 = 0,
        isDurable: Bool = false,
        to volume: VolumeID
    ) -> Int? {
        guard let index = engine?.volumeIndex(volume), engine?.hasRoom(volume: index) == true else { return nil }
        let byteCount = sectors.count * SimulatedDisk.sectorByteCount
        var buffer = BufferID.none
        if operation == .read || operation == .write {
            guard let taken = engine?.takeHostBuffer(byteCount: byteCount) else { return nil }
            buffer = taken
        }
        if operation == .write { fill(buffer, byteCount: byteCount, value: value) }
        let number = requests.count
        requests.append(Request(operation: operation, sectors: sectors, buffer: buffer))
        let request = HostRequest(
            operation: operation,
            extent: Extent(
                offset: UInt64(sectors.lowerBound * SimulatedDisk.sectorByteCount),
                length: UInt64(byteCount)
            ),
            buffer: buffer,
            origin: RequestOrigin(client: RequestOrigin.embedder, request: UInt32(number)),
            isDurable: isDurable
        )
        invariant(engine?.submit(request, to: index) == true, "a volume with room takes a request")
        return number
    }

    /// What was answered since the last look, in the order of the answers.
    package func takeAnswered() -> [Int] {
        defer { answered = [] }
        return answered
    }

    /// What peers' control planes have asked since the last look.
    package func takeMessages() -> [PeerMessage] {
        defer { log.messages = [] }
        return log.messages
    }

    private func fill(_ buffer: BufferID, byteCount: Int, value: UInt64) {
        guard let memory = unsafe engine?.pool.bytes(of: buffer) else { return }
        for offset in stride(from: 0, to: byteCount, by: 8) {
            unsafe memory.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
        }
    }

    private func answered(_ answer: EmbedderAnswer) {
        let number = Int(answer.request)
        let request = requests[number]
        invariant(!request.isAnswered, "a request is answered once")
        requests[number].isAnswered = true
        self.answered.append(number)
        requests[number].failure = answer.failure
        // The engine gives all other buffers back itself.
        guard request.operation == .read, answer.failure == nil else { return }
        guard let memory = unsafe engine?.pool.bytes(of: request.buffer) else { return }
        requests[number].values = request.sectors.indices.map { index in
            let offset = (index - request.sectors.lowerBound) * SimulatedDisk.sectorByteCount
            return unsafe memory.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
        }
        engine?.releaseBuffer(request.buffer)
    }
}
