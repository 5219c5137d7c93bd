internal import RepldCore
internal import RepldEngine
internal import RepldPair

/// The host: numbered writes, overlapping ones among them, reads that are checked, flushes, FUA, discards and zeroes.
extension Simulation {
    private static var sectorByteCount: Int { SimulatedDisk.sectorByteCount }

    func submit() {
        guard let place = inFlight.firstIndex(where: { $0 == nil }), engine.hasRoom(volume: 0) else { return }
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
            guard let taken = engine.takeHostBuffer(byteCount: byteCount) else { return }
            buffer = taken
        }
        var host = HostOperation(
            number: nextNumber,
            operation: operation,
            sectors: sectors,
            buffer: buffer,
            isDurable: world.random.chance(oneIn: 6),
            isFast: operation == .writeZeroes && world.random.chance(oneIn: 4),
            before: [],
            covered: []
        )
        nextNumber += 1
        prepare(&host)
        inFlight[place] = host
        note("\(operation) \(sectors) number \(host.number)\(host.isDurable ? " FUA" : "")")
        let request = HostRequest(
            operation: operation,
            extent: Extent(offset: UInt64(sectors.lowerBound * Self.sectorByteCount), length: UInt64(byteCount)),
            buffer: buffer,
            origin: RequestOrigin(client: RequestOrigin.embedder, request: UInt32(place)),
            isDurable: host.isDurable,
            keepsAllocation: world.random.chance(oneIn: 2),
            mustBeFast: host.isFast
        )
        let isTaken = engine.submit(request, to: 0)
        invariant(isTaken, "a volume with room takes a request")
    }

    private func prepare(_ host: inout HostOperation) {
        switch host.operation {
        case .write:
            fill(host.buffer, byteCount: host.sectors.count * Self.sectorByteCount, value: host.number)
            history.submitted(host.number, value: host.number, host.sectors)
            coverage.writes += 1
        case .discard, .writeZeroes:
            history.submitted(host.number, value: 0, host.sectors)
            coverage.zeroings += 1
        case .read:
            host.before = host.sectors.map { history.readable($0) }
            coverage.reads += 1
        case .flush:
            host.covered = history.covered()
            coverage.flushes += 1
        }
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
        if let reason = answer.failure {
            coverage.failedRequests += 1
            note("number \(host.number) failed: \(reason)")
            let isRefusedHonestly = host.isFast && reason == .notSupported && source.faults.lacksZeroing
            if !hasSourceFailed && !isRefusedHonestly {
                throw failure("\(host.operation) \(host.number) failed (\(reason.words)) on a source without fault")
            }
            return
        }
        switch host.operation {
        case .write:
            history.acknowledged(host.number, host.sectors, isDurable: host.isDurable)
        case .writeZeroes:
            history.acknowledged(host.number, host.sectors, isDurable: host.isDurable)
        case .discard:
            // It may have been carried out or not: both values stay possible until the next acknowledged write.
            break
        case .flush:
            history.flushed(covering: host.covered)
        case .read:
            try checkRead(host)
            engine.releaseBuffer(host.buffer)
        }
    }

    private func checkRead(_ host: HostOperation) throws(SimulationFailure) {
        let bytes = unsafe Array(engine.pool.bytes(of: host.buffer)[..<(host.sectors.count * Self.sectorByteCount)])
        for (index, sector) in host.sectors.enumerated() {
            let start = index * Self.sectorByteCount
            let value = try sectorValue(bytes[start..<start + Self.sectorByteCount], "a read of sector \(sector)")
            let allowed = host.before[index] + history.readable(sector)
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
