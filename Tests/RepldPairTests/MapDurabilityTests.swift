import RepldCore
import RepldFormat
import RepldPair
import Testing

/// What reading the code has found: orders of events in which a difference was on no disk and in no map.
@Suite("What differs is remembered") struct MapDurabilityTests {
    private static var granule: UInt64 { 4096 }
    private static let settings = PairSettings(
        granuleByteCount: UInt32(granule),
        copyChunkByteCount: 65536,
        logExtentByteCount: 65536,
        logExtentCount: 8
    )

    private func synchronized() -> MachineHarness {
        let harness = MachineHarness()
        _ = harness.addSynchronizedPair(Self.settings)
        return harness
    }

    private func recovered(_ harness: MachineHarness) throws -> (record: PairRecord, maps: RecoveredMaps) {
        let record = try #require(harness.area.record)
        return (record, harness.area.maps(record, granuleByteCount: Self.granule))
    }

    /// What the next life would take as different after a crash now.
    private func dirtyAfterCrash(_ harness: MachineHarness) throws -> UInt64 {
        let (record, maps) = try recovered(harness)
        let next = MachineHarness()
        next.area = harness.area
        _ = next.machine.addPair(record, maps, isNew: false, settings: Self.settings)
        next.settle()
        return next.machine.facts(of: 0).differingByteCount
    }

    /// Suspended, with granules written in ten extents of which the log has eight: the bitmaps have the others.
    private func withDifferences() -> MachineHarness {
        let harness = synchronized()
        harness.ask(.suspend)
        for index in 0..<10 {
            #expect(harness.request(.write, UInt32(index), at: UInt64(index) * 65536))
            harness.completeAll()
        }
        harness.machine.tick()
        harness.settle()
        return harness
    }

    @Test("when roles are reversed, whichever page of the two sides gets to the disk first", arguments: [true, false])
    func reversalKeepsTheBitsOnDisk(lastFirst: Bool) throws {
        let harness = withDifferences()
        let before = try dirtyAfterCrash(harness)
        harness.delaysPages = true
        #expect(harness.ask(.reverseRoles, isForced: true) == .accepted(to: .suspended))
        var steps = 0
        while steps < 40 {
            steps += 1
            let found = try dirtyAfterCrash(harness)
            #expect(found >= before, "after \(steps) steps")
            if !harness.operations.isEmpty {
                harness.complete(leg: harness.operations[0].leg)
            } else if !harness.delayedPages.isEmpty {
                harness.endPage(lastFirst ? harness.delayedPages.count - 1 : 0)
            } else {
                harness.machine.tick()
                harness.settle()
                if harness.delayedPages.isEmpty { break }
            }
        }
        let (record, maps) = try recovered(harness)
        #expect(record.mapTrust == .exact && maps.trust == .exact)
    }

    @Test("when a write has ended on the target alone, and a flush in between")
    func writeThatTheSourceHasNotEndedIsNotCoveredByAFlush() {
        let harness = synchronized()
        #expect(harness.request(.write, 1, at: 8192))
        harness.complete(leg: 1)
        #expect(harness.request(.flush, 2, at: 0, length: 0))
        // The flush of the source does not cover what the source has not ended.
        while let flush = harness.operations.first(where: { $0.kind == .flush }) { harness.end(flush) }
        harness.completeAll()
        harness.ask(.suspend)
        #expect(harness.dirtyByteCount == Self.granule)
    }

    @Test("when mirroring stops while a write has ended on the target alone")
    func writeUnderWayOnTheSourceIsDirtyWhenMirroringStops() {
        let harness = synchronized()
        #expect(harness.request(.write, 1, at: 8192))
        harness.complete(leg: 1)
        #expect(harness.request(.flush, 2, at: 0, length: 0))
        while let flush = harness.operations.first(where: { $0.kind == .flush }) { harness.end(flush) }
        harness.ask(.suspend)
        #expect(harness.dirtyByteCount == Self.granule)
        harness.completeAll()
    }

