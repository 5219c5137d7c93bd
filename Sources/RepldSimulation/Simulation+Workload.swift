internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// The host: numbered writes, overlapping ones among them, reads that are checked, flushes, FUA, discards and zeroes.
extension Simulation {
    struct HostOperation {
        var number: UInt64
        /// The pair whose target it goes to, by that one's own export; `nil` for the volume.
        var pair: Int?
        var operation: RepldPair.HostOperation
        var sectors: Range<Int>
        var buffer: BufferID
        var isDurable: Bool
        /// A write-zeroes that is to fail rather than take long.
        var isFast: Bool
        /// Something was wrong while it was in flight: it may fail.
        var isExcused = false
        /// Of a read: what each sector might have held when it was submitted.
        ///
        /// Of a flush: what it covers.
        var before: [[UInt64]]
        var covered: [UInt64]

        /// The value that it leaves behind; `nil` where it changes nothing.
        var written: UInt64? {
            switch operation {
            case .write: number
            case .discard, .writeZeroes: 0
            case .read, .flush: nil
            }
        }
    }

    private static var sectorByteCount: Int { SimulatedDisk.sectorByteCount }

    /// A request on the volume, or on the own export of a target that is open.
    func submit() {
        let open = pairs.indices.filter { pairs[$0].targetHistory != nil && engine.openSide(of: pairs[$0].id) != nil }
        guard !open.isEmpty, world.random.chance(oneIn: 3) else { return submit(to: nil, side: 0, 0..<options.depth) }
        let pair = open[Int(world.random.below(UInt64(open.count)))]
        guard let side = engine.openSide(of: pairs[pair].id) else { return }
        submit(to: pair, side: side, options.depth..<inFlight.count)
    }

    private func submit(to pair: Int?, side: UInt8, _ places: Range<Int>) {
        guard let place = places.first(where: { inFlight[$0] == nil }), engine.hasRoom(volume: 0, side: side) else {
            return
        }
        guard let host = makeRequest(to: pair) else { return }
        inFlight[place] = host
        note("\(host.operation) \(host.sectors) number \(host.number)\(host.isDurable ? " FUA" : "") side \(side)")
        let length = UInt64(host.sectors.count * Self.sectorByteCount)
        let request = HostRequest(
            operation: host.operation,
            extent: Extent(offset: UInt64(host.sectors.lowerBound * Self.sectorByteCount), length: length),
            buffer: host.buffer,
            origin: RequestOrigin(client: RequestOrigin.embedder, request: UInt32(place)),
            isDurable: host.isDurable,
            keepsAllocation: world.random.chance(oneIn: 2),
            mustBeFast: host.isFast,
            side: side
        )
        let isTaken = engine.submit(request, to: 0)
        invariant(isTaken, "a volume with room takes a request")
    }

    private func makeRequest(to pair: Int?) -> HostOperation? {
        let kind = world.random.below(100)
        let operation: RepldPair.HostOperation =
            kind < 50 ? .write : kind < 75 ? .read : kind < 85 ? .flush : kind < 93 ? .writeZeroes : .discard
        let sectorCount = options.volumeByteCount / Self.sectorByteCount
        var sectors = 0..<0
        if operation != .flush {
            let length = 1 + Int(world.random.below(world.random.chance(oneIn: 8) ? 64 : 8))
            // Half of the requests go to a few sectors, so that they overlap.
            let span = world.random.chance(oneIn: 2) ? sectorCount : min(sectorCount, 32)
            let first = Int(world.random.below(UInt64(span)))
            sectors = first..<min(first + length, sectorCount)
        }
        let byteCount = sectors.count * Self.sectorByteCount
        var buffer = BufferID.none
        if operation == .read || operation == .write {
            guard let taken = engine.takeHostBuffer(byteCount: byteCount) else { return nil }
            buffer = taken
        }
        var host = HostOperation(
            number: nextNumber,
            pair: pair,
            operation: operation,
            sectors: sectors,
            buffer: buffer,
            isDurable: world.random.chance(oneIn: 6),
            isFast: operation == .writeZeroes && pair == nil && world.random.chance(oneIn: 4),
            before: [],
            covered: []
        )
        nextNumber += 1
        host.isExcused = mayFail(host)
        prepare(&host)
        return host
    }

