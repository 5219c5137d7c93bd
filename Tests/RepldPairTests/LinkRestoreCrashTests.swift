import RepldCore
import RepldFormat
import RepldPair
import Testing

/// What would count for lacking although hosts were told that it is written, and who else might take a half restored source for whole.
extension LinkRestoreTests {
    /// Restores what is first in line, and has a host write it; what was written is `granule`.
    private func overwriteRestored(_ harness: MachineHarness, _ number: UInt32, granule: UInt64) {
        ask(harness, .write, number, granule: granule)
        while failure(of: number, harness) == nil, let operation = harness.operations.first {
            harness.complete(leg: operation.leg)
        }
        #expect(failure(of: number, harness) == .some(nil))
    }

    @Test("what hosts of the target wrote before a restore does not count again after a crash in the middle of it")
    func targetKeysAreOver() throws {
        let harness = synchronized()
        harness.ask(.split)
        harness.completeAll()
        #expect(harness.state == .split)
        #expect(harness.request(.write, 1, at: 2 * Self.granule, side: 1))
        for granule in Self.changed { #expect(harness.request(.write, 2, at: granule * Self.granule)) }
        harness.completeAll()
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        overwriteRestored(harness, 10, granule: 2)
        #expect(lacking(harness) < 3, "it has been copied")
        let next = try restarted(harness)
        ask(next, .read, 20, granule: 2)
        #expect(next.operations.last?.leg == 0, "the host's own write is read")
    }

    @Test("no host is answered before the record is there that tells a start which writes are its own")
    func exactIsProven() {
        let harness = suspended()
        harness.delaysPages = true
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        harness.writesRecords = false
        while !harness.delayedPages.isEmpty { harness.endPage(0) }
        #expect(harness.records.last?.record.mapTrust == .exact, "it is on its way")
        let count = harness.records.count
        // It may have got there, or not.
        for attempt in 1...3 {
            #expect(harness.records.count == count + attempt - 1)
            harness.machine.recordWritten(pair: 0, .inputOutput)
            harness.settle()
        }
        ask(harness, .write, 10, granule: 77)
        #expect(failure(of: 10, harness) == .some(.inputOutput), "a start may count it for lacking")
        harness.writesRecords = true
        harness.machine.tick()
        harness.settle()
        ask(harness, .write, 11, granule: 77)
        harness.completeAll()
        #expect(failure(of: 11, harness) == .some(nil))
    }

    @Test("the target has no hosts while the source is half restored")
    func targetStaysClosed() {
        let harness = restoring()
        harness.complete(leg: 1, .inputOutput)
        #expect(harness.ask(.fracture, isForced: true) != .holds)
        harness.completeAll()
        #expect(!harness.isTargetOpen)
        #expect(!harness.request(.write, 9, at: 0, side: 1) || failure(of: 9, harness) != .some(nil))
    }

    @Test("one that was given up and begun again goes on after a crash")
    func begunAgain() throws {
        let harness = restoring()
        #expect(harness.ask(.abort, isForced: true) == .accepted(to: .aborted))
        harness.completeAll()
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        #expect(harness.state == .suspended)
        let next = try restarted(harness)
        ask(next, .read, 20, granule: 200)
        #expect(failure(of: 20, next) == .some(.inputOutput), "the source does not have it, and the target is away")
        next.restoreLink()
        next.completeAll()
        #expect(next.state == .restored)
    }

    @Test("one that was given up is not taken up by a start")
    func givenUp() throws {
        let harness = restoring()
        #expect(harness.ask(.abort, isForced: true) == .accepted(to: .aborted))
        harness.completeAll()
        let next = try restarted(harness)
        #expect(next.state == .aborted && next.facts.isSourceInconsistent)
        ask(next, .read, 20, granule: 200)
        #expect(next.operations.last?.leg == 0)
    }

    @Test("a pair whose restore has stopped is ended by force alone, and hosts hear of it", arguments: [true, false])
    func endsByForce(isDetach: Bool) {
        let harness = restoring()
        harness.complete(leg: 1, .inputOutput)
        let operation = isDetach ? ReplicationOperation.detach : .dissolve
        #expect(harness.ask(operation) == .needsForce(.sourceLeftInconsistent))
        let count = harness.disconnections
        harness.machine.detachPair(0)
        harness.settle()
        #expect(harness.disconnections == count + 1)
    }

    @Test("damaged bitmaps do not make what hosts wrote lacking: an operator has to say whose data counts")
    func damagedSector() throws {
        let harness = restoring()
        overwriteRestored(harness, 10, granule: 2)
        let record = try #require(harness.area.record)
        #expect(record.isRestoringOverLink)
        var maps = harness.area.maps(record, granuleByteCount: Self.granule)
        maps.damagedSectorCount = 1
        let next = MachineHarness()
        add(next, record, maps)
        #expect(next.state == .invalid && next.reason == .restoreForgotten)
    }

    @Test("an Abort ends, although a write waits for the record of a restore that has just begun")
    func abortBesideAWrite() {
        let harness = suspended()
        harness.writesLogs = false
        #expect(harness.ask(.restoreFromReplica) == .accepted(to: .restored))
        harness.complete(leg: 0)
        harness.complete(leg: 1)
        ask(harness, .write, 10, granule: 4)
        #expect(failure(of: 10, harness) == nil, "the pages are not written, and so the maps are not exact")
        #expect(harness.ask(.abort, isForced: true) == .accepted(to: .aborted))
        var steps = 0
        while let operation = harness.operations.first, steps < 60 {
            steps += 1
            harness.complete(leg: operation.leg)
        }
        #expect(failure(of: 10, harness) != nil, "it is answered, one way or the other")
    }
}