    @Test("and when the target has flushed a write, and the source has not")
    func flushOfTheTargetAloneProvesNothing() {
        let harness = synchronized()
        #expect(harness.request(.write, 1, at: 8192))
        harness.completeAll()
        #expect(harness.request(.flush, 2, at: 0, length: 0))
        harness.complete(leg: 1)
        harness.ask(.suspend)
        #expect(harness.dirtyByteCount == Self.granule)
        harness.completeAll()
    }

    @Test("and a target is not written before the record that it is overwritten", arguments: [false, true])
    func zeroingThatBeganBeforeTheCopyIsLeftToIt(isStoppedMeanwhile: Bool) {
        let harness = synchronized()
        if !isStoppedMeanwhile { harness.ask(.suspend) }
        // It goes to the source first, because that may have to refuse it.
        #expect(harness.request(.writeZeroes, 1, at: 8192, mustBeFast: true))
        if isStoppedMeanwhile { harness.ask(.suspend) }
        harness.writesRecords = false
        harness.ask(.resume)
        harness.complete(leg: 0)
        #expect(!harness.performed.contains { $0.leg == 1 })
        #expect(harness.dirtyByteCount == Self.granule)
    }

    @Test("by a new pair, whose bits the flush of the one before it does not clear")
    func flushOfADetachedPairClearsNothing() throws {
        let harness = MachineHarness()
        _ = harness.addNewPair(Self.settings)
        harness.start(0)
        // The copy's flush: the target's is over, the source's is slow.
        while !harness.operations.contains(where: { $0.kind == .flush }) {
            let next = try #require(harness.operations.first)
            harness.end(next)
        }
        while let other = harness.operations.first(where: { $0.kind != .flush || $0.leg != 0 }) { harness.end(other) }
        let slow = try #require(harness.operations.first)
        harness.machine.detachPair(0)
        harness.settle()
        #expect(harness.detached == [0])
        _ = harness.addNewPair(Self.settings)
        harness.start(0)
        var copied = 0
        while copied < 4, let next = harness.operations.first(where: { $0.slot != slow.slot && $0.kind != .flush }) {
            harness.end(next)
            copied += next.leg == 1 ? 1 : 0
        }
        harness.end(slow)
        #expect(harness.dirtyByteCount == MachineHarness.volumeByteCount)
        harness.completeAll()
        #expect(harness.state == .synchronized)
    }

    @Test("by a verify that says so when its marks could not be written")
    func verifyWhoseMarksAreNotDurableFails() {
        let harness = synchronized()
        harness.machine.tick()
        harness.settle()
        harness.delaysPages = true
        harness.differences = [Extent(offset: 4096, length: 4096)]
        let refusal = harness.machine.beginVerify(0, Extent(offset: 0, length: 65536))
        #expect(refusal == nil)
        harness.settle()
        var steps = 0
        while steps < 100, !harness.events.contains(where: { if case .verifyEnded = $0 { true } else { false } }) {
            steps += 1
            if let next = harness.operations.first {
                harness.end(next, isMatch: next.kind != .readAndCompare)
            } else if let page = harness.delayedPages.popLast() {
                harness.machine.pageWritten(pair: 0, place: page.place, .inputOutput)
                harness.settle()
            } else {
                harness.machine.tick()
                harness.settle()
            }
        }
        let ends = harness.events.compactMap { event -> VerifyFailure?? in
            if case .verifyEnded(_, let failure) = event { .some(failure) } else { nil }
        }
        #expect(ends == [.recordFailed(.inputOutput)])
    }

    @Test("and a page that cannot be written refuses no write for which the log has room")
    func aBadPageRefusesNothingWhileTheLogHasRoom() {
        let harness = synchronized()
        harness.ask(.suspend)
        harness.delaysPages = true
        #expect(harness.request(.write, 1, at: 0))
        harness.completeAll()
        for _ in 0..<6 {
            harness.machine.tick()
            harness.settle()
            while let page = harness.delayedPages.popLast() {
                harness.machine.pageWritten(pair: 0, place: page.place, .inputOutput)
                harness.settle()
            }
        }
        #expect(harness.request(.write, 2, at: 65536))
        harness.completeAll()
        #expect(harness.answers.map(\.failure) == [nil, nil])
    }
}