    private func prepare(_ host: inout HostOperation) {
        if host.pair != nil { coverage[.targetRequests] += 1 }
        switch host.operation {
        case .write:
            fill(host.buffer, byteCount: host.sectors.count * Self.sectorByteCount, value: host.number)
            coverage[.writes] += 1
        case .discard, .writeZeroes:
            coverage[.zeroings] += 1
        case .read:
            let image = imageHistory(of: host)
            host.before = host.sectors.map { image?.readable($0) ?? [] }
            coverage[.reads] += 1
        case .flush:
            host.covered = imageHistory(of: host)?.covered() ?? []
            coverage[.flushes] += 1
        }
        guard let value = host.written else { return }
        if let pair = host.pair {
            pairs[pair].targetHistory?.submitted(host.number, value: value, host.sectors)
        } else {
            history.submitted(host.number, value: value, host.sectors)
        }
    }

    /// The history of the image that a request goes to; `nil` when the target has been taken from its hosts meanwhile.
    private func imageHistory(of host: HostOperation) -> WriteHistory? {
        host.pair.map { pairs[$0].targetHistory } ?? history
    }

    private func fill(_ buffer: BufferID, byteCount: Int, value: UInt64) {
        let words = unsafe engine.pool.bytes(of: buffer)
        for offset in stride(from: 0, to: byteCount, by: 8) {
            unsafe words.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
        }
    }

    func answered(_ answer: EmbedderAnswer) throws(SimulationFailure) {
        guard let host = inFlight[Int(answer.request)] else { throw failure("a request was answered twice") }
        inFlight[Int(answer.request)] = nil
        if let reason = answer.failure { return try checkFailure(of: host, reason) }
        if host.operation == .read {
            try checkRead(host)
            return engine.releaseBuffer(host.buffer)
        }
        if host.pair == nil, host.written != nil, pairs.contains(where: { $0.isAttached && $0.undo != nil }) {
            throw failure("\(host.operation) \(host.number) is acknowledged before the move of the primary is durable")
        }
        if let pair = host.pair, host.written != nil { pairs[pair].isTargetWritten = true }
        switch host.operation {
        case .write, .writeZeroes:
            if let pair = host.pair {
                pairs[pair].targetHistory?.acknowledged(host.number, host.sectors, isDurable: host.isDurable)
            } else {
                history.acknowledged(host.number, host.sectors, isDurable: host.isDurable)
            }
        case .flush:
            if let pair = host.pair {
                pairs[pair].targetHistory?.flushed(covering: host.covered)
            } else {
                history.flushed(covering: host.covered)
            }
        case .discard, .read:
            // A discard may have been carried out or not: both values stay possible until the next acknowledged write.
            break
        }
    }

    /// A flush of the engine's own has failed, which one of the hosts' in flight, or the next, is to tell.
    ///
    /// Its answer may come much later, while a record is pending.
    func excuseFlushes() {
        guard engine.owesFlushFailure(volume: 0) else { return }
        for place in inFlight.indices where inFlight[place]?.operation == .flush && inFlight[place]?.pair == nil {
            inFlight[place]?.isExcused = true
        }
    }

    private func checkFailure(of host: HostOperation, _ reason: IOFailure) throws(SimulationFailure) {
        coverage[.failedRequests] += 1
        note("number \(host.number) failed: \(reason)")
        let disk = host.pair.map { other($0) } ?? primary
        if host.isFast, reason == .notSupported, disk.faults.lacksZeroing { return }
        if host.isExcused || mayFail(host) { return }
        // The engine's own flush had failed, and this is the first one of a host since.
        if host.operation == .flush, disk.takeFailedFlush() { return }
        // The export closes under its clients; those of the volume are disconnected where they would find other data.
        if reason == .cancelled { return }
        throw failure("\(host.operation) \(host.number) failed (\(reason.words)) on an element without fault")
    }

    private func checkRead(_ host: HostOperation) throws(SimulationFailure) {
        let bytes = unsafe Array(engine.pool.bytes(of: host.buffer)[..<(host.sectors.count * Self.sectorByteCount)])
        guard let image = imageHistory(of: host) else { return }
        for (index, sector) in host.sectors.enumerated() {
            let start = index * Self.sectorByteCount
            let value = try sectorValue(bytes[start..<start + Self.sectorByteCount], "a read of sector \(sector)")
            let allowed = host.before[index] + image.readable(sector)
            guard allowed.contains(value) else {
                throw failure(
                    "read \(host.number) found \(value) in sector \(sector), but only \(allowed) may be there"
                )
            }
        }
    }

    /// The number that fills a sector.
    func sectorValue(_ bytes: ArraySlice<UInt8>, _ place: String) throws(SimulationFailure) -> UInt64 {
        let values = unsafe bytes.withUnsafeBytes { raw in
            stride(from: 0, to: raw.count, by: 8).map { unsafe raw.loadUnaligned(fromByteOffset: $0, as: UInt64.self) }
        }
        guard let first = values.first, values.allSatisfy({ $0 == first }) else {
            throw failure("\(place) found a mixture of writes inside one sector")
        }
        return first
    }
}
